import { readU16, readU32, writeU16, writeU32 } from '../../packet/big-endian.js';
import { crc32c, updateChecksum16, updateChecksum32 } from '../../packet/checksum.js';
import { EtherType } from '../../packet/ethernet.js';
import { IpProtocol } from '../../packet/ip-protocol.js';
import { newIpv4Header, parseIpv4Header } from '../../packet/ipv4.js';
import { newIpv6Header, parseIpv6Header } from '../../packet/ipv6.js';
import { isVlanType } from '../../packet/vlan.js';

/** Where the headers of a packet are. */
export interface Layout {
  /** 4, 6, or 0 when the packet is not IP or its IP header is malformed. */
  version: number;
  /** Offset of the IP header. */
  ip: number;
  protocol: number;
  /** Offset of the transport header, or -1: a later fragment, or extension headers that are cut short. */
  transport: number;
  /** Offset of the first byte behind the IP packet, never beyond the bytes. */
  end: number;
  /** A fragment, first or later. */
  fragment: boolean;
}

export function newLayout(): Layout {
  return { version: 0, ip: 0, protocol: 0, transport: -1, end: 0, fragment: false };
}

const ipv4 = newIpv4Header();
const ipv6 = newIpv6Header();

/** Find the headers of an Ethernet frame. False when it holds no well-formed IP header. */
export function locate(frame: Uint8Array, out: Layout): boolean {
  let at = 12;
  out.version = 0;
  out.transport = -1;
  if (frame.length < 14) return false;
  while (isVlanType(readU16(frame, at)) && at + 6 <= frame.length) at += 4;
  const type = readU16(frame, at);
  if (type !== EtherType.IPV4 && type !== EtherType.IPV6) return false;
  return locateIp(frame, at + 2, type === EtherType.IPV4 ? 4 : 6, out);
}

/** Find the headers of an IP packet that starts at `offset`. */
export function locateIp(bytes: Uint8Array, offset: number, version: number, out: Layout): boolean {
  out.version = 0;
  out.ip = offset;
  out.transport = -1;
  if (version === 4) {
    if (!parseIpv4Header(bytes, offset, ipv4)) return false;
    out.protocol = ipv4.protocol;
    out.fragment = ipv4.moreFragments || ipv4.fragmentOffset !== 0;
    if (ipv4.fragmentOffset === 0) out.transport = ipv4.payload;
    out.end = ipv4.end;
  } else {
    if (!parseIpv6Header(bytes, offset, ipv6)) return false;
    out.protocol = ipv6.complete ? ipv6.protocol : IpProtocol.NO_NEXT_HEADER;
    out.fragment = ipv6.fragmented;
    if (ipv6.complete && ipv6.fragmentOffset === 0) out.transport = ipv6.payload;
    out.end = ipv6.end;
  }
  out.version = version;
  return true;
}

/** Offset of a checksum that covers the pseudo header, or -1 where the packet has none. */
function pseudoChecksumAt(bytes: Uint8Array, layout: Layout): number {
  const { transport, protocol, end } = layout;
  if (transport < 0) return -1;
  let at: number;
  if (protocol === IpProtocol.TCP) at = transport + 16;
  else if (protocol === IpProtocol.UDP) at = transport + 6;
  else if (protocol === IpProtocol.ICMPV6 && layout.version === 6) at = transport + 2;
  else return -1;
  if (at + 2 > end) return -1;
  return protocol === IpProtocol.UDP && readU16(bytes, at) === 0 ? -1 : at;
}

function writeTransportCheck(bytes: Uint8Array, layout: Layout, at: number, value: number): void {
  // A UDP checksum of zero would say that there is none (RFC 768).
  writeU16(bytes, at, value === 0 && layout.protocol === IpProtocol.UDP ? 0xffff : value);
}

/** Overwrite an IPv4 address, and the checksums that cover it. `at`: 12 for the source, 16 for the destination. */
export function rewriteIpv4Address(bytes: Uint8Array, layout: Layout, at: 12 | 16, address: number): void {
  const offset = layout.ip + at;
  const old = readU32(bytes, offset);
  if (old === address) return;
  writeU32(bytes, offset, address);
  writeU16(bytes, layout.ip + 10, updateChecksum32(readU16(bytes, layout.ip + 10), old, address));
  const check = pseudoChecksumAt(bytes, layout);
  if (check >= 0) writeTransportCheck(bytes, layout, check, updateChecksum32(readU16(bytes, check), old, address));
}

