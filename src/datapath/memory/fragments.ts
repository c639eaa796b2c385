import { Frag } from '../../flow/key.js';
import { readU16, readU32, writeU16, writeU32 } from '../../packet/big-endian.js';
import { checksum } from '../../packet/checksum.js';
import { EtherType } from '../../packet/ethernet.js';
import { newIpv4Header, parseIpv4Header } from '../../packet/ipv4.js';
import { IPV6_HEADER, newIpv6Header, parseIpv6Header } from '../../packet/ipv6.js';
import { isVlanType } from '../../packet/vlan.js';
import { locateIp, newLayout } from './rewrite.js';

/** How long the kernel waits for the rest of a packet (net.ipv4.ipfrag_time), in milliseconds. */
const TIMEOUT = 30_000;
/** Packets that may be incomplete at once; the oldest gives way. */
const MAX_INCOMPLETE = 1024;
const MORE_FRAGMENTS = 0x2000;
const FRAGMENT_HEADER = 8;

interface Piece {
  readonly offset: number;
  readonly data: Uint8Array;
}

interface Incomplete {
  /** Identification, protocol and addresses: what fragments of one packet share, with the zone. */
  readonly identity: readonly number[];
  readonly deadline: number;
  readonly pieces: Piece[];
  /** Frame of the first fragment up to its payload, and where IP begins in it: not all need have the same VLAN tags. */
  head: Uint8Array | undefined;
  ip: number;
  /** Length of the whole payload, once the last fragment is there. */
  length: number;
  /** Longest fragment, in bytes of IP. */
  largest: number;
}

/** What gathering reads and changes of a packet. */
export interface Gathered {
  bytes: Uint8Array;
  fragmentSize: number;
  refresh(): void;
  readonly key: { nwFrag: number };
}

const ipv4 = newIpv4Header();
const ipv6 = newIpv6Header();
const layout = newLayout();

/**
 * Puts IPv4 and IPv6 packets together for connection tracking, which needs their ports (handle_fragments in
 * net/openvswitch/conntrack.c; RFC 791 section 3.2, RFC 8200 section 4.5). Packets with overlapping fragments are dropped
 * (RFC 5722).
 */
export class Fragments {
  private incomplete: Incomplete[] = [];

  constructor(private readonly now: () => number) {}

  /** Take a fragment. True when it completed its packet, which then is in its place. */
  gather(packet: Gathered, zone: number): boolean {
    const { bytes } = packet;
    const ip = ipOffset(bytes);
    const piece = parseFragment(bytes, ip);
    if (piece === undefined) return false;
    this.incomplete = this.incomplete.filter((entry) => entry.deadline > this.now());
    const identity = [zone, ...piece.identity];
    let entry = this.incomplete.find((other) => other.identity.every((word, i) => word === identity[i]));
    if (entry === undefined) {
      entry = { identity, deadline: this.now() + TIMEOUT, pieces: [], head: undefined, ip: 0, length: -1, largest: 0 };
      this.incomplete.push(entry);
      if (this.incomplete.length > MAX_INCOMPLETE) this.incomplete.shift();
    }
    const data = bytes.slice(piece.payload, piece.end);
    const end = piece.offset + data.length;
    const overlaps = entry.pieces.some(
      (other) => piece.offset < other.offset + other.data.length && other.offset < end,
    );
    if (overlaps || (piece.more && data.length % 8 !== 0)) {
      this.incomplete.splice(this.incomplete.indexOf(entry), 1);
      return false;
    }
    entry.pieces.push({ offset: piece.offset, data });
    entry.largest = Math.max(entry.largest, piece.end - ip);
    if (piece.offset === 0) {
      entry.head = bytes.slice(0, piece.payload);
      entry.ip = ip;
    }
    if (!piece.more) entry.length = end;
    const have = entry.pieces.reduce((sum, other) => sum + other.data.length, 0);
    if (entry.head === undefined || entry.length < 0 || have < entry.length) return false;
    this.incomplete.splice(this.incomplete.indexOf(entry), 1);
    if (have > entry.length) return false;
    packet.bytes = assemble(entry.head, entry.ip, entry.pieces, entry.length);
    packet.fragmentSize = entry.largest;
    packet.refresh();
    packet.key.nwFrag = Frag.NONE;
    return true;
  }
}

function ipOffset(bytes: Uint8Array): number {
  let at = 12;
  while (isVlanType(readU16(bytes, at)) && at + 6 <= bytes.length) at += 4;
  return at + 2;
}

interface ParsedFragment {
  readonly identity: readonly number[];
  readonly offset: number;
  readonly more: boolean;
  readonly payload: number;
  readonly end: number;
}

