import { FLOW_KEY_WORDS, type FlowKey, Frag, TunnelFlag, VLAN_PRESENT, Word } from '../../flow/key.js';
import type { FlowMask } from '../../flow/mask.js';
import { AttributeReader, type MessageWriter } from '../netlink/message.js';
import { EtherType, IpProtocol, KeyAttr, MAX_PORTS, ND_ADVERTISEMENT, ND_SOLICITATION, TunnelAttr } from './uapi.js';

/**
 * Flow keys and masks ⇄ nested OVS_KEY_ATTR_* attributes, as match_validate and ovs_nla_get_match of the kernel's
 * net/openvswitch/flow_netlink.c (Linux 6.1) demand them. The kernel's rules in short:
 *
 * - A key always has ETHERNET, and whatever headers its EtherType and protocol announce, even where the mask ignores them.
 * - A mask attribute is allowed only if the key has the same attribute (TUNNEL, IN_PORT and ETHERTYPE always are), and
 *   one of a header only if the field that announces the header is matched exactly.
 * - EtherType and input port are matched whole or not at all; whether there is a VLAN tag always is.
 */

const ALL = 0xffff_ffff;
const CT_STATE_BITS = 0xff;
const IPV6_LABEL_BITS = 0xf_ffff;

/** Which headers a key has: the values of these three fields decide, whatever the mask says. */
function isIp(ethType: number): boolean {
  return ethType === EtherType.IPV4 || ethType === EtherType.IPV6;
}

function isArp(ethType: number): boolean {
  return ethType === EtherType.ARP || ethType === EtherType.RARP;
}

function isMpls(ethType: number): boolean {
  return ethType === EtherType.MPLS || ethType === EtherType.MPLS_MULTICAST;
}

function isVlan(ethType: number): boolean {
  return ethType === EtherType.VLAN || ethType === EtherType.VLAN_SERVICE;
}

/** Attribute of the transport header that a key must have, or 0. */
function transportAttr(words: Uint32Array): number {
  const ethType = words[Word.ETH_TYPE];
  if (!isIp(ethType) || words[Word.NW_FRAG] === Frag.LATER) {
    return 0;
  }
  switch (words[Word.NW_PROTO]) {
    case IpProtocol.TCP:
      return KeyAttr.TCP;
    case IpProtocol.UDP:
      return KeyAttr.UDP;
    case IpProtocol.SCTP:
      return KeyAttr.SCTP;
    case IpProtocol.ICMP:
      return ethType === EtherType.IPV4 ? KeyAttr.ICMP : 0;
    case IpProtocol.ICMPV6:
      return ethType === EtherType.IPV6 ? KeyAttr.ICMPV6 : 0;
    default:
      return 0;
  }
}

function isNeighbourDiscovery(words: Uint32Array): boolean {
  const type = words[Word.TP_SRC];
  return type === ND_SOLICITATION || type === ND_ADVERTISEMENT;
}

function anySet(words: Uint32Array, from: number, count: number): boolean {
  for (let i = from; i < from + count; i++) {
    if (words[i] !== 0) {
      return true;
    }
  }
  return false;
}

/**
 * Write `key` as attribute `type`, with every attribute that `mask` needs it to have. Input ports from 65535 on mean
 * none. A tunnel key is written when `tunDst` is not zero.
 */
export function writeKey(writer: MessageWriter, type: number, key: FlowKey, mask: FlowKey): void {
  const nest = writer.nest(type);
  writeMetadata(writer, key.words, mask.words);
  writeFrame(writer, key.words);
  writer.endNest(nest);
}

/** Write what the kernel cannot parse from a packet's bytes: the metadata of OVS_PACKET_CMD_EXECUTE. */
export function writePacketMetadata(writer: MessageWriter, type: number, key: FlowKey): void {
  const nest = writer.nest(type);
  writeMetadata(writer, key.words, key.words);
  writer.endNest(nest);
}

