import { readU16, readU32 } from '../packet/big-endian.js';
import { ETHERNET_HEADER, EtherType } from '../packet/ethernet.js';
import { ICMP_HEADER, IcmpType, isIcmpError } from '../packet/icmp.js';
import { Icmpv6Type, isIcmpv6Error } from '../packet/icmpv6.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import { newIpv4Header, parseIpv4Header } from '../packet/ipv4.js';
import { newIpv6Header, parseIpv6Header } from '../packet/ipv6.js';
import { isVlanType, VLAN_TAG } from '../packet/vlan.js';
import type { Side } from './condition.js';

/** Offsets of the addresses in their headers (RFC 791 section 3.1, RFC 8200 section 3). */
const IPV4_ADDRESS = { source: 12, destination: 16 } as const;
const IPV6_ADDRESS = { source: 8, destination: 24 } as const;
/** Offset of the identifier in an echo message (RFC 792 page 14, RFC 4443 section 4.1). */
const IDENTIFIER = 4;

/**
 * An address of the packet that the ICMP error in a frame is about (RFC 792, RFC 4443 section 3), of the family of the
 * error itself: one word or four. Null if the frame ends before.
 */
export function embeddedAddress(frame: Uint8Array, side: Side): Uint32Array | null {
  const icmp = locateIcmp(frame);
  if (icmp === null) return null;
  const embedded = icmp.at + ICMP_HEADER;
  if (icmp.isIpv4) return wordsAt(frame, embedded + IPV4_ADDRESS[side], 1);
  return wordsAt(frame, embedded + IPV6_ADDRESS[side], 4);
}

/**
 * The source port that a packet had which the ICMP or ICMPv6 message in a frame answers: of an echo reply the identifier,
 * of an error the source port, or the identifier, of the packet that it is about. Null of other messages.
 */
export function answeredPort(frame: Uint8Array): number | null {
  const icmp = locateIcmp(frame);
  if (icmp === null || icmp.at + ICMP_HEADER > frame.length) return null;
  const { at, isIpv4 } = icmp;
  const type = frame[at];
  if (type === (isIpv4 ? IcmpType.ECHO_REPLY : Icmpv6Type.ECHO_REPLY)) return readU16(frame, at + IDENTIFIER);
  if (!(isIpv4 ? isIcmpError(type) : isIcmpv6Error(type))) return null;
  const v4 = newIpv4Header();
  const v6 = newIpv6Header();
  const header = isIpv4 ? v4 : v6;
  const embedded = at + ICMP_HEADER;
  if (!(isIpv4 ? parseIpv4Header(frame, embedded, v4) : parseIpv6Header(frame, embedded, v6))) return null;
  const isEcho = header.protocol === (isIpv4 ? IpProtocol.ICMP : IpProtocol.ICMPV6);
  const port = header.payload + (isEcho ? IDENTIFIER : 0);
  return port + 2 > frame.length ? null : readU16(frame, port);
}

/** Where the ICMP or ICMPv6 message in a frame begins. */
function locateIcmp(frame: Uint8Array): { readonly at: number; readonly isIpv4: boolean } | null {
  let at = ETHERNET_HEADER;
  while (at <= frame.length && isVlanType(readU16(frame, at - 2))) at += VLAN_TAG;
  if (at > frame.length) return null;
  const type = readU16(frame, at - 2);
  if (type === EtherType.IPV4) {
    const header = newIpv4Header();
    return parseIpv4Header(frame, at, header) ? { at: header.payload, isIpv4: true } : null;
  }
  const header = newIpv6Header();
  if (type !== EtherType.IPV6 || !parseIpv6Header(frame, at, header) || !header.complete) return null;
  return { at: header.payload, isIpv4: false };
}

function wordsAt(frame: Uint8Array, at: number, count: number): Uint32Array | null {
  if (at + 4 * count > frame.length) return null;
  return Uint32Array.from({ length: count }, (_, i) => readU32(frame, at + 4 * i));
}
