import { open, rm } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Command } from 'commander';
import { addConnectionOptions, type ConnectionFlags, connect } from '../terminal/connection.js';
import type { Terminal } from '../terminal/terminal.js';

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

/** @throws errors of the system; a file that is there already is left alone */
export async function saveSupportBundle(file: string, flags: ConnectionFlags, terminal: Terminal): Promise<void> {
  const client = await connect(flags, terminal);
  try {
    const archive = await client.stream('GET', '/v1/support-bundle', { signal: terminal.signal });
    await save(archive, file, terminal.signal);
    terminal.print(`saved ${file}; its manifest.json says what could not be got`);
  } finally {
    client.close();
  }
}

/** Nothing is left of a file that could not be written as a whole. */
async function save(archive: Readable, file: string, signal: AbortSignal): Promise<void> {
  const target = await open(file, 'wx', 0o600);
  try {
    await pipeline(archive, target.createWriteStream(), { signal });
  } catch (error) {
    await rm(file);
    throw error;
  }
}
