import { readU16, readU32 } from '../packet/big-endian.js';
import { EtherType } from '../packet/ethernet.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import {
  IPV6_HEADER,
  type Ipv6Extensions,
  isExtensionHeader,
  newIpv6Header,
  walkIpv6Extensions,
} from '../packet/ipv6.js';
import { NdOption, NdType } from '../packet/nd.js';
import { isVlanType } from '../packet/vlan.js';
import { type FlowKey, Frag, VLAN_PRESENT, Word } from './key.js';

const ETH_P_MPLS_UC = 0x8847;
const ETH_P_MPLS_MC = 0x8848;
const ETH_P_NSH = 0x894f;
const ETHERTYPE_MIN = 0x0600;
const ND_MESSAGE = 24;
/** Used again for each packet. */
const extensions: Ipv6Extensions = newIpv6Header();

/**
 * Fill the header words of `key` (from ETH_SRC on) with what the kernel's datapath reads from the packet (key_extract in
 * net/openvswitch/flow.c); metadata words are left alone. Headers that are cut short or contradict themselves leave
 * zeros, just as there. Lengths are those of the frame: the IP length fields are not believed.
 *
 * @returns false when the packet has something that a datapath may tell apart and a FlowKey cannot hold: a second VLAN
 * tag, MPLS labels, a network service header, or no whole Ethernet header
 */
export function extractKey(packet: Uint8Array, key: FlowKey): boolean {
  const w = key.words;
  w.fill(0, Word.ETH_SRC);
  const length = packet.length;
  if (length < 14) return false;
  w[Word.ETH_DST] = readU16(packet, 0);
  w[Word.ETH_DST + 1] = readU32(packet, 2);
  w[Word.ETH_SRC] = readU16(packet, 6);
  w[Word.ETH_SRC + 1] = readU32(packet, 8);

  let complete = true;
  let at = 12;
  let type = readU16(packet, at);
  if (isVlanType(type) && length >= at + 6) {
    w[Word.VLAN_TPID] = type;
    w[Word.VLAN_TCI] = readU16(packet, at + 2) | VLAN_PRESENT;
    at += 4;
    type = readU16(packet, at);
    if (isVlanType(type) && length >= at + 6) {
      complete = false;
      at += 4;
      type = readU16(packet, at);
    }
  }
  at += 2;
  if (type < ETHERTYPE_MIN) {
    // A length: IEEE 802.2 LLC, perhaps with a SNAP header that holds an EtherType.
    type = EtherType.LLC;
    if (length >= at + 8 && isSnapEthernet(packet, at)) {
      const inner = readU16(packet, at + 6);
      at += 8;
      if (inner >= ETHERTYPE_MIN) type = inner;
    }
  }
  w[Word.ETH_TYPE] = type;

  if (type === EtherType.IPV4) extractIpv4(packet, at, w);
  else if (type === EtherType.IPV6) extractIpv6(packet, at, w);
  else if (type === EtherType.ARP || type === EtherType.RARP) extractArp(packet, at, w);
  else if (type === ETH_P_MPLS_UC || type === ETH_P_MPLS_MC || type === ETH_P_NSH) complete = false;
  return complete;
}

function isSnapEthernet(packet: Uint8Array, at: number): boolean {
  return readU16(packet, at) === 0xaaaa && (packet[at + 3] | packet[at + 4] | packet[at + 5]) === 0;
}

function extractIpv4(packet: Uint8Array, at: number, w: Uint32Array): void {
  if (at + 20 > packet.length) return;
  const headerLength = (packet[at] & 15) * 4;
  if (headerLength < 20 || at + headerLength > packet.length) return;
  w[Word.NW_SRC] = readU32(packet, at + 12);
  w[Word.NW_DST] = readU32(packet, at + 16);
  w[Word.NW_PROTO] = packet[at + 9];
  w[Word.NW_TOS] = packet[at + 1];
  w[Word.NW_TTL] = packet[at + 8];
  const fragment = readU16(packet, at + 6);
  if ((fragment & 0x1fff) !== 0) {
    w[Word.NW_FRAG] = Frag.LATER;
    return;
  }
  w[Word.NW_FRAG] = (fragment & 0x2000) !== 0 ? Frag.FIRST : Frag.NONE;
  const protocol = packet[at + 9];
  if (protocol === IpProtocol.ICMP) {
    if (at + headerLength + 8 <= packet.length) {
      w[Word.TP_SRC] = packet[at + headerLength];
      w[Word.TP_DST] = packet[at + headerLength + 1];
    }
  } else {
    extractPorts(packet, at + headerLength, protocol, w);
  }
}

