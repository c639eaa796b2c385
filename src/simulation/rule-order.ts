import type { Rule } from '../topology/chains.js';
import type { CompiledCondition } from './condition.js';

/** What has to be known of a rule to find it; `position` and `id` say where it stands, see `ruleSchema`. */
export type IndexedRule = Pick<Rule, 'id' | 'position' | 'condition'>;

export interface PlacedRule<R extends IndexedRule> {
  readonly rule: R;
  /** What is left to be checked when the rule has been found by the fields of the packet. */
  readonly condition: CompiledCondition;
  /** By which a {@link RuleOrder} knows the rule. */
  readonly slot: number;
}

/** As many digits of base 36 as fit in a number without loss. */
const RANK_DIGITS = 10;

/**
 * Rules in their order, each known by a small number as long as it is there. These numbers do not follow the order, so
 * none has to change when a rule comes between others.
 */
export class RuleOrder<R extends IndexedRule> {
  private readonly placed: (PlacedRule<R> | undefined)[] = [];
  /** Leading digits of the positions as numbers; where they are equal the texts are compared. */
  private readonly ranks: number[] = [];
  private readonly free: number[] = [];

  add(rule: R, condition: CompiledCondition): PlacedRule<R> {
    const slot = this.free.pop() ?? this.placed.length;
    const placed = { rule, condition, slot };
    this.placed[slot] = placed;
    this.ranks[slot] = Number.parseInt(rule.position.slice(0, RANK_DIGITS).padEnd(RANK_DIGITS, '0'), 36);
    return placed;
  }

  remove({ slot }: PlacedRule<R>): void {
    this.placed[slot] = undefined;
    this.free.push(slot);
  }

  at(slot: number): PlacedRule<R> {
    return this.placed[slot]!;
  }

  precedes(a: number, b: number): boolean {
    const rankA = this.ranks[a];
    const rankB = this.ranks[b];
    return rankA < rankB || (rankA === rankB && this.precedesByText(a, b));
  }

  /** How many of `slots`, which are in order, stand up to `slot`, itself included. */
  countUpTo(slots: readonly number[], slot: number): number {
    let low = 0;
    let high = slots.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.precedes(slot, slots[middle])) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  private precedesByText(slotA: number, slotB: number): boolean {
    const a = this.at(slotA).rule;
    const b = this.at(slotB).rule;
    return a.position === b.position ? a.id < b.id : a.position < b.position;
  }
}