function writeMetadata(writer: MessageWriter, k: Uint32Array, m: Uint32Array): void {
  writeWord(writer, KeyAttr.RECIRC_ID, Word.RECIRC_ID, k, m);
  writeWord(writer, KeyAttr.DP_HASH, Word.DP_HASH, k, m);
  writeWord(writer, KeyAttr.PRIORITY, Word.PRIORITY, k, m);
  if (k[Word.TUN_DST] !== 0) {
    writeTunnel(
      writer,
      KeyAttr.TUNNEL,
      k[Word.TUN_ID],
      k[Word.TUN_SRC],
      k[Word.TUN_DST],
      k[Word.TUN_TOS],
      k[Word.TUN_TTL],
      k[Word.TUN_FLAGS],
    );
  }
  if (k[Word.IN_PORT] < MAX_PORTS) {
    writer.u32(KeyAttr.IN_PORT, k[Word.IN_PORT]);
  }
  writeWord(writer, KeyAttr.SKB_MARK, Word.SKB_MARK, k, m);
  writeWord(writer, KeyAttr.CT_STATE, Word.CT_STATE, k, m);
  if ((k[Word.CT_ZONE] | m[Word.CT_ZONE]) !== 0) {
    writer.u16(KeyAttr.CT_ZONE, k[Word.CT_ZONE]);
  }
  writeWord(writer, KeyAttr.CT_MARK, Word.CT_MARK, k, m);
  if (anySet(k, Word.CT_LABELS, 4) || anySet(m, Word.CT_LABELS, 4)) {
    writeWords(writer, writer.attribute(KeyAttr.CT_LABELS, 16), k, Word.CT_LABELS, 4);
  }
}

function writeWord(writer: MessageWriter, type: number, word: number, k: Uint32Array, m: Uint32Array): void {
  if ((k[word] | m[word]) !== 0) {
    writer.u32(type, k[word]);
  }
}

function writeWords(writer: MessageWriter, at: number, words: Uint32Array, first: number, count: number): void {
  for (let i = 0; i < count; i++) {
    writer.view.setUint32(at + 4 * i, words[first + i]);
  }
}

/** An outer IPv4 tunnel key. The tunnel key proper goes in when it is not zero or TunnelFlag.KEY says there is one. */
export function writeTunnel(
  writer: MessageWriter,
  type: number,
  id: number,
  src: number,
  dst: number,
  tos: number,
  ttl: number,
  flags: number,
): void {
  const nest = writer.nest(type);
  if (id !== 0 || (flags & TunnelFlag.KEY) !== 0) {
    writer.be64(TunnelAttr.ID, id);
  }
  if (src !== 0) {
    writer.be32(TunnelAttr.IPV4_SRC, src);
  }
  if (dst !== 0) {
    writer.be32(TunnelAttr.IPV4_DST, dst);
  }
  if (tos !== 0) {
    writer.u8(TunnelAttr.TOS, tos);
  }
  writer.u8(TunnelAttr.TTL, ttl);
  if ((flags & TunnelFlag.DONT_FRAGMENT) !== 0) {
    writer.flag(TunnelAttr.DONT_FRAGMENT);
  }
  if ((flags & TunnelFlag.CSUM) !== 0) {
    writer.flag(TunnelAttr.CSUM);
  }
  if ((flags & TunnelFlag.OAM) !== 0) {
    writer.flag(TunnelAttr.OAM);
  }
  writer.endNest(nest);
}

function writeFrame(writer: MessageWriter, k: Uint32Array): void {
  writeMacPair(writer, writer.attribute(KeyAttr.ETHERNET, 12), k, Word.ETH_SRC);
  if (k[Word.VLAN_TCI] === 0) {
    writeFromEtherType(writer, k);
    return;
  }
  writer.be16(KeyAttr.ETHERTYPE, k[Word.VLAN_TPID] === 0 ? EtherType.VLAN : k[Word.VLAN_TPID]);
  writer.be16(KeyAttr.VLAN, k[Word.VLAN_TCI] | VLAN_PRESENT);
  const encap = writer.nest(KeyAttr.ENCAP);
  writeFromEtherType(writer, k);
  writer.endNest(encap);
}

/** Two MAC addresses in a row, as in struct ovs_key_ethernet, from four words. */
function writeMacPair(writer: MessageWriter, at: number, words: Uint32Array, first: number): void {
  writer.view.setUint16(at, words[first]);
  writer.view.setUint32(at + 2, words[first + 1]);
  writer.view.setUint16(at + 6, words[first + 2]);
  writer.view.setUint32(at + 8, words[first + 3]);
}

