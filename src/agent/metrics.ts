/** What the forwarder counts, from the start of the agent. */
export class ForwarderMetrics {
  upcalls = 0;
  upcallsLost = 0;
  duplicates = 0;
  simulations = 0;
  parked = 0;
  answers = 0;
  installed = 0;
  revisits = 0;
  replaced = 0;
  expired = 0;
  evictions = 0;
  cutCopies = 0;
  foreignFlows = 0;
  operationErrors = 0;
  /** Packets (more exactly: decisions) by why they were dropped. */
  readonly drops = new Map<string, number>();

  drop(reason: string, packets: number): void {
    this.drops.set(reason, (this.drops.get(reason) ?? 0) + packets);
  }
}
