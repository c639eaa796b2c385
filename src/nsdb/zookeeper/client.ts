/**
 * The store over ZooKeeper's wire protocol: one session, kept over as many connections as it takes, and a new one when it
 * was lost. Requests are pipelined. When a connection breaks, reads that were not answered are asked again; writes that
 * were sent are reported as of unknown outcome, since repeating them could make a change twice.
 */
import type { SecureContext } from 'node:tls';
import { ClosedError, InvalidInputError, MidonetError } from '../../errors.js';
import { LatencyHistogram } from '../../latency-histogram.js';
import { KeptEphemeralNode } from '../ephemeral-node.js';
import { FROZEN_PATH } from '../freeze.js';
import { checkPath, parentPath } from '../path.js';
import { JuteReader, JuteWriter, NO_SESSION, WireProtocolError } from '../protocol/jute.js';
import {
  type Acl,
  AddWatchMode,
  CREATOR_ACL,
  CreateFlag,
  DEFAULT_MAX_REQUEST,
  Err,
  EventType,
  OPEN_ACL,
  Op,
  PASSWORD_LENGTH,
  readStat,
  WatcherType,
  writeAcls,
  writeMultiHeader,
  Xid,
} from '../protocol/records.js';
import { secureContextOf } from '../protocol/tls.js';
import {
  type CallOptions,
  type CreateOptions,
  type Credentials,
  type EphemeralNode,
  type EphemeralOptions,
  NodeExistsError,
  RequestTooLargeError,
  type Stat,
  type Store,
  StoreAuthError,
  type StoreEvent,
  StoreFrozenError,
  type StoreNode,
  type StoreOperation,
  type StoreOperationResult,
  type StoreState,
  StoreUnavailableError,
  type Tls,
  type TreeListener,
  type TreeOptions,
  type Watch,
} from '../store.js';
import { WorkQueue } from '../work-queue.js';
import { AddressBook } from './address-book.js';
import { type ConnectString, nameOf, parseConnectString, type Target } from './connect-string.js';
import { Fifo } from './fifo.js';
import { errorOf, readMultiReply } from './replies.js';
import { type TrackedValue, Tracker, type WatchKind } from './tracker.js';
import { type TreeSource, TreeTracker } from './tree-tracker.js';
import { HandshakeRefusedError, WireConnection } from './wire-connection.js';

export interface ZookeeperStoreOptions {
  /** Servers and root, see {@link parseConnectString}: `zk1:2181,zk2:2181/midonet`, `unix:/run/midonet/nsdb.sock`. */
  readonly connect: string;
  /** Shown to the server on every connection; nodes are then made so that nobody else may use them. */
  readonly credentials?: Credentials;
  /** Encrypt. The server has to show a certificate for the host that the connect string names. */
  readonly tls?: Tls;
  /** Milliseconds after which the servers end a session they do not hear from. The server has the last word. */
  readonly sessionTimeout?: number;
  /** Milliseconds after which a call fails that found no server, or got no answer. */
  readonly operationTimeout?: number;
  /** Largest request in bytes; the servers' jute.maxbuffer. */
  readonly maxRequest?: number;
  /** Calls under way or waiting, beyond which further ones fail at once. */
  readonly maxPending?: number;
  /** Told what an operator should see: connections lost and made, sessions lost, watches that cannot be set. */
  readonly onNotice?: (level: 'info' | 'warn', message: string, fields: object) => void;
}

export interface ZookeeperStoreMetrics {
  connects: number;
  failedConnects: number;
  disconnects: number;
  sessionsLost: number;
  requests: number;
  watchEvents: number;
  /** Readings made for watches. */
  watchReads: number;
  /** Calls under way or waiting, and paths and trees watched, now. */
  pending: number;
  tracked: number;
}

interface Request {
  readonly operation: string;
  /** As the caller named it. */
  readonly path: string;
  /** Whole frame; the transaction number is written into it when it is sent. */
  readonly frame: Buffer;
  readonly isWrite: boolean;
  /** Of the client itself: no time limit, and not repeated after a reconnect. */
  readonly internal: boolean;
  settled: boolean;
  sent: boolean;
  xid: number;
  onReply(err: number, r: JuteReader): void;
  fail(error: Error): void;
}

type Opened = Awaited<ReturnType<typeof WireConnection.open>>;

/** An internal request's connection is gone. */
class ConnectionLost extends Error {}

/** The server answers nothing to this client before it has shown to be somebody else. */
class CredentialsRefusedError extends MidonetError {
  constructor(server: string, user: string | undefined) {
    super(
      'MN_STORE_AUTH',
      user === undefined
        ? `${server} takes only clients with a user and a password`
        : `${server} refuses the password of user ${user}`,
    );
  }
}

