import { readU16, readU32 } from '../../packet/big-endian.js';
import { Icmpv6Type } from '../../packet/icmpv6.js';
import { IpProtocol } from '../../packet/ip-protocol.js';
import type { ConnectionTuple } from '../datapath.js';
import type { Layout } from './rewrite.js';

/**
 * One direction of a connection as words: zone, IP version and protocol, source, destination, ports. An ICMP echo has
 * its identifier as the source port and type and code as the destination port (netfilter's nf_conntrack_tuple).
 */
export type Tuple = Uint32Array;

export const T = { ZONE: 0, PROTO: 1, SRC: 2, DST: 6, SRC_PORT: 10, DST_PORT: 11 } as const;
export const TUPLE_WORDS = 12;

/** ICMP types and what answers them: echo, timestamp, information and address mask (RFC 792, RFC 950). */
const ICMP_ANSWER: ReadonlyMap<number, number> = new Map([
  [8, 0],
  [0, 8],
  [13, 14],
  [14, 13],
  [15, 16],
  [16, 15],
  [17, 18],
  [18, 17],
]);
const ICMPV6_ANSWER: ReadonlyMap<number, number> = new Map([
  [Icmpv6Type.ECHO_REQUEST, Icmpv6Type.ECHO_REPLY],
  [Icmpv6Type.ECHO_REPLY, Icmpv6Type.ECHO_REQUEST],
]);

/** The tuple of a packet, or undefined if it has no transport header that conntrack understands. */
export function tupleOf(bytes: Uint8Array, layout: Layout, zone: number): Tuple | undefined {
  const { version, ip, protocol, transport, end } = layout;
  if (version === 0 || transport < 0) return undefined;
  const tuple = new Uint32Array(TUPLE_WORDS);
  tuple[T.ZONE] = zone;
  tuple[T.PROTO] = (version << 8) | protocol;
  if (version === 4) {
    tuple[T.SRC] = readU32(bytes, ip + 12);
    tuple[T.DST] = readU32(bytes, ip + 16);
  } else {
    for (let i = 0; i < 4; i++) {
      tuple[T.SRC + i] = readU32(bytes, ip + 8 + 4 * i);
      tuple[T.DST + i] = readU32(bytes, ip + 24 + 4 * i);
    }
  }
  if (hasPorts(protocol)) {
    if (transport + 4 > end) return undefined;
    tuple[T.SRC_PORT] = readU16(bytes, transport);
    tuple[T.DST_PORT] = readU16(bytes, transport + 2);
  } else if (isIcmp(tuple)) {
    if (transport + 8 > end) return undefined;
    tuple[T.SRC_PORT] = readU16(bytes, transport + 4);
    tuple[T.DST_PORT] = readU16(bytes, transport);
  }
  return tuple;
}

/** The tuple of the packets that answer, or undefined for an ICMP type that is neither question nor answer. */
export function invert(tuple: Tuple): Tuple | undefined {
  const out = tuple.slice();
  out.set(tuple.subarray(T.SRC, T.SRC + 4), T.DST);
  out.set(tuple.subarray(T.DST, T.DST + 4), T.SRC);
  if (isIcmp(tuple)) {
    const answer = answerOf(tuple);
    if (answer === undefined) return undefined;
    out[T.DST_PORT] = (answer << 8) | (tuple[T.DST_PORT] & 0xff);
  } else {
    out[T.SRC_PORT] = tuple[T.DST_PORT];
    out[T.DST_PORT] = tuple[T.SRC_PORT];
  }
  return out;
}

function answerOf(tuple: Tuple): number | undefined {
  const table = protocolOf(tuple) === IpProtocol.ICMP ? ICMP_ANSWER : ICMPV6_ANSWER;
  return table.get(tuple[T.DST_PORT] >>> 8);
}

/** Whether the packet is an ICMP answer, which no connection starts with. */
export function isAnswer(tuple: Tuple): boolean {
  if (!isIcmp(tuple)) return false;
  const type = tuple[T.DST_PORT] >>> 8;
  if (protocolOf(tuple) === IpProtocol.ICMP) return type === 0 || type === 14 || type === 16 || type === 18;
  return type === Icmpv6Type.ECHO_REPLY;
}

export function protocolOf(tuple: Tuple): number {
  return tuple[T.PROTO] & 0xff;
}

export function versionOf(tuple: Tuple): number {
  return tuple[T.PROTO] >>> 8;
}

export function describeTuple(tuple: Tuple): ConnectionTuple {
  const words = versionOf(tuple) === 4 ? 1 : 4;
  return {
    src: [...tuple.subarray(T.SRC, T.SRC + words)],
    dst: [...tuple.subarray(T.DST, T.DST + words)],
    srcPort: tuple[T.SRC_PORT],
    dstPort: tuple[T.DST_PORT],
  };
}

/** The opposite of {@link describeTuple}. */
export function tupleFrom(zone: number, family: 4 | 6, protocol: number, described: ConnectionTuple): Tuple {
  const tuple = new Uint32Array(TUPLE_WORDS);
  tuple[T.ZONE] = zone;
  tuple[T.PROTO] = (family << 8) | protocol;
  tuple.set(described.src, T.SRC);
  tuple.set(described.dst, T.DST);
  tuple[T.SRC_PORT] = described.srcPort;
  tuple[T.DST_PORT] = described.dstPort;
  return tuple;
}

export function hasPorts(protocol: number): boolean {
  return protocol === IpProtocol.TCP || protocol === IpProtocol.UDP || protocol === IpProtocol.SCTP;
}

/** ICMP over IPv4 or ICMPv6 over IPv6. */
export function isIcmp(tuple: Tuple): boolean {
  return tuple[T.PROTO] === ((4 << 8) | IpProtocol.ICMP) || tuple[T.PROTO] === ((6 << 8) | IpProtocol.ICMPV6);
}

export function tuplesEqual(a: Tuple, b: Tuple): boolean {
  for (let i = 0; i < TUPLE_WORDS; i++) if (a[i] !== b[i]) return false;
  return true;
}

export function hashTuple(tuple: Tuple): number {
  let h = 0x1b873593;
  for (let i = 0; i < TUPLE_WORDS; i++) {
    h = Math.imul(h ^ Math.imul(tuple[i] + i, 0xcc9e2d51), 0x85ebca6b);
    h ^= h >>> 13;
  }
  return h >>> 0;
}
