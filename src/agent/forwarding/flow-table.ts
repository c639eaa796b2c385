import type { FlowId } from '../../datapath/datapath.js';
import type { Action } from '../../flow/action.js';
import { Classifier } from '../../flow/classifier.js';
import type { FlowKey } from '../../flow/key.js';
import type { FlowMask } from '../../flow/mask.js';
import type { Cell } from '../facts/cell.js';
import type { LearnedMac } from '../learning/mac-learner.js';

/** A flow that the agent has put in the datapath. */
export interface FlowRecord {
  readonly id: FlowId;
  /** Bits outside the mask are zero. */
  readonly key: FlowKey;
  readonly mask: FlowMask;
  /** Changed by {@link FlowTable.setActions}. */
  actions: readonly Action[];
  /** When it was last put in the datapath, by the agent's clock. */
  putAt: number;
  /** The facts its decision depended on. */
  tags: readonly Cell<unknown>[];
  /** MAC addresses that stay learned as long as the flow is there. */
  learned: readonly LearnedMac[];
  /** Not removed for being idle: the way in for a tunnel key. */
  pinned: boolean;
  /** When it is removed, used or not, by the agent's clock; undefined: once it is idle. */
  readonly until?: number;
  /** Second, by the agent's clock, in which to ask whether it is idle. */
  checkAt: number;
}

/**
 * The agent's side of the datapath's flow table: finds flows by packet, by tag and by when they are due for a look at
 * their counters. Each of these costs the same however many flows there are.
 */
export class FlowTable {
  private readonly byId = new Map<FlowId, FlowRecord>();
  /** Flows that are not pinned, in order of last known use. */
  private readonly byUse = new Set<FlowRecord>();
  /**
   * Stays at the front of {@link byUse}. A new iterator would walk past the places of all flows that were removed there
   * since the set last grew.
   */
  private front = this.byUse.values();
  /** What {@link front} has come to, while it is the first. */
  private first: FlowRecord | undefined;
  private readonly classifier = new Classifier<FlowRecord>();
  private readonly due = new Map<number, Set<FlowRecord>>();
  /** By datapath port: flows that take packets from it or send packets to it. */
  private readonly byPort = new Map<number, Set<FlowRecord>>();
  /** How many `recirc` actions send packets to an identifier. */
  private readonly recirculations = new Map<number, number>();
  private nextId = 1;

  /** @param onUnused is told of an identifier that no flow sends packets to any more */
  constructor(private readonly onUnused: (recirculationId: number) => void = () => {}) {}

  get size(): number {
    return this.byId.size;
  }

  /** Number of different masks: each costs the datapath a look-up. */
  get masks(): number {
    return this.classifier.maskCount;
  }

  /** An id that no flow has or had. */
  newId(): FlowId {
    return this.nextId++;
  }

  get(id: FlowId): FlowRecord | undefined {
    return this.byId.get(id);
  }

  /** The meters that packets of some flow go through. */
  metersInUse(): Set<number> {
    const ids = new Set<number>();
    for (const { actions } of this.byId.values()) {
      for (const action of actions) if (action.type === 'meter') ids.add(action.id);
    }
    return ids;
  }

  records(): IterableIterator<FlowRecord> {
    return this.byId.values();
  }

  /** The flow that takes a packet with this key. */
  lookup(key: FlowKey): FlowRecord | undefined {
    return this.classifier.lookup(key);
  }

  /** The flow with exactly this masked key and mask. */
  find(key: FlowKey, mask: FlowMask): FlowRecord | undefined {
    return this.classifier.find(key, mask);
  }

  add(record: FlowRecord): void {
    this.byId.set(record.id, record);
    if (!record.pinned) this.byUse.add(record);
    if (record.id >= this.nextId) this.nextId = record.id + 1;
    this.classifier.insert(record.key, record.mask, record);
    for (const tag of record.tags) addTag(record, tag);
    this.indexActions(record);
    this.schedule(record);
  }

  /** Flows that take packets from a datapath port, or send packets to it. */
  touching(port: number): readonly FlowRecord[] {
    return [...(this.byPort.get(port) ?? [])];
  }

  /** Whether any flow sends packets to the identifier with a `recirc` action. */
  recirculates(id: number): boolean {
    return this.recirculations.has(id);
  }

