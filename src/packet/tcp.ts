import { readU16, readU32, writeU16, writeU32 } from './big-endian.js';

export const TCP_HEADER = 20;

/** Bits of the flags (RFC 9293 section 3.1). */
export const TcpFlag = { FIN: 1, SYN: 2, RST: 4, PSH: 8, ACK: 16, URG: 32, ECE: 64, CWR: 128 } as const;

export interface TcpHeader {
  srcPort: number;
  dstPort: number;
  seq: number;
  ack: number;
  /** In bytes, with options. */
  headerLength: number;
  /** The 12 bits behind the data offset: reserved bits and {@link TcpFlag}. */
  flags: number;
  window: number;
  checksum: number;
  urgent: number;
}

export function newTcpHeader(): TcpHeader {
  return { srcPort: 0, dstPort: 0, seq: 0, ack: 0, headerLength: 0, flags: 0, window: 0, checksum: 0, urgent: 0 };
}

/** Read the header at `offset` (RFC 9293 section 3.1). False if it does not fit before `end` or its length is too small. */
export function parseTcpHeader(bytes: Uint8Array, offset: number, end: number, out: TcpHeader): boolean {
  if (end > bytes.length || offset + TCP_HEADER > end) return false;
  const headerLength = (bytes[offset + 12] >>> 4) * 4;
  if (headerLength < TCP_HEADER || offset + headerLength > end) return false;
  out.srcPort = readU16(bytes, offset);
  out.dstPort = readU16(bytes, offset + 2);
  out.seq = readU32(bytes, offset + 4);
  out.ack = readU32(bytes, offset + 8);
  out.headerLength = headerLength;
  out.flags = readU16(bytes, offset + 12) & 0xfff;
  out.window = readU16(bytes, offset + 14);
  out.checksum = readU16(bytes, offset + 16);
  out.urgent = readU16(bytes, offset + 18);
  return true;
}

export interface TcpSpec {
  readonly srcPort: number;
  readonly dstPort: number;
  readonly seq?: number;
  readonly ack?: number;
  readonly flags?: number;
  /** 65535 when absent. */
  readonly window?: number;
  /** A multiple of four bytes, at most 40. */
  readonly options?: Uint8Array;
}

/** A segment (RFC 9293 section 3.1) whose checksum is left to the builder of the IP packet around it. */
export function buildTcp(spec: TcpSpec, payload: Uint8Array = new Uint8Array(0)): Uint8Array {
  const headerLength = TCP_HEADER + (spec.options?.length ?? 0);
  const bytes = new Uint8Array(headerLength + payload.length);
  writeU16(bytes, 0, spec.srcPort);
  writeU16(bytes, 2, spec.dstPort);
  writeU32(bytes, 4, spec.seq ?? 0);
  writeU32(bytes, 8, spec.ack ?? 0);
  writeU16(bytes, 12, ((headerLength / 4) << 12) | (spec.flags ?? 0));
  writeU16(bytes, 14, spec.window ?? 65535);
  if (spec.options !== undefined) bytes.set(spec.options, TCP_HEADER);
  bytes.set(payload, headerLength);
  return bytes;
}
