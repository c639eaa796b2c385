import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Datapath, Flow, FlowId, FlowOperation, PacketOrigin, Upcall } from '../../datapath/datapath.js';
import { DatapathError } from '../../datapath/errors.js';
import { type Action, actionsEqual } from '../../flow/action.js';
import { describePacket } from '../../flow/describe.js';
import { extractKey } from '../../flow/extract.js';
import { FLOW_KEY_WORDS, FlowKey } from '../../flow/key.js';
import { FlowMask } from '../../flow/mask.js';
import type { Decision, Effect } from '../../simulation/decision.js';
import type { Fact, Ingress, PortFact } from '../../simulation/fact.js';
import { buildReply } from '../../simulation/reply.js';
import { simulate, simulateSent } from '../../simulation/simulate.js';
import { formatTrace, type TraceStep } from '../../simulation/trace.js';
import type { Cell } from '../facts/cell.js';
import type { LearnedMac, MacLearner } from '../learning/mac-learner.js';
import { AnswerLimit } from './answer-limit.js';
import type { Configurator } from './configurator.js';
import { type FlowRecord, FlowTable } from './flow-table.js';
import type { ForwarderMetrics } from './metrics.js';
import { RecirculationTable } from './recirculation-table.js';
import { type Parked, type Waiting, WaitingRoom } from './waiting-room.js';

export interface ForwarderOptions {
  /** A flow that no packet has hit for so long is removed, in seconds. */
  readonly idleTimeout: number;
  /** At most so many flows; the one not used for longest makes room. */
  readonly maxFlows: number;
}

/** How many flows are simulated again before other work gets its turn. */
const REVISIT_BATCH = 256;
/** How many flows are asked for their counters at once. */
const STATISTICS_BATCH = 64;
/** An upcall for a flow that has been in the datapath for so long means that it is there no more. */
const LOST_AFTER_MS = 1000;
/** How long after a refused operation the datapath's flows are read again. */
const RESYNC_MS = 1000;
/** How long packets are dropped unseen that came too often to be answered. */
const UNANSWERED_MS = 1000;
/** Between two lines in the log about what many packets may cause. */
const TOLD_AGAIN_MS = 60_000;

/** What a packet told. */
export type Heard = Extract<Effect, { type: 'neighbor' | 'announce' | 'health' }>;

type Done = Extract<Decision, { type: 'done' }>;

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

/**
 * Upcall to decision to flow. Owns the flows of the datapath: installs them, revisits those whose facts changed, removes
 * those that are idle or too many, and adopts those it finds after a restart.
 */
export class Forwarder {
  readonly flows: FlowTable;
  readonly recirculations: RecirculationTable;
  private readonly waiting: WaitingRoom;
  private readonly answerLimit: AnswerLimit;
  /** Flows whose facts changed. */
  private readonly stale = new Set<FlowId>();
  /** How many packets were traced, by trace request. */
  private readonly traced = new Map<string, number>();
  private tellOfCutAt = 0;
  private tellOfFailureAt = 0;
  private revisiting = false;
  private resyncing: Promise<void> | undefined;
  private resyncTimer: NodeJS.Timeout | undefined;
  private checking = false;
  private closed = false;

  constructor(
    private readonly datapath: Datapath,
    /** How packets enter that come in at a datapath port. */
    private readonly ingress: (port: number) => Fact<Ingress>,
    private readonly load: (cell: Cell<unknown>) => void,
    private readonly learner: MacLearner,
    private readonly hear: (effect: Heard, frame: Uint8Array) => void,
    private readonly configurator: Configurator,
    private readonly metrics: ForwarderMetrics,
    private readonly options: ForwarderOptions,
    /** Milliseconds. */
    private readonly clock: () => number,
    private readonly log: Logger,
  ) {
    this.waiting = new WaitingRoom(clock);
    this.flows = new FlowTable((id) => this.recirculations.released(id));
    this.recirculations = new RecirculationTable(
      (id) => this.flows.recirculates(id),
      (cell) => this.factChanged(cell),
      clock,
    );
    this.answerLimit = new AnswerLimit(clock);
  }

