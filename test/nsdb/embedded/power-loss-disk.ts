/**
 * A disk in memory whose power can be cut. What is written is first seen by programs only; what a cut leaves of it is
 * decided by dice, within what POSIX, and ext4 and xfs with their defaults, allow:
 *
 * - Data that a sync of their file covered stay. Of data written since, each sector of 512 bytes is as any of the writes
 *   since, or as it was before them. A file that grew has any of the sizes since, with zeros where nothing was written.
 * - A name that a sync of its folder covered stays. Of names made, moved and removed since, any are as they were before:
 *   either all from a certain moment on (a journal), or any of them. A sync of a file says nothing of its name.
 * - An operation under way has happened, or not, or (a write) in part.
 *
 * Operations wait until {@link PowerLossDisk.step} carries one out, in any order, so that a cut can come between any two.
 */
import { basename, dirname } from 'node:path';
import type { Disk, ReadableFile, WritableFile } from '../../../src/nsdb/embedded/disk.js';
import type { Dice } from '../../dice.js';

const SECTOR = 512;

/** Contents since the last sync: the first is on the disk, the last is what programs see. */
class FileNode {
  versions: Buffer[] = [Buffer.alloc(0)];

  get seen(): Buffer {
    return this.versions.at(-1)!;
  }
}

/** What became of names at one moment: the node each stands for, if any. */
type NameChange = ReadonlyMap<string, FileNode | FolderNode | undefined>;

class FolderNode {
  /** Names on the disk. */
  durable = new Map<string, FileNode | FolderNode>();
  /** Changes since the last sync, in order. */
  changes: NameChange[] = [];

  get seen(): Map<string, FileNode | FolderNode> {
    return withChanges(this.durable, this.changes);
  }
}

function withChanges(names: FolderNode['durable'], changes: readonly NameChange[]): FolderNode['durable'] {
  const result = new Map(names);
  for (const change of changes) {
    for (const [name, node] of change) {
      if (node === undefined) result.delete(name);
      else result.set(name, node);
    }
  }
  return result;
}

interface Operation {
  /** As in `datasync log`: the system call, and the kind of file. */
  readonly label: string;
  carryOut(): void;
  /** The machine, or the process, stops at this moment. */
  interrupt(): void;
}

/** What every operation ends with once the power is cut, or the process was killed. */
export class PowerLossError extends Error {}

