import { parentPath } from '../path.js';
import type { Store, StoreOperation } from '../store.js';
import type { Image, TreeContent } from './image.js';
import type { OperationOptions } from './progress.js';

/** Bounds of one multi: far below what servers take, so that other clients get their turn. */
const MULTI_OPERATIONS = 500;
const MULTI_BYTES = 256 * 1024;
/** What a part of a multi takes beside its path and data: header, access list, flags. */
const OPERATION_BYTES = 64;
/** Multis under way at once. */
const WINDOW = 8;

/**
 * The operations that make the tree `from` the image `to`, in an order in which they can be carried out. With `paths` only
 * these are looked at. Ephemeral nodes are deleted where they are in the way.
 */
export function changes(from: TreeContent, to: Image, paths?: Iterable<string>): StoreOperation[] {
  const deletions: string[] = [];
  const others: StoreOperation[] = [];
  const look = (path: string) => {
    const wanted = to.get(path);
    const there = from.image.get(path);
    if (from.ephemerals.has(path)) {
      const parent = parentPath(path)!;
      if (wanted !== undefined || (parent !== '/' && !to.has(parent))) deletions.push(path);
    }
    if (wanted === undefined) {
      if (there !== undefined) deletions.push(path);
    } else if (there === undefined) others.push({ type: 'create', path, data: wanted });
    else if (Buffer.compare(there, wanted) !== 0) others.push({ type: 'set', path, data: wanted });
  };
  if (paths !== undefined) for (const path of paths) look(path);
  else for (const path of new Set([...from.image.keys(), ...from.ephemerals, ...to.keys()])) look(path);
  // Children before their parents, and parents before their children: what is below has the longer path.
  deletions.sort((a, b) => b.length - a.length);
  others.sort((a, b) => a.path.length - b.path.length);
  return [...deletions.map((path): StoreOperation => ({ type: 'delete', path })), ...others];
}

/**
 * Carries operations out in order, many in one multi and several multis at a time. When one fails the operations before it
 * are done, and of those behind it any may be.
 */
export async function apply(
  store: Store,
  operations: readonly StoreOperation[],
  phase: string,
  { signal, onProgress }: OperationOptions,
): Promise<void> {
  const running = new Set<Promise<void>>();
  let done = 0;
  try {
    for (const batch of batches(operations)) {
      signal?.throwIfAborted();
      if (running.size >= WINDOW) await Promise.race(running);
      const one: Promise<void> = store.multi(batch).then(() => {
        running.delete(one);
        done += batch.length;
        onProgress?.(phase, done, operations.length);
      });
      running.add(one);
    }
    await Promise.all(running);
  } finally {
    // Nothing is under way any more when this ends, also with an error.
    await Promise.allSettled(running);
  }
}

function* batches(operations: readonly StoreOperation[]): Generator<StoreOperation[]> {
  let batch: StoreOperation[] = [];
  let bytes = 0;
  for (const operation of operations) {
    const size = OPERATION_BYTES + operation.path.length + ('data' in operation ? operation.data.length : 0);
    if (batch.length > 0 && (batch.length >= MULTI_OPERATIONS || bytes + size > MULTI_BYTES)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(operation);
    bytes += size;
  }
  if (batch.length > 0) yield batch;
}
