import { deleteIfEmpty, deleteIfThere } from '../delete-if.js';
import { flowStatePath, objectPath } from '../layout.js';
import { joinPath } from '../path.js';
import { readAhead } from '../read-ahead.js';
import type { Store, StoreOperation } from '../store.js';

const FLOW_STATE = '/flow-state';

/** What is archived in the NSDB for a port that does not exist. */
export interface OrphanedFlowState {
  readonly path: string;
  /** Deletes it in one multi, which fails with a NodeError if things have changed since it was found. */
  readonly repair: readonly StoreOperation[];
}

/** Finds the flow state of ports that do not exist; changes nothing. One read a port that has flow state. */
export async function* findOrphanedFlowState(
  store: Pick<Store, 'exists' | 'children'>,
  signal?: AbortSignal,
): AsyncGenerator<OrphanedFlowState> {
  for (const shardName of (await store.children(FLOW_STATE, { signal })) ?? []) {
    const folder = joinPath(FLOW_STATE, shardName);
    const portIds = (await store.children(folder, { signal })) ?? [];
    const ports = await readAhead(portIds, signal, (id, signal) => store.exists(objectPath('port', id), { signal }));
    for (const portId of portIds.filter((_, i) => ports[i] === undefined)) {
      const path = joinPath(folder, portId);
      const batches = (await store.children(path, { signal })) ?? [];
      const paths = [...batches.map((name) => joinPath(path, name)), path];
      yield { path, repair: paths.map((path) => ({ type: 'delete', path })) };
    }
  }
}

/** Delete what is archived in the NSDB for a port. What is stored for it meanwhile stays. */
export async function deletePortFolder(
  store: Pick<Store, 'children' | 'delete'>,
  portId: string,
  signal?: AbortSignal,
): Promise<void> {
  const folder = flowStatePath(portId);
  const batches = await store.children(folder, { signal });
  if (batches === undefined) return;
  for (const name of batches) await deleteIfThere(store, joinPath(folder, name), signal);
  await deleteIfEmpty(store, folder, signal);
}
