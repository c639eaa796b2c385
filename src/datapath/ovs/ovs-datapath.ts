import { ClosedError } from '../../errors.js';
import type { Action } from '../../flow/action.js';
import type {
  BatchDone,
  ConnectionListener,
  ConnectionName,
  ConnectionOperation,
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
} from '../datapath.js';
import { DatapathError } from '../errors.js';
import { requireInterfaceName } from '../link/name.js';
import { Namespace } from '../link/namespace.js';
import { requireMeter } from '../meter.js';
import { getFamilies } from '../netlink/genl.js';
import { MessageWriter } from '../netlink/message.js';
import { NETLINK_GENERIC, NetlinkSocket } from '../netlink/socket.js';
import { actionsLength } from './action-codec.js';
import { probeFeatures } from './features.js';
import { KernelConnections } from './kernel-connections.js';
import {
  beginMessage,
  chooseDispatch,
  getDatapath,
  KernelDatapath,
  makeDatapath,
  type OvsStatistics,
  resolveFamilies,
  type UpcallDispatch,
} from './kernel-datapath.js';
import { KernelFlows } from './kernel-flows.js';
import { KernelMeters } from './kernel-meters.js';
import { Errno, hasErrno, toDatapathError } from './refusal.js';
import { Command, DATAPATH_FAMILY, DATAPATH_VERSION, DatapathAttr, MAX_ACTIONS_LENGTH } from './uapi.js';
import { Upcalls } from './upcalls.js';
import { toPort, Vports } from './vports.js';

export interface OvsDatapathOptions {
  /** Network namespace to work in; the process's own if undefined. Stays the caller's, to close whenever. */
  readonly namespace?: Namespace;
  /** Make the datapath if there is none. True if undefined. */
  readonly create?: boolean;
  /** The better one that the kernel has, if undefined. */
  readonly dispatch?: UpcallDispatch;
  /** Sockets for upcalls; as many as CPUs but at most four, if undefined. */
  readonly upcallSockets?: number;
  /** Bytes of unread upcalls that the kernel keeps for each socket; 4 MiB if undefined. */
  readonly upcallBuffer?: number;
  readonly signal?: AbortSignal;
}

/**
 * A datapath of the kernel's openvswitch module, through generic netlink. It lives in the network namespace it was made
 * in and stays there when the process ends: open it again to go on with its ports and flows. Upcalls go to whoever
 * called `start` last.
 */
export class OvsDatapath implements Datapath {
  readonly maxActionsLength = MAX_ACTIONS_LENGTH;
  readonly name: string;
  /** Of the datapath's own interface, port 0: identifies it to the kernel. */
  readonly ifindex: number;
  readonly #kernel: KernelDatapath;
  readonly #namespace: Namespace | undefined;
  readonly #upcalls: Upcalls;
  readonly #ports: Vports;
  readonly #flows: KernelFlows;
  readonly #meters: KernelMeters;
  readonly #connections: KernelConnections;
  #closed = false;

  private constructor(
    kernel: KernelDatapath,
    readonly features: DatapathFeatures,
    readonly dispatch: UpcallDispatch,
    upcalls: Upcalls,
    namespace: Namespace | undefined,
  ) {
    this.name = kernel.name;
    this.ifindex = kernel.ifindex;
    this.#kernel = kernel;
    this.#namespace = namespace;
    this.#upcalls = upcalls;
    this.#ports = new Vports(kernel);
    this.#flows = new KernelFlows(kernel, (port) => upcalls.pidOfPort(port));
    this.#meters = new KernelMeters(kernel);
    this.#connections = new KernelConnections(features.conntrack, namespace?.fd);
  }

  /**
   * Open the datapath `name`, with the flows and ports it has, or make it.
   * @throws UnsupportedError if the kernel has no openvswitch, or not the dispatch asked for
   * @throws DatapathError not-found if it does not exist and is not to be made; exists if something else has the name
   */
  static async open(name: string, options: OvsDatapathOptions = {}): Promise<OvsDatapath> {
    const { create = true, upcallSockets, upcallBuffer, signal } = options;
    requireInterfaceName(name, 'datapath name');
    const namespace = reopen(options.namespace);
    let socket: NetlinkSocket | undefined;
    try {
      socket = new NetlinkSocket({ protocol: NETLINK_GENERIC, namespaceFd: namespace?.fd });
      const families = await resolveFamilies(socket, signal);
      const dispatch = chooseDispatch(families.datapath, options.dispatch);
      let info = await getDatapath(socket, families.datapath, name, signal);
      if (info === undefined && !create) {
        throw new DatapathError('not-found', `there is no datapath ${name}`);
      }
      info ??= await makeDatapath(socket, families.datapath, name, dispatch, signal);
      const { ifindex, statistics } = info;
      const features = await probeFeatures(socket, families, ifindex, signal);
      const kernel = new KernelDatapath(name, ifindex, socket, families);
      const upcalls = new Upcalls(kernel, {
        dispatch,
        lost: statistics.lost,
        sockets: upcallSockets,
        buffer: upcallBuffer,
        namespaceFd: namespace?.fd,
      });
      return new OvsDatapath(kernel, features, dispatch, upcalls, namespace);
    } catch (error) {
      socket?.close();
      namespace?.close();
      throw error;
    }
  }

