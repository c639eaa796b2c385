import { ClosedError } from '../../errors.js';
import type { Action } from '../../flow/action.js';
import {
  type BatchDone,
  CONNECTIONS_LIMIT,
  type ConnectionEvent,
  type ConnectionListener,
  type ConnectionName,
  type ConnectionOperation,
  type Datapath,
  type DatapathFeatures,
  type DatapathHandler,
  type DatapathPort,
  type Flow,
  type FlowId,
  type FlowOperation,
  type MeterCounters,
  type MeterSpec,
  type TrackedConnection,
} from '../datapath.js';
import { actionsLength } from './actions-length.js';
import type { MemorySwitch } from './switch.js';
import { MAX_ACTIONS_LENGTH } from './validate.js';

/** How often connections are looked at for those that have expired, while somebody watches them. */
const SWEEP_MS = 50;

/** A driver for a datapath in this process. Made by {@link MemoryNode.datapath}. */
export class MemoryDatapath implements Datapath {
  readonly maxActionsLength = MAX_ACTIONS_LENGTH;
  private handler: DatapathHandler | undefined;
  private closed = false;
  private readonly watches = new Set<() => void>();

  constructor(private readonly target: MemorySwitch) {}

  get name(): string {
    return this.target.name;
  }

  get features(): DatapathFeatures {
    return this.target.node.world.features;
  }

  actionsLength(actions: readonly Action[]): number {
    return actionsLength(actions);
  }

  start(handler: DatapathHandler): void {
    this.checkOpen();
    if (this.handler !== undefined) throw new Error(`datapath ${this.name} was started before`);
    this.handler = handler;
    this.target.addHandler(handler);
  }

  async ports(signal?: AbortSignal): Promise<DatapathPort[]> {
    this.check(signal);
    return this.target.ports();
  }

  async addPort(name: string, type: 'netdev' | 'internal', signal?: AbortSignal): Promise<DatapathPort> {
    this.check(signal);
    return this.target.addPort(name, type);
  }

  async deletePort(name: string, signal?: AbortSignal): Promise<void> {
    this.check(signal);
    this.target.deletePort(name);
  }

  submit(operations: readonly FlowOperation[], done?: BatchDone): void {
    const errors = operations.map((operation) => this.attempt(operation));
    if (done !== undefined) this.target.node.world.enqueue(() => done(errors));
  }

  async flow(id: FlowId, signal?: AbortSignal): Promise<Flow | undefined> {
    this.check(signal);
    return this.target.flow(id);
  }

  async flows(signal?: AbortSignal): Promise<Flow[]> {
    this.check(signal);
    return this.target.flows();
  }

  async flushFlows(signal?: AbortSignal): Promise<void> {
    this.check(signal);
    this.target.flush();
  }

  async connections(zone?: number, limit = CONNECTIONS_LIMIT, signal?: AbortSignal): Promise<TrackedConnection[]> {
    this.check(signal);
    return this.target.node.conntrack.list(zone, limit);
  }

  async connection(name: ConnectionName, signal?: AbortSignal): Promise<TrackedConnection | undefined> {
    this.check(signal);
    return this.target.node.conntrack.named(name);
  }

  async changeConnections(
    operations: readonly ConnectionOperation[],
    signal?: AbortSignal,
  ): Promise<readonly (Error | undefined)[]> {
    this.check(signal);
    const { conntrack } = this.target.node;
    return operations.map((operation) => errorOf(() => conntrack.operate(operation)));
  }

  watchConnections(listener: ConnectionListener): () => void {
    this.checkOpen();
    const { conntrack, world } = this.target.node;
    let waiting: ConnectionEvent[] = [];
    const tell = () => {
      const batch = waiting;
      waiting = [];
      if (batch.length > 0 && this.watches.has(end)) listener.events(batch);
    };
    const unwatch = conntrack.watch((event) => {
      if (!listener.concerns(event.connection.zone)) return;
      waiting.push(event);
      if (waiting.length === 1) world.enqueue(tell);
    });
    const sweeper = setInterval(() => conntrack.sweep(), SWEEP_MS).unref();
    const end = () => {
      clearInterval(sweeper);
      unwatch();
      this.watches.delete(end);
    };
    this.watches.add(end);
    return end;
  }

  async flushZones(zones: ReadonlySet<number>, signal?: AbortSignal): Promise<number> {
    this.check(signal);
    return this.target.node.conntrack.flushZones(zones);
  }

  async putMeter(id: number, meter: MeterSpec, signal?: AbortSignal): Promise<void> {
    this.check(signal);
    this.target.putMeter(id, meter);
  }

  async deleteMeter(id: number, signal?: AbortSignal): Promise<void> {
    this.check(signal);
    this.target.deleteMeter(id);
  }

  async meter(id: number, signal?: AbortSignal): Promise<MeterCounters | undefined> {
    this.check(signal);
    return this.target.meter(id);
  }

  async close(): Promise<void> {
    this.closed = true;
    for (const end of this.watches) end();
    if (this.handler !== undefined) this.target.removeHandler(this.handler);
  }

  private attempt(operation: FlowOperation): Error | undefined {
    return errorOf(() => {
      this.checkOpen();
      this.target.operate(operation);
    });
  }

  private check(signal: AbortSignal | undefined): void {
    signal?.throwIfAborted();
    this.checkOpen();
  }

  private checkOpen(): void {
    if (this.closed) throw new ClosedError(`datapath ${this.name}`);
  }
}

function errorOf(act: () => void): Error | undefined {
  try {
    act();
    return undefined;
  } catch (error) {
    if (error instanceof Error) return error;
    throw error;
  }
}
