import * as z from 'zod';
import { InvalidInputError } from '../../errors.js';
import { readAhead } from '../../nsdb/read-ahead.js';
import { type Listed, MAX_PAGE_BYTES } from '../../nsdb/repository/page.js';
import type { Kind, TopologyTypes } from '../../topology/types.js';
import { type Filter, MAX_LIMIT, matches, type ObjectQuery, parseId } from '../requests/object-query.js';
import { ADMIN_KINDS, hasTenant, OWNERS, type Scope } from '../tenancy/tenancy.js';

/** A part of a collection; `next` is there when there may be more, and asks for it as `after`. */
export interface ObjectPage {
  readonly items: readonly Listed<TopologyTypes[Kind]>[];
  readonly next: string | undefined;
}

/**
 * The objects of a kind that the caller may know of and the query asks for. So many are looked at as the query's limit says:
 * a page may have fewer items, or none, and still a next one.
 *
 * For a tenant they are found by what belongs to the tenant: neither the work nor `next` has to do with what others have.
 */
export async function listObjects(
  scope: Scope,
  kind: Kind,
  query: ObjectQuery,
  signal: AbortSignal,
): Promise<ObjectPage> {
  if (!scope.isAdmin && ADMIN_KINDS.has(kind)) return { items: [], next: undefined };
  const page = scope.isAdmin
    ? await adminPage(scope, kind, query, signal)
    : await tenantPage(scope, kind, query, signal);
  return { ...page, items: page.items.filter(({ object }) => matches(query.filters, object)) };
}

async function adminPage(scope: Scope, kind: Kind, query: ObjectQuery, signal: AbortSignal): Promise<ObjectPage> {
  const { filters, after, limit } = query;
  const reference = filters.find(({ row }) => row !== undefined);
  const { items, next } = await scope.repository.page({
    kind,
    name: textOf(filters, 'name'),
    tenantId: textOf(filters, 'tenantId'),
    holderOf: reference && { field: reference.field, id: String(reference.value) },
    after: after && parseId('after', after),
    limit,
    signal,
  });
  return { items, next };
}

function textOf(filters: readonly Filter[], field: string): string | undefined {
  const filter = filters.find((one) => one.field === field);
  return filter === undefined ? undefined : String(filter.value);
}

async function tenantPage(scope: Scope, kind: Kind, query: ObjectQuery, signal: AbortSignal): Promise<ObjectPage> {
  const { filters, after, limit } = query;
  const owner = filters.find(({ field }) => OWNERS[kind]?.some((one) => one.field === field));
  if (owner?.row !== undefined) {
    const named = await scope.find(owner.row.names, String(owner.value));
    if (named === undefined) return { items: [], next: undefined };
    const holderOf = { field: owner.field, id: named.object.id };
    const page = await scope.repository.page({
      kind,
      holderOf,
      after: after && parseId('after', after),
      limit,
      signal,
    });
    return { items: await visible(scope, kind, page.items), next: page.next };
  }
  const items: Listed<TopologyTypes[Kind]>[] = [];
  let last: Cursor = [];
  let steps = 0;
  let bytes = 0;
  for await (const { stored, place } of walk(scope, kind, parseCursor(after), limit, signal)) {
    const isFull = items.length === limit || steps === MAX_STEPS || bytes >= MAX_PAGE_BYTES;
    if (isFull) return { items, next: last.join('.') };
    if (stored !== undefined) items.push(stored);
    last = place;
    steps++;
    bytes += stored?.bytes ?? 0;
  }
  return { items, next: undefined };
}

/**
 * A place among the objects of a kind that a tenant may know of: 0 and an object that names the tenant; or the number of a field
 * that leads to the tenant, from 1, the place of the object that it names, and the last of those that name that one ('' for none
 * yet); or, of a kind without such fields, 1 and an object that all tenants may use.
 */
type Cursor = readonly string[];

/** Objects, and objects that none goes with, that one request goes through. */
const MAX_STEPS = 2 * MAX_LIMIT;

