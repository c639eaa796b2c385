import { readU16, writeU16 } from './big-endian.js';

export const UDP_HEADER = 8;

export interface UdpHeader {
  srcPort: number;
  dstPort: number;
  /** Of header and payload, in bytes. */
  length: number;
  /** Zero: none (IPv4 only). */
  checksum: number;
}

/** Read the header at `offset` (RFC 768). False if it does not fit before `end` or its length is less than a header. */
export function parseUdpHeader(bytes: Uint8Array, offset: number, end: number, out: UdpHeader): boolean {
  if (end > bytes.length || offset + UDP_HEADER > end) return false;
  out.srcPort = readU16(bytes, offset);
  out.dstPort = readU16(bytes, offset + 2);
  out.length = readU16(bytes, offset + 4);
  out.checksum = readU16(bytes, offset + 6);
  return out.length >= UDP_HEADER;
}

/** A datagram (RFC 768) whose checksum is left to the builder of the IP packet around it. */
export function buildUdp(srcPort: number, dstPort: number, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(UDP_HEADER + payload.length);
  writeU16(bytes, 0, srcPort);
  writeU16(bytes, 2, dstPort);
  writeU16(bytes, 4, bytes.length);
  bytes.set(payload, UDP_HEADER);
  return bytes;
}
