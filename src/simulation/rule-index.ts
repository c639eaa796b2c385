import type { FlowKey } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { bitAt, commonBits } from '../packet/prefix.js';
import type { Rule } from '../topology/chains.js';
import { type CompiledCondition, compileCondition, matches, type Surroundings } from './condition.js';
import { type Constraint, divideCondition, type Prefix, type RuleField } from './rule-field.js';

/** What an index has to know of a rule; `position` and `id` say where it stands, see `ruleSchema`. */
export type IndexedRule = Pick<Rule, 'id' | 'position' | 'condition'>;

/** A rule with its place among the others. */
export interface PlacedRule<R extends IndexedRule> {
  readonly rule: R;
  /** What is left to be checked when the index has found the rule. */
  readonly condition: CompiledCondition;
  /** Leading digits of the position, as two small numbers; rules that agree in them are compared by their texts. */
  readonly rankHigh: number;
  readonly rankLow: number;
}

/** Rules that agree in what has been compared on the way to them. */
interface Bucket<R extends IndexedRule> {
  readonly kind: 'bucket';
  /** Those that compare no further field, in order. */
  readonly rules: PlacedRule<R>[];
  /** The others, by the next field that they compare: the root of its trie. */
  readonly tries: Node<R>[];
}

/**
 * A node of a binary trie without chains, of the prefixes that rules want a field to begin with. It stands for the first
 * `length` bits of `words` and has a bucket of the rules that want just these, or two children.
 */
interface Node<R extends IndexedRule> {
  readonly kind: 'node';
  readonly field: RuleField;
  /** The first of `words`. */
  readonly head: number;
  readonly length: number;
  /** Nodes of longer prefixes, by their bit at `length`. */
  zero: Node<R> | undefined;
  one: Node<R> | undefined;
  bucket: Bucket<R> | undefined;
  readonly words: readonly number[];
  /** Of all rules in the node and below. */
  first: PlacedRule<R>;
  last: PlacedRule<R>;
}

/**
 * The rules of one chain, found by what they compare: protocol, addresses, ports and MAC addresses. A rule is under its
 * prefix of the first of these fields that it has, there under its prefix of the next field, and so on; ranges of ports
 * are under each of the prefixes that make them up. The shape follows from the rules alone, whatever came first.
 *
 * A search goes to the part that may have the earliest rule, again and again, until that is a rule that matches. It costs
 * about as many steps as prefixes of the rules are prefixes of the packet's fields, times the logarithm of the number of
 * rules; a change costs about that logarithm. Rules that are told apart by other fields only (address groups, inverted
 * fields, ports of devices) are looked at one by one.
 */
export class RuleIndex<R extends IndexedRule> {
  private readonly root: Bucket<R> = newBucket();
  private readonly placed = new Map<string, PlacedRule<R>>();
  /** What the search under way has not looked at yet; kept so that searches allocate nothing. */
  private readonly frontier = new Frontier<R>();

  constructor(rules: Iterable<R> = []) {
    for (const rule of rules) this.insert(rule);
  }

  get size(): number {
    return this.placed.size;
  }

  get(id: string): R | undefined {
    return this.placed.get(id)?.rule;
  }

  /** Takes the place of any rule with the same id. */
  insert(rule: R): void {
    this.remove(rule.id);
    const { constraints, rest } = divideCondition(rule.condition);
    const placed = {
      rule,
      condition: compileCondition(rest),
      rankHigh: rankOf(rule.position, 0),
      rankLow: rankOf(rule.position, RANK_DIGITS),
    };
    this.placed.set(rule.id, placed);
    alter(this.root, constraints, 0, (rules) => rules.splice(countUpTo(rules, placed), 0, placed));
  }

  /** False if there is no such rule. */
  remove(id: string): boolean {
    const placed = this.placed.get(id);
    if (placed === undefined) return false;
    this.placed.delete(id);
    const { constraints } = divideCondition(placed.rule.condition);
    alter(this.root, constraints, 0, (rules) => rules.splice(countUpTo(rules, placed) - 1, 1));
    return true;
  }

  /**
   * The first rule behind `after` (of all rules when undefined) that the packet matches, null when there is none;
   * undefined when that depends on what is not known yet.
   *
   * Records in `seen` the bits that tell: a bit of a prefix only if some rule no later than the result, and which the
   * fields in front leave possible, needs it. A search that goes on behind a rule may record bits for the rules in front
   * of it as well.
   */
  nextMatch(
    after: PlacedRule<R> | undefined,
    packet: FlowKey,
    seen: FlowMask,
    surroundings: Surroundings,
  ): PlacedRule<R> | undefined | null {
    const { frontier } = this;
    frontier.clear();
    frontier.addBucket(this.root, after);
    let tried: PlacedRule<R> | undefined;
    for (let part = frontier.take(); part !== undefined; part = frontier.take()) {
      if (part.kind === 'node') {
        descend(part, after, packet, seen, frontier);
        continue;
      }
      const placed = frontier.takenRule;
      // A packet without ports finds a rule under each part of its ranges of ports.
      if (placed === tried) continue;
      const result = matches(placed.condition, packet, seen, surroundings);
      if (result === undefined) return undefined;
      if (result) return placed;
      tried = placed;
    }
    return null;
  }
}

