/**
 * The embedded store: one process that speaks ZooKeeper's wire protocol and keeps its data on disk (storage.ts). A single
 * node by design; an ensemble is Apache ZooKeeper's business, with the same clients.
 *
 * A request is carried out in memory at once, in the order of arrival; nothing leaves the server, neither an answer nor a
 * watch event, before everything it may tell of is on disk. When the disk fails the server stops.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { chmod, lstat, rm } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { InvalidInputError } from '../../errors.js';
import { LatencyHistogram } from '../../latency-histogram.js';
import { FROZEN_PATH } from '../freeze.js';
import { pathFault } from '../path.js';
import { JuteReader, JuteWriter, NO_SESSION, WireProtocolError } from '../protocol/jute.js';
import {
  AddWatchMode,
  type ConnectRequest,
  DEFAULT_MAX_REQUEST,
  Err,
  EventType,
  Op,
  PASSWORD_LENGTH,
  Permission,
  readConnectRequest,
  readMultiHeader,
  SYNC_CONNECTED,
  WatcherType,
  writeAcls,
  writeConnectResponse,
  writeMultiHeader,
  writeReplyHeader,
  writeStat,
  Xid,
} from '../protocol/records.js';
import { MIN_TLS_VERSION, secureContextOf } from '../protocol/tls.js';
import type { Credentials, Tls } from '../store.js';
import { type AccessList, allows, digestIdentity, withoutDigests } from './access.js';
import { ClientConnection } from './client-connection.js';
import { type Database, type SessionRecord, SYSTEM_NODES, statOf, type TreeNode } from './database.js';
import type { Disk } from './disk.js';
import { type DiskUsage, diskUsage } from './disk-usage.js';
import { countBelow, ephemeralsFrom, userOf } from './inspection.js';
import { prepare, readWriteRequest, type WriteRequest } from './prepare.js';
import { MAX_BATCH_BODY } from './record-file.js';
import { SessionClock } from './session-clock.js';
import type { SnapshotMaker } from './snapshot-thread.js';
import { Storage } from './storage.js';
import type { Change } from './transaction.js';
import { type WatchKind, WatchTable } from './watch-table.js';

export interface EmbeddedServerOptions {
  /** TCP (port 0: any free one) or a Unix socket, which only root and the socket's owner may use. */
  readonly listen: { readonly host?: string; readonly port: number } | { readonly path: string };
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
  /** Told what an operator should see. */
  readonly onNotice?: (level: 'info' | 'warn' | 'error', message: string, fields: object) => void;
  /** The disk failed: the server has stopped serving, and what it acknowledged is on disk. */
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

/** Kinds of requests, for how long they take. */
type RequestKind = 'read' | 'write' | 'multi' | 'other';

/** Of deleted nodes. */
type AccessListsByPath = Map<string, AccessList>;

interface HeldFrame {
  readonly zxid: number;
  readonly connection: ClientConnection;
  readonly frame: Buffer;
  /** Ends the connection after it. */
  readonly last: boolean;
  /** The request it answers; undefined for an event. */
  readonly kind: RequestKind | undefined;
  readonly arrived: number;
}

const HANDSHAKE_TIMEOUT = 10_000;
/** The bytes a TLS handshake begins with, RFC 8446 section 5.1. */
const TLS_HANDSHAKE = 22;
const TLS_MAJOR_VERSION = 3;
/** Characters of paths in one transaction of a session's end. */
const MAX_END_LENGTH = 1024 * 1024;
/** Bytes of user and password; identities of one connection. */
const MAX_SECRET = 1024;
const MAX_IDENTITIES = 16;
/** Characters of the access lists in one multi: what "auth" stands for is longer than that. */
const MAX_MULTI_LISTS = 8 * 1024 * 1024;
/** A change takes less than twice the room of its request and its access list. */
const MAX_MAX_REQUEST = MAX_BATCH_BODY / 2 - MAX_MULTI_LISTS;
/** `sun_path` of unix(7) without its end; Node.js would cut a longer one off. */
const MAX_SOCKET_PATH = 107;
const FOUR_LETTER_WORDS = new Set(['ruok', 'srvr', 'stat', 'mntr', 'isro', 'wchs']);
const WATCH_KINDS: ReadonlyMap<number, readonly WatchKind[]> = new Map<number, WatchKind[]>([
  [WatcherType.children, ['children']],
  [WatcherType.data, ['data']],
  [WatcherType.any, ['data', 'children', 'persistent', 'recursive']],
]);

