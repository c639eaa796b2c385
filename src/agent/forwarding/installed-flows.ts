import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Datapath, Flow, FlowId, FlowOperation } from '../../datapath/datapath.js';
import { DatapathError } from '../../datapath/errors.js';
import { type Action, actionsEqual } from '../../flow/action.js';
import { FLOW_KEY_WORDS, type FlowKey } from '../../flow/key.js';
import type { FlowMask } from '../../flow/mask.js';
import type { Cell } from '../facts/cell.js';
import type { LearnedMac, MacLearner } from '../learning/mac-learner.js';
import type { Decider, Done } from './decider.js';
import { type FlowRecord, FlowTable } from './flow-table.js';
import type { ForwarderMetrics } from './metrics.js';

export interface FlowLimits {
  /** A flow that no packet has hit for so long is removed, in seconds. */
  readonly idleTimeout: number;
  /** At most so many flows; the one not used for longest makes room. */
  readonly maxFlows: number;
}

export interface InstalledFlowsOptions {
  readonly datapath: Datapath;
  readonly decider: Decider;
  readonly learner: MacLearner;
  readonly metrics: ForwarderMetrics;
  readonly limits: FlowLimits;
  /** No flow sends packets to the identifier with a `recirc` action any more. */
  readonly onUnused: (recirculationId: number) => void;
  /** Milliseconds. */
  readonly clock: () => number;
  readonly log: Logger;
}

/** How many flows are simulated again before other work gets its turn. */
const REVISIT_BATCH = 256;
/** How many flows are asked for their counters at once. */
const STATISTICS_BATCH = 64;
/** How long after a refused operation the datapath's flows are read again. */
const RESYNC_MS = 1000;

/**
 * The flows of the datapath: installs them, revisits those whose facts changed, removes those that are idle or too many,
 * and adopts those it finds after a restart.
 */
export class InstalledFlows {
  readonly table: FlowTable;
  /** Flows whose facts changed. */
  private readonly stale = new Set<FlowId>();
  private revisiting = false;
  private resyncing: Promise<void> | undefined;
  private resyncTimer: NodeJS.Timeout | undefined;
  private checking = false;
  private closed = false;

  constructor(private readonly options: InstalledFlowsOptions) {
    this.table = new FlowTable(options.onUnused);
  }

  /** A fact changed: flows that depended on it are revisited. */
  factChanged(cell: Cell<unknown>): void {
    for (const id of cell.flows) this.stale.add(id);
    if (this.stale.size > 0) this.scheduleRevisit();
  }

