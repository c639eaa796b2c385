import type * as z from 'zod';
import { InvalidInputError } from '../errors.js';
import { nestedField } from './nested-field.js';

/**
 * Check `value` against `schema`.
 * @param what names the object in errors, as in `port.mac`
 * @throws InvalidInputError naming the first field that is wrong, and its value
 */
export function validate<S extends z.ZodType>(schema: S, value: unknown, what: string): z.output<S> {
  const result = schema.safeParse(value, { error: expectation });
  if (result.success) return result.data;
  // A field that is misspelled is told before the one that it leaves out.
  const issue = result.error.issues.find(({ code }) => code === 'unrecognized_keys') ?? result.error.issues[0];
  if (issue.code === 'unrecognized_keys') {
    const field = issue.keys[0];
    const nested = nestedField(schema, issue.path, field);
    throw new InvalidInputError(
      fieldName(what, [...issue.path, field]),
      valueAt(value, [...issue.path, field]),
      nested === undefined ? 'unknown field' : `unknown field (there is ${nested})`,
    );
  }
  throw new InvalidInputError(fieldName(what, issue.path), valueAt(value, issue.path), issue.message);
}

/** What is expected of a value whose schema does not say so in words of its own. */
export function expectation(issue: z.core.$ZodRawIssue): string | undefined {
  switch (issue.code) {
    case 'invalid_type':
      return `expected ${TYPES[issue.expected] ?? issue.expected}`;
    case 'invalid_value':
      return oneOf(issue.values);
    case 'invalid_union':
      return issue.options === undefined ? undefined : oneOf(issue.options);
    case 'invalid_format':
      return issue.format === 'uuid' ? 'expected a UUID' : undefined;
    case 'too_small':
      return `expected ${issue.inclusive === false ? 'more than' : 'at least'} ${issue.minimum}${UNITS[issue.origin] ?? ''}`;
    case 'too_big':
      return `expected ${issue.inclusive === false ? 'less than' : 'at most'} ${issue.maximum}${UNITS[issue.origin] ?? ''}`;
    default:
      return undefined;
  }
}

const TYPES: Readonly<Partial<Record<string, string>>> = {
  string: 'text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'fields',
  record: 'fields',
  nonoptional: 'a value',
};

/** What is counted of a value, where that is not the value itself. */
const UNITS: Readonly<Partial<Record<string, string>>> = { string: ' characters', array: ' elements' };

function oneOf(values: unknown): string {
  return Array.isArray(values)
    ? `expected ${values.length === 1 ? '' : 'one of '}${values.join(', ')}`
    : 'expected another value';
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
