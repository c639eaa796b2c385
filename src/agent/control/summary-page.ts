import { createRequire } from 'node:module';
import { release } from 'node:os';
import type { DatapathFeatures } from '../../datapath/datapath.js';
import type { Agent } from '../agent.js';
import { agentFault } from '../http/pages.js';
import type { Warning } from './recent-warnings.js';

const { version } = createRequire(import.meta.url)('#package') as { version: string };

/** What an agent says of itself for a status of the whole cluster. */
export interface AgentSummary {
  readonly hostId: string;
  readonly version: string;
  readonly node: string;
  readonly kernel: string;
  /** What is wrong; absent when nothing is known to be. */
  readonly fault?: string;
  readonly features: DatapathFeatures;
  /** Ports that are to be on this host; `active`: the interface is attached. */
  readonly ports: readonly { readonly id: string; readonly interfaceName: string; readonly active: boolean }[];
  readonly flows: number;
  readonly counters: {
    readonly upcalls: number;
    readonly upcallsLost: number;
    readonly simulations: number;
    readonly datapathErrors: number;
    /** By reason. */
    readonly drops: Readonly<Record<string, number>>;
  };
  /** Writes that have not reached the NSDB yet. */
  readonly nsdbBacklog: number;
  /** The last is the newest. */
  readonly warnings: readonly Warning[];
}

export async function summaryPage(
  agent: Agent,
  warnings: readonly Warning[],
  signal: AbortSignal,
): Promise<AgentSummary> {
  const { metrics, bindings } = agent;
  return {
    hostId: agent.hostId,
    version,
    node: process.version,
    kernel: release(),
    fault: await agentFault(agent, signal),
    features: agent.features,
    ports: Array.from(bindings.wantedPorts(), ({ port, interfaceName, number }) => ({
      id: port.id,
      interfaceName,
      active: number !== undefined,
    })),
    flows: agent.forwarder.flows.size,
    counters: {
      upcalls: metrics.upcalls,
      upcallsLost: metrics.upcallsLost,
      simulations: metrics.simulations,
      datapathErrors: metrics.operationErrors,
      drops: Object.fromEntries(metrics.drops),
    },
    nsdbBacklog: agent.publisher.backlog,
    warnings,
  };
}
