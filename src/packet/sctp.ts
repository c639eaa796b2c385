import { readU16, readU32, writeU16, writeU32 } from './big-endian.js';
import { crc32c } from './checksum.js';

export const SCTP_HEADER = 12;

/** Of an INIT chunk without parameters (RFC 9260 section 3.3.2). */
const INIT_LENGTH = 20;

/** Types of chunks (RFC 9260 section 3.2). */
export const SctpChunk = { INIT: 1, INIT_ACK: 2, ABORT: 6 } as const;

export interface SctpHeader {
  srcPort: number;
  dstPort: number;
  verificationTag: number;
  /** Type of the first chunk; undefined if there is none. */
  chunk: number | undefined;
}

/** Read the header at `offset` (RFC 9260 section 3). Undefined if it does not fit before `end`. */
export function parseSctpHeader(bytes: Uint8Array, offset: number, end: number): SctpHeader | undefined {
  if (end > bytes.length || offset + SCTP_HEADER > end) return undefined;
  return {
    srcPort: readU16(bytes, offset),
    dstPort: readU16(bytes, offset + 2),
    verificationTag: readU32(bytes, offset + 4),
    chunk: offset + SCTP_HEADER < end ? bytes[offset + SCTP_HEADER] : undefined,
  };
}

/** A packet that begins an association, with one stream each way; `tag` is not zero (RFC 9260 section 3.3.2). */
export function buildSctpInit(srcPort: number, dstPort: number, tag: number): Uint8Array {
  const bytes = new Uint8Array(SCTP_HEADER + INIT_LENGTH);
  writeU16(bytes, 0, srcPort);
  writeU16(bytes, 2, dstPort);
  const chunk = SCTP_HEADER;
  bytes[chunk] = SctpChunk.INIT;
  writeU16(bytes, chunk + 2, INIT_LENGTH);
  writeU32(bytes, chunk + 4, tag);
  writeU32(bytes, chunk + 8, 0xffff);
  writeU16(bytes, chunk + 12, 1);
  writeU16(bytes, chunk + 14, 1);
  writeU32(bytes, chunk + 16, tag);
  const sum = crc32c(bytes, 0, bytes.length);
  for (let i = 0; i < 4; i++) bytes[8 + i] = sum >>> (8 * i);
  return bytes;
}