/** Go down a trie by the packet's bits while that leads to the earliest rule, and leave the rest to the frontier. */
function descend<R extends IndexedRule>(
  from: Node<R>,
  after: PlacedRule<R> | undefined,
  packet: FlowKey,
  seen: FlowMask,
  frontier: Frontier<R>,
): void {
  const { field } = from;
  const comparison = field.compare(packet, seen);
  if (comparison === 'none') return;
  if (comparison === 'all') {
    frontier.addParts(from, after);
    return;
  }
  const { words } = packet;
  let node = from;
  for (;;) {
    const { length } = node;
    const isShort = length <= 32;
    const common = isShort
      ? Math.min(Math.clz32(words[field.word] ^ node.head), length)
      : commonBits(words, field.word, node.words, length);
    if (common < length) {
      field.see(seen, common + 1);
      return;
    }
    if (node.bucket !== undefined) {
      field.see(seen, length);
      frontier.addParts(node, after);
      return;
    }
    // The earliest rule is in one of the two children, so this bit tells in any case.
    const next: Node<R> = bitAt(words, field.word, length) === 0 ? node.zero! : node.one!;
    if (after !== undefined || (next.first !== node.first && !frontier.isNext(next.first))) {
      field.see(seen, length + 1);
      frontier.addNode(next, after);
      return;
    }
    node = next;
  }
}

/** Parts of an index, to be looked at in the order of their earliest rules: a binary heap. */
class Frontier<R extends IndexedRule> {
  /** The rule that `take` came to when it returned a bucket. */
  takenRule!: PlacedRule<R>;
  private size = 0;
  private readonly parts: (Node<R> | Bucket<R>)[] = [];
  /** Each part's earliest rule that is to be looked at. */
  private readonly firsts: PlacedRule<R>[] = [];
  /** Of buckets, the index of that rule. */
  private readonly indices: number[] = [];

  clear(): void {
    this.size = 0;
  }

  /** Nothing happens if all rules of the node are up to `after`. */
  addNode(node: Node<R> | undefined, after: PlacedRule<R> | undefined): void {
    if (node === undefined || (after !== undefined && !precedes(after, node.last))) return;
    this.add(node, node.first, 0);
  }

  addBucket(bucket: Bucket<R>, after: PlacedRule<R> | undefined): void {
    const { rules, tries } = bucket;
    const index = after === undefined ? 0 : countUpTo(rules, after);
    if (index < rules.length) this.add(bucket, rules[index], index);
    for (let i = 0; i < tries.length; i++) this.addNode(tries[i], after);
  }

  /** What the packet may match of a node whose prefix it has. */
  addParts({ bucket, zero, one }: Node<R>, after: PlacedRule<R> | undefined): void {
    if (bucket !== undefined) this.addBucket(bucket, after);
    this.addNode(zero, after);
    this.addNode(one, after);
  }

  /** Whether a rule is in front of all that `add…` has put in. */
  isNext(rule: PlacedRule<R>): boolean {
    return this.size === 0 || precedes(rule, this.firsts[0]);
  }

  /** Take out the part with the earliest rule, of a bucket only that rule; undefined when nothing is left. */
  take(): Node<R> | Bucket<R> | undefined {
    if (this.size === 0) return undefined;
    const part = this.parts[0];
    if (part.kind === 'bucket') {
      const index = this.indices[0];
      this.takenRule = part.rules[index];
      if (index + 1 < part.rules.length) {
        this.sink(part, part.rules[index + 1], index + 1);
        return part;
      }
    }
    const last = --this.size;
    if (last > 0) this.sink(this.parts[last], this.firsts[last], this.indices[last]);
    return part;
  }

  private add(part: Node<R> | Bucket<R>, first: PlacedRule<R>, index: number): void {
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      if (!precedes(first, this.firsts[parent])) break;
      this.put(at, this.parts[parent], this.firsts[parent], this.indices[parent]);
      at = parent;
    }
    this.put(at, part, first, index);
  }

  /** Put a part in the place of the one at the top, and those below in order. */
  private sink(part: Node<R> | Bucket<R>, first: PlacedRule<R>, index: number): void {
    let at = 0;
    for (let child = 1; child < this.size; child = 2 * at + 1) {
      if (child + 1 < this.size && precedes(this.firsts[child + 1], this.firsts[child])) child++;
      if (!precedes(this.firsts[child], first)) break;
      this.put(at, this.parts[child], this.firsts[child], this.indices[child]);
      at = child;
    }
    this.put(at, part, first, index);
  }

  private put(at: number, part: Node<R> | Bucket<R>, first: PlacedRule<R>, index: number): void {
    this.parts[at] = part;
    this.firsts[at] = first;
    this.indices[at] = index;
  }
}

