import { MidonetError } from '../../errors.js';
import { deleteIfThere } from '../delete-if.js';
import { decodeJson } from '../json.js';
import { NAMES, objectPath, TENANTS } from '../layout.js';
import { parentPath } from '../path.js';
import { readAhead } from '../read-ahead.js';
import {
  NodeError,
  NodeExistsError,
  NodeNotEmptyError,
  NodeNotFoundError,
  type Store,
  type StoreOperation,
  StoreUnavailableError,
  VersionConflictError,
} from '../store.js';
import {
  ObjectConflictError,
  ObjectExistsError,
  ObjectNotFoundError,
  ReferenceConflictError,
} from '../topology-errors.js';
import { foldersBetween, type PlannedOperation } from './change-set.js';
import { holderSchema, type IndexEntry } from './index-entries.js';

const EMPTY = new Uint8Array();

/** What one request may hold: far below what the servers take, and short enough to keep nobody waiting. */
export const MAX_OPERATIONS = 1000;
export const MAX_BYTES = 512 * 1024;

/** Bytes of an operation in a request, roughly: its header, path and data. */
export function sizeOf(operation: StoreOperation): number {
  return 64 + operation.path.length + ('data' in operation ? operation.data.length : 0);
}

/** Told why something that nobody needs any more could not be removed. The integrity check finds it. */
export type OnLeftOver = (error: Error) => void;

/** What is left to do when all is decided: that it fails makes no difference to what was done. */
export async function tidy(work: Promise<void>, onLeftOver: OnLeftOver): Promise<void> {
  try {
    await work;
  } catch (error) {
    onLeftOver(error as Error);
  }
}

/**
 * Carry out the operations in one request, in the order of their phases. Makes folders that are missing, does without the
 * deletion of what is not there, and puts what the topology says in the place of what was learned.
 *
 * @throws ObjectNotFoundError, ObjectExistsError, ReferenceConflictError naming the field
 * @throws ObjectConflictError when an object is not as it was read, NodeNotEmptyError when one that is to be deleted is
 * named by another meanwhile
 */
export async function commit(
  store: Store,
  planned: readonly PlannedOperation[],
  onLeftOver: OnLeftOver,
  signal?: AbortSignal,
): Promise<void> {
  const parts = planned.map((part) => ({ ...part })).sort((a, b) => a.phase - b.phase);
  /** Folders of tenants in which nothing may be: after this, and if it is made for nothing. */
  const emptied = new Set<string>();
  const made = new Set<string>();
  for (const { operation, entry } of parts) {
    if (operation.type === 'delete' && isOfTenant(entry)) emptied.add(parentPath(operation.path)!);
  }
  try {
    await carryOut(store, parts, made, signal);
  } catch (error) {
    if (error instanceof MidonetError && !(error instanceof StoreUnavailableError)) {
      await tidy(removeEmpty(store, made, signal), onLeftOver);
    }
    throw error;
  }
  await tidy(removeEmpty(store, emptied, signal), onLeftOver);
}

/** @param tenantFolders is given those that are made */
async function carryOut(
  store: Store,
  parts: PlannedOperation[],
  tenantFolders: Set<string>,
  signal?: AbortSignal,
): Promise<void> {
  while (parts.length > 0) {
    signal?.throwIfAborted();
    try {
      await store.multi(
        parts.map(({ operation }) => operation),
        { signal },
      );
      return;
    } catch (error) {
      if (!(error instanceof NodeError) || error.operationIndex === undefined) throw error;
      const part = parts[error.operationIndex];
      if (error instanceof NodeNotFoundError) {
        if (part.operation.type === 'delete' && part.operation.version === undefined) {
          parts.splice(error.operationIndex, 1);
        } else if (part.operation.type === 'create') {
          await makeFolders(store, parts, tenantFolders, signal);
        } else {
          throw notFound(part, error);
        }
      } else if (error instanceof NodeExistsError) {
        checkOnce(parts, part);
        await makeRoom(store, part, error, signal);
      } else if (error instanceof VersionConflictError && part.of !== undefined) {
        throw new ObjectConflictError(part.of.kind, part.of.id);
      } else {
        throw error;
      }
    }
  }
}

function notFound({ of, entry, reference }: PlannedOperation, error: NodeNotFoundError): Error {
  if (reference !== undefined && entry !== undefined) {
    return new ObjectNotFoundError(reference.row.names, reference.id, entry.field);
  }
  return of === undefined ? error : new ObjectConflictError(of.kind, of.id);
}

