import { InvalidInputError } from '../errors.js';
import { type FlowKey, Frag, VLAN_PRESENT, Word } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { requireMac } from '../packet/address.js';
import { EtherType } from '../packet/ethernet.js';
import { isIcmpError } from '../packet/icmp.js';
import { isIcmpv6Error } from '../packet/icmpv6.js';
import { type Cidr, parseCidr } from '../packet/ip.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import { commonBits } from '../packet/prefix.js';
import type { Condition } from '../topology/chains.js';

/** Conditions of rules in the form that packets are held against. */

export type Side = 'source' | 'destination';

/**
 * What a condition asks of a packet beside its headers. Nothing in here may depend on bits of the packet that were not
 * seen: who answers a question records what the answer was made from.
 */
export interface Surroundings {
  /** Port of the device that the packet came in at; undefined when it came in at none. */
  readonly inPortId: string | undefined;
  /** Port of the device that the packet goes out at; undefined before that is known, and when the packet is flooded. */
  readonly outPortId: string | undefined;
  /** Groups of the exterior port where the packet entered the virtual network. */
  readonly entryPortGroupIds: ReadonlySet<string>;
  readonly inPortGroupIds: ReadonlySet<string>;
  readonly outPortGroupIds: ReadonlySet<string>;
  /** Bridges and routers that the packet has passed. */
  readonly traversedDeviceIds: ReadonlySet<string>;
  /** Whether DNAT, or SNAT in reverse, changed the destination before. */
  readonly isDestinationRewritten: boolean;
  /** Whether the packet goes the way of the one that opened its connection; undefined while not known. */
  connection(): 'forward' | 'return' | undefined;
  /**
   * Whether an address of the packet is in an address group; undefined while not known. Asked only of packets that have
   * addresses, when the whole address has been seen.
   */
  isMember(groupId: string, packet: FlowKey, side: Side): boolean | undefined;
  /**
   * An address of the packet that an ICMP error carries, of the error's own family: one word of IPv4, four of IPv6.
   * Null when the error carries no such packet, undefined while not known. Asked only of ICMP errors. No flow key holds
   * these addresses: what is decided by them holds for this one packet only.
   */
  icmpData(side: Side): Uint32Array | undefined | null;
}

/** One field of a condition: whether it matches, undefined while not known. Records the bits that it reads. */
type Check = (packet: FlowKey, seen: FlowMask, surroundings: Surroundings) => boolean | undefined;

export interface CompiledCondition {
  /** Bit n is set when packets of fragment kind n match ({@link Frag}). */
  readonly fragments: number;
  readonly conjunctionInverted: boolean;
  /** Those of the fields that are given, cheap ones first. */
  readonly checks: readonly Check[];
}

const ALL_FRAGMENTS = (1 << Frag.NONE) | (1 << Frag.FIRST) | (1 << Frag.LATER);
const FRAGMENTS = {
  any: ALL_FRAGMENTS,
  header: (1 << Frag.NONE) | (1 << Frag.FIRST),
  nonheader: 1 << Frag.LATER,
  unfragmented: 1 << Frag.NONE,
} as const;

const VLAN_ID_BITS = 0xfff;
const VLAN_PRIORITY_SHIFT = 13;
const MAX_PORT = 0xffff;
const TWO_32 = 0x1_0000_0000;

/**
 * Fields that cost no bit of the packet come first, then those of headers from the outside in, then what has to be
 * looked up, and last the connection, which may take the packet through connection tracking.
 */
