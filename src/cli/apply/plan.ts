import type { MidonetClient } from '../../api/client/client.js';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { readAhead } from '../../nsdb/read-ahead.js';
import { positionBetween } from '../../topology/position.js';
import { referencesIn } from '../../topology/references.js';
import { KINDS, type Kind, SCHEMAS, type TopologyTypes } from '../../topology/types.js';
import { validate } from '../../topology/validate.js';
import { hasTenant } from '../objects/fields.js';
import { type AnyObject, isId, Names, parentsOf, shortId } from '../objects/names.js';
import { type Resolve, readValue } from '../objects/values.js';
import { changesOf, type FieldChange, fieldsSet, patchOf } from './difference.js';
import { type MemberChange, memberChanges } from './member-difference.js';
import { positionsInOrder } from './rule-order.js';
import { type Entry, tenantField } from './topology-file.js';

/** One object that is made, changed or deleted. */
export interface Change {
  readonly op: 'create' | 'patch' | 'delete';
  readonly kind: Kind;
  readonly id: string;
  /** What people call it. */
  readonly called: string;
  readonly fields: readonly FieldChange[];
  readonly body: Record<string, unknown>;
  /** As it will be; undefined when it is deleted. */
  readonly after: AnyObject | undefined;
  /** The version that `fields` were compared with, of what is changed: it is changed in no other. */
  readonly etag?: string;
}

/** What to do for the topology to be as a file says. */
export interface Plan {
  /** In an order in which each names only what is there by then. */
  readonly changes: readonly Change[];
  readonly members: readonly MemberChange[];
  /** What is there beside the objects of the file, and is not deleted. */
  readonly others: readonly { readonly kind: Kind; readonly called: string }[];
}

/** An entry of the file with all its fields as the API has them. */
interface Desired {
  readonly entry: Entry;
  readonly object: AnyObject;
  readonly spoken: ReadonlySet<string>;
}

/**
 * Compare a file with what is there.
 * @param prune delete what is not in the file: parts of its objects where it lists such parts, and the rest of its tenants
 * @param names gets to know what the objects of the file are called
 * @throws InvalidInputError, MidonetError naming the object and its field
 */
export async function planOf(
  entries: readonly Entry[],
  prune: boolean,
  client: MidonetClient,
  names: Names,
  signal: AbortSignal,
): Promise<Plan> {
  const called = callAll(entries);
  for (const { id } of entries) names.learn(id, called.get(id)!);
  const namesOf = namesByTenant(client, signal);
  const desired: Desired[] = [];
  for (const entry of entries) desired.push(await desiredOf(entry, entries, namesOf(entry.tenant), called));
  const stored = await readAhead(entries, signal, ({ kind, id }, signal) => client.collection(kind).get(id, signal));
  const found = stored.flatMap((one) => one ?? []);
  const current = new Map(found.map(({ object }) => [object.id, object as AnyObject]));
  const etags = new Map(found.map(({ object, etag }) => [object.id, etag]));
  const positions = placeRules(desired, current);

  const changes: Change[] = [];
  for (const { entry, object, spoken } of desired) {
    const { kind, id } = entry;
    const name = called.get(id)!;
    const position = positions.get(id);
    const after = position === undefined ? object : { ...object, position };
    const before = current.get(id);
    if (before === undefined) {
      changes.push({ op: 'create', kind, id, called: name, fields: fieldsSet(kind, after), body: after, after });
      continue;
    }
    const fields = changesOf(kind, before, after, spoken);
    if (fields.length === 0) continue;
    const etag = etags.get(id);
    changes.push({ op: 'patch', kind, id, called: name, fields, body: patchOf(fields), after, etag });
  }
  const others = await othersOf(entries, client, names, prune, signal);
  const deletions = prune
    ? others.map(
        ({ kind, id, called }): Change => ({ op: 'delete', kind, id, called, fields: [], body: {}, after: undefined }),
      )
    : [];
  return {
    changes: [...inOrder(changes), ...deletions],
    members: await memberChanges(entries, called, new Set(current.keys()), client, signal),
    others: prune ? [] : others,
  };
}

/** Rules without a name are called by their place. */
function callAll(entries: readonly Entry[]): Map<string, string> {
  const called = new Map<string, string>();
  const counts = new Map<Entry, number>();
  for (const { kind, id, path, name, parent } of entries) {
    if (kind !== 'rule' || parent === undefined) {
      called.set(id, name === undefined && isId(path.split('/').at(-1)!) ? shortId(id) : path);
      continue;
    }
    const count = (counts.get(parent.entry) ?? 0) + 1;
    counts.set(parent.entry, count);
    called.set(id, name === undefined ? `${count} of ${parent.entry.path}` : path);
  }
  return called;
}

function namesByTenant(client: MidonetClient, signal: AbortSignal): (tenant: string | undefined) => Names {
  const made = new Map<string | undefined, Names>();
  return (tenant) => {
    const names = made.get(tenant) ?? new Names(client, tenant, signal);
    made.set(tenant, names);
    return names;
  };
}

