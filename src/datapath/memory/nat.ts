import type { NatSpec } from '../../flow/action.js';
import { writeU16 } from '../../packet/big-endian.js';
import { checksum, pseudoHeaderIpv6, writeTransportChecksum } from '../../packet/checksum.js';
import { ICMP_HEADER } from '../../packet/icmp.js';
import { IpProtocol } from '../../packet/ip-protocol.js';
import { ipv6Destination, ipv6Source } from '../../packet/ipv6.js';
import type { Connection, Tracked } from './connection.js';
import {
  type Layout,
  locateIp,
  newLayout,
  rewriteEchoId,
  rewriteIpv4Address,
  rewriteIpv6Word,
  rewritePort,
} from './rewrite.js';
import { hashTuple, hasPorts, invert, isIcmp, protocolOf, T, type Tuple, versionOf } from './tuple.js';

const inner: Layout = newLayout();

/**
 * Choose the source (or destination) of a new connection's translated packets from a range, such that no other
 * connection's replies look the same (nf_nat_setup_info in net/netfilter/nf_nat_core.c). The choice is a function of
 * the tuple and what is in use. Where nothing is free the clash stays, and the commit of the connection fails.
 */
export function bindRange(
  connection: Connection,
  spec: NatSpec,
  source: boolean,
  used: (tuple: Tuple) => boolean,
): void {
  const current = invert(connection.reply);
  if (current === undefined) return;
  const wanted = current.slice();
  const at = source ? T.SRC : T.DST;
  chooseAddress(wanted, at, spec, connection);
  const portAt = source || isIcmp(wanted) ? T.SRC_PORT : T.DST_PORT;
  choosePort(wanted, portAt, source, spec.portMin, spec.portMax ?? spec.portMin, spec.random, used);
  bind(connection, current, wanted, source);
}

/** Keep addresses, and ports unless they clash (nf_nat_alloc_null_binding). */
export function bindNull(connection: Connection, source: boolean, used: (tuple: Tuple) => boolean): void {
  const current = invert(connection.reply);
  if (current === undefined) return;
  const wanted = current.slice();
  choosePort(wanted, T.SRC_PORT, source, undefined, undefined, false, used);
  bind(connection, current, wanted, source);
}

function bind(connection: Connection, current: Tuple, chosen: Tuple, source: boolean): void {
  const reply = invert(chosen);
  if (reply === undefined) return;
  const changed = chosen.some((word, i) => word !== current[i]);
  connection.reply = reply;
  if (source) {
    connection.sourceNat ||= changed;
    connection.sourceNatDone = true;
  } else {
    connection.destinationNat ||= changed;
    connection.destinationNatDone = true;
  }
}

function chooseAddress(tuple: Tuple, at: number, spec: NatSpec, connection: Connection): void {
  const min = spec.ipMin ?? [];
  const max = spec.ipMax ?? min;
  const words = versionOf(tuple) === 4 ? 1 : 4;
  // As the kernel: source and destination choose the address, or the source alone if that has to persist.
  let hash = hashWords(connection.original, T.SRC, T.SRC + 4, connection.zone);
  if (spec.persistent !== true) hash = hashWords(connection.original, T.DST, T.DST + 4, hash);
  let above = false;
  for (let i = 0; i < words; i++) {
    const low = min[i];
    const high = above ? 0xffff_ffff : max[i];
    const count = high - low + 1;
    const value = count > 1 ? low + (hash % count) : low;
    tuple[at + i] = value;
    if (value < max[i]) above = true;
    hash = hashWords(connection.original, T.SRC, T.SRC + 1, hash + i + 1);
  }
}

function hashWords(tuple: Tuple, from: number, to: number, seed: number): number {
  let h = seed ^ 0x2545f491;
  for (let i = from; i < to; i++) {
    h = Math.imul(h ^ Math.imul(tuple[i], 0xcc9e2d51), 0x1b873593);
    h ^= h >>> 15;
  }
  return h >>> 0;
}

