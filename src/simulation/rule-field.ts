import { type FlowKey, Frag, Word } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { ipv4PrefixMask } from '../packet/address.js';
import type { Condition } from '../topology/chains.js';
import {
  addressFamily,
  type FragmentPolicy,
  fragmentKind,
  fragmentPolicyOf,
  hasTransport,
  macWords,
  requireCidr,
} from './condition.js';

/** The fields of packets by which an index finds rules, and what a condition asks of them. */

/** What a packet is to the rules that compare a field: none can match, those that its value matches, or all may. */
export type Comparison = 'none' | 'by-value' | 'all';

/** A field as a number in one or more words of a flow key, compared from the first bit on. */
export interface RuleField {
  /** Index of the first word in a flow key. */
  readonly word: number;
  compare(packet: FlowKey, seen: FlowMask): Comparison;
  /** Record that the leading `length` bits were compared. */
  see(seen: FlowMask, length: number): void;
}

/**
 * Leading bits of a field's words, those included that are zero because the field is narrower. Words are signed 32-bit
 * numbers; bits behind `length` are zero.
 */
export interface Prefix {
  readonly words: readonly number[];
  readonly length: number;
}

/** What a condition asks of one field: to begin with one of the prefixes, of which no two agree. */
export interface Constraint {
  readonly field: RuleField;
  readonly prefixes: readonly Prefix[];
}

/** A condition in two parts; it matches where both do. */
export interface DividedCondition {
  readonly constraints: readonly Constraint[];
  readonly rest: Condition;
}

type FieldName = NonNullable<Condition['inverted']>[number];

const PROTOCOL: RuleField = {
  word: Word.NW_PROTO,
  compare: (packet, seen) => (addressFamily(packet, seen) === 0 ? 'none' : 'by-value'),
  see: (seen) => seen.seeNwProto(),
};

const IPV4_DESTINATION: RuleField = {
  word: Word.NW_DST,
  compare: (packet, seen) => (addressFamily(packet, seen) === 4 ? 'by-value' : 'none'),
  see: (seen, length) => seen.seeIpv4Dst(length),
};

const IPV6_DESTINATION: RuleField = {
  word: Word.NW_DST,
  compare: (packet, seen) => (addressFamily(packet, seen) === 6 ? 'by-value' : 'none'),
  see: (seen, length) => seen.seeIpv6Dst(length),
};

const IPV4_SOURCE: RuleField = {
  word: Word.NW_SRC,
  compare: IPV4_DESTINATION.compare,
  see: (seen, length) => seen.seeIpv4Src(length),
};

const IPV6_SOURCE: RuleField = {
  word: Word.NW_SRC,
  compare: IPV6_DESTINATION.compare,
  see: (seen, length) => seen.seeIpv6Src(length),
};

const DESTINATION_PORT: RuleField = {
  word: Word.TP_DST,
  compare: comparePorts,
  see: (seen, length) => seen.seeTpDst(ipv4PrefixMask(length) & 0xffff),
};

const SOURCE_PORT: RuleField = {
  word: Word.TP_SRC,
  compare: comparePorts,
  see: (seen, length) => seen.seeTpSrc(ipv4PrefixMask(length) & 0xffff),
};

const DESTINATION_MAC: RuleField = {
  word: Word.ETH_DST,
  compare: () => 'by-value',
  see: (seen, length) => seen.seeEthDst(ipv4PrefixMask(length) & 0xffff, ipv4PrefixMask(length - 32)),
};

const SOURCE_MAC: RuleField = {
  word: Word.ETH_SRC,
  compare: () => 'by-value',
  see: (seen, length) => seen.seeEthSrc(ipv4PrefixMask(length) & 0xffff, ipv4PrefixMask(length - 32)),
};

/** Both ranges of ports of a rule are used to find it while they have no more pairs of prefixes than this. */
const MAX_PORT_PREFIXES = 64;

/**
 * The part of a condition by which rules can be found, and the part that is left to be checked. The constraints are in
 * the same order of fields always: the protocol, which most firewalls have few of, then what tells most rules apart.
 */