function writeFromEtherType(writer: MessageWriter, k: Uint32Array): void {
  const ethType = k[Word.ETH_TYPE];
  if (ethType <= EtherType.NONE) {
    return;
  }
  writer.be16(KeyAttr.ETHERTYPE, ethType);
  if (isVlan(ethType)) {
    // Only a truncated tag leaves its own type as the last EtherType: this is how the kernel writes one.
    writer.be16(KeyAttr.VLAN, 0);
    writer.endNest(writer.nest(KeyAttr.ENCAP));
  } else if (isMpls(ethType)) {
    writer.attribute(KeyAttr.MPLS, 4);
  } else if (isArp(ethType)) {
    writeArp(writer, k, 0xffff);
  } else if (ethType === EtherType.IPV4) {
    writeIpv4(writer, writer.attribute(KeyAttr.IPV4, 12), k, k[Word.NW_PROTO]);
  } else if (ethType === EtherType.IPV6) {
    writeIpv6(writer, writer.attribute(KeyAttr.IPV6, 40), k, k[Word.NW_PROTO]);
  }
  const transport = transportAttr(k);
  if (transport === 0) {
    return;
  }
  if (transport === KeyAttr.ICMP || transport === KeyAttr.ICMPV6) {
    writeIcmp(writer, transport, k[Word.TP_SRC], k[Word.TP_DST]);
    if (transport === KeyAttr.ICMPV6 && isNeighbourDiscovery(k)) {
      writeNeighbourDiscovery(writer, k);
    }
    return;
  }
  writePorts(writer, transport, k);
  if (transport === KeyAttr.TCP) {
    writer.be16(KeyAttr.TCP_FLAGS, k[Word.TCP_FLAGS]);
  }
}

/** struct ovs_key_ipv4 */
function writeIpv4(writer: MessageWriter, at: number, words: Uint32Array, protocol: number): void {
  writer.view.setUint32(at, words[Word.NW_SRC]);
  writer.view.setUint32(at + 4, words[Word.NW_DST]);
  writer.view.setUint8(at + 8, protocol);
  writer.view.setUint8(at + 9, words[Word.NW_TOS]);
  writer.view.setUint8(at + 10, words[Word.NW_TTL]);
  writer.view.setUint8(at + 11, words[Word.NW_FRAG]);
}

/** struct ovs_key_ipv6 */
function writeIpv6(writer: MessageWriter, at: number, words: Uint32Array, protocol: number): void {
  writeWords(writer, at, words, Word.NW_SRC, 8);
  writer.view.setUint32(at + 32, words[Word.IPV6_LABEL] & IPV6_LABEL_BITS);
  writer.view.setUint8(at + 36, protocol);
  writer.view.setUint8(at + 37, words[Word.NW_TOS]);
  writer.view.setUint8(at + 38, words[Word.NW_TTL]);
  writer.view.setUint8(at + 39, words[Word.NW_FRAG]);
}

/** struct ovs_key_arp, 22 bytes and two of padding. The kernel keeps the opcode's low byte. */
function writeArp(writer: MessageWriter, words: Uint32Array, opcodeBits: number): void {
  const at = writer.attribute(KeyAttr.ARP, 24);
  writer.view.setUint32(at, words[Word.NW_SRC]);
  writer.view.setUint32(at + 4, words[Word.NW_DST]);
  writer.view.setUint16(at + 8, words[Word.NW_PROTO] & opcodeBits);
  writeMacPair(writer, at + 10, words, Word.ARP_SHA);
}

/** struct ovs_key_tcp, _udp or _sctp */
function writePorts(writer: MessageWriter, type: number, words: Uint32Array): void {
  const at = writer.attribute(type, 4);
  writer.view.setUint16(at, words[Word.TP_SRC]);
  writer.view.setUint16(at + 2, words[Word.TP_DST]);
}

/** struct ovs_key_icmp or _icmpv6 */
function writeIcmp(writer: MessageWriter, type: number, icmpType: number, code: number): void {
  const at = writer.attribute(type, 2);
  writer.view.setUint8(at, icmpType);
  writer.view.setUint8(at + 1, code);
}

/** struct ovs_key_nd */
function writeNeighbourDiscovery(writer: MessageWriter, words: Uint32Array): void {
  const at = writer.attribute(KeyAttr.ND, 28);
  writeWords(writer, at, words, Word.ND_TARGET, 4);
  writeMacPair(writer, at + 16, words, Word.ARP_SHA);
}

