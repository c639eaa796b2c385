import type { NatSpec } from '../../flow/action.js';
import { CtState } from '../../flow/key.js';
import { readU16, readU32, readWords } from '../../packet/big-endian.js';
import { checksum, pseudoHeaderIpv4, pseudoHeaderIpv6, transportChecksumValid } from '../../packet/checksum.js';
import { ICMP_HEADER, isIcmpError } from '../../packet/icmp.js';
import { isIcmpv6Error } from '../../packet/icmpv6.js';
import { IpProtocol } from '../../packet/ip-protocol.js';
import { newTcpHeader, parseTcpHeader } from '../../packet/tcp.js';
import { translationsOf } from '../connection.js';
import type { ConnectionEvent, ConnectionName, ConnectionOperation, TrackedConnection } from '../datapath.js';
import { DatapathError } from '../errors.js';
import type { TcpState } from '../tcp-states.js';
import type { Connection, Tracked } from './connection.js';
import { bindNull, bindRange, translate } from './nat.js';
import { type Layout, locateIp, newLayout, sctpChecksum } from './rewrite.js';
import { beginSctp, continueSctp, SCTP_TIMEOUT, type SctpTracking } from './sctp-state.js';
import { nextTcpState, TCP_TIMEOUT } from './tcp-state.js';
import {
  describeTuple,
  hashTuple,
  invert,
  isAnswer,
  protocolOf,
  T,
  type Tuple,
  tupleFrom,
  tupleOf,
  tuplesEqual,
  versionOf,
} from './tuple.js';

const SCTP_HEADER = 12;
const UDP_TIMEOUT = 30_000;
const UDP_STREAM_TIMEOUT = 120_000;
const ICMP_TIMEOUT = 30_000;
const GENERIC_TIMEOUT = 600_000;
/** Expired entries are swept out each time this many were added; lookups never see them. */
const SWEEP_EVERY = 1024;

interface Slot {
  readonly tuple: Tuple;
  readonly connection: Connection;
  readonly reply: boolean;
  next: Slot | undefined;
}

/**
 * Connection tracking of one node, modelled on netfilter's as the kernel's datapath uses it (nf_conntrack_core.c,
 * net/openvswitch/conntrack.c): zones, confirmation by commit, states of TCP without its windows and of SCTP, ICMP errors related
 * to the connection they are about.
 */
export class Conntrack {
  private readonly slots = new Map<number, Slot>();
  private added = 0;
  private readonly tcp = newTcpHeader();
  private readonly inner: Layout = newLayout();
  /** Are told of what happens to connections in the table. */
  private readonly watchers = new Set<(event: ConnectionEvent) => void>();

  constructor(private readonly now: () => number) {}

  /** All live confirmed connections. */
  connections(): Connection[] {
    const out: Connection[] = [];
    const now = this.now();
    for (const head of this.slots.values()) {
      for (let slot: Slot | undefined = head; slot !== undefined; slot = slot.next) {
        if (!slot.reply && slot.connection.expires > now) out.push(slot.connection);
      }
    }
    return out;
  }

  /** See {@link Datapath.connections}. */
  list(zone: number | undefined, limit: number): TrackedConnection[] {
    const found = this.connections().filter((connection) => zone === undefined || connection.zone === zone);
    return found.slice(0, limit).map((connection) => this.describe(connection));
  }

  /** See {@link Datapath.connection}. */
  named(name: ConnectionName): TrackedConnection | undefined {
    const slot = this.find(tupleNamed(name));
    return slot === undefined ? undefined : this.describe(slot.connection);
  }

  /** See {@link ConnectionOperation}. @throws DatapathError */
  operate(operation: ConnectionOperation): void {
    if (operation.type === 'create') return this.create(operation.connection);
    const connection = this.find(tupleNamed(operation.connection))?.connection;
    if (operation.type === 'forget') {
      if (connection !== undefined) this.remove(connection);
      return;
    }
    if (connection === undefined) throw new DatapathError('not-found', 'change a connection: there is none');
    const { answered, mark = 0, markMask = 0, timeoutMs } = operation;
    if (answered) {
      connection.seenReply = true;
      connection.tcp = 'ESTABLISHED';
    }
    connection.mark = ((connection.mark & ~markMask) | (mark & markMask)) >>> 0;
    if (timeoutMs !== undefined) connection.expires = this.now() + timeoutMs;
    this.tell('changed', connection);
  }

