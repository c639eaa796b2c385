import { auth, Client, policies, types } from 'cassandra-driver';
import { ClosedError, MidonetError } from '../../errors.js';
import {
  type ArchivedRecord,
  ArchiveUnavailableError,
  checkPortId,
  checkRecords,
  type FlowStateArchive,
  inBatches,
  type LookupOptions,
  type StoreRecordsOptions,
} from './archive.js';
import type { Consistency } from './consistency.js';

const TABLE = 'flow_state_by_port';
/** Small, since Cassandra warns of batches above 5 KiB, and a row is some 50 bytes more than its record. */
const BATCH_BYTES = 2048;
const CONCURRENT_BATCHES = 16;
/** Rows of one answer: 16 MiB at most. */
const PAGE_ROWS = 64;
const RECONNECT_MS = 500;
const LONGEST_RECONNECT_MS = 10_000;

export interface CassandraArchiveOptions {
  /** host:port, IPv6 addresses in brackets. */
  readonly contactPoints: readonly string[];
  /** Requests go to its servers first. */
  readonly localDataCenter: string;
  /** Made, with its table, where it is missing. Lower case. */
  readonly keyspace: string;
  /** Copies of each row, of a keyspace that is made: everywhere together, or in each data center by its name. */
  readonly replication: number | Readonly<Record<string, number>>;
  /** Of reads and writes. */
  readonly consistency: Consistency;
  readonly credentials?: { readonly user: string; readonly password: string };
  /** Milliseconds after which a request counts as failed. */
  readonly operationTimeout: number;
}

/**
 * The flow state archive in Apache Cassandra: a row for each record, by port and in order of time, that Cassandra itself drops when its
 * time to live is over.
 *
 * Connects when first used, and again by itself. Until there was a connection every call tries anew.
 */
export class CassandraArchive implements FlowStateArchive {
  readonly #options: CassandraArchiveOptions;
  #connected: Promise<Client> | undefined;
  readonly #closing = new AbortController();

  constructor(options: CassandraArchiveOptions) {
    this.#options = options;
  }

