import type { Logger } from 'pino';
import type { Datapath, FlowOperation, PacketOrigin, Upcall } from '../../datapath/datapath.js';
import type { Action } from '../../flow/action.js';
import { extractKey } from '../../flow/extract.js';
import { FlowKey } from '../../flow/key.js';
import type { Effect } from '../../simulation/decision.js';
import type { Fact, Ingress, PortFact } from '../../simulation/fact.js';
import { buildReply } from '../../simulation/reply.js';
import type { Cell } from '../facts/cell.js';
import type { MacLearner } from '../learning/mac-learner.js';
import { AnswerLimit } from './answer-limit.js';
import type { Configurator } from './configurator.js';
import { Decider, type Done } from './decider.js';
import type { FlowTable } from './flow-table.js';
import { type FlowLimits, InstalledFlows } from './installed-flows.js';
import type { ForwarderMetrics } from './metrics.js';
import { RecirculationTable } from './recirculation-table.js';
import { type Parked, type Waiting, WaitingRoom } from './waiting-room.js';

/** An upcall for a flow that has been in the datapath for so long means that it is there no more. */
const LOST_AFTER_MS = 1000;
/** How long packets are dropped unseen that came too often to be answered. */
const UNANSWERED_MS = 1000;
/** Between two lines in the log about what many packets may cause. */
const TOLD_AGAIN_MS = 60_000;

/** What a packet told. */
export type Heard = Extract<Effect, { type: 'neighbor' | 'announce' | 'health' }>;

export interface ForwarderOptions {
  readonly datapath: Datapath;
  /** How packets enter that come in at a datapath port. */
  readonly ingress: (port: number) => Fact<Ingress>;
  /** Begin to read a fact. */
  readonly load: (cell: Cell<unknown>) => void;
  readonly learner: MacLearner;
  readonly hear: (effect: Heard, frame: Uint8Array) => void;
  /** Take a packet that a flow hands to the agent, which forwards it by itself. */
  readonly capture: (upcall: Upcall) => void;
  readonly configurator: Configurator;
  readonly metrics: ForwarderMetrics;
  readonly limits: FlowLimits;
  /** Milliseconds. */
  readonly clock: () => number;
  readonly log: Logger;
}

/** Upcall to decision to flow: sends packets on, or has them wait, and does what else was decided of them. */
export class Forwarder {
  readonly recirculations: RecirculationTable;
  private readonly decider: Decider;
  private readonly installed: InstalledFlows;
  private readonly waiting: WaitingRoom;
  private readonly answerLimit: AnswerLimit;
  private tellOfCutAt = 0;
  private closed = false;

  constructor(private readonly options: ForwarderOptions) {
    const { clock } = options;
    this.waiting = new WaitingRoom(clock);
    this.recirculations = new RecirculationTable(
      (id) => this.flows.recirculates(id),
      (cell) => this.factChanged(cell),
      clock,
    );
    this.decider = new Decider({ ...options, recirculations: this.recirculations });
    this.installed = new InstalledFlows({
      ...options,
      decider: this.decider,
      onUnused: (id) => this.recirculations.released(id),
    });
    this.answerLimit = new AnswerLimit(clock);
  }

  get flows(): FlowTable {
    return this.installed.table;
  }

  /** Take a batch of packets that no flow matched. */
  upcalls(batch: readonly Upcall[]): void {
    if (this.closed) return;
    const operations: FlowOperation[] = [];
    for (const upcall of batch) {
      if (upcall.reason === 'action') this.options.capture(upcall);
      else this.upcall(upcall, operations);
    }
    this.installed.submit(operations);
  }

  /** Send a frame of a router's own out of one of its ports, through whatever is behind it. */
  send(port: Fact<PortFact>, frame: Uint8Array): void {
    if (this.closed) return;
    const operations: FlowOperation[] = [];
    this.sendOut(port, frame, operations);
    this.installed.submit(operations);
  }

