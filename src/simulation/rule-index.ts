import type { FlowKey } from '../flow/key.js';
import type { FlowMask } from '../flow/mask.js';
import { bitAt, commonBits } from '../packet/prefix.js';
import { compileCondition, matches, type Surroundings } from './condition.js';
import { type Constraint, divideCondition, type Prefix, type RuleField } from './rule-field.js';
import { type IndexedRule, type PlacedRule, RuleOrder } from './rule-order.js';

/** Rules, by their slots, that agree in what has been compared on the way to them. */
interface Bucket {
  /** Those that compare no further field, in order. */
  readonly rules: number[];
  /** The others, by the next field that they compare: the root of its trie. */
  readonly tries: Node[];
}

/**
 * A node of a binary trie without chains, of the prefixes that rules want a field to begin with. It stands for the first
 * `length` bits of `words` and has a bucket of the rules that want just these, or two children.
 */
interface Node {
  readonly field: RuleField;
  /** The first of `words`. */
  readonly head: number;
  readonly length: number;
  /** Nodes of longer prefixes, by their bit at `length`. */
  zero: Node | undefined;
  one: Node | undefined;
  bucket: Bucket | undefined;
  /** Of all rules in the node and below. */
  first: number;
  last: number;
  readonly words: readonly number[];
}

const NONE = -1;

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
  private readonly root: Bucket = { rules: [], tries: [] };
  private readonly order = new RuleOrder<R>();
  private readonly placed = new Map<string, PlacedRule<R>>();
  /** What the search under way has not looked at yet; kept so that searches allocate nothing. */
  private readonly frontier = new Frontier(this.order);

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
    const placed = this.order.add(rule, compileCondition(rest));
    this.placed.set(rule.id, placed);
    const { slot } = placed;
    this.alter(this.root, constraints, 0, (rules) => rules.splice(this.order.countUpTo(rules, slot), 0, slot));
  }

  /** False if there is no such rule. */
  remove(id: string): boolean {
    const placed = this.placed.get(id);
    if (placed === undefined) return false;
    this.placed.delete(id);
    const { constraints } = divideCondition(placed.rule.condition);
    const { slot } = placed;
    this.alter(this.root, constraints, 0, (rules) => rules.splice(this.order.countUpTo(rules, slot) - 1, 1));
    this.order.remove(placed);
    return true;
  }

  /**
   * The first rule behind `after` (of all rules when undefined) that the packet matches, null when there is none;
   * undefined when that depends on what is not known yet.
   *
   * Records in `seen` the bits that tell: a bit of a prefix only if some rule no later than the result, and which the
   * fields in front leave possible, needs it. A search that goes on behind a rule may record again what the search that
   * found the rule did.
   */
  nextMatch(
    after: PlacedRule<R> | undefined,
    packet: FlowKey,
    seen: FlowMask,
    surroundings: Surroundings,
  ): PlacedRule<R> | undefined | null {
    const { frontier, order } = this;
    frontier.start(after === undefined ? NONE : after.slot);
    frontier.addBucket(this.root);
    let tried = NONE;
    while (frontier.take()) {
      if (frontier.node !== undefined) {
        descend(frontier.node, packet, seen, frontier);
        continue;
      }
      // A packet without ports finds a rule under each part of its ranges of ports.
      if (frontier.rule === tried) continue;
      tried = frontier.rule;
      const placed = order.at(tried);
      const result = matches(placed.condition, packet, seen, surroundings);
      if (result === undefined) return undefined;
      if (result) return placed;
    }
    return null;
  }

  /** Alter the lists of the rules that have just these constraints, from the one at `depth` on. */
  private alter(
    bucket: Bucket,
    constraints: readonly Constraint[],
    depth: number,
    change: (rules: number[]) => void,
  ): void {
    if (depth === constraints.length) {
      change(bucket.rules);
      return;
    }
    const { field, prefixes } = constraints[depth];
    const { tries } = bucket;
    for (const prefix of prefixes) {
      const at = tries.findIndex((root) => root.field === field);
      const root = this.alterNode(at < 0 ? undefined : tries[at], field, prefix, (inner) =>
        this.alter(inner, constraints, depth + 1, change),
      );
      if (root === undefined) tries.splice(at, 1);
      else if (at < 0) tries.push(root);
      else tries[at] = root;
    }
  }

  /** Alter the bucket of a prefix, made if need be, below a node; returns what then takes the node's place. */
  private alterNode(
    node: Node | undefined,
    field: RuleField,
    prefix: Prefix,
    change: (bucket: Bucket) => void,
  ): Node | undefined {
    if (node === undefined) return this.alterNode(newNode(field, prefix.words, prefix.length), field, prefix, change);
    const common = commonBits(prefix.words, 0, node.words, Math.min(prefix.length, node.length));
    if (common < node.length) {
      const above = newNode(field, prefix.words, common);
      if (bitAt(node.words, 0, common) === 0) above.zero = node;
      else above.one = node;
      return this.alterNode(above, field, prefix, change);
    }
    if (common === prefix.length) {
      node.bucket ??= { rules: [], tries: [] };
      change(node.bucket);
    } else if (bitAt(prefix.words, 0, common) === 0) node.zero = this.alterNode(node.zero, field, prefix, change);
    else node.one = this.alterNode(node.one, field, prefix, change);
    return this.settle(node);
  }

  /** What takes the place of a node below which something has changed: itself, unless nothing, or one child, is left. */
  private settle(node: Node): Node | undefined {
    const { zero, one } = node;
    if (node.bucket?.rules.length === 0 && node.bucket.tries.length === 0) node.bucket = undefined;
    if (node.bucket === undefined && (zero === undefined || one === undefined)) return zero ?? one;
    node.first = NONE;
    node.last = NONE;
    if (zero !== undefined) this.cover(node, zero.first, zero.last);
    if (one !== undefined) this.cover(node, one.first, one.last);
    if (node.bucket !== undefined) {
      const { rules, tries } = node.bucket;
      if (rules.length > 0) this.cover(node, rules[0], rules[rules.length - 1]);
      for (const { first, last } of tries) this.cover(node, first, last);
    }
    return node;
  }

  private cover(node: Node, first: number, last: number): void {
    if (node.first === NONE || this.order.precedes(first, node.first)) node.first = first;
    if (node.last === NONE || this.order.precedes(node.last, last)) node.last = last;
  }
}

