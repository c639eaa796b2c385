import { IPV6_UNSPECIFIED, type Ipv6, ipv6Equal, ipv6MulticastMac, solicitedNodeAddress } from './address.js';
import { readU32, readU48, writeU32, writeU48, writeWords } from './big-endian.js';
import { buildEthernet, EtherType } from './ethernet.js';
import { IpProtocol } from './ip-protocol.js';
import { buildIpv6 } from './ipv6.js';

/** ICMPv6 types of neighbour discovery (RFC 4861 section 4). */
export const NdType = {
  ROUTER_SOLICITATION: 133,
  ROUTER_ADVERTISEMENT: 134,
  NEIGHBOR_SOLICITATION: 135,
  NEIGHBOR_ADVERTISEMENT: 136,
  REDIRECT: 137,
} as const;

/** Options of neighbour discovery (RFC 4861 section 4.6). */
export const NdOption = {
  SOURCE_LINK_LAYER: 1,
  TARGET_LINK_LAYER: 2,
  PREFIX_INFORMATION: 3,
  MTU: 5,
  /** RFC 8106 section 5. */
  DNS_SERVERS: 25,
  DNS_SEARCH: 31,
} as const;

/** All messages are sent with this hop limit and dropped when they arrive with another (RFC 4861 section 3.1). */
export const ND_HOP_LIMIT = 255;

const NEIGHBOR_MESSAGE = 24;
const FLAG_ROUTER = 0x8000_0000;
const FLAG_SOLICITED = 0x4000_0000;
const FLAG_OVERRIDE = 0x2000_0000;
export const ALL_NODES: Ipv6 = [0xff02_0000, 0, 0, 1];

/** A neighbour solicitation or advertisement. */
export interface NeighborMessage {
  type: number;
  target: [number, number, number, number];
  router: boolean;
  solicited: boolean;
  override: boolean;
  /** Source link-layer address option of a solicitation, zero without one. */
  sourceMac: number;
  /** Target link-layer address option of an advertisement, zero without one. */
  targetMac: number;
}

export function newNeighborMessage(): NeighborMessage {
  return {
    type: 0,
    target: [0, 0, 0, 0],
    router: false,
    solicited: false,
    override: false,
    sourceMac: 0,
    targetMac: 0,
  };
}

/**
 * Read a neighbour solicitation or advertisement from its ICMPv6 header at `offset` up to `end` (RFC 4861 sections 4.3
 * and 4.4). False if it is neither, short, or its options are malformed (a length of zero, or beyond the end).
 */
export function parseNeighborMessage(bytes: Uint8Array, offset: number, end: number, out: NeighborMessage): boolean {
  if (end > bytes.length || offset + NEIGHBOR_MESSAGE > end || bytes[offset + 1] !== 0) return false;
  const type = bytes[offset];
  if (type !== NdType.NEIGHBOR_SOLICITATION && type !== NdType.NEIGHBOR_ADVERTISEMENT) return false;
  const flags = type === NdType.NEIGHBOR_ADVERTISEMENT ? readU32(bytes, offset + 4) : 0;
  out.type = type;
  out.router = (flags & FLAG_ROUTER) !== 0;
  out.solicited = (flags & FLAG_SOLICITED) !== 0;
  out.override = (flags & FLAG_OVERRIDE) !== 0;
  out.target[0] = readU32(bytes, offset + 8);
  out.target[1] = readU32(bytes, offset + 12);
  out.target[2] = readU32(bytes, offset + 16);
  out.target[3] = readU32(bytes, offset + 20);
  out.sourceMac = 0;
  out.targetMac = 0;
  let at = offset + NEIGHBOR_MESSAGE;
  while (at < end) {
    if (at + 2 > end) return false;
    const length = bytes[at + 1] * 8;
    if (length === 0 || at + length > end) return false;
    if (length === 8) {
      if (bytes[at] === NdOption.SOURCE_LINK_LAYER) out.sourceMac = readU48(bytes, at + 2);
      else if (bytes[at] === NdOption.TARGET_LINK_LAYER) out.targetMac = readU48(bytes, at + 2);
    }
    at += length;
  }
  return true;
}