  /** To be called once a second: flows that are idle, or whose time has come. */
  tick(): void {
    if (this.checking) return;
    this.checking = true;
    this.checkIdle()
      .catch((error: Error) => {
        if (!this.closed) this.options.log.error({ error: error.message }, 'could not read the counters of flows');
      })
      .finally(() => {
        this.checking = false;
      });
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.resyncTimer);
    this.stale.clear();
  }

  /**
   * A datapath port is gone, or its number belongs to another interface now: no flow may take its packets or send any to
   * it for a moment longer, whether or not it is known what should become of them.
   */
  portReplaced(port: number): void {
    const operations: FlowOperation[] = [];
    for (const record of this.table.touching(port)) {
      if (record.key.inPort === port) this.removeFlow(record, operations);
      else this.replace(record, withoutOutput(record.actions, port), operations);
    }
    this.submit(operations);
  }

  /** Install the flow for packets with this key now, before any comes; it stays until its decision is to drop. */
  pin(key: FlowKey): void {
    const decision = this.options.decider.decide(key);
    if (decision.type === 'wait' || !decision.install) return;
    // One that was adopted may match by other bits: the datapath takes some fields only along with others.
    const existing = this.table.lookup(key);
    if (existing !== undefined) return this.table.pin(existing);
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
    const found = await this.options.datapath.flows(signal);
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
      if (flow.id !== undefined && this.table.get(flow.id) !== undefined) continue;
      if (flow.id !== undefined && flow.complete && this.adoptFlow(flow, flow.id, operations)) {
        kept++;
        continue;
      }
      removed++;
      if (flow.id === undefined || !flow.complete) this.options.metrics.foreignFlows++;
      if (flow.id !== undefined) operations.push({ type: 'delete', id: flow.id });
    }
    const foreign = found.some((flow) => flow.id === undefined);
    this.submit(operations);
    if (foreign) await this.replaceAll(signal);
    return { kept, removed };
  }

  /**
   * Install the flow for packets with this key, in place of the one not used for longest if there are too many.
   * @param until when it is removed, used or not; milliseconds of the clock
   */
  install(key: FlowKey, decision: Done, pinned: boolean, operations: FlowOperation[], until?: number): void {
    while (this.table.size >= this.options.limits.maxFlows) {
      const victim = this.table.leastRecentlyUsed();
      if (victim === undefined) break;
      this.options.metrics.evictions++;
      this.removeFlow(victim, operations);
    }
    const record: FlowRecord = {
      id: this.table.newId(),
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
    this.table.add(record);
    for (const learned of record.learned) this.options.learner.use(learned);
    this.options.metrics.installed++;
    this.put(record, operations);
  }

  /** Put a flow in the datapath again, with the actions that it has. */
  put(record: FlowRecord, operations: FlowOperation[]): void {
    record.putAt = this.options.clock();
    operations.push({ type: 'put', id: record.id, key: record.key, mask: record.mask, actions: record.actions });
  }

  /** Have the datapath do these. What it refuses is mended: the flow is given up, or the datapath's flows are read again. */
  submit(operations: FlowOperation[]): void {
    if (operations.length === 0 || this.closed) return;
    this.options.datapath.submit(operations, (errors) => {
      for (let i = 0; i < operations.length; i++) {
        const error = errors[i];
        if (error !== undefined) this.failed(operations[i], error);
      }
    });
  }

  private removeFlow(record: FlowRecord, operations: FlowOperation[]): void {
    this.forgetFlow(record);
    operations.push({ type: 'delete', id: record.id });
  }

  private forgetFlow(record: FlowRecord): void {
    this.table.remove(record, this.options.clock());
    this.stale.delete(record.id);
    for (const learned of record.learned) this.options.learner.release(learned);
  }

  /** @param known what the flow says already: to look at it again is no new sighting */
  private learnedBy(decision: Done, known: readonly LearnedMac[] = []): LearnedMac[] {
    const learned: LearnedMac[] = [];
    for (const effect of decision.effects) {
      if (effect.type !== 'learn') continue;
      const { bridge, vlan, mac, port } = effect;
      const before = known.find((entry) => entry.mac === mac && entry.vlan === vlan && entry.bridgeId === bridge.id);
      const entry = before ?? this.options.learner.learn(bridge.id, vlan, mac, port.id);
      if (entry !== undefined) learned.push(entry);
    }
    return learned;
  }

  private failed(operation: FlowOperation, error: Error): void {
    this.options.metrics.operationErrors++;
    if (operation.type === 'execute') {
      this.options.log.debug({ error: error.message }, 'the datapath did not carry out actions on a packet');
      return;
    }
    this.options.log.warn({ error: error.message, operation: operation.type }, 'the datapath refused a flow operation');
    if (operation.type === 'delete') return this.resyncLater();
    const record = this.table.get(operation.id);
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
      .then(({ kept, removed }) => this.options.log.info({ kept, removed }, 'took over flows that were not known'))
      .catch((error: Error) => {
        if (!this.closed) this.options.log.error({ error: error.message }, 'could not read the flows of the datapath');
      })
      .finally(() => {
        this.resyncing = undefined;
      });
  }

  private adoptFlow(flow: Flow, id: number, operations: FlowOperation[]): boolean {
    const key = flow.key.masked(flow.mask);
    const decision = this.options.decider.decide(key);
    const usable = decision.type === 'wait' || (decision.install && covers(flow.mask, decision.mask));
    if (!usable || this.table.find(key, flow.mask) !== undefined) return false;
    const record: FlowRecord = {
      id,
      key,
      mask: flow.mask,
      actions: flow.actions,
      putAt: this.options.clock(),
      tags: (decision.type === 'wait' ? decision.missing : decision.tags) as readonly Cell<unknown>[],
      learned: decision.type === 'wait' ? [] : this.learnedBy(decision),
      pinned: false,
      checkAt: this.nextCheck(0),
    };
    this.table.add(record);
    for (const learned of record.learned) this.options.learner.use(learned);
    if (decision.type === 'done') this.replace(record, decision.actions, operations);
    return true;
  }

  /** There are flows that cannot be named, so they cannot be deleted one by one: flush, then put ours again. */
  private async replaceAll(signal?: AbortSignal): Promise<void> {
    await this.options.datapath.flushFlows(signal);
    const operations: FlowOperation[] = [];
    for (const record of this.table.records()) this.put(record, operations);
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
      const record = this.table.get(id);
      if (record !== undefined) this.revisit(record, operations);
    }
    this.submit(operations);
    if (this.stale.size > 0) this.scheduleRevisit();
  }

  private revisit(record: FlowRecord, operations: FlowOperation[]): void {
    this.options.metrics.revisits++;
    const decision = this.options.decider.decide(record.key);
    if (decision.type === 'wait') {
      // It goes on as it is until the facts are in hand; they must find it.
      const tags = new Set([...record.tags, ...(decision.missing as readonly Cell<unknown>[])]);
      this.table.retag(record, [...tags], this.options.clock());
      return;
    }
    // Bits that the new decision looks at and the key does not hold: only a packet can tell.
    const usable = decision.install && covers(record.mask, decision.mask);
    // Where nothing comes in any more there is nothing to drop, and the next owner of the port number begins afresh.
    if (!usable || decision.drop === 'no-port' || (record.pinned && decision.drop !== undefined)) {
      this.removeFlow(record, operations);
      return;
    }
    this.table.retag(record, decision.tags as readonly Cell<unknown>[], this.options.clock());
    const learned = this.learnedBy(decision, record.learned);
    for (const mac of learned) this.options.learner.use(mac);
    for (const mac of record.learned) this.options.learner.release(mac);
    record.learned = learned;
    this.replace(record, decision.actions, operations);
  }

  private replace(record: FlowRecord, actions: readonly Action[], operations: FlowOperation[]): void {
    if (actionsEqual(record.actions, actions)) return;
    this.table.setActions(record, actions);
    this.options.metrics.replaced++;
    this.put(record, operations);
  }

  private async checkIdle(): Promise<void> {
    const due: FlowRecord[] = [];
    const ended: FlowOperation[] = [];
    for (const record of this.table.takeDue(Math.floor(this.options.clock() / 1000))) {
      if (record.until === undefined) due.push(record);
      else this.removeFlow(record, ended);
    }
    this.submit(ended);
    while (due.length > 0 && !this.closed) {
      const batch = due.splice(0, STATISTICS_BATCH);
      let found: readonly (Flow | undefined)[];
      try {
        found = await Promise.all(batch.map((record) => this.options.datapath.flow(record.id)));
      } catch (error) {
        for (const record of [...batch, ...due]) this.table.used(record, this.nextCheck(0));
        throw error;
      }
      const operations: FlowOperation[] = [];
      for (let i = 0; i < batch.length; i++) this.judgeIdle(batch[i], found[i], operations);
      this.submit(operations);
    }
  }

  private judgeIdle(record: FlowRecord, flow: Flow | undefined, operations: FlowOperation[]): void {
    if (record.pinned || this.table.get(record.id) !== record) return;
    // A flow that was never hit has no time of last use: it has been there for a whole period.
    const idle = (flow?.idleMs ?? Number.POSITIVE_INFINITY) / 1000;
    if (idle < this.options.limits.idleTimeout) {
      this.table.used(record, this.nextCheck(idle));
      return;
    }
    this.options.metrics.expired++;
    this.removeFlow(record, operations);
  }

  /** The second in which a flow that has been idle for `idle` seconds is due, if nothing uses it. */
  private nextCheck(idle: number): number {
    return Math.floor(this.options.clock() / 1000 + Math.max(1, this.options.limits.idleTimeout - idle));
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
