import { setMaxListeners } from 'node:events';
import type { InputOf, MidonetClient, PatchOf, Stored } from '../../api/client/client.js';
import { segmentOf } from '../../api/description/resources.js';
import { filterFields } from '../../api/requests/object-query.js';
import { InvalidInputError, MidonetError } from '../../errors.js';
import type { Kind } from '../../topology/types.js';
import { type ConnectionFlags, connect } from '../terminal/connection.js';
import { formOf, type OutputFlags, printAs } from '../terminal/output.js';
import type { Terminal } from '../terminal/terminal.js';
import { assign, type Fields, fieldAt } from './assignments.js';
import { detailsOf, tableOf } from './columns.js';
import { type Field, fieldsOf, hasName, hasTenant, kebab } from './fields.js';
import { goingAlong } from './going-along.js';
import { type AnyObject, Names, parentsOf } from './names.js';
import { readValue } from './values.js';

/** What `midonet KIND create|list|show|update|delete` does. */

export interface ClientFlags extends ConnectionFlags, OutputFlags {
  readonly tenant?: string;
}

/** What the options named after fields were given; texts, or lists of them. */
export interface FieldFlags {
  readonly [option: string]: unknown;
}

/** Work with the API, as the options of a command say, and take leave. */
export async function withClient<T>(
  flags: ClientFlags,
  terminal: Terminal,
  work: (client: MidonetClient, names: Names) => Promise<T>,
): Promise<T> {
  const client = await connect(flags, terminal);
  // Each request listens to it, and Node.js takes more than ten listeners of one for a leak.
  const signal = AbortSignal.any([terminal.signal]);
  setMaxListeners(0, signal);
  try {
    return await work(client, new Names(client, flags.tenant, signal));
  } finally {
    client.close();
  }
}

export interface CreateFlags extends ClientFlags {
  readonly id?: string;
  readonly set?: readonly string[];
  /** Of rules. */
  readonly before?: string;
  readonly after?: string;
  readonly first?: boolean;
}

export async function createObject(
  kind: Kind,
  name: string | undefined,
  flags: CreateFlags & FieldFlags,
  terminal: Terminal,
): Promise<void> {
  await withClient(flags, terminal, async (client, names) => {
    const body = await bodyOf(kind, flags, names);
    if (name !== undefined && !hasName(kind)) throw new InvalidInputError('name', name, `expected none for a ${kind}`);
    if (name !== undefined) body.name = name;
    if (flags.id !== undefined) body.id = flags.id;
    if (flags.tenant !== undefined && hasTenant(kind)) body.tenantId = flags.tenant;
    await assign(kind, body, flags.set ?? [], [], names.idOf);
    if (kind === 'trace-request') body.createdAt ??= Date.now();
    const place = kind === 'rule' ? await placeOf(flags, names) : {};
    const made = await withOptions(kind, () => create(client, kind, body, place, terminal.signal));
    await printAs(
      terminal,
      formOf(flags),
      made,
      async () => `created ${kind} ${await names.nameOfObject(kind, made)} (${made.id})`,
    );
  });
}

/** Errors of the API name a field; on the command line that is the option named after it. */
async function withOptions<T>(kind: Kind, request: () => Promise<T>): Promise<T> {
  try {
    return await request();
  } catch (error) {
    if (!(error instanceof MidonetError && 'field' in error && typeof error.field === 'string')) throw error;
    const [, name, rest] = /^(?:condition\.)?([A-Za-z0-9]+)(.*)$/.exec(error.field) ?? [];
    const field = [...fieldsOf(kind), ...conditionFields(kind)].find((one) => one.name === name);
    if (field === undefined || APART.has(field.name) || !error.message.startsWith(`${error.field}:`)) throw error;
    const fault = error.message.slice(error.field.length);
    throw new MidonetError(error.code, `--${kebab(field.word)}${rest}${fault}`, { cause: error });
  }
}

/** Where a rule goes among those of its chain: behind them when this is empty. */
async function placeOf(flags: CreateFlags, names: Names): Promise<Record<string, string>> {
  if (flags.first === true) return { first: 'true' };
  if (flags.before !== undefined) return { before: await names.idOf('rule', flags.before, '--before') };
  if (flags.after !== undefined) return { after: await names.idOf('rule', flags.after, '--after') };
  return {};
}

