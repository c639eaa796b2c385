import { formatIpv4, formatIpv6, formatMac } from '../packet/address.js';
import { ArpOp } from '../packet/arp.js';
import { EtherType } from '../packet/ethernet.js';
import { IpProtocol, PROTOCOL_NAMES } from '../packet/ip-protocol.js';
import type { Action, NatSpec } from './action.js';
import { CtState, type FlowKey, Frag, NO_PORT, VLAN_PRESENT, Word } from './key.js';

/** Flow keys, masks and actions for people to read. */

const VLAN_ID_BITS = 0xfff;
const ALL_BITS = 0xffff_ffff;

/** Fields in the order of headers: first word, number of words, bits of the first word. */
const FIELDS: readonly (readonly [name: string, first: number, count: number, bits: number])[] = [
  ['in_port', Word.IN_PORT, 1, 32],
  ['recirc_id', Word.RECIRC_ID, 1, 32],
  ['dp_hash', Word.DP_HASH, 1, 32],
  ['skb_mark', Word.SKB_MARK, 1, 32],
  ['priority', Word.PRIORITY, 1, 32],
  ['ct_state', Word.CT_STATE, 1, 32],
  ['ct_zone', Word.CT_ZONE, 1, 16],
  ['ct_mark', Word.CT_MARK, 1, 32],
  ['ct_labels', Word.CT_LABELS, 4, 32],
  ['tun_id', Word.TUN_ID, 1, 32],
  ['tun_src', Word.TUN_SRC, 1, 32],
  ['tun_dst', Word.TUN_DST, 1, 32],
  ['tun_tos', Word.TUN_TOS, 1, 8],
  ['tun_ttl', Word.TUN_TTL, 1, 8],
  ['tun_flags', Word.TUN_FLAGS, 1, 16],
  ['eth_src', Word.ETH_SRC, 2, 16],
  ['eth_dst', Word.ETH_DST, 2, 16],
  ['vlan', Word.VLAN_TCI, 1, 16],
  ['vlan_tpid', Word.VLAN_TPID, 1, 16],
  ['eth_type', Word.ETH_TYPE, 1, 16],
  ['nw_src', Word.NW_SRC, 4, 32],
  ['nw_dst', Word.NW_DST, 4, 32],
  ['nw_proto', Word.NW_PROTO, 1, 8],
  ['nw_tos', Word.NW_TOS, 1, 8],
  ['nw_ttl', Word.NW_TTL, 1, 8],
  ['nw_frag', Word.NW_FRAG, 1, 8],
  ['ipv6_label', Word.IPV6_LABEL, 1, 20],
  ['tp_src', Word.TP_SRC, 1, 16],
  ['tp_dst', Word.TP_DST, 1, 16],
  ['tcp_flags', Word.TCP_FLAGS, 1, 16],
  ['nd_target', Word.ND_TARGET, 4, 32],
  ['arp_sha', Word.ARP_SHA, 2, 16],
  ['arp_tha', Word.ARP_THA, 2, 16],
];

/** The headers of a packet, from the inside out: `tcp 10.0.0.1:1000 > 10.0.0.2:80, ttl 64, 02:… > 02:…`. */
export function describePacket(key: FlowKey): string {
  const parts = [describeNetwork(key)];
  if (isIp(key)) parts.push(`ttl ${key.nwTtl}`);
  if (isIp(key) && key.nwFrag !== Frag.NONE)
    parts.push(key.nwFrag === Frag.FIRST ? 'first fragment' : 'later fragment');
  if (key.vlanTci !== 0) parts.push(`vlan ${key.vlanTci & VLAN_ID_BITS}`);
  parts.push(`${formatMac(key.ethSrc)} > ${formatMac(key.ethDst)}`);
  return parts.join(', ');
}