  /** A fact changed: flows that depended on it are revisited, packets that waited for it go on. */
  factChanged(cell: Cell<unknown>): void {
    if (this.closed) return;
    this.installed.factChanged(cell);
    const ready = this.waiting.factChanged(cell);
    if (ready.length > 0) {
      const operations: FlowOperation[] = [];
      for (const parked of ready) this.resume(parked, operations);
      this.installed.submit(operations);
    }
  }

  /** See {@link InstalledFlows.portReplaced}. */
  portReplaced(port: number): void {
    this.installed.portReplaced(port);
  }

  /** See {@link InstalledFlows.pin}. */
  pin(key: FlowKey): void {
    this.installed.pin(key);
  }

  /** See {@link InstalledFlows.adopt}. */
  adopt(signal?: AbortSignal): Promise<{ kept: number; removed: number }> {
    return this.installed.adopt(signal);
  }

  /** To be called once a second: idle flows, packets that waited too long, addresses not seen any more. */
  tick(): void {
    this.recirculations.tick();
    for (const parked of this.waiting.expire()) this.options.metrics.drop('waited-too-long', parked.packets.length);
    this.options.learner.expire();
    this.answerLimit.forgetFull();
    this.installed.tick();
  }

  close(): void {
    this.closed = true;
    this.installed.close();
  }

  get waitingPackets(): number {
    return this.waiting.size;
  }

  private upcall(upcall: Upcall, operations: FlowOperation[]): void {
    this.options.metrics.upcalls++;
    const { key, packet, origin } = upcall;
    const joined = this.waiting.join(upcall);
    if (joined === 'full') this.options.metrics.drop('waiting-room-full', 1);
    if (joined !== 'alone') return;
    const flow = upcall.complete ? this.flows.lookup(key) : undefined;
    if (flow !== undefined) {
      // Its flow was installed while this packet was on its way to us.
      this.options.metrics.duplicates++;
      if (this.options.clock() - flow.putAt > LOST_AFTER_MS) this.installed.put(flow, operations);
      this.execute(key, packet, origin, flow.actions, operations);
      return;
    }
    this.process(upcall, operations);
  }

  private sendOut(sender: Fact<PortFact>, frame: Uint8Array, operations: FlowOperation[]): void {
    const key = new FlowKey();
    extractKey(frame, key);
    const packet = { key, packet: frame, origin: undefined, complete: false, sender };
    if (this.waiting.join(packet) === 'alone') this.process(packet, operations);
  }

  private process(packet: Waiting, operations: FlowOperation[]): void {
    // What would not be let wait must not cause reading either.
    const decision = this.decider.decide(packet.key, packet, this.waiting.hasRoom(packet));
    if (decision.type === 'done') this.carryOut(decision, packet, operations);
    else this.park(decision.missing as readonly Cell<unknown>[], packet);
  }

  private park(missing: readonly Cell<unknown>[], upcall: Waiting): void {
    if (this.waiting.park(missing, upcall)) this.options.metrics.parked++;
    else this.options.metrics.drop('waiting-room-full', 1);
  }

  private resume(parked: Parked, operations: FlowOperation[]): void {
    const { key, complete, sender, packets } = parked;
    const first = this.decider.decide(key, { packet: packets[0].bytes, sender });
    if (first.type === 'wait') {
      this.waiting.parkAgain(parked, first.missing as readonly Cell<unknown>[]);
      return;
    }
    for (const [i, { bytes, origin }] of packets.entries()) {
      const flow = complete ? this.flows.lookup(key) : undefined;
      if (flow !== undefined) {
        this.execute(key, bytes, origin, flow.actions, operations);
        continue;
      }
      const packet = { key, packet: bytes, origin, complete, sender };
      // What makes no flow may have been decided by more of the packet than its key.
      const decision = i === 0 || first.install ? first : this.decider.decide(key, packet);
      if (decision.type === 'done') this.carryOut(decision, packet, operations);
      else this.park(decision.missing as readonly Cell<unknown>[], packet);
    }
  }