/**
 * Write `mask` as attribute `type`, for a key whose headers are those of `key`. Where the kernel takes only whole fields
 * or needs the field that announces a header, the mask is widened to that; bits of headers that the key does not have
 * are left out.
 */
export function writeMask(writer: MessageWriter, type: number, key: FlowKey, mask: FlowMask): void {
  const k = key.words;
  const m = mask.words;
  const nest = writer.nest(type);
  writeMaskWord(writer, KeyAttr.RECIRC_ID, m[Word.RECIRC_ID]);
  writeMaskWord(writer, KeyAttr.DP_HASH, m[Word.DP_HASH]);
  writeMaskWord(writer, KeyAttr.PRIORITY, m[Word.PRIORITY]);
  if (anySet(m, Word.TUN_ID, 6)) {
    writeTunnelMask(writer, k, m);
  }
  if (m[Word.IN_PORT] !== 0) {
    writer.u32(KeyAttr.IN_PORT, ALL);
  }
  writeMaskWord(writer, KeyAttr.SKB_MARK, m[Word.SKB_MARK]);
  writeMaskWord(writer, KeyAttr.CT_STATE, m[Word.CT_STATE] & CT_STATE_BITS);
  if ((m[Word.CT_ZONE] & 0xffff) !== 0) {
    writer.u16(KeyAttr.CT_ZONE, m[Word.CT_ZONE]);
  }
  writeMaskWord(writer, KeyAttr.CT_MARK, m[Word.CT_MARK]);
  if (anySet(m, Word.CT_LABELS, 4)) {
    writeWords(writer, writer.attribute(KeyAttr.CT_LABELS, 16), m, Word.CT_LABELS, 4);
  }
  if (anySet(m, Word.ETH_SRC, 4)) {
    writeMacPair(writer, writer.attribute(KeyAttr.ETHERNET, 12), m, Word.ETH_SRC);
  }
  if (k[Word.VLAN_TCI] === 0) {
    writeMaskFromEtherType(writer, k, m, false);
  } else {
    writer.be16(KeyAttr.ETHERTYPE, 0xffff);
    writer.be16(KeyAttr.VLAN, m[Word.VLAN_TCI] | VLAN_PRESENT);
    const encap = writer.nest(KeyAttr.ENCAP);
    // An ENCAP without bits counts as absent, and then the kernel refuses the VLAN beside it.
    writeMaskFromEtherType(writer, k, m, true);
    writer.endNest(encap);
  }
  writer.endNest(nest);
}

function writeMaskWord(writer: MessageWriter, type: number, bits: number): void {
  if (bits !== 0) {
    writer.u32(type, bits);
  }
}

function writeTunnelMask(writer: MessageWriter, k: Uint32Array, m: Uint32Array): void {
  if (k[Word.TUN_DST] === 0) {
    // No tunnel: any attribute makes the kernel match on that. It repeats only this one in dumps.
    const nest = writer.nest(KeyAttr.TUNNEL);
    writer.be64(TunnelAttr.ID, ALL);
    writer.endNest(nest);
    return;
  }
  writeTunnel(
    writer,
    KeyAttr.TUNNEL,
    m[Word.TUN_ID],
    m[Word.TUN_SRC],
    m[Word.TUN_DST],
    m[Word.TUN_TOS],
    m[Word.TUN_TTL],
    m[Word.TUN_FLAGS],
  );
}