const DEFAULT_SESSION_TIMEOUT = 30_000;
const BACKOFF_MIN = 50;
/** Servers that are back shall have their clients back soon: the wait is between half of this and the whole. */
const BACKOFF_MAX = 1500;
/** A connection that ends earlier, in milliseconds, was of little use; after a few of them in a row the next has to wait. */
const SHORT_LIVED = 1000;
const FREE_RECONNECTS = 5;
/** Bounds of the time for connecting to one server. */
const CONNECT_TIMEOUT_MIN = 200;
const CONNECT_TIMEOUT_MAX = 5000;
const CLOSE_TIMEOUT = 2000;
/** Bytes of paths in one setWatches request. */
const SET_WATCHES_BATCH = 128 * 1024;
/** Offset of the transaction number in a frame, behind its length. */
const XID_OFFSET = 4;

export class ZookeeperStore implements Store {
  private readonly target: ConnectString;
  private readonly operationTimeout: number;
  private readonly maxRequest: number;
  private readonly maxPending: number;
  private currentState: StoreState = 'connecting';
  private connection: WireConnection | undefined;
  private session: { id: string; password: Uint8Array; timeout: number } | undefined;
  private lastZxid = 0;
  private nextXid = 1;
  /** Waiting for a connection, in the order of the calls; none of them is settled. */
  private readonly queued = new Set<Request>();
  private readonly unanswered = new Fifo<Request>();
  private pending = 0;
  /** Why the servers do not take this client, while they do not. */
  private refusal: CredentialsRefusedError | undefined;
  private readonly acls: readonly Acl[];
  private readonly secureContext: SecureContext | undefined;
  private readonly trackers = { data: new Map<string, Tracker>(), children: new Map<string, Tracker>() };
  /** By the path at the server. */
  private readonly trees = new Map<string, Set<TreeTracker>>();
  private readonly ephemerals = new Set<KeptEphemeralNode>();
  private readonly ephemeralWork = new WorkQueue();
  private readonly listeners = new Set<(event: StoreEvent) => void>();
  private readonly closing = new AbortController();
  private closed: Promise<void> | undefined;
  private readonly running: Promise<void>;
  /** From a call to its answer, milliseconds. */
  readonly latencies = { read: new LatencyHistogram(), write: new LatencyHistogram() };
  private readonly counters = {
    connects: 0,
    failedConnects: 0,
    disconnects: 0,
    sessionsLost: 0,
    requests: 0,
    watchEvents: 0,
    watchReads: 0,
  };

  /** Begins to connect; calls made meanwhile wait. @throws InvalidInputError on options that make no sense. */
  constructor(private readonly options: ZookeeperStoreOptions) {
    this.target = parseConnectString(options.connect);
    this.operationTimeout = positive('operationTimeout', options.operationTimeout ?? 5000);
    positive('sessionTimeout', options.sessionTimeout ?? DEFAULT_SESSION_TIMEOUT);
    this.maxRequest = positive('maxRequest', options.maxRequest ?? DEFAULT_MAX_REQUEST);
    this.maxPending = positive('maxPending', options.maxPending ?? 100_000);
    if (options.credentials?.user.includes(':')) {
      throw new InvalidInputError('credentials.user', options.credentials.user, 'expected a name without ":"');
    }
    this.acls = [options.credentials === undefined ? OPEN_ACL : CREATOR_ACL];
    this.secureContext = options.tls === undefined ? undefined : secureContextOf(options.tls);
    this.running = this.run();
  }

  get state(): StoreState {
    return this.currentState;
  }

  get sessionId(): string | undefined {
    return this.session?.id;
  }

  /** Milliseconds the server granted, once there is a session. */
  get sessionTimeout(): number | undefined {
    return this.session?.timeout;
  }

  get metrics(): ZookeeperStoreMetrics {
    const tracked = this.trackers.data.size + this.trackers.children.size + this.allTrees().length;
    return { ...this.counters, pending: this.pending, tracked };
  }

  // Reading

  async get(path: string, options?: CallOptions): Promise<StoreNode | undefined> {
    return this.call('get', path, this.readFrame(Op.getData, path, false), false, options, (err, r) =>
      err === Err.noNode ? undefined : readNode(r),
    );
  }

  async exists(path: string, options?: CallOptions): Promise<Stat | undefined> {
    return this.call('exists', path, this.readFrame(Op.exists, path, false), false, options, (err, r) =>
      err === Err.noNode ? undefined : readStat(r),
    );
  }

  async children(path: string, options?: CallOptions): Promise<string[] | undefined> {
    return this.call('children', path, this.readFrame(Op.getChildren, path, false), false, options, (err, r) =>
      err === Err.noNode ? undefined : r.strings().sort(),
    );
  }

  async sync(path = '/', options?: CallOptions): Promise<void> {
    const w = start(Op.sync).string(this.absolute(path));
    await this.call('sync', path, w.frame(), false, options, () => undefined);
  }

  // Changing

  async create(path: string, data: Uint8Array, options: CreateOptions = {}): Promise<string> {
    const w = start(Op.create);
    this.writeCreate(w, path, data, options);
    return this.call('create', path, w.frame(), true, options, (_err, r) => this.strip(r.string()));
  }

  async set(path: string, data: Uint8Array, version?: number, options?: CallOptions): Promise<Stat> {
    const w = start(Op.setData).string(this.absolute(path)).bytes(data).int(wireVersion(version));
    return this.call('set', path, w.frame(), true, options, (_err, r) => readStat(r));
  }

