import { InvalidInputError } from '../../errors.js';
import type { Kind } from '../../topology/types.js';
import { type Field, fieldNamed, fieldsOf, type Shape } from './fields.js';
import { type Resolve, readValue } from './values.js';

/** Fields with their values, as a command's options say them. */

/** What becomes the body of a request, or a part of it. */
export type Fields = Record<string, unknown>;

/**
 * What `--set FIELD=VALUE` and `--unset FIELD` say; a field of a field is written with a dot. What is unset is null.
 * @throws InvalidInputError
 */
export async function assign(
  kind: Kind,
  body: Fields,
  sets: readonly string[],
  unsets: readonly string[],
  resolve: Resolve,
): Promise<void> {
  for (const text of sets) {
    const sign = text.indexOf('=');
    if (sign <= 0) throw new InvalidInputError('--set', text, 'expected FIELD=VALUE');
    const { names, shape } = fieldAt(kind, text.slice(0, sign), '--set');
    put(body, names, await readValue(shape, text.slice(sign + 1), text.slice(0, sign), resolve));
  }
  for (const text of unsets) put(body, fieldAt(kind, text, '--unset').names, null);
}

/**
 * `binding.interfaceName`: the names of the fields as the API has them, and what the last one holds.
 * @param intoLists a list stands for what is in it, as in `tunnelZones.zone`
 */
export function fieldAt(kind: Kind, path: string, at: string, intoLists = false): { names: string[]; shape: Shape } {
  const names: string[] = [];
  let shape: Shape = { type: 'object', fields: fieldsOf(kind) };
  for (const step of path.split('.')) {
    if (shape.type === 'map') {
      names.push(step);
      shape = { type: 'text' };
      continue;
    }
    const fields: readonly Field[] = shape.type === 'object' ? shape.fields : [];
    const field = fieldNamed(fields, step);
    if (field === undefined) {
      const known = fields.length === 0 ? 'no field of it' : `one of ${fields.map(({ word }) => word).join(', ')}`;
      throw new InvalidInputError(at, path, `expected ${known}`);
    }
    names.push(field.name);
    shape = intoLists && field.shape.type === 'list' ? field.shape.of : field.shape;
  }
  return { names, shape };
}

function put(body: Fields, names: readonly string[], value: unknown): void {
  let inner = body;
  for (const name of names.slice(0, -1)) {
    inner[name] ??= {};
    inner = inner[name] as Fields;
  }
  inner[names.at(-1)!] = value;
}
