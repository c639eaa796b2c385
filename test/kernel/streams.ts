import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { must, type Place } from './lab.js';

const SOURCE = fileURLToPath(new URL('../../../test/kernel/streams.c', import.meta.url));
/** There is none above it. */
const STREAMS = 256;

/** Numbers of packets, both ends included. */
type Range = readonly [first: number, last: number];

/** What came of one stream. */
export interface Received {
  /** TOS or traffic class of the last packet. */
  readonly tos: number;
  /** How many packets came twice. */
  readonly twice: number;
  readonly ranges: readonly Range[];
}

/** By stream: how many packets have been sent. */
export type Marks = ReadonlyMap<number, number>;

/** A process that is asked by a signal and answers with a line. */
class Talker {
  private readonly lines: Interface;

  private constructor(private readonly child: ChildProcess) {
    this.lines = createInterface({ input: child.stdout! });
  }

  static async start(at: Place, ...command: string[]): Promise<Talker> {
    const talker = new Talker(at.start(...command));
    await talker.line();
    return talker;
  }

  async ask(): Promise<unknown> {
    const answer = this.line();
    this.child.kill('SIGUSR1');
    return JSON.parse(await answer);
  }

  close(): void {
    this.child.kill('SIGKILL');
  }

  private async line(): Promise<string> {
    const ended = new AbortController();
    const exit = once(this.child, 'exit', { signal: ended.signal }).then(([status, signal]) => {
      throw new Error(`the program ended with ${status ?? signal}`);
    });
    try {
      return await Promise.race([once(this.lines, 'line').then(([line]) => line as string), exit]);
    } finally {
      ended.abort();
      exit.catch(() => undefined);
    }
  }
}

export class Sender {
  constructor(private readonly talker: Talker) {}

  /** How many packets each of its streams has sent. */
  async sent(): Promise<Marks> {
    const answer = (await this.talker.ask()) as Record<string, number>;
    return new Map(Object.entries(answer).map(([stream, count]) => [Number(stream), count]));
  }

  close(): void {
    this.talker.close();
  }
}

export class Receiver {
  constructor(private readonly talker: Talker) {}

  /** What came, by stream. @throws Error if the buffer of the receiver was too small, which would look like a loss */
  async received(): Promise<ReadonlyMap<number, Received>> {
    const answer = (await this.talker.ask()) as { overflowed: number; streams: Record<string, Received> };
    if (answer.overflowed > 0) throw new Error(`the receiver had no room for ${answer.overflowed} packets`);
    return new Map(Object.entries(answer.streams).map(([stream, received]) => [Number(stream), received]));
  }

  close(): void {
    this.talker.close();
  }
}

export interface StreamOptions {
  readonly address: string;
  readonly port: number;
  /** Number of the first stream, and how many there are. */
  readonly first: number;
  readonly count: number;
  /** Packets a second, of all of them together. */
  readonly rate: number;
  /** Of data in each packet. */
  readonly bytes?: number;
}

/** Sends and receives streams of numbered packets: see streams.c. */
export class StreamProgram {
  private constructor(private readonly path: string) {}

  /** @param folder where the program is put */
  static async compile(folder: string): Promise<StreamProgram> {
    const path = join(folder, 'streams');
    await must('cc', '-O2', '-o', path, SOURCE);
    return new StreamProgram(path);
  }

  async send(from: Place, { address, port, first, count, rate, bytes = 200 }: StreamOptions): Promise<Sender> {
    if (first + count > STREAMS) throw new Error(`there are ${STREAMS} streams`);
    const numbers = [port, first, count].map(String);
    const command = [this.path, 'send', `${rate}`, `${bytes}`, address, ...numbers];
    // On a machine that is too slow for all of them the streams are to wait, and not the agents.
    return new Sender(await Talker.start(from, 'nice', ...command));
  }

  async receive(at: Place, port: number): Promise<Receiver> {
    return new Receiver(await Talker.start(at, this.path, 'receive', `${port}`));
  }
}

/** The packets of a stream, from `first` on and before `end`, that none of the receivers got. */
export function missing(first: number, end: number, received: readonly (Received | undefined)[]): number[] {
  const found = new Set<number>();
  for (const each of received) {
    for (const [from, to] of each?.ranges ?? []) {
      for (let number = Math.max(from, first); number <= Math.min(to, end - 1); number++) found.add(number);
    }
  }
  return Array.from({ length: Math.max(0, end - first) }, (_, i) => first + i).filter((number) => !found.has(number));
}

/** The highest number that came; -1 if none did. */
export function last(received: Received | undefined): number {
  return received?.ranges.at(-1)?.[1] ?? -1;
}

/** How many packets came, each counted once. */
export function arrived(received: Received | undefined): number {
  return (received?.ranges ?? []).reduce((sum, [first, last]) => sum + last - first + 1, 0);
}