  private carryOut(decision: Done, packet: Waiting, operations: FlowOperation[]): void {
    if (decision.drop !== undefined) this.options.metrics.drop(decision.drop, 1);
    if (decision.cut > 0) {
      this.options.metrics.cutCopies += decision.cut;
      this.tellOfCut(decision.cut);
    }
    this.options.metrics.chainCircles += decision.circles;
    const isInstalled = decision.install && packet.complete;
    if (isInstalled) this.installed.install(packet.key, decision, false, operations);
    for (const effect of decision.effects) {
      // What a flow tells stays true as long as it is there.
      if (effect.type !== 'learn') this.act(effect, decision, packet, operations);
      else if (!isInstalled) this.options.learner.learn(effect.bridge.id, effect.vlan, effect.mac, effect.port.id);
    }
    this.execute(packet.key, packet.packet, packet.origin, decision.actions, operations);
  }

  /** From time to time, as it is the same with every packet that is flooded there. */
  private tellOfCut(copies: number): void {
    const now = this.options.clock();
    if (now < this.tellOfCutAt) return;
    this.tellOfCutAt = now + TOLD_AGAIN_MS;
    this.options.log.warn({ copies }, 'flooded packets have more destinations than one flow can hold');
  }

  private act(
    effect: Exclude<Effect, { type: 'learn' }>,
    decision: Done,
    packet: Waiting,
    operations: FlowOperation[],
  ): void {
    switch (effect.type) {
      case 'send':
        this.options.metrics.answers++;
        this.sendOut(effect.port, effect.frame, operations);
        break;
      case 'reply':
        if (this.answerLimit.take(packet.key.inPort)) this.reply(effect, packet.packet, operations);
        else {
          this.options.metrics.unanswered++;
          this.leaveUnanswered(decision, packet, operations);
        }
        break;
      case 'trace':
        this.decider.writeDown(effect, packet);
        break;
      case 'neighbor':
      case 'announce':
      case 'health':
        this.options.hear(effect, packet.packet);
        break;
      case 'configure':
        if (this.answerLimit.take(packet.key.inPort)) this.configure(effect, packet, operations);
        else {
          this.options.metrics.configurationRequest(effect.request, 'too-many');
          this.leaveUnanswered(decision, packet, operations);
        }
    }
  }

  private reply(effect: Extract<Effect, { type: 'reply' }>, packet: Uint8Array, operations: FlowOperation[]): void {
    const frame = buildReply(effect, packet);
    if (frame === undefined) return;
    this.options.metrics.replies++;
    this.sendOut(effect.port, frame, operations);
  }

  /** There are too many packets to answer: for a short time such ones do not come here. */
  private leaveUnanswered(decision: Done, { key, complete }: Waiting, operations: FlowOperation[]): void {
    if (!complete || decision.actions.length > 0 || this.flows.lookup(key) !== undefined) return;
    this.installed.install(key, decision, false, operations, this.options.clock() + UNANSWERED_MS);
  }

  /** Answer a machine's request, or have it wait for what the answer takes. */
  private configure(
    effect: Extract<Effect, { type: 'configure' }>,
    request: Waiting,
    operations: FlowOperation[],
  ): void {
    const { key, packet } = request;
    const answer = this.options.configurator.answer(effect, packet, this.waiting.hasRoom(request));
    if (answer.type === 'wait') this.park(answer.missing as readonly Cell<unknown>[], request);
    if (answer.type !== 'frame') return;
    this.execute(key, answer.frame, undefined, [{ type: 'output', port: key.inPort }], operations);
  }

  private execute(
    key: FlowKey,
    packet: Uint8Array,
    origin: PacketOrigin | undefined,
    actions: readonly Action[],
    operations: FlowOperation[],
  ): void {
    if (actions.length > 0) operations.push({ type: 'execute', key, packet, actions, origin });
  }
}