  async store(portId: string, records: readonly ArchivedRecord[], options: StoreRecordsOptions): Promise<void> {
    checkPortId(portId);
    checkRecords(records, options.ttl);
    const { signal, ttl } = options;
    const query = `INSERT INTO ${this.#table} (port, time, id, record) VALUES (?, ?, ?, ?) USING TTL ?`;
    const port = types.Uuid.fromString(portId);
    const batches = inBatches(records, BATCH_BYTES);
    const storeNext = async (): Promise<void> => {
      for (const batch of batches) {
        const queries = batch.map(({ time, record }) => ({
          query,
          params: [port, new Date(time), types.TimeUuid.now(), Buffer.from(record), ttl],
        }));
        await this.#call('store', portId, signal, (client) =>
          // The limit of a batch is not one of a single insertion.
          queries.length === 1
            ? client.execute(query, queries[0].params, this.#queryOptions())
            : client.batch(queries, { ...this.#queryOptions(), logged: false }),
        );
      }
    };
    // The workers share the generator, so that each batch is stored once.
    await Promise.all(Array.from({ length: CONCURRENT_BATCHES }, storeNext));
  }

  async *lookup(portId: string, { since = 0, signal }: LookupOptions = {}): AsyncGenerator<ArchivedRecord> {
    const params = [types.Uuid.fromString(checkPortId(portId)), new Date(since)];
    const query = `SELECT time, record FROM ${this.#table} WHERE port = ? AND time >= ?`;
    let pageState: string | undefined;
    do {
      const options = { ...this.#queryOptions(), fetchSize: PAGE_ROWS, pageState };
      const result = await this.#call('lookup', portId, signal, (client) => client.execute(query, params, options));
      for (const row of result.rows) yield { time: (row.time as Date).getTime(), record: row.record as Buffer };
      pageState = result.pageState;
    } while (pageState !== undefined && pageState !== null);
  }

  async remove(portId: string, signal?: AbortSignal): Promise<void> {
    const port = types.Uuid.fromString(checkPortId(portId));
    const query = `DELETE FROM ${this.#table} WHERE port = ?`;
    await this.#call('remove', portId, signal, (client) => client.execute(query, [port], this.#queryOptions()));
  }

  async close(): Promise<void> {
    this.#closing.abort(new ClosedError('flow state archive'));
    const client = await this.#connected?.catch(() => undefined);
    await client?.shutdown();
  }

  get #table(): string {
    return `${this.#options.keyspace}.${TABLE}`;
  }

  #queryOptions() {
    return { prepare: true, isIdempotent: true, consistency: types.consistencies[this.#options.consistency] };
  }

  /** Carries out a request, in bounded time. */
  async #call<T>(
    operation: string,
    portId: string,
    signal: AbortSignal | undefined,
    request: (client: Client) => Promise<T>,
  ): Promise<T> {
    const { operationTimeout } = this.#options;
    const late = AbortSignal.timeout(operationTimeout);
    const ends = AbortSignal.any([late, this.#closing.signal, ...(signal === undefined ? [] : [signal])]);
    ends.throwIfAborted();
    let stop = () => {};
    const ended = new Promise<never>((_, reject) => {
      stop = () => reject(ends.reason);
      ends.addEventListener('abort', stop, { once: true });
    });
    try {
      const answer = (async () => request(await this.#client()))();
      // It may fail when nobody waits for it any more.
      answer.catch(() => {});
      return await Promise.race([answer, ended]);
    } catch (error) {
      if (this.#closing.signal.aborted) throw this.#closing.signal.reason;
      if (error === late.reason) {
        throw new ArchiveUnavailableError(operation, portId, `no answer from Cassandra within ${operationTimeout} ms`);
      }
      if (error instanceof MidonetError || signal?.aborted === true) throw error;
      throw new ArchiveUnavailableError(operation, portId, messageOf(error), { cause: error });
    } finally {
      ends.removeEventListener('abort', stop);
    }
  }

  /** The connected client, made at the first call; at the next one when that failed. */
  #client(): Promise<Client> {
    if (this.#connected === undefined) {
      const attempt = this.#connect();
      this.#connected = attempt;
      attempt.catch(() => {
        if (this.#connected === attempt) this.#connected = undefined;
      });
    }
    return this.#connected;
  }

  async #connect(): Promise<Client> {
    const { contactPoints, localDataCenter, credentials, operationTimeout } = this.#options;
    const client = new Client({
      contactPoints: [...contactPoints],
      localDataCenter,
      ...(credentials && { authProvider: new auth.PlainTextAuthProvider(credentials.user, credentials.password) }),
      policies: {
        reconnection: new policies.reconnection.ExponentialReconnectionPolicy(RECONNECT_MS, LONGEST_RECONNECT_MS),
      },
      socketOptions: { connectTimeout: operationTimeout, readTimeout: operationTimeout },
    });
    try {
      await client.connect();
      await this.#makeTable(client);
      return client;
    } catch (error) {
      await client.shutdown();
      throw error;
    }
  }

  /** Nothing is written when the table is there: many hosts start at once, and not each may create. */
  async #makeTable(client: Client): Promise<void> {
    const { keyspace, replication } = this.#options;
    const there = await client.execute(
      'SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?',
      [keyspace, TABLE],
      { prepare: true },
    );
    if (there.rows.length > 0) return;
    await client.execute(
      `CREATE KEYSPACE IF NOT EXISTS ${keyspace} WITH replication = ${replicationLiteral(replication)}`,
    );
    await client.execute(
      `CREATE TABLE IF NOT EXISTS ${this.#table} (port uuid, time timestamp, id timeuuid, record blob, ` +
        'PRIMARY KEY (port, time, id)) WITH CLUSTERING ORDER BY (time ASC, id ASC)',
    );
  }
}

function replicationLiteral(replication: CassandraArchiveOptions['replication']): string {
  if (typeof replication === 'number') return `{'class': 'SimpleStrategy', 'replication_factor': ${replication}}`;
  const centers = Object.entries(replication).map(([name, copies]) => `'${name.replaceAll("'", "''")}': ${copies}`);
  return `{'class': 'NetworkTopologyStrategy', ${centers.join(', ')}}`;
}

/** The driver's message for "no server could be reached" leaves out why. */
function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const inner = Object.entries((error as { innerErrors?: Record<string, unknown> }).innerErrors ?? {});
  const reasons = inner.map(
    ([host, reason]) => `${host}: ${reason instanceof Error ? reason.message : String(reason)}`,
  );
  return reasons.length > 0 ? reasons.join('; ') : error.message;
}
