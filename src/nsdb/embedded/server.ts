/**
 * The embedded store: one process that speaks ZooKeeper's wire protocol and keeps its data on disk (storage.ts). A single
 * node by design; an ensemble is Apache ZooKeeper's business, with the same clients.
 *
 * A request (requests.ts) is carried out in memory at once, in the order of arrival; nothing leaves the server before
 * everything it may tell of is on disk (outbox.ts). When the disk fails the server stops.
 */
import type { Server, Socket } from 'node:net';
import { InvalidInputError } from '../../errors.js';
import { WireProtocolError } from '../protocol/jute.js';
import { DEFAULT_MAX_REQUEST } from '../protocol/records.js';
import type { Credentials, Tls } from '../store.js';
import { Authentication } from './authentication.js';
import { Changes } from './changes.js';
import { ClientConnection } from './client-connection.js';
import { type Database, SYSTEM_NODES } from './database.js';
import type { Disk } from './disk.js';
import { type DiskUsage, diskUsage } from './disk-usage.js';
import { answerTo, diskLines, type FourLetterWord, fourLetterWordIn } from './four-letter-words.js';
import { addressOf, createListener, HANDSHAKE_TIMEOUT, type ListenAddress, listenOn } from './listener.js';
import type { Notice } from './notice.js';
import { Outbox } from './outbox.js';
import { Reads } from './reads.js';
import { MAX_BATCH_BODY } from './record-file.js';
import { Requests } from './requests.js';
import { Sessions, type SessionTimeouts } from './sessions.js';
import type { SnapshotMaker } from './snapshot-thread.js';
import { Storage } from './storage.js';
import { WatchRequests } from './watch-requests.js';
import { WatchTable } from './watch-table.js';
import { MAX_MULTI_LISTS, Writes } from './writes.js';

export interface EmbeddedServerOptions {
  readonly listen: ListenAddress;
  readonly dataDir: string;
  /** Only who authenticates with these may do anything, and may then do everything, whatever access lists say. */
  readonly credentials?: Credentials;
  /** Speak TLS only. With `ca` every client has to show a certificate from it. */
  readonly tls?: Tls;
  /** Bounds of what clients may ask for, milliseconds. Apache ZooKeeper's with its usual tick of 2 s: 4 to 40 s. */
  readonly minSessionTimeout?: number;
  readonly maxSessionTimeout?: number;
  /** Largest request in bytes, as jute.maxbuffer. */
  readonly maxRequest?: number;
  readonly maxConnections?: number;
  /** Default true. False may lose acknowledged writes when the machine (not when the process) stops. */
  readonly fsync?: boolean;
  /** Bytes of log between snapshots. */
  readonly snapshotAfter?: number;
  /** Bytes of the disk to leave free: with less room, changes that need more are refused. Default 64 MiB; 0: never. */
  readonly diskReserve?: number;
  /** A test's own disk, and what makes snapshots on it. */
  readonly disk?: Disk;
  readonly snapshotMaker?: SnapshotMaker;
  readonly onNotice?: Notice;
  /** The disk or a change failed: the server has stopped serving, and what it acknowledged is on disk. */
  readonly onFailure?: (error: Error) => void;
  /** Closes the server. */
  readonly signal?: AbortSignal;
}

/** Counters since the start, and current sizes. */
export interface EmbeddedServerMetrics {
  connections: number;
  connectionsAccepted: number;
  /** Connections closed for bytes that are not the protocol. */
  protocolErrors: number;
  /** Clients that were sent away since they did not authenticate, or not with the right password. */
  authenticationFailures: number;
  sessions: number;
  sessionsExpired: number;
  nodes: number;
  dataBytes: number;
  watches: number;
  requests: number;
  transactions: number;
  watchEvents: number;
  logBatches: number;
  logBytes: number;
  snapshots: number;
  /** 1 while changes are refused since the disk has too little room, else 0. */
  diskFull: number;
  zxid: number;
  /** 1 while changes are refused, see freeze.ts. */
  frozen: number;
}

/** The bytes a TLS handshake begins with, RFC 8446 section 5.1. */
const TLS_HANDSHAKE = 22;
const TLS_MAJOR_VERSION = 3;
/** A change takes less than twice the room of its request and its access list. */
const MAX_MAX_REQUEST = MAX_BATCH_BODY / 2 - MAX_MULTI_LISTS;

export class EmbeddedServer {
  private readonly database: Database;
  private readonly watches = new WatchTable<ClientConnection>();
  private readonly outbox: Outbox;
  private readonly changes: Changes;
  private readonly sessions: Sessions;
  private readonly authentication: Authentication;
  private readonly writes: Writes;
  private readonly requests: Requests;
  private readonly connections = new Set<ClientConnection>();
  private readonly sockets = new Set<Socket>();
  private readonly counters = { connectionsAccepted: 0, protocolErrors: 0 };
  private closed: Promise<void> | undefined;
  private failed = false;

