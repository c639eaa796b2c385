import type { Command } from 'commander';
import type { ClusterStatus } from '../../api/status/status.js';
import { addClientOptions } from '../objects/object-commands.js';
import { type ClientFlags, withClient } from '../objects/objects.js';
import { formOf, printAs } from '../terminal/output.js';
import type { Terminal } from '../terminal/terminal.js';

/** As of `midonet nsdb status`. */
const UNHEALTHY = 2;

export function fillStatus(command: Command, terminal: Terminal): void {
  command.addHelpText(
    'after',
    `
Exit status: 0 when all is well, 2 when something is wrong, 1 when that could not be found out.

Example:
  $ midonet status || midonet support-bundle`,
  );
  addClientOptions(command).action((flags: ClientFlags) => status(flags, terminal));
}

/** `midonet status`: what is wrong in words, and what to do about it. */
async function status(flags: ClientFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client) => {
    const { body } = await client.request('GET', '/v1/status', { signal: terminal.signal });
    const found = body as ClusterStatus;
    await printAs(terminal, formOf(flags), found, () => [...statusLines(found)].join('\n'));
    terminal.setExitCode(found.healthy ? 0 : UNHEALTHY);
  });
}

export function* statusLines({
  hosts,
  ports,
  flows,
  nsdb,
  healthy,
  problems,
  partial,
}: ClusterStatus): Generator<string> {
  if (nsdb !== undefined) {
    const serving = nsdb.servers.filter(({ state }) => state === 'serving').length;
    const trip = nsdb.latency === undefined ? '' : `, ${nsdb.latency.sync.toFixed(1)} ms a round trip`;
    yield `NSDB    ${nsdb.connect}: ${serving} of ${nsdb.servers.length} servers serve${trip}`;
  }
  if (hosts !== undefined) yield `hosts   ${hosts.alive} of ${hosts.known} have an agent`;
  if (ports !== undefined) yield `ports   ${ports.active} of ${ports.bound} bound ports are active`;
  if (flows !== undefined) yield `flows   ${flows}`;
  yield '';
  yield healthy ? 'all is well' : `${problems.length} problem${problems.length === 1 ? '' : 's'}:`;
  for (const { severity, what, where, advice } of problems) {
    yield `  ${severity === 'error' ? '✘' : '!'} ${where}: ${what}`;
    yield `    → ${advice}`;
  }
  for (const text of partial) yield `(${text})`;
}