  async delete(path: string, version?: number, options?: CallOptions): Promise<void> {
    const w = start(Op.delete).string(this.absolute(path)).int(wireVersion(version));
    await this.call('delete', path, w.frame(), true, options, () => undefined);
  }

  async multi(operations: readonly StoreOperation[], options?: CallOptions): Promise<StoreOperationResult[]> {
    if (operations.length === 0) return [];
    const w = start(Op.multi);
    for (const operation of operations) {
      switch (operation.type) {
        case 'create':
          writeMultiHeader(w, Op.create, false, -1);
          this.writeCreate(w, operation.path, operation.data, operation);
          break;
        case 'set':
          writeMultiHeader(w, Op.setData, false, -1);
          w.string(this.absolute(operation.path)).bytes(operation.data).int(wireVersion(operation.version));
          break;
        case 'delete':
        case 'check':
          writeMultiHeader(w, operation.type === 'delete' ? Op.delete : Op.check, false, -1);
          w.string(this.absolute(operation.path)).int(wireVersion(operation.version));
          break;
      }
    }
    writeMultiHeader(w, Op.error, true, -1);
    return this.call('multi', operations[0].path, w.frame(), true, options, (_err, r) =>
      readMultiReply(r, operations, (path) => this.strip(path)),
    );
  }

  async ensure(path: string, options?: CallOptions): Promise<void> {
    if (checkPath(path) === '/' && this.target.chroot === '') return;
    await this.ensureAbsolute(path, options);
  }

  private async ensureAbsolute(path: string, options: CallOptions | undefined): Promise<void> {
    if ((await this.exists(path, options)) !== undefined) return;
    const parent = parentPath(path);
    if (parent === undefined) await this.ensureChroot(options);
    else await this.ensureAbsolute(parent, options);
    if (parent === undefined) return;
    try {
      await this.create(path, new Uint8Array(0), { signal: options?.signal });
    } catch (error) {
      if (!(error instanceof NodeExistsError)) throw error;
    }
  }

  /** The store's own root may have to be made at the server: the one place that looks above it. */
  private async ensureChroot(options: CallOptions | undefined): Promise<void> {
    const segments = this.target.chroot.slice(1).split('/');
    for (let i = 1; i <= segments.length; i++) {
      const path = `/${segments.slice(0, i).join('/')}`;
      const w = start(Op.create).string(path).bytes(new Uint8Array(0));
      writeAcls(w, this.acls);
      w.int(0);
      try {
        await this.call('create', path, w.frame(), true, options, () => undefined);
      } catch (error) {
        if (!(error instanceof NodeExistsError)) throw error;
      }
    }
  }

  // Watching

  watchData(path: string, listener: (node: StoreNode | undefined) => void): Watch {
    return this.track('data', path, (value) => listener(value as StoreNode | undefined));
  }

  watchChildren(path: string, listener: (names: readonly string[] | undefined) => void): Watch {
    return this.track('children', path, (value) => listener(value as readonly string[] | undefined));
  }

  watchTree(path: string, listener: TreeListener, options: TreeOptions = {}): Watch {
    if (this.closed !== undefined) throw new ClosedError('store');
    const absolute = this.absolute(path);
    const tree: TreeTracker = new TreeTracker(
      absolute,
      this.treeSource,
      (changed, node) => listener(this.strip(changed), node),
      options,
      (error) => this.notice('warn', 'could not read a watched tree', { path, error: error.message }),
      () => this.forgetTree(tree),
    );
    const trees = this.trees.get(absolute);
    if (trees === undefined) this.trees.set(absolute, new Set([tree]));
    else trees.add(tree);
    if (this.connection !== undefined) tree.restart();
    return tree;
  }

  private forgetTree(tree: TreeTracker): void {
    const trees = this.trees.get(tree.path);
    if (!trees?.delete(tree) || trees.size > 0) return;
    this.trees.delete(tree.path);
    this.removeWatches(tree.path, WatcherType.any);
    this.refreshTrackers(tree.path);
  }

  /**
   * Before version 3.9 Apache ZooKeeper keeps one mode for all that a client watches of a path, so a recursive watch
   * replaces a one-shot one and the other way round. Where a tree begins, a watch of the node's data makes do with the
   * tree's events, and one of its children is left after the tree's.
   */
  private refreshTrackers(path: string): void {
    if (this.connection === undefined) return;
    this.trackers.data.get(path)?.refresh();
    this.trackers.children.get(path)?.refresh();
  }

  private readonly treeSource: TreeSource = {
    arm: (path, fail) => {
      const frame = start(Op.addWatch).string(path).int(AddWatchMode.persistentRecursive).frame();
      this.ask('watch', path, frame, () => {}, fail);
      this.refreshTrackers(path);
    },
    readNode: (path, done, fail) => {
      const frame = start(Op.getData).string(path).bool(false).frame();
      this.ask('get', path, frame, (err, r) => done(err === Err.noNode ? undefined : readNode(r)), fail);
    },
    readChildren: (path, done, fail) => {
      const frame = start(Op.getChildren).string(path).bool(false).frame();
      this.ask('children', path, frame, (err, r) => done(err === Err.noNode ? undefined : r.strings()), fail);
    },
  };

