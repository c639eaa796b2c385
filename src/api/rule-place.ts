import { InvalidInputError } from '../errors.js';
import type { TopologyRepository } from '../nsdb/repository/topology-repository.js';
import { positionBetween } from '../topology/position.js';

/** Where a rule shall stand in its chain: in front of a rule, behind one, or in front of all; behind all when nothing is said. */
export interface RulePlace {
  readonly before?: string;
  readonly after?: string;
  readonly first?: boolean;
}

/** A rule with its place. */
interface PlacedRule {
  readonly id: string;
  readonly position: string;
}

/**
 * A position at that place among the rules that the chain has, and those that will be added with this one.
 * @throws InvalidInputError naming `before` or `after`
 */
export async function positionFor(
  repository: TopologyRepository,
  chainId: string,
  place: RulePlace,
  added: readonly PlacedRule[],
  signal: AbortSignal,
): Promise<string> {
  const stored = await repository.rulesOf(chainId, signal);
  const rules: PlacedRule[] = [...stored.filter(({ id }) => !added.some((rule) => rule.id === id)), ...added];
  rules.sort((a, b) => (a.position < b.position || (a.position === b.position && a.id < b.id) ? -1 : 1));
  if (place.first) return positionBetween(undefined, rules[0]?.position);
  if (place.before !== undefined) {
    const { position } = rules[indexOf(rules, 'before', place.before)];
    return positionBetween(rules.findLast((rule) => rule.position < position)?.position, position);
  }
  if (place.after !== undefined) {
    const { position } = rules[indexOf(rules, 'after', place.after)];
    return positionBetween(position, rules.find((rule) => rule.position > position)?.position);
  }
  return positionBetween(rules.at(-1)?.position, undefined);
}

function indexOf(rules: readonly PlacedRule[], field: string, id: string): number {
  const index = rules.findIndex((rule) => rule.id === id);
  if (index < 0) throw new InvalidInputError(field, id, 'expected a rule of the chain');
  return index;
}
