import type { Command } from 'commander';
import type { FlowsAnswer } from '../../api/explain/flow-routes.js';
import { shortId } from '../objects/names.js';
import { addClientOptions, wholeNumber } from '../objects/object-commands.js';
import { type ClientFlags, withClient } from '../objects/objects.js';
import { formOf, printAs } from '../terminal/output.js';
import type { Terminal } from '../terminal/terminal.js';

export interface FlowsFlags extends ClientFlags {
  readonly port?: string;
  readonly host?: string;
  readonly limit?: number;
}

export function fillFlows(command: Command, terminal: Terminal): void {
  command
    .option(
      '--port <port>',
      'only those that take packets from this port, send packets there, or pass it; by name or id',
    )
    .option('--host <host>', 'only those of this host, by name or id')
    .option('--limit <number>', 'at most so many of a host', wholeNumber)
    .addHelpText(
      'after',
      `
Examples:
  $ midonet flows --port near/web
  $ midonet flows --host node-1 --limit 50 -o wide`,
    );
  addClientOptions(command).action((flags: FlowsFlags) => showFlows(flags, terminal));
}

/** `midonet flows`: the flows in the datapaths, by the port where their packets come in. */
export async function showFlows(flags: FlowsFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client, names) => {
    const portId = flags.port === undefined ? undefined : await names.idOf('port', flags.port, '--port');
    const hostId = flags.host === undefined ? undefined : await names.idOf('host', flags.host, '--host');
    const query = { portId, hostId, limit: flags.limit };
    const answer = (await client.request('GET', '/v1/flows', { query, signal: terminal.signal })).body as FlowsAnswer;
    await printAs(terminal, formOf(flags), answer, (wide) => drawFlows(answer, wide));
    for (const { name, error, more } of answer.hosts) {
      if (error !== undefined) terminal.note(`${name} could not be asked: ${error}`);
      if (more) terminal.note(`${name} has more flows: --limit says how many are shown`);
    }
    if (answer.hostsLeft > 0) terminal.note(`${answer.hostsLeft} more hosts were not asked`);
  });
}

type Flow = FlowsAnswer['hosts'][number]['flows'][number];

/** @param wide with identifiers as they are */
export function drawFlows({ hosts, names }: FlowsAnswer, wide: boolean): string {
  const named = (text: string) => (wide ? text : withNames(text, names));
  const lines: string[] = [];
  for (const { name, flows } of hosts) {
    const byPort = new Map<string, Flow[]>();
    for (const flow of flows) byPort.set(flow.from, [...(byPort.get(flow.from) ?? []), flow]);
    for (const [from, ofPort] of byPort) {
      lines.push(`${name}, from ${placeOf(from, named)}`);
      for (const flow of ofPort) lines.push(...flowLines(flow, named));
      lines.push('');
    }
  }
  return lines.length === 0 ? 'no flows' : lines.slice(0, -1).join('\n');
}

function flowLines(
  { match, actions, to, packets, bytes, idleMs, tags }: Flow,
  named: (text: string) => string,
): string[] {
  const used = idleMs === undefined ? 'never used' : `used ${(idleMs / 1000).toFixed(1)} s ago`;
  const targets = to.length === 0 ? '' : ` (to ${to.map((one) => placeOf(one, named)).join(', ')})`;
  return [
    `  ${match}`,
    `    ${actions}${targets}`,
    `    ${packets} packets, ${bytes} bytes, ${used}`,
    ...(tags.length === 0 ? [] : [`    depends on ${tags.map(named).join(', ')}`]),
  ];
}

const UUID = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/g;

/** Identifiers are told by their names, or as short as may be. */
export function withNames(text: string, names: FlowsAnswer['names']): string {
  return text.replaceAll(UUID, (id) => names[id] ?? shortId(id));
}

/** A port of the virtual network, or what else packets come from and go to. */
function placeOf(place: string, named: (text: string) => string): string {
  return place.search(UUID) === 0 ? `port ${named(place)}` : place;
}
