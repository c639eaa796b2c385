import type {
  BatchDone,
  Datapath,
  DatapathFeatures,
  DatapathHandler,
  DatapathPort,
  Flow,
  FlowId,
  FlowOperation,
  MeterCounters,
  MeterSpec,
  TrackedConnection,
} from '../../../src/datapath/datapath.js';
import type { MemoryDatapath } from '../../../src/datapath/memory/datapath.js';
import type { Action } from '../../../src/flow/action.js';
import type { Events, VirtualProcess } from './events.js';

/** Milliseconds that what the datapath says is on its way at most. */
const LATENCY_MS = 1;

/** A process's driver of a datapath in memory: what the datapath has to say comes later, in order, and only as long as the process lives. */
export class VirtualDatapath implements Datapath {
  private lastArrival = 0;

  constructor(
    private readonly events: Events,
    private readonly process: VirtualProcess,
    private readonly driver: MemoryDatapath,
  ) {}

  get name(): string {
    return this.driver.name;
  }

  get features(): DatapathFeatures {
    return this.driver.features;
  }

  get maxActionsLength(): number {
    return this.driver.maxActionsLength;
  }

  actionsLength(actions: readonly Action[]): number {
    return this.driver.actionsLength(actions);
  }

  start(handler: DatapathHandler): void {
    this.driver.start({
      upcalls: (batch) => this.tell(() => handler.upcalls(batch)),
      portsChanged: () => this.tell(() => handler.portsChanged()),
      upcallsLost: (count) => this.tell(() => handler.upcallsLost(count)),
    });
  }

  /** Of a process that was killed: the datapath sends it nothing more. */
  kill(): void {
    void this.driver.close();
  }

  submit(operations: readonly FlowOperation[], done?: BatchDone): void {
    for (const operation of operations) {
      const { type } = operation;
      const what =
        type === 'put' ? operation.actions.length : type === 'delete' ? operation.id : operation.packet.length;
      this.events.trace(`${this.process.name} ${type} ${what}`);
    }
    this.driver.submit(operations, done && ((errors) => this.tell(() => done(errors))));
  }

  ports(signal?: AbortSignal): Promise<DatapathPort[]> {
    return this.later(() => this.driver.ports(signal));
  }

  addPort(name: string, type: 'netdev' | 'internal', signal?: AbortSignal): Promise<DatapathPort> {
    return this.later(() => this.driver.addPort(name, type, signal));
  }

  deletePort(name: string, signal?: AbortSignal): Promise<void> {
    return this.later(() => this.driver.deletePort(name, signal));
  }

  flow(id: FlowId, signal?: AbortSignal): Promise<Flow | undefined> {
    return this.later(() => this.driver.flow(id, signal));
  }

  flows(signal?: AbortSignal): Promise<Flow[]> {
    return this.later(() => this.driver.flows(signal));
  }

  flushFlows(signal?: AbortSignal): Promise<void> {
    return this.later(() => this.driver.flushFlows(signal));
  }

  connections(zone?: number, limit?: number, signal?: AbortSignal): Promise<TrackedConnection[]> {
    return this.later(() => this.driver.connections(zone, limit, signal));
  }

  flushZones(zones: ReadonlySet<number>, signal?: AbortSignal): Promise<number> {
    return this.later(() => this.driver.flushZones(zones, signal));
  }

  putMeter(id: number, meter: MeterSpec, signal?: AbortSignal): Promise<void> {
    return this.later(() => this.driver.putMeter(id, meter, signal));
  }

  deleteMeter(id: number, signal?: AbortSignal): Promise<void> {
    return this.later(() => this.driver.deleteMeter(id, signal));
  }

  meter(id: number, signal?: AbortSignal): Promise<MeterCounters | undefined> {
    return this.later(() => this.driver.meter(id, signal));
  }

  close(): Promise<void> {
    return this.driver.close();
  }

  private tell(news: () => void): void {
    const { events } = this;
    this.lastArrival = Math.max(this.lastArrival, events.now + this.latency());
    events.schedule(this.process, this.lastArrival - events.now, news);
  }

  /** The operation happens now, and its result is known later. */
  private async later<T>(operation: () => Promise<T>): Promise<T> {
    try {
      return await operation();
    } finally {
      await new Promise<void>((resolve) => this.events.schedule(this.process, this.latency(), resolve));
    }
  }

  private latency(): number {
    return (LATENCY_MS * this.events.dice.below(1000)) / 1000;
  }
}
