import { type FlowKey, Frag, Word } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { ipv4PrefixMask } from '../packet/address.js';
import type { Condition } from '../topology/chains.js';
import { addressFamily, fragmentKind, hasTransport, macWords, requireCidr } from './condition.js';

/** The fields of packets by which an index finds rules, and what a condition asks of them. */

/** What a packet is to the rules that compare a field: none can match, those that its value matches, or all may. */
export type Comparison = 'none' | 'by-value' | 'all';

/** A field as a number in one or more words of a flow key, compared from its first bit on. */
export interface RuleField {
  /** Index of the first word in a flow key. */
  readonly word: number;
  /** Leading bits of the first word that the field does not use; they are zero, and count as bits of the prefix. */
  readonly unused: number;
  compare(packet: FlowKey, seen: FlowMask): Comparison;
  /** Record that the leading `length` bits were compared. */
  see(seen: FlowMask, length: number): void;
}

/** Leading bits of a field, `unused` ones included. Words are signed 32-bit numbers; bits behind `length` are zero. */
export interface Prefix {
  readonly words: readonly number[];
  readonly length: number;
}

/** What a condition asks of one field: to begin with one of the prefixes, of which no two agree. */
export interface Constraint {
  readonly field: RuleField;
  readonly prefixes: readonly Prefix[];
}

const protocol: RuleField = {
  word: Word.NW_PROTO,
  unused: 24,
  compare: (packet, seen) => (addressFamily(packet, seen) === 0 ? 'none' : 'by-value'),
  see: (seen) => seen.seeNwProto(),
};

const ipv4Destination: RuleField = {
  word: Word.NW_DST,
  unused: 0,
  compare: (packet, seen) => (addressFamily(packet, seen) === 4 ? 'by-value' : 'none'),
  see: (seen, length) => seen.seeIpv4Dst(length),
};

const ipv6Destination: RuleField = {
  word: Word.NW_DST,
  unused: 0,
  compare: (packet, seen) => (addressFamily(packet, seen) === 6 ? 'by-value' : 'none'),
  see: (seen, length) => seen.seeIpv6Dst(length),
};

const ipv4Source: RuleField = {
  ...ipv4Destination,
  word: Word.NW_SRC,
  see: (seen, length) => seen.seeIpv4Src(length),
};

const ipv6Source: RuleField = {
  ...ipv6Destination,
  word: Word.NW_SRC,
  see: (seen, length) => seen.seeIpv6Src(length),
};

const destinationPort: RuleField = {
  word: Word.TP_DST,
  unused: 16,
  compare: comparePorts,
  see: (seen, length) => seen.seeTpDst(ipv4PrefixMask(length) & 0xffff),
};

const sourcePort: RuleField = {
  word: Word.TP_SRC,
  unused: 16,
  compare: comparePorts,
  see: (seen, length) => seen.seeTpSrc(ipv4PrefixMask(length) & 0xffff),
};

const destinationMac: RuleField = {
  word: Word.ETH_DST,
  unused: 16,
  compare: () => 'by-value',
  see: (seen, length) => seen.seeEthDst(ipv4PrefixMask(length) & 0xffff, ipv4PrefixMask(length - 32)),
};

const sourceMac: RuleField = {
  word: Word.ETH_SRC,
  unused: 16,
  compare: () => 'by-value',
  see: (seen, length) => seen.seeEthSrc(ipv4PrefixMask(length) & 0xffff, ipv4PrefixMask(length - 32)),
};

/** A rule is put in an index at as many places as its ranges of source and destination ports have parts together. */
const MAX_PLACES = 64;

/**
 * What a condition asks of the fields of this file; a packet that differs in one of them does not match. Always in the
 * same order of fields: the protocol, which most firewalls have few of, then what tells most rules apart.
 */
export function constraintsOf(condition: Condition): Constraint[] {
  if (condition.conjunctionInverted) return [];
  const isPlain = (field: NonNullable<Condition['inverted']>[number]) =>
    condition[field] !== undefined && !condition.inverted?.includes(field);
  const constraints: Constraint[] = [];
  if (isPlain('protocol')) constraints.push({ field: protocol, prefixes: [prefixOf([condition.protocol!], 32)] });
  if (isPlain('destination'))
    constraints.push(rangeConstraint(condition.destination!, ipv4Destination, ipv6Destination));
  if (isPlain('source')) constraints.push(rangeConstraint(condition.source!, ipv4Source, ipv6Source));
  constraints.push(...portConstraints(condition, isPlain('destinationPorts'), isPlain('sourcePorts')));
  if (isPlain('destinationMac')) {
    constraints.push(...macConstraint(destinationMac, condition.destinationMac!, condition.destinationMacMask));
  }
  if (isPlain('sourceMac')) {
    constraints.push(...macConstraint(sourceMac, condition.sourceMac!, condition.sourceMacMask));
  }
  return constraints;
}

/** Rules that compare ports match packets without ports too, but for later fragments, which may have ports unseen. */
function comparePorts(packet: FlowKey, seen: FlowMask): Comparison {
  if (fragmentKind(packet, seen) === Frag.LATER) return 'none';
  return hasTransport(packet, seen) ? 'by-value' : 'all';
}

function rangeConstraint(range: string, ipv4: RuleField, ipv6: RuleField): Constraint {
  const { family, words, prefix } = requireCidr(range);
  return { field: family === 4 ? ipv4 : ipv6, prefixes: [prefixOf(words, prefix)] };
}

function portConstraints(condition: Condition, hasDestination: boolean, hasSource: boolean): Constraint[] {
  // No rule that lets later fragments through can be found by ports.
  if (condition.fragmentPolicy === 'any' || condition.fragmentPolicy === 'nonheader') return [];
  const destination = hasDestination ? portPrefixes(condition.destinationPorts!) : [];
  const source = hasSource ? portPrefixes(condition.sourcePorts!) : [];
  const constraints = [
    { field: destinationPort, prefixes: destination },
    { field: sourcePort, prefixes: source },
  ].filter(({ prefixes }) => prefixes.length > 0);
  if (destination.length * source.length <= MAX_PLACES) return constraints;
  return constraints.filter(({ prefixes }) => prefixes.length === Math.min(destination.length, source.length));
}

/** The fewest prefixes that make up a range; none if it is all ports. */
function portPrefixes({ start, end }: { start: number; end: number }): Prefix[] {
  const prefixes: Prefix[] = [];
  if (start === 0 && end === 0xffff) return prefixes;
  for (let at = start; at <= end; ) {
    let size = at === 0 ? 0x1_0000 : at & -at;
    while (at + size - 1 > end) size >>>= 1;
    prefixes.push(prefixOf([at], Math.clz32(size) + 1));
    at += size;
  }
  return prefixes;
}

/** None if the mask is no prefix. */
function macConstraint(field: RuleField, mac: string, mask = 'ff:ff:ff:ff:ff:ff'): Constraint[] {
  const [high, low] = macWords(mask);
  const length = high === 0xffff ? 32 + Math.clz32(~low) : Math.clz32(~(high | 0xffff_0000));
  const isPrefix = high === (ipv4PrefixMask(length) & 0xffff) && low === ipv4PrefixMask(length - 32);
  return isPrefix && length > field.unused ? [{ field, prefixes: [prefixOf(macWords(mac), length)] }] : [];
}

function prefixOf(words: readonly number[], length: number): Prefix {
  return { words: words.map((word, i) => word & ipv4PrefixMask(length - 32 * i)), length };
}