export function compileCondition(condition: Condition): CompiledCondition {
  const c = condition;
  const checks: Check[] = [];
  const add = (field: string, check: Check) => {
    checks.push(c.inverted?.some((name) => name === field) ? not(check) : check);
  };

  if (c.inPortIds) add('inPortIds', portCheck('inPortId', c.inPortIds));
  if (c.outPortIds) add('outPortIds', portCheck('outPortId', c.outPortIds));
  if (c.portGroupId) add('portGroupId', portGroupCheck('entryPortGroupIds', c.portGroupId));
  if (c.inPortGroupId) add('inPortGroupId', portGroupCheck('inPortGroupIds', c.inPortGroupId));
  if (c.outPortGroupId) add('outPortGroupId', portGroupCheck('outPortGroupIds', c.outPortGroupId));
  if (c.traversedBridgeIds) add('traversedBridgeIds', traversedCheck(c.traversedBridgeIds));
  if (c.traversedRouterIds) add('traversedRouterIds', traversedCheck(c.traversedRouterIds));
  if (c.matchDestinationRewritten) add('matchDestinationRewritten', isDestinationRewritten);

  if (c.noVlan) add('noVlan', hasNoVlan);
  if (c.vlanId !== undefined) add('vlanId', vlanCheck(c.vlanId));
  if (c.vlanPriority !== undefined) add('vlanPriority', vlanPriorityCheck(c.vlanPriority));
  if (c.etherType !== undefined) add('etherType', etherTypeCheck(c.etherType));
  if (c.sourceMac) add('sourceMac', macCheck('source', c.sourceMac, c.sourceMacMask));
  if (c.destinationMac) add('destinationMac', macCheck('destination', c.destinationMac, c.destinationMacMask));
  if (c.protocol !== undefined) add('protocol', protocolCheck(c.protocol));
  if (c.tos !== undefined) add('tos', tosCheck(c.tos));
  if (c.source) add('source', addressCheck('source', c.source));
  if (c.destination) add('destination', addressCheck('destination', c.destination));
  if (c.sourcePorts) add('sourcePorts', transportPortCheck('source', c.sourcePorts));
  if (c.destinationPorts) add('destinationPorts', transportPortCheck('destination', c.destinationPorts));

  if (c.sourceAddressGroupId) add('sourceAddressGroupId', memberCheck('source', c.sourceAddressGroupId));
  if (c.destinationAddressGroupId) {
    add('destinationAddressGroupId', memberCheck('destination', c.destinationAddressGroupId));
  }
  if (c.icmpDataSource) add('icmpDataSource', icmpDataCheck('source', c.icmpDataSource));
  if (c.icmpDataDestination) add('icmpDataDestination', icmpDataCheck('destination', c.icmpDataDestination));
  if (c.matchForwardFlow) add('matchForwardFlow', connectionCheck('forward'));
  if (c.matchReturnFlow) add('matchReturnFlow', connectionCheck('return'));

  return { fragments: FRAGMENTS[fragmentPolicyOf(c)], conjunctionInverted: c.conjunctionInverted ?? false, checks };
}

export type FragmentPolicy = keyof typeof FRAGMENTS;

export function fragmentPolicyOf({ fragmentPolicy, sourcePorts, destinationPorts }: Condition): FragmentPolicy {
  return fragmentPolicy ?? (sourcePorts !== undefined || destinationPorts !== undefined ? 'header' : 'any');
}

/**
 * Whether a packet is as the condition says; undefined while something is not known that it depends on. Stops at the
 * first field that decides, and records in `seen` the bits read until then: a packet that agrees with this one in them,
 * in the same surroundings, has the same result.
 *
 * The fragment policy stands apart: a packet that it does not let through never matches, whatever is inverted. A field
 * that the packet does not have does not match, inverted it does; ports are the other way round.
 */
export function matches(
  condition: CompiledCondition,
  packet: FlowKey,
  seen: FlowMask,
  surroundings: Surroundings,
): boolean | undefined {
  const { fragments, conjunctionInverted, checks } = condition;
  if (fragments !== ALL_FRAGMENTS && ((fragments >>> fragmentKind(packet, seen)) & 1) === 0) return false;
  for (let i = 0; i < checks.length; i++) {
    const result = checks[i](packet, seen, surroundings);
    if (result === undefined) return undefined;
    if (!result) return conjunctionInverted;
  }
  return !conjunctionInverted;
}

function not(check: Check): Check {
  return (packet, seen, surroundings) => {
    const result = check(packet, seen, surroundings);
    return result === undefined ? undefined : !result;
  };
}