/** Make the folders of every node that is to be created. */
async function makeFolders(
  store: Store,
  parts: readonly PlannedOperation[],
  tenantFolders: Set<string>,
  signal?: AbortSignal,
): Promise<void> {
  const made = new Set<string>();
  const created = new Set(parts.map(({ operation }) => operation.type === 'create' && operation.path));
  const creations = parts.filter(({ operation }) => {
    const folder = parentPath(operation.path)!;
    if (operation.type !== 'create' || made.has(folder)) return false;
    made.add(folder);
    return true;
  });
  const isFinder = ({ entry }: PlannedOperation) => entry !== undefined && entry.below === undefined;
  const others = creations.filter((one) => !isFinder(one));
  await readAhead(others, signal, async ({ operation, entry }, signal) => {
    const folder = parentPath(operation.path)!;
    if (entry === undefined) {
      // Of an object: the folder of its shard. Of a folder: its object.
      if (!created.has(folder)) await makeBelow(store, parentPath(folder)!, folder, signal);
      return;
    }
    const { kind, id } = entry.below!;
    const below = objectPath(kind, id);
    if (created.has(below)) return;
    try {
      await makeEach(store, foldersBetween(below, operation.path), signal);
    } catch (error) {
      if (!(error instanceof NodeNotFoundError)) throw error;
      throw new ObjectNotFoundError(kind, id, entry.field);
    }
  });
  // After what may fail, so that nobody makes folders any more when those that are for nothing are removed.
  await readAhead(creations.filter(isFinder), signal, async ({ operation, entry }, signal) => {
    const folder = parentPath(operation.path)!;
    if (isOfTenant(entry)) tenantFolders.add(folder);
    try {
      await makeBelow(store, isOfTenant(entry) ? TENANTS : NAMES, folder, signal);
    } catch (error) {
      // Somebody may remove the folder, or one above, as long as it is empty: then it is missed again.
      if (!(error instanceof NodeNotFoundError)) throw error;
    }
  });
}

/** Make a folder and those above it; `top`, which is hardly ever missing, and what is above that, only when it is. */
async function makeBelow(store: Store, top: string, folder: string, signal?: AbortSignal): Promise<void> {
  try {
    await makeEach(store, [...foldersBetween(top, folder), folder], signal);
  } catch (error) {
    if (!(error instanceof NodeNotFoundError)) throw error;
    await store.ensure(folder, { signal });
  }
}

function isOfTenant(entry: IndexEntry | undefined): boolean {
  return entry?.path.startsWith(`${TENANTS}/`) ?? false;
}

/** Remove folders of tenants in which nothing is, so that tenants who are gone do not stay for ever. */
async function removeEmpty(store: Store, folders: ReadonlySet<string>, signal?: AbortSignal): Promise<void> {
  await readAhead([...folders], signal, async (first, signal) => {
    for (let folder = first; folder !== TENANTS; folder = parentPath(folder)!) {
      try {
        await deleteIfThere(store, folder, signal);
      } catch (error) {
        if (error instanceof NodeNotEmptyError) return;
        throw error;
      }
    }
  });
}

/**
 * Make folders from the top down, but nothing above the first: that would bring back a part of what was deleted. They are asked for
 * at once, as a store does what it is asked in that order.
 */
export async function makeEach(store: Store, folders: readonly string[], signal?: AbortSignal): Promise<void> {
  const made = await Promise.allSettled(folders.map((path) => store.create(path, EMPTY, { signal })));
  for (const result of made) {
    if (result.status === 'rejected' && !(result.reason instanceof NodeExistsError)) throw result.reason;
  }
}

/** Of two objects in one request that claim the same the second is refused. */
function checkOnce(parts: readonly PlannedOperation[], { operation, entry }: PlannedOperation): void {
  const same = parts.filter((other) => other.operation.type === 'create' && other.operation.path === operation.path);
  if (entry === undefined || same.length < 2) return;
  if (entry.reference === undefined) throw new ObjectExistsError(entry.field, entry.value);
  throw new ReferenceConflictError(entry.field, entry.reference.row.names, entry.reference.id, same[0].of?.id);
}

/** Let a node that exists give way to the one that is to be created, or say what is in the way. */
async function makeRoom(
  store: Store,
  part: PlannedOperation,
  error: NodeExistsError,
  signal?: AbortSignal,
): Promise<void> {
  const { of, entry, operation } = part;
  if (of === undefined || operation.type !== 'create') throw error;
  if (entry === undefined) throw new ObjectExistsError(`${of.kind}.id`, of.id);
  const node = await store.get(operation.path, { signal });
  if (node === undefined) return;
  if (node.stat.ephemeralOwner !== undefined) {
    // It was learned.
    await deleteIfThere(store, operation.path, signal);
  } else if (entry.below === undefined || (entry.reference !== undefined && !entry.reference.row.exclusive)) {
    // Nobody else has an entry of this name: it was left by mishap. Changing it tells those who are about to delete it.
    part.operation = { type: 'set', path: operation.path, data: operation.data };
  } else if (entry.reference !== undefined) {
    const { id } = decodeJson(holderSchema, node.data, operation.path);
    throw new ReferenceConflictError(entry.field, entry.reference.row.names, entry.reference.id, id);
  } else {
    throw new ObjectExistsError(entry.field, entry.value);
  }
}