function writeMaskFromEtherType(writer: MessageWriter, k: Uint32Array, m: Uint32Array, always: boolean): void {
  const ethType = k[Word.ETH_TYPE];
  const transport = transportAttr(k);
  const discovery = transport === KeyAttr.ICMPV6 && isNeighbourDiscovery(k);
  const wantsDiscovery = discovery && (anySet(m, Word.ND_TARGET, 4) || anySet(m, Word.ARP_SHA, 4));
  const wantsFlags = transport === KeyAttr.TCP && (m[Word.TCP_FLAGS] & 0xffff) !== 0;
  const isIcmp = transport === KeyAttr.ICMP || transport === KeyAttr.ICMPV6;
  const portBits = isIcmp ? 0xff : 0xffff;
  const wantsPorts = transport !== 0 && ((m[Word.TP_SRC] | m[Word.TP_DST]) & portBits) !== 0;
  const protocolBits = wantsDiscovery || wantsFlags || wantsPorts ? 0xff : m[Word.NW_PROTO] & 0xff;

  let wantsNetwork = false;
  if (ethType === EtherType.IPV4) {
    const fixed = m[Word.NW_TOS] | m[Word.NW_TTL] | m[Word.NW_FRAG];
    wantsNetwork = (m[Word.NW_SRC] | m[Word.NW_DST] | ((protocolBits | fixed) & 0xff)) !== 0;
  } else if (ethType === EtherType.IPV6) {
    const fixed = m[Word.NW_TOS] | m[Word.NW_TTL] | m[Word.NW_FRAG];
    const label = m[Word.IPV6_LABEL] & IPV6_LABEL_BITS;
    wantsNetwork = ((protocolBits | fixed) & 0xff) !== 0 || label !== 0 || anySet(m, Word.NW_SRC, 8);
  } else if (isArp(ethType)) {
    wantsNetwork = (m[Word.NW_SRC] | m[Word.NW_DST] | protocolBits) !== 0 || anySet(m, Word.ARP_SHA, 4);
  }

  if (always || wantsNetwork || m[Word.ETH_TYPE] !== 0) {
    writer.be16(KeyAttr.ETHERTYPE, 0xffff);
  }
  if (wantsNetwork) {
    if (ethType === EtherType.IPV4) {
      writeIpv4(writer, writer.attribute(KeyAttr.IPV4, 12), m, protocolBits);
    } else if (ethType === EtherType.IPV6) {
      writeIpv6(writer, writer.attribute(KeyAttr.IPV6, 40), m, protocolBits);
    } else {
      writeArp(writer, m, 0xff);
    }
  }
  if (isIcmp) {
    if (wantsPorts || wantsDiscovery) {
      writeIcmp(writer, transport, wantsDiscovery ? 0xff : m[Word.TP_SRC], m[Word.TP_DST]);
    }
    if (wantsDiscovery) {
      writeNeighbourDiscovery(writer, m);
    }
    return;
  }
  if (wantsPorts) {
    writePorts(writer, transport, m);
  }
  if (wantsFlags) {
    writer.be16(KeyAttr.TCP_FLAGS, m[Word.TCP_FLAGS]);
  }
}

const outerReader = new AttributeReader();
const encapReader = new AttributeReader();
const tunnelReader = new AttributeReader();

/**
 * Read nested OVS_KEY_ATTR_* attributes at `start` to `end` of `bytes` into `key`, which is overwritten.
 * @returns whether `key` holds all that tells such packets apart. What the kernel reports but a flow may leave out
 * (original tuple of a connection, UDP ports of a tunnel, IPv6 extension headers) does not count; a second VLAN tag,
 * MPLS, NSH, IPv6 tunnels, tunnel options and packets without Ethernet header do.
 * @throws ProtocolError if the bytes are malformed
 */
export function readKey(bytes: Uint8Array, start: number, end: number, key: FlowKey): boolean {
  const words = key.words;
  words.fill(0);
  words[Word.IN_PORT] = ALL;
  words[Word.ETH_TYPE] = EtherType.NONE;
  hasEthernet = false;
  const complete = readAttributes(outerReader.reset(bytes, start, end), words, false, 0);
  return complete && hasEthernet;
}

/** Whether the key just read has an Ethernet header. */
let hasEthernet = false;

/**
 * Read the mask of a flow whose key is `key`. The result holds what the kernel matches but does not repeat: whether
 * there is a VLAN tag.
 * @returns whether `mask` holds every bit that the kernel matches
 * @throws ProtocolError if the bytes are malformed
 */
export function readMask(bytes: Uint8Array, start: number, end: number, key: FlowKey, mask: FlowMask): boolean {
  const m = mask.words;
  m.fill(0);
  const complete = readAttributes(outerReader.reset(bytes, start, end), m, true, 0);
  if (key.words[Word.VLAN_TCI] === 0) {
    m[Word.VLAN_TCI] = 0xffff;
    m[Word.VLAN_TPID] = 0xffff;
  }
  if (key.words[Word.TUN_DST] === 0 && anySet(m, Word.TUN_ID, 6)) {
    m[Word.TUN_DST] = ALL;
  }
  return complete;
}

