import type { FlowKey } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { bitAt, commonBits } from '../packet/prefix.js';
import type { Rule } from '../topology/chains.js';
import { type CompiledCondition, compileCondition, matches, type Surroundings } from './condition.js';
import { type Constraint, constraintsOf, type Prefix, type RuleField } from './rule-field.js';

/** What an index has to know of a rule; `position` and `id` say where it stands, see `ruleSchema`. */
export type IndexedRule = Pick<Rule, 'id' | 'position' | 'condition'>;

/** A rule with its place among the others. */
export interface PlacedRule<R extends IndexedRule> {
  readonly rule: R;
  readonly condition: CompiledCondition;
  /** The leading digits of the position as a number. It orders nearly all rules; for the others the texts are compared. */
  readonly rank: number;
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
  readonly words: readonly number[];
  readonly length: number;
  bucket: Bucket<R> | undefined;
  /** Nodes of longer prefixes, by their bit at `length`. */
  zero: Node<R> | undefined;
  one: Node<R> | undefined;
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
    const placed = { rule, condition: compileCondition(rule.condition), rank: rankOf(rule.position) };
    this.placed.set(rule.id, placed);
    alter(this.root, constraintsOf(rule.condition), 0, (rules) => rules.splice(countUpTo(rules, placed), 0, placed));
  }

  /** False if there is no such rule. */
  remove(id: string): boolean {
    const placed = this.placed.get(id);
    if (placed === undefined) return false;
    this.placed.delete(id);
    const constraints = constraintsOf(placed.rule.condition);
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
        expand(part, after, packet, seen, frontier);
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

/** Add to the frontier what of a node the packet may match. */
function expand<R extends IndexedRule>(
  node: Node<R>,
  after: PlacedRule<R> | undefined,
  packet: FlowKey,
  seen: FlowMask,
  frontier: Frontier<R>,
): void {
  const { field, words, length, bucket, zero, one } = node;
  const comparison = field.compare(packet, seen);
  if (comparison === 'none') return;
  if (comparison === 'by-value') {
    const common = commonBits(packet.words, field.word, words, length);
    if (common < length) {
      field.see(seen, common + 1);
      return;
    }
    field.see(seen, length);
    if (bucket === undefined) {
      // The earliest rule is below, so the next bit has to be seen in any case.
      field.see(seen, length + 1);
      frontier.addNode(bitAt(packet.words, field.word, length) === 0 ? zero : one, after);
      return;
    }
  }
  if (bucket !== undefined) frontier.addBucket(bucket, after);
  frontier.addNode(zero, after);
  frontier.addNode(one, after);
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
  const { bucket, zero, one } = node;
  if (bucket !== undefined && bucket.rules.length === 0 && bucket.tries.length === 0) node.bucket = undefined;
  if (node.bucket === undefined && (zero === undefined || one === undefined)) return zero ?? one;
  const { rules, tries } = node.bucket ?? newBucket<R>();
  const parts = [zero, one, ...tries].filter((part) => part !== undefined);
  const firsts = [...rules.slice(0, 1), ...parts.map((part) => part.first)];
  const lasts = [...rules.slice(-1), ...parts.map((part) => part.last)];
  node.first = firsts.reduce((a, b) => (precedes(b, a) ? b : a));
  node.last = lasts.reduce((a, b) => (precedes(a, b) ? b : a));
  return node;
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
    words,
    length,
    bucket: undefined,
    zero: undefined,
    one: undefined,
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

/** As many digits of base 36 as fit in a number without loss. */
const RANK_DIGITS = 10;

function rankOf(position: string): number {
  return Number.parseInt(position.slice(0, RANK_DIGITS).padEnd(RANK_DIGITS, '0'), 36);
}

function precedes<R extends IndexedRule>(a: PlacedRule<R>, b: PlacedRule<R>): boolean {
  return a.rank < b.rank || (a.rank === b.rank && precedesByText(a.rule, b.rule));
}

function precedesByText(a: IndexedRule, b: IndexedRule): boolean {
  return a.position === b.position ? a.id < b.id : a.position < b.position;
}