function describeNetwork(key: FlowKey): string {
  const src = describeAddress(key, Word.NW_SRC);
  const dst = describeAddress(key, Word.NW_DST);
  if (key.ethType === EtherType.ARP) return describeArp(key, src, dst);
  if (!isIp(key)) return `type 0x${key.ethType.toString(16).padStart(4, '0')}`;
  const protocol = PROTOCOL_NAMES.get(key.nwProto) ?? `protocol ${key.nwProto}`;
  if (key.nwFrag === Frag.LATER) return `${protocol} ${src} > ${dst}`;
  switch (key.nwProto) {
    case IpProtocol.TCP:
    case IpProtocol.UDP:
    case IpProtocol.SCTP:
      return `${protocol} ${withPort(src, key.tpSrc)} > ${withPort(dst, key.tpDst)}`;
    case IpProtocol.ICMP:
    case IpProtocol.ICMPV6:
      return `${protocol} type ${key.tpSrc} code ${key.tpDst}, ${src} > ${dst}`;
    default:
      return `${protocol} ${src} > ${dst}`;
  }
}

/** A request asks for the target's address, a reply tells of its sender's (RFC 826). */
function describeArp({ nwProto, arpSha }: FlowKey, sender: string, target: string): string {
  switch (nwProto) {
    case ArpOp.REQUEST:
      return `arp who-has ${target} tell ${sender}`;
    case ArpOp.REPLY:
      return `arp ${sender} is-at ${formatMac(arpSha)}`;
    default:
      return `arp operation ${nwProto}, ${sender} > ${target}`;
  }
}

function isIp({ ethType }: FlowKey): boolean {
  return ethType === EtherType.IPV4 || ethType === EtherType.IPV6;
}

function describeAddress(key: FlowKey, first: number): string {
  if (key.ethType === EtherType.IPV6) return formatIpv6(key.words.subarray(first, first + 4));
  return formatIpv4(key.words[first]);
}

