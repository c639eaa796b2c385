import { type ChildProcess, fork } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Figure, figure } from './figure.js';
import type { Answer, Command, Operation } from './nsdb-client.js';
import { NsdbServer } from './nsdb-servers.js';

/** What one run measures, and how often. */
interface Plan {
  readonly clients: readonly number[];
  /** Of each operation with each number of clients. */
  readonly rounds: number;
  readonly milliseconds: number;
  readonly warmUp: number;
  readonly watchers: number;
  readonly changes: number;
  readonly ports: number;
  readonly hosts: number;
  readonly starts: number;
}

/** About 10 minutes. */
const FULL: Plan = {
  clients: [1, 16, 64],
  rounds: 5,
  milliseconds: 3000,
  warmUp: 3000,
  watchers: 1000,
  changes: 30,
  ports: 100_000,
  hosts: 1000,
  starts: 5,
};

/** Less than a minute. */
const QUICK: Plan = {
  ...FULL,
  rounds: 2,
  milliseconds: 400,
  warmUp: 400,
  changes: 5,
  ports: 10_000,
  hosts: 100,
  starts: 2,
};

const OPERATIONS: readonly Operation[] = ['get', 'set', 'create', 'multi'];
const PROCESSES = 2;
const CLIENT_PROGRAM = fileURLToPath(new URL('./nsdb-client.js', import.meta.url));
/** In the checkout: what is on disk here is on a disk, while /tmp may be memory. */
const BUILD = fileURLToPath(new URL('../../', import.meta.url));

/** The embedded server against Apache ZooKeeper, in turn, with the same clients and the same promise: fsync before the answer. */
export async function benchNsdb(progress: (text: string) => void, quick: boolean): Promise<Figure[]> {
  const plan = quick ? QUICK : FULL;
  const folder = await mkdtemp(join(BUILD, 'bench-nsdb-'));
  const servers = [
    await NsdbServer.embedded(join(folder, 'embedded')),
    await NsdbServer.apache(join(folder, 'zookeeper')),
  ] as const;
  const processes = Array.from({ length: PROCESSES }, () => new ClientProcess());
  const interrupt = () => {
    for (const server of servers) server.kill();
    rmSync(folder, { recursive: true, force: true, maxRetries: 10 });
    process.exit(130);
  };
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
  try {
    for (const server of servers) await server.start();
    const run = new Run(plan, servers, processes, progress);
    return [...(await run.requests()), ...(await run.watches()), ...(await run.ports())];
  } finally {
    for (const each of processes) await each.end();
    for (const server of servers) await server.stop();
    await rm(folder, { recursive: true });
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
  }
}

/** Samples of ours and of the peer's. */
type Pair = readonly [ours: number[], peer: number[]];

class Run {
  constructor(
    private readonly plan: Plan,
    private readonly servers: readonly [NsdbServer, NsdbServer],
    private readonly processes: readonly ClientProcess[],
    private readonly progress: (text: string) => void,
  ) {}

  /** Requests a second, how long each takes, and the server's processor time for each, by operation and number of clients. */
  async requests(): Promise<Figure[]> {
    const { plan, servers, processes } = this;
    const figures: Figure[] = [];
    const sessions = Math.max(...plan.clients) / PROCESSES;
    for (const { name, connect } of servers) {
      await this.all({ type: 'connect', server: name, connect, sessions });
      await processes[0].do({ type: 'prepare', server: name });
    }
    for (const operation of OPERATIONS) {
      for (const server of servers) await this.measure(server, operation, sessions * PROCESSES, plan.warmUp);
      for (const clients of plan.clients) {
        const rates: Pair = [[], []];
        const latencies: Pair = [[], []];
        const processor: Pair = [[], []];
        for (let round = 1; round <= plan.rounds; round++) {
          const words: string[] = [];
          for (const [i, server] of servers.entries()) {
            const result = await this.measure(server, operation, clients, plan.milliseconds);
            rates[i].push(result.rate);
            processor[i].push(result.processor);
            for (const part of result.latencies) for (const latency of part) latencies[i].push(latency);
            words.push(`${server.name} ${Math.round(result.rate)}/s, ${Math.round(result.processor)} µs of CPU each`);
          }
          this.progress(`nsdb-${operation}-${clients}: ${round} of ${plan.rounds} rounds; ${words.join('; ')}`);
        }
        figures.push(this.figure(`nsdb-${operation}-${clients}`, 'requests/s', rates));
        figures.push(this.figure(`nsdb-${operation}-${clients}-latency`, 'ms', latencies));
        figures.push(this.figure(`nsdb-${operation}-${clients}-cpu`, 'µs/request', processor));
      }
    }
    for (const { name } of servers) await this.all({ type: 'close', server: name });
    return figures;
  }