/** A node that has yet to be settled. */
function newNode(field: RuleField, words: readonly number[], length: number): Node {
  return {
    field,
    head: words[0],
    length,
    zero: undefined,
    one: undefined,
    bucket: undefined,
    first: NONE,
    last: NONE,
    words,
  };
}

/** Go down a trie by the packet's bits while that leads to the earliest rule, and leave the rest to the frontier. */
function descend(from: Node, packet: FlowKey, seen: FlowMask, frontier: Frontier): void {
  const { field } = from;
  const comparison = field.compare(packet, seen);
  if (comparison === 'none') return;
  if (comparison === 'all') {
    frontier.addParts(from);
    return;
  }
  const { words } = packet;
  let node = from;
  for (;;) {
    const { length } = node;
    const common =
      length <= 32
        ? Math.min(Math.clz32(words[field.word] ^ node.head), length)
        : commonBits(words, field.word, node.words, length);
    if (common < length) {
      field.see(seen, common + 1);
      return;
    }
    if (node.bucket !== undefined) {
      field.see(seen, length);
      frontier.addParts(node);
      return;
    }
    // The earliest rule is in one of the two children, so this bit tells in any case.
    const next: Node = bitAt(words, field.word, length) === 0 ? node.zero! : node.one!;
    if (next.first !== node.first && !frontier.isNext(next)) {
      field.see(seen, length + 1);
      frontier.addNode(next);
      return;
    }
    node = next;
  }
}

/** Lists of rules and nodes to be looked at, by the earliest rule of each: a binary heap. */
class Frontier {
  /** What `take` has come to: a node, or else a rule. */
  node: Node | undefined;
  rule = NONE;
  private after = NONE;
  private size = 0;
  private readonly items: (Node | readonly number[])[] = [];
  /** Each item's earliest rule that is to be looked at. */
  private readonly firsts: number[] = [];
  /** Of lists, the index of that rule; of nodes -1. */
  private readonly indices: number[] = [];

  constructor(private readonly order: Pick<RuleOrder<IndexedRule>, 'precedes' | 'countUpTo'>) {}

  /** @param after rules up to this one are left out, if there is one */
  start(after: number): void {
    this.size = 0;
    this.after = after;
  }

  addNode(node: Node | undefined): void {
    if (node === undefined || (this.after !== NONE && !this.order.precedes(this.after, node.last))) return;
    this.add(node, node.first, -1);
  }

  addBucket({ rules, tries }: Bucket): void {
    const index = this.after === NONE ? 0 : this.order.countUpTo(rules, this.after);
    if (index < rules.length) this.add(rules, rules[index], index);
    for (let i = 0; i < tries.length; i++) this.addNode(tries[i]);
  }

  /** What the packet may match of a node whose prefix it has. */
  addParts({ bucket, zero, one }: Node): void {
    if (bucket !== undefined) this.addBucket(bucket);
    this.addNode(zero);
    this.addNode(one);
  }

  /** Whether a node would be taken next if it were added. */
  isNext(node: Node): boolean {
    return this.after === NONE && (this.size === 0 || this.order.precedes(node.first, this.firsts[0]));
  }

  /** Take out the node with the earliest rule, or only that rule if it is in a list; false when nothing is left. */
  take(): boolean {
    if (this.size === 0) return false;
    const item = this.items[0];
    const index = this.indices[0];
    if (index >= 0) {
      const rules = item as readonly number[];
      this.node = undefined;
      this.rule = rules[index];
      if (index + 1 < rules.length) {
        this.sink(rules, rules[index + 1], index + 1);
        return true;
      }
    } else this.node = item as Node;
    const last = --this.size;
    if (last > 0) this.sink(this.items[last], this.firsts[last], this.indices[last]);
    return true;
  }

  private add(item: Node | readonly number[], first: number, index: number): void {
    let at = this.size++;
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      if (!this.order.precedes(first, this.firsts[parent])) break;
      this.put(at, this.items[parent], this.firsts[parent], this.indices[parent]);
      at = parent;
    }
    this.put(at, item, first, index);
  }

  /** Put an item in the place of the one at the top, and those below in order. */
  private sink(item: Node | readonly number[], first: number, index: number): void {
    let at = 0;
    for (let child = 1; child < this.size; child = 2 * at + 1) {
      if (child + 1 < this.size && this.order.precedes(this.firsts[child + 1], this.firsts[child])) child++;
      if (!this.order.precedes(this.firsts[child], first)) break;
      this.put(at, this.items[child], this.firsts[child], this.indices[child]);
      at = child;
    }
    this.put(at, item, first, index);
  }

  private put(at: number, item: Node | readonly number[], first: number, index: number): void {
    this.items[at] = item;
    this.firsts[at] = first;
    this.indices[at] = index;
  }
}