export class EmbeddedServer {
  private readonly database: Database;
  private readonly connections = new Set<ClientConnection>();
  private readonly sockets = new Set<Socket>();
  private readonly bySession = new Map<string, ClientConnection>();
  private readonly watches = new WatchTable<ClientConnection>();
  private readonly clock: SessionClock;
  private readonly counters = {
    connectionsAccepted: 0,
    protocolErrors: 0,
    authenticationFailures: 0,
    sessionsExpired: 0,
    requests: 0,
    transactions: 0,
    watchEvents: 0,
  };
  private readonly requestTimes: Readonly<Record<RequestKind, LatencyHistogram>> = {
    read: new LatencyHistogram(),
    write: new LatencyHistogram(),
    multi: new LatencyHistogram(),
    other: new LatencyHistogram(),
  };
  /** The request that is carried out just now, and when it came. */
  private kind: RequestKind | undefined;
  private arrived = 0;
  private held: HeldFrame[] = [];
  private closed: Promise<void> | undefined;
  private failed = false;

  private constructor(
    private readonly options: EmbeddedServerOptions,
    private readonly storage: Storage,
    private readonly listener: Server,
  ) {
    this.database = storage.database;
    const minimum = options.minSessionTimeout ?? 4000;
    this.clock = new SessionClock(Math.max(20, Math.min(500, minimum / 8)), (id) => this.expire(id));
    for (const session of this.database.sessions.values()) this.clock.touch(session);
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
        onDurable: (zxid) => server?.releaseUpTo(zxid),
        onFailure: (error) => server?.fail(error),
        onNotice: (level, message, fields) => options.onNotice?.(level, message, fields),
      },
    );
    try {
      const listener = options.tls === undefined ? createServer() : tlsListener(options.tls);
      server = new EmbeddedServer(options, storage, listener);
      listener.maxConnections = options.maxConnections ?? 10_000;
      const running = server;
      listener.on('connection', (socket) => running.follow(socket));
      listener.on(options.tls === undefined ? 'connection' : 'secureConnection', (socket) => running.accept(socket));
      listener.on('tlsClientError', (error, socket) => running.onTlsError(error, socket));
      server.makeSystemNodes();
      await server.listen();
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
    const address = this.listener.address() as AddressInfo | string | null;
    if (address === null) return 'closed';
    if (typeof address === 'string') return `unix:${address}`;
    return address.family === 'IPv6' ? `[${address.address}]:${address.port}` : `${address.address}:${address.port}`;
  }

  get metrics(): EmbeddedServerMetrics {
    return {
      ...this.counters,
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
      frozen: this.isFrozen ? 1 : 0,
    };
  }

  /** How long things took, milliseconds. */
  get latencies() {
    const { fsync } = this.storage.metrics;
    return { requests: this.requestTimes, fsync, snapshot: this.storage.snapshotTimes };
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
    this.clock.stop();
    const listening = new Promise<void>((resolve) => this.listener.close(() => resolve()));
    for (const socket of this.sockets) socket.destroy();
    for (const connection of this.connections) connection.socket.destroy();
    await listening;
    await this.storage.close();
  }

  private makeSystemNodes(): void {
    if (SYSTEM_NODES.some(({ path }) => this.database.find(path) === undefined))
      this.commit([{ type: 'system-nodes' }]);
  }

  private async listen(): Promise<void> {
    const { listen } = this.options;
    if ('path' in listen) await removeDeadSocket(listen.path);
    await new Promise<void>((resolve, reject) => {
      this.listener.once('error', reject);
      this.listener.listen(
        'path' in listen ? { path: listen.path } : { host: listen.host ?? '127.0.0.1', port: listen.port },
        () => {
          this.listener.removeListener('error', reject);
          this.listener.on('error', (error) => this.notice('warn', 'listening failed', { error: error.message }));
          resolve();
        },
      );
    });
    if ('path' in listen) await chmod(listen.path, 0o600);
  }

  private notice(level: 'info' | 'warn' | 'error', message: string, fields: object): void {
    this.options.onNotice?.(level, message, fields);
  }

  private fail(error: Error): void {
    this.failed = true;
    this.held = [];
    this.notice('error', 'the disk failed, the server stops', { error: error.message });
    this.close()
      .catch((left: Error) => this.notice('warn', 'could not close after that', { error: left.message }))
      .finally(() => this.options.onFailure?.(error));
  }

  // Connections

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
      (c, frame) => this.onFrame(c, frame),
      (c, error) => this.onProtocolError(c, error),
    );
    this.connections.add(connection);
    const handshake = setTimeout(() => {
      this.onProtocolError(connection, new WireProtocolError(`no connect request within ${HANDSHAKE_TIMEOUT} ms`));
    }, HANDSHAKE_TIMEOUT);
    let first = true;
    socket.on('data', (chunk) => {
      if (first) {
        first = false;
        if (this.options.tls === undefined && chunk[0] === TLS_HANDSHAKE && chunk[1] === TLS_MAJOR_VERSION) {
          this.onProtocolError(
            connection,
            new WireProtocolError('the client speaks TLS, this server is set up without'),
          );
          return;
        }
        if (this.answerFourLetterWord(connection, chunk)) {
          clearTimeout(handshake);
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
    const { session } = connection;
    if (session !== undefined && this.bySession.get(session.id) === connection) this.bySession.delete(session.id);
  }

  private onProtocolError(connection: ClientConnection, error: Error): void {
    this.counters.protocolErrors++;
    this.notice('warn', 'closed a connection that does not follow the protocol', {
      client: connection.name,
      session: connection.session?.id,
      error: error.message,
    });
    connection.socket.destroy();
  }

  private onFrame(connection: ClientConnection, frame: Buffer): void {
    const r = new JuteReader(frame);
    this.kind = undefined;
    if (connection.session === undefined) {
      this.connect(connection, readConnectRequest(r));
      return;
    }
    this.clock.touch(connection.session);
    const xid = r.int();
    const op = r.int();
    if (op !== Op.ping) this.counters.requests++;
    this.kind = kindOf(op);
    this.arrived = performance.now();
    if (op !== Op.auth && this.options.credentials !== undefined && !isSuper(connection)) {
      this.sendAway(connection, xid, Err.authRequired);
      return;
    }
    this.handle(connection, connection.session, xid, op, r);
  }

  /**
   * Sends, once all that happened so far is on disk: what a client sees may tell of anything before it. Frames leave in
   * the order in which they were sent, so an event comes before every answer from after the change it tells of.
   */
  private send(connection: ClientConnection, w: JuteWriter, last = false, isEvent = false): void {
    const frame = w.frame();
    const kind = isEvent ? undefined : this.kind;
    if (this.storage.isDurable && this.held.length === 0) {
      connection.write(frame);
      if (kind !== undefined) this.requestTimes[kind].observe(performance.now() - this.arrived);
      if (last) connection.finish();
      return;
    }
    connection.hold();
    if (last) connection.ignoreFurther();
    this.held.push({ zxid: this.database.zxid, connection, frame, last, kind, arrived: this.arrived });
  }

  private releaseUpTo(zxid: number): void {
    let count = 0;
    while (count < this.held.length && this.held[count].zxid <= zxid) count++;
    const now = performance.now();
    for (const { connection, frame, last, kind, arrived } of this.held.splice(0, count)) {
      connection.release(frame);
      if (kind !== undefined) this.requestTimes[kind].observe(now - arrived);
      if (last) connection.finish();
    }
  }

  // Sessions

  private connect(connection: ClientConnection, request: ConnectRequest): void {
    const { readOnly } = request;
    if (request.lastZxidSeen > this.database.zxid) {
      this.notice('warn', 'refused a client that has seen changes this server does not have', {
        client: connection.name,
        seen: request.lastZxidSeen,
        zxid: this.database.zxid,
      });
      connection.socket.destroy();
      return;
    }
    let session: SessionRecord | undefined;
    if (request.sessionId === NO_SESSION) {
      session = this.openSession(request.timeout);
      connection.isNewcomer = true;
    } else {
      session = this.database.sessions.get(request.sessionId);
      if (
        session === undefined ||
        request.password.length !== PASSWORD_LENGTH ||
        !timingSafeEqual(request.password, session.password)
      ) {
        const w = new JuteWriter();
        const password = Buffer.alloc(PASSWORD_LENGTH);
        writeConnectResponse(w, {
          timeout: 0,
          sessionId: NO_SESSION,
          password,
          readOnly: readOnly === undefined ? undefined : false,
        });
        this.send(connection, w, true);
        return;
      }
      // The client has come back before this server saw that its old connection is gone.
      this.bySession.get(session.id)?.socket.destroy();
    }
    connection.session = session;
    this.bySession.set(session.id, connection);
    this.clock.touch(session);
    const w = new JuteWriter();
    writeConnectResponse(w, {
      timeout: session.timeout,
      sessionId: session.id,
      password: session.password,
      readOnly: readOnly === undefined ? undefined : false,
    });
    this.send(connection, w);
  }

  private openSession(wanted: number): SessionRecord {
    const timeout = Math.min(
      Math.max(wanted, this.options.minSessionTimeout ?? 4000),
      this.options.maxSessionTimeout ?? 40_000,
    );
    const bytes = randomBytes(8);
    // Numbers that begin with 0x80 or 0xff mark other kinds of nodes as their owner.
    bytes[0] = 1;
    const id = bytes.toString('hex');
    this.commit([{ type: 'open-session', id, timeout, password: randomBytes(PASSWORD_LENGTH) }]);
    return this.database.sessions.get(id)!;
  }

  private expire(id: string): void {
    const session = this.database.sessions.get(id);
    if (session === undefined) return;
    this.counters.sessionsExpired++;
    this.notice('info', 'session expired', { session: id, ephemerals: session.ephemerals.size });
    this.endSession(session);
    this.bySession.get(id)?.socket.destroy();
  }

  private endSession(session: SessionRecord): void {
    this.clock.remove(session.id);
    // Of a session with very many nodes the end is several transactions, each of which fits into a batch of the log.
    let changes: Change[] = [];
    let length = 0;
    for (const path of [...session.ephemerals]) {
      changes.push({ type: 'delete', path });
      length += path.length;
      if (length >= MAX_END_LENGTH) {
        this.commit(changes);
        changes = [];
        length = 0;
      }
    }
    changes.push({ type: 'close-session', id: session.id });
    this.commit(changes);
  }

  // Changes

  /** Makes changes that are known to fit, as one transaction. */
  private commit(changes: readonly Change[]): void {
    const zxid = this.database.zxid + 1;
    const time = Date.now();
    const gone: AccessListsByPath = new Map();
    for (const change of changes) this.apply(change, zxid, time, gone);
    this.record(zxid, time, changes, gone);
  }

  /** Applies one change; adds the access list of a node that is deleted to `gone`, for the events that tell of it. */
  private apply(change: Change, zxid: number, time: number, gone: AccessListsByPath, undo?: (() => void)[]): void {
    if (change.type === 'delete' && this.database.accessLists.size > 0) {
      gone.set(change.path, this.database.find(change.path)!.acl);
    }
    this.database.applyChange(change, zxid, time, undo);
  }

  /** Logs changes that were made, and fires the watches. */
  private record(zxid: number, time: number, changes: readonly Change[], gone: AccessListsByPath): void {
    this.database.zxid = zxid;
    this.storage.append({ zxid, time, changes });
    this.counters.transactions++;
    for (const change of changes) {
      this.watches.fire(change, (connection, event, path) => {
        if (!this.mayHearOf(connection, event, path, gone)) return;
        this.counters.watchEvents++;
        this.sendEvent(connection, event, path);
      });
    }
  }

  /** A watch of a tree must not tell of nodes that its owner may not read. */
  private mayHearOf({ identities }: ClientConnection, event: number, path: string, gone: AccessListsByPath): boolean {
    if (this.database.accessLists.size === 0 && gone.size === 0) return true;
    const [before, after] = [gone.get(path), this.database.find(path)?.acl];
    const acl = event === EventType.deleted ? (before ?? after) : (after ?? before);
    return acl === undefined || allows(acl, Permission.read, identities);
  }

  private sendEvent(connection: ClientConnection, event: number, path: string): void {
    const w = new JuteWriter();
    writeReplyHeader(w, Xid.notification, -1, Err.ok);
    w.int(event).int(SYNC_CONNECTED).string(path);
    this.send(connection, w, false, true);
  }

  // Requests

  private reply(connection: ClientConnection, xid: number, err: number, body?: (w: JuteWriter) => void): void {
    const w = new JuteWriter();
    writeReplyHeader(w, xid, this.database.zxid, err);
    if (err === Err.ok) body?.(w);
    this.send(connection, w);
  }

  private handle(connection: ClientConnection, session: SessionRecord, xid: number, op: number, r: JuteReader): void {
    switch (op) {
      case Op.ping:
        this.reply(connection, Xid.ping, Err.ok);
        return;
      case Op.getData:
        this.read(connection, xid, r, 'data', (w, node) => {
          w.byteString(node.data);
          writeStat(w, statOf(node));
        });
        return;
      case Op.getChildren:
        this.read(connection, xid, r, 'children', (w, node) => w.strings(namesOf(node)));
        return;
      case Op.getChildren2:
        this.read(connection, xid, r, 'children', (w, node) => {
          w.strings(namesOf(node));
          writeStat(w, statOf(node));
        });
        return;
      case Op.exists: {
        const path = r.string();
        const watch = r.bool();
        if (pathFault(path) !== undefined) return this.reply(connection, xid, Err.badArguments);
        if (watch) this.watches.add('data', path, connection);
        const node = this.database.find(path);
        return this.reply(connection, xid, node === undefined ? Err.noNode : Err.ok, (w) =>
          writeStat(w, statOf(node!)),
        );
      }
      case Op.getAcl:
        return this.withNode(connection, xid, r.string(), Permission.read | Permission.admin, (w, node) => {
          const whole = allows(node.acl, Permission.admin, connection.identities);
          writeAcls(w, whole ? node.acl.acls : withoutDigests(node.acl.acls));
          writeStat(w, statOf(node));
        });
      case Op.getAllChildrenNumber:
        return this.withNode(connection, xid, r.string(), Permission.read, (w, node) => w.int(countBelow(node)));
      case Op.getEphemerals: {
        const prefix = r.string();
        return this.reply(connection, xid, Err.ok, (w) => w.strings(ephemeralsFrom(session, prefix)));
      }
      case Op.whoAmI:
        return this.reply(connection, xid, Err.ok, (w) => {
          w.int(connection.identities.length);
          for (const identity of connection.identities) w.string(identity.scheme).string(userOf(identity));
        });
      case Op.multiRead:
        return this.multiRead(connection, xid, r);
      case Op.sync: {
        // A single server is always up to date; what is left is the wait for the disk, as for every answer.
        const path = r.string();
        return this.reply(connection, xid, Err.ok, (w) => w.string(path));
      }
      case Op.multi:
        return this.multi(connection, session, xid, r);
      case Op.setWatches:
      case Op.setWatches2:
        this.setWatches(connection, r, op === Op.setWatches2);
        return this.reply(connection, xid, Err.ok);
      case Op.addWatch:
        return this.addWatch(connection, xid, r);
      case Op.checkWatches:
      case Op.removeWatches:
        return this.findWatches(connection, xid, r, op === Op.removeWatches);
      case Op.auth:
        return this.authenticate(connection, xid, r);
      case Op.closeSession: {
        this.endSession(session);
        this.bySession.delete(session.id);
        const w = new JuteWriter();
        writeReplyHeader(w, xid, this.database.zxid, Err.ok);
        this.send(connection, w, true);
        return;
      }
      default: {
        const request = readWriteRequest(op, r);
        if (request === undefined) return this.reply(connection, xid, Err.unimplemented);
        return this.write(connection, session, xid, request);
      }
    }
  }

  private authenticate(connection: ClientConnection, xid: number, r: JuteReader): void {
    r.int();
    const scheme = r.string();
    const secret = r.bytes();
    // The address is known without.
    if (scheme === 'ip') return this.reply(connection, xid, Err.ok);
    const { credentials } = this.options;
    const { identities } = connection;
    const wrong = credentials !== undefined && !isSameSecret(secret, `${credentials.user}:${credentials.password}`);
    if (scheme !== 'digest' || wrong || secret.length > MAX_SECRET || identities.length >= MAX_IDENTITIES) {
      return this.sendAway(connection, xid, Err.authFailed);
    }
    const identity = digestIdentity(secret);
    if (!identities.some(({ scheme, id }) => scheme === identity.scheme && id === identity.id)) {
      identities.push(identity);
      if (credentials !== undefined) identities.push({ scheme: 'super', id: '' });
    }
    this.reply(connection, xid, Err.ok);
  }

  /** Answers for the last time. A session that was opened by somebody whom the server does not take ends. */
  private sendAway(connection: ClientConnection, xid: number, err: number): void {
    this.counters.authenticationFailures++;
    this.notice('warn', 'sent a client away that did not authenticate', { client: connection.name });
    const { session } = connection;
    const stranger = this.options.credentials !== undefined && !isSuper(connection);
    if (stranger && connection.isNewcomer && session !== undefined && this.sessionLives(session)) {
      this.endSession(session);
    }
    const w = new JuteWriter();
    writeReplyHeader(w, xid, 0, err);
    this.send(connection, w, true);
  }

  private withNode(
    connection: ClientConnection,
    xid: number,
    path: string,
    permission: number,
    body: (w: JuteWriter, node: TreeNode) => void,
  ): void {
    const node = this.readable(connection, path, permission);
    if (typeof node === 'number') return this.reply(connection, xid, node);
    return this.reply(connection, xid, Err.ok, (w) => body(w, node));
  }

  /** The node, if the client has one of the permissions; or the code of the error. */
  private readable({ identities }: ClientConnection, path: string, permissions: number): TreeNode | number {
    if (pathFault(path) !== undefined) return Err.badArguments;
    const node = this.database.find(path);
    if (node === undefined) return Err.noNode;
    return allows(node.acl, permissions, identities) ? node : Err.noAuth;
  }

  private read(
    connection: ClientConnection,
    xid: number,
    r: JuteReader,
    kind: 'data' | 'children',
    body: (w: JuteWriter, node: TreeNode) => void,
  ): void {
    const path = r.string();
    const watch = r.bool();
    this.withNode(connection, xid, path, Permission.read, (w, node) => {
      if (watch) this.watches.add(kind, path, connection);
      body(w, node);
    });
  }

  /** Several readings of one moment; each has its own result or error. */
  private multiRead(connection: ClientConnection, xid: number, r: JuteReader): void {
    const w = new JuteWriter();
    writeReplyHeader(w, xid, this.database.zxid, Err.ok);
    for (;;) {
      const { type, done } = readMultiHeader(r);
      if (done) break;
      if (type !== Op.getData && type !== Op.getChildren) return this.reply(connection, xid, Err.badArguments);
      const path = r.string();
      const watch = r.bool();
      const node = this.readable(connection, path, Permission.read);
      if (typeof node === 'number') {
        writeMultiHeader(w, Op.error, false, node);
        w.int(node);
        continue;
      }
      if (watch) this.watches.add(type === Op.getData ? 'data' : 'children', path, connection);
      writeMultiHeader(w, type, false, Err.ok);
      if (type === Op.getChildren) w.strings(namesOf(node));
      else writeStat(w.byteString(node.data), statOf(node));
    }
    writeMultiHeader(w, Op.error, true, -1);
    this.send(connection, w);
  }

  private write(connection: ClientConnection, session: SessionRecord, xid: number, request: WriteRequest): void {
    if (this.isFrozen && !(request.op === Op.delete && request.path === FROZEN_PATH)) {
      return this.reply(connection, xid, Err.notReadOnly);
    }
    const { identities } = connection;
    const change = this.sessionLives(session)
      ? prepare(this.database, { sessionId: session.id, identities }, request)
      : Err.sessionExpired;
    if (typeof change === 'number') return this.reply(connection, xid, change);
    if (this.lacksRoom(change)) return this.reply(connection, xid, Err.systemError);
    if (change !== undefined) this.commit([change]);
    return this.reply(connection, xid, Err.ok, (w) => this.writeResult(w, request, change));
  }

  /** What {@link FROZEN_PATH} does to others: ZooKeeper's answer of a server that may only be read. */
  private get isFrozen(): boolean {
    return this.database.find(FROZEN_PATH) !== undefined;
  }

  /** What deletes needs room in the log only for a moment, and is how clients make room. Moving elsewhere is another way. */
  private lacksRoom(change: Change | undefined): boolean {
    if (!this.storage.full || change === undefined || change.type === 'delete') return false;
    return !(change.type === 'create' && change.path === FROZEN_PATH);
  }

  private sessionLives(session: SessionRecord): boolean {
    return this.database.sessions.get(session.id) === session;
  }

  private writeResult(w: JuteWriter, request: WriteRequest, change: Change | undefined): void {
    if (change?.type === 'create') {
      w.string(change.path);
      if (request.op === Op.create2) writeStat(w, statOf(this.database.find(change.path)!));
    } else if (change?.type === 'set' || change?.type === 'set-acl') {
      writeStat(w, statOf(this.database.find(change.path)!));
    }
  }

  private multi(connection: ClientConnection, session: SessionRecord, xid: number, r: JuteReader): void {
    const requests: WriteRequest[] = [];
    for (;;) {
      const { type, done } = readMultiHeader(r);
      if (done) break;
      const request = readWriteRequest(type, r);
      if (request === undefined || request.op === Op.setAcl) return this.reply(connection, xid, Err.unimplemented);
      requests.push(request);
    }
    if (this.isFrozen) return this.reply(connection, xid, Err.notReadOnly);
    if (!this.sessionLives(session)) return this.reply(connection, xid, Err.sessionExpired);
    const zxid = this.database.zxid + 1;
    const time = Date.now();
    const changes: Change[] = [];
    const undo: (() => void)[] = [];
    const gone: AccessListsByPath = new Map();
    const w = new JuteWriter();
    writeReplyHeader(w, xid, zxid, Err.ok);
    const requester = { sessionId: session.id, identities: connection.identities };
    let lists = 0;
    for (const [index, request] of requests.entries()) {
      let change = prepare(this.database, requester, request);
      if (typeof change === 'object' && change.type === 'create' && change.acls !== undefined) {
        lists += this.database.accessLists.find(change.acls).key.length;
        if (lists > MAX_MULTI_LISTS) change = Err.invalidAcl;
      }
      const fault = typeof change === 'number' ? change : this.lacksRoom(change) ? Err.systemError : Err.ok;
      if (typeof change === 'number' || fault !== Err.ok) {
        for (const back of undo.reverse()) back();
        this.replyFailedMulti(connection, xid, requests.length, index, fault);
        return;
      }
      if (change !== undefined) {
        this.apply(change, zxid, time, gone, undo);
        changes.push(change);
      }
      writeMultiHeader(w, request.op, false, Err.ok);
      this.writeResult(w, request, change);
    }
    writeMultiHeader(w, Op.error, true, -1);
    this.record(zxid, time, changes, gone);
    this.send(connection, w);
  }

  private replyFailedMulti(
    connection: ClientConnection,
    xid: number,
    count: number,
    failed: number,
    err: number,
  ): void {
    this.reply(connection, xid, Err.ok, (w) => {
      for (let i = 0; i < count; i++) {
        const code = i < failed ? Err.ok : i === failed ? err : Err.runtimeInconsistency;
        writeMultiHeader(w, Op.error, false, code);
        w.int(code);
      }
      writeMultiHeader(w, Op.error, true, -1);
    });
  }

  /** A client that came back sets its watches again; what changed after the zxid it saw last fires at once. */
  private setWatches(connection: ClientConnection, r: JuteReader, withPersistent: boolean): void {
    const seen = r.long();
    const [data, exist, child] = [r.strings(), r.strings(), r.strings()];
    if (withPersistent) {
      // These never fire at once: who watches a tree reads it again.
      for (const path of r.strings()) this.watches.add('persistent', path, connection);
      for (const path of r.strings()) this.watches.add('recursive', path, connection);
    }
    for (const path of data) {
      const node = this.database.find(path);
      if (node === undefined) this.sendEvent(connection, EventType.deleted, path);
      else if (node.mzxid > seen) this.sendEvent(connection, EventType.dataChanged, path);
      else this.watches.add('data', path, connection);
    }
    for (const path of exist) {
      if (this.database.find(path) !== undefined) this.sendEvent(connection, EventType.created, path);
      else this.watches.add('data', path, connection);
    }
    for (const path of child) {
      const node = this.database.find(path);
      if (node === undefined) this.sendEvent(connection, EventType.deleted, path);
      else if (node.pzxid > seen) this.sendEvent(connection, EventType.childrenChanged, path);
      else this.watches.add('children', path, connection);
    }
  }

  /** The answer to addWatch is a code of its own, beside the one of every answer. */
  private addWatch(connection: ClientConnection, xid: number, r: JuteReader): void {
    const path = r.string();
    const mode = r.int();
    const known = mode === AddWatchMode.persistent || mode === AddWatchMode.persistentRecursive;
    if (!known || pathFault(path) !== undefined) return this.reply(connection, xid, Err.badArguments);
    this.watches.add(mode === AddWatchMode.persistent ? 'persistent' : 'recursive', path, connection);
    this.reply(connection, xid, Err.ok, (w) => w.int(Err.ok));
  }

  private findWatches(connection: ClientConnection, xid: number, r: JuteReader, remove: boolean): void {
    const path = r.string();
    const kinds = WATCH_KINDS.get(r.int());
    if (kinds === undefined) return this.reply(connection, xid, Err.badArguments);
    const found = kinds.filter((kind) =>
      remove ? this.watches.remove(kind, path, connection) : this.watches.has(kind, path, connection),
    );
    this.reply(connection, xid, found.length > 0 ? Err.ok : Err.noWatcher);
  }

  // Administrative words

  private answerFourLetterWord(connection: ClientConnection, chunk: Buffer): boolean {
    const word = chunk.toString('latin1', 0, 4);
    if (!FOUR_LETTER_WORDS.has(word)) return false;
    if (word === 'mntr') {
      connection.ignoreFurther();
      this.diskWords().then((more) => connection.finish(this.fourLetterWord(word) + more));
    } else {
      connection.finish(this.fourLetterWord(word));
    }
    return true;
  }

  /** What only this server has to say. */
  private async diskWords(): Promise<string> {
    try {
      const { logBytes, snapshotBytes, snapshots, freeBytes } = await this.diskUsage();
      return `midonet_log_bytes\t${logBytes}\nmidonet_snapshot_bytes\t${snapshotBytes}\nmidonet_snapshots\t${snapshots}\nmidonet_free_disk_bytes\t${freeBytes}\n`;
    } catch (error) {
      this.notice('warn', 'cannot look at the data folder', { error: (error as Error).message });
      return '';
    }
  }

  private fourLetterWord(word: string): string {
    const { metrics } = this;
    switch (word) {
      case 'ruok':
        return this.failed ? '' : 'imok';
      case 'isro':
        return 'rw';
      case 'wchs': {
        const { watchers, paths, count } = this.watches;
        return `${watchers} connections watching ${paths} paths\nTotal watches:${count}\n`;
      }
      case 'mntr':
        return [
          'zk_version\tmidonet-embedded',
          'zk_server_state\tstandalone',
          `zk_num_alive_connections\t${metrics.connections}`,
          `zk_global_sessions\t${metrics.sessions}`,
          `zk_znode_count\t${metrics.nodes}`,
          `zk_watch_count\t${metrics.watches}`,
          `zk_approximate_data_size\t${metrics.dataBytes}`,
          '',
        ].join('\n');
      default: {
        const lines = ['Zookeeper version: midonet-embedded'];
        if (word === 'stat') {
          lines.push('Clients:');
          for (const c of this.connections) lines.push(` /${c.name}[1](queued=0,recved=${c.received},sent=${c.sent})`);
          lines.push('');
        }
        lines.push(
          `Connections: ${metrics.connections}`,
          `Zxid: 0x${metrics.zxid.toString(16)}`,
          'Mode: standalone',
          `Node count: ${metrics.nodes}`,
          '',
        );
        return lines.join('\n');
      }
    }
  }
}

function kindOf(op: number): RequestKind {
  switch (op) {
    case Op.getData:
    case Op.exists:
    case Op.getChildren:
    case Op.getChildren2:
      return 'read';
    case Op.create:
    case Op.create2:
    case Op.setData:
    case Op.delete:
      return 'write';
    case Op.multi:
      return 'multi';
    default:
      return 'other';
  }
}

function tlsListener(tls: Tls): Server {
  const { ca, certificate, key } = tls;
  if (certificate === undefined || key === undefined) {
    throw new InvalidInputError('tls', Object.keys(tls), 'expected a certificate and its key');
  }
  secureContextOf(tls);
  const isMutual = ca !== undefined;
  return createTlsServer({
    ca,
    cert: certificate,
    key,
    minVersion: MIN_TLS_VERSION,
    requestCert: isMutual,
    rejectUnauthorized: isMutual,
    handshakeTimeout: HANDSHAKE_TIMEOUT,
  });
}

function nameOf(socket: Socket): string {
  return socket.remoteAddress === undefined ? 'unix' : `${socket.remoteAddress}:${socket.remotePort}`;
}

function isSuper({ identities }: ClientConnection): boolean {
  return identities.some(({ scheme }) => scheme === 'super');
}

/** Takes as long whatever the two have in common. */
function isSameSecret(given: Uint8Array, expected: string): boolean {
  const [a, b] = [given, Buffer.from(expected)].map((text) => createHash('sha256').update(text).digest());
  return timingSafeEqual(a, b);
}

function namesOf(node: TreeNode): string[] {
  return node.children === undefined ? [] : [...node.children.keys()];
}

/**
 * Removes the socket a dead server left; one that answers is left alone, and listening then fails with EADDRINUSE.
 * @throws InvalidInputError if the path cannot be that of a socket
 */
async function removeDeadSocket(path: string): Promise<void> {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
    throw new InvalidInputError('listen', path, `a socket's path has at most ${MAX_SOCKET_PATH} bytes`);
  }
  const found = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (found === undefined) return;
  if (!found.isSocket()) throw new InvalidInputError('listen', path, 'something that is not a socket is there');
  const dead = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.on('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.on('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
  if (dead) await rm(path, { force: true });
}