function readAttributes(reader: AttributeReader, words: Uint32Array, isMask: boolean, depth: number): boolean {
  let complete = true;
  while (reader.next()) {
    switch (reader.type) {
      case KeyAttr.RECIRC_ID:
        words[Word.RECIRC_ID] = reader.u32();
        break;
      case KeyAttr.DP_HASH:
        words[Word.DP_HASH] = reader.u32();
        break;
      case KeyAttr.PRIORITY:
        words[Word.PRIORITY] = reader.u32();
        break;
      case KeyAttr.SKB_MARK:
        words[Word.SKB_MARK] = reader.u32();
        break;
      case KeyAttr.IN_PORT:
        // In masks of dumped flows the upper half is set whether or not the port is matched.
        words[Word.IN_PORT] = isMask ? ((reader.u32() & 0xffff) === 0 ? 0 : ALL) : reader.u32();
        break;
      case KeyAttr.CT_STATE:
        words[Word.CT_STATE] = reader.u32();
        break;
      case KeyAttr.CT_ZONE:
        words[Word.CT_ZONE] = reader.u16();
        break;
      case KeyAttr.CT_MARK:
        words[Word.CT_MARK] = reader.u32();
        break;
      case KeyAttr.CT_LABELS:
        readWords(reader.view, reader.struct(16), words, Word.CT_LABELS, 4);
        break;
      case KeyAttr.TUNNEL:
        complete = readTunnel(reader.enter(tunnelReader), words, isMask) && complete;
        break;
      case KeyAttr.ETHERNET:
        readMacPair(reader.view, reader.struct(12), words, Word.ETH_SRC);
        hasEthernet = true;
        break;
      case KeyAttr.ETHERTYPE:
        words[Word.ETH_TYPE] = reader.be16();
        break;
      case KeyAttr.VLAN:
        if (depth === 0) {
          words[Word.VLAN_TCI] = reader.be16();
        } else if (reader.be16() !== 0 || !isMask) {
          complete = false;
        }
        break;
      case KeyAttr.ENCAP:
        if (depth === 0) {
          complete = readEncap(reader, words, isMask) && complete;
        } else if (!isAllZero(reader) || !isMask) {
          complete = false;
        }
        break;
      case KeyAttr.IPV4: {
        const at = reader.struct(12);
        words[Word.NW_SRC] = reader.view.getUint32(at);
        words[Word.NW_DST] = reader.view.getUint32(at + 4);
        words[Word.NW_PROTO] = reader.view.getUint8(at + 8);
        words[Word.NW_TOS] = reader.view.getUint8(at + 9);
        words[Word.NW_TTL] = reader.view.getUint8(at + 10);
        words[Word.NW_FRAG] = reader.view.getUint8(at + 11);
        break;
      }
      case KeyAttr.IPV6: {
        const at = reader.struct(40);
        readWords(reader.view, at, words, Word.NW_SRC, 8);
        words[Word.IPV6_LABEL] = reader.view.getUint32(at + 32);
        words[Word.NW_PROTO] = reader.view.getUint8(at + 36);
        words[Word.NW_TOS] = reader.view.getUint8(at + 37);
        words[Word.NW_TTL] = reader.view.getUint8(at + 38);
        words[Word.NW_FRAG] = reader.view.getUint8(at + 39);
        break;
      }
      case KeyAttr.ARP: {
        const at = reader.struct(24);
        words[Word.NW_SRC] = reader.view.getUint32(at);
        words[Word.NW_DST] = reader.view.getUint32(at + 4);
        words[Word.NW_PROTO] = reader.view.getUint16(at + 8);
        readMacPair(reader.view, at + 10, words, Word.ARP_SHA);
        break;
      }
      case KeyAttr.TCP:
      case KeyAttr.UDP:
      case KeyAttr.SCTP: {
        const at = reader.struct(4);
        words[Word.TP_SRC] = reader.view.getUint16(at);
        words[Word.TP_DST] = reader.view.getUint16(at + 2);
        break;
      }
      case KeyAttr.TCP_FLAGS:
        words[Word.TCP_FLAGS] = reader.be16();
        break;
      case KeyAttr.ICMP:
      case KeyAttr.ICMPV6: {
        const at = reader.struct(2);
        words[Word.TP_SRC] = reader.view.getUint8(at);
        words[Word.TP_DST] = reader.view.getUint8(at + 1);
        break;
      }
      case KeyAttr.ND: {
        const at = reader.struct(28);
        readWords(reader.view, at, words, Word.ND_TARGET, 4);
        readMacPair(reader.view, at + 16, words, Word.ARP_SHA);
        break;
      }
      case KeyAttr.CT_ORIG_TUPLE_IPV4:
      case KeyAttr.CT_ORIG_TUPLE_IPV6:
      case KeyAttr.IPV6_EXTHDRS:
      case KeyAttr.TUNNEL_INFO:
        complete = complete && (!isMask || isAllZero(reader));
        break;
      default:
        complete = complete && isMask && isAllZero(reader);
    }
  }
  return complete;
}

