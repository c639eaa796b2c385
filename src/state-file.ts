import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';

let counter = 0;

/**
 * Write `value` as JSON to `path` in one step: a reader, or this process after a crash, sees the old or the new text,
 * never a part. The folder must exist. May be lost when the power fails. Synchronous, because it only fills the page
 * cache, which takes less time than handing the work to another thread.
 */
export function writeStateFile(path: string, value: unknown): void {
  const temporary = temporaryName(path);
  try {
    writeFileSync(temporary, JSON.stringify(value), { mode: 0o600 });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/** The same, and when it has settled the text survives a power failure (fsync of the file and its folder). */
export async function writeDurableStateFile(path: string, value: unknown): Promise<void> {
  const temporary = temporaryName(path);
  try {
    const file = await open(temporary, 'w', 0o600);
    try {
      await file.writeFile(JSON.stringify(value));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  const folder = await open(dirname(path), 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function temporaryName(path: string): string {
  counter += 1;
  return `${path}.${process.pid}.${counter}.tmp`;
}

/** @returns undefined when there is no such file */
async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** A file whose text is not what it should be, and where it was moved to. */
export interface DamagedFile {
  readonly path: string;
  readonly movedTo: string;
  readonly error: unknown;
}

/**
 * Read every `*.json` of a folder, which is made if it does not exist. A damaged file is moved aside to `*.json.damaged`
 * and reported, not fatal; what a crash left of a write is removed.
 * @throws what the system says of reading (no descriptor left, a failing disk): the file may be good, and stays
 */
export async function readStateFolder<T>(
  folder: string,
  parse: (value: unknown, name: string) => T,
  damaged: (file: DamagedFile) => void,
): Promise<Map<string, T>> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const found = new Map<string, T>();
  for (const entry of (await readdir(folder)).sort()) {
    const path = join(folder, entry);
    if (entry.endsWith('.tmp')) {
      await rm(path, { force: true });
      continue;
    }
    if (!entry.endsWith('.json')) continue;
    const name = entry.slice(0, -'.json'.length);
    const text = await readText(path);
    if (text === undefined) continue;
    try {
      found.set(name, parse(JSON.parse(text), name));
    } catch (error) {
      const movedTo = `${path}.damaged`;
      await rename(path, movedTo);
      damaged({ path, movedTo, error });
    }
  }
  return found;
}