  /** Take a batch of packets that no flow matched. */
  upcalls(batch: readonly Upcall[]): void {
    if (this.closed) return;
    const operations: FlowOperation[] = [];
    for (const upcall of batch) this.upcall(upcall, operations);
    this.submit(operations);
  }

  /** Send a frame of a router's own out of one of its ports, through whatever is behind it. */
  send(port: Fact<PortFact>, frame: Uint8Array): void {
    if (this.closed) return;
    const operations: FlowOperation[] = [];
    this.sendOut(port, frame, operations);
    this.submit(operations);
  }

  /** A fact changed: flows that depended on it are revisited, packets that waited for it go on. */
  factChanged(cell: Cell<unknown>): void {
    if (this.closed) return;
    for (const id of cell.flows) this.stale.add(id);
    const ready = this.waiting.factChanged(cell);
    if (ready.length > 0) {
      const operations: FlowOperation[] = [];
      for (const parked of ready) this.resume(parked, operations);
      this.submit(operations);
    }
    if (this.stale.size > 0) this.scheduleRevisit();
  }

  /**
   * A datapath port is gone, or its number belongs to another interface now: no flow may take its packets or send any to
   * it for a moment longer, whether or not it is known what should become of them.
   */
  portReplaced(port: number): void {
    const operations: FlowOperation[] = [];
    for (const record of this.flows.touching(port)) {
      if (record.key.inPort === port) this.removeFlow(record, operations);
      else this.replace(record, withoutOutput(record.actions, port), operations);
    }
    this.submit(operations);
  }

  /** Install the flow for packets with this key now, before any comes; it stays until its decision is to drop. */
  pin(key: FlowKey): void {
    const decision = this.decide(key);
    if (decision.type === 'wait' || !decision.install) return;
    // One that was adopted may match by other bits: the datapath takes some fields only along with others.
    const existing = this.flows.lookup(key);
    if (existing !== undefined) return this.flows.pin(existing);
    const operations: FlowOperation[] = [];
    this.install(key, decision, true, operations);
    this.submit(operations);
  }

  /**
   * Take over what the datapath holds: every flow is simulated again from its key. The same decision: it is kept as it
   * is. Another: replaced in place. Not in hand yet: kept until it is. Flows of others, and those that cannot be
   * understood, are removed.
   */
  async adopt(signal?: AbortSignal): Promise<{ kept: number; removed: number }> {
    const found = await this.datapath.flows(signal);
    let operations: FlowOperation[] = [];
    let kept = 0;
    let removed = 0;
    let count = 0;
    for (const flow of found) {
      if (++count % REVISIT_BATCH === 0) {
        this.submit(operations);
        operations = [];
        await nextTurn();
      }
      if (flow.id !== undefined && this.flows.get(flow.id) !== undefined) continue;
      if (flow.id !== undefined && flow.complete && this.adoptFlow(flow, flow.id, operations)) {
        kept++;
        continue;
      }
      removed++;
      if (flow.id === undefined || !flow.complete) this.metrics.foreignFlows++;
      if (flow.id !== undefined) operations.push({ type: 'delete', id: flow.id });
    }
    const foreign = found.some((flow) => flow.id === undefined);
    this.submit(operations);
    if (foreign) await this.replaceAll(signal);
    return { kept, removed };
  }

