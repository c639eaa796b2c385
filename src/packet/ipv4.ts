import { readU16, readU32, writeU16, writeU32 } from './big-endian.js';
import { checksum, pseudoHeaderIpv4, writeTransportChecksum } from './checksum.js';

export const IPV4_HEADER = 20;
const FLAG_DONT_FRAGMENT = 0x4000;
const FLAG_MORE_FRAGMENTS = 0x2000;

/** A header (RFC 791 section 3.1). Addresses are unsigned 32-bit numbers. */
export interface Ipv4Header {
  /** In bytes, with options. */
  headerLength: number;
  tos: number;
  /** As the header says, which the parser has checked to be no less than the header's length. */
  totalLength: number;
  id: number;
  dontFragment: boolean;
  moreFragments: boolean;
  /** Offset of this fragment's data in the original packet's, in bytes. */
  fragmentOffset: number;
  ttl: number;
  protocol: number;
  checksum: number;
  src: number;
  dst: number;
  /** Offset of what is behind the header. */
  payload: number;
  /** Offset of the first byte behind the packet: by its total length, but never beyond the bytes. */
  end: number;
}

export function newIpv4Header(): Ipv4Header {
  return {
    headerLength: 0,
    tos: 0,
    totalLength: 0,
    id: 0,
    dontFragment: false,
    moreFragments: false,
    fragmentOffset: 0,
    ttl: 0,
    protocol: 0,
    checksum: 0,
    src: 0,
    dst: 0,
    payload: 0,
    end: 0,
  };
}

/**
 * Read the header at `offset`. False if it is short, of another version, or its lengths contradict each other. The
 * checksum is not verified.
 */
export function parseIpv4Header(bytes: Uint8Array, offset: number, out: Ipv4Header): boolean {
  if (offset + IPV4_HEADER > bytes.length || bytes[offset] >>> 4 !== 4) return false;
  const headerLength = (bytes[offset] & 15) * 4;
  const totalLength = readU16(bytes, offset + 2);
  if (headerLength < IPV4_HEADER || totalLength < headerLength || offset + headerLength > bytes.length) return false;
  const fragment = readU16(bytes, offset + 6);
  out.headerLength = headerLength;
  out.tos = bytes[offset + 1];
  out.totalLength = totalLength;
  out.id = readU16(bytes, offset + 4);
  out.dontFragment = (fragment & FLAG_DONT_FRAGMENT) !== 0;
  out.moreFragments = (fragment & FLAG_MORE_FRAGMENTS) !== 0;
  out.fragmentOffset = (fragment & 0x1fff) * 8;
  out.ttl = bytes[offset + 8];
  out.protocol = bytes[offset + 9];
  out.checksum = readU16(bytes, offset + 10);
  out.src = readU32(bytes, offset + 12);
  out.dst = readU32(bytes, offset + 16);
  out.payload = offset + headerLength;
  out.end = Math.min(bytes.length, offset + totalLength);
  return true;
}

export interface Ipv4Spec {
  readonly src: number;
  readonly dst: number;
  readonly protocol: number;
  /** 64 when absent. */
  readonly ttl?: number;
  readonly tos?: number;
  readonly id?: number;
  readonly dontFragment?: boolean;
  /** Makes the packet a fragment. `offset` in bytes, a multiple of eight. */
  readonly fragment?: { readonly offset: number; readonly more: boolean };
  /** A multiple of four bytes, at most 40. */
  readonly options?: Uint8Array;
}

/**
 * A packet (RFC 791 section 3.1) with its header checksum. The checksum of a TCP or UDP payload is filled in too, except
 * in a fragment, whose payload is part of a segment only.
 */
export function buildIpv4(spec: Ipv4Spec, payload: Uint8Array): Uint8Array {
  const headerLength = IPV4_HEADER + (spec.options?.length ?? 0);
  const bytes = new Uint8Array(headerLength + payload.length);
  bytes[0] = 0x40 | (headerLength / 4);
  bytes[1] = spec.tos ?? 0;
  writeU16(bytes, 2, bytes.length);
  writeU16(bytes, 4, spec.id ?? 0);
  const fragment = spec.fragment;
  writeU16(
    bytes,
    6,
    (spec.dontFragment === true ? FLAG_DONT_FRAGMENT : 0) |
      (fragment?.more === true ? FLAG_MORE_FRAGMENTS : 0) |
      ((fragment?.offset ?? 0) >>> 3),
  );
  bytes[8] = spec.ttl ?? 64;
  bytes[9] = spec.protocol;
  writeU32(bytes, 12, spec.src);
  writeU32(bytes, 16, spec.dst);
  if (spec.options !== undefined) bytes.set(spec.options, IPV4_HEADER);
  writeU16(bytes, 10, checksum(bytes, 0, headerLength));
  bytes.set(payload, headerLength);
  // ICMPv6 over IPv4 has no meaning, so the protocols with a pseudo header left are TCP and UDP.
  if (fragment === undefined && spec.protocol !== 58) {
    const pseudo = pseudoHeaderIpv4(spec.src, spec.dst, spec.protocol, payload.length);
    writeTransportChecksum(bytes, headerLength, bytes.length, spec.protocol, pseudo);
  }
  return bytes;
}
