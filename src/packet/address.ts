import { InvalidInputError } from '../errors.js';

/** An IPv6 address: four unsigned 32-bit words, most significant first. */
export type Ipv6 = readonly [number, number, number, number];

/** An IPv4 address with a prefix length of 0 to 32. Host bits are kept as given. */
export interface Ipv4Cidr {
  readonly address: number;
  readonly prefix: number;
}

/** An IPv6 address with a prefix length of 0 to 128. Host bits are kept as given. */
export interface Ipv6Cidr {
  readonly address: Ipv6;
  readonly prefix: number;
}

export const MAC_BROADCAST = 0xffff_ffff_ffff;
export const IPV6_UNSPECIFIED: Ipv6 = [0, 0, 0, 0];

const TWO_32 = 0x1_0000_0000;
const MULTICAST_BIT = 2 ** 40;
const MAC_TEXT = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
const IPV4_BYTE = /^(0|[1-9][0-9]{0,2})$/;
const IPV6_GROUP = /^[0-9a-f]{1,4}$/i;
const PREFIX_TEXT = /^(0|[1-9][0-9]{0,2})$/;

/** Six pairs of hexadecimal digits with colons, of either case, as a 48-bit number. */
export function parseMac(text: string): number | undefined {
  return MAC_TEXT.test(text) ? Number.parseInt(text.replaceAll(':', ''), 16) : undefined;
}

/** Lower case, with colons. */
export function formatMac(mac: number): string {
  const hex = mac.toString(16).padStart(12, '0');
  return `${hex.slice(0, 2)}:${hex.slice(2, 4)}:${hex.slice(4, 6)}:${hex.slice(6, 8)}:${hex.slice(8, 10)}:${hex.slice(10)}`;
}

/** Whether a frame to this address goes to several stations (IEEE 802, I/G bit); true of broadcast. */
export function isMulticastMac(mac: number): boolean {
  return Math.floor(mac / MULTICAST_BIT) % 2 === 1;
}

/** Whether a machine may have the address: it is that of no group, nor none at all. */
export function isMachineMac(mac: number): boolean {
  return mac !== 0 && !isMulticastMac(mac);
}

/** A dotted quad of decimal numbers without leading zeros, as an unsigned 32-bit number. */
export function parseIpv4(text: string): number | undefined {
  const parts = text.split('.');
  if (parts.length !== 4) return undefined;
  let value = 0;
  for (const part of parts) {
    if (!IPV4_BYTE.test(part)) return undefined;
    const byte = Number(part);
    if (byte > 255) return undefined;
    value = value * 256 + byte;
  }
  return value;
}

export function formatIpv4(address: number): string {
  return `${address >>> 24}.${(address >>> 16) & 255}.${(address >>> 8) & 255}.${address & 255}`;
}

/** Text of RFC 4291 section 2.2: hexadecimal groups, at most one `::`, perhaps an IPv4 address at the end. No zone. */
export function parseIpv6(text: string): Ipv6 | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const head = parseGroups(halves[0], halves.length === 1);
  if (head === undefined) return undefined;
  const tail = halves.length === 2 ? parseGroups(halves[1], true) : [];
  if (tail === undefined) return undefined;
  const missing = 8 - head.length - tail.length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) return undefined;
  const groups = [...head, ...new Array<number>(missing).fill(0), ...tail];
  return [
    groups[0] * 65536 + groups[1],
    groups[2] * 65536 + groups[3],
    groups[4] * 65536 + groups[5],
    groups[6] * 65536 + groups[7],
  ];
}

function parseGroups(text: string, last: boolean): number[] | undefined {
  if (text === '') return [];
  const parts = text.split(':');
  const groups: number[] = [];
  for (let i = 0; i < parts.length; i++) {
    if (IPV6_GROUP.test(parts[i])) {
      groups.push(Number.parseInt(parts[i], 16));
    } else {
      const embedded = last && i === parts.length - 1 ? parseIpv4(parts[i]) : undefined;
      if (embedded === undefined) return undefined;
      groups.push(embedded >>> 16, embedded & 0xffff);
    }
  }
  return groups;
}

/**
 * The one text of RFC 5952: lower case, no leading zeros, the longest run of two or more zero groups as `::` (the first
 * of equals), and IPv4-mapped addresses with a dotted quad (section 5).
 */
export function formatIpv6(address: ArrayLike<number>): string {
  if (address[0] === 0 && address[1] === 0 && address[2] === 0xffff) return `::ffff:${formatIpv4(address[3])}`;
  const groups: number[] = [];
  for (let i = 0; i < 4; i++) groups.push(address[i] >>> 16, address[i] & 0xffff);
  let bestStart = -1;
  let bestLength = 1;
  for (let i = 0; i < 8; i++) {
    let end = i;
    while (end < 8 && groups[end] === 0) end++;
    if (end - i > bestLength) {
      bestStart = i;
      bestLength = end - i;
    }
    if (end > i) i = end;
  }
  const hex = (part: number[]) => part.map((group) => group.toString(16)).join(':');
  if (bestStart < 0) return hex(groups);
  return `${hex(groups.slice(0, bestStart))}::${hex(groups.slice(bestStart + bestLength))}`;
}

export function ipv6Equal(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  return a[0] === b[0] && a[1] === b[1] && a[2] === b[2] && a[3] === b[3];
}

/** Whether the address is in ff00::/8. */
export function isMulticastIpv6(address: ArrayLike<number>): boolean {
  return address[0] >>> 24 === 0xff;
}

