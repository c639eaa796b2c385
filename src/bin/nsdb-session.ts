import { setMaxListeners } from 'node:events';
import { ZookeeperStore } from '../nsdb/zookeeper/client.js';
import { type Config, loadConfig } from './config.js';
import { nsdbConnection } from './nsdb-connection.js';
import { ProgressLine } from './progress-line.js';

/** Options that every command about an NSDB takes. */
export interface NsdbOptions {
  readonly config?: string;
  readonly connect?: string;
  readonly json?: boolean;
}

/** Milliseconds for one call: a server that is loading much data may take long to write them. */
const OPERATION_TIMEOUT = 10_000;

/** What a command about an NSDB works with. */
export class NsdbSession {
  private readonly stores: ZookeeperStore[] = [];
  private readonly warned = new Set<string>();
  readonly progress = new ProgressLine();

  constructor(
    readonly config: Config['nsdb'],
    readonly signal: AbortSignal,
  ) {}

  /** A client, closed with the session. `nsdb` says where and as whom. */
  store(nsdb: Config['nsdb'] = this.config, operationTimeout = OPERATION_TIMEOUT): ZookeeperStore {
    const store = new ZookeeperStore({
      ...nsdbConnection(nsdb),
      operationTimeout,
      onNotice: (level, message, fields) => this.notice(level, message, fields),
    });
    this.stores.push(store);
    return store;
  }

  async close(): Promise<void> {
    this.progress.clear();
    await Promise.all(this.stores.map((store) => store.close()));
  }

  /** The same only once: the client goes on trying. */
  private notice(level: 'info' | 'warn', message: string, fields: object): void {
    const text = `midonet: ${message} ${JSON.stringify(fields)}\n`;
    if (level === 'info' || this.warned.has(text)) return;
    this.warned.add(text);
    this.progress.clear();
    process.stderr.write(text);
  }
}

/** Run a command. Its result is the exit status; a signal ends it with an error. */
export async function withNsdb(
  options: NsdbOptions,
  command: (session: NsdbSession) => Promise<number>,
): Promise<void> {
  const stop = new AbortController();
  // Hundreds of calls under way at a time listen to it.
  setMaxListeners(0, stop.signal);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => stop.abort(new DOMException(`interrupted by ${signal}`, 'AbortError')));
  }
  const { nsdb } = await loadConfig(options.config, process.env);
  const session = new NsdbSession({ ...nsdb, connect: options.connect ?? nsdb.connect }, stop.signal);
  try {
    process.exitCode = await command(session);
  } finally {
    await session.close();
  }
}
