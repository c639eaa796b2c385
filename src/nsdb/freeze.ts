/**
 * Freezing: an embedded server whose data are being moved elsewhere refuses every change while {@link FROZEN_PATH} is
 * there, over restarts too. Sessions go on: they open, close and expire, with their ephemeral nodes.
 */
import { UnsupportedError } from '../errors.js';
import { NodeNotFoundError, type Store, StoreFrozenError } from './store.js';

/** Its data are the connect string of where the data are moved. */
export const FROZEN_PATH = '/zookeeper/frozen';

/** Never there: only a server that is not frozen says so. */
const PROBE_PATH = '/zookeeper/frozen-probe';

/**
 * Freezes the server behind a store without a root of its own; succeeds when it is frozen for the same destination.
 * @throws StoreFrozenError when it is frozen for another one
 * @throws UnsupportedError by a server that cannot be frozen, such as Apache ZooKeeper
 */
export async function freeze(store: Store, movedTo: string, signal?: AbortSignal): Promise<void> {
  const destination = await frozenFor(store, signal);
  if (destination !== undefined && destination !== movedTo) throw new StoreFrozenError('freeze', '/', destination);
  if (destination === undefined) {
    await store.ensure('/zookeeper', { signal });
    await store.create(FROZEN_PATH, Buffer.from(movedTo), { signal });
  }
  if (await isFrozen(store, signal)) return;
  await store.delete(FROZEN_PATH, undefined, { signal });
  throw new UnsupportedError('freezing', 'only the embedded server can refuse changes; Apache ZooKeeper cannot');
}

/** Lets changes be made again; succeeds when they can be. */
export async function unfreeze(store: Store, signal?: AbortSignal): Promise<void> {
  try {
    await store.delete(FROZEN_PATH, undefined, { signal });
  } catch (error) {
    if (!(error instanceof NodeNotFoundError)) throw error;
  }
}

/** Where the data of a frozen server are moved to; undefined when it is not frozen. */
export async function frozenFor(store: Store, signal?: AbortSignal): Promise<string | undefined> {
  const node = await store.get(FROZEN_PATH, { signal });
  return node && new TextDecoder().decode(node.data);
}

async function isFrozen(store: Store, signal: AbortSignal | undefined): Promise<boolean> {
  try {
    await store.delete(PROBE_PATH, undefined, { signal });
  } catch (error) {
    if (error instanceof StoreFrozenError) return true;
    if (!(error instanceof NodeNotFoundError)) throw error;
  }
  return false;
}
