import { readdir, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';

/** What a data folder takes, and what its disk has left. */
export interface DiskUsage {
  readonly logBytes: number;
  readonly snapshotBytes: number;
  /** How many. */
  readonly snapshots: number;
  readonly freeBytes: number;
}

export async function diskUsage(folder: string): Promise<DiskUsage> {
  let [logBytes, snapshotBytes, snapshots] = [0, 0, 0];
  for (const name of await readdir(folder)) {
    const isLog = name.startsWith('log-');
    if (!isLog && !name.startsWith('snapshot-')) continue;
    const size = await sizeOf(join(folder, name));
    if (isLog) {
      logBytes += size;
    } else {
      snapshotBytes += size;
      snapshots += 1;
    }
  }
  const { bavail, bsize } = await statfs(folder);
  return { logBytes, snapshotBytes, snapshots, freeBytes: bavail * bsize };
}

/** 0 of a file that a snapshot has replaced meanwhile. */
async function sizeOf(file: string): Promise<number> {
  try {
    return (await stat(file)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw error;
  }
}
