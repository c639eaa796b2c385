/**
 * Keeps two processes from sharing a folder, or what a name in a folder stands for. The lock is a Unix socket that its holder
 * listens on, in the folder, so who may write there can hold it: the kernel
 * closes it when the holder dies, however it dies, so a dead holder is told from a living one without guessing about
 * process numbers, also from another container (they share the folder, not the process numbers). It does not reach over
 * a network file system to another machine.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, link, lstat, open, readdir, rename, rm } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { MidonetError } from './errors.js';

/** Another process holds the lock. */
export class FolderLockedError extends MidonetError {
  constructor(
    readonly directory: string,
    holder: string,
  ) {
    super('MN_CONFLICT', `${directory} is in use by another process (${holder})`);
  }
}

export class FolderLock {
  private constructor(
    private readonly path: string,
    private readonly server: Server,
    private readonly inode: number,
  ) {}

  /**
   * @param name of the lock; files whose names begin with it and a dot are made for a moment, too
   * @throws FolderLockedError when somebody else holds it
   */
  static async acquire(directory: string, name = 'lock'): Promise<FolderLock> {
    const handle = await open(directory, 'r');
    try {
      return await FolderLock.acquireIn(directory, name, handle);
    } finally {
      await handle.close();
    }
  }

  private static async acquireIn(directory: string, name: string, handle: FileHandle): Promise<FolderLock> {
    const own = `${name}.${process.pid}.${randomBytes(4).toString('hex')}`;
    const server = createServer((socket) => {
      socket.on('error', () => socket.destroy());
      socket.end(`process ${process.pid}`);
    });
    // A socket's address holds 108 bytes, fewer than a path may have: it is named through the folder's descriptor.
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(`/proc/self/fd/${handle.fd}/${own}`, () => resolve());
    });
    server.unref();
    let acquired = false;
    try {
      for (let attempt = 0; attempt < 10 && !acquired; attempt++) {
        acquired = await tryLink(join(directory, own), join(directory, name));
        if (!acquired) await removeDead(directory, name, handle, own);
      }
      if (!acquired) throw new FolderLockedError(directory, 'others that are starting');
      const { ino } = await lstat(join(directory, name));
      return new FolderLock(join(directory, name), server, ino);
    } finally {
      await rm(join(directory, own), { force: true });
      if (!acquired) server.close();
    }
  }

  async release(): Promise<void> {
    const { path } = this;
    // The lock is removed before it stops answering: nobody finds it dead and takes it away from its next holder.
    const current = await lstat(path).catch(() => undefined);
    if (current?.ino === this.inode) await rm(path, { force: true });
    await new Promise<void>((resolve) => this.server.close(() => resolve()));
  }
}

/** Makes the lock if there is none; the file system lets only one succeed. */
async function tryLink(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function removeDead(directory: string, name: string, handle: FileHandle, own: string): Promise<void> {
  const path = join(directory, name);
  const probed = await lstat(path).catch(() => undefined);
  if (probed === undefined) return;
  const holder = probed.isSocket() ? await askHolder(`/proc/self/fd/${handle.fd}/${name}`) : undefined;
  if (holder !== undefined) throw new FolderLockedError(directory, holder);
  // Of several that find it dead only one moves it away, and puts it back if it was replaced by a living one meanwhile.
  const aside = join(directory, `${own}.dead`);
  try {
    await rename(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  if ((await lstat(aside)).ino !== probed.ino) await tryLink(aside, path);
  await rm(aside, { force: true });
  // What a process left that died while it tried to get the lock.
  for (const left of await readdir(directory)) {
    if (!left.startsWith(`${name}.`) || left === own || left.endsWith('.dead')) continue;
    if ((await askHolder(`/proc/self/fd/${handle.fd}/${left}`)) === undefined) {
      await rm(join(directory, left), { force: true });
    }
  }
}

/** What the holder says of itself, or undefined when nobody listens. */
function askHolder(path: string): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    let answer = '';
    const socket = connect(path);
    socket.setTimeout(2000, () => {
      socket.destroy();
      resolve(answer || 'one that does not answer');
    });
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => {
      answer += text;
    });
    socket.on('close', () => resolve(answer || 'one that is closing'));
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(undefined);
      else reject(error);
    });
  });
}