interface Step {
  /** Undefined for a place where there are no objects. */
  readonly stored: Listed<TopologyTypes[Kind]> | undefined;
  readonly place: Cursor;
}

/** Goes through the objects of a kind that the caller may know of, behind a place, reading `size` at a time. */
async function* walk(
  scope: Scope,
  kind: Kind,
  after: Cursor,
  size: number,
  signal: AbortSignal,
): AsyncGenerator<Step, void> {
  const { repository, caller } = scope;
  const [first, ...inside] = after;
  const start = Number(first ?? 0);
  if (hasTenant(kind) && start === 0) {
    let from = inside.at(0);
    do {
      const page = await repository.page({ kind, tenantId: caller.tenantId, after: from, limit: size, signal });
      for (const stored of page.items) yield { stored, place: ['0', stored.object.id] };
      from = page.next;
    } while (from !== undefined);
  }
  if (kind === 'qos-policy') yield* shared(scope, kind, start === 1 ? inside.at(0) : undefined, size, signal);
  for (const [i, owner] of (OWNERS[kind] ?? []).entries()) {
    const source = i + 1;
    if (source < start) continue;
    const ownerAfter = source === start ? inside.slice(0, -1) : [];
    // None at a place where there are no objects, which ends in nothing.
    const ownerId = ownerAfter.at(-1) || undefined;
    if (ownerId !== undefined && (await scope.find(owner.kind, ownerId)) !== undefined) {
      const place = [String(source), ...ownerAfter];
      yield* holders(scope, kind, owner.field, ownerId, place, inside.at(-1) || undefined, size, signal);
    }
    for await (const { stored: found, place } of walk(scope, owner.kind, ownerAfter, size, signal)) {
      const at = [String(source), ...place];
      yield { stored: undefined, place: [...at, ''] };
      if (found !== undefined) yield* holders(scope, kind, owner.field, found.object.id, at, undefined, size, signal);
    }
  }
}

/** The objects of a kind that all tenants may use. */
async function* shared(
  { repository, caller }: Scope,
  kind: Kind,
  after: string | undefined,
  size: number,
  signal: AbortSignal,
): AsyncGenerator<Step, void> {
  let from = after;
  do {
    const page = await repository.page({ kind, isShared: true, after: from, limit: size, signal });
    for (const stored of page.items) {
      const { object } = stored;
      // The caller's own are found by that they are.
      const isOwn = 'tenantId' in object && object.tenantId === caller.tenantId;
      yield { stored: isOwn ? undefined : stored, place: ['1', object.id] };
    }
    from = page.next;
  } while (from !== undefined);
}

/** The objects that name one of the caller's in a field. */
async function* holders(
  scope: Scope,
  kind: Kind,
  field: string,
  ownerId: string,
  place: Cursor,
  after: string | undefined,
  size: number,
  signal: AbortSignal,
): AsyncGenerator<Step, void> {
  let from = after;
  do {
    const page = await scope.repository.page({
      kind,
      holderOf: { field, id: ownerId },
      after: from,
      limit: size,
      signal,
    });
    // Those that name a tenant themselves are found by that.
    const unnamed = page.items.filter(({ object }) => !('tenantId' in object && object.tenantId !== undefined));
    for (const stored of await visible(scope, kind, unnamed)) yield { stored, place: [...place, stored.object.id] };
    from = page.next;
  } while (from !== undefined);
}

async function visible<T extends TopologyTypes[Kind]>(
  scope: Scope,
  kind: Kind,
  items: readonly Listed<T>[],
): Promise<Listed<T>[]> {
  const isVisible = await readAhead(items, undefined, ({ object }) => scope.sees(kind, object));
  return items.filter((_, i) => isVisible[i]);
}

/** @throws InvalidInputError */
function parseCursor(after: string | undefined): Cursor {
  if (after === undefined) return [];
  const parts = after.split('.');
  const isCursor = parts.length > 1 && parts.every((part) => /^\d?$/.test(part) || z.uuid().safeParse(part).success);
  if (!isCursor) throw new InvalidInputError('after', after, 'expected `next` of the page before');
  return parts;
}
