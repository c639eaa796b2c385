import type { ConfigurationRequest } from '../../simulation/decision.js';

/** What the forwarder counts, from the start of the agent. */
export class ForwarderMetrics {
  upcalls = 0;
  upcallsLost = 0;
  duplicates = 0;
  simulations = 0;
  parked = 0;
  answers = 0;
  /** ICMP messages of routers. */
  replies = 0;
  /** Packets that a router did not tell their senders of, as there were too many. */
  unanswered = 0;
  /** Packets that a rule wants traced and that were not logged, as there were too many at a time. */
  tracesLeftOut = 0;
  installed = 0;
  revisits = 0;
  replaced = 0;
  expired = 0;
  evictions = 0;
  cutCopies = 0;
  chainCircles = 0;
  foreignFlows = 0;
  operationErrors = 0;
  /** Sent to machines that did not ask. */
  routerAdvertisements = 0;
  /** Packets (more exactly: decisions) by why they were dropped. */
  readonly drops = new Map<string, number>();

  /** Requests of machines for their configuration, by request and what came of it: `answered`, or why not. */
  readonly configurationRequests = new Map<ConfigurationRequest, Map<string, number>>();

  configurationRequest(request: ConfigurationRequest, result: string): void {
    const counts = this.configurationRequests.get(request) ?? new Map<string, number>();
    counts.set(result, (counts.get(result) ?? 0) + 1);
    this.configurationRequests.set(request, counts);
  }

  drop(reason: string, packets: number): void {
    this.drops.set(reason, (this.drops.get(reason) ?? 0) + packets);
  }
}
