import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { InvalidInputError } from '../../errors.js';

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * The identity of this host: `configured`, else what an earlier start has left in the state folder, else a new one.
 * @throws InvalidInputError if the file holds something else
 */
export async function hostId(stateFolder: string, configured: string | undefined): Promise<string> {
  if (configured !== undefined) return configured;
  await mkdir(stateFolder, { recursive: true });
  const path = join(stateFolder, 'host-id');
  try {
    const text = (await readFile(path, 'utf8')).trim();
    if (!UUID.test(text)) throw new InvalidInputError(path, text, 'expected a UUID');
    return text;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const id = randomUUID();
  await writeFile(`${path}.new`, `${id}\n`);
  await rename(`${path}.new`, path);
  return id;
}
