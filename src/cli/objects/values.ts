import { InvalidInputError } from '../../errors.js';
import type { Kind } from '../../topology/types.js';
import { type Field, fieldNamed, kebab, type Shape } from './fields.js';

/** Values of fields, from the words people write on the command line or in a file, and back. */

/** Finds the identifier of an object that people call by its name. `at` names the field that refers to it. */
export type Resolve = (kind: Kind, text: string, at: string) => Promise<string>;

/**
 * What the API takes for what was written: text becomes a number, true or false, an identifier, a list, whatever the field
 * holds. Values that are no text stay as they are but for names in them.
 * @param at names the field in errors
 * @throws InvalidInputError, and what `resolve` throws
 */
export async function readValue(shape: Shape, written: unknown, at: string, resolve: Resolve): Promise<unknown> {
  if (written === null) return null;
  switch (shape.type) {
    case 'boolean':
      if (typeof written === 'boolean') return written;
      if (written === 'true' || written === 'yes' || written === 'on') return true;
      if (written === 'false' || written === 'no' || written === 'off') return false;
      throw new InvalidInputError(at, written, 'expected true or false');
    case 'integer':
      return integerOf(shape.words, written, at);
    case 'text':
      return textOf(shape.choices, written, at);
    case 'reference':
      if (typeof written !== 'string') throw new InvalidInputError(at, written, `expected the name of a ${shape.kind}`);
      return resolve(shape.kind, written, at);
    case 'list':
      return Promise.all(
        elementsOf(shape.of, written, at).map((one, i) => readValue(shape.of, one, `${at}[${i}]`, resolve)),
      );
    case 'map':
      return typeof written === 'string' ? Object.fromEntries(pairsOf(written, at)) : mapOf(written, at);
    case 'object':
      return objectOf(shape.fields, written, at, resolve);
  }
}

function integerOf(words: ReadonlyMap<string, number> | undefined, written: unknown, at: string): number {
  if (typeof written === 'number') return written;
  const named = typeof written === 'string' ? words?.get(written.toLowerCase()) : undefined;
  if (named !== undefined) return named;
  if (typeof written === 'string' && /^(-?\d{1,15}|0x[0-9a-fA-F]{1,12})$/.test(written)) return Number(written);
  const others = words === undefined ? '' : ` or one of ${[...words.keys()].join(', ')}`;
  throw new InvalidInputError(at, written, `expected a whole number${others}`);
}

function textOf(choices: readonly string[] | undefined, written: unknown, at: string): string {
  // A YAML file may say 1.5 or true where text is meant.
  const text = typeof written === 'number' || typeof written === 'boolean' ? String(written) : written;
  if (typeof text !== 'string') throw new InvalidInputError(at, written, 'expected text');
  if (choices === undefined) return text;
  const sense = (name: string) => kebab(name).replace(/-id(s?)$/, '$1');
  const chosen = choices.find((one) => one === text) ?? choices.find((one) => sense(one) === sense(text));
  if (chosen === undefined) throw new InvalidInputError(at, text, `expected one of ${choices.join(', ')}`);
  return chosen;
}

/** `a,b` is a list of two; of objects, which have commas of their own, it is one. */
function elementsOf(of: Shape, written: unknown, at: string): readonly unknown[] {
  if (Array.isArray(written)) return written;
  if (typeof written !== 'string') throw new InvalidInputError(at, written, 'expected a list');
  if (written.startsWith('[')) return jsonOf(written, at) as unknown[];
  if (written === '') return [];
  return of.type === 'object' || of.type === 'map' ? [written] : written.split(',').map((one) => one.trim());
}

async function objectOf(
  fields: readonly Field[],
  written: unknown,
  at: string,
  resolve: Resolve,
): Promise<Record<string, unknown>> {
  const entries = objectEntries(fields, written, at);
  const values = await Promise.all(
    entries.map(async ([key, value]): Promise<[string, unknown]> => {
      const field = fieldNamed(fields, key);
      if (field === undefined) {
        throw new InvalidInputError(
          `${at}.${key}`,
          value,
          `expected one of ${fields.map(({ word }) => word).join(', ')}`,
        );
      }
      return [field.name, await readValue(field.shape, value, `${at}.${field.word}`, resolve)];
    }),
  );
  return Object.fromEntries(values);
}

