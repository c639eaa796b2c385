import { InvalidInputError } from '../../errors.js';
import { ownPositionBetween } from '../../topology/position.js';

/** Where a rule shall stand in its chain: in front of a rule, behind one, or in front of all; behind all when nothing is said. */
export interface RulePlace {
  readonly before?: string;
  readonly after?: string;
  readonly first?: boolean;
}

/** A rule with its place. */
export interface PlacedRule {
  readonly id: string;
  readonly position: string;
}

/**
 * A position of its own at that place among the rules of a chain, in any order.
 * @throws InvalidInputError naming `before` or `after`
 */
export function positionFor(rules: readonly PlacedRule[], place: RulePlace): string {
  const positions = rules.map(({ position }) => position).sort();
  if (place.first) return ownPositionBetween(undefined, positions[0]);
  if (place.before !== undefined) {
    const next = positionOf(rules, 'before', place.before);
    return ownPositionBetween(
      positions.findLast((position) => position < next),
      next,
    );
  }
  if (place.after !== undefined) {
    const last = positionOf(rules, 'after', place.after);
    return ownPositionBetween(
      last,
      positions.find((position) => position > last),
    );
  }
  return ownPositionBetween(positions.at(-1), undefined);
}

function positionOf(rules: readonly PlacedRule[], field: string, id: string): string {
  const rule = rules.find((one) => one.id === id);
  if (rule === undefined) throw new InvalidInputError(field, id, 'expected a rule of the chain');
  return rule.position;
}