  setActions(record: FlowRecord, actions: readonly Action[]): void {
    this.unindexActions(record);
    record.actions = actions;
    this.indexActions(record);
  }

  /** From now on the flow is not removed for being idle, nor to make room. */
  pin(record: FlowRecord): void {
    this.unschedule(record);
    this.outOfOrder(record);
    record.pinned = true;
  }

  /** Give a flow the tags of its newest decision. */
  retag(record: FlowRecord, tags: readonly Cell<unknown>[], now: number): void {
    const before = record.tags;
    record.tags = tags;
    for (const tag of tags) addTag(record, tag);
    for (const tag of before) if (!tags.includes(tag)) untag(record, tag, now);
  }

  remove(record: FlowRecord, now: number): void {
    if (!this.byId.delete(record.id)) return;
    this.outOfOrder(record);
    this.classifier.remove(record.key, record.mask);
    this.unschedule(record);
    this.unindexActions(record);
    for (const tag of record.tags) untag(record, tag, now);
  }

  /** Flows whose counters are due for a look in this second or before. Each must be rescheduled or removed. */
  takeDue(second: number): FlowRecord[] {
    const taken: FlowRecord[] = [];
    for (const [at, records] of this.due) {
      if (at > second) continue;
      taken.push(...records);
      this.due.delete(at);
    }
    return taken;
  }

  /** The flow is in use: look again in `checkAt`, evict it last. */
  used(record: FlowRecord, checkAt: number): void {
    if (!this.byId.has(record.id) || record.pinned) return;
    this.outOfOrder(record);
    this.byUse.add(record);
    record.checkAt = checkAt;
    this.schedule(record);
  }

  /** The flow to give up when the table is full. */
  leastRecentlyUsed(): FlowRecord | undefined {
    if (this.first !== undefined) return this.first;
    let next = this.front.next();
    if (next.done) {
      // An iterator that has come to the end stays there.
      this.front = this.byUse.values();
      next = this.front.next();
    }
    this.first = next.value;
    return this.first;
  }

  private outOfOrder(record: FlowRecord): void {
    this.byUse.delete(record);
    if (this.first === record) this.first = undefined;
  }

  private schedule(record: FlowRecord): void {
    if (record.pinned) return;
    let records = this.due.get(record.checkAt);
    if (records === undefined) {
      records = new Set();
      this.due.set(record.checkAt, records);
    }
    records.add(record);
  }

  private indexActions(record: FlowRecord): void {
    for (const port of portsOf(record)) {
      const records = this.byPort.get(port);
      if (records === undefined) this.byPort.set(port, new Set([record]));
      else records.add(record);
    }
    for (const id of recirculationsOf(record.actions)) {
      this.recirculations.set(id, (this.recirculations.get(id) ?? 0) + 1);
    }
  }

  private unindexActions(record: FlowRecord): void {
    for (const port of portsOf(record)) {
      const records = this.byPort.get(port);
      records?.delete(record);
      if (records?.size === 0) this.byPort.delete(port);
    }
    for (const id of recirculationsOf(record.actions)) {
      const count = this.recirculations.get(id)! - 1;
      if (count > 0) this.recirculations.set(id, count);
      else {
        this.recirculations.delete(id);
        this.onUnused(id);
      }
    }
  }

  private unschedule(record: FlowRecord): void {
    const records = this.due.get(record.checkAt);
    if (records?.delete(record) && records.size === 0) this.due.delete(record.checkAt);
  }
}

function* portsOf(record: FlowRecord): Generator<number> {
  yield record.key.inPort;
  yield* outputsOf(record.actions);
}

function* outputsOf(actions: readonly Action[]): Generator<number> {
  for (const action of actions) {
    if (action.type === 'output') yield action.port;
    else if (action.type === 'clone') yield* outputsOf(action.actions);
  }
}

function* recirculationsOf(actions: readonly Action[]): Generator<number> {
  for (const action of actions) {
    if (action.type === 'recirc') yield action.id;
    else if (action.type === 'clone') yield* recirculationsOf(action.actions);
  }
}

function addTag(record: FlowRecord, tag: Cell<unknown>): void {
  tag.flows.add(record.id);
  tag.idleSince = undefined;
}

function untag(record: FlowRecord, tag: Cell<unknown>, now: number): void {
  tag.flows.delete(record.id);
  if (tag.flows.size === 0) tag.idleSince = now;
}