  /** Returns how to end it. Expired connections count as ended when they are found to be. */
  watch(watcher: (event: ConnectionEvent) => void): () => void {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  clear(): void {
    this.slots.clear();
  }

  /** See {@link Datapath.flushZones}. */
  flushZones(zones: ReadonlySet<number>): number {
    const found = this.connections().filter((connection) => zones.has(connection.zone));
    for (const connection of found) this.remove(connection);
    return found.length;
  }

  /** The connection that a packet belongs to, perhaps a new unconfirmed one; undefined when the packet is invalid. */
  track(bytes: Uint8Array, layout: Layout, zone: number): Tracked | undefined {
    if (layout.transport < 0 || layout.version === 0) return undefined;
    const { protocol, transport, version } = layout;
    const v4Icmp = version === 4 && protocol === IpProtocol.ICMP;
    const v6Icmp = version === 6 && protocol === IpProtocol.ICMPV6;
    if (v4Icmp || v6Icmp) {
      if (transport + ICMP_HEADER > layout.end || !this.checksumValid(bytes, layout)) return undefined;
      if (v4Icmp ? isIcmpError(bytes[transport]) : isIcmpv6Error(bytes[transport])) {
        return this.related(bytes, layout, zone);
      }
    }
    let flags = 0;
    if (protocol === IpProtocol.TCP) {
      if (!parseTcpHeader(bytes, transport, layout.end, this.tcp) || !this.checksumValid(bytes, layout))
        return undefined;
      flags = this.tcp.flags;
    } else if (protocol === IpProtocol.UDP) {
      if (transport + 8 > layout.end || !this.checksumValid(bytes, layout)) return undefined;
      const length = readU16(bytes, transport + 4);
      if (length < 8 || transport + length > layout.end) return undefined;
    } else if (protocol === IpProtocol.SCTP) {
      if (transport + SCTP_HEADER > layout.end || !sctpChecksumValid(bytes, transport, layout.end)) return undefined;
    }
    const tuple = tupleOf(bytes, layout, zone);
    if (tuple === undefined) return undefined;
    let slot = this.find(tuple);
    if (slot !== undefined && protocol === IpProtocol.TCP && reopens(slot, flags)) {
      this.remove(slot.connection);
      slot = undefined;
    }
    if (slot === undefined) return this.begin(tuple, flags, bytes, layout);
    return this.continue(slot, flags, bytes, layout);
  }

  /** The connection of a packet already tracked in this zone whose memory of it was lost in an upcall. */
  recall(bytes: Uint8Array, layout: Layout, zone: number, translated: boolean): Tracked | undefined {
    const tuple = tupleOf(bytes, layout, zone);
    const sought = tuple !== undefined && translated ? invert(tuple) : tuple;
    const slot = sought === undefined ? undefined : this.find(sought);
    if (slot === undefined) return undefined;
    const reply = translated ? !slot.reply : slot.reply;
    const established = reply || slot.connection.seenReply;
    return { connection: slot.connection, kind: established ? 'established' : 'new', reply };
  }

  /** Put a new connection in the table. False if another one has either of its tuples: the packet is then dropped. */
  confirm(connection: Connection): boolean {
    if (connection.confirmed) return true;
    if (this.find(connection.original) !== undefined || this.find(connection.reply) !== undefined) return false;
    connection.confirmed = true;
    this.insert(connection);
    return true;
  }

  remove(connection: Connection): void {
    this.removeTuple(connection.original, connection);
    this.removeTuple(connection.reply, connection);
    this.tell('ended', connection);
  }

  private create(described: Omit<TrackedConnection, 'tcpState'>): void {
    const { zone, family, protocol, answered, mark, timeoutMs } = described;
    if (protocol === IpProtocol.SCTP) throw new DatapathError('unsupported', 'create a connection of SCTP');
    const original = tupleFrom(zone, family, protocol, described.original);
    const reply = tupleFrom(zone, family, protocol, described.reply);
    if (this.find(original) !== undefined || this.find(reply) !== undefined) {
      throw new DatapathError('exists', 'create a connection: another has one of its tuples');
    }
    const { source, destination } = translationsOf(described);
    this.insert({
      zone,
      original,
      reply,
      confirmed: true,
      seenReply: answered,
      sourceNat: source !== undefined,
      destinationNat: destination !== undefined,
      sourceNatDone: true,
      destinationNatDone: true,
      tcp: answered ? 'ESTABLISHED' : 'SYN_SENT',
      sctp: undefined,
      mark,
      expires: this.now() + timeoutMs,
    });
  }

  private insert(connection: Connection): void {
    this.add(connection.original, connection, false);
    this.add(connection.reply, connection, true);
    this.tell('begun', connection);
    if (++this.added % SWEEP_EVERY === 0) this.sweep();
  }

  private tell(type: ConnectionEvent['type'], connection: Connection): void {
    if (this.watchers.size === 0 || !connection.confirmed) return;
    const event = { type, connection: this.describe(connection) };
    for (const watcher of this.watchers) watcher(event);
  }

  private describe(connection: Connection): TrackedConnection {
    return {
      zone: connection.zone,
      family: versionOf(connection.original) === 4 ? 4 : 6,
      protocol: protocolOf(connection.original),
      original: describeTuple(connection.original),
      reply: describeTuple(connection.reply),
      answered: connection.seenReply,
      tcpState: protocolOf(connection.original) === IpProtocol.TCP ? connection.tcp : undefined,
      mark: connection.mark,
      timeoutMs: connection.expires - this.now(),
    };
  }

  /** Whether a connection has this tuple, in either direction. */
  used(tuple: Tuple): boolean {
    return this.find(tuple) !== undefined;
  }

  /**
   * Translate a tracked packet (ovs_ct_nat in net/openvswitch/conntrack.c). A new connection gets its binding from
   * `spec`. Returns the bits SNAT and DNAT for what was done.
   */
  nat(tracked: Tracked, spec: NatSpec, commit: boolean, bytes: Uint8Array, layout: Layout): number {
    const { connection, kind, reply } = tracked;
    const { sourceNat, destinationNat } = connection;
    let source: boolean;
    if (kind !== 'new' && (sourceNat || destinationNat) && (kind !== 'related' || reply || commit)) {
      source = sourceNat !== reply;
    } else if (spec.kind === 'src') {
      source = true;
    } else if (spec.kind === 'dst') {
      source = false;
    } else {
      return 0;
    }
    this.natOnce(tracked, spec, source, bytes, layout);
    let done: number = source ? CtState.SNAT : CtState.DNAT;
    if (connection.destinationNat) {
      if (connection.sourceNat) {
        this.natOnce(tracked, spec, !source, bytes, layout);
        done |= source ? CtState.DNAT : CtState.SNAT;
      } else if (!reply) {
        // The source port may have to give way where two destinations become one.
        this.natOnce(tracked, undefined, true, bytes, layout);
        done |= CtState.SNAT;
      }
    }
    return done;
  }

  private natOnce(
    tracked: Tracked,
    spec: NatSpec | undefined,
    source: boolean,
    bytes: Uint8Array,
    layout: Layout,
  ): void {
    const { connection, kind } = tracked;
    if (
      kind === 'new' &&
      !connection.confirmed &&
      !(source ? connection.sourceNatDone : connection.destinationNatDone)
    ) {
      const used = (tuple: Tuple) => this.used(tuple);
      if (spec?.ipMin === undefined) bindNull(connection, source, used);
      else bindRange(connection, spec, source, used);
    }
    translate(tracked, source, bytes, layout);
  }

  private begin(tuple: Tuple, flags: number, bytes: Uint8Array, layout: Layout): Tracked | undefined {
    const reply = invert(tuple);
    if (reply === undefined) return undefined;
    const protocol = protocolOf(tuple);
    let tcp: TcpState = 'NONE';
    let sctp: SctpTracking | undefined;
    if (protocol === IpProtocol.TCP) {
      const first = nextTcpState('NONE', flags, false);
      if (first === undefined) return undefined;
      tcp = first;
    } else if (protocol === IpProtocol.SCTP) {
      sctp = beginSctp(bytes, layout.transport, layout.end);
      if (sctp === undefined) return undefined;
    } else if (isAnswer(tuple)) {
      return undefined;
    }
    const connection: Connection = {
      zone: tuple[T.ZONE],
      original: tuple,
      reply,
      confirmed: false,
      seenReply: false,
      sourceNat: false,
      destinationNat: false,
      sourceNatDone: false,
      destinationNatDone: false,
      tcp,
      sctp,
      mark: 0,
      expires: 0,
    };
    this.refresh(connection);
    return { connection, kind: 'new', reply: false };
  }

  private continue(slot: Slot, flags: number, bytes: Uint8Array, layout: Layout): Tracked | undefined {
    const { connection, reply } = slot;
    if (protocolOf(connection.original) === IpProtocol.TCP) {
      const next = nextTcpState(connection.tcp, flags, reply);
      if (next === undefined) return undefined;
      connection.tcp = next;
      // A refused or given up connection is gone at once: nothing will follow.
      if (next === 'CLOSE' && !connection.seenReply) {
        this.remove(connection);
        return { connection, kind: reply ? 'established' : 'new', reply };
      }
    }
    if (connection.sctp !== undefined && !continueSctp(connection.sctp, bytes, layout.transport, layout.end, reply)) {
      return undefined;
    }
    const isFirstAnswer = reply && !connection.seenReply;
    if (reply) connection.seenReply = true;
    this.refresh(connection);
    if (isFirstAnswer) this.tell('changed', connection);
    return { connection, kind: reply || connection.seenReply ? 'established' : 'new', reply };
  }

  /** An ICMP error belongs to the connection of the packet it quotes (RFC 792; nf_conntrack_inet_error). */
  private related(bytes: Uint8Array, layout: Layout, zone: number): Tracked | undefined {
    const quoted = layout.transport + ICMP_HEADER;
    if (!locateIp(bytes, quoted, layout.version, this.inner)) return undefined;
    this.inner.end = Math.min(this.inner.end, layout.end);
    const tuple = tupleOf(bytes, this.inner, zone);
    const inverse = tuple === undefined ? undefined : invert(tuple);
    const slot = inverse === undefined ? undefined : this.find(inverse);
    if (slot === undefined) return undefined;
    return { connection: slot.connection, kind: 'related', reply: slot.reply };
  }

  private checksumValid(bytes: Uint8Array, layout: Layout): boolean {
    const { ip, transport, protocol, end } = layout;
    if (layout.version === 4) {
      if (protocol === IpProtocol.ICMP) return checksum(bytes, transport, end) === 0;
      const pseudo = pseudoHeaderIpv4(readU32(bytes, ip + 12), readU32(bytes, ip + 16), protocol, end - transport);
      return transportChecksumValid(bytes, transport, end, protocol, pseudo);
    }
    const pseudo = pseudoHeaderIpv6(readWords(bytes, ip + 8), readWords(bytes, ip + 24), protocol, end - transport);
    return transportChecksumValid(bytes, transport, end, protocol, pseudo);
  }

  private refresh(connection: Connection): void {
    const protocol = protocolOf(connection.original);
    let timeout = GENERIC_TIMEOUT;
    if (protocol === IpProtocol.TCP) timeout = TCP_TIMEOUT[connection.tcp];
    else if (connection.sctp !== undefined) timeout = SCTP_TIMEOUT[connection.sctp.state];
    else if (protocol === IpProtocol.UDP) timeout = connection.seenReply ? UDP_STREAM_TIMEOUT : UDP_TIMEOUT;
    else if (protocol === IpProtocol.ICMP || protocol === IpProtocol.ICMPV6) timeout = ICMP_TIMEOUT;
    connection.expires = this.now() + timeout;
  }

  private find(tuple: Tuple): Slot | undefined {
    for (let slot = this.slots.get(hashTuple(tuple)); slot !== undefined; slot = slot.next) {
      if (!tuplesEqual(slot.tuple, tuple)) continue;
      if (slot.connection.expires > this.now()) return slot;
      this.remove(slot.connection);
      return undefined;
    }
    return undefined;
  }

  private add(tuple: Tuple, connection: Connection, reply: boolean): void {
    const hash = hashTuple(tuple);
    this.slots.set(hash, { tuple, connection, reply, next: this.slots.get(hash) });
  }

  private removeTuple(tuple: Tuple, connection: Connection): void {
    const hash = hashTuple(tuple);
    let previous: Slot | undefined;
    for (let slot = this.slots.get(hash); slot !== undefined; slot = slot.next) {
      if (slot.connection === connection && slot.tuple === tuple) {
        if (previous !== undefined) previous.next = slot.next;
        else if (slot.next !== undefined) this.slots.set(hash, slot.next);
        else this.slots.delete(hash);
        return;
      }
      previous = slot;
    }
  }

  /** Take out what has expired. */
  sweep(): void {
    const now = this.now();
    const dead: Connection[] = [];
    for (const head of this.slots.values()) {
      for (let slot: Slot | undefined = head; slot !== undefined; slot = slot.next) {
        if (!slot.reply && slot.connection.expires <= now) dead.push(slot.connection);
      }
    }
    for (const connection of dead) this.remove(connection);
  }
}

function tupleNamed({ zone, family, protocol, original }: ConnectionName): Tuple {
  return tupleFrom(zone, family, protocol, original);
}

function sctpChecksumValid(bytes: Uint8Array, start: number, end: number): boolean {
  return readU32(bytes, start + 8) === sctpChecksum(bytes, start, end);
}

/** A SYN for a connection that has ended starts a new one on the same ports. */
function reopens(slot: Slot, flags: number): boolean {
  const { tcp } = slot.connection;
  if (tcp !== 'TIME_WAIT' && tcp !== 'CLOSE') return false;
  return nextTcpState(tcp, flags, slot.reply) === 'SYN_SENT';
}

/** Bits of CtState for a tracked packet, without those of NAT. */
export function stateOf(tracked: Tracked | undefined): number {
  if (tracked === undefined) return CtState.TRACKED | CtState.INVALID;
  let state: number = CtState.TRACKED;
  if (tracked.reply) state |= CtState.REPLY;
  if (tracked.kind === 'new' || !tracked.connection.confirmed) state |= CtState.NEW;
  if (tracked.kind === 'established') state |= CtState.ESTABLISHED;
  if (tracked.kind === 'related') state |= CtState.RELATED;
  return state;
}
