import type { Action } from '../flow/action.js';
import type { FlowKey } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import type { TcpState } from './tcp-states.js';

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

/** What a datapath is able to do besides forwarding. Found out when it is opened; never changes. */
export interface DatapathFeatures {
  /** Connections are tracked: the `ct` action is taken. Without it there are no zones, no NAT and no labels. */
  readonly conntrack: boolean;
  /** Connections are kept apart by zones; without, there is zone 0 only. */
  readonly zones: boolean;
  /** Addresses and ports of connections are translated. */
  readonly nat: boolean;
  /** Connections carry 128 bits of labels besides their mark. */
  readonly labels: boolean;
  /** How many meters there may be, and one more than their highest number; zero if the datapath has none. */
  readonly meters: number;
}

/** A meter drops what exceeds its rate: a token bucket, full at first. */
export interface MeterSpec {
  /** Packets per second, or kilobits per second. */
  readonly unit: 'packets' | 'kilobits';
  /** Units per second, 1 to 2^32 - 1. */
  readonly rate: number;
  /** How many units may pass at once, 1 to 2^32 - 1. A packet of more kilobits than this never passes. */
  readonly burst: number;
}

/** What a meter has counted since it was put. Bytes are those of whole frames. */
export interface MeterCounters {
  readonly packets: number;
  readonly bytes: number;
  /** Those of the above that were dropped. */
  readonly droppedPackets: number;
  readonly droppedBytes: number;
}

/** One direction of a connection as its packets look. */
export interface ConnectionTuple {
  /** IPv4: one word; IPv6: four. */
  readonly src: readonly number[];
  readonly dst: readonly number[];
  /** Ports; for ICMP the identifier in the first, and type times 256 plus code in the second. */
  readonly srcPort: number;
  readonly dstPort: number;
}

/** A tracked connection. */
export interface TrackedConnection {
  readonly zone: number;
  readonly family: 4 | 6;
  readonly protocol: number;
  /** From whoever began it, before any translation. */
  readonly original: ConnectionTuple;
  /** What its answers look like, before they are translated back. */
  readonly reply: ConnectionTuple;
  /** An answer has been seen. */
  readonly answered: boolean;
  /** Of a TCP connection. */
  readonly tcpState: TcpState | undefined;
  readonly mark: number;
  /** Milliseconds until it is forgotten if no packet comes. */
  readonly timeoutMs: number;
}

/** What tells a connection from all others: how its packets look. For whoever looks for one, those of either direction. */
export type ConnectionName = Pick<TrackedConnection, 'zone' | 'family' | 'protocol' | 'original'>;

export type ConnectionOperation =
  /**
   * Track a connection whose packets came in elsewhere. From `reply` follows how its addresses are translated. Of TCP no
   * windows are checked, and it counts as established if it was answered. Refused (`exists`) if a connection of the zone has
   * one of its tuples, in whatever direction, and (`unsupported`) for SCTP.
   */
  | { readonly type: 'create'; readonly connection: Omit<TrackedConnection, 'tcpState'> }
  /**
   * What is given of a connection becomes so. `answered`: as if an answer had come here. Of `mark` the bits of `markMask`.
   * Refused (`not-found`) if there is none.
   */
  | {
      readonly type: 'change';
      readonly connection: ConnectionName;
      readonly answered?: true;
      readonly mark?: number;
      readonly markMask?: number;
      readonly timeoutMs?: number;
    }
  /** Succeeds when there is none. */
  | { readonly type: 'forget'; readonly connection: ConnectionName };

/**
 * `begun`: is in the table from here on. `changed`: at the first answer, and perhaps at other times. `ended`: is not in the
 * table any more. Of one that has ended, only its tuples, zone and mark are sure to be right.
 */
export interface ConnectionEvent {
  readonly type: 'begun' | 'changed' | 'ended';
  readonly connection: TrackedConnection;
}

/** Who watches connections. Functions are called synchronously and must not throw. */
export interface ConnectionListener {
  /** Whether connections of this zone are to be told of. */
  concerns(zone: number): boolean;
  /** What happened to connections, by whatever hand, in order. */
  events(batch: readonly ConnectionEvent[]): void;
  /** Some have not been told, as they were not read in time. */
  lost(): void;
}

/** How many connections {@link Datapath.connections} returns if nothing else is said. */
export const CONNECTIONS_LIMIT = 1000;

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
  readonly features: DatapathFeatures;
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

  /**
   * Connections that are tracked in a zone, or in all if undefined, in no order, `limit` of them at most. They belong to the
   * network namespace: those that others track in it are among them.
   */
  connections(zone?: number, limit?: number, signal?: AbortSignal): Promise<TrackedConnection[]>;
  /** The connection with this tuple, in whatever direction. */
  connection(name: ConnectionName, signal?: AbortSignal): Promise<TrackedConnection | undefined>;
  /** Do all of these, in order: `errors[i]` is undefined where operation i succeeded. */
  changeConnections(
    operations: readonly ConnectionOperation[],
    signal?: AbortSignal,
  ): Promise<readonly (Error | undefined)[]>;
  /**
   * Tell the listener what happens to connections, until the function that is returned is called. Costs something for every
   * connection of the network namespace. Of those that are there already some kernels (Linux 5.19 and later) tell nothing.
   */
  watchConnections(listener: ConnectionListener): () => void;
  /**
   * Forget the connections of these zones. Those that begin meanwhile may stay. To do it for many at once costs little more
   * than for one.
   * @returns how many there were
   */
  flushZones(zones: ReadonlySet<number>, signal?: AbortSignal): Promise<number>;

  /**
   * Make the meter `id`, or replace it: full of tokens, with counters at zero. Ids should be small and close together, for the
   * kernel keeps meters in an array. A `meter` action lets all pass where there is no such meter.
   * @throws UnsupportedError if the datapath has no meters
   * @throws InvalidInputError if a number is out of range
   */
  putMeter(id: number, meter: MeterSpec, signal?: AbortSignal): Promise<void>;
  /** Succeeds when there is no such meter. */
  deleteMeter(id: number, signal?: AbortSignal): Promise<void>;
  /** Counters of one meter, whoever made it, or undefined if there is none. */
  meter(id: number, signal?: AbortSignal): Promise<MeterCounters | undefined>;

  close(): Promise<void>;
}
