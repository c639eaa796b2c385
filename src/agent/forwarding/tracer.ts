import type { Datapath } from '../../datapath/datapath.js';
import { FlowKey, NO_PORT } from '../../flow/key.js';
import type { Recirculations } from '../../simulation/connection.js';
import { explain, type Pass, type Question } from '../../simulation/explain.js';
import type { Fact, Ingress, PortFact } from '../../simulation/fact.js';
import type { Cell } from '../facts/cell.js';

export interface TracerOptions {
  readonly datapath: Datapath;
  readonly recirculations: Recirculations;
  readonly port: (id: string) => Fact<PortFact>;
  /** The datapath port of a port of this host. */
  readonly output: (portId: string) => Fact<number>;
  readonly load: (cell: Cell<unknown>) => void;
}

/** A packet that might come in at a port of the virtual network, as if that were on this host. */
export interface TracedPacket extends Pick<Question, 'key' | 'bytes' | 'connection' | 'hash'> {
  readonly portId: string;
}

/** How long to wait for facts: as long as packets do. */
const PATIENCE_MS = 5000;
/** Stands for the zone that a port of another host would have here: no port of this one has it where the kernel has zones. */
const TRACED_ZONE = 0;

/** Says what would become of a packet, by what this host knows and can find out. Nothing is sent, and no flow installed. */
export class Tracer {
  private readonly waiting = new Set<() => void>();

  constructor(private readonly options: TracerOptions) {}

  /** A fact changed. */
  factChanged(): void {
    for (const wake of this.waiting) wake();
  }

  /** Facts that are not in hand are got first. What takes too long is in the last decision. */
  async explain({ portId, ...packet }: TracedPacket, signal: AbortSignal): Promise<Pass[]> {
    const { datapath, recirculations, load } = this.options;
    const patience = AbortSignal.timeout(PATIENCE_MS);
    const port = this.options.port(portId);
    const ingress: Fact<Ingress> = { tag: `way in at ${port.tag}`, value: { type: 'port', port, zone: TRACED_ZONE } };
    const key = new FlowKey(packet.key.words.slice());
    for (;;) {
      key.inPort = this.options.output(portId).value ?? NO_PORT;
      const passes = explain({
        ...packet,
        key,
        ingress,
        limits: datapath,
        recirculations: datapath.features.conntrack ? recirculations : undefined,
      });
      const missing = passes.flatMap(({ decision }) => (decision.type === 'wait' ? decision.missing : []));
      if (missing.length === 0 || patience.aborted) return passes;
      for (const fact of missing) load(fact as Cell<unknown>);
      await this.untilKnown(missing, AbortSignal.any([signal, patience]));
      signal.throwIfAborted();
    }
  }

  /** Until one of the facts is in hand, or the signal says that this is enough. */
  private async untilKnown(facts: readonly Fact<unknown>[], signal: AbortSignal): Promise<void> {
    const isKnown = () => facts.some(({ value }) => value !== undefined);
    if (isKnown() || signal.aborted) return;
    await new Promise<void>((resolve) => {
      const check = () => {
        if (!isKnown() && !signal.aborted) return;
        this.waiting.delete(check);
        signal.removeEventListener('abort', check);
        resolve();
      };
      this.waiting.add(check);
      signal.addEventListener('abort', check);
    });
  }
}
