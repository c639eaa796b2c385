import { readU16, readU32 } from '../packet/big-endian.js';
import { ETHERNET_HEADER, EtherType } from '../packet/ethernet.js';
import { ICMP_HEADER } from '../packet/icmp.js';
import { newIpv4Header, parseIpv4Header } from '../packet/ipv4.js';
import { newIpv6Header, parseIpv6Header } from '../packet/ipv6.js';
import { isVlanType, VLAN_TAG } from '../packet/vlan.js';
import type { Side } from './condition.js';

/** Offsets of the addresses in their headers (RFC 791 section 3.1, RFC 8200 section 3). */
const IPV4_ADDRESS = { source: 12, destination: 16 } as const;
const IPV6_ADDRESS = { source: 8, destination: 24 } as const;

/**
 * An address of the packet that the ICMP error in a frame is about (RFC 792, RFC 4443 section 3), of the family of the
 * error itself: one word or four. Null if the frame ends before.
 */
export function embeddedAddress(frame: Uint8Array, side: Side): Uint32Array | null {
  let at = ETHERNET_HEADER;
  while (at <= frame.length && isVlanType(readU16(frame, at - 2))) at += VLAN_TAG;
  if (at > frame.length) return null;
  const type = readU16(frame, at - 2);
  if (type === EtherType.IPV4) {
    const header = newIpv4Header();
    if (!parseIpv4Header(frame, at, header)) return null;
    return wordsAt(frame, header.payload + ICMP_HEADER + IPV4_ADDRESS[side], 1);
  }
  const header = newIpv6Header();
  if (type !== EtherType.IPV6 || !parseIpv6Header(frame, at, header) || !header.complete) return null;
  return wordsAt(frame, header.payload + ICMP_HEADER + IPV6_ADDRESS[side], 4);
}

function wordsAt(frame: Uint8Array, at: number, count: number): Uint32Array | null {
  if (at + 4 * count > frame.length) return null;
  return Uint32Array.from({ length: count }, (_, i) => readU32(frame, at + 4 * i));
}