export function divideCondition(condition: Condition): DividedCondition {
  const constraints: Constraint[] = [];
  const rest: Condition = { ...condition, fragmentPolicy: fragmentPolicyOf(condition) };
  if (condition.conjunctionInverted) return { constraints, rest };
  const add = (name: FieldName, field: RuleField, prefixes: readonly Prefix[]) => {
    if (prefixes.length === 0 || condition.inverted?.includes(name)) return;
    constraints.push({ field, prefixes });
    rest[name] = undefined;
  };
  const { protocol, destination, source, destinationMac, sourceMac } = condition;
  if (protocol !== undefined) add('protocol', PROTOCOL, [prefixOf([protocol], 32)]);
  if (destination) add('destination', ...addressPrefix(destination, IPV4_DESTINATION, IPV6_DESTINATION));
  if (source) add('source', ...addressPrefix(source, IPV4_SOURCE, IPV6_SOURCE));
  const { destinationPorts, sourcePorts } = portPrefixes(condition);
  add('destinationPorts', DESTINATION_PORT, destinationPorts);
  add('sourcePorts', SOURCE_PORT, sourcePorts);
  if (destinationMac) add('destinationMac', DESTINATION_MAC, macPrefixes(destinationMac, condition.destinationMacMask));
  if (sourceMac) add('sourceMac', SOURCE_MAC, macPrefixes(sourceMac, condition.sourceMacMask));
  return { constraints, rest };
}

/** Rules that compare ports match packets without ports too, but for later fragments. */
function comparePorts(packet: FlowKey, seen: FlowMask): Comparison {
  if (fragmentKind(packet, seen) === Frag.LATER) return 'none';
  return hasTransport(packet, seen) ? 'by-value' : 'all';
}

function addressPrefix(range: string, ipv4: RuleField, ipv6: RuleField): [RuleField, Prefix[]] {
  const { family, words, prefix } = requireCidr(range);
  return [family === 4 ? ipv4 : ipv6, [prefixOf(words, prefix)]];
}

function portPrefixes(condition: Condition): { destinationPorts: Prefix[]; sourcePorts: Prefix[] } {
  const policy: FragmentPolicy = fragmentPolicyOf(condition);
  // What lets later fragments through cannot be found by ports.
  if (policy === 'any' || policy === 'nonheader') return { destinationPorts: [], sourcePorts: [] };
  const destinationPorts = rangePrefixes(condition.destinationPorts);
  const sourcePorts = rangePrefixes(condition.sourcePorts);
  if (destinationPorts.length * sourcePorts.length <= MAX_PORT_PREFIXES) return { destinationPorts, sourcePorts };
  if (sourcePorts.length < destinationPorts.length) return { destinationPorts: [], sourcePorts };
  return { destinationPorts, sourcePorts: [] };
}

/** The fewest prefixes that make up a range; none if it is all ports, or missing. */
function rangePrefixes(range: Condition['sourcePorts']): Prefix[] {
  const prefixes: Prefix[] = [];
  if (range === undefined || (range.start === 0 && range.end === 0xffff)) return prefixes;
  for (let at = range.start; at <= range.end; ) {
    let size = at === 0 ? 0x1_0000 : at & -at;
    while (at + size - 1 > range.end) size >>>= 1;
    prefixes.push(prefixOf([at], Math.clz32(size) + 1));
    at += size;
  }
  return prefixes;
}

/** None if the mask is no prefix. */
function macPrefixes(mac: string, mask = 'ff:ff:ff:ff:ff:ff'): Prefix[] {
  const [high, low] = macWords(mask);
  const length = high === 0xffff ? 32 + Math.clz32(~low) : Math.clz32(~(high | 0xffff_0000));
  const isPrefix = high === (ipv4PrefixMask(length) & 0xffff) && low === ipv4PrefixMask(length - 32);
  return isPrefix ? [prefixOf(macWords(mac), length)] : [];
}

function prefixOf(words: readonly number[], length: number): Prefix {
  return { words: words.map((word, i) => word & ipv4PrefixMask(length - 32 * i)), length };
}