  ephemeral(path: string, data: Uint8Array, options: EphemeralOptions = {}): EphemeralNode {
    const onError = (error: Error) =>
      this.notice('warn', 'could not keep an ephemeral node', { path, error: error.message });
    const onEnded = () => this.ephemerals.delete(node);
    const node: KeptEphemeralNode = new KeptEphemeralNode(
      this,
      this.ephemeralWork,
      path,
      data,
      options,
      onError,
      onEnded,
    );
    this.ephemerals.add(node);
    return node;
  }

  onState(listener: (event: StoreEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  private track(kind: WatchKind, path: string, listener: (value: TrackedValue) => void): Watch {
    if (this.closed !== undefined) throw new ClosedError('store');
    const absolute = this.absolute(path);
    let tracker = this.trackers[kind].get(absolute);
    if (tracker === undefined) {
      const created: Tracker = new Tracker(
        absolute,
        kind,
        () => this.readArmed(kind, path),
        (error) => error instanceof ConnectionLost || error instanceof ClosedError,
        (error) => this.notice('warn', 'could not read a watched node', { path, error: error.message }),
        () => {
          if (this.trackers[kind].get(absolute) === created) this.trackers[kind].delete(absolute);
          this.disarm(kind, absolute, created);
        },
      );
      tracker = created;
      this.trackers[kind].set(absolute, tracker);
      const watch = tracker.subscribe(listener);
      if (this.connection !== undefined) tracker.refresh();
      return watch;
    }
    return tracker.subscribe(listener);
  }

  /** Takes back the watch of a path that nobody wants to hear of any more. */
  private disarm(kind: WatchKind, path: string, { arming }: Tracker): void {
    if (arming === 'present' && kind === 'children') {
      if (!this.trackers.children.has(path)) this.removeWatches(path, WatcherType.children);
    } else if (arming !== 'unarmed') {
      // What waits for a node that is not there has left a watch of data, whatever it is for.
      const shared = this.trackers.data.has(path) || this.trackers.children.has(path) || this.trees.has(path);
      if (!shared) this.removeWatches(path, WatcherType.data);
    }
  }

  /** That the watch has fired meanwhile, so that there is none, is as good. */
  private removeWatches(path: string, type: number): void {
    if (this.connection === undefined || this.closed !== undefined) return;
    const frame = start(Op.removeWatches).string(path).int(type).frame();
    const onError = (error: Error) => {
      if (error instanceof ConnectionLost || error instanceof ClosedError) return;
      this.notice('warn', 'could not take a watch back', { path, error: error.message });
    };
    this.ask('unwatch', path, frame, () => {}, onError);
  }

  /** Reads so that a watch is left whether the node is there or not. */
  private async readArmed(kind: WatchKind, path: string): Promise<TrackedValue> {
    for (;;) {
      const value =
        kind === 'data'
          ? await this.internal('get', path, Op.getData, (err, r) => (err === Err.noNode ? undefined : readNode(r)))
          : await this.internal('children', path, Op.getChildren, (err, r) =>
              err === Err.noNode ? undefined : r.strings().sort(),
            );
      if (value !== undefined) return value;
      // Reading a node that is not there leaves no watch; asking whether it exists does.
      const stat = await this.internal('exists', path, Op.exists, (err, r) =>
        err === Err.noNode ? undefined : readStat(r),
      );
      if (stat === undefined) return undefined;
    }
  }

  private onWatchEvent(type: number, path: string): void {
    this.counters.watchEvents++;
    if (type === EventType.childrenChanged) {
      this.trackers.children.get(path)?.refresh();
    } else if (type === EventType.dataChanged) {
      this.trackers.data.get(path)?.refresh();
    } else if (type === EventType.created || type === EventType.deleted) {
      this.trackers.data.get(path)?.refresh();
      this.trackers.children.get(path)?.refresh();
    }
    if (this.trees.size === 0 || type === EventType.childrenChanged) return;
    for (let at: string | undefined = path; at !== undefined; at = parentPath(at)) {
      for (const tree of this.trees.get(at) ?? []) tree.onEvent(type, path);
    }
  }

  /** After a reconnect: lets the server tell what changed since the last zxid seen, instead of reading everything. */
  private restoreWatches(): void {
    let batch: { data: string[]; exist: string[]; child: string[]; bytes: number } | undefined;
    const flush = () => {
      if (batch === undefined) return;
      const w = new JuteWriter(1024).int(Xid.setWatches).int(Op.setWatches).long(this.lastZxid);
      w.strings(batch.data).strings(batch.exist).strings(batch.child);
      this.connection?.send(w.frame());
      batch = undefined;
    };
    for (const trackers of [this.trackers.data, this.trackers.children]) {
      for (const tracker of trackers.values()) {
        // Read again by the tree.
        if (this.trees.has(tracker.path)) continue;
        if (tracker.arming === 'unarmed') {
          tracker.refresh();
          continue;
        }
        batch ??= { data: [], exist: [], child: [], bytes: 0 };
        const list = tracker.arming === 'absent' ? batch.exist : tracker.kind === 'data' ? batch.data : batch.child;
        list.push(tracker.path);
        batch.bytes += tracker.path.length + 4;
        if (batch.bytes >= SET_WATCHES_BATCH) flush();
      }
    }
    flush();
    for (const tree of this.allTrees()) tree.restart();
  }

  private allTrees(): TreeTracker[] {
    return [...this.trees.values()].flatMap((trees) => [...trees]);
  }

  // Requests

  private absolute(path: string, sequential = false): string {
    checkPath(path, sequential);
    if (this.target.chroot === '') return path;
    return path === '/' ? this.target.chroot : this.target.chroot + path;
  }

  private strip(path: string): string {
    const { chroot } = this.target;
    if (chroot === '' || !path.startsWith(chroot)) return path;
    return path.slice(chroot.length) || '/';
  }

  private readFrame(op: number, path: string, watch: boolean): Buffer {
    return start(op).string(this.absolute(path)).bool(watch).frame();
  }

  private writeCreate(w: JuteWriter, path: string, data: Uint8Array, options: CreateOptions): void {
    const flags = (options.ephemeral ? CreateFlag.ephemeral : 0) | (options.sequential ? CreateFlag.sequential : 0);
    w.string(this.absolute(path, options.sequential)).bytes(data);
    writeAcls(w, this.acls);
    w.int(flags);
  }

  /** Sends a request of a caller's, or has it wait for a connection; ends within the operation timeout. */
  private async call<T>(
    operation: string,
    path: string,
    frame: Buffer,
    isWrite: boolean,
    options: CallOptions | undefined,
    decode: (err: number, r: JuteReader) => T,
  ): Promise<T> {
    options?.signal?.throwIfAborted();
    if (this.closed !== undefined) throw new ClosedError('store');
    const bytes = frame.length - XID_OFFSET;
    if (bytes > this.maxRequest) throw new RequestTooLargeError(path, bytes, this.maxRequest);
    if (this.refusal !== undefined) throw new StoreAuthError(path, this.refusal.message);
    if (this.pending >= this.maxPending) {
      throw new StoreUnavailableError(operation, path, false, `${this.pending} calls are waiting already`);
    }
    const signal = options?.signal;
    const called = performance.now();
    return new Promise<T>((resolve, reject) => {
      const settle = () => {
        request.settled = true;
        this.queued.delete(request);
        this.pending--;
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      };
      const request: Request = {
        operation,
        path,
        frame,
        isWrite,
        internal: false,
        settled: false,
        sent: false,
        xid: 0,
        onReply: (err, r) => {
          settle();
          this.latencies[isWrite ? 'write' : 'read'].observe(performance.now() - called);
          if (err === Err.notReadOnly) this.toldWhereTo(operation, path).then(reject);
          else settleReply(resolve, reject, operation, path, err, r, decode);
        },
        fail: (error) => {
          settle();
          reject(error);
        },
      };
      const timer = setTimeout(() => {
        const reason = request.sent ? 'no answer' : 'not connected';
        const unknown = isWrite && request.sent;
        request.fail(
          new StoreUnavailableError(operation, path, unknown, `${reason} within ${this.operationTimeout} ms`),
        );
      }, this.operationTimeout);
      const onAbort = () => request.fail(signal!.reason as Error);
      signal?.addEventListener('abort', onAbort, { once: true });
      this.pending++;
      this.counters.requests++;
      if (this.connection === undefined) this.queued.add(request);
      else this.transmit(request);
    });
  }

  /** The error of a change that a frozen server refused, with where the data went. */
  private async toldWhereTo(operation: string, path: string): Promise<StoreFrozenError> {
    const frame = start(Op.getData).string(FROZEN_PATH).bool(false).frame();
    const movedTo = await this.call('get', FROZEN_PATH, frame, false, undefined, (err, r) =>
      err === Err.noNode ? undefined : new TextDecoder().decode(readNode(r).data),
    ).catch(() => undefined); // That it is frozen is the news; where to is an extra.
    return new StoreFrozenError(operation, path, movedTo);
  }

  /** A reading that leaves a watch. Fails with ConnectionLost rather than wait. */
  private internal<T>(
    operation: string,
    path: string,
    op: number,
    decode: (err: number, r: JuteReader) => T,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.connection === undefined) {
        reject(new ConnectionLost());
        return;
      }
      const absolute = this.absolute(path);
      const watch = op === Op.getChildren || !this.trees.has(absolute);
      const frame = start(op).string(absolute).bool(watch).frame();
      const done = (err: number, r: JuteReader) => {
        try {
          resolve(decode(err, r));
        } catch (error) {
          reject(error);
        }
      };
      this.ask(operation, path, frame, done, reject);
    });
  }

  /**
   * A request of the client's own, while there is a connection. `done` is called as the answer arrives, before anything
   * that arrives later is looked at.
   */
  private ask(
    operation: string,
    path: string,
    frame: Buffer,
    done: (err: number, r: JuteReader) => void,
    fail: (error: Error) => void,
  ): void {
    const request: Request = {
      operation,
      path,
      frame,
      isWrite: false,
      internal: true,
      settled: false,
      sent: false,
      xid: 0,
      onReply: (err, r) => {
        request.settled = true;
        const error = failureOf(operation, path, err);
        if (error === undefined) done(err, r);
        else fail(error);
      },
      fail: (error) => {
        request.settled = true;
        fail(error);
      },
    };
    if (operation !== 'watch' && operation !== 'unwatch') this.counters.watchReads++;
    this.transmit(request);
  }

  private transmit(request: Request): void {
    request.xid = this.nextXid;
    this.nextXid = this.nextXid === 0x7fffffff ? 1 : this.nextXid + 1;
    request.sent = true;
    request.frame.writeInt32BE(request.xid, XID_OFFSET);
    this.unanswered.push(request);
    this.connection!.send(request.frame);
  }

  private onFrame(frame: Buffer): void {
    const r = new JuteReader(frame);
    const xid = r.int();
    const zxid = r.long();
    const err = r.int();
    if (xid === Xid.notification) {
      const type = r.int();
      r.int();
      this.onWatchEvent(type, r.string());
      return;
    }
    if (xid === Xid.ping || xid === Xid.setWatches) return;
    const request = this.unanswered.shift();
    if (request === undefined || request.xid !== xid) {
      throw new WireProtocolError(`answer to request ${xid}, expected ${request?.xid ?? 'none'}`);
    }
    if (zxid > this.lastZxid) this.lastZxid = zxid;
    if (!request.settled) request.onReply(err, r);
  }

  // Connections

  private async run(): Promise<void> {
    const { signal } = this.closing;
    const addressBook = new AddressBook({
      targets: this.target.targets,
      onError: (error) => this.notice('warn', 'cannot resolve a server', { error: error.message }),
    });
    let last: Target | undefined;
    let failedRounds = 0;
    let shortLived = 0;
    let refusedSince: number | undefined;
    while (!signal.aborted) {
      const targets = await addressBook.addresses(last, signal);
      const limit = this.connectTimeout(targets.length, failedRounds);
      let established = false;
      let refused = targets.length > 0;
      let refusal: CredentialsRefusedError | undefined;
      for (const target of targets) {
        if (signal.aborted) return;
        const name = nameOf(target);
        try {
          const longRefused = refusedSince !== undefined && performance.now() - refusedSince >= this.refusalPatience;
          const { ended } = await this.connect(target, limit, longRefused);
          established = true;
          last = target;
          failedRounds = 0;
          refusedSince = undefined;
          const since = performance.now();
          const reason = await ended;
          shortLived = performance.now() - since < SHORT_LIVED ? shortLived + 1 : 0;
          if (!signal.aborted) this.notice('warn', 'lost the connection', { server: name, error: reason.message });
          break;
        } catch (error) {
          if (signal.aborted) return;
          if (!(error instanceof HandshakeRefusedError)) refused = false;
          this.counters.failedConnects++;
          if (error instanceof CredentialsRefusedError) refusal = error;
          else this.notice('warn', 'cannot connect', { server: name, error: (error as Error).message });
        }
      }
      this.setRefusal(refusal);
      if (established) {
        // Others were cut off in the same moment; not all shall be back in the same one.
        await pause(Math.random() * backoff(shortLived - FREE_RECONNECTS), signal);
        continue;
      }
      refusedSince = refused ? (refusedSince ?? performance.now()) : undefined;
      await pause(backoff(failedRounds) * (0.5 + Math.random() / 2), signal);
      failedRounds++;
    }
  }

  /**
   * A connection that went dead leaves a third of the session timeout to find another server, so all of them are tried in
   * that time. Where that was in vain they are given longer: one may just be slow.
   */
  private connectTimeout(servers: number, failedRounds: number): number {
    const session = this.session?.timeout ?? this.options.sessionTimeout ?? DEFAULT_SESSION_TIMEOUT;
    const first = Math.max(CONNECT_TIMEOUT_MIN, session / 3 / Math.max(1, servers));
    return Math.min(CONNECT_TIMEOUT_MAX, first * 2 ** Math.min(failedRounds, 10));
  }

  /** Milliseconds after which a server that turned this client away all the time is suspected to do so for ever. */
  private get refusalPatience(): number {
    return 2 * (this.session?.timeout ?? this.options.sessionTimeout ?? DEFAULT_SESSION_TIMEOUT);
  }

  /** Calls made while the servers refuse this client fail at once. */
  private setRefusal(refusal: CredentialsRefusedError | undefined): void {
    if (refusal !== undefined) {
      if (this.refusal === undefined) this.notice('warn', 'cannot authenticate', { error: refusal.message });
      for (const request of [...this.queued]) request.fail(new StoreAuthError(request.path, refusal.message));
    }
    this.refusal = refusal;
  }

  /** Connects and takes up the session, or a new one. Resolves when connected, to a promise of why that ended. */
  private async connect(target: Target, timeout: number, longRefused: boolean): Promise<{ ended: Promise<Error> }> {
    const { connection, response } = await this.open(target, timeout, longRefused);
    if (response.timeout <= 0) {
      connection.destroy(new Error('session expired'));
      this.loseSession();
      return { ended: Promise.resolve(new Error('the session has expired')) };
    }
    if (this.closing.signal.aborted) {
      connection.destroy(new ClosedError('store'));
      throw new ClosedError('store');
    }
    // Only now is it ours: the server ends the session of one that it does not take.
    await this.introduce(connection, nameOf(target), timeout);
    this.session = { id: response.sessionId, password: response.password, timeout: response.timeout };
    this.counters.connects++;
    return { ended: this.established(connection, nameOf(target)) };
  }

  private async open(target: Target, timeout: number, longRefused: boolean): Promise<Opened> {
    try {
      return await this.handshake(target, timeout, this.lastZxid, this.session);
    } catch (error) {
      const suspicious = longRefused && this.lastZxid > 0 && error instanceof HandshakeRefusedError;
      if (!suspicious) throw error;
      return this.openAsNew(target, timeout);
    }
  }

  /**
   * Servers close the connection of a client that has seen more than they have, and also of every client while they have no
   * quorum. A quorum comes back, and a server that lags catches up; but data that were put back to a backup never will. To tell
   * them apart the client asks as a new one: what is taken by a server that is still behind is not its past. Then it forgets that.
   */
  private async openAsNew(target: Target, timeout: number): Promise<Opened> {
    const opened = await this.handshake(target, timeout, 0, undefined);
    const { connection } = opened;
    try {
      await this.introduce(connection, nameOf(target), timeout);
      const r = await connection.ask(
        new JuteWriter(16).int(Xid.ping).int(Op.ping).frame(),
        timeout,
        this.closing.signal,
      );
      r.int();
      // The session that was just made is a change by itself: a server that had everything is ahead of this client.
      if (r.long() > this.lastZxid) {
        connection.destroy(new Error('not needed'));
        return await this.handshake(target, timeout, this.lastZxid, this.session);
      }
    } catch (error) {
      connection.destroy(error as Error);
      throw error;
    }
    this.notice('warn', 'the servers have less than was seen: starting again', { zxid: this.lastZxid });
    this.lastZxid = 0;
    this.loseSession();
    for (const trackers of [this.trackers.data, this.trackers.children]) {
      for (const tracker of trackers.values()) tracker.arming = 'unarmed';
    }
    for (const tree of this.allTrees()) tree.distrust();
    return opened;
  }

  private handshake(
    target: Target,
    timeout: number,
    lastZxidSeen: number,
    session: { readonly id: string; readonly password: Uint8Array } | undefined,
  ): Promise<Opened> {
    return WireConnection.open(
      target,
      {
        lastZxidSeen,
        timeout: this.options.sessionTimeout ?? DEFAULT_SESSION_TIMEOUT,
        sessionId: session?.id ?? NO_SESSION,
        password: session?.password ?? new Uint8Array(PASSWORD_LENGTH),
        readOnly: false,
      },
      { tls: this.secureContext, timeout, signal: this.closing.signal },
    );
  }

  /**
   * Says who this client is; without credentials it sends a ping, whose answer tells whether the server asks for them.
   * @throws CredentialsRefusedError, or what the connection ended with
   */
  private async introduce(connection: WireConnection, server: string, timeout: number): Promise<void> {
    const { credentials } = this.options;
    const w = new JuteWriter();
    if (credentials === undefined) w.int(Xid.ping).int(Op.ping);
    else w.int(Xid.auth).int(Op.auth).int(0).string('digest').bytes(digestCredentials(credentials));
    const r = await connection.ask(w.frame(), timeout, this.closing.signal);
    const xid = r.int();
    r.long();
    const err = r.int();
    if (err === Err.ok) return;
    const refused = err === Err.authFailed || err === Err.authRequired;
    const error = refused
      ? new CredentialsRefusedError(server, credentials?.user)
      : new WireProtocolError(`request ${xid}, the first on the connection, failed with code ${err}`);
    connection.destroy(error);
    throw error;
  }

  private established(connection: WireConnection, server: string): Promise<Error> {
    const { timeout, id } = this.session!;
    return new Promise((resolve) => {
      this.connection = connection;
      this.currentState = 'connected';
      this.refusal = undefined;
      this.notice('info', 'connected', { server, session: id, timeout });
      connection.attach(
        {
          onFrame: (frame) => this.onFrame(frame),
          onClose: (reason) => {
            this.disconnected();
            resolve(reason);
          },
        },
        timeout,
      );
      this.restoreWatches();
      const waiting = [...this.queued];
      this.queued.clear();
      for (const request of waiting) {
        if (this.connection === connection) this.transmit(request);
        else this.queued.add(request);
      }
      if (this.connection !== connection) return;
      this.ephemeralWork.open();
      for (const node of this.ephemerals) node.connected();
      this.emit('connected');
    });
  }

  private disconnected(): void {
    this.connection = undefined;
    this.counters.disconnects++;
    this.ephemeralWork.close();
    for (const tree of this.allTrees()) tree.disconnected();
    for (const node of this.ephemerals) node.disconnected();
    if (this.currentState === 'connected') this.currentState = 'disconnected';
    // Nothing was queued while there was a connection, so what is asked again comes first.
    for (const request of this.unanswered.takeAll()) {
      if (request.settled) continue;
      if (request.internal) {
        request.fail(new ConnectionLost());
      } else if (request.isWrite) {
        request.fail(new StoreUnavailableError(request.operation, request.path, true, 'the connection was lost'));
      } else {
        request.sent = false;
        this.queued.add(request);
      }
    }
    if (this.closed === undefined) this.emit('disconnected');
  }

  private loseSession(): void {
    if (this.session === undefined) return;
    const { id } = this.session;
    this.notice('warn', 'the session was lost', { session: id });
    this.session = undefined;
    this.counters.sessionsLost++;
    for (const node of [...this.ephemerals]) node.sessionLost(id);
    this.emit('session-lost');
  }

  private emit(event: StoreEvent): void {
    for (const listener of [...this.listeners]) {
      try {
        listener(event);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  private notice(level: 'info' | 'warn', message: string, fields: object): void {
    this.options.onNotice?.(level, message, fields);
  }

  close(): Promise<void> {
    this.closed ??= this.shutDown();
    return this.closed;
  }

  private async shutDown(): Promise<void> {
    this.ephemeralWork.close();
    for (const node of [...this.ephemerals]) node.abandon();
    this.ephemerals.clear();
    for (const trackers of [this.trackers.data, this.trackers.children]) {
      for (const tracker of [...trackers.values()]) tracker.close();
      trackers.clear();
    }
    for (const tree of this.allTrees()) tree.close();
    // Answers to what was asked before the end of the session come before the answer to that.
    if (this.connection !== undefined) await this.endSession();
    this.currentState = 'closed';
    this.closing.abort(new ClosedError('store'));
    this.connection?.destroy(new ClosedError('store'));
    for (const request of [...this.unanswered.takeAll(), ...this.queued]) {
      if (!request.settled) request.fail(new ClosedError('store'));
    }
    await this.running;
    this.emit('closed');
    this.listeners.clear();
  }

  private endSession(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, CLOSE_TIMEOUT);
      const end = () => {
        request.settled = true;
        clearTimeout(timer);
        resolve();
      };
      const request: Request = {
        operation: 'close',
        path: '/',
        frame: start(Op.closeSession).frame(),
        isWrite: true,
        internal: true,
        settled: false,
        sent: false,
        xid: 0,
        onReply: end,
        fail: end,
      };
      this.transmit(request);
    });
  }
}

