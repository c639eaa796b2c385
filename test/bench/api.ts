import { rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readEvents } from '../../src/api/client/event-stream.js';
import { type ApiOperation, ApiSide } from './api-side.js';
import { type Figure, figure } from './figure.js';
import { NsdbServer } from './nsdb-servers.js';

/** What one run measures, and how often. */
interface Plan {
  readonly clients: readonly number[];
  /** Of each operation with each number of clients. */
  readonly rounds: number;
  readonly milliseconds: number;
  /** Bridges and ports that there are when names are looked up: few and many. */
  readonly sizes: readonly (readonly [bridges: number, ports: number])[];
  readonly streams: readonly number[];
  readonly changes: number;
}

/** Some minutes, most of which the ports take that are made. */
const FULL: Plan = {
  clients: [1, 16],
  rounds: 3,
  milliseconds: 1000,
  sizes: [
    [100, 1000],
    [10_000, 100_000],
  ],
  streams: [1, 500],
  changes: 30,
};

/** About a minute. */
const QUICK: Plan = {
  ...FULL,
  rounds: 2,
  milliseconds: 400,
  sizes: [
    [10, 100],
    [1000, 10_000],
  ],
  changes: 5,
};

/** What is measured with few objects, too, to see whether it costs more with many. */
const LOOKUPS: readonly ApiOperation[] = ['bridge-by-name', 'port-by-name'];
const OPERATIONS: readonly ApiOperation[] = ['get', 'list-100', ...LOOKUPS, 'create', 'patch', 'batch-100-rules'];
/** In the checkout: what is on disk here is on a disk, while /tmp may be memory. */
const BUILD = fileURLToPath(new URL('../../', import.meta.url));

/** Samples of ours and of the peer's. */
type Pair = readonly [ours: number[], peer: number[]];

/** The REST API before the embedded NSDB, in turn with the same API before Apache ZooKeeper, over loopback. */
export async function benchApi(progress: (text: string) => void, quick: boolean): Promise<Figure[]> {
  const plan = quick ? QUICK : FULL;
  const folder = await mkdtemp(join(BUILD, 'bench-api-'));
  const sides: ApiSide[] = [];
  const interrupt = () => {
    for (const side of sides) side.kill();
    rmSync(folder, { recursive: true, force: true, maxRetries: 10 });
    process.exit(130);
  };
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
  try {
    const embedded = join(folder, 'embedded');
    const zookeeper = join(folder, 'zookeeper');
    sides.push(await ApiSide.start(await NsdbServer.embedded(embedded), embedded));
    sides.push(await ApiSide.start(await NsdbServer.apache(zookeeper), zookeeper));
    const run = new Run(plan, sides, progress);
    const figures: Figure[] = [];
    for (const [i, [bridges, ports]] of plan.sizes.entries()) {
      await run.fill(bridges, ports);
      const isLast = i === plan.sizes.length - 1;
      if (!isLast) for (const lookup of LOOKUPS) figures.push(...(await run.requests(lookup, `-of-${ports}`)));
    }
    for (const operation of OPERATIONS) figures.push(...(await run.requests(operation)));
    for (const streams of plan.streams) figures.push(await run.watches(streams));
    return figures;
  } finally {
    for (const side of sides) await side.close();
    await rm(folder, { recursive: true });
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
  }
}

class Run {
  constructor(
    private readonly plan: Plan,
    private readonly sides: readonly ApiSide[],
    private readonly progress: (text: string) => void,
  ) {}

  async fill(bridges: number, ports: number): Promise<void> {
    for (const side of this.sides) {
      const begin = performance.now();
      await side.fill(bridges, ports);
      const seconds = ((performance.now() - begin) / 1000).toFixed(1);
      this.progress(`${side.name}: ${bridges} bridges and ${ports} ports after ${seconds} s`);
    }
  }

