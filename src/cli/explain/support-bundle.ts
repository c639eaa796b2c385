import { type FileHandle, open, rm } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import type { Command } from 'commander';
import { InvalidInputError } from '../../errors.js';
import { addConnectionOptions, type ConnectionFlags, connect } from '../terminal/connection.js';
import type { Terminal } from '../terminal/terminal.js';
import { toItsEnd } from './cut-short.js';

export function fillSupportBundle(command: Command, terminal: Terminal): void {
  command.addHelpText(
    'after',
    `
Secrets are not in it. Addresses, names and counters are: look into it before you give it away.

Example:
  $ midonet support-bundle /tmp/midonet-support.tar.gz`,
  );
  addConnectionOptions(command).action((file: string | undefined, flags: ConnectionFlags) =>
    saveSupportBundle(file ?? defaultName(new Date()), flags, terminal),
  );
}

function defaultName(now: Date): string {
  return `midonet-support-${now.toISOString().slice(0, 19).replaceAll(':', '')}.tar.gz`;
}

/** A file that is there already is left alone, and nothing is left of one that fails. @throws InvalidInputError for the file, errors of the system */
export async function saveSupportBundle(file: string, flags: ConnectionFlags, terminal: Terminal): Promise<void> {
  const client = await connect(flags, terminal);
  try {
    // Each agent is asked for a bundle: not for one that there is no place for.
    const target = await make(file);
    const { signal } = terminal;
    try {
      const archive = await client.stream('GET', '/v1/support-bundle', { signal });
      await toItsEnd(pipeline(archive, target.createWriteStream(), { signal }));
    } catch (error) {
      await target.close();
      await rm(file);
      throw error;
    }
    terminal.print(`saved ${file}; its manifest.json lists what is in it, and what could not be got if there is such`);
  } finally {
    client.close();
  }
}

async function make(file: string): Promise<FileHandle> {
  try {
    return await open(file, 'wx', 0o600);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') throw new InvalidInputError('file', file, 'expected one that is not there yet');
    if (code === 'ENOENT') throw new InvalidInputError('file', file, 'expected one in a folder that is there');
    throw error;
  }
}