  /** To be called once a second: idle flows, packets that waited too long, addresses not seen any more. */
  tick(): void {
    this.recirculations.tick();
    for (const parked of this.waiting.expire()) this.metrics.drop('waited-too-long', parked.packets.length);
    this.learner.expire();
    this.answerLimit.forgetFull();
    if (!this.checking) {
      this.checking = true;
      this.checkIdle()
        .catch((error: Error) => {
          if (!this.closed) this.log.error({ error: error.message }, 'could not read the counters of flows');
        })
        .finally(() => {
          this.checking = false;
        });
    }
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.resyncTimer);
    this.stale.clear();
  }

  get waitingPackets(): number {
    return this.waiting.size;
  }

  private upcall(upcall: Upcall, operations: FlowOperation[]): void {
    this.metrics.upcalls++;
    const { key, packet, origin } = upcall;
    const joined = this.waiting.join(upcall);
    if (joined === 'full') this.metrics.drop('waiting-room-full', 1);
    if (joined !== 'alone') return;
    const flow = upcall.complete ? this.flows.lookup(key) : undefined;
    if (flow !== undefined) {
      // Its flow was installed while this packet was on its way to us.
      this.metrics.duplicates++;
      if (this.clock() - flow.putAt > LOST_AFTER_MS) this.put(flow, operations);
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
    const decision = this.decide(packet.key, packet, this.waiting.hasRoom(packet));
    if (decision.type === 'done') this.carryOut(decision, packet, operations);
    else this.park(decision.missing as readonly Cell<unknown>[], packet);
  }

  /** @param packet undefined for a flow that is looked at again */
  private decide(key: FlowKey, packet?: Pick<Waiting, 'packet' | 'sender'>, mayLoad = true): Decision {
    for (;;) {
      const decision = this.simulate(key, packet);
      // Before its actions are put anywhere, as packets may come back at once.
      if (decision.type === 'done') this.recirculations.learn(decision.recirculations);
      if (decision.type === 'done') return decision;
      if (!mayLoad) {
        for (const fact of decision.missing) (fact as Cell<unknown>).discard();
        return decision;
      }
      for (const fact of decision.missing) this.load(fact as Cell<unknown>);
      // A fact that is known at once changes before anybody waits for it.
      if (decision.missing.some((fact) => fact.value === undefined)) return decision;
    }
  }

  private simulate(key: FlowKey, packet?: Pick<Waiting, 'packet' | 'sender'>, trace?: TraceStep[]): Decision {
    const { datapath } = this;
    const recirculations = datapath.features.conntrack ? this.recirculations : undefined;
    this.metrics.simulations++;
    try {
      if (packet?.sender !== undefined) {
        return simulateSent(key, packet.sender, datapath, recirculations, packet.packet, trace);
      }
      return simulate(key, this.ingress(key.inPort), datapath, recirculations, packet?.packet, trace);
    } catch (error) {
      this.tellOfFailure(error as Error, key);
      return FAILED;
    }
  }

  /** A packet that we cannot cope with is lost, and no others are: whoever sends it must not be able to end the agent. */
  private tellOfFailure(error: Error, key: FlowKey): void {
    const now = this.clock();
    if (now < this.tellOfFailureAt) return;
    this.tellOfFailureAt = now + TOLD_AGAIN_MS;
    this.log.error(
      { err: error, inPort: key.inPort, key: [...key.words] },
      'a packet could not be simulated; it is dropped',
    );
  }

  private park(missing: readonly Cell<unknown>[], upcall: Waiting): void {
    if (this.waiting.park(missing, upcall)) this.metrics.parked++;
    else this.metrics.drop('waiting-room-full', 1);
  }

  private resume(parked: Parked, operations: FlowOperation[]): void {
    const { key, complete, sender, packets } = parked;
    const first = this.decide(key, { packet: packets[0].bytes, sender });
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
      const decision = i === 0 || first.install ? first : this.decide(key, packet);
      if (decision.type === 'done') this.carryOut(decision, packet, operations);
      else this.park(decision.missing as readonly Cell<unknown>[], packet);
    }
  }

  private carryOut(decision: Done, packet: Waiting, operations: FlowOperation[]): void {
    if (decision.drop !== undefined) this.metrics.drop(decision.drop, 1);
    if (decision.cut > 0) {
      this.metrics.cutCopies += decision.cut;
      this.tellOfCut(decision.cut);
    }
    this.metrics.chainCircles += decision.circles;
    const isInstalled = decision.install && packet.complete;
    if (isInstalled) this.install(packet.key, decision, false, operations);
    for (const effect of decision.effects) {
      // What a flow tells stays true as long as it is there.
      if (effect.type !== 'learn') this.act(effect, decision, packet, operations);
      else if (!isInstalled) this.learner.learn(effect.bridge.id, effect.vlan, effect.mac, effect.port.id);
    }
    this.execute(packet.key, packet.packet, packet.origin, decision.actions, operations);
  }

  /** From time to time, as it is the same with every packet that is flooded there. */
  private tellOfCut(copies: number): void {
    const now = this.clock();
    if (now < this.tellOfCutAt) return;
    this.tellOfCutAt = now + TOLD_AGAIN_MS;
    this.log.warn({ copies }, 'flooded packets have more destinations than one flow can hold');
  }

  private act(
    effect: Exclude<Effect, { type: 'learn' }>,
    decision: Done,
    packet: Waiting,
    operations: FlowOperation[],
  ): void {
    switch (effect.type) {
      case 'send':
        this.metrics.answers++;
        this.sendOut(effect.port, effect.frame, operations);
        break;
      case 'reply':
        if (this.answerLimit.take(packet.key.inPort)) this.reply(effect, packet.packet, operations);
        else {
          this.metrics.unanswered++;
          this.leaveUnanswered(decision, packet, operations);
        }
        break;
      case 'trace':
        this.trace(effect, packet);
        break;
      case 'neighbor':
      case 'announce':
      case 'health':
        this.hear(effect, packet.packet);
        break;
      case 'configure':
        if (this.answerLimit.take(packet.key.inPort)) this.configure(effect, packet, operations);
        else {
          this.metrics.configurationRequest(effect.request, 'too-many');
          this.leaveUnanswered(decision, packet, operations);
        }
    }
  }

  /** Write down the way of a packet that a rule wants traced. */
  private trace({ traceRequestId, limit }: Extract<Effect, { type: 'trace' }>, packet: Waiting): void {
    const traced = this.traced.get(traceRequestId) ?? 0;
    if (limit !== undefined && traced >= limit) return;
    this.traced.set(traceRequestId, traced + 1);
    const steps: TraceStep[] = [];
    this.simulate(packet.key, packet, steps);
    this.log.info({ traceRequestId, packet: describePacket(packet.key), steps: formatTrace(steps) }, 'traced a packet');
  }

  private reply(effect: Extract<Effect, { type: 'reply' }>, packet: Uint8Array, operations: FlowOperation[]): void {
    const frame = buildReply(effect, packet);
    if (frame === undefined) return;
    this.metrics.replies++;
    this.sendOut(effect.port, frame, operations);
  }

  /** There are too many packets to answer: for a short time such ones do not come here. */
  private leaveUnanswered(decision: Done, { key, complete }: Waiting, operations: FlowOperation[]): void {
    if (!complete || decision.actions.length > 0 || this.flows.lookup(key) !== undefined) return;
    this.install(key, decision, false, operations, this.clock() + UNANSWERED_MS);
  }

  /** Answer a machine's request, or have it wait for what the answer takes. */
  private configure(
    effect: Extract<Effect, { type: 'configure' }>,
    request: Waiting,
    operations: FlowOperation[],
  ): void {
    const { key, packet } = request;
    const answer = this.configurator.answer(effect, packet, this.waiting.hasRoom(request));
    if (answer.type === 'wait') this.park(answer.missing as readonly Cell<unknown>[], request);
    if (answer.type !== 'frame') return;
    this.execute(key, answer.frame, undefined, [{ type: 'output', port: key.inPort }], operations);
  }

  private install(key: FlowKey, decision: Done, pinned: boolean, operations: FlowOperation[], until?: number): void {
    while (this.flows.size >= this.options.maxFlows) {
      const victim = this.flows.leastRecentlyUsed();
      if (victim === undefined) break;
      this.metrics.evictions++;
      this.removeFlow(victim, operations);
    }
    const record: FlowRecord = {
      id: this.flows.newId(),
      key: key.masked(decision.mask),
      mask: decision.mask,
      actions: decision.actions,
      putAt: 0,
      tags: decision.tags as readonly Cell<unknown>[],
      learned: this.learnedBy(decision),
      pinned,
      until,
      checkAt: until === undefined ? this.nextCheck(0) : Math.ceil(until / 1000),
    };
    this.flows.add(record);
    for (const learned of record.learned) this.learner.use(learned);
    this.metrics.installed++;
    this.put(record, operations);
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

  private removeFlow(record: FlowRecord, operations: FlowOperation[]): void {
    this.forgetFlow(record);
    operations.push({ type: 'delete', id: record.id });
  }

  private forgetFlow(record: FlowRecord): void {
    this.flows.remove(record, this.clock());
    this.stale.delete(record.id);
    for (const learned of record.learned) this.learner.release(learned);
  }

  /** @param known what the flow says already: to look at it again is no new sighting */
  private learnedBy(decision: Done, known: readonly LearnedMac[] = []): LearnedMac[] {
    const learned: LearnedMac[] = [];
    for (const effect of decision.effects) {
      if (effect.type !== 'learn') continue;
      const { bridge, vlan, mac, port } = effect;
      const before = known.find((entry) => entry.mac === mac && entry.vlan === vlan && entry.bridgeId === bridge.id);
      learned.push(before ?? this.learner.learn(bridge.id, vlan, mac, port.id));
    }
    return learned;
  }

  private submit(operations: FlowOperation[]): void {
    if (operations.length === 0 || this.closed) return;
    this.datapath.submit(operations, (errors) => {
      for (let i = 0; i < operations.length; i++) {
        const error = errors[i];
        if (error !== undefined) this.failed(operations[i], error);
      }
    });
  }

  private failed(operation: FlowOperation, error: Error): void {
    this.metrics.operationErrors++;
    if (operation.type === 'execute') {
      this.log.debug({ error: error.message }, 'the datapath did not carry out actions on a packet');
      return;
    }
    this.log.warn({ error: error.message, operation: operation.type }, 'the datapath refused a flow operation');
    if (operation.type === 'delete') return this.resyncLater();
    const record = this.flows.get(operation.id);
    if (record !== undefined) this.forgetFlow(record);
    // Somebody else's flow is in the way, or one that we lost sight of.
    if (error instanceof DatapathError && error.kind === 'exists') this.resync();
    // The datapath may hold it with the actions it had before.
    else this.submit([{ type: 'delete', id: operation.id }]);
  }

  private resyncLater(): void {
    if (this.closed) return;
    this.resyncTimer ??= setTimeout(() => {
      this.resyncTimer = undefined;
      this.resync();
    }, RESYNC_MS);
  }

  /** Bring the flow table and the datapath together again. */
  private resync(): void {
    this.resyncing ??= this.adopt()
      .then(({ kept, removed }) => this.log.info({ kept, removed }, 'took over flows that were not known'))
      .catch((error: Error) => {
        if (!this.closed) this.log.error({ error: error.message }, 'could not read the flows of the datapath');
      })
      .finally(() => {
        this.resyncing = undefined;
      });
  }

  private adoptFlow(flow: Flow, id: number, operations: FlowOperation[]): boolean {
    const key = flow.key.masked(flow.mask);
    const decision = this.decide(key);
    const usable = decision.type === 'wait' || (decision.install && covers(flow.mask, decision.mask));
    if (!usable || this.flows.find(key, flow.mask) !== undefined) return false;
    const record: FlowRecord = {
      id,
      key,
      mask: flow.mask,
      actions: flow.actions,
      putAt: this.clock(),
      tags: (decision.type === 'wait' ? decision.missing : decision.tags) as readonly Cell<unknown>[],
      learned: decision.type === 'wait' ? [] : this.learnedBy(decision),
      pinned: false,
      checkAt: this.nextCheck(0),
    };
    this.flows.add(record);
    for (const learned of record.learned) this.learner.use(learned);
    if (decision.type === 'done') this.replace(record, decision.actions, operations);
    return true;
  }

  /** There are flows that cannot be named, so they cannot be deleted one by one: flush, then put ours again. */
  private async replaceAll(signal?: AbortSignal): Promise<void> {
    await this.datapath.flushFlows(signal);
    const operations: FlowOperation[] = [];
    for (const record of this.flows.records()) this.put(record, operations);
    this.submit(operations);
  }

  private scheduleRevisit(): void {
    if (this.revisiting || this.closed) return;
    this.revisiting = true;
    setImmediate(() => {
      this.revisiting = false;
      this.revisitSome();
    });
  }

  private revisitSome(): void {
    const operations: FlowOperation[] = [];
    let count = 0;
    for (const id of this.stale) {
      if (++count > REVISIT_BATCH) break;
      this.stale.delete(id);
      const record = this.flows.get(id);
      if (record !== undefined) this.revisit(record, operations);
    }
    this.submit(operations);
    if (this.stale.size > 0) this.scheduleRevisit();
  }

  private revisit(record: FlowRecord, operations: FlowOperation[]): void {
    this.metrics.revisits++;
    const decision = this.decide(record.key);
    if (decision.type === 'wait') {
      // It goes on as it is until the facts are in hand; they must find it.
      const tags = new Set([...record.tags, ...(decision.missing as readonly Cell<unknown>[])]);
      this.flows.retag(record, [...tags], this.clock());
      return;
    }
    // Bits that the new decision looks at and the key does not hold: only a packet can tell.
    const usable = decision.install && covers(record.mask, decision.mask);
    // Where nothing comes in any more there is nothing to drop, and the next owner of the port number begins afresh.
    if (!usable || decision.drop === 'no-port' || (record.pinned && decision.drop !== undefined)) {
      this.removeFlow(record, operations);
      return;
    }
    this.flows.retag(record, decision.tags as readonly Cell<unknown>[], this.clock());
    const learned = this.learnedBy(decision, record.learned);
    for (const mac of learned) this.learner.use(mac);
    for (const mac of record.learned) this.learner.release(mac);
    record.learned = learned;
    this.replace(record, decision.actions, operations);
  }

  private replace(record: FlowRecord, actions: readonly Action[], operations: FlowOperation[]): void {
    if (actionsEqual(record.actions, actions)) return;
    this.flows.setActions(record, actions);
    this.metrics.replaced++;
    this.put(record, operations);
  }

  private put(record: FlowRecord, operations: FlowOperation[]): void {
    record.putAt = this.clock();
    operations.push({ type: 'put', id: record.id, key: record.key, mask: record.mask, actions: record.actions });
  }

  private async checkIdle(): Promise<void> {
    const due: FlowRecord[] = [];
    const ended: FlowOperation[] = [];
    for (const record of this.flows.takeDue(Math.floor(this.clock() / 1000))) {
      if (record.until === undefined) due.push(record);
      else this.removeFlow(record, ended);
    }
    this.submit(ended);
    while (due.length > 0 && !this.closed) {
      const batch = due.splice(0, STATISTICS_BATCH);
      let found: readonly (Flow | undefined)[];
      try {
        found = await Promise.all(batch.map((record) => this.datapath.flow(record.id)));
      } catch (error) {
        for (const record of [...batch, ...due]) this.flows.used(record, this.nextCheck(0));
        throw error;
      }
      const operations: FlowOperation[] = [];
      for (let i = 0; i < batch.length; i++) this.judgeIdle(batch[i], found[i], operations);
      this.submit(operations);
    }
  }

  private judgeIdle(record: FlowRecord, flow: Flow | undefined, operations: FlowOperation[]): void {
    if (record.pinned || this.flows.get(record.id) !== record) return;
    // A flow that was never hit has no time of last use: it has been there for a whole period.
    const idle = (flow?.idleMs ?? Number.POSITIVE_INFINITY) / 1000;
    if (idle < this.options.idleTimeout) {
      this.flows.used(record, this.nextCheck(idle));
      return;
    }
    this.metrics.expired++;
    this.removeFlow(record, operations);
  }

  /** The second in which a flow that has been idle for `idle` seconds is due, if nothing uses it. */
  private nextCheck(idle: number): number {
    return Math.floor(this.clock() / 1000 + Math.max(1, this.options.idleTimeout - idle));
  }
}

function withoutOutput(actions: readonly Action[], port: number): readonly Action[] {
  return actions.flatMap((action): Action[] => {
    if (action.type === 'clone') return [{ ...action, actions: withoutOutput(action.actions, port) }];
    return action.type === 'output' && action.port === port ? [] : [action];
  });
}

/** Whether every bit of `inner` is in `outer`. */
function covers(outer: FlowMask, inner: FlowKey): boolean {
  for (let i = 0; i < FLOW_KEY_WORDS; i++) if ((inner.words[i] & ~outer.words[i]) !== 0) return false;
  return true;
}
