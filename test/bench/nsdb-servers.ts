import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { NO_SESSION } from '../../src/nsdb/protocol/jute.js';
import { PASSWORD_LENGTH } from '../../src/nsdb/protocol/records.js';
import { WireConnection } from '../../src/nsdb/zookeeper/wire-connection.js';
import { freePort, JAR, JAVA, requireZookeeper, SERVER_CLASS } from '../nsdb/apache-zookeeper.js';

const PROGRAM = fileURLToPath(new URL('../../bundle/midonet.js', import.meta.url));
const START_LIMIT_MS = 120_000;
/** A connection that ZooKeeper takes just before it is ready may never be answered. */
const SESSION_LIMIT_MS = 300;
/** Clock ticks a second in /proc, on every Linux that Node.js runs on. */
const TICKS = 100;

/** A server in a process of its own, as an operator would run it: every acknowledged write is on disk. */
export class NsdbServer {
  private child: ChildProcess | undefined;

  private constructor(
    readonly name: string,
    private readonly command: readonly string[],
    private readonly port: number,
  ) {}

  /** Ours, as installed. */
  static async embedded(folder: string): Promise<NsdbServer> {
    await mkdir(folder, { recursive: true });
    const port = await freePort();
    const file = join(folder, 'midonet.json');
    const config = {
      stateFolder: join(folder, 'state'),
      nsdb: { listen: `127.0.0.1:${port}`, dataFolder: join(folder, 'data'), http: { port: 0 } },
    };
    await writeFile(file, JSON.stringify(config));
    return new NsdbServer('embedded', [process.execPath, PROGRAM, 'nsdb', 'serve', '--config', file], port);
  }

  /** Apache ZooKeeper with the settings of its administrator's guide: 1 GB of heap, a tick of 2 s, forceSync. */
  static async apache(folder: string): Promise<NsdbServer> {
    requireZookeeper();
    await mkdir(folder, { recursive: true });
    const port = await freePort();
    const file = join(folder, 'zoo.cfg');
    const settings = {
      tickTime: 2000,
      maxClientCnxns: 0,
      dataDir: join(folder, 'data'),
      clientPort: port,
      clientPortAddress: '127.0.0.1',
      'admin.enableServer': false,
      'autopurge.purgeInterval': 1,
    };
    const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
    await writeFile(file, lines.join(''));
    const options = ['-Xmx1g', '-Dzookeeper.forceSync=yes', '-cp', JAR];
    return new NsdbServer('ZooKeeper', [JAVA, ...options, SERVER_CLASS, file], port);
  }

  get connect(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Starts the process; returns the milliseconds until it has given a client a session. */
  async start(): Promise<number> {
    const begin = performance.now();
    const [program, ...words] = this.command;
    const child = spawn(program, words, { stdio: 'ignore' });
    this.child = child;
    await once(child, 'spawn');
    while (performance.now() - begin < START_LIMIT_MS) {
      if (child.exitCode !== null) break;
      const waited = performance.now() - begin;
      if (await this.givesSession(Math.max(SESSION_LIMIT_MS, waited / 4))) return performance.now() - begin;
      await delay(5);
    }
    throw new Error(`${this.name} does not start: ${this.command.join(' ')}`);
  }

  async stop(): Promise<void> {
    const { child } = this;
    if (child === undefined) return;
    this.child = undefined;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    child.kill('SIGTERM');
    await exit;
  }

  kill(): void {
    this.child?.kill('SIGKILL');
  }

  /** Resident memory in MiB. */
  async memory(): Promise<number> {
    const status = await readFile(`/proc/${this.child?.pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
  }

  /** Seconds of processor time so far. */
  async processorTime(): Promise<number> {
    const stat = await readFile(`/proc/${this.child?.pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS;
  }

  private async givesSession(timeout: number): Promise<boolean> {
    const request = {
      lastZxidSeen: 0,
      timeout: 4000,
      sessionId: NO_SESSION,
      password: new Uint8Array(PASSWORD_LENGTH),
      readOnly: false,
    };
    const target = { host: '127.0.0.1', port: this.port };
    try {
      const { signal } = new AbortController();
      const options = { tls: undefined, timeout, signal };
      const { connection, response } = await WireConnection.open(target, request, options);
      connection.destroy(new Error('the answer is all that was wanted'));
      return response.timeout > 0;
    } catch {
      // Nobody listens yet, or not before the data are loaded.
      return false;
    }
  }
}
