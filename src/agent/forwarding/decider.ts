import type { Logger } from 'pino';
import type { Datapath } from '../../datapath/datapath.js';
import type { FlowKey } from '../../flow/key.js';
import { FlowMask } from '../../flow/mask.js';
import type { Decision, Effect } from '../../simulation/decision.js';
import type { Fact, Ingress } from '../../simulation/fact.js';
import { simulate, simulateSent } from '../../simulation/simulate.js';
import type { TraceStep } from '../../simulation/trace.js';
import type { Cell } from '../facts/cell.js';
import type { ForwarderMetrics } from './metrics.js';
import type { RecirculationTable } from './recirculation-table.js';
import { TraceLog } from './trace-log.js';
import type { Waiting } from './waiting-room.js';

/** A decision that waits for nothing. */
export type Done = Extract<Decision, { type: 'done' }>;

/** A packet, where a flow is not only looked at again. */
type PacketInHand = Pick<Waiting, 'packet' | 'sender'>;

export interface DeciderOptions {
  readonly datapath: Datapath;
  /** How packets enter that come in at a datapath port. */
  readonly ingress: (port: number) => Fact<Ingress>;
  /** Begin to read a fact. */
  readonly load: (cell: Cell<unknown>) => void;
  readonly recirculations: RecirculationTable;
  readonly metrics: ForwarderMetrics;
  /** Milliseconds. */
  readonly clock: () => number;
  readonly log: Logger;
}

/** Between two lines in the log about packets that could not be simulated. */
const TOLD_AGAIN_MS = 60_000;

/** Of a packet whose simulation threw. The next one like it is tried again. */
const FAILED: Done = {
  type: 'done',
  actions: [],
  mask: new FlowMask(),
  tags: [],
  effects: [],
  install: false,
  drop: 'simulation-failed',
  cut: 0,
  circles: 0,
  recirculations: [],
};

/** Decides what becomes of packets, and has what is missing for that read. */
export class Decider {
  private readonly traceLog: TraceLog;
  private tellOfFailureAt = 0;

  constructor(private readonly options: DeciderOptions) {
    const { metrics, clock, log } = options;
    this.traceLog = new TraceLog(metrics, clock, log);
  }

  /**
   * Begins to read the facts that the decision waits for, unless it is said that it may not.
   * @param packet undefined for a flow that is looked at again
   */
  decide(key: FlowKey, packet?: PacketInHand, mayLoad = true): Decision {
    for (;;) {
      const decision = this.simulate(key, packet);
      // Before its actions are put anywhere, as packets may come back at once.
      if (decision.type === 'done') this.options.recirculations.learn(decision.recirculations);
      if (decision.type === 'done') return decision;
      if (!mayLoad) {
        for (const fact of decision.missing) (fact as Cell<unknown>).discard();
        return decision;
      }
      for (const fact of decision.missing) this.options.load(fact as Cell<unknown>);
      // A fact that is known at once changes before anybody waits for it.
      if (decision.missing.some((fact) => fact.value === undefined)) return decision;
    }
  }

  /** Write down the way of a packet that a rule wants traced. */
  writeDown(
    { traceRequestId, limit }: Extract<Effect, { type: 'trace' }>,
    packet: PacketInHand & Pick<Waiting, 'key'>,
  ): void {
    this.traceLog.trace(traceRequestId, limit, packet.key, (steps) => this.simulate(packet.key, packet, steps));
  }

  private simulate(key: FlowKey, packet?: PacketInHand, trace?: TraceStep[]): Decision {
    const { datapath, metrics, ingress } = this.options;
    const recirculations = datapath.features.conntrack ? this.options.recirculations : undefined;
    metrics.simulations++;
    try {
      if (packet?.sender !== undefined) {
        return simulateSent(key, packet.sender, datapath, recirculations, packet.packet, trace);
      }
      return simulate(key, ingress(key.inPort), datapath, recirculations, packet?.packet, trace);
    } catch (error) {
      this.tellOfFailure(error as Error, key);
      return FAILED;
    }
  }

  /** A packet that we cannot cope with is lost, and no others are: whoever sends it must not be able to end the agent. */
  private tellOfFailure(error: Error, key: FlowKey): void {
    const { clock, log } = this.options;
    const now = clock();
    if (now < this.tellOfFailureAt) return;
    this.tellOfFailureAt = now + TOLD_AGAIN_MS;
    log.error(
      { err: error, inPort: key.inPort, key: [...key.words] },
      'a packet could not be simulated; it is dropped',
    );
  }
}
