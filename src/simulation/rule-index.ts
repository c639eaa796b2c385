import { type FlowKey, Word } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { ipv4PrefixMask } from '../packet/address.js';
import type { Cidr } from '../packet/ip.js';
import type { Condition } from '../topology/chains.js';
import {
  addressFamily,
  type CompiledCondition,
  compileCondition,
  matches,
  requireCidr,
  type Side,
  type Surroundings,
  seeAddress,
} from './condition.js';

/** Rules that want a source (or destination) in a range of one prefix length. */
interface Group {
  readonly family: 4 | 6;
  readonly side: Side;
  readonly prefix: number;
  /** Places of rules in ascending order, by the hash of the range's leading bits. */
  readonly places: Map<number, number[]>;
}

/**
 * The conditions of a chain's rules, in order, found by the packet's addresses: a rule that wants an address in a range
 * is looked at only for packets whose address is there (or has the same hash). Other rules are looked at one by one.
 */
export interface RuleIndex {
  readonly conditions: readonly CompiledCondition[];
  readonly groups: readonly Group[];
  /** Places of the rules that are in no group, in ascending order. */
  readonly others: readonly number[];
}

export function indexRules(conditions: readonly Condition[]): RuleIndex {
  const groups = new Map<string, Group>();
  const others: number[] = [];
  conditions.forEach((condition, place) => {
    const range = narrowest(condition);
    if (range === undefined) {
      others.push(place);
      return;
    }
    const { side, cidr } = range;
    const { family, prefix, words } = cidr;
    const name = `${side} ${family} ${prefix}`;
    const group = groups.get(name) ?? { family, side, prefix, places: new Map<number, number[]>() };
    groups.set(name, group);
    const hash = hashPrefix(words, 0, family, prefix);
    const places = group.places.get(hash);
    if (places === undefined) group.places.set(hash, [place]);
    else places.push(place);
  });
  return { conditions: conditions.map(compileCondition), groups: [...groups.values()], others };
}

/**
 * The place of the first rule from `from` on that the packet matches, -1 when there is none; undefined when that depends
 * on what is not known yet. Bits that tell are recorded in `seen`: where there are ranges, the leading bits of the
 * address as far as the longest prefix goes.
 */
export function nextMatch(
  index: RuleIndex,
  from: number,
  packet: FlowKey,
  seen: FlowMask,
  surroundings: Surroundings,
): number | undefined {
  const { conditions } = index;
  for (let place = nextCandidate(index, from, packet, seen); place < conditions.length; ) {
    const result = matches(conditions[place], packet, seen, surroundings);
    if (result === undefined) return undefined;
    if (result) return place;
    place = nextCandidate(index, place + 1, packet, seen);
  }
  return -1;
}

/** The first place from `from` on whose rule may match; the number of rules when there is none. */
function nextCandidate(index: RuleIndex, from: number, packet: FlowKey, seen: FlowMask): number {
  const { groups, others, conditions } = index;
  let first = Math.min(firstFrom(others, from), conditions.length);
  if (groups.length === 0) return first;
  const family = addressFamily(packet, seen);
  for (let i = 0; i < groups.length; i++) {
    const group = groups[i];
    if (group.family !== family) continue;
    seeAddress(seen, family, group.side, group.prefix);
    const at = group.side === 'source' ? Word.NW_SRC : Word.NW_DST;
    const places = group.places.get(hashPrefix(packet.words, at, family, group.prefix));
    if (places !== undefined) first = Math.min(first, firstFrom(places, from));
  }
  return first;
}

/** The range that a condition cannot match without, the narrower one of two. */
function narrowest(condition: Condition): { side: Side; cidr: Cidr } | undefined {
  if (condition.conjunctionInverted) return undefined;
  let best: { side: Side; cidr: Cidr } | undefined;
  for (const side of ['source', 'destination'] as const) {
    const range = condition[side];
    if (range === undefined || condition.inverted?.includes(side)) continue;
    const cidr = requireCidr(range);
    if (best === undefined || cidr.prefix > best.cidr.prefix) best = { side, cidr };
  }
  return best;
}

function hashPrefix(words: ArrayLike<number>, at: number, family: 4 | 6, prefix: number): number {
  if (family === 4) return words[at] & ipv4PrefixMask(prefix);
  let hash = 0;
  for (let i = 0; i < 4; i++) {
    hash = Math.imul(hash ^ (words[at + i] & ipv4PrefixMask(prefix - 32 * i)), 0x9e37_79b1);
    hash ^= hash >>> 15;
  }
  return hash;
}

/** The first of ascending numbers that is `from` or more; Infinity when there is none. */
function firstFrom(places: readonly number[], from: number): number {
  let low = 0;
  let high = places.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (places[middle] < from) low = middle + 1;
    else high = middle;
  }
  return low < places.length ? places[low] : Number.POSITIVE_INFINITY;
}
