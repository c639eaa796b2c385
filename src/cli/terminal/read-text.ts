import { readFile } from 'node:fs/promises';
import { InvalidInputError } from '../../errors.js';

/**
 * The text of a file that somebody named.
 * @throws InvalidInputError for a folder or nothing, errors of the system for what else cannot be read: those name the file
 */
export async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EISDIR') throw new InvalidInputError('file', path, 'expected a file, not a folder');
    if (code === 'ENOENT') throw new InvalidInputError('file', path, 'expected one that is there');
    throw error;
  }
}