  private constructor(
    private readonly options: EmbeddedServerOptions,
    timeouts: SessionTimeouts,
    private readonly storage: Storage,
    private readonly listener: Server,
  ) {
    const { database } = storage;
    const notice: Notice = (level, message, fields) => this.notice(level, message, fields);
    this.database = database;
    this.outbox = new Outbox(storage);
    this.changes = new Changes(storage, this.watches, this.outbox, (error) =>
      this.fail('a change was made only in part', error),
    );
    this.sessions = new Sessions(this.changes, this.outbox, timeouts, notice);
    this.authentication = new Authentication(options.credentials, this.sessions, this.outbox, notice);
    this.writes = new Writes(storage, this.changes, this.sessions, this.outbox);
    this.requests = new Requests(
      this.sessions,
      this.authentication,
      new Reads(database, this.watches, this.outbox),
      this.writes,
      new WatchRequests(database, this.watches, this.outbox),
      this.outbox,
    );
  }

  /** @throws FolderLockedError, StoreCorruptError, InvalidInputError, or what the system says of the address. */
  static async start(options: EmbeddedServerOptions): Promise<EmbeddedServer> {
    options.signal?.throwIfAborted();
    const minimum = options.minSessionTimeout ?? 4000;
    const maximum = options.maxSessionTimeout ?? 40_000;
    if (minimum < 1 || maximum < minimum) {
      throw new InvalidInputError('minSessionTimeout', minimum, `expected between 1 and ${maximum}`);
    }
    const maxRequest = options.maxRequest ?? DEFAULT_MAX_REQUEST;
    if (maxRequest < 1 || maxRequest > MAX_MAX_REQUEST) {
      throw new InvalidInputError('maxRequest', maxRequest, `expected between 1 and ${MAX_MAX_REQUEST}`);
    }
    let server: EmbeddedServer | undefined;
    const storage = await Storage.open(
      {
        directory: options.dataDir,
        fsync: options.fsync ?? true,
        snapshotAfter: options.snapshotAfter ?? 64 * 1024 * 1024,
        diskReserve: options.diskReserve ?? 64 * 1024 * 1024,
        disk: options.disk,
        snapshotMaker: options.snapshotMaker,
      },
      {
        onDurable: (zxid) => server?.outbox.releaseUpTo(zxid),
        onFailure: (error) => server?.fail('the disk failed', error),
        onNotice: (level, message, fields) => options.onNotice?.(level, message, fields),
      },
    );
    try {
      const listener = createListener(options.tls);
      server = new EmbeddedServer(options, { minimum, maximum }, storage, listener);
      listener.maxConnections = options.maxConnections ?? 10_000;
      const running = server;
      listener.on('connection', (socket) => running.follow(socket));
      listener.on(options.tls === undefined ? 'connection' : 'secureConnection', (socket) => running.accept(socket));
      listener.on('drop', (dropped) =>
        running.notice('warn', 'refused a client: there are too many connections', { client: dropped?.remoteAddress }),
      );
      listener.on('tlsClientError', (error, socket) => running.onTlsError(error, socket));
      server.makeSystemNodes();
      await listenOn(listener, options.listen, (error) =>
        running.notice('warn', 'listening failed', { error: error.message }),
      );
      options.signal?.throwIfAborted();
    } catch (error) {
      await (server === undefined ? storage.close() : server.close());
      throw error;
    }
    const running = server;
    options.signal?.addEventListener('abort', () => void running.close(), { once: true });
    return running;
  }

  /** Where it listens: `host:port`, or `unix:/path`; what the client's connect string takes. */
  get address(): string {
    return addressOf(this.listener);
  }

  get metrics(): EmbeddedServerMetrics {
    return {
      ...this.counters,
      ...this.requests.counters,
      ...this.changes.counters,
      ...this.sessions.counters,
      ...this.authentication.counters,
      connections: this.connections.size,
      sessions: this.database.sessions.size,
      nodes: this.database.nodeCount,
      dataBytes: this.database.dataBytes,
      watches: this.watches.count,
      logBatches: this.storage.metrics.batches,
      logBytes: this.storage.metrics.bytes,
      snapshots: this.storage.snapshots,
      diskFull: this.storage.full ? 1 : 0,
      zxid: this.database.zxid,
      frozen: this.writes.areFrozen ? 1 : 0,
    };
  }

  /** How long things took, milliseconds. */
  get latencies() {
    const { fsync } = this.storage.metrics;
    return { requests: this.outbox.requestTimes, fsync, snapshot: this.storage.snapshotTimes };
  }

