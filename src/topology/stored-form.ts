import { InvalidInputError, MidonetError, UnsupportedError } from '../errors.js';
import { type Kind, SCHEMAS, type TopologyTypes } from './types.js';
import { validate } from './validate.js';

/** Makes the stored form of a version out of that of the version before. It must not change what the object refers to. */
export type Migration = (stored: Record<string, unknown>) => Record<string, unknown>;

/** By kind: how to get from version 1 of its stored form to 2, from 2 to 3 and so on. */
export type Migrations = Readonly<Partial<Record<Kind, readonly Migration[]>>>;

/** Every stored form that has changed since the first. */
export const MIGRATIONS: Migrations = {};

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/**
 * An object as JSON. The version of its form is in `v`, left out while it is 1.
 */
export function encodeObject<K extends Kind>(
  kind: K,
  object: TopologyTypes[K],
  migrations: Migrations = MIGRATIONS,
): Uint8Array {
  const version = currentVersion(kind, migrations);
  return encoder.encode(JSON.stringify(version === 1 ? object : { v: version, ...object }));
}

/**
 * The object in a node, brought to the current version of its form.
 * @throws InvalidInputError naming path and field; UnsupportedError when a newer program has written it
 */
export function decodeObject<K extends Kind>(
  kind: K,
  data: Uint8Array,
  path: string,
  migrations: Migrations = MIGRATIONS,
): TopologyTypes[K] {
  const value = parseJson(data, path);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new InvalidInputError(path, value, 'expected a JSON object');
  }
  const { v: version = 1, ...stored } = value as Record<string, unknown>;
  if (!Number.isSafeInteger(version) || (version as number) < 1) {
    throw new InvalidInputError(`${path}.v`, version, 'expected a version of the stored form');
  }
  const current = currentVersion(kind, migrations);
  if ((version as number) > current) {
    throw new UnsupportedError(
      path,
      `written in version ${version} of the form of a ${kind}; this program knows ${current}`,
    );
  }
  const upgraded = (migrations[kind] ?? [])
    .slice((version as number) - 1)
    .reduce((form, migrate) => migrate(form), stored);
  return validate(SCHEMAS[kind], upgraded, path) as TopologyTypes[K];
}

/** @throws MidonetError naming the path */
export function parseJson(data: Uint8Array, path: string): unknown {
  try {
    return JSON.parse(decoder.decode(data));
  } catch (cause) {
    throw new MidonetError('MN_INVALID_INPUT', `${path}: not JSON`, { cause });
  }
}

function currentVersion(kind: Kind, migrations: Migrations): number {
  return 1 + (migrations[kind]?.length ?? 0);
}