function digestCredentials({ user, password }: Credentials): Uint8Array {
  return Buffer.from(`${user}:${password}`);
}

/** A frame's beginning: room for the transaction number, then the operation. */
function start(op: number): JuteWriter {
  return new JuteWriter().int(0).int(op);
}

function settleReply<T>(
  resolve: (value: T) => void,
  reject: (error: unknown) => void,
  operation: string,
  path: string,
  err: number,
  r: JuteReader,
  decode: (err: number, r: JuteReader) => T,
): void {
  const failure = failureOf(operation, path, err);
  if (failure !== undefined) {
    reject(failure);
    return;
  }
  try {
    resolve(decode(err, r));
  } catch (error) {
    reject(error);
  }
}

/** What went wrong, unless the answer is what was asked for, or that there is nothing of the kind. */
function failureOf(operation: string, path: string, err: number): Error | undefined {
  if (err === Err.ok) return undefined;
  const isRead = operation === 'get' || operation === 'exists' || operation === 'children';
  if (isRead && err === Err.noNode) return undefined;
  if (operation === 'unwatch' && err === Err.noWatcher) return undefined;
  return errorOf(err, operation, path);
}

function readNode(r: JuteReader): StoreNode {
  // A copy: what is kept must not keep the whole chunk alive that came from the socket.
  const data = Buffer.from(r.bytes());
  return { data, stat: readStat(r) };
}

function wireVersion(version: number | undefined): number {
  if (version === undefined) return -1;
  if (!Number.isInteger(version) || version < 0 || version > 0x7fffffff) {
    throw new InvalidInputError('version', version, 'expected a whole number from 0 on');
  }
  return version;
}

function positive(name: string, value: number): number {
  if (!Number.isFinite(value) || value <= 0) throw new InvalidInputError(name, value, 'expected a positive number');
  return value;
}

/** Milliseconds after so many failures in a row. */
function backoff(failures: number): number {
  return Math.min(BACKOFF_MAX, BACKOFF_MIN * 2 ** Math.min(Math.max(0, failures), 10));
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener('abort', done, { once: true });
  });
}
