import { MidonetError } from '../../errors.js';
import { bridgeHostsPath } from '../../nsdb/layout.js';
import { readAhead } from '../../nsdb/read-ahead.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { Port } from '../../topology/types.js';
import type { Scope } from '../tenancy/tenancy.js';
import { type AgentLink, AgentRefusedError, AgentUnavailableError } from './agent-link.js';

/** Hosts that are looked at where the port's own cannot be asked: so many at once, and at most. */
const AT_ONCE = 16;
const MAX_LOOKED_AT = 1024;

/**
 * The port's host, or one whose agent can be asked: best one that has ports of the same bridge.
 * @throws MidonetError with MN_AGENT_UNAVAILABLE
 */
export async function hostToAsk(
  repository: TopologyRepository,
  agents: AgentLink,
  { binding, bridgeId }: Port,
  signal: AbortSignal,
): Promise<string> {
  const canBeAsked = async (hostId: string, signal?: AbortSignal) => {
    try {
      await agents.agentOf(hostId, signal);
      return true;
    } catch (error) {
      if (error instanceof AgentUnavailableError) return false;
      throw error;
    }
  };
  if (binding !== undefined && (await canBeAsked(binding.hostId, signal))) return binding.hostId;
  const near = bridgeId && (await repository.store.children(bridgeHostsPath(bridgeId), { signal }));
  const hosts = [...new Set([...(near || []), ...(await repository.list('host', signal))])];
  const lookedAt = hosts.slice(0, MAX_LOOKED_AT);
  for (let at = 0; at < lookedAt.length; at += AT_ONCE) {
    const some = lookedAt.slice(at, at + AT_ONCE);
    const answers = await readAhead(some, signal, canBeAsked);
    const found = some.find((_, i) => answers[i]);
    if (found !== undefined) return found;
  }
  throw new MidonetError(
    'MN_AGENT_UNAVAILABLE',
    `${noneOf(lookedAt.length, hosts.length)}: start midonet agent on one`,
  );
}

function noneOf(lookedAt: number, hosts: number): string {
  if (hosts === 0) return 'there is no host whose agent could be asked';
  const some = lookedAt === hosts ? `all ${hosts} hosts` : `the first ${lookedAt} of ${hosts} hosts`;
  return `of ${some} none has an agent that can be asked`;
}

/** What agents refuse for a reason that is in the request. */
const REASONS_OF_REQUESTS: ReadonlySet<string> = new Set(['MN_INVALID_INPUT', 'MN_NOT_FOUND', 'MN_TOO_MANY_REQUESTS']);

/** What the caller may be told of an error of asking an agent: tenants hear nothing of hosts. */
export function concealHosts(scope: Scope, error: unknown): unknown {
  if (scope.isAdmin || !(error instanceof MidonetError)) return error;
  const isOfAgents = error.code === 'MN_AGENT_UNAVAILABLE' || error instanceof AgentRefusedError;
  if (!isOfAgents || REASONS_OF_REQUESTS.has(error.code)) return error;
  return new MidonetError('MN_AGENT_UNAVAILABLE', 'no agent can be asked now', { cause: error });
}