function extractIpv6(packet: Uint8Array, at: number, w: Uint32Array): void {
  const length = packet.length;
  if (at + IPV6_HEADER > length) return;
  const first = readU32(packet, at);
  w[Word.NW_TOS] = (first >>> 20) & 0xff;
  w[Word.IPV6_LABEL] = first & 0xfffff;
  w[Word.NW_TTL] = packet[at + 7];
  for (let i = 0; i < 4; i++) {
    w[Word.NW_SRC + i] = readU32(packet, at + 8 + 4 * i);
    w[Word.NW_DST + i] = readU32(packet, at + 24 + 4 * i);
  }
  // Stays when the extension headers are malformed.
  w[Word.NW_PROTO] = IpProtocol.NO_NEXT_HEADER;

  const isWalked = walkIpv6Extensions(packet, at + IPV6_HEADER, length, packet[at + 6], extensions);
  if (extensions.fragmented) w[Word.NW_FRAG] = Frag.FIRST;
  if (!isWalked) return;
  const { protocol, payload } = extensions;
  if (extensions.fragmentOffset !== 0) {
    if (isExtensionHeader(protocol)) return;
    w[Word.NW_FRAG] = Frag.LATER;
    w[Word.NW_PROTO] = protocol;
    return;
  }
  w[Word.NW_PROTO] = protocol;
  if (protocol === IpProtocol.ICMPV6) extractIcmpv6(packet, payload, w);
  else extractPorts(packet, payload, protocol, w);
}

function extractPorts(packet: Uint8Array, at: number, protocol: number, w: Uint32Array): void {
  const length = packet.length;
  if (protocol === IpProtocol.TCP) {
    if (at + 20 > length) return;
    const headerLength = (packet[at + 12] >>> 4) * 4;
    if (headerLength < 20 || at + headerLength > length) return;
    w[Word.TCP_FLAGS] = readU16(packet, at + 12) & 0xfff;
  } else if (protocol === IpProtocol.UDP) {
    if (at + 8 > length) return;
  } else if (protocol === IpProtocol.SCTP) {
    if (at + 12 > length) return;
  } else {
    return;
  }
  w[Word.TP_SRC] = readU16(packet, at);
  w[Word.TP_DST] = readU16(packet, at + 2);
}

function extractIcmpv6(packet: Uint8Array, at: number, w: Uint32Array): void {
  const length = packet.length;
  if (at + 8 > length) return;
  const type = packet[at];
  w[Word.TP_SRC] = type;
  w[Word.TP_DST] = packet[at + 1];
  if (packet[at + 1] !== 0 || (type !== NdType.NEIGHBOR_SOLICITATION && type !== NdType.NEIGHBOR_ADVERTISEMENT)) return;
  if (at + ND_MESSAGE > length) return;
  for (let i = 0; i < 4; i++) w[Word.ND_TARGET + i] = readU32(packet, at + 8 + 4 * i);
  let option = at + ND_MESSAGE;
  while (length - option >= 8) {
    const size = packet[option + 1] * 8;
    if (size === 0 || option + size > length) return;
    const word = linkLayerWord(packet[option]);
    if (word >= 0 && size === 8) {
      if ((w[word] | w[word + 1]) !== 0) {
        // The same option twice is an error: nothing of the message counts.
        w.fill(0, Word.ND_TARGET);
        return;
      }
      w[word] = readU16(packet, option + 2);
      w[word + 1] = readU32(packet, option + 4);
    }
    option += size;
  }
}

/** Where the link-layer address of an option goes; -1 for other options. */
function linkLayerWord(option: number): number {
  if (option === NdOption.SOURCE_LINK_LAYER) return Word.ARP_SHA;
  return option === NdOption.TARGET_LINK_LAYER ? Word.ARP_THA : -1;
}

function extractArp(packet: Uint8Array, at: number, w: Uint32Array): void {
  if (at + 28 > packet.length) return;
  if (readU32(packet, at) !== 0x0001_0800 || readU16(packet, at + 4) !== 0x0604) return;
  const op = readU16(packet, at + 6);
  w[Word.NW_PROTO] = op <= 0xff ? op : 0;
  w[Word.ARP_SHA] = readU16(packet, at + 8);
  w[Word.ARP_SHA + 1] = readU32(packet, at + 10);
  w[Word.NW_SRC] = readU32(packet, at + 14);
  w[Word.ARP_THA] = readU16(packet, at + 18);
  w[Word.ARP_THA + 1] = readU32(packet, at + 20);
  w[Word.NW_DST] = readU32(packet, at + 24);
}
