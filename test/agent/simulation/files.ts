import { basename, dirname } from 'node:path';
import type { Events } from './events.js';

/** Milliseconds that the system takes at most for what others can do meanwhile. */
const SLOW_MS = 2;

function systemError(code: string, path: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: ${path}`), { code });
}

/**
 * Files in memory, with as much of node:fs as agents use. They survive the processes that wrote them: a kill of a process leaves
 * what it has written.
 */
export class VirtualFiles {
  private readonly texts = new Map<string, string>([['/proc/sys/kernel/random/boot_id', 'one-machine\n']]);
  /** With the number of each. */
  private readonly folders = new Map<string, number>([['/', 1]]);

  constructor(private readonly events: Events) {}

  /** What is asked of the system happens a little later, and the answer comes after it. */
  later<T>(operation: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const { events } = this;
      events.schedule(events.running!, events.dice.below(SLOW_MS), () => {
        try {
          resolve(operation());
        } catch (error) {
          reject(error);
        }
      });
    });
  }

  writeFileSync(path: string, text: string, options?: { flag?: string }): void {
    if (!this.folders.has(dirname(path))) throw systemError('ENOENT', path);
    if (options?.flag === 'wx' && this.texts.has(path)) throw systemError('EEXIST', path);
    this.texts.set(path, text);
  }

  rmSync(path: string, options?: { force?: boolean }): void {
    if (!this.texts.delete(path) && !options?.force) throw systemError('ENOENT', path);
  }

  renameSync(from: string, to: string): void {
    this.texts.set(to, this.readFile(from));
    this.texts.delete(from);
  }

  mkdir(path: string): void {
    if (path !== '/') this.mkdir(dirname(path));
    if (!this.folders.has(path)) this.folders.set(path, this.folders.size + 1);
  }

  /** Names, sorted. */
  readdir(folder: string): string[] {
    return [...this.texts.keys()]
      .filter((path) => dirname(path) === folder)
      .map((path) => basename(path))
      .sort();
  }

  readFile(path: string): string {
    const text = this.texts.get(path);
    if (text === undefined) throw systemError('ENOENT', path);
    return text;
  }

  readlink(path: string): string {
    return path;
  }

  rename(from: string, to: string): void {
    this.renameSync(from, to);
  }

  rm(path: string, options?: { force?: boolean }): void {
    this.rmSync(path, options);
  }

  stat(path: string): { ino: number | undefined } {
    return { ino: this.folders.get(path) };
  }

  open(path: string, mode: string) {
    if (mode === 'w') this.writeFileSync(path, '');
    return {
      writeFile: (text: string) => this.later(() => this.writeFileSync(path, text)),
      sync: () => this.later(() => {}),
      close: () => this.later(() => {}),
    };
  }
}