function portCheck(field: 'inPortId' | 'outPortId', portIds: readonly string[]): Check {
  const ids = new Set(portIds);
  return (_packet, _seen, surroundings) => {
    const id = surroundings[field];
    return id !== undefined && ids.has(id);
  };
}

function portGroupCheck(field: 'entryPortGroupIds' | 'inPortGroupIds' | 'outPortGroupIds', groupId: string): Check {
  return (_packet, _seen, surroundings) => surroundings[field].has(groupId);
}

function traversedCheck(deviceIds: readonly string[]): Check {
  return (_packet, _seen, { traversedDeviceIds }) => {
    for (let i = 0; i < deviceIds.length; i++) if (traversedDeviceIds.has(deviceIds[i])) return true;
    return false;
  };
}

function isDestinationRewritten(_packet: FlowKey, _seen: FlowMask, surroundings: Surroundings): boolean {
  return surroundings.isDestinationRewritten;
}

function hasNoVlan(packet: FlowKey, seen: FlowMask): boolean {
  seen.seeVlan();
  return (packet.vlanTci & VLAN_PRESENT) === 0;
}

function vlanCheck(vlanId: number): Check {
  return (packet, seen) => {
    seen.seeVlan();
    return (packet.vlanTci & (VLAN_PRESENT | VLAN_ID_BITS)) === (VLAN_PRESENT | vlanId);
  };
}

function vlanPriorityCheck(priority: number): Check {
  return (packet, seen) => {
    seen.seeVlan();
    return (packet.vlanTci & VLAN_PRESENT) !== 0 && packet.vlanTci >>> VLAN_PRIORITY_SHIFT === priority;
  };
}

function etherTypeCheck(etherType: number): Check {
  return (packet, seen) => {
    seen.seeEthType();
    return packet.ethType === etherType;
  };
}

function macCheck(side: Side, mac: string, mask = 'ff:ff:ff:ff:ff:ff'): Check {
  const [high, low] = macWords(mac);
  const [highBits, lowBits] = macWords(mask);
  const at = side === 'source' ? Word.ETH_SRC : Word.ETH_DST;
  return ({ words }, seen) => {
    const isHighEqual = ((words[at] ^ high) & highBits) === 0;
    const seenLow = isHighEqual ? lowBits : 0;
    if (side === 'source') seen.seeEthSrc(highBits, seenLow);
    else seen.seeEthDst(highBits, seenLow);
    return isHighEqual && ((words[at + 1] ^ low) & lowBits) === 0;
  };
}

function protocolCheck(protocol: number): Check {
  return (packet, seen) => {
    if (addressFamily(packet, seen) === 0) return false;
    seen.seeNwProto();
    return packet.nwProto === protocol;
  };
}

function tosCheck(tos: number): Check {
  return (packet, seen) => {
    if (!isIp(packet, seen)) return false;
    seen.seeNwTos();
    return packet.nwTos === tos;
  };
}

function addressCheck(side: Side, range: string): Check {
  const { family, prefix, words } = requireCidr(range);
  const at = side === 'source' ? Word.NW_SRC : Word.NW_DST;
  return (packet, seen) => {
    if (addressFamily(packet, seen) !== family) return false;
    const common = commonBits(packet.words, at, words, prefix);
    seeAddress(seen, family, side, Math.min(prefix, common + 1));
    return common === prefix;
  };
}

function transportPortCheck(side: Side, { start, end }: { start: number; end: number }): Check {
  return (packet, seen) => {
    if (!hasTransport(packet, seen)) return true;
    const port = side === 'source' ? packet.tpSrc : packet.tpDst;
    const bits = rangeBits(port, start, end);
    if (side === 'source') seen.seeTpSrc(bits);
    else seen.seeTpDst(bits);
    return port >= start && port <= end;
  };
}

function memberCheck(side: Side, groupId: string): Check {
  return (packet, seen, surroundings) => {
    const family = addressFamily(packet, seen);
    if (family === 0) return false;
    seeAddress(seen, family, side, family === 4 ? 32 : 128);
    return surroundings.isMember(groupId, packet, side);
  };
}

