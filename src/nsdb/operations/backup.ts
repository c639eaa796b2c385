import type { Store } from '../store.js';
import { writeBackup } from './backup-file.js';
import { bytesOf } from './image.js';
import { LiveTree } from './live-tree.js';
import type { OperationOptions } from './progress.js';

export interface BackupOptions extends OperationOptions {
  readonly store: Store;
  readonly file: string;
  /** Connect string of the store, for whoever finds the file. */
  readonly source: string;
  /** Milliseconds to wait for a moment in which nothing changes. */
  readonly timeout: number;
}

export interface BackupReport {
  readonly nodes: number;
  /** Of data. */
  readonly bytes: number;
  /** How many nodes were left out since they belong to sessions. */
  readonly ephemerals: number;
  readonly zxid: number;
  /** Of the file, bytes. */
  readonly size: number;
}

/**
 * Saves the whole tree as it was at one point in its order of changes, while others go on changing it.
 * @throws TimeoutError when they change it so often that there is no moment to take
 */
export async function backup(options: BackupOptions): Promise<BackupReport> {
  const { store, file, source, timeout, signal, onProgress } = options;
  // A server that cannot be reached is told at once.
  await store.sync('/', { signal });
  const live = new LiveTree(store, options);
  try {
    const { image, ephemerals, zxid } = await live.atOnce(timeout);
    live.close();
    onProgress?.('writing nodes', image.size);
    const header = { time: new Date().toISOString(), zxid, source };
    const size = await writeBackup(file, { header, image, ephemerals: ephemerals.size }, signal);
    return { nodes: image.size, bytes: bytesOf(image), ephemerals: ephemerals.size, zxid, size };
  } finally {
    live.close();
  }
}
