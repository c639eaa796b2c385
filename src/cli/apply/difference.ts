import { isDeepStrictEqual } from 'node:util';
import type { Kind } from '../../topology/types.js';
import { type Field, fieldsOf } from '../objects/fields.js';
import type { AnyObject } from '../objects/names.js';
import { isRecord } from '../objects/values.js';

/** What has to change for an object to be as a file says. */

/** Fields that others set. Where the file does not speak of them they stay as they are. */
const OTHERS: Readonly<Partial<Record<Kind, readonly string[]>>> = {
  port: ['binding', 'peerId', 'insertionIds', 'serviceInsertionIds', 'owner'],
  'pool-member': ['status'],
  'trace-request': ['createdAt'],
  host: ['tunnelZones', 'hostGroupIds'],
};

export interface FieldChange {
  readonly field: Field;
  readonly before: unknown;
  readonly after: unknown;
}

/**
 * @param spoken names of the fields that the file speaks of
 */
export function changesOf(kind: Kind, before: AnyObject, after: AnyObject, spoken: ReadonlySet<string>): FieldChange[] {
  return fieldsOf(kind).flatMap((field) => {
    const { name } = field;
    if (OTHERS[kind]?.includes(name) && !spoken.has(name)) return [];
    // The agent of the host adds a key to a binding.
    const was = name === 'binding' ? withoutKey(before[name]) : before[name];
    return isDeepStrictEqual(was, after[name]) ? [] : [{ field, before: was, after: after[name] }];
  });
}

/** The fields of an object that is not there yet. */
export function fieldsSet(kind: Kind, object: AnyObject): FieldChange[] {
  return fieldsOf(kind).flatMap((field) =>
    object[field.name] === undefined ? [] : [{ field, before: undefined, after: object[field.name] }],
  );
}

/** The changes as a merge patch (RFC 7396). */
export function patchOf(changes: readonly FieldChange[]): Record<string, unknown> {
  return Object.fromEntries(changes.map(({ field, before, after }) => [field.name, merge(before, after)]));
}

function merge(before: unknown, after: unknown): unknown {
  if (after === undefined) return null;
  if (!isRecord(before) || !isRecord(after)) return after;
  const gone = Object.keys(before).filter((key) => after[key] === undefined);
  return {
    ...Object.fromEntries(gone.map((key) => [key, null])),
    ...Object.fromEntries(Object.entries(after).map(([key, value]) => [key, merge(before[key], value)])),
  };
}

function withoutKey(binding: unknown): unknown {
  if (!isRecord(binding)) return binding;
  const { tunnelKey: _, ...rest } = binding;
  return rest;
}