  /** Requests a second, how long each takes, and the API server's processor time for each, by number of clients. */
  async requests(operation: ApiOperation, suffix = ''): Promise<Figure[]> {
    const { plan, sides } = this;
    const figures: Figure[] = [];
    for (const side of sides) await this.measure(side, operation, Math.max(...plan.clients));
    for (const clients of plan.clients) {
      const bench = `api-${operation}${suffix}-${clients}`;
      const rates: Pair = [[], []];
      const latencies: Pair = [[], []];
      const processor: Pair = [[], []];
      for (let round = 1; round <= plan.rounds; round++) {
        for (const [i, side] of sides.entries()) {
          const result = await this.measure(side, operation, clients);
          rates[i].push(result.rate);
          processor[i].push(result.processor);
          for (const latency of result.latencies) latencies[i].push(latency);
        }
      }
      const [ours, peer] = rates.map((samples) => Math.round(samples.at(-1)!));
      this.progress(`${bench}: ours ${ours} requests/s, peer ${peer} in the last round`);
      figures.push(this.figure(bench, 'requests/s', rates));
      figures.push(this.figure(`${bench}-latency`, 'ms', latencies));
      figures.push(this.figure(`${bench}-cpu`, 'µs/request', processor));
    }
    return figures;
  }

  /** From the moment a change is sent to one server until streams of another have told it, the last of them. */
  async watches(count: number): Promise<Figure> {
    const times: Pair = [[], []];
    for (const [i, side] of this.sides.entries()) {
      const [writer, reader] = side.clients;
      const { object } = await writer.bridges.create({ name: 'watched' });
      const path = `/v1/bridges/${object.id}`;
      const opening = Array.from({ length: count }, () => Stream.open(() => reader.stream('GET', path, STREAM)));
      const streams = await Promise.all(opening);
      try {
        for (let change = 0; change < this.plan.changes; change++) {
          const name = `watched-${change}`;
          const begin = performance.now();
          const told = Promise.all(streams.map((stream) => stream.tells(name)));
          await Promise.all([told, writer.bridges.patch(object.id, { name })]);
          times[i].push(performance.now() - begin);
        }
      } finally {
        for (const stream of streams) stream.close();
      }
    }
    const bench = `api-watch-${count}`;
    this.progress(
      `${bench}: ours ${times[0].at(-1)!.toFixed(1)} ms, peer ${times[1].at(-1)!.toFixed(1)} ms at the last`,
    );
    return this.figure(bench, 'ms', times);
  }

  /** One round of one side. */
  private async measure(side: ApiSide, operation: ApiOperation, clients: number) {
    const latencies: number[] = [];
    const before = await side.processorTime();
    const begin = performance.now();
    const client = async () => {
      for (let now = begin; now - begin < this.plan.milliseconds; ) {
        await side.request(operation);
        const end = performance.now();
        latencies.push(end - now);
        now = end;
      }
    };
    await Promise.all(Array.from({ length: clients }, client));
    const rate = (latencies.length * 1000) / (performance.now() - begin);
    return { rate, latencies, processor: ((await side.processorTime()) - before) / latencies.length };
  }

  private figure(bench: string, unit: string, [ours, peer]: Pair): Figure {
    return figure(bench, unit, ours, peer, this.sides[1].name);
  }
}

const STREAM = { headers: { accept: 'text/event-stream' } };

/** A stream of changes of one object. */
class Stream {
  private name = '';
  private wanted: { readonly name: string; readonly resolve: () => void } | undefined;
  private failure: Error | undefined;
  private fail: (error: Error) => void = () => {};

  private constructor(private readonly answer: IncomingMessage) {}

  /** Open, with what there is already told. */
  static async open(request: () => Promise<IncomingMessage>): Promise<Stream> {
    const stream = new Stream(await request());
    const begun = new Promise<void>((resolve) => {
      stream.read(resolve).catch((error: Error) => stream.end(error));
    });
    await begun;
    return stream;
  }

  /** Until it has told that the object has the name. */
  tells(name: string): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.failure !== undefined) return reject(this.failure);
      if (this.name === name) return resolve();
      this.wanted = { name, resolve };
      this.fail = reject;
    });
  }

  close(): void {
    this.answer.destroy();
  }

  private end(error: Error): void {
    this.failure = error;
    this.fail(error);
  }

  private async read(onCurrent: () => void): Promise<void> {
    for await (const events of readEvents(this.answer)) {
      for (const { type, data } of events) {
        if (type === 'current') onCurrent();
        if (type !== 'put') continue;
        this.name = (JSON.parse(data) as { object: { name: string } }).object.name;
        if (this.name === this.wanted?.name) this.wanted.resolve();
      }
    }
    throw new Error('the stream has ended');
  }
}
