import { UnsupportedError } from '../../errors.js';
import {
  CONNECTIONS_LIMIT,
  type ConnectionListener,
  type ConnectionName,
  type ConnectionOperation,
  type TrackedConnection,
} from '../datapath.js';
import { NETLINK_NETFILTER, NetlinkSocket } from '../netlink/socket.js';
import {
  changeConnections,
  deleteConnections,
  findConnection,
  listConnections,
  watchConnections,
} from './connections.js';
import { refusalOf } from './refusal.js';

/** The connections that the kernel tracks in a network namespace, and the sockets for them. */
export class KernelConnections {
  readonly #isTracking: boolean;
  readonly #namespaceFd: number | undefined;
  /** Made when first needed, as it may load a module. */
  #requests: NetlinkSocket | undefined;
  /** Of those who watch. */
  readonly #watches = new Set<NetlinkSocket>();

  /** @param isTracking whether the kernel tracks connections */
  constructor(isTracking: boolean, namespaceFd: number | undefined) {
    this.#isTracking = isTracking;
    this.#namespaceFd = namespaceFd;
  }

  list(zone?: number, limit = CONNECTIONS_LIMIT, signal?: AbortSignal): Promise<TrackedConnection[]> {
    return refusalOf(listConnections(this.#socket(), zone, limit, signal));
  }

  async find(name: ConnectionName, signal?: AbortSignal): Promise<TrackedConnection | undefined> {
    return findConnection(this.#socket(), name, signal);
  }

  async change(
    operations: readonly ConnectionOperation[],
    signal?: AbortSignal,
  ): Promise<readonly (Error | undefined)[]> {
    return changeConnections(this.#socket(), operations, signal);
  }

  watch(listener: ConnectionListener): () => void {
    this.#requireTracking();
    const socket = watchConnections(listener, this.#namespaceFd);
    this.#watches.add(socket);
    return () => {
      this.#watches.delete(socket);
      socket.close();
    };
  }

  flushZones(zones: ReadonlySet<number>, signal?: AbortSignal): Promise<number> {
    return refusalOf(deleteConnections(this.#socket(), zones, signal));
  }

  close(): void {
    this.#requests?.close();
    for (const socket of this.#watches) {
      socket.close();
    }
  }

  #socket(): NetlinkSocket {
    this.#requireTracking();
    this.#requests ??= new NetlinkSocket({
      protocol: NETLINK_NETFILTER,
      namespaceFd: this.#namespaceFd,
      background: true,
    });
    return this.#requests;
  }

  #requireTracking(): void {
    if (!this.#isTracking) {
      throw new UnsupportedError('connection tracking', 'not in this kernel');
    }
  }
}
