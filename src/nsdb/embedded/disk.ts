/**
 * The operations on files that the embedded server's data depend on, and no others, so that a test can stand in for the
 * disk and cut its power (test/nsdb/embedded/power-loss-disk.ts).
 *
 * What callers rely on is what POSIX promises: bytes written are safe from a loss of power once {@link WritableFile.sync}
 * or {@link WritableFile.datasync} of that file has ended; that a file was made, renamed or removed once
 * {@link Disk.syncFolder} of its folder has. Until then any part of it may have reached the disk, in any order.
 */
import { closeSync, fstatSync, openSync, readdirSync, readSync, writevSync } from 'node:fs';
import { type FileHandle, mkdir, open, rename, rm, statfs } from 'node:fs/promises';
import { FolderLock } from '../../folder-lock.js';

export interface Disk {
  /** Makes the folder and its parents where they do not exist. */
  makeFolder(folder: string): Promise<void>;
  /** @throws FolderLockedError while another server works in the folder */
  lock(folder: string): Promise<{ release(): Promise<void> }>;
  /** Names in the folder. */
  list(folder: string): string[];
  openToRead(file: string): ReadableFile;
  /** Makes the file, or empties it. */
  create(file: string): Promise<WritableFile>;
  openToWrite(file: string): Promise<WritableFile>;
  rename(from: string, to: string): Promise<void>;
  /** Succeeds when there is no such file. */
  remove(file: string): Promise<void>;
  syncFolder(folder: string): Promise<void>;
  /** Bytes that can still be written where the folder is. */
  free(folder: string): Promise<number>;
}

/** Reading happens at start-up and in the thread that makes snapshots, where nothing else waits. */
export interface ReadableFile {
  readonly size: number;
  /** Fills the buffer from a position of the file; returns how much there was, 0 at the end. */
  read(buffer: Buffer, offset: number, length: number, position: number): number;
  close(): void;
}

/** As node:fs's FileHandle has it. */
export interface WritableFile {
  /** May write less than all; {@link writeAll} does not. */
  writev(buffers: readonly Buffer[], position: number): Promise<{ bytesWritten: number }>;
  truncate(size: number): Promise<void>;
  sync(): Promise<void>;
  datasync(): Promise<void>;
  close(): Promise<void>;
}

/** Writes of no more bytes are made at once. */
const SMALL_WRITE = 256 * 1024;

/**
 * A small write goes into the kernel's memory, which takes a few microseconds. To hand it to another thread and to hear
 * from that again would add a tenth to the time of a write and its fsync. What waits for the disk is done by other threads.
 */
class NodeFile implements WritableFile {
  constructor(private readonly handle: FileHandle) {}

  async writev(buffers: readonly Buffer[], position: number): Promise<{ bytesWritten: number }> {
    const size = buffers.reduce((sum, { length }) => sum + length, 0);
    if (size > SMALL_WRITE) return this.handle.writev(buffers, position);
    return { bytesWritten: writevSync(this.handle.fd, buffers, position) };
  }

  truncate(size: number): Promise<void> {
    return this.handle.truncate(size);
  }

  sync(): Promise<void> {
    return this.handle.sync();
  }

  datasync(): Promise<void> {
    return this.handle.datasync();
  }

  close(): Promise<void> {
    return this.handle.close();
  }
}

/** The disk of this machine. */
export const nodeDisk: Disk = {
  async makeFolder(folder) {
    await mkdir(folder, { recursive: true, mode: 0o700 });
  },
  lock: (folder) => FolderLock.acquire(folder),
  list: (folder) => readdirSync(folder),
  openToRead(file) {
    const fd = openSync(file, 'r');
    return {
      size: fstatSync(fd).size,
      read: (buffer, offset, length, position) => readSync(fd, buffer, offset, length, position),
      close: () => closeSync(fd),
    };
  },
  create: async (file) => new NodeFile(await open(file, 'w', 0o600)),
  openToWrite: async (file) => new NodeFile(await open(file, 'r+')),
  rename,
  remove: (file) => rm(file, { force: true }),
  async syncFolder(folder) {
    const handle = await open(folder, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  },
  async free(folder) {
    const { bavail, bsize } = await statfs(folder);
    return bavail * bsize;
  },
};

/** writev takes at most IOV_MAX buffers. */
const MAX_BUFFERS = 1024;

/** Writes all buffers; a short write (a full disk, a signal) is followed by another, which then says what is wrong. */
export async function writeAll(file: WritableFile, buffers: readonly Buffer[], position: number): Promise<void> {
  for (let i = 0; i < buffers.length; i += MAX_BUFFERS) {
    let part = buffers.slice(i, i + MAX_BUFFERS);
    let left = part.reduce((sum, buffer) => sum + buffer.length, 0);
    while (left > 0) {
      const { bytesWritten } = await file.writev(part, position);
      if (bytesWritten === 0) throw new Error(`nothing could be written at ${position}`);
      position += bytesWritten;
      left -= bytesWritten;
      if (left > 0) part = [Buffer.concat(part).subarray(bytesWritten)];
    }
  }
}
