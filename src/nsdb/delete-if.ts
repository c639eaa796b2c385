import { NodeNotEmptyError, NodeNotFoundError, type Store } from './store.js';

/** Succeeds when there is no such node. */
export async function deleteIfThere(store: Pick<Store, 'delete'>, path: string, signal?: AbortSignal): Promise<void> {
  try {
    await store.delete(path, undefined, { signal });
  } catch (error) {
    if (!(error instanceof NodeNotFoundError)) throw error;
  }
}

/** Leaves a node below which there is something, and succeeds when there is no such node. */
export async function deleteIfEmpty(store: Pick<Store, 'delete'>, path: string, signal?: AbortSignal): Promise<void> {
  try {
    await deleteIfThere(store, path, signal);
  } catch (error) {
    if (!(error instanceof NodeNotEmptyError)) throw error;
  }
}