async function create(
  client: MidonetClient,
  kind: Kind,
  body: Fields,
  place: Record<string, string>,
  signal: AbortSignal,
): Promise<AnyObject> {
  if (Object.keys(place).length === 0) {
    return (await client.collection(kind).create(body as InputOf<typeof kind>, signal)).object as AnyObject;
  }
  const { chainId, ...rest } = body;
  if (typeof chainId !== 'string') throw new InvalidInputError('--chain', chainId, 'expected the chain of the rule');
  const path = `/v1/chains/${chainId}/${segmentOf('rule')}`;
  return (await client.request('POST', path, { query: place, body: rest, signal })).body as AnyObject;
}

export interface ListFlags extends ClientFlags {
  readonly name?: string;
  readonly where?: readonly string[];
  readonly limit?: number;
}

export async function listObjects(kind: Kind, flags: ListFlags & FieldFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client, names) => {
    const filter = await filterOf(kind, flags, names);
    const objects: AnyObject[] = [];
    for await (const object of client.collection(kind).list(filter, terminal.signal)) {
      objects.push(object as AnyObject);
      if (objects.length === flags.limit) break;
    }
    objects.sort(inOrderOf(kind));
    await printAs(terminal, formOf(flags), objects, (wide) => tableOf(kind, objects, names, wide));
    if (objects.length === 0 && formOf(flags) === 'table') terminal.note(`no ${segmentOf(kind)}`);
  });
}

/** What is asked of the API, for the options of a list. */
export async function filterOf(
  kind: Kind,
  flags: ListFlags & FieldFlags,
  names: Names,
): Promise<Record<string, string | number | boolean>> {
  const filter = await valuesOf(filtersOf(kind), flags, names);
  if (flags.name !== undefined) filter.name = flags.name;
  if (flags.tenant !== undefined && hasTenant(kind)) filter.tenantId = flags.tenant;
  for (const text of flags.where ?? []) {
    const sign = text.indexOf('=');
    if (sign <= 0) throw new InvalidInputError('--where', text, 'expected FIELD=VALUE');
    const { names: path, shape } = fieldAt(kind, text.slice(0, sign), '--where', true);
    const field = path.join('.');
    const known = filterFields(kind);
    if (!known.includes(field))
      throw new InvalidInputError('--where', text, `expected FIELD=VALUE, with one of ${known.join(', ')}`);
    filter[field] = await readValue(shape, text.slice(sign + 1), text.slice(0, sign), names.idOf);
  }
  return filter as Record<string, string | number | boolean>;
}

/** The fields that a list has options for: those with a single value that the API can be asked for. */
export function filtersOf(kind: Kind): readonly Field[] {
  const known = filterFields(kind);
  return fieldsOf(kind).filter(
    ({ name, shape }) => known.includes(name) && shape.type !== 'list' && !APART.has(name) && name !== 'limit',
  );
}

/** By tenant, by what they are a part of and by name; rules as they stand in their chain. */
function inOrderOf(kind: Kind): (a: AnyObject, b: AnyObject) => number {
  const fields = [
    'tenantId',
    ...parentsOf(kind).map(({ field }) => field),
    kind === 'rule' ? 'position' : 'name',
    'id',
  ];
  return (a, b) => {
    for (const field of fields) {
      const [left, right] = [String(a[field] ?? ''), String(b[field] ?? '')];
      if (left !== right) return left < right ? -1 : 1;
    }
    return 0;
  };
}

export async function showObjects(
  kind: Kind,
  texts: readonly string[],
  flags: ClientFlags,
  terminal: Terminal,
): Promise<void> {
  await withClient(flags, terminal, async (client, names) => {
    const objects: AnyObject[] = [];
    for (const text of texts) objects.push((await existing(client, names, kind, text, terminal.signal)).object);
    const value = texts.length === 1 ? objects[0] : objects;
    await printAs(terminal, formOf(flags), value, async () => {
      const details = await Promise.all(objects.map((object) => detailsOf(kind, object, names)));
      return details.join('\n\n');
    });
  });
}

