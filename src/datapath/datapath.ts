import type { Action } from '../flow/action.js';
import type { FlowKey } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';

/** A port of a datapath. Numbers are the datapath's own and may change; identify ports by name and ifindex. */
export interface DatapathPort {
  readonly number: number;
  readonly name: string;
  /** `internal`: the datapath makes the interface (port 0 is one). `netdev`: an existing interface was attached. */
  readonly type: 'netdev' | 'internal';
  readonly ifindex: number;
}

/**
 * What a datapath knows of a packet besides its key and bytes, and wants back when actions are executed on it. Without it
 * a packet may hash to another bucket of `dpHash` than the rest of its connection, and one that was put together from
 * fragments may be too long to send.
 */
export interface PacketOrigin {
  /** 64 bits in two halves: the hash and where it comes from. */
  readonly hashHigh: number;
  readonly hashLow: number;
  /** Length of the longest fragment that the packet was made of; zero if it was whole. */
  readonly maxFragment: number;
}

/** Where a packet came in that no flow matched, or that a `userspace` action sent. */
export interface Upcall {
  readonly reason: 'miss' | 'action';
  readonly key: FlowKey;
  /** The whole packet from its Ethernet header. Valid only until the handler returns: copy what is kept. */
  readonly packet: Uint8Array;
  readonly userdata: Uint8Array | undefined;
  /** For the execute of this packet, if the datapath has it. May be kept. */
  readonly origin?: PacketOrigin;
  /**
   * False when the datapath told apart more than a FlowKey holds (a second VLAN tag, say). No flow may be installed
   * from such a key: execute actions on the packet only.
   */
  readonly complete: boolean;
}

/** Identifies a flow in its datapath: a whole number, 1 to 2^48 - 1, chosen by whoever puts the flow. */
export type FlowId = number;

/** A flow as the datapath holds it. */
export interface Flow {
  /** Undefined for a flow that somebody else made. */
  readonly id: FlowId | undefined;
  readonly key: FlowKey;
  readonly mask: FlowMask;
  readonly actions: readonly Action[];
  /** False when it has key attributes or actions that cannot be expressed here. */
  readonly complete: boolean;
  readonly packets: number;
  readonly bytes: number;
  /** Milliseconds since a packet last hit it; undefined if none ever did. */
  readonly idleMs: number | undefined;
}

export type FlowOperation =
  /** Make the flow, or replace the actions of the one with this id in place; key and mask of an id never change. */
  | {
      readonly type: 'put';
      readonly id: FlowId;
      readonly key: FlowKey;
      readonly mask: FlowMask;
      readonly actions: readonly Action[];
    }
  /** Succeeds when there is no such flow. */
  | { readonly type: 'delete'; readonly id: FlowId }
  /** Run actions on a packet. Of `key` only metadata is used; headers are parsed from the bytes. */
  | {
      readonly type: 'execute';
      readonly key: FlowKey;
      readonly packet: Uint8Array;
      readonly actions: readonly Action[];
      /** Of the upcall that brought the packet. */
      readonly origin?: PacketOrigin;
    };

/** Called once all operations of a batch are done; `errors[i]` is undefined where operation i succeeded. */
export type BatchDone = (errors: readonly (Error | undefined)[]) => void;

/** What the owner of a datapath is told. Handlers run synchronously and must not throw. */
export interface DatapathHandler {
  /** At most 64 at a time. */
  upcalls(batch: readonly Upcall[]): void;
  /** Ports may have come or gone by another hand than this driver object's: read them again. */
  portsChanged(): void;
  /** Upcalls were lost because they were not read in time. */
  upcallsLost(count: number): void;
}

/**
 * What forwards packets. Two drivers implement it and pass one compliance suite (test/compliance/datapath.ts):
 * `ovs` in a real kernel and `memory`. The datapath outlives its driver object: closing stops upcalls, nothing else.
 */
export interface Datapath {
  readonly name: string;
  /** The longest encoded action list the datapath accepts, in bytes, as {@link Datapath.actionsLength} counts. */
  readonly maxActionsLength: number;
  /** Encoded length of an action list in bytes. */
  actionsLength(actions: readonly Action[]): number;

  /** Start delivering upcalls and events to `handler`. Called once. */
  start(handler: DatapathHandler): void;

  ports(signal?: AbortSignal): Promise<DatapathPort[]>;
  /**
   * Attach the existing interface `name` (netdev) or make one (internal). Returns the port that is there already if
   * the interface is attached to this datapath.
   * @throws DatapathError if the interface does not exist or is attached elsewhere
   */
  addPort(name: string, type: 'netdev' | 'internal', signal?: AbortSignal): Promise<DatapathPort>;
  /** Succeeds when there is no such port. Detaches a netdev, destroys an internal interface. */
  deletePort(name: string, signal?: AbortSignal): Promise<void>;

  /** The packet path: the whole batch goes to the datapath now, in order; results come to `done`. */
  submit(operations: readonly FlowOperation[], done?: BatchDone): void;
  /** One flow with its counters, or undefined. */
  flow(id: FlowId, signal?: AbortSignal): Promise<Flow | undefined>;
  flows(signal?: AbortSignal): Promise<Flow[]>;
  /** Remove all flows, whoever made them. */
  flushFlows(signal?: AbortSignal): Promise<void>;

  close(): Promise<void>;
}
