import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { NO_SESSION } from '../../src/nsdb/protocol/jute.js';
import { PASSWORD_LENGTH } from '../../src/nsdb/protocol/records.js';
import { WireConnection } from '../../src/nsdb/zookeeper/wire-connection.js';
import { freePort, JAR, JAVA, requireZookeeper, SERVER_CLASS } from '../nsdb/apache-zookeeper.js';
import { PROGRAM, ServiceProcess } from './service-process.js';

/** A connection that ZooKeeper takes just before it is ready may never be answered. */
const SESSION_LIMIT_MS = 300;

/** A server in a process of its own, as an operator would run it: every acknowledged write is on disk. */
export class NsdbServer extends ServiceProcess {
  private constructor(
    name: string,
    command: readonly string[],
    private readonly port: number,
  ) {
    super(name, command, (waited) => givesSession(port, Math.max(SESSION_LIMIT_MS, waited / 4)));
  }

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
}

async function givesSession(port: number, timeout: number): Promise<boolean> {
  const request = {
    lastZxidSeen: 0,
    timeout: 4000,
    sessionId: NO_SESSION,
    password: new Uint8Array(PASSWORD_LENGTH),
    readOnly: false,
  };
  const target = { host: '127.0.0.1', port };
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