function icmpDataCheck(side: Side, range: string): Check {
  const { family, prefix, words } = requireCidr(range);
  return (packet, seen, surroundings) => {
    if (addressFamily(packet, seen) !== family || !hasTransport(packet, seen)) return false;
    if (packet.nwProto !== (family === 4 ? IpProtocol.ICMP : IpProtocol.ICMPV6)) return false;
    seen.seeTpSrc();
    if (!(family === 4 ? isIcmpError(packet.tpSrc) : isIcmpv6Error(packet.tpSrc))) return false;
    const address = surroundings.icmpData(side);
    if (address === undefined) return undefined;
    return address !== null && commonBits(address, 0, words, prefix) === prefix;
  };
}

function connectionCheck(direction: 'forward' | 'return'): Check {
  return (_packet, _seen, surroundings) => {
    const connection = surroundings.connection();
    return connection === undefined ? undefined : connection === direction;
  };
}

/** One of {@link Frag}: what is no IP packet is no fragment. */
export function fragmentKind(packet: FlowKey, seen: FlowMask): number {
  if (!isIp(packet, seen)) return Frag.NONE;
  seen.seeNwFrag();
  return packet.nwFrag;
}

function isIp(packet: FlowKey, seen: FlowMask): boolean {
  seen.seeEthType();
  return packet.ethType === EtherType.IPV4 || packet.ethType === EtherType.IPV6;
}

/** The family of the addresses that the packet has, those of ARP included; 0 when it has none. */
export function addressFamily(packet: FlowKey, seen: FlowMask): 4 | 6 | 0 {
  seen.seeEthType();
  const { ethType } = packet;
  if (ethType === EtherType.IPV4 || ethType === EtherType.ARP) return 4;
  return ethType === EtherType.IPV6 ? 6 : 0;
}

/** Whether the packet has what flow keys hold as ports: a transport header, or type and code of ICMP. */
export function hasTransport(packet: FlowKey, seen: FlowMask): boolean {
  if (!isIp(packet, seen)) return false;
  seen.seeNwProto();
  const protocol = packet.nwProto;
  const known =
    protocol === IpProtocol.TCP ||
    protocol === IpProtocol.UDP ||
    protocol === IpProtocol.SCTP ||
    protocol === (packet.ethType === EtherType.IPV4 ? IpProtocol.ICMP : IpProtocol.ICMPV6);
  if (!known) return false;
  seen.seeNwFrag();
  return packet.nwFrag !== Frag.LATER;
}

/** Record `prefix` leading bits of an address of the packet, of the family that it is known to have. */
export function seeAddress(seen: FlowMask, family: 4 | 6, side: Side, prefix: number): void {
  if (family === 4) {
    if (side === 'source') seen.seeIpv4Src(prefix);
    else seen.seeIpv4Dst(prefix);
  } else if (side === 'source') seen.seeIpv6Src(prefix);
  else seen.seeIpv6Dst(prefix);
}

/**
 * The leading bits of a port that prove it in the range or out of it: as many as it takes to tell the port from the
 * nearest ones on the other side of the range's ends.
 */
function rangeBits(port: number, start: number, end: number): number {
  if (port < start) return bitsToTell(port, start);
  if (port > end) return bitsToTell(port, end);
  return (start > 0 ? bitsToTell(port, start - 1) : 0) | (end < MAX_PORT ? bitsToTell(port, end + 1) : 0);
}

/** The leading bits of 16, up to the first in which two different numbers differ. */
export function bitsToTell(a: number, b: number): number {
  return (MAX_PORT << (31 - Math.clz32(a ^ b))) & MAX_PORT;
}

/** @throws InvalidInputError if the text is no MAC address */
export function macWords(text: string): [high: number, low: number] {
  const mac = requireMac(text, 'mac');
  return [Math.floor(mac / TWO_32), mac % TWO_32];
}

/** @throws InvalidInputError if the text is no address range */
export function requireCidr(text: string): Cidr {
  const cidr = parseCidr(text);
  if (cidr === undefined) throw new InvalidInputError('condition', text, 'expected an address range like 10.0.0.0/16');
  return cidr;
}
