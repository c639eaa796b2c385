import { readU16, writeU16, writeU32 } from './big-endian.js';
import { checksum } from './checksum.js';
import { IpProtocol } from './ip-protocol.js';
import { buildIpv4, newIpv4Header, parseIpv4Header } from './ipv4.js';

export const ICMP_HEADER = 8;

/** Types of RFC 792. */
export const IcmpType = {
  ECHO_REPLY: 0,
  UNREACHABLE: 3,
  SOURCE_QUENCH: 4,
  REDIRECT: 5,
  ECHO_REQUEST: 8,
  TIME_EXCEEDED: 11,
  PARAMETER_PROBLEM: 12,
} as const;

/** Codes of {@link IcmpType.UNREACHABLE} (RFC 792, RFC 1812 section 5.2.7.1). */
export const UnreachableCode = {
  NETWORK: 0,
  HOST: 1,
  PROTOCOL: 2,
  PORT: 3,
  FRAGMENTATION_NEEDED: 4,
  PROHIBITED: 13,
} as const;

/** An error carries this much of the packet, so that the whole stays within 576 bytes (RFC 1812 section 4.3.2.3). */
const ERROR_MAX_PACKET = 576;

export interface IcmpHeader {
  type: number;
  code: number;
  checksum: number;
  /** Identifier of an echo, else the first half of the type's own word. */
  id: number;
  /** Sequence number of an echo, else the second half: the next hop's MTU of "fragmentation needed" (RFC 1191 section 4). */
  sequence: number;
}

export function newIcmpHeader(): IcmpHeader {
  return { type: 0, code: 0, checksum: 0, id: 0, sequence: 0 };
}

/** Read the header at `offset` (RFC 792). False if it does not fit before `end`. */
export function parseIcmpHeader(bytes: Uint8Array, offset: number, end: number, out: IcmpHeader): boolean {
  if (end > bytes.length || offset + ICMP_HEADER > end) return false;
  out.type = bytes[offset];
  out.code = bytes[offset + 1];
  out.checksum = readU16(bytes, offset + 2);
  out.id = readU16(bytes, offset + 4);
  out.sequence = readU16(bytes, offset + 6);
  return true;
}

/** Whether a type is an error message, which carries the packet that caused it (RFC 1122 section 3.2.2). */
export function isIcmpError(type: number): boolean {
  return (
    type === IcmpType.UNREACHABLE ||
    type === IcmpType.SOURCE_QUENCH ||
    type === IcmpType.REDIRECT ||
    type === IcmpType.TIME_EXCEEDED ||
    type === IcmpType.PARAMETER_PROBLEM
  );
}

/** A message of either ICMP (RFC 792, RFC 4443 section 2.1) without its checksum. `rest`: the 32-bit word behind that. */
export function icmpMessage(type: number, code: number, rest: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(ICMP_HEADER + payload.length);
  bytes[0] = type;
  bytes[1] = code;
  writeU32(bytes, 4, rest);
  bytes.set(payload, ICMP_HEADER);
  return bytes;
}

/** A message (RFC 792) with its checksum. `rest`: the 32-bit word behind the checksum. */
export function buildIcmp(type: number, code: number, rest: number, payload: Uint8Array): Uint8Array {
  const bytes = icmpMessage(type, code, rest, payload);
  writeU16(bytes, 2, checksum(bytes, 0, bytes.length));
  return bytes;
}

/** An echo request or reply (RFC 792, page 14). */
export function buildIcmpEcho(
  type: typeof IcmpType.ECHO_REQUEST | typeof IcmpType.ECHO_REPLY,
  id: number,
  sequence: number,
  payload: Uint8Array = new Uint8Array(0),
): Uint8Array {
  return buildIcmp(type, 0, (id << 16) | sequence, payload);
}

/**
 * The IPv4 packet that answers the echo request in the IPv4 packet at `offset`: addresses swapped, data kept (RFC 1122
 * section 3.2.2.6). Undefined if there is no whole echo request.
 */
export function buildIcmpEchoReply(bytes: Uint8Array, offset: number, ttl = 64): Uint8Array | undefined {
  const ip = newIpv4Header();
  if (!parseIpv4Header(bytes, offset, ip) || ip.end !== offset + ip.totalLength) return undefined;
  if (ip.protocol !== IpProtocol.ICMP || ip.moreFragments || ip.fragmentOffset !== 0) return undefined;
  if (ip.payload + ICMP_HEADER > ip.end || bytes[ip.payload] !== IcmpType.ECHO_REQUEST) return undefined;
  const at = ip.payload;
  const message = buildIcmpEcho(
    IcmpType.ECHO_REPLY,
    readU16(bytes, at + 4),
    readU16(bytes, at + 6),
    bytes.subarray(at + ICMP_HEADER, ip.end),
  );
  return buildIpv4({ src: ip.dst, dst: ip.src, protocol: IpProtocol.ICMP, tos: ip.tos, ttl }, message);
}

/**
 * The IPv4 packet that reports an error about the IPv4 packet at `offset` to its sender (RFC 792; how much of the packet
 * is quoted: RFC 1812 section 4.3.2.3). Undefined where none may be sent (RFC 1122 section 3.2.2): about an error, a
 * later fragment, or a packet from or to a broadcast, multicast or unspecified address.
 *
 * @param source address of the reporting router
 * @param rest the 32-bit word behind the checksum: the next hop's MTU of "fragmentation needed"
 */
export function buildIcmpError(
  type: number,
  code: number,
  source: number,
  bytes: Uint8Array,
  offset: number,
  rest = 0,
): Uint8Array | undefined {
  const ip = newIpv4Header();
  if (!parseIpv4Header(bytes, offset, ip) || ip.fragmentOffset !== 0) return undefined;
  if (ip.src === 0 || ip.src >>> 28 >= 14 || ip.src >>> 24 === 127 || ip.dst >>> 28 >= 14) return undefined;
  if (ip.protocol === IpProtocol.ICMP && (ip.payload >= ip.end || isIcmpError(bytes[ip.payload]))) return undefined;
  const quotedEnd = Math.min(ip.end, offset + ERROR_MAX_PACKET - 20 - ICMP_HEADER);
  const message = buildIcmp(type, code, rest, bytes.subarray(offset, quotedEnd));
  // Precedence 6, Internetwork Control (RFC 1812 section 4.3.2.5).
  return buildIpv4({ src: source, dst: ip.src, protocol: IpProtocol.ICMP, tos: 0xc0, ttl: 64 }, message);
}
