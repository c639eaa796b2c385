import { createWriteStream } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { type Command, Option } from 'commander';
import { describePacket } from '../../flow/describe.js';
import { extractKey } from '../../flow/extract.js';
import { FlowKey } from '../../flow/key.js';
import { type CapturedPacket, PcapngReader } from '../../packet/pcap.js';
import { wholeNumber } from '../objects/object-commands.js';
import { withClient } from '../objects/objects.js';
import { addConnectionOptions, type ConnectionFlags } from '../terminal/connection.js';
import type { Terminal } from '../terminal/terminal.js';
import { toItsEnd } from './cut-short.js';

export interface CaptureFlags extends ConnectionFlags {
  readonly tenant?: string;
  readonly write?: string;
  readonly count?: number;
  readonly seconds?: number;
  readonly direction?: 'in' | 'out';
  readonly filter?: string;
}

export function fillCapture(command: Command, terminal: Terminal): void {
  command
    .option('-w, --write <file>', 'write pcapng there (pcap if its name ends with .pcap), - for standard output')
    .option('--count <number>', 'end after so many packets', wholeNumber)
    .option('--seconds <number>', 'end after so long', wholeNumber)
    .addOption(
      new Option('--direction <direction>', 'only what comes into the device of the port, or leaves it').choices([
        'in',
        'out',
      ]),
    )
    .option('--filter <packet>', "only packets like this and their answers, such as 'tcp 10.0.0.1 > 10.0.0.2:80'")
    .option('--tenant <id>', 'look for names among those of this tenant')
    .addHelpText(
      'after',
      `
Examples:
  $ midonet capture near/web --count 20
  $ midonet capture near/web --filter 'udp 10.0.0.1 > 10.0.0.2:53' -w dns.pcapng
  $ midonet capture near/web -w - | wireshark -k -i -`,
    );
  addConnectionOptions(command).action((port: string, flags: CaptureFlags) => capture(port, flags, terminal));
}

/** `midonet capture`: what crosses a port, as lines or as a file, until it is stopped. */
export async function capture(port: string, flags: CaptureFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client, names) => {
    const portId = await names.idOf('port', port);
    const { write, direction, filter, count, seconds } = flags;
    const format = write?.endsWith('.pcap') ? 'pcap' : 'pcapng';
    const query = { direction, filter, count, seconds, format };
    const stream = await client.stream('POST', `/v1/ports/${portId}/captures`, { query, signal: terminal.signal });
    terminal.note(`capturing what crosses port ${port}; stop with Ctrl-C`);
    if (write === undefined) await toItsEnd(printPackets(stream, terminal));
    else if (write === '-') await toItsEnd(pipeline(stream, process.stdout, { end: false }));
    else await toItsEnd(pipeline(stream, createWriteStream(write)));
  });
}

async function printPackets(stream: IncomingMessage, terminal: Terminal): Promise<void> {
  const reader = new PcapngReader();
  let leftOut = 0;
  for await (const piece of stream as AsyncIterable<Uint8Array>) {
    for (const item of reader.read(piece)) {
      if ('bytes' in item) terminal.print(describeCaptured(item));
      else if (item.leftOut > leftOut) {
        terminal.note(`${item.leftOut - leftOut} packets were left out, as there are too many`);
        leftOut = item.leftOut;
      }
    }
  }
}

/** One line: when (UTC), in what direction, what, and how long. */
export function describeCaptured({ time, direction, bytes }: CapturedPacket): string {
  const key = new FlowKey();
  const isKnown = extractKey(bytes, key);
  const when = new Date(time).toISOString().slice('2026-01-01T'.length, -1);
  const text = isKnown ? describePacket(key) : 'not a whole Ethernet frame';
  return `${when} ${(direction ?? '?').padEnd(3)} ${text}, ${bytes.length} bytes`;
}
