import { MidonetError } from '../errors.js';
import { bridgeHostsPath } from '../nsdb/layout.js';
import type { TopologyRepository } from '../nsdb/repository/topology-repository.js';
import type { Port } from '../topology/types.js';
import { type AgentLink, AgentUnavailableError } from './agent-link.js';

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
