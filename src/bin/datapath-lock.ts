import { mkdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { MidonetError } from '../errors.js';
import { FolderLock, FolderLockedError } from '../folder-lock.js';

/** Another agent of this network namespace programs the datapath. */
export class DatapathInUseError extends MidonetError {
  constructor(
    readonly datapath: string,
    options?: ErrorOptions,
  ) {
    super('MN_CONFLICT', `config.datapath.name: another agent runs on datapath "${datapath}"`, options);
  }
}

/** The same for all agents of a kernel, whatever their configuration. Only root may write there. */
const FOLDER = '/run/midonet/datapaths';

/**
 * Keeps two agents from one datapath: the second would take the upcalls of the first. A datapath is known by its name and
 * the network namespace it is in. The lock goes when its process ends, however it ends.
 * @throws DatapathInUseError; MidonetError if the lock's folder cannot be made
 */
export async function lockDatapath(name: string, folder = FOLDER): Promise<FolderLock> {
  const { ino } = await stat('/proc/self/ns/net');
  try {
    await mkdir(dirname(folder), { recursive: true, mode: 0o755 });
    await mkdir(folder, { recursive: true, mode: 0o700 });
    return await FolderLock.acquire(folder, `${name}-${ino}`);
  } catch (error) {
    if (error instanceof FolderLockedError) throw new DatapathInUseError(name, { cause: error });
    const { code } = error as NodeJS.ErrnoException;
    if (code === undefined || error instanceof MidonetError) throw error;
    throw new MidonetError('MN_DATAPATH', `cannot lock datapath "${name}" in ${folder} (${code})`, { cause: error });
  }
}
