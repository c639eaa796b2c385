import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { UnsupportedError } from '../../errors.js';

/** Memory that sockets receive into; see native/receiver.h. */
export interface NativeReceiver {
  readonly buffer: ArrayBuffer;
  /** Length of each datagram of the batch; negative where it was longer than a slot and cut off. */
  readonly lengths: Int32Array;
}

export interface NativeSocketOptions {
  /** NETLINK_ROUTE, NETLINK_GENERIC … (linux/netlink.h) */
  readonly protocol: number;
  /** Descriptor of the network namespace to open the socket in; the current one if undefined. */
  readonly namespaceFd?: number;
  /** Bytes; the kernel's default if undefined. */
  readonly receiveBuffer?: number;
  /** Bytes; the kernel's default if undefined. */
  readonly sendBuffer?: number;
  /** Let the kernel refuse dump requests with filters it does not know (NETLINK_GET_STRICT_CHK). */
  readonly strict?: boolean;
  /** Most datagrams to take at a time; all slots of the receiver if undefined. */
  readonly batch?: number;
}

/** A netlink socket that talks to the kernel only. Failures are negative errno values, but `start` throws. */
export interface NativeSocket {
  readonly portId: number;
  /** Bytes taken (all of them), 0 if to be sent again later, or a negative errno. */
  send(bytes: Uint8Array, offset: number, length: number): number;
  /** As `send`, but another thread waits for the kernel, and the result comes to `done`. */
  sendInBackground(bytes: Uint8Array, done: (sent: number) => void): void;
  /** Datagrams now in the receiver, 0 when none wait, or a negative errno. */
  receive(): number;
  /** 0 or a negative errno. */
  membership(group: number, on: boolean): number;
  /** From now on `readable` is called with what `receive()` gives, whenever something waits. */
  start(readable: (count: number) => void): void;
  /** Whether a started socket keeps the process alive; at first it does not. */
  keep(on: boolean): void;
  close(): void;
}

/** What the native part throws: a system call failed. */
export interface SystemError extends Error {
  readonly errno: number;
  readonly syscall: string;
}

/** The native part: system calls that Node.js does not offer. Built by native/build.mjs. */
export interface Native {
  /** @param slots datagrams at a time, 1 to 1024 @param slotSize bytes for each, up to 1 MiB */
  Receiver: new (
    slots: number,
    slotSize: number,
  ) => NativeReceiver;
  /** Throws a {@link SystemError}. */
  NetlinkSocket: new (
    receiver: NativeReceiver,
    options: NativeSocketOptions,
  ) => NativeSocket;
  /**
   * Call `action` with the thread in the network namespace of a descriptor. Throws what it throws, or a
   * {@link SystemError} if the namespace cannot be entered. Only what happens before `action` returns is in the namespace.
   */
  withNamespace<T>(fd: number, action: () => T): T;
  /** The CLONE_NEW… number of the kind of namespace behind a descriptor, or a negative errno. */
  namespaceType(fd: number): number;
  /** `struct ethtool_value` by SIOCETHTOOL in the current namespace. Throws a {@link SystemError}. */
  ioctlEthtool(name: string, command: number, value: number): number;
}

export function isSystemError(error: unknown): error is SystemError {
  return error instanceof Error && 'syscall' in error && 'errno' in error && typeof error.errno === 'number';
}

let loaded: Native | undefined;

/** The native part, loaded on first use. @throws UnsupportedError if it was not built or does not load */
export function loadNative(): Native {
  if (loaded === undefined) {
    // Compiled, this file is build/src/datapath/netlink/native.js.
    const path = fileURLToPath(new URL('../../../native/midonet.node', import.meta.url));
    try {
      loaded = createRequire(import.meta.url)(path) as Native;
    } catch (error) {
      throw new UnsupportedError('netlink', `${path} does not load; build it with "node native/build.mjs" (${error})`);
    }
  }
  return loaded;
}