  /** Remove the datapath `name` with its flows and internal interfaces; others are detached. Succeeds if there is none. */
  static async destroy(name: string, options: Pick<OvsDatapathOptions, 'namespace' | 'signal'> = {}): Promise<void> {
    requireInterfaceName(name, 'datapath name');
    const namespace = reopen(options.namespace);
    let socket: NetlinkSocket | undefined;
    try {
      socket = new NetlinkSocket({ protocol: NETLINK_GENERIC, namespaceFd: namespace?.fd });
      const [family] = await getFamilies(socket, [DATAPATH_FAMILY], options.signal);
      const writer = new MessageWriter(256);
      beginMessage(writer, family, DATAPATH_VERSION, Command.DEL, 0, 0);
      writer.string(DatapathAttr.NAME, name);
      const [error] = await socket.attempt(writer, `delete datapath ${name}`, { signal: options.signal });
      if (error !== undefined && !hasErrno(error, Errno.ENODEV)) {
        throw toDatapathError(error);
      }
    } finally {
      socket?.close();
      namespace?.close();
    }
  }

  actionsLength(actions: readonly Action[]): number {
    return actionsLength(actions);
  }

  /** @throws NetlinkError if sockets cannot be opened; DatapathError if the datapath is gone */
  start(handler: DatapathHandler): void {
    this.#throwIfClosed();
    this.#upcalls.start(handler);
  }

  async ports(signal?: AbortSignal): Promise<DatapathPort[]> {
    this.#check();
    return (await this.#ports.list(signal)).map(toPort);
  }

  async addPort(name: string, type: 'netdev' | 'internal', signal?: AbortSignal): Promise<DatapathPort> {
    this.#check();
    requireInterfaceName(name, 'interface name');
    const port = await this.#ports.add(name, type, this.#upcalls.pidOfNewPort(), signal);
    await this.#upcalls.pointPort(port, signal);
    return toPort(port);
  }

  async deletePort(name: string, signal?: AbortSignal): Promise<void> {
    this.#check();
    requireInterfaceName(name, 'interface name');
    await this.#ports.delete(name, signal);
  }

  submit(operations: readonly FlowOperation[], done?: BatchDone): void {
    this.#throwIfClosed();
    this.#flows.submit(operations, done);
  }

  async flow(id: FlowId, signal?: AbortSignal): Promise<Flow | undefined> {
    this.#check();
    return this.#flows.flow(id, signal);
  }

  async flows(signal?: AbortSignal): Promise<Flow[]> {
    this.#check();
    return this.#flows.flows(signal);
  }

  async flushFlows(signal?: AbortSignal): Promise<void> {
    this.#check();
    await this.#flows.flush(signal);
  }

  async connections(zone?: number, limit?: number, signal?: AbortSignal): Promise<TrackedConnection[]> {
    this.#check();
    return this.#connections.list(zone, limit, signal);
  }

  async connection(name: ConnectionName, signal?: AbortSignal): Promise<TrackedConnection | undefined> {
    this.#check();
    return this.#connections.find(name, signal);
  }

  async changeConnections(
    operations: readonly ConnectionOperation[],
    signal?: AbortSignal,
  ): Promise<readonly (Error | undefined)[]> {
    this.#check();
    return this.#connections.change(operations, signal);
  }

  watchConnections(listener: ConnectionListener): () => void {
    this.#check();
    return this.#connections.watch(listener);
  }

  async flushZones(zones: ReadonlySet<number>, signal?: AbortSignal): Promise<number> {
    this.#check();
    return this.#connections.flushZones(zones, signal);
  }

  async putMeter(id: number, meter: MeterSpec, signal?: AbortSignal): Promise<void> {
    this.#check();
    requireMeter(id, meter, this.features);
    await this.#meters.put(id, meter, signal);
  }

  async deleteMeter(id: number, signal?: AbortSignal): Promise<void> {
    this.#check();
    await this.#meters.delete(id, signal);
  }

  async meter(id: number, signal?: AbortSignal): Promise<MeterCounters | undefined> {
    this.#check();
    return this.#meters.counters(id, signal);
  }

  async statistics(signal?: AbortSignal): Promise<OvsStatistics> {
    this.#check();
    return this.#kernel.statistics(signal);
  }

  async close(): Promise<void> {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#upcalls.close();
    this.#connections.close();
    this.#kernel.socket.close();
    this.#namespace?.close();
  }

  #throwIfClosed(): void {
    if (this.#closed) {
      throw new ClosedError(`datapath ${this.name}`);
    }
  }

  /** @throws what the kernel refused of {@link start}, when it did so late */
  #check(): void {
    this.#throwIfClosed();
    if (this.#upcalls.error !== undefined) {
      throw this.#upcalls.error;
    }
  }
}

/** A descriptor of our own: the caller's may be closed before `start` opens sockets. */
function reopen(namespace: Namespace | undefined): Namespace | undefined {
  return namespace && Namespace.open(`/proc/self/fd/${namespace.fd}`);
}
