import { readU16, readU32, readWords, writeU16, writeU32, writeWords } from './big-endian.js';
import { pseudoHeaderIpv6, writeTransportChecksum } from './checksum.js';
import { IpProtocol } from './ip-protocol.js';

export const IPV6_HEADER = 40;
const SOURCE_AT = 8;
const DESTINATION_AT = 24;
const FRAGMENT_HEADER = 8;

/** What is between a fixed header and the payload (RFC 8200 section 4). */
export interface Ipv6Extensions {
  /** Protocol behind the extension headers. */
  protocol: number;
  /** Offset of what is behind the extension headers. */
  payload: number;
  /** A fragment header is there. */
  fragmented: boolean;
  /** Offset of this fragment's data in the original packet's, in bytes. */
  fragmentOffset: number;
  moreFragments: boolean;
  /** Offset of the fragment header, or zero. */
  fragmentAt: number;
}

/** A fixed header and what its extension headers say (RFC 8200 sections 3 and 4). */
export interface Ipv6Header extends Ipv6Extensions {
  trafficClass: number;
  flowLabel: number;
  hopLimit: number;
  /** Next header of the fixed header. */
  nextHeader: number;
  /** Offset of the first byte behind the packet: by the length field, but never beyond the bytes. */
  end: number;
  /** False when the chain of extension headers does not fit the bytes: `protocol` and `payload` are then not known. */
  complete: boolean;
}

export function newIpv6Header(): Ipv6Header {
  return {
    trafficClass: 0,
    flowLabel: 0,
    hopLimit: 0,
    nextHeader: 0,
    end: 0,
    protocol: 0,
    payload: 0,
    fragmented: false,
    fragmentOffset: 0,
    moreFragments: false,
    fragmentAt: 0,
    complete: false,
  };
}

/**
 * Read the fixed header at `offset` and walk the extension headers. False if the fixed header is short or of another version.
 */
export function parseIpv6Header(bytes: Uint8Array, offset: number, out: Ipv6Header): boolean {
  if (offset + IPV6_HEADER > bytes.length || bytes[offset] >>> 4 !== 6) return false;
  const first = readU32(bytes, offset);
  out.trafficClass = (first >>> 20) & 0xff;
  out.flowLabel = first & 0xfffff;
  out.nextHeader = bytes[offset + 6];
  out.hopLimit = bytes[offset + 7];
  out.end = Math.min(bytes.length, offset + IPV6_HEADER + readU16(bytes, offset + 4));
  const isWalked = walkIpv6Extensions(bytes, offset + IPV6_HEADER, out.end, out.nextHeader, out);
  out.complete = isWalked && out.payload <= out.end;
  return true;
}

/**
 * Walk the extension headers from `offset` on, the first of which has the number `nextHeader`. Stops at the fragment header
 * of a fragment that is not the first: what follows it is data. False if a header begins beyond `end`: what came before is told
 * all the same. Behind the last one there may be fewer bytes than it says.
 */
export function walkIpv6Extensions(
  bytes: Uint8Array,
  offset: number,
  end: number,
  nextHeader: number,
  out: Ipv6Extensions,
): boolean {
  out.fragmented = false;
  out.fragmentOffset = 0;
  out.moreFragments = false;
  out.fragmentAt = 0;
  let protocol = nextHeader;
  let at = offset;
  while (isExtensionHeader(protocol)) {
    if (at + 2 > end) return false;
    const next = bytes[at];
    if (protocol === IpProtocol.IPV6_FRAGMENT) {
      out.fragmented = true;
      out.fragmentAt = at;
      if (at + 4 > end) return false;
      const word = readU16(bytes, at + 2);
      out.fragmentOffset = word & 0xfff8;
      out.moreFragments = (word & 1) !== 0;
      at += FRAGMENT_HEADER;
      if (out.fragmentOffset !== 0) {
        out.protocol = next;
        out.payload = at;
        return true;
      }
    } else if (protocol === IpProtocol.AH) {
      at += (bytes[at + 1] + 2) * 4;
    } else {
      at += (bytes[at + 1] + 1) * 8;
    }
    protocol = next;
  }
  out.protocol = protocol;
  out.payload = at;
  return true;
}

