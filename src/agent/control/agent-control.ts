import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import type { Agent } from '../agent.js';
import { captureStream } from '../capture/capture-stream.js';
import { agentFault, agentPages } from '../http/pages.js';
import { ControlServer } from './control-server.js';
import type { RecentWarnings } from './recent-warnings.js';
import { summaryPage } from './summary-page.js';

export interface AgentControlOptions {
  readonly agent: Agent;
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  /** The agent's metrics; absent where nobody counts. */
  readonly registry?: Registry;
  /** What the agent has warned of; absent where nobody keeps it. */
  readonly warnings?: RecentWarnings;
  readonly log: Logger;
}

/** Let the API server ask the agent, and tell the NSDB where. */
export function startAgentControl({ agent, host, port, registry, warnings, log }: AgentControlOptions): ControlServer {
  return ControlServer.start({
    host,
    port,
    pages: {
      ...agentPages(agent),
      '/summary': (_query, signal) => summaryPage(agent, warnings?.list() ?? [], signal),
      '/fault': async (_query, signal) => ({ fault: await agentFault(agent, signal) }),
      ...(registry && { '/metrics': () => registry.metrics() }),
    },
    streams: { '/capture': (query, response, gone) => captureStream(agent, query, response, gone) },
    onListening: (address) => agent.setControl(address),
    log,
  });
}