function parseFragment(bytes: Uint8Array, ip: number): ParsedFragment | undefined {
  if (readU16(bytes, ip - 2) === EtherType.IPV4) {
    if (!parseIpv4Header(bytes, ip, ipv4) || ip + ipv4.totalLength > bytes.length) return undefined;
    return {
      identity: [4, ipv4.id, ipv4.protocol, ipv4.src, ipv4.dst],
      offset: ipv4.fragmentOffset,
      more: ipv4.moreFragments,
      payload: ipv4.payload,
      end: ipv4.end,
    };
  }
  if (!parseIpv6Header(bytes, ip, ipv6) || !ipv6.fragmented) return undefined;
  if (ip + IPV6_HEADER + readU16(bytes, ip + 4) > bytes.length) return undefined;
  const identity = [6, readU32(bytes, ipv6.fragmentAt + 4)];
  for (let at = ip + 8; at < ip + IPV6_HEADER; at += 4) identity.push(readU32(bytes, at));
  return {
    identity,
    offset: ipv6.fragmentOffset,
    more: ipv6.moreFragments,
    payload: ipv6.fragmentAt + FRAGMENT_HEADER,
    end: ipv6.end,
  };
}

function assemble(head: Uint8Array, ip: number, pieces: readonly Piece[], length: number): Uint8Array {
  const four = readU16(head, ip - 2) === EtherType.IPV4;
  const start = four ? head.length : head.length - FRAGMENT_HEADER;
  const out = new Uint8Array(start + length);
  out.set(head.subarray(0, start));
  for (const piece of pieces) out.set(piece.data, start + piece.offset);
  if (four) {
    writeU16(out, ip + 2, out.length - ip);
    writeU16(out, ip + 6, readU16(out, ip + 6) & ~MORE_FRAGMENTS);
    writeIpv4Checksum(out, ip);
    return out;
  }
  writeU16(out, ip + 4, out.length - ip - IPV6_HEADER);
  // The header in front of the fragment header now announces what that announced.
  out[nextHeaderAt(head, ip)] = head[start];
  return out;
}

/** Where the header in front of the fragment header says what follows it. */
function nextHeaderAt(bytes: Uint8Array, ip: number): number {
  let at = ip + 6;
  let header = ip + IPV6_HEADER;
  while (bytes[at] !== 44) {
    const size = bytes[at] === 51 ? (bytes[header + 1] + 2) * 4 : (bytes[header + 1] + 1) * 8;
    at = header;
    header += size;
  }
  return at;
}

function writeIpv4Checksum(bytes: Uint8Array, ip: number): void {
  writeU16(bytes, ip + 10, 0);
  writeU16(bytes, ip + 10, checksum(bytes, ip, ip + (bytes[ip] & 15) * 4));
}

/**
 * The fragments, none longer than `size` bytes of IP, that a packet put together by {@link Fragments} leaves in
 * (ovs_fragment in net/openvswitch/actions.c).
 */
export function fragment(frame: Uint8Array, size: number, id: number): Uint8Array[] {
  const ip = ipOffset(frame);
  const four = readU16(frame, ip - 2) === EtherType.IPV4;
  if (!locateIp(frame, ip, four ? 4 : 6, layout)) return [frame];
  const headEnd = four ? ip + (frame[ip] & 15) * 4 : ip + IPV6_HEADER;
  const overhead = headEnd - ip + (four ? 0 : FRAGMENT_HEADER);
  const step = Math.max(8, (size - overhead) & ~7);
  const { end } = layout;
  const out: Uint8Array[] = [];
  for (let at = headEnd; at < end; at += step) {
    const stop = Math.min(end, at + step);
    const more = stop < end;
    const part = new Uint8Array(ip + overhead + stop - at);
    part.set(frame.subarray(0, headEnd));
    part.set(frame.subarray(at, stop), ip + overhead);
    const offset = at - headEnd;
    if (four) {
      writeU16(part, ip + 2, part.length - ip);
      writeU16(part, ip + 6, (readU16(frame, ip + 6) & 0x4000) | (more ? MORE_FRAGMENTS : 0) | (offset >>> 3));
      writeIpv4Checksum(part, ip);
    } else {
      writeU16(part, ip + 4, part.length - ip - IPV6_HEADER);
      part[headEnd] = part[ip + 6];
      part[ip + 6] = 44;
      writeU16(part, headEnd + 2, offset | (more ? 1 : 0));
      writeU32(part, headEnd + 4, id);
    }
    out.push(part);
  }
  return out.length === 0 ? [frame] : out;
}
