import { positionBetween } from '../../topology/position.js';

/** A rule that shall stand in its place in a list, and where it is in its chain. */
export interface Placed {
  readonly id: string;
  /** Undefined for a rule that is not there yet. */
  readonly position: string | undefined;
}

/**
 * Positions with which the rules stand in the order of the list. As many as can be stay where they are.
 * @returns all of them, by id
 */
export function positionsInOrder(rules: readonly Placed[]): Map<string, string> {
  const kept = longestRising(rules);
  // Of each rule, the position of the next one behind it that stays.
  const next: (string | undefined)[] = [];
  let behind: string | undefined;
  for (let i = rules.length - 1; i >= 0; i--) {
    next[i] = behind;
    if (kept.has(rules[i].id)) behind = rules[i].position;
  }
  const positions = new Map<string, string>();
  let before: string | undefined;
  for (const [i, { id, position }] of rules.entries()) {
    before = kept.has(id) ? position! : positionBetween(before, next[i]);
    positions.set(id, before);
  }
  return positions;
}

/** The ids of as many rules as possible whose positions rise from the first to the last. */
function longestRising(rules: readonly Placed[]): Set<string> {
  const there = rules.filter(({ position }) => position !== undefined);
  const previous: number[] = [];
  // By length: the last rule of the rising row of that length which ends lowest.
  const ends: number[] = [];
  for (let i = 0; i < there.length; i++) {
    let [low, high] = [0, ends.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (there[ends[middle]].position! < there[i].position!) low = middle + 1;
      else high = middle;
    }
    previous[i] = low === 0 ? -1 : ends[low - 1];
    ends[low] = i;
  }
  const kept = new Set<string>();
  for (let i = ends.at(-1) ?? -1; i >= 0; i = previous[i]) kept.add(there[i].id);
  return kept;
}
