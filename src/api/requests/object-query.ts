import type * as z from 'zod';
import { InvalidInputError } from '../../errors.js';
import { referenceName } from '../../nsdb/layout.js';
import { uuid } from '../../topology/fields.js';
import { REFERENCES, type ReferenceRow, refersTo } from '../../topology/references.js';
import { type Kind, SCHEMAS, type TopologyTypes } from '../../topology/types.js';
import { expectation } from '../../topology/validate.js';
import { isRecord } from './merge-patch.js';
import { isSecret } from './secrets.js';

/** What the query of a collection asks for. */
export interface ObjectQuery {
  /** Fields with the values that they must have. */
  readonly filters: readonly Filter[];
  readonly after: string | undefined;
  readonly limit: number;
}

/** A field of an object and the value that it must have; or must refer to, for a field of references. */
export interface Filter {
  /** As in the query, such as `name` or `binding.hostId`. */
  readonly field: string;
  readonly value: string | number | boolean;
  readonly row: ReferenceRow | undefined;
}

export const DEFAULT_LIMIT = 100;
export const MAX_LIMIT = 1000;

/** Parameters that are no fields. */
const PARAMETERS: ReadonlySet<string> = new Set(['limit', 'after']);

/**
 * The query of a collection of objects of a kind.
 * @throws InvalidInputError naming the parameter
 */
export function parseObjectQuery(kind: Kind, query: Readonly<Record<string, unknown>>): ObjectQuery {
  const filters: Filter[] = [];
  for (const [field, text] of Object.entries(query)) {
    if (typeof text !== 'string') throw new InvalidInputError(field, text, 'expected one value');
    if (!PARAMETERS.has(field)) filters.push(parseFilter(kind, field, text));
  }
  return { filters, ...parsePaging(query) };
}

/** The page that a query asks for. @throws InvalidInputError */
export function parsePaging(query: Readonly<Record<string, unknown>>): Pick<ObjectQuery, 'after' | 'limit'> {
  const { after, limit = String(DEFAULT_LIMIT) } = query;
  const isNumber = typeof limit === 'string' && /^\d{1,4}$/.test(limit);
  if (!isNumber || Number(limit) < 1 || Number(limit) > MAX_LIMIT) {
    throw new InvalidInputError('limit', limit, `expected a whole number from 1 to ${MAX_LIMIT}`);
  }
  if (after !== undefined && (typeof after !== 'string' || after.length > 1024)) {
    throw new InvalidInputError('after', after, 'expected `next` of the page before');
  }
  return { after, limit: Number(limit) };
}

/** @throws InvalidInputError for a parameter that is not in the list */
export function refuseOthers(query: Readonly<Record<string, unknown>>, known: readonly string[]): void {
  for (const [name, value] of Object.entries(query)) {
    if (!known.includes(name))
      throw new InvalidInputError(name, value, `expected ${known.join(', ') || 'no'} parameters`);
  }
}

/** Whether the object has all of the values. */
export function matches(filters: readonly Filter[], object: TopologyTypes[Kind]): boolean {
  return filters.every(({ field, value, row }) =>
    row !== undefined
      ? refersTo(row, object, value as string)
      : (object as Readonly<Record<string, unknown>>)[field] === value,
  );
}

/** The fields of a kind that a query may name. */
export function filterFields(kind: Kind): string[] {
  const scalars = [...shapeOf(SCHEMAS[kind])].filter(([, types]) => types.some(isScalar)).map(([field]) => field);
  return [...new Set([...scalars, ...rowsByField(kind).keys()])].filter((field) => !isSecret(kind, field));
}

/** An identifier as objects have them: lower-case. @throws InvalidInputError naming the field */
export function parseId(field: string, text: unknown): string {
  const id = uuid.safeParse(text);
  if (!id.success) throw new InvalidInputError(field, text, 'expected a UUID');
  return id.data;
}

export function isId(value: unknown): value is string {
  return uuid.safeParse(value).success;
}

function parseFilter(kind: Kind, field: string, text: string): Filter {
  const row = rowsByField(kind).get(field);
  // Else it could be guessed at.
  const isOpen = row === undefined && !isSecret(kind, field);
  const types = !isOpen ? [] : (shapeOf(SCHEMAS[kind]).get(field) ?? []).filter(isScalar);
  if (row !== undefined) return { field, value: parseId(field, text), row };
  if (types.length === 0) {
    throw new InvalidInputError(field, text, `expected limit, after or a field of a ${kind} with a plain value`);
  }
  const values = types.flatMap((type) => readings(text).map((value) => type.safeParse(value, { error: expectation })));
  const parsed = values.find(({ success }) => success);
  if (parsed?.success) return { field, value: parsed.data as Filter['value'], row: undefined };
  const issue = values.findLast(({ success }) => !success)?.error?.issues[0];
  throw new InvalidInputError(field, text, issue?.message ?? 'expected a value of the field');
}

/** What the text of a parameter may stand for. */
function readings(text: string): (string | number | boolean)[] {
  if (text === 'true' || text === 'false') return [text === 'true', text];
  return /^-?\d{1,15}$/.test(text) ? [Number(text), text] : [text];
}

const rows = new Map<Kind, ReadonlyMap<string, ReferenceRow>>();

/** References of a kind by their fields, without the marks of lists. */
function rowsByField(kind: Kind): ReadonlyMap<string, ReferenceRow> {
  const known = rows.get(kind);
  if (known !== undefined) return known;
  const own = REFERENCES.filter((row) => row.kind === kind);
  const byField = new Map(own.map((row) => [referenceName(row).slice(kind.length + 1), row]));
  rows.set(kind, byField);
  return byField;
}

/** The types of each top field: several where the form of an object depends on one of them. */
function shapeOf(schema: z.ZodType): Map<string, z.ZodType[]> {
  const fields = new Map<string, z.ZodType[]>();
  const forms = 'options' in schema ? (schema.options as z.ZodType[]) : [schema];
  for (const form of forms) {
    if (!('shape' in form) || !isRecord(form.shape)) continue;
    for (const [field, type] of Object.entries(form.shape)) {
      fields.set(field, [...(fields.get(field) ?? []), type as z.ZodType]);
    }
  }
  return fields;
}

const SCALARS: ReadonlySet<string> = new Set(['string', 'number', 'boolean', 'enum', 'literal', 'pipe']);

/** Whether values of the type are text, numbers or truth values. Those that are brought into a canonical form are all text. */
function isScalar(type: z.ZodType): boolean {
  const { def } = type;
  if (SCALARS.has(def.type)) return true;
  return 'innerType' in def && isScalar(def.innerType as z.ZodType);
}