async function desiredOf(
  entry: Entry,
  entries: readonly Entry[],
  names: Names,
  called: ReadonlyMap<string, string>,
): Promise<Desired> {
  const { kind, id, name, parent, written } = entry;
  const at = `${kind} ${called.get(id)}`;
  if (kind === 'host' && !entry.hasOwnId) {
    throw new MidonetError(
      'MN_INVALID_INPUT',
      `${at}: expected its id, as hosts enter themselves under one of their own`,
    );
  }
  const body: Record<string, unknown> = { id, ...tenantField(entry) };
  if (name !== undefined) body.name = name;
  if (parent !== undefined) body[parent.field] = parent.entry.id;
  const resolve = resolverFor(entry, entries, names);
  for (const [field, value] of written) {
    const read = await readValue(field.shape, value, `${at}.${field.word}`, resolve);
    if (read !== null) body[field.name] = read;
  }
  // Its place is found out later.
  if (kind === 'rule') body.position = positionBetween(undefined, undefined);
  if (kind === 'trace-request') body.createdAt ??= Date.now();
  const spoken = new Set([...written.keys()].map((field) => field.name));
  return { entry, object: validate(SCHEMAS[kind], body, at) as AnyObject, spoken };
}

/** Names in an entry are those of objects of the file, of its own tenant and nearest to it, then of what is there. */
function resolverFor(entry: Entry, entries: readonly Entry[], names: Names): Resolve {
  return async (kind, text, at) => {
    if (isId(text)) return text.toLowerCase();
    const ofKind = entries.filter((one) => one.kind === kind && (one.path === text || one.name === text));
    const own = ofKind.filter(({ tenant }) => tenant === entry.tenant);
    const candidates = own.length > 0 ? own : ofKind.filter(({ tenant }) => tenant === undefined);
    const beside = candidates.filter((one) => one.parent !== undefined && one.parent.entry === entry.parent?.entry);
    const exact = candidates.filter(({ path }) => path === text);
    const [found, another] = exact.length > 0 ? exact : beside.length > 0 ? beside : candidates;
    if (found !== undefined && another === undefined) return found.id;
    if (found !== undefined) {
      const paths = candidates.map(({ path }) => path).join(', ');
      throw new InvalidInputError(at, text, `expected one of several: ${paths}`);
    }
    if (parentsOf(kind).length > 0 && !hasTenant(kind) && !text.includes('/')) {
      throw new InvalidInputError(at, text, `expected a ${kind} of this file, or PARENT/NAME of one that is there`);
    }
    return names.idOf(kind, text, at);
  };
}

/** The rules of each chain of the file stand in the order of the file. */
function placeRules(desired: readonly Desired[], current: ReadonlyMap<string, AnyObject>): Map<string, string> {
  const chains = new Map<string, string[]>();
  for (const { entry } of desired) {
    if (entry.kind !== 'rule') continue;
    const chainId = entry.parent!.entry.id;
    chains.set(chainId, [...(chains.get(chainId) ?? []), entry.id]);
  }
  const positions = new Map<string, string>();
  for (const ids of chains.values()) {
    const placed = ids.map((id) => ({ id, position: current.get(id)?.position as string | undefined }));
    for (const [id, position] of positionsInOrder(placed)) positions.set(id, position);
  }
  return positions;
}

/** What is made comes before what names it. Objects that name each other are side by side: one transaction makes both. */
function inOrder(changes: readonly Change[]): Change[] {
  const made = new Map(changes.flatMap((change) => (change.op === 'create' ? [[change.id, change]] : [])));
  const ordered: Change[] = [];
  const begun = new Set<Change>();
  const done = new Set<Change>();
  const visit = (change: Change) => {
    begun.add(change);
    let { body } = change;
    for (const { row, id } of referencesIn(change.kind, change.after as unknown as TopologyTypes[Kind])) {
      const needed = made.get(id);
      if (needed === undefined) continue;
      if (!begun.has(needed)) visit(needed);
      else if (!done.has(needed) && row.symmetric) {
        // The one that waits for this one will set it on both.
        const { [row.field]: _, ...rest } = body;
        body = rest;
      }
    }
    done.add(change);
    ordered.push({ ...change, body });
  };
  for (const change of changes) if (!begun.has(change)) visit(change);
  return ordered;
}

interface Other {
  readonly kind: Kind;
  readonly id: string;
  readonly called: string;
}

/** What is there of the lists and the tenants of the file, and not in it. What front ends have made is theirs. */
async function othersOf(
  entries: readonly Entry[],
  client: MidonetClient,
  names: Names,
  prune: boolean,
  signal: AbortSignal,
): Promise<Other[]> {
  const known = new Set(entries.map(({ id }) => id));
  const found = new Map<string, { kind: Kind; object: AnyObject }>();
  const look = async (kind: Kind, filter: Record<string, string>) => {
    for await (const one of client.collection(kind).list(filter, signal)) {
      const object = one as AnyObject;
      if (!known.has(object.id) && object.owner === undefined) found.set(object.id, { kind, object });
    }
  };
  for (const entry of entries) {
    for (const part of entry.lists) {
      // Without deleting, only rules matter: they are between those of the file.
      if (!prune && part !== 'rule') continue;
      const { field } = parentsOf(part).find(({ kind }) => kind === entry.kind)!;
      await look(part, { [field]: entry.id });
    }
  }
  if (prune) {
    for (const tenantId of new Set(entries.flatMap(({ tenant }) => tenant ?? []))) {
      for (const kind of KINDS.filter(hasTenant)) await look(kind, { tenantId });
    }
  }
  const others: Other[] = [];
  for (const { kind, object } of found.values()) {
    // It goes with what it is a part of.
    const isPart = parentsOf(kind).some(({ field }) => found.has(object[field] as string));
    if (!isPart) others.push({ kind, id: object.id, called: await names.nameOfObject(kind, object) });
  }
  return others;
}