/** Whether a header with this number has another behind it. */
export function isExtensionHeader(protocol: number): boolean {
  return (
    protocol === IpProtocol.HOP_BY_HOP ||
    protocol === IpProtocol.IPV6_ROUTING ||
    protocol === IpProtocol.IPV6_FRAGMENT ||
    protocol === IpProtocol.AH ||
    protocol === IpProtocol.DESTINATION_OPTIONS
  );
}

/** Source address of the header at `offset`. */
export function ipv6Source(bytes: Uint8Array, offset: number): [number, number, number, number] {
  return readWords(bytes, offset + SOURCE_AT);
}

/** Destination address of the header at `offset`. */
export function ipv6Destination(bytes: Uint8Array, offset: number): [number, number, number, number] {
  return readWords(bytes, offset + DESTINATION_AT);
}

export interface Ipv6Spec {
  readonly src: ArrayLike<number>;
  readonly dst: ArrayLike<number>;
  /** Protocol of the payload, behind the extension headers. */
  readonly protocol: number;
  /** 64 when absent. */
  readonly hopLimit?: number;
  readonly trafficClass?: number;
  readonly flowLabel?: number;
  /** In order; each `body` is the header without its first two bytes and of a length of 8n - 2 (AH: 4n - 2). */
  readonly extensions?: readonly { readonly type: number; readonly body: Uint8Array }[];
  /** Adds a fragment header last. `offset` in bytes, a multiple of eight. */
  readonly fragment?: { readonly offset: number; readonly more: boolean; readonly id: number };
}

/**
 * A packet (RFC 8200 section 3). The checksum of a TCP, UDP or ICMPv6 payload is filled in, except in a fragment, whose
 * payload is part of a segment only.
 */
export function buildIpv6(spec: Ipv6Spec, payload: Uint8Array): Uint8Array {
  const extensions = spec.extensions ?? [];
  let length = payload.length + (spec.fragment === undefined ? 0 : FRAGMENT_HEADER);
  for (const extension of extensions) length += 2 + extension.body.length;
  const bytes = new Uint8Array(IPV6_HEADER + length);
  writeU32(bytes, 0, (6 << 28) | ((spec.trafficClass ?? 0) << 20) | (spec.flowLabel ?? 0));
  writeU16(bytes, 4, length);
  bytes[7] = spec.hopLimit ?? 64;
  writeWords(bytes, SOURCE_AT, spec.src);
  writeWords(bytes, DESTINATION_AT, spec.dst);
  let nextAt = 6;
  let at = IPV6_HEADER;
  for (const extension of extensions) {
    bytes[nextAt] = extension.type;
    nextAt = at;
    const size = 2 + extension.body.length;
    bytes[at + 1] = extension.type === IpProtocol.AH ? size / 4 - 2 : size / 8 - 1;
    bytes.set(extension.body, at + 2);
    at += size;
  }
  if (spec.fragment !== undefined) {
    bytes[nextAt] = IpProtocol.IPV6_FRAGMENT;
    nextAt = at;
    writeU16(bytes, at + 2, spec.fragment.offset | (spec.fragment.more ? 1 : 0));
    writeU32(bytes, at + 4, spec.fragment.id);
    at += FRAGMENT_HEADER;
  }
  bytes[nextAt] = spec.protocol;
  bytes.set(payload, at);
  if (spec.fragment === undefined) {
    const pseudo = pseudoHeaderIpv6(spec.src, spec.dst, spec.protocol, payload.length);
    writeTransportChecksum(bytes, at, bytes.length, spec.protocol, pseudo);
  }
  return bytes;
}