function readEncap(reader: AttributeReader, words: Uint32Array, isMask: boolean): boolean {
  words[Word.VLAN_TPID] = words[Word.ETH_TYPE];
  words[Word.ETH_TYPE] = isMask ? 0 : EtherType.NONE;
  const complete = readAttributes(reader.enter(encapReader), words, isMask, 1);
  if (isMask || (words[Word.VLAN_TCI] & VLAN_PRESENT) !== 0) {
    return complete;
  }
  // A truncated tag: what the kernel knows of the frame ends with the tag's own type.
  words[Word.ETH_TYPE] = words[Word.VLAN_TPID];
  words[Word.VLAN_TPID] = 0;
  words[Word.VLAN_TCI] = 0;
  return false;
}

function readTunnel(reader: AttributeReader, words: Uint32Array, isMask: boolean): boolean {
  let complete = true;
  let flags = 0;
  while (reader.next()) {
    switch (reader.type) {
      case TunnelAttr.ID: {
        const at = reader.struct(8);
        words[Word.TUN_ID] = reader.view.getUint32(at + 4);
        complete = complete && (isMask || reader.view.getUint32(at) === 0);
        flags |= TunnelFlag.KEY;
        break;
      }
      case TunnelAttr.IPV4_SRC:
        words[Word.TUN_SRC] = reader.be32();
        break;
      case TunnelAttr.IPV4_DST:
        words[Word.TUN_DST] = reader.be32();
        break;
      case TunnelAttr.TOS:
        words[Word.TUN_TOS] = reader.u8();
        break;
      case TunnelAttr.TTL:
        words[Word.TUN_TTL] = reader.u8();
        break;
      case TunnelAttr.DONT_FRAGMENT:
        flags |= TunnelFlag.DONT_FRAGMENT;
        break;
      case TunnelAttr.CSUM:
        flags |= TunnelFlag.CSUM;
        break;
      case TunnelAttr.OAM:
        flags |= TunnelFlag.OAM;
        break;
      case TunnelAttr.TP_SRC:
      case TunnelAttr.TP_DST:
        complete = complete && (!isMask || isAllZero(reader));
        break;
      case TunnelAttr.PAD:
        break;
      default:
        complete = complete && isMask && reader.length > 0 && isAllZero(reader);
    }
  }
  words[Word.TUN_FLAGS] = flags;
  return complete;
}

function readWords(view: DataView, at: number, words: Uint32Array, first: number, count: number): void {
  for (let i = 0; i < count; i++) {
    words[first + i] = view.getUint32(at + 4 * i);
  }
}

function readMacPair(view: DataView, at: number, words: Uint32Array, first: number): void {
  words[first] = view.getUint16(at);
  words[first + 1] = view.getUint32(at + 2);
  words[first + 2] = view.getUint16(at + 6);
  words[first + 3] = view.getUint32(at + 8);
}

function isAllZero(reader: AttributeReader): boolean {
  for (let i = reader.offset; i < reader.offset + reader.length; i++) {
    if (reader.bytes[i] !== 0) {
      return false;
    }
  }
  return true;
}

/** Clear the bits of `key` outside `mask`, in place: dumped keys lack attributes that read as defaults. */
export function maskInPlace(key: FlowKey, mask: FlowKey): void {
  for (let i = 0; i < FLOW_KEY_WORDS; i++) {
    key.words[i] &= mask.words[i];
  }
}