/** @throws MidonetError when there is no such object */
export async function existing(
  client: MidonetClient,
  names: Names,
  kind: Kind,
  text: string,
  signal: AbortSignal,
): Promise<{ object: AnyObject; etag: string }> {
  const id = await names.idOf(kind, text);
  const found = (await client.collection(kind).get(id, signal)) as Stored<Kind> | undefined;
  if (found === undefined) throw new MidonetError('MN_NOT_FOUND', `there is no ${kind} with the id ${id}`);
  return { object: found.object as AnyObject, etag: found.etag };
}

export interface UpdateFlags extends ClientFlags {
  readonly name?: string;
  readonly set?: readonly string[];
  readonly unset?: readonly string[];
  /** Of ports. */
  readonly force?: boolean;
}

export async function updateObject(
  kind: Kind,
  text: string,
  flags: UpdateFlags & FieldFlags,
  terminal: Terminal,
): Promise<void> {
  await withClient(flags, terminal, async (client, names) => {
    const id = await names.idOf(kind, text);
    const body = await bodyOf(kind, flags, names);
    if (flags.name !== undefined) body.name = flags.name;
    await assign(kind, body, flags.set ?? [], flags.unset ?? [], names.idOf);
    if (Object.keys(body).length === 0) {
      throw new MidonetError(
        'MN_INVALID_INPUT',
        `nothing to change: \`midonet ${kind} update --help\` lists the options`,
      );
    }
    const options = { force: flags.force, signal: terminal.signal };
    const { object } = await withOptions(kind, () =>
      client.collection(kind).patch(id, body as PatchOf<typeof kind>, options),
    );
    const changed = object as AnyObject;
    await printAs(
      terminal,
      formOf(flags),
      changed,
      async () => `updated ${kind} ${await names.nameOfObject(kind, changed)} (${id})`,
    );
  });
}

export interface DeleteFlags extends ClientFlags {
  readonly yes?: boolean;
  /** Of ports. */
  readonly force?: boolean;
}

export async function deleteObjects(
  kind: Kind,
  texts: readonly string[],
  flags: DeleteFlags,
  terminal: Terminal,
): Promise<void> {
  await withClient(flags, terminal, async (client, names) => {
    const found: { id: string; called: string }[] = [];
    for (const text of texts) {
      const { object } = await existing(client, names, kind, text, terminal.signal);
      found.push({ id: object.id, called: `${await names.nameOfObject(kind, object)} (${object.id})` });
    }
    if (flags.yes !== true && terminal.isInteractive) {
      const lost: string[] = [];
      for (const { id, called } of found) {
        const along = await goingAlong(client, kind, id, terminal.signal);
        lost.push(along === '' ? called : `${called} with ${along}`);
      }
      if (!(await terminal.confirm(`Delete ${kind} ${lost.join('; ')}?`))) {
        terminal.note('nothing was deleted');
        terminal.setExitCode(1);
        return;
      }
    }
    for (const { id, called } of found) {
      await client.collection(kind).remove(id, { force: flags.force, signal: terminal.signal });
      terminal.print(`deleted ${kind} ${called}`);
    }
  });
}

/** The fields of a condition have options of their own. */
export const CONDITION = 'condition';

/** What the options named after fields say. */
async function bodyOf(kind: Kind, flags: FieldFlags, names: Names): Promise<Fields> {
  const body = await valuesOf(fieldsOf(kind), flags, names);
  const condition = await valuesOf(conditionFields(kind), flags, names);
  if (Object.keys(condition).length > 0) body[CONDITION] = { ...(body[CONDITION] as Fields), ...condition };
  return body;
}

export function conditionFields(kind: Kind): readonly Field[] {
  const shape = fieldsOf(kind).find(({ name }) => name === CONDITION)?.shape;
  return shape?.type === 'object' ? shape.fields : [];
}

/** Fields that do not have an option named after them. */
export const APART: ReadonlySet<string> = new Set(['id', 'name', 'tenantId']);

async function valuesOf(fields: readonly Field[], flags: FieldFlags, names: Names): Promise<Fields> {
  const values: Fields = {};
  for (const { name, word, shape } of fields) {
    if (APART.has(name) || flags[word] === undefined) continue;
    values[name] = await readValue(shape, flags[word], `--${kebab(word)}`, names.idOf);
  }
  return values;
}