function withPort(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

/**
 * The bits that a flow matches, with what they are: `in_port=1 eth_type=0x800 nw_dst=10.2.0.0/16 tp_dst=80`. Addresses have the
 * length of their prefix, other fields the mask of their bits where these are not all. `every packet` without any.
 */
export function describeMatch(key: FlowKey, mask: FlowKey): string {
  const found: string[] = [];
  for (const [name, first, count, bits] of FIELDS) {
    const words = mask.words.subarray(first, first + count);
    if (words.every((word) => word === 0) || isPartOfTag(key, first)) continue;
    found.push(`${name}=${describeField(key, mask, first, bits)}`);
  }
  return found.length > 0 ? found.join(' ') : 'every packet';
}

/** What kind of tag it is is of interest only where there is one. */
function isPartOfTag(key: FlowKey, first: number): boolean {
  return first === Word.VLAN_TPID && key.vlanTci === 0;
}

function describeField(key: FlowKey, mask: FlowKey, first: number, bits: number): string {
  const value = key.words[first] & mask.words[first];
  switch (first) {
    case Word.ETH_SRC:
    case Word.ETH_DST:
    case Word.ARP_SHA:
    case Word.ARP_THA: {
      const isWhole = (mask.words[first] & 0xffff) === 0xffff && mask.words[first + 1] === ALL_BITS;
      const masked = key.masked(mask);
      return isWhole ? wideMac(masked, first) : `${wideMac(masked, first)}/${wideMac(mask, first)}`;
    }
    case Word.NW_SRC:
    case Word.NW_DST:
    case Word.ND_TARGET: {
      const isIpv6 = first === Word.ND_TARGET || key.ethType === EtherType.IPV6;
      const words = key.masked(mask).words.subarray(first, first + 4);
      let prefix = 0;
      for (let i = 0; i < (isIpv6 ? 4 : 1); i++) prefix += bitCount(mask.words[first + i]);
      const address = isIpv6 ? formatIpv6(words) : formatIpv4(words[0]);
      return prefix === (isIpv6 ? 128 : 32) ? address : `${address}/${prefix}`;
    }
    case Word.CT_LABELS:
      return `${hexWords(key.masked(mask), first)}/${hexWords(mask, first)}`;
    case Word.IN_PORT:
      return value >>> 0 === NO_PORT ? 'none' : String(value >>> 0);
    case Word.TUN_SRC:
    case Word.TUN_DST:
      return formatIpv4(value >>> 0);
    case Word.CT_STATE:
      return describeCtState(key.ctState, mask.words[Word.CT_STATE]);
    case Word.VLAN_TCI:
      return (value & VLAN_PRESENT) === 0 ? 'none' : String(value & VLAN_ID_BITS);
    default: {
      const text =
        first === Word.ETH_TYPE || first === Word.VLAN_TPID
          ? `0x${value.toString(16).padStart(4, '0')}`
          : String(value >>> 0);
      const all = bits === 32 ? ALL_BITS : (1 << bits) - 1;
      return (mask.words[first] & all) >>> 0 === all ? text : `${text}/0x${(mask.words[first] >>> 0).toString(16)}`;
    }
  }
}

function hexWords({ words }: FlowKey, first: number): string {
  return Array.from(words.subarray(first, first + 4), (word) => word.toString(16).padStart(8, '0')).join('');
}

/** Bits that are set and that are not: `+established-reply`. */
function describeCtState(state: number, mask: number): string {
  let text = '';
  for (const [name, bit] of Object.entries(CtState)) {
    if ((mask & bit) !== 0) text += `${(state & bit) === 0 ? '-' : '+'}${name.toLowerCase()}`;
  }
  return text;
}

function wideMac({ words }: FlowKey, first: number): string {
  return formatMac((words[first] & 0xffff) * 2 ** 32 + words[first + 1]);
}

function bitCount(word: number): number {
  let count = 0;
  for (let rest = word; rest !== 0; rest &= rest - 1) count++;
  return count;
}

/** What is done to a packet, in order; `drop` for nothing. */
export function describeActions(actions: readonly Action[]): string {
  return actions.length === 0 ? 'drop' : actions.map(describeAction).join(', ');
}

function describeAction(action: Action): string {
  switch (action.type) {
    case 'output':
      return `output(${action.port})`;
    case 'set':
      return `set(${describeMatch(action.key, action.mask)})`;
    case 'set-tunnel': {
      const { id, src, dst } = action.tunnel;
      return `set-tunnel(key ${id}, ${formatIpv4(src)} > ${formatIpv4(dst)})`;
    }
    case 'push-vlan':
      return `push-vlan(${action.tci & VLAN_ID_BITS})`;
    case 'ct': {
      const parts = [`zone ${action.zone}`];
      if (action.commit || action.forceCommit) parts.push('commit');
      if (action.mark !== undefined) parts.push(`mark ${action.mark}`);
      if (action.nat !== undefined) parts.push(describeNat(action.nat));
      return `ct(${parts.join(', ')})`;
    }
    case 'recirc':
      return `recirc(${action.id})`;
    case 'hash':
      return `hash(${action.basis})`;
    case 'trunc':
      return `trunc(${action.maxLength})`;
    case 'meter':
      return `meter(${action.id})`;
    case 'clone':
      return `clone(${describeActions(action.actions)})`;
    case 'userspace':
    case 'pop-vlan':
    case 'ct-clear':
      return action.type;
  }
}

/** `nat dst 10.0.0.2 port 80-90`; `nat` for what the connection was committed with. */
export function describeNat({ kind, ipMin, ipMax, portMin, portMax }: NatSpec): string {
  if (kind === 'restore') return 'nat';
  const address = (words: readonly number[]) => (words.length === 1 ? formatIpv4(words[0]) : formatIpv6(words));
  let text = `nat ${kind}`;
  if (ipMin !== undefined) text += ` ${describeRange(address(ipMin), address(ipMax ?? ipMin))}`;
  if (portMin !== undefined) text += ` port ${describeRange(String(portMin), String(portMax ?? portMin))}`;
  return text;
}

function describeRange(first: string, last: string): string {
  return first === last ? first : `${first}-${last}`;
}