/** As node:fs has it. */
function systemError(code: string, operation: string, path: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: ${operation} ${path}`), { code });
}

export class PowerLossDisk implements Disk {
  private waiting: Operation[] = [];
  private on = true;
  private runs = false;
  /** Bytes of data that fit. */
  capacity = Number.POSITIVE_INFINITY;
  /** Decides which operations fail, and how. */
  fault: (operation: string, path: string) => Error | undefined = () => undefined;

  /** @param omits decides which operations are as if nobody had asked for them, to see that they are needed */
  constructor(
    private readonly dice: Dice,
    private readonly omits: (operation: string, path: string) => boolean = () => false,
    private readonly root = new FolderNode(),
  ) {}

  /** What the operations under way are. */
  get underWay(): string[] {
    return this.waiting.map(({ label }) => label);
  }

  /** Carries out one of the operations that wait, if there are any. */
  step(): void {
    const next = this.dice.pick(this.waiting);
    if (next === undefined) return;
    this.waiting.splice(this.waiting.indexOf(next), 1);
    next.carryOut();
  }

  /** Carries out operations by itself from here on, until the end of the disk. */
  run(): this {
    this.runs = true;
    for (const _ of this.waiting) setImmediate(() => this.step());
    return this;
  }

  /** Cuts the power; returns the disk as it is when the power is back. */
  cutPower(): PowerLossDisk {
    this.stop();
    return new PowerLossDisk(this.dice, this.omits, this.survivingFolder(this.root));
  }

  /** Kills the process that uses the disk; returns the disk for the next one. The machine goes on. */
  kill(): PowerLossDisk {
    this.stop();
    return new PowerLossDisk(this.dice, this.omits, this.root);
  }

  private stop(): void {
    this.on = false;
    for (const operation of this.waiting.splice(0)) operation.interrupt();
  }

  private survivingFolder(folder: FolderNode): FolderNode {
    const { dice } = this;
    const inOrder = dice.chance(50);
    const kept = inOrder
      ? folder.changes.slice(0, dice.below(folder.changes.length + 1))
      : folder.changes.filter(() => dice.chance(50));
    const survivor = new FolderNode();
    for (const [name, node] of withChanges(folder.durable, kept)) {
      survivor.durable.set(name, node instanceof FolderNode ? this.survivingFolder(node) : this.survivingFile(node));
    }
    return survivor;
  }

  private survivingFile({ versions }: FileNode): FileNode {
    const { dice } = this;
    const survivor = new FileNode();
    survivor.versions = [dice.pick(versions)!];
    if (dice.chance(25)) return survivor;
    const sizes = versions.map(({ length }) => length);
    let size = dice.pick(sizes)!;
    const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
    if (dice.chance(30)) size = Math.min(most, least + SECTOR * dice.below(1 + Math.ceil((most - least) / SECTOR)));
    const bytes = Buffer.alloc(size);
    for (let at = 0; at < size; at += SECTOR) {
      dice
        .pick(versions)!
        .subarray(at, at + SECTOR)
        .copy(bytes, at);
    }
    survivor.versions = [bytes];
    return survivor;
  }

  // What programs see

  /** Sizes of the files below a folder, by path. */
  sizes(folder = '/'): Map<string, number> {
    const sizes = new Map<string, number>();
    for (const [name, node] of this.folder(folder).seen) {
      const path = `${folder === '/' ? '' : folder}/${name}`;
      if (node instanceof FileNode) sizes.set(path, node.seen.length);
      else for (const [inner, size] of this.sizes(path)) sizes.set(inner, size);
    }
    return sizes;
  }

  /** What programs see of a file. To change it is to damage it. */
  contents(path: string): Buffer {
    return this.file(path).seen;
  }

  get used(): number {
    let sum = 0;
    for (const size of this.sizes().values()) sum += size;
    return sum;
  }

  private folder(path: string): FolderNode {
    let node = this.root;
    for (const name of path.split('/').filter((part) => part !== '')) {
      const next = node.seen.get(name);
      if (!(next instanceof FolderNode)) throw systemError('ENOENT', 'open', path);
      node = next;
    }
    return node;
  }

  private file(path: string): FileNode {
    const node = this.folder(dirname(path)).seen.get(basename(path));
    if (!(node instanceof FileNode)) throw systemError('ENOENT', 'open', path);
    return node;
  }

  private setName(path: string, node: FileNode | FolderNode | undefined): void {
    this.folder(dirname(path)).changes.push(new Map([[basename(path), node]]));
  }

  /** @param inPart what the operation may have done when it is interrupted */
  private operation<T>(name: string, path: string, effect: () => T, inPart = (): unknown => effect()): Promise<T> {
    if (this.omits(name, path)) return Promise.resolve(undefined as T);
    if (!this.on) return Promise.reject(new PowerLossError());
    if (this.runs) setImmediate(() => this.step());
    return new Promise((resolve, reject) => {
      this.waiting.push({
        label: `${name} ${kindOf(path)}`,
        carryOut: () => {
          try {
            const fault = this.fault(name, path);
            if (fault !== undefined) throw fault;
            resolve(effect());
          } catch (error) {
            reject(error);
          }
        },
        interrupt: () => {
          reject(new PowerLossError());
          if (this.dice.chance(50)) inPart();
        },
      });
    });
  }

  // Disk

  makeFolder(folder: string): Promise<void> {
    return this.operation('makeFolder', folder, () => {
      let path = '';
      for (const name of folder.split('/').filter((part) => part !== '')) {
        const parent = this.folder(path);
        path += `/${name}`;
        if (!parent.seen.has(name)) parent.changes.push(new Map([[name, new FolderNode()]]));
      }
    });
  }

  /** There is only one server, and none holds a lock without power. */
  lock(folder: string): Promise<{ release(): Promise<void> }> {
    return this.operation('lock', folder, () => ({ release: async () => {} }));
  }

  list(folder: string): string[] {
    return [...this.folder(folder).seen.keys()];
  }

  openToRead(path: string): ReadableFile {
    const { seen } = this.file(path);
    return {
      size: seen.length,
      read: (buffer, offset, length, position) => seen.subarray(position, position + length).copy(buffer, offset),
      close: () => {},
    };
  }

  create(path: string): Promise<WritableFile> {
    return this.operation('create', path, () => {
      const existing = this.folder(dirname(path)).seen.get(basename(path));
      if (existing instanceof FileNode) {
        existing.versions.push(Buffer.alloc(0));
        return this.writable(path, existing);
      }
      const node = new FileNode();
      this.setName(path, node);
      return this.writable(path, node);
    });
  }

  openToWrite(path: string): Promise<WritableFile> {
    return this.operation('open', path, () => this.writable(path, this.file(path)));
  }

  rename(from: string, to: string): Promise<void> {
    return this.operation('rename', to, () => {
      const moved = new Map([
        [basename(from), undefined],
        [basename(to), this.file(from)],
      ]);
      this.folder(dirname(from)).changes.push(moved);
    });
  }

  remove(path: string): Promise<void> {
    return this.operation('remove', path, () => {
      if (this.folder(dirname(path)).seen.has(basename(path))) this.setName(path, undefined);
    });
  }

  syncFolder(path: string): Promise<void> {
    const folder = this.folder(path);
    const last = folder.changes.at(-1);
    return this.operation('syncFolder', path, () => {
      const covered = last === undefined ? [] : folder.changes.splice(0, folder.changes.indexOf(last) + 1);
      folder.durable = withChanges(folder.durable, covered);
    });
  }

  free(folder: string): Promise<number> {
    return this.operation('free', folder, () => Math.max(0, this.capacity - this.used));
  }

  private writable(path: string, node: FileNode): WritableFile {
    const sync = (name: string) => () => {
      const covered = node.seen;
      return this.operation(
        name,
        path,
        () => {
          node.versions.splice(0, Math.max(0, node.versions.indexOf(covered)));
        },
        () => {},
      );
    };
    const write = (bytes: Buffer, position: number) => {
      const { seen } = node;
      const written = Buffer.alloc(Math.max(seen.length, position + bytes.length));
      seen.copy(written);
      bytes.copy(written, position);
      node.versions.push(written);
      return { bytesWritten: bytes.length };
    };
    return {
      writev: (buffers, position) => {
        const bytes = Buffer.concat(buffers);
        const part = () => bytes.subarray(0, this.dice.below(bytes.length + 1));
        return this.operation(
          'writev',
          path,
          () => {
            const room = this.capacity - this.used;
            if (bytes.length > 0 && room <= 0) throw systemError('ENOSPC', 'writev', path);
            const whole = bytes.length <= room && this.dice.chance(95);
            return write(whole ? bytes : bytes.subarray(0, Math.min(room, Math.ceil(bytes.length / 2))), position);
          },
          () => write(part(), position),
        );
      },
      truncate: (size) =>
        this.operation('truncate', path, () => {
          const cut = Buffer.alloc(size);
          node.seen.copy(cut);
          node.versions.push(cut);
        }),
      sync: sync('sync'),
      datasync: sync('datasync'),
      close: () => (this.on ? this.operation('close', path, () => {}) : Promise.resolve()),
    };
  }
}

function kindOf(path: string): string {
  const name = basename(path);
  if (name.endsWith('.tmp')) return 'part of a snapshot';
  return /^(log|snapshot)-/.exec(name)?.[1] ?? 'folder';
}