  /** From the change of a node until every watcher has read what it is now. */
  async watches(): Promise<Figure[]> {
    const { plan, servers, processes } = this;
    const path = '/bench/data/0';
    for (const { name, connect } of servers) {
      await this.all({ type: 'connect', server: name, connect, sessions: plan.watchers / PROCESSES });
      await this.all({ type: 'watch', server: name, path });
    }
    const times: Pair = [[], []];
    for (let change = 0; change < plan.changes; change++) {
      for (const [i, { name }] of servers.entries()) {
        const { at: begin, version } = await processes[0].do({ type: 'set', server: name, path });
        const ends = await this.all({ type: 'await', server: name, version: version! });
        times[i].push(Math.max(...ends.map(({ at }) => at!)) - begin!);
      }
    }
    const [ours, peer] = times.map((samples) => samples.at(-1)!.toFixed(1));
    this.progress(`nsdb-watch-${plan.watchers}: the last change took ours ${ours} ms, the peer ${peer} ms`);
    for (const { name } of servers) await this.all({ type: 'close', server: name });
    return [this.figure(`nsdb-watch-${plan.watchers}`, 'ms', times)];
  }

  /** The time it takes to make many ports, memory with them, and the time to start. */
  async ports(): Promise<Figure[]> {
    const { plan, servers, processes } = this;
    const bridgeId = randomUUID();
    const hostIds = Array.from({ length: plan.hosts }, () => randomUUID());
    const load: Pair = [[], []];
    const loaded: Pair = [[], []];
    for (const [i, server] of servers.entries()) {
      const { name, connect } = server;
      await this.all({ type: 'connect', server: name, connect, sessions: 1 });
      await processes[0].do({ type: 'folders', server: name, bridgeId, hostIds });
      const begin = performance.now();
      const part = plan.ports / PROCESSES;
      await Promise.all(
        processes.map((each, n) =>
          each.do({ type: 'load', server: name, bridgeId, hostIds, from: n * part, to: (n + 1) * part }),
        ),
      );
      load[i].push((performance.now() - begin) / 1000);
      loaded[i].push(await server.memory());
      this.progress(`${name}: ${plan.ports} ports in ${load[i][0].toFixed(1)} s, ${Math.round(loaded[i][0])} MiB`);
      await this.all({ type: 'close', server: name });
    }
    const started: Pair = [[], []];
    const memory: Pair = [[], []];
    for (let round = 1; round <= plan.starts; round++) {
      for (const [i, server] of servers.entries()) {
        await server.stop();
        started[i].push(await server.start());
        // What only the start needed may be given back.
        await delay(1000);
        memory[i].push(await server.memory());
        const words = `${Math.round(started[i].at(-1)!)} ms, ${Math.round(memory[i].at(-1)!)} MiB`;
        this.progress(`start ${round} of ${plan.starts}: ${server.name} ${words}`);
      }
    }
    const suffix = `${plan.ports}-ports`;
    return [
      this.figure(`nsdb-make-${suffix}`, 's', load),
      this.figure(`nsdb-memory-${suffix}-made`, 'MiB', loaded),
      this.figure(`nsdb-memory-${suffix}-started`, 'MiB', memory),
      this.figure(`nsdb-start-${suffix}`, 'ms', started),
    ];
  }

  private async measure(server: NsdbServer, operation: Operation, clients: number, milliseconds: number) {
    const used = this.processes.slice(0, Math.min(PROCESSES, clients));
    const before = await server.processorTime();
    const answers = await Promise.all(
      used.map((each) =>
        each.do({ type: 'run', server: server.name, operation, sessions: clients / used.length, milliseconds }),
      ),
    );
    const latencies = answers.map((answer) => answer.latencies!);
    const count = latencies.reduce((sum, part) => sum + part.length, 0);
    const processor = (((await server.processorTime()) - before) * 1e6) / count;
    return { rate: (count * 1000) / milliseconds, latencies, processor };
  }

  private figure(bench: string, unit: string, [ours, peer]: Pair): Figure {
    return figure(bench, unit, ours, peer, this.servers[1].name);
  }

  private all(command: Command): Promise<Answer[]> {
    return Promise.all(this.processes.map((each) => each.do(command)));
  }
}

class ClientProcess {
  private readonly child: ChildProcess = fork(CLIENT_PROGRAM, { serialization: 'advanced' });

  /** One command at a time. */
  async do(command: Command): Promise<Answer> {
    this.child.send(command);
    const answer = await new Promise<Answer>((resolve, reject) => {
      const onExit = () => reject(new Error('a client process has ended'));
      this.child.once('exit', onExit);
      this.child.once('message', (message) => {
        this.child.off('exit', onExit);
        resolve(message as Answer);
      });
    });
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }

  async end(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const exit = once(this.child, 'exit');
    this.child.disconnect();
    await exit;
  }
}
