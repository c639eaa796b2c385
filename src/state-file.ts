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

/**
 * Read a JSON file, or undefined when there is none.
 * @param parse checks the value and gives it its type; throws if it is not what it should be
 * @throws whatever `parse` or JSON.parse throw for a damaged file
 */
export async function readStateFile<T>(path: string, parse: (value: unknown) => T): Promise<T | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  return parse(JSON.parse(text));
}

/** A file that could not be read, and where it was moved to. */
export interface DamagedFile {
  readonly path: string;
  readonly movedTo: string;
  readonly error: unknown;
}

/**
 * Read every `*.json` of a folder, which is made if it does not exist. A damaged file is moved aside to `*.json.damaged`
 * and reported, not fatal; what a crash left of a write is removed.
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
    try {
      const value = await readStateFile(path, (content) => parse(content, name));
      if (value !== undefined) found.set(name, value);
    } catch (error) {
      const movedTo = `${path}.damaged`;
      await rename(path, movedTo);
      damaged({ path, movedTo, error });
    }
  }
  return found;
}
