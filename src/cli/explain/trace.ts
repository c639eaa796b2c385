import { type Command, InvalidArgumentError, Option } from 'commander';
import type { TraceAnswer, TracedPass } from '../../api/explain/trace-routes.js';
import { PacketTextError, parsePacket } from '../../flow/packet-text.js';
import { addClientOptions } from '../objects/object-commands.js';
import { type ClientFlags, withClient } from '../objects/objects.js';
import { formOf, printAs } from '../terminal/output.js';
import type { Terminal } from '../terminal/terminal.js';
import { withNames } from './flows.js';

export interface TraceFlags extends ClientFlags {
  readonly from: string;
  readonly packet: string;
  readonly connection?: 'new' | 'established' | 'reply';
  readonly hash?: number;
}

export function fillTrace(command: Command, terminal: Terminal): void {
  command
    .requiredOption('--from <port>', 'where it comes in, by name or id')
    .requiredOption('--packet <text>', "in words, such as 'tcp 10.0.0.1:1234 > 10.0.0.2:80'")
    .addOption(
      new Option('--connection <what>', 'what it is to its connection').choices(['new', 'established', 'reply']),
    )
    .option('--hash <number>', 'what one of several targets is chosen by, from 0 on', hashNumber)
    .addHelpText(
      'after',
      `
Examples:
  $ midonet trace --from web --packet 'tcp 10.0.0.1:1234 > 10.0.0.2:80'
  $ midonet trace --from near/web --packet 'icmp fd00::1 > fd00::2 ttl 3' -o wide
  $ midonet trace --from web --packet 'arp 10.0.0.1 > 10.0.0.2' --json`,
    );
  addClientOptions(command).action((flags: TraceFlags) => trace(flags, terminal));
}

function hashNumber(text: string): number {
  if (!/^\d{1,10}$/.test(text)) throw new InvalidArgumentError('expected a whole number from 0 on');
  return Number(text);
}

/** `midonet trace`: what would become of a packet, and why. */
export async function trace(flags: TraceFlags, terminal: Terminal): Promise<void> {
  checkPacket(flags.packet, terminal);
  await withClient(flags, terminal, async (client, names) => {
    const portId = await names.idOf('port', flags.from, '--from');
    const { packet, connection, hash } = flags;
    const body = { portId, packet, connection, hash };
    const answer = (await client.request('POST', '/v1/trace', { body, signal: terminal.signal })).body as TraceAnswer;
    await printAs(terminal, formOf(flags), answer, (wide) => drawTrace(answer, wide));
  });
}

/** Shows which word is at fault. @throws PacketTextError */
function checkPacket(text: string, terminal: Terminal): void {
  try {
    parsePacket(text);
  } catch (error) {
    if (error instanceof PacketTextError) {
      terminal.note(`  ${text}`);
      terminal.note(`  ${' '.repeat(error.start)}${'^'.repeat(Math.max(1, error.end - error.start))}`);
    }
    throw error;
  }
}

const MARKS: Readonly<Record<TraceAnswer['outcome']['verdict'], string>> = {
  delivered: '✔',
  flooded: '✔',
  forwarded: '✔',
  answered: '✔',
  dropped: '✘',
  undecided: '?',
};

/** What becomes of it comes first, then how, then the flows. @param wide with what the flows depend on */
export function drawTrace(answer: TraceAnswer, wide: boolean): string {
  const { outcome, packet, assumed, host, passes, names } = answer;
  const lines = [`${MARKS[outcome.verdict]} ${outcome.text}`, '', `packet  ${packet}`];
  lines.push(...assumed.map((text) => `        ${text}`));
  if (host !== undefined) lines.push(`agent   ${host.name}`);
  lines.push('');
  // One that comes back is followed from the beginning again.
  const goesOn = new Set(passes.map(({ from }) => from));
  const ends = passes.filter((_, i) => !goesOn.has(i));
  for (const pass of ends) {
    const asked = wayTo(pass, passes);
    if (ends.length > 1) lines.push(`as ${pass.packet}`);
    if (asked.length > 0)
      lines.push(`comes back ${asked.length === 1 ? 'once' : `${asked.length} times`} from the datapath`);
    lines.push(...drawTree(treeOf(pass)), '');
  }
  lines.push(...passes.flatMap((pass) => flowLines(pass, wide, names)));
  return lines.join('\n');
}

/** The passes that led to this one. */
function wayTo({ from }: TracedPass, passes: readonly TracedPass[]): TracedPass[] {
  return from === undefined ? [] : [...wayTo(passes[from], passes), passes[from]];
}

interface Line {
  readonly depth: number;
  readonly text: string;
}

/** The device is named where the packet comes in. */
function treeOf({ steps, missing }: TracedPass): Line[] {
  const told = steps.filter(({ type }, i) => type !== 'device' || !isNamed(steps, i));
  const shown = told.map(({ depth, text }) => ({ depth, text }));
  return [...shown, ...(missing ?? []).map((text) => ({ depth: 0, text: `waits for ${text}` }))];
}

function isNamed(steps: TracedPass['steps'], device: number): boolean {
  for (let i = device - 1; i >= 0; i--) if (steps[i].depth === 0) return steps[i].type === 'in';
  return false;
}

/** Each line below the one before it that is less deep. */
export function drawTree(lines: readonly Line[]): string[] {
  return lines.map(({ depth, text }, i) => {
    let stem = '';
    for (let level = 1; level < depth; level++) stem += goesOnAt(lines, i, level) ? '│  ' : '   ';
    if (depth === 0) return text;
    return `${stem}${goesOnAt(lines, i, depth) ? '├─ ' : '└─ '}${text}`;
  });
}

/** Whether another line of the level follows below the same one. */
function goesOnAt(lines: readonly Line[], at: number, level: number): boolean {
  for (let i = at + 1; i < lines.length; i++) {
    if (lines[i].depth < level) return false;
    if (lines[i].depth === level) return true;
  }
  return false;
}

function flowLines({ flow, packet, missing }: TracedPass, wide: boolean, names: TraceAnswer['names'] = {}): string[] {
  if (flow === undefined && missing === undefined) return [];
  if (flow === undefined) return [`no flow: nothing is decided for ${packet}`];
  const tags = wide ? flow.tags.map((tag) => `        depends on ${withNames(tag, names)}`) : [];
  if (flow.match === undefined) return ['no flow: every such packet is looked at', ...tags];
  return [`flow    ${flow.match}`, `        ${flow.actions}`, ...tags];
}
