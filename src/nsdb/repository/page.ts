import { InvalidInputError } from '../../errors.js';
import { type ReferenceRow, referencesIn, refersTo } from '../../topology/references.js';
import type { Kind, TopologyTypes } from '../../topology/types.js';
import { decodeJson } from '../json.js';
import {
  isReferenceSharded,
  isSharded,
  kindPath,
  namesPath,
  objectPath,
  referenceFolder,
  sharedKindPath,
  tenantKindPath,
} from '../layout.js';
import { readAhead } from '../read-ahead.js';
import { inShards } from '../shards.js';
import type { Store, StoreNode } from '../store.js';
import type { Versioned } from './change-set.js';
import { holderSchema } from './index-entries.js';

/** Which objects of a kind, and how many of them. Of several conditions all hold. */
export interface PageQuery<K extends Kind> {
  readonly kind: K;
  readonly tenantId?: string;
  readonly name?: string;
  /** Those that all tenants may use. */
  readonly isShared?: true;
  /** Those that name an object in a field. */
  readonly holderOf?: { readonly row: ReferenceRow; readonly id: string };
  /** `next` of the page before; undefined for the first page. */
  readonly after?: string;
  /** Objects looked at, at least 1. Fewer are when they are large, see MAX_PAGE_BYTES. */
  readonly limit: number;
  readonly signal?: AbortSignal;
  /** Told of an object that is left out, since it is not valid or was written by a newer program. */
  readonly onUnreadable?: (id: string, error: Error) => void;
}

/** An object, and how many bytes of the NSDB it takes. */
export interface Listed<T> extends Versioned<T> {
  readonly bytes: number;
}

/** Some objects; `next` is there when there may be more, and stands for its place whatever comes and goes meanwhile. */
export interface Page<T> {
  readonly items: readonly Listed<T>[];
  readonly next?: string;
}

/**
 * With so many bytes in the NSDB a page ends: whoever may make objects may make a thousand of the largest size, and a program that had
 * to hold all of them would not live long.
 */
export const MAX_PAGE_BYTES = 4 * 1024 * 1024;
/** Objects read before that is looked at. */
const PART = 64;

/** The object in a node. @throws MidonetError when it cannot be read */
export type Decode = <K extends Kind>(kind: K, node: StoreNode, path: string) => TopologyTypes[K];

/**
 * The objects that a query names, as far as its limit goes. Identifiers come from the narrowest list that there is; the
 * other conditions are looked up in the objects. So a page may have few items, or none, and still a `next`.
 */
export async function readPage<K extends Kind>(
  store: Store,
  decode: Decode,
  query: PageQuery<K>,
): Promise<Page<TopologyTypes[K]>> {
  const { kind, limit, signal } = query;
  if (!Number.isSafeInteger(limit) || limit < 1) {
    throw new InvalidInputError('limit', limit, 'expected a whole number of at least 1');
  }
  // One more than is asked for tells whether there is a next page.
  const found = await identifiers(store, decode, query, limit + 1);
  const ids = found.slice(0, limit);
  const items: Listed<TopologyTypes[K]>[] = [];
  let bytes = 0;
  let looked = 0;
  while (looked < ids.length && bytes < MAX_PAGE_BYTES) {
    const part = ids.slice(looked, looked + PART);
    const nodes = await readAhead(part, signal, (id, signal) => store.get(objectPath(kind, id), { signal }));
    looked += part.length;
    for (const [i, node] of nodes.entries()) {
      if (node === undefined) continue;
      const { version, mzxid, dataLength } = node.stat;
      bytes += dataLength;
      try {
        const object = decode(kind, node, objectPath(kind, part[i]));
        if (isMeant(query, object)) items.push({ object, version, modified: mzxid, bytes: dataLength });
      } catch (error) {
        query.onUnreadable?.(part[i], error as Error);
      }
    }
  }
  return looked < found.length ? { items, next: ids[looked - 1] } : { items };
}

function isMeant<K extends Kind>(
  { tenantId, name, isShared, holderOf }: PageQuery<K>,
  object: TopologyTypes[K],
): boolean {
  const own: { readonly name?: string; readonly tenantId?: string; readonly shared?: boolean } = object;
  if (name !== undefined && own.name !== name) return false;
  if (tenantId !== undefined && own.tenantId !== tenantId) return false;
  if (isShared && !own.shared) return false;
  return holderOf === undefined || refersTo(holderOf.row, object, holderOf.id);
}

/** The first identifiers behind `after`, in the order of the list that they are in. */
async function identifiers(store: Store, decode: Decode, query: PageQuery<Kind>, count: number): Promise<string[]> {
  const { kind, tenantId, name, isShared, holderOf, after, signal } = query;
  const children = async (path: string) => (await store.children(path, { signal })) ?? [];
  const behind = (ids: readonly string[]) => ids.filter((id) => after === undefined || id > after).slice(0, count);
  if (name !== undefined) {
    const notes = (await children(namesPath(kind, name))).filter((note) => note.startsWith(`${name},`));
    return behind(notes.map((note) => note.slice(name.length + 1)));
  }
  if (holderOf !== undefined && (holderOf.row.symmetric || holderOf.row.exclusive)) {
    return behind(await onlyHolder(store, decode, holderOf.row, holderOf.id, signal));
  }
  if (holderOf !== undefined) {
    const folder = referenceFolder(holderOf.row, holderOf.id);
    return isReferenceSharded(holderOf.row) ? inShards(store, folder, query, count) : behind(await children(folder));
  }
  if (isShared) return inShards(store, sharedKindPath(kind), query, count);
  if (tenantId !== undefined) return inShards(store, tenantKindPath(tenantId, kind), query, count);
  return isSharded(kind) ? inShards(store, kindPath(kind), query, count) : behind(await children(kindPath(kind)));
}

/** Who names an object that one other may name. */
async function onlyHolder(
  store: Store,
  decode: Decode,
  row: ReferenceRow,
  id: string,
  signal?: AbortSignal,
): Promise<string[]> {
  const path = row.symmetric ? objectPath(row.names, id) : referenceFolder(row, id);
  const node = await store.get(path, { signal });
  if (node === undefined) return [];
  if (!row.symmetric) return [decodeJson(holderSchema, node.data, path).id];
  const named = referencesIn(row.names, decode(row.names, node, path));
  return named.filter((reference) => reference.row === row).map((reference) => reference.id);
}