/** Alter the lists of the rules that have just these constraints, from the one at `depth` on. */
function alter<R extends IndexedRule>(
  bucket: Bucket<R>,
  constraints: readonly Constraint[],
  depth: number,
  change: (rules: PlacedRule<R>[]) => void,
): void {
  if (depth === constraints.length) {
    change(bucket.rules);
    return;
  }
  const { field, prefixes } = constraints[depth];
  const { tries } = bucket;
  for (const prefix of prefixes) {
    const at = tries.findIndex((root) => root.field === field);
    const root = alterNode(at < 0 ? undefined : tries[at], field, prefix, (inner) =>
      alter(inner, constraints, depth + 1, change),
    );
    if (root === undefined) tries.splice(at, 1);
    else if (at < 0) tries.push(root);
    else tries[at] = root;
  }
}

/** Alter the bucket of a prefix, made if need be, below a node; returns what then takes the node's place. */
function alterNode<R extends IndexedRule>(
  node: Node<R> | undefined,
  field: RuleField,
  prefix: Prefix,
  change: (bucket: Bucket<R>) => void,
): Node<R> | undefined {
  if (node === undefined) return alterNode(newNode<R>(field, prefix.words, prefix.length), field, prefix, change);
  const common = commonBits(prefix.words, 0, node.words, Math.min(prefix.length, node.length));
  if (common < node.length) {
    const above = newNode<R>(field, prefix.words, common);
    if (bitAt(node.words, 0, common) === 0) above.zero = node;
    else above.one = node;
    return alterNode(above, field, prefix, change);
  }
  if (common === prefix.length) {
    node.bucket ??= newBucket();
    change(node.bucket);
  } else if (bitAt(prefix.words, 0, common) === 0) node.zero = alterNode(node.zero, field, prefix, change);
  else node.one = alterNode(node.one, field, prefix, change);
  return settle(node);
}

/** What takes the place of a node below which something has changed: itself, unless nothing, or one child, is left. */
function settle<R extends IndexedRule>(node: Node<R>): Node<R> | undefined {
  const { zero, one } = node;
  if (node.bucket?.rules.length === 0 && node.bucket.tries.length === 0) node.bucket = undefined;
  if (node.bucket === undefined && (zero === undefined || one === undefined)) return zero ?? one;
  let first = earlier(zero?.first, one?.first);
  let last = later(zero?.last, one?.last);
  if (node.bucket !== undefined) {
    const { rules, tries } = node.bucket;
    first = earlier(first, rules[0]);
    last = later(last, rules[rules.length - 1]);
    for (const root of tries) {
      first = earlier(first, root.first);
      last = later(last, root.last);
    }
  }
  node.first = first!;
  node.last = last!;
  return node;
}

function earlier<R extends IndexedRule>(a: PlacedRule<R> | undefined, b: PlacedRule<R> | undefined) {
  if (a === undefined || b === undefined) return a ?? b;
  return precedes(b, a) ? b : a;
}

function later<R extends IndexedRule>(a: PlacedRule<R> | undefined, b: PlacedRule<R> | undefined) {
  if (a === undefined || b === undefined) return a ?? b;
  return precedes(a, b) ? b : a;
}

function newBucket<R extends IndexedRule>(): Bucket<R> {
  return { kind: 'bucket', rules: [], tries: [] };
}

/** A node that has yet to be settled: without `first` and `last`. */
function newNode<R extends IndexedRule>(field: RuleField, words: readonly number[], length: number): Node<R> {
  const unsettled = undefined as unknown as PlacedRule<R>;
  return {
    kind: 'node',
    field,
    head: words[0],
    length,
    zero: undefined,
    one: undefined,
    bucket: undefined,
    words,
    first: unsettled,
    last: unsettled,
  };
}

/** How many of the rules stand up to `placed`, itself included. */
function countUpTo<R extends IndexedRule>(rules: readonly PlacedRule<R>[], placed: PlacedRule<R>): number {
  let low = 0;
  let high = rules.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (precedes(placed, rules[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** As many digits of base 36 as V8 keeps in an object without allocating. */
const RANK_DIGITS = 5;

function rankOf(position: string, from: number): number {
  return Number.parseInt(position.slice(from, from + RANK_DIGITS).padEnd(RANK_DIGITS, '0'), 36);
}

function precedes<R extends IndexedRule>(a: PlacedRule<R>, b: PlacedRule<R>): boolean {
  if (a.rankHigh !== b.rankHigh) return a.rankHigh < b.rankHigh;
  if (a.rankLow !== b.rankLow) return a.rankLow < b.rankLow;
  return precedesByText(a.rule, b.rule);
}

function precedesByText(a: IndexedRule, b: IndexedRule): boolean {
  return a.position === b.position ? a.id < b.id : a.position < b.position;
}