function objectEntries(fields: readonly Field[], written: unknown, at: string): [string, unknown][] {
  if (isRecord(written)) return Object.entries(written);
  if (isRange(fields)) {
    const range = typeof written === 'number' ? String(written) : written;
    if (typeof range === 'string' && !range.startsWith('{') && !range.includes('=')) return rangeOf(fields, range, at);
  }
  if (typeof written !== 'string') throw new InvalidInputError(at, written, 'expected fields with values');
  if (written.startsWith('{')) return Object.entries(jsonOf(written, at) as object);
  return pairsOf(written, at);
}

/** Whether an object is a stretch from one value to another, as ports and NAT targets are. */
export function isRange(fields: readonly Field[]): boolean {
  return ['start', 'end'].every((name) => fields.some((field) => field.name === name));
}

/** `80`, `1024-65535`, `203.0.113.5`, `203.0.113.5-203.0.113.9:1024-65535`, `[fd00::5]:1024-65535`. */
function rangeOf(fields: readonly Field[], text: string, at: string): [string, unknown][] {
  const hasPorts = fields.some(({ name }) => name === 'ports');
  const [, v6, plain, ports] = hasPorts
    ? (/^(?:\[([^\]]+)\]|([^:]+|[^[\]]*:[^[\]]*:[^[\]]*))(?::([\d-]+))?$/.exec(text) ?? [])
    : [undefined, undefined, text, undefined];
  const [start, end = start, ...more] = (v6 ?? plain ?? '').split('-').map((one) => one.trim());
  if (start === '' || end === '' || more.length > 0) {
    throw new InvalidInputError(
      at,
      text,
      hasPorts ? 'expected ADDRESS[-ADDRESS][:PORT-PORT]' : 'expected PORT or PORT-PORT',
    );
  }
  return [['start', start], ['end', end], ...(ports === undefined ? [] : [['ports', ports] as [string, unknown]])];
}

function pairsOf(text: string, at: string): [string, string][] {
  return text.split(',').map((pair) => {
    const sign = pair.indexOf('=');
    if (sign <= 0) throw new InvalidInputError(at, text, 'expected FIELD=VALUE[,FIELD=VALUE…] or JSON');
    return [pair.slice(0, sign).trim(), pair.slice(sign + 1).trim()];
  });
}

function mapOf(written: unknown, at: string): Record<string, unknown> {
  if (typeof written !== 'object' || Array.isArray(written)) {
    throw new InvalidInputError(at, written, 'expected keys with values');
  }
  return { ...written };
}

function jsonOf(text: string, at: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new InvalidInputError(at, text, 'expected JSON');
  }
}

/** A value in few words, as {@link readValue} takes it, references by what `nameOf` calls them. */
export function formatValue(shape: Shape, value: unknown, nameOf: (kind: Kind, id: string) => string): string {
  if (value === undefined || value === null) return '';
  switch (shape.type) {
    case 'reference':
      return nameOf(shape.kind, String(value));
    case 'integer':
      return [...(shape.words ?? [])].find(([, number]) => number === value)?.[0] ?? String(value);
    case 'list': {
      const texts = (value as unknown[]).map((one) => formatValue(shape.of, one, nameOf));
      return texts.join(shape.of.type === 'object' ? ' ' : ',');
    }
    case 'object':
      return formatObject(shape.fields, value as Record<string, unknown>, nameOf);
    case 'map':
      return Object.entries(value as object)
        .map(([key, one]) => `${key}=${one}`)
        .join(',');
    default:
      return String(value);
  }
}

function formatObject(
  fields: readonly Field[],
  value: Record<string, unknown>,
  nameOf: (kind: Kind, id: string) => string,
): string {
  if (isRange(fields)) return formatRange(value as unknown as Range);
  return fields
    .filter(({ name }) => value[name] !== undefined)
    .map(({ name, word, shape }) => `${kebab(word)}=${formatValue(shape, value[name], nameOf)}`)
    .join(',');
}

interface Range {
  readonly start: string | number;
  readonly end: string | number;
  readonly ports?: Range;
}

function formatRange({ start, end, ports }: Range): string {
  const range = start === end ? String(start) : `${start}-${end}`;
  if (ports === undefined) return range;
  return `${range.includes(':') ? `[${range}]` : range}:${formatRange(ports)}`;
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
