import { MidonetError } from '../../errors.js';
import { bridgeHostsPath } from '../../nsdb/layout.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { Port } from '../../topology/types.js';
import type { Scope } from '../tenancy/tenancy.js';
import { type AgentLink, AgentRefusedError, AgentUnavailableError } from './agent-link.js';

/** Agents that are tried one after the other where the port's own cannot be asked. */
const MAX_TRIED = 64;

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
  const canBeAsked = async (hostId: string) => {
    try {
      await agents.agentOf(hostId, signal);
      return true;
    } catch (error) {
      if (error instanceof AgentUnavailableError) return false;
      throw error;
    }
  };
  if (binding !== undefined && (await canBeAsked(binding.hostId))) return binding.hostId;
  const near = bridgeId && (await repository.store.children(bridgeHostsPath(bridgeId), { signal }));
  const others = [...(near || []), ...(await repository.list('host', signal))];
  for (const hostId of others.slice(0, MAX_TRIED)) if (await canBeAsked(hostId)) return hostId;
  throw new MidonetError('MN_AGENT_UNAVAILABLE', 'no agent of any host can be asked: start midonet agent on one');
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