/** Overwrite one 32-bit word of an IPv6 address and the checksum that covers it. `at`: 8 to 20 source, 24 to 36 destination. */
export function rewriteIpv6Word(bytes: Uint8Array, layout: Layout, at: number, word: number): void {
  const offset = layout.ip + at;
  const old = readU32(bytes, offset);
  if (old === word) return;
  writeU32(bytes, offset, word);
  // With a routing header the checksum covers the final destination, which is not this one (RFC 8200 section 8.1).
  if (at >= 24 && hasRoutingHeader(bytes, layout)) return;
  const check = pseudoChecksumAt(bytes, layout);
  if (check >= 0) writeTransportCheck(bytes, layout, check, updateChecksum32(readU16(bytes, check), old, word));
}

function hasRoutingHeader(bytes: Uint8Array, layout: Layout): boolean {
  let protocol = bytes[layout.ip + 6];
  let at = layout.ip + 40;
  while (at < layout.transport) {
    if (protocol === IpProtocol.IPV6_ROUTING) return bytes[at + 3] > 0;
    const next = bytes[at];
    if (protocol === IpProtocol.IPV6_FRAGMENT) at += 8;
    else if (protocol === IpProtocol.AH) at += (bytes[at + 1] + 2) * 4;
    else at += (bytes[at + 1] + 1) * 8;
    protocol = next;
  }
  return false;
}

/** Overwrite one byte of an IPv4 header and its checksum. `at`: 1 type of service, 8 time to live. */
export function rewriteIpv4Byte(bytes: Uint8Array, layout: Layout, at: 1 | 8, value: number): void {
  const word = layout.ip + (at & ~1);
  const old = readU16(bytes, word);
  bytes[layout.ip + at] = value;
  writeU16(bytes, layout.ip + 10, updateChecksum16(readU16(bytes, layout.ip + 10), old, readU16(bytes, word)));
}

/** Overwrite a port of TCP, UDP or SCTP and the checksum. `at`: 0 for the source, 2 for the destination. */
export function rewritePort(bytes: Uint8Array, layout: Layout, at: 0 | 2, port: number): void {
  const { transport, protocol, end } = layout;
  if (transport < 0 || transport + at + 2 > end) return;
  const old = readU16(bytes, transport + at);
  if (old === port) return;
  if (protocol === IpProtocol.SCTP) {
    if (transport + 12 > end) {
      // Quoted in an ICMP error, which need not hold the checksum.
      writeU16(bytes, transport + at, port);
      return;
    }
    // What was wrong with the checksum stays wrong, as in the kernel (set_sctp in net/openvswitch/actions.c).
    const stored = readU32(bytes, transport + 8);
    const before = sctpChecksum(bytes, transport, end);
    writeU16(bytes, transport + at, port);
    writeU32(bytes, transport + 8, stored ^ before ^ sctpChecksum(bytes, transport, end));
    return;
  }
  writeU16(bytes, transport + at, port);
  const check = pseudoChecksumAt(bytes, layout);
  if (check >= 0) writeTransportCheck(bytes, layout, check, updateChecksum16(readU16(bytes, check), old, port));
}

/** The checksum field of an SCTP packet as it would have to be, read as a big-endian word. */
export function sctpChecksum(bytes: Uint8Array, start: number, end: number): number {
  const stored = readU32(bytes, start + 8);
  writeU32(bytes, start + 8, 0);
  const crc = crc32c(bytes, start, end);
  writeU32(bytes, start + 8, stored);
  return (((crc & 0xff) << 24) | ((crc & 0xff00) << 8) | ((crc >>> 8) & 0xff00) | (crc >>> 24)) >>> 0;
}

/** Overwrite the identifier of an ICMP or ICMPv6 echo and the checksum. */
export function rewriteEchoId(bytes: Uint8Array, layout: Layout, id: number): void {
  const at = layout.transport;
  if (at < 0 || at + 8 > layout.end) return;
  const old = readU16(bytes, at + 4);
  writeU16(bytes, at + 4, id);
  writeU16(bytes, at + 2, updateChecksum16(readU16(bytes, at + 2), old, id));
}
