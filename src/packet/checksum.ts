import { readU16, writeU16 } from './big-endian.js';

/**
 * The Internet checksum (RFC 1071). A *sum* here is an unfolded sum of 16-bit words, to be continued over several
 * pieces: all pieces but the last must have an even length. A *checksum* is what stands in a header.
 */

const CHECKSUM_AT: { readonly [protocol: number]: number | undefined } = { 6: 16, 17: 6, 58: 2 };
const UDP = 17;

/** `initial` plus the 16-bit words of the bytes from `start` up to `end`; an odd last byte counts as its high half. */
export function sumWords(bytes: Uint8Array, start: number, end: number, initial = 0): number {
  let sum = initial;
  let at = start;
  for (; at + 1 < end; at += 2) sum += (bytes[at] << 8) | bytes[at + 1];
  if (at < end) sum += bytes[at] << 8;
  return sum;
}

/** Fold a sum to 16 bits by adding the carries (RFC 1071 section 4.1) and complement it. */
export function finishSum(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded % 0x10000) + Math.floor(folded / 0x10000);
  return ~folded & 0xffff;
}

/** The checksum of a range. Zero when the range holds its own correct checksum. */
export function checksum(bytes: Uint8Array, start: number, end: number, initial = 0): number {
  return finishSum(sumWords(bytes, start, end, initial));
}

/** Sum of the pseudo header of TCP and UDP over IPv4 (RFC 9293 section 3.1). `length`: of the segment, in bytes. */
export function pseudoHeaderIpv4(source: number, destination: number, protocol: number, length: number): number {
  return (source >>> 16) + (source & 0xffff) + (destination >>> 16) + (destination & 0xffff) + protocol + length;
}

/** Sum of the pseudo header over IPv6 (RFC 8200 section 8.1). `length`: of the upper-layer packet, in bytes. */
export function pseudoHeaderIpv6(
  source: ArrayLike<number>,
  destination: ArrayLike<number>,
  protocol: number,
  length: number,
): number {
  let sum = protocol + (length >>> 16) + (length & 0xffff);
  for (let i = 0; i < 4; i++) {
    sum += (source[i] >>> 16) + (source[i] & 0xffff) + (destination[i] >>> 16) + (destination[i] & 0xffff);
  }
  return sum;
}

/** The checksum after one 16-bit word it covers changed (RFC 1624 equation 3). */
export function updateChecksum16(check: number, from: number, to: number): number {
  return finishSum((~check & 0xffff) + (~from & 0xffff) + to);
}

/** The checksum after an aligned 32-bit word it covers changed (RFC 1624 equation 3). */
export function updateChecksum32(check: number, from: number, to: number): number {
  return finishSum((~check & 0xffff) + (~(from >>> 16) & 0xffff) + (~from & 0xffff) + (to >>> 16) + (to & 0xffff));
}

/** Offset of the checksum in the header of a protocol whose checksum covers the pseudo header; undefined for others. */
export function transportChecksumOffset(protocol: number): number | undefined {
  return CHECKSUM_AT[protocol];
}

/**
 * Write the checksum of a TCP, UDP or ICMPv6 packet in bytes `start` to `end`, given the sum of its pseudo header. A UDP
 * checksum that comes out as zero is sent as 0xffff (RFC 768). Other protocols are left alone.
 */
export function writeTransportChecksum(
  bytes: Uint8Array,
  start: number,
  end: number,
  protocol: number,
  pseudo: number,
): void {
  const at = CHECKSUM_AT[protocol];
  if (at === undefined || start + at + 2 > end) return;
  writeU16(bytes, start + at, 0);
  const value = checksum(bytes, start, end, pseudo);
  writeU16(bytes, start + at, value === 0 && protocol === UDP ? 0xffff : value);
}

/** Whether the checksum of a TCP, UDP or ICMPv6 packet is right; true for other protocols and for UDP without one. */
export function transportChecksumValid(
  bytes: Uint8Array,
  start: number,
  end: number,
  protocol: number,
  pseudo: number,
): boolean {
  const at = CHECKSUM_AT[protocol];
  if (at === undefined) return true;
  if (start + at + 2 > end) return false;
  if (protocol === UDP && readU16(bytes, start + at) === 0) return true;
  return checksum(bytes, start, end, pseudo) === 0;
}

const CRC32C = new Uint32Array(256);
for (let i = 0; i < 256; i++) {
  let value = i;
  for (let bit = 0; bit < 8; bit++) value = (value & 1) !== 0 ? (value >>> 1) ^ 0x82f6_3b78 : value >>> 1;
  CRC32C[i] = value;
}

/** CRC32c of a range, which is SCTP's checksum (RFC 9260 appendix A); SCTP sends its bytes in little-endian order. */
export function crc32c(bytes: Uint8Array, start: number, end: number): number {
  let crc = 0xffff_ffff;
  for (let at = start; at < end; at++) crc = CRC32C[(crc ^ bytes[at]) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}
