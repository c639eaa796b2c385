import type { z } from 'zod';
import { InvalidInputError } from '../errors.js';

/**
 * Check `value` against `schema`.
 * @param what names the object in errors, as in `port.mac`
 * @throws InvalidInputError naming the first field that is wrong, and its value
 */
export function validate<S extends z.ZodType>(schema: S, value: unknown, what: string): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  if (issue.code === 'unrecognized_keys') {
    const field = issue.keys[0];
    throw new InvalidInputError(
      fieldName(what, [...issue.path, field]),
      valueAt(value, [...issue.path, field]),
      'unknown field',
    );
  }
  throw new InvalidInputError(fieldName(what, issue.path), valueAt(value, issue.path), issue.message);
}

function fieldName(what: string, path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (text, key) => (typeof key === 'number' ? `${text}[${key}]` : `${text}.${String(key)}`),
    what,
  );
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key], value);
}