/** The 32-bit mask of a prefix length; lengths outside 0 to 32 count as the nearer of the two. */
export function ipv4PrefixMask(prefix: number): number {
  return prefix <= 0 ? 0 : prefix >= 32 ? 0xffff_ffff : (0xffff_ffff << (32 - prefix)) >>> 0;
}

/** The address with host bits cleared. */
export function ipv4Network(address: number, prefix: number): number {
  return (address & ipv4PrefixMask(prefix)) >>> 0;
}

/** The last address of the network. */
export function ipv4Broadcast(address: number, prefix: number): number {
  return (address | ~ipv4PrefixMask(prefix)) >>> 0;
}

/** The address with host bits cleared. */
export function ipv6Network(address: ArrayLike<number>, prefix: number): Ipv6 {
  return [
    ipv4Network(address[0], prefix),
    ipv4Network(address[1], prefix - 32),
    ipv4Network(address[2], prefix - 64),
    ipv4Network(address[3], prefix - 96),
  ];
}

/** `ADDRESS/LENGTH` (RFC 4632 section 3.1). The address may have host bits set. */
export function parseIpv4Cidr(text: string): Ipv4Cidr | undefined {
  const slash = text.indexOf('/');
  const address = slash < 0 ? undefined : parseIpv4(text.slice(0, slash));
  const prefix = parsePrefix(text.slice(slash + 1), 32);
  return address === undefined || prefix === undefined ? undefined : { address, prefix };
}

export function formatIpv4Cidr(cidr: Ipv4Cidr): string {
  return `${formatIpv4(cidr.address)}/${cidr.prefix}`;
}

export function ipv4CidrContains(cidr: Ipv4Cidr, address: number): boolean {
  return ((cidr.address ^ address) & ipv4PrefixMask(cidr.prefix)) === 0;
}

/** `ADDRESS/LENGTH` (RFC 4291 section 2.3). The address may have host bits set. */
export function parseIpv6Cidr(text: string): Ipv6Cidr | undefined {
  const slash = text.indexOf('/');
  const address = slash < 0 ? undefined : parseIpv6(text.slice(0, slash));
  const prefix = parsePrefix(text.slice(slash + 1), 128);
  return address === undefined || prefix === undefined ? undefined : { address, prefix };
}

export function formatIpv6Cidr(cidr: Ipv6Cidr): string {
  return `${formatIpv6(cidr.address)}/${cidr.prefix}`;
}

export function ipv6CidrContains(cidr: Ipv6Cidr, address: ArrayLike<number>): boolean {
  for (let i = 0; i < 4; i++) {
    if (((cidr.address[i] ^ address[i]) & ipv4PrefixMask(cidr.prefix - 32 * i)) !== 0) return false;
  }
  return true;
}

function parsePrefix(text: string, max: number): number | undefined {
  if (!PREFIX_TEXT.test(text)) return undefined;
  const prefix = Number(text);
  return prefix <= max ? prefix : undefined;
}

/** @throws InvalidInputError naming `field` if the text is no MAC address */
export function requireMac(text: string, field: string): number {
  const value = parseMac(text);
  if (value === undefined) throw new InvalidInputError(field, text, 'expected a MAC address like 02:00:00:00:00:01');
  return value;
}

/** @throws InvalidInputError naming `field` if the text is no IPv4 address */
export function requireIpv4(text: string, field: string): number {
  const value = parseIpv4(text);
  if (value === undefined) throw new InvalidInputError(field, text, 'expected an IPv4 address like 10.0.0.1');
  return value;
}

/** @throws InvalidInputError naming `field` if the text is no IPv6 address */
export function requireIpv6(text: string, field: string): Ipv6 {
  const value = parseIpv6(text);
  if (value === undefined) throw new InvalidInputError(field, text, 'expected an IPv6 address like fd00::1');
  return value;
}

/** @throws InvalidInputError naming `field` if the text is no IPv4 address with a prefix length */
export function requireIpv4Cidr(text: string, field: string): Ipv4Cidr {
  const value = parseIpv4Cidr(text);
  if (value === undefined) throw new InvalidInputError(field, text, 'expected an IPv4 network like 10.0.0.0/24');
  return value;
}

/** @throws InvalidInputError naming `field` if the text is no IPv6 address with a prefix length */
export function requireIpv6Cidr(text: string, field: string): Ipv6Cidr {
  const value = parseIpv6Cidr(text);
  if (value === undefined) throw new InvalidInputError(field, text, 'expected an IPv6 network like fd00::/64');
  return value;
}

/** The solicited-node multicast address of an address (RFC 4291 section 2.7.1). */
export function solicitedNodeAddress(address: ArrayLike<number>): Ipv6 {
  return [0xff02_0000, 0, 1, (0xff00_0000 | (address[3] & 0x00ff_ffff)) >>> 0];
}

/** The Ethernet address of an IPv6 multicast group (RFC 2464 section 7). */
export function ipv6MulticastMac(address: ArrayLike<number>): number {
  return 0x3333 * TWO_32 + address[3];
}

/** Whether the IPv6 address in `words[offset…]` is one of the link only: fe80::/10 (RFC 4291 section 2.5.6). */
export function isLinkLocalIpv6(words: ArrayLike<number>, offset = 0): boolean {
  return words[offset] >>> 22 === 0x3fa;
}

/** The link-local address made from a MAC address by modified EUI-64 (RFC 4291 appendix A). */
export function linkLocalAddress(mac: number): Ipv6 {
  const high = Math.floor(mac / TWO_32);
  const low = mac % TWO_32;
  return [
    0xfe80_0000,
    0,
    (((high ^ 0x0200) << 16) | ((low >>> 24) << 8) | 0xff) >>> 0,
    (0xfe00_0000 | (low & 0x00ff_ffff)) >>> 0,
  ];
}
