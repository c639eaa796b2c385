import { InvalidInputError } from '../../errors.js';
import type { Kind, TopologyTypes } from '../../topology/types.js';

/** Fields that clients set and that nobody is told. */
const SECRETS: Readonly<Partial<Record<Kind, readonly string[]>>> = { 'bgp-peer': ['password'] };

/** What is told in the place of a secret. Sent back, it stands for the secret that there is. */
export const MASK = '***';

export function isSecret(kind: Kind, field: string): boolean {
  return SECRETS[kind]?.includes(field) === true;
}

/** An object as it is told: with masks in the place of its secrets. */
export function told<K extends Kind>(kind: K, object: TopologyTypes[K]): TopologyTypes[K] {
  const fields = (SECRETS[kind] ?? []).filter((field) => field in object);
  return fields.length === 0 ? object : { ...object, ...Object.fromEntries(fields.map((field) => [field, MASK])) };
}

/**
 * What a client sends, with the secrets of the object that there is in the place of masks.
 * @throws InvalidInputError for a mask where there is no secret
 */
export function unmasked(
  kind: Kind,
  input: Record<string, unknown>,
  before: TopologyTypes[Kind] | undefined,
): Record<string, unknown> {
  const fields = (SECRETS[kind] ?? []).filter((field) => input[field] === MASK);
  const secrets = fields.map((field) => {
    const secret = (before as Readonly<Record<string, unknown>> | undefined)?.[field];
    if (secret !== undefined) return [field, secret];
    throw new InvalidInputError(`${kind}.${field}`, MASK, `expected the ${field} itself, as none is known here`);
  });
  return fields.length === 0 ? input : { ...input, ...Object.fromEntries(secrets) };
}