/** Change the port of `tuple` at index `at` to one that is free; leaves it where no change is needed or allowed. */
function choosePort(
  tuple: Tuple,
  at: number,
  source: boolean,
  portMin: number | undefined,
  portMax: number | undefined,
  random: boolean | undefined,
  used: (tuple: Tuple) => boolean,
): void {
  if (!hasPorts(protocolOf(tuple)) && !isIcmp(tuple)) return;
  const free = () => {
    const reply = invert(tuple);
    return reply !== undefined && !used(reply);
  };
  const current = tuple[at];
  let min: number;
  let max: number;
  if (portMin !== undefined && portMax !== undefined) {
    min = portMin;
    max = portMax;
    if (current >= min && current <= max && random !== true && (min === max || free())) return;
  } else {
    // A destination port is never changed unasked: the source port will give way.
    if (!source || free()) return;
    if (isIcmp(tuple)) {
      min = 0;
      max = 65535;
    } else if (current < 512) {
      min = 1;
      max = 511;
    } else if (current < 1024) {
      min = 600;
      max = 1023;
    } else {
      min = 1024;
      max = 65535;
    }
  }
  const count = max - min + 1;
  const start = hashTuple(tuple) % count;
  for (let i = 0; i < count; i++) {
    tuple[at] = min + ((start + i) % count);
    if (free()) return;
  }
}

/** Rewrite the packet's source (or destination) as its connection says (nf_nat_packet, nf_nat_icmp_reply_translation). */
export function translate(tracked: Tracked, source: boolean, bytes: Uint8Array, layout: Layout): void {
  const { connection, reply } = tracked;
  const applies = source !== reply ? connection.sourceNat : connection.destinationNat;
  if (!applies) return;
  const other = reply ? connection.original : connection.reply;
  const target = invert(other);
  if (target === undefined) return;
  if (tracked.kind === 'related') translateError(source, other, target, bytes, layout);
  else manipulate(target, source, bytes, layout);
}

function manipulate(target: Tuple, source: boolean, bytes: Uint8Array, layout: Layout): void {
  const at = source ? T.SRC : T.DST;
  if (layout.version === 4) {
    rewriteIpv4Address(bytes, layout, source ? 12 : 16, target[at]);
  } else {
    for (let i = 0; i < 4; i++) rewriteIpv6Word(bytes, layout, (source ? 8 : 24) + 4 * i, target[at + i]);
  }
  if (hasPorts(layout.protocol)) {
    rewritePort(bytes, layout, source ? 0 : 2, target[source ? T.SRC_PORT : T.DST_PORT]);
  } else if (isIcmp(target) && layout.transport >= 0) {
    rewriteEchoId(bytes, layout, target[T.SRC_PORT]);
  }
}

/** The packet quoted in an error goes the other way: where the outer source changes, its destination does. */
function translateError(source: boolean, quoted: Tuple, target: Tuple, bytes: Uint8Array, layout: Layout): void {
  const { transport, end, version } = layout;
  if (locateIp(bytes, transport + ICMP_HEADER, version, inner)) {
    inner.end = Math.min(inner.end, end);
    manipulate(quoted, !source, bytes, inner);
  }
  const at = source ? T.SRC : T.DST;
  if (version === 4) {
    rewriteIpv4Address(bytes, layout, source ? 12 : 16, target[at]);
    writeU16(bytes, transport + 2, 0);
    writeU16(bytes, transport + 2, checksum(bytes, transport, end));
    return;
  }
  for (let i = 0; i < 4; i++) rewriteIpv6Word(bytes, layout, (source ? 8 : 24) + 4 * i, target[at + i]);
  const pseudo = pseudoHeaderIpv6(
    ipv6Source(bytes, layout.ip),
    ipv6Destination(bytes, layout.ip),
    IpProtocol.ICMPV6,
    end - transport,
  );
  writeTransportChecksum(bytes, transport, end, IpProtocol.ICMPV6, pseudo);
}