export interface NeighborAdvertisementSpec {
  /** The address asked for, which is also the source of the packet. */
  readonly target: ArrayLike<number>;
  /** Its link-layer address, which is also the source of the frame. */
  readonly targetMac: number;
  /** Who asked. With the unspecified address (a duplicate address probe) the answer goes to all nodes. */
  readonly dst: ArrayLike<number>;
  /** MAC of who asked; not used when `dst` is unspecified. */
  readonly dstMac: number;
  /** The target is a router; false when absent. */
  readonly router?: boolean;
  /** Replace what the receiver has cached; true when absent. */
  readonly override?: boolean;
}

/** The frame that answers a neighbour solicitation (RFC 4861 sections 4.4 and 7.2.4). */
export function buildNeighborAdvertisement(spec: NeighborAdvertisementSpec): Uint8Array {
  const solicited = !ipv6Equal(spec.dst, IPV6_UNSPECIFIED);
  const dst = solicited ? spec.dst : ALL_NODES;
  const dstMac = solicited ? spec.dstMac : ipv6MulticastMac(ALL_NODES);
  const flags =
    (spec.router === true ? FLAG_ROUTER : 0) +
    (solicited ? FLAG_SOLICITED : 0) +
    (spec.override === false ? 0 : FLAG_OVERRIDE);
  const message = buildNeighborMessage(
    NdType.NEIGHBOR_ADVERTISEMENT,
    flags,
    spec.target,
    NdOption.TARGET_LINK_LAYER,
    spec.targetMac,
  );
  return buildEthernet(
    { dst: dstMac, src: spec.targetMac, type: EtherType.IPV6 },
    buildIpv6({ src: spec.target, dst, protocol: IpProtocol.ICMPV6, hopLimit: ND_HOP_LIMIT }, message),
  );
}

export interface NeighborSolicitationSpec {
  readonly src: ArrayLike<number>;
  readonly srcMac: number;
  readonly target: ArrayLike<number>;
  /** Where to send it; the target's solicited-node multicast address when absent. */
  readonly dst?: ArrayLike<number>;
  /** MAC to send it to; that of the multicast address when absent. */
  readonly dstMac?: number;
}

/** A frame that asks for the link-layer address of `target` (RFC 4861 section 4.3); a probe when `src` is unspecified. */
export function buildNeighborSolicitation(spec: NeighborSolicitationSpec): Uint8Array {
  const dst = spec.dst ?? solicitedNodeAddress(spec.target);
  const dstMac = spec.dstMac ?? ipv6MulticastMac(dst);
  // A probe from the unspecified address must not carry the option (RFC 4861 section 4.3).
  const option = ipv6Equal(spec.src, IPV6_UNSPECIFIED) ? 0 : NdOption.SOURCE_LINK_LAYER;
  const message = buildNeighborMessage(NdType.NEIGHBOR_SOLICITATION, 0, spec.target, option, spec.srcMac);
  return buildEthernet(
    { dst: dstMac, src: spec.srcMac, type: EtherType.IPV6 },
    buildIpv6({ src: spec.src, dst, protocol: IpProtocol.ICMPV6, hopLimit: ND_HOP_LIMIT }, message),
  );
}

function buildNeighborMessage(
  type: number,
  flags: number,
  target: ArrayLike<number>,
  option: number,
  mac: number,
): Uint8Array {
  const bytes = new Uint8Array(NEIGHBOR_MESSAGE + (option === 0 ? 0 : 8));
  bytes[0] = type;
  writeU32(bytes, 4, flags);
  writeWords(bytes, 8, target);
  if (option !== 0) {
    bytes[NEIGHBOR_MESSAGE] = option;
    bytes[NEIGHBOR_MESSAGE + 1] = 1;
    writeU48(bytes, NEIGHBOR_MESSAGE + 2, mac);
  }
  return bytes;
}
