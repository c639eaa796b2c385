import { IPV6_UNSPECIFIED, ipv6Equal, isMulticastIpv6 } from './address.js';
import { readU16, readU32 } from './big-endian.js';
import { icmpMessage } from './icmp.js';
import { IpProtocol } from './ip-protocol.js';
import { buildIpv6, ipv6Destination, ipv6Source, newIpv6Header, parseIpv6Header } from './ipv6.js';

export const ICMPV6_HEADER = 8;

/** Types of RFC 4443; those of neighbour discovery are in nd.ts. */
export const Icmpv6Type = {
  UNREACHABLE: 1,
  PACKET_TOO_BIG: 2,
  TIME_EXCEEDED: 3,
  PARAMETER_PROBLEM: 4,
  ECHO_REQUEST: 128,
  ECHO_REPLY: 129,
} as const;

/** Codes of {@link Icmpv6Type.UNREACHABLE} (RFC 4443 section 3.1). */
export const Unreachable6Code = { NO_ROUTE: 0, PROHIBITED: 1, ADDRESS: 3, PORT: 4 } as const;

/** An error quotes as much of the packet as fits the smallest MTU (RFC 4443 section 2.4 c). */
const ERROR_MAX_PACKET = 1280;

export interface Icmpv6Header {
  type: number;
  code: number;
  checksum: number;
  /** The 32-bit word behind the checksum: MTU of "packet too big", identifier and sequence number of an echo. */
  rest: number;
}

/** Read the header at `offset` (RFC 4443 section 2.1). False if it does not fit before `end`. */
export function parseIcmpv6Header(bytes: Uint8Array, offset: number, end: number, out: Icmpv6Header): boolean {
  if (end > bytes.length || offset + ICMPV6_HEADER > end) return false;
  out.type = bytes[offset];
  out.code = bytes[offset + 1];
  out.checksum = readU16(bytes, offset + 2);
  out.rest = readU32(bytes, offset + 4);
  return true;
}

/** Whether a type is an error message (RFC 4443 section 2.1). */
export function isIcmpv6Error(type: number): boolean {
  return type < 128;
}

/** An echo request or reply (RFC 4443 section 4) whose checksum is left to the builder of the IPv6 packet around it. */
export function buildIcmpv6Echo(
  type: typeof Icmpv6Type.ECHO_REQUEST | typeof Icmpv6Type.ECHO_REPLY,
  id: number,
  sequence: number,
  payload: Uint8Array = new Uint8Array(0),
): Uint8Array {
  return icmpMessage(type, 0, (id << 16) | sequence, payload);
}

/**
 * The IPv6 packet that answers the echo request in the IPv6 packet at `offset` (RFC 4443 section 4.2). Undefined if
 * there is no whole echo request, or it went to a multicast address.
 */
export function buildIcmpv6EchoReply(bytes: Uint8Array, offset: number, hopLimit = 64): Uint8Array | undefined {
  const ip = newIpv6Header();
  if (!parseIpv6Header(bytes, offset, ip) || !ip.complete || ip.fragmented) return undefined;
  if (ip.end !== offset + 40 + readU16(bytes, offset + 4)) return undefined;
  if (ip.protocol !== IpProtocol.ICMPV6 || ip.payload + ICMPV6_HEADER > ip.end) return undefined;
  if (bytes[ip.payload] !== Icmpv6Type.ECHO_REQUEST) return undefined;
  const dst = ipv6Destination(bytes, offset);
  if (isMulticastIpv6(dst)) return undefined;
  const message = icmpMessage(
    Icmpv6Type.ECHO_REPLY,
    0,
    readU32(bytes, ip.payload + 4),
    bytes.subarray(ip.payload + ICMPV6_HEADER, ip.end),
  );
  return buildIpv6({ src: dst, dst: ipv6Source(bytes, offset), protocol: IpProtocol.ICMPV6, hopLimit }, message);
}

/**
 * The IPv6 packet that reports an error about the IPv6 packet at `offset` to its sender (RFC 4443 section 3). Undefined
 * where none may be sent (section 2.4 e): about an error or redirect, a later fragment, a packet from an unspecified or
 * multicast address, or one to a multicast address unless it was too big.
 *
 * @param source address of the reporting router
 * @param rest the 32-bit word behind the checksum: the next hop's MTU of "packet too big"
 */
export function buildIcmpv6Error(
  type: number,
  code: number,
  source: ArrayLike<number>,
  bytes: Uint8Array,
  offset: number,
  rest = 0,
): Uint8Array | undefined {
  const ip = newIpv6Header();
  if (!parseIpv6Header(bytes, offset, ip) || !ip.complete || ip.fragmentOffset !== 0) return undefined;
  if (ip.protocol === IpProtocol.ICMPV6) {
    if (ip.payload >= ip.end) return undefined;
    const about = bytes[ip.payload];
    if (isIcmpv6Error(about) || about === 137) return undefined;
  }
  const src = ipv6Source(bytes, offset);
  if (ipv6Equal(src, IPV6_UNSPECIFIED) || isMulticastIpv6(src)) return undefined;
  if (type !== Icmpv6Type.PACKET_TOO_BIG && isMulticastIpv6(ipv6Destination(bytes, offset))) return undefined;
  const quotedEnd = Math.min(ip.end, offset + ERROR_MAX_PACKET - 40 - ICMPV6_HEADER);
  const message = icmpMessage(type, code, rest, bytes.subarray(offset, quotedEnd));
  return buildIpv6({ src: source, dst: src, protocol: IpProtocol.ICMPV6, hopLimit: 64 }, message);
}