  diskUsage(): Promise<DiskUsage> {
    return diskUsage(this.options.dataDir);
  }

  /** Stops; sessions stay on disk and can be taken up again after the next start. */
  close(): Promise<void> {
    this.closed ??= this.stop();
    return this.closed;
  }

  private async stop(): Promise<void> {
    this.sessions.stop();
    const listening = new Promise<void>((resolve) => this.listener.close(() => resolve()));
    for (const socket of this.sockets) socket.destroy();
    for (const connection of this.connections) connection.socket.destroy();
    await listening;
    await this.storage.close();
  }

  private makeSystemNodes(): void {
    if (SYSTEM_NODES.some(({ path }) => this.database.find(path) === undefined))
      this.changes.commit([{ type: 'system-nodes' }]);
  }

  private notice(level: 'info' | 'warn' | 'error', message: string, fields: object): void {
    this.options.onNotice?.(level, message, fields);
  }

  /** Stops, since memory differs from what is on disk. */
  private fail(reason: string, error: Error): void {
    this.failed = true;
    this.outbox.drop();
    this.notice('error', `${reason}, the server stops`, { error: error.message });
    this.close()
      .catch((left: Error) => this.notice('warn', 'could not close after that', { error: left.message }))
      .finally(() => this.options.onFailure?.(error));
  }

  /** What the network has given, before it says anything: stopping ends it. */
  private follow(socket: Socket): void {
    this.sockets.add(socket);
    socket.once('close', () => this.sockets.delete(socket));
  }

  private onTlsError(error: Error, socket: Socket): void {
    this.counters.protocolErrors++;
    this.notice('warn', 'a client did not come to an encrypted connection', {
      client: nameOf(socket),
      error: error.message,
    });
    socket.destroy();
  }

  private accept(socket: Socket): void {
    if (this.closed !== undefined) {
      socket.destroy();
      return;
    }
    this.counters.connectionsAccepted++;
    const connection = new ClientConnection(
      socket,
      nameOf(socket),
      this.options.maxRequest ?? DEFAULT_MAX_REQUEST,
      (c, frame) => this.requests.carryOut(c, frame),
      (c, error) => this.onConnectionError(c, error),
    );
    this.connections.add(connection);
    const handshake = setTimeout(() => {
      this.onConnectionError(connection, new WireProtocolError(`no connect request within ${HANDSHAKE_TIMEOUT} ms`));
    }, HANDSHAKE_TIMEOUT);
    let first = true;
    socket.on('data', (chunk) => {
      if (first) {
        first = false;
        if (this.options.tls === undefined && chunk[0] === TLS_HANDSHAKE && chunk[1] === TLS_MAJOR_VERSION) {
          this.onConnectionError(
            connection,
            new WireProtocolError('the client speaks TLS, this server is set up without'),
          );
          return;
        }
        const word = fourLetterWordIn(chunk);
        if (word !== undefined) {
          clearTimeout(handshake);
          this.answerWord(connection, word);
          return;
        }
      }
      connection.push(chunk);
      if (connection.session !== undefined) clearTimeout(handshake);
    });
    // A reset is an ordinary end of a connection; `close` follows.
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      clearTimeout(handshake);
      this.forget(connection);
    });
  }

  private forget(connection: ClientConnection): void {
    this.connections.delete(connection);
    this.watches.removeWatcher(connection);
    // While the server stops nothing is to be written any more.
    if (this.closed === undefined) this.authentication.endUnproven(connection);
    this.sessions.forget(connection);
  }

  private onConnectionError(connection: ClientConnection, error: Error): void {
    const fields = { client: connection.name, session: connection.session?.id };
    if (error instanceof WireProtocolError) {
      this.counters.protocolErrors++;
      this.notice('warn', 'closed a connection that does not follow the protocol', { ...fields, error: error.message });
    } else {
      this.notice('error', 'closed a connection whose request failed', { ...fields, error: error.stack });
    }
    connection.socket.destroy();
  }

  private answerWord(connection: ClientConnection, word: FourLetterWord): void {
    const answer = () => {
      const { failed, metrics, watches, connections } = this;
      return answerTo(word, { failed, metrics, watches, connections });
    };
    if (word !== 'mntr') {
      connection.finish(answer());
      return;
    }
    connection.ignoreFurther();
    this.diskWords().then((more) => connection.finish(answer() + more));
  }

  private async diskWords(): Promise<string> {
    try {
      return diskLines(await this.diskUsage());
    } catch (error) {
      this.notice('warn', 'cannot look at the data folder', { error: (error as Error).message });
      return '';
    }
  }
}

function nameOf(socket: Socket): string {
  return socket.remoteAddress === undefined ? 'unix' : `${socket.remoteAddress}:${socket.remotePort}`;
}
