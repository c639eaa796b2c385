import type { Page } from '../../http-endpoint.js';
import type { Agent } from '../agent.js';
import { connectionsPage } from './connections-page.js';
import { flowsPage } from './flows-page.js';
import { tracePage } from './trace-page.js';

/** What an agent tells of itself: to people on its host, and to the API server. */
export function agentPages(agent: Agent): Readonly<Record<string, Page>> {
  return {
    '/connections': (query, signal) => connectionsPage(agent, query, signal),
    '/flows': (query, signal) => flowsPage(agent, query, signal),
    '/trace': (query, signal) => tracePage(agent.tracer, query, signal),
  };
}

/** Why the agent cannot be relied on, or undefined: it forwards, has a session with the NSDB and shares its identity with nobody. */
export async function agentFault(agent: Agent, signal: AbortSignal): Promise<string | undefined> {
  const fault = await agent.fault(signal).catch((error: Error) => {
    throw new Error(`the datapath does not answer: ${error.message}`, { cause: error });
  });
  const { state } = agent.repository.store;
  return fault ?? (state === 'connected' ? undefined : `NSDB ${state}`);
}
