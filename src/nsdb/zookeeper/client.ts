/**
 * The store over ZooKeeper's wire protocol: what each call asks of the servers. Its parts: the session and its connections
 * (session.ts), requests and their answers (requests.ts), what is watched (watches.ts).
 */
import { InvalidInputError } from '../../errors.js';
import { KeptEphemeralNode } from '../ephemeral-node.js';
import { FROZEN_PATH } from '../freeze.js';
import { checkPath, parentPath } from '../path.js';
import type { JuteReader, JuteWriter } from '../protocol/jute.js';
import {
  type Acl,
  CREATOR_ACL,
  CreateFlag,
  DEFAULT_MAX_REQUEST,
  OPEN_ACL,
  Op,
  readStat,
  writeAcls,
  writeMultiHeader,
} from '../protocol/records.js';
import { secureContextOf } from '../protocol/tls.js';
import {
  type CallOptions,
  type CreateOptions,
  type Credentials,
  type EphemeralNode,
  type EphemeralOptions,
  NodeExistsError,
  type Stat,
  type Store,
  type StoreEvent,
  StoreFrozenError,
  type StoreNode,
  type StoreOperation,
  type StoreOperationResult,
  type StoreState,
  type Tls,
  type TreeListener,
  type TreeOptions,
  type TreeWatch,
  type Watch,
} from '../store.js';
import { WorkQueue } from '../work-queue.js';
import { parseConnectString } from './connect-string.js';
import { frameOf, readFrame } from './frames.js';
import { readExists, readMultiReply, readNames, readNode } from './replies.js';
import { Requests } from './requests.js';
import { Session } from './session.js';
import { Watches } from './watches.js';

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

const DEFAULT_SESSION_TIMEOUT = 30_000;

export class ZookeeperStore implements Store {
  /** Path at the servers under which the store's root is, without trailing "/". */
  private readonly chroot: string;
  private readonly acls: readonly Acl[];
  private readonly requests: Requests;
  private readonly watches: Watches;
  private readonly session: Session;
  private readonly ephemerals = new Set<KeptEphemeralNode>();
  private readonly ephemeralWork = new WorkQueue();
  private readonly listeners = new Set<(event: StoreEvent) => void>();
  private closed: Promise<void> | undefined;

  /** Begins to connect; calls made meanwhile wait. @throws InvalidInputError on options that make no sense. */
  constructor(private readonly options: ZookeeperStoreOptions) {
    const { targets, chroot } = parseConnectString(options.connect);
    const { credentials, tls } = options;
    if (credentials?.user.includes(':')) {
      throw new InvalidInputError('credentials.user', credentials.user, 'expected a name without ":"');
    }
    const sessionTimeout = positive('sessionTimeout', options.sessionTimeout ?? DEFAULT_SESSION_TIMEOUT);
    this.chroot = chroot;
    this.acls = [credentials === undefined ? OPEN_ACL : CREATOR_ACL];
    this.requests = new Requests({
      operationTimeout: positive('operationTimeout', options.operationTimeout ?? 5000),
      maxRequest: positive('maxRequest', options.maxRequest ?? DEFAULT_MAX_REQUEST),
      maxPending: positive('maxPending', options.maxPending ?? 100_000),
    });
    this.watches = new Watches(
      this.requests,
      (message, path, error) => this.notice('warn', message, { path: this.strip(path), error: error.message }),
      () => this.session.lastZxid,
    );
    this.session = new Session(
      {
        targets,
        credentials,
        secureContext: tls && secureContextOf(tls),
        sessionTimeout,
        onNotice: (level, message, fields) => this.notice(level, message, fields),
      },
      {
        onConnected: (connection) => {
          this.requests.onConnected(connection);
          this.watches.onConnected(this.session.lastZxid);
          this.requests.sendQueued();
          this.ephemeralWork.open();
          for (const node of this.ephemerals) node.connected();
          this.emit('connected');
        },
        onDisconnected: () => {
          this.ephemeralWork.close();
          this.watches.onDisconnected();
          for (const node of this.ephemerals) node.disconnected();
          this.requests.onDisconnected();
          if (this.closed === undefined) this.emit('disconnected');
        },
        onSessionLost: (id) => {
          for (const node of [...this.ephemerals]) node.sessionLost(id);
          this.emit('session-lost');
        },
        onSetBack: () => this.watches.distrust(),
        onRefused: (refusal) => this.requests.refuse(refusal),
        onWatchEvent: (type, path) => this.watches.onEvent(type, path),
        nextIsAwaited: () => this.requests.nextIsAwaited(),
        onAnswer: (xid, err, r) => this.requests.onAnswer(xid, err, r),
      },
    );
  }

  get state(): StoreState {
    return this.session.state;
  }

  get sessionId(): string | undefined {
    return this.session.id;
  }

  /** Milliseconds the server granted, once there is a session. */
  get sessionTimeout(): number | undefined {
    return this.session.grantedTimeout;
  }

  /** From a call to its answer, milliseconds. */
  get latencies(): Requests['latencies'] {
    return this.requests.latencies;
  }

  get metrics(): ZookeeperStoreMetrics {
    return {
      ...this.session.counters,
      ...this.requests.counters,
      watchEvents: this.watches.events,
      pending: this.requests.pending,
      tracked: this.watches.size,
    };
  }

  // Reading

  async get(path: string, options?: CallOptions): Promise<StoreNode | undefined> {
    return this.read('get', path, readFrame(Op.getData, this.absolute(path), false), options, readNode);
  }

  async exists(path: string, options?: CallOptions): Promise<Stat | undefined> {
    return this.read('exists', path, readFrame(Op.exists, this.absolute(path), false), options, readExists);
  }

  async children(path: string, options?: CallOptions): Promise<string[] | undefined> {
    return this.read('children', path, readFrame(Op.getChildren, this.absolute(path), false), options, readNames);
  }

  async sync(path = '/', options?: CallOptions): Promise<void> {
    const w = frameOf(Op.sync).string(this.absolute(path));
    await this.read('sync', path, w.frame(), options, () => undefined);
  }

  // Changing

  async create(path: string, data: Uint8Array, options: CreateOptions = {}): Promise<string> {
    const w = frameOf(Op.create);
    this.writeCreate(w, path, data, options);
    return this.change('create', path, w.frame(), options, (_err, r) => this.strip(r.string()));
  }

  async set(path: string, data: Uint8Array, version?: number, options?: CallOptions): Promise<Stat> {
    const w = frameOf(Op.setData).string(this.absolute(path)).bytes(data).int(wireVersion(version));
    return this.change('set', path, w.frame(), options, (_err, r) => readStat(r));
  }

  async delete(path: string, version?: number, options?: CallOptions): Promise<void> {
    const w = frameOf(Op.delete).string(this.absolute(path)).int(wireVersion(version));
    await this.change('delete', path, w.frame(), options, () => undefined);
  }

  async multi(operations: readonly StoreOperation[], options?: CallOptions): Promise<StoreOperationResult[]> {
    if (operations.length === 0) return [];
    const w = frameOf(Op.multi);
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
    return this.change('multi', operations[0].path, w.frame(), options, (_err, r) =>
      readMultiReply(r, operations, (path) => this.strip(path)),
    );
  }

  async ensure(path: string, options?: CallOptions): Promise<void> {
    if (checkPath(path) === '/' && this.chroot === '') return;
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
    const segments = this.chroot.slice(1).split('/');
    for (let i = 1; i <= segments.length; i++) {
      const path = `/${segments.slice(0, i).join('/')}`;
      const w = frameOf(Op.create).string(path).bytes(new Uint8Array(0));
      writeAcls(w, this.acls);
      w.int(0);
      try {
        await this.change('create', path, w.frame(), options, () => undefined);
      } catch (error) {
        if (!(error instanceof NodeExistsError)) throw error;
      }
    }
  }

  // Watching

  watchData(path: string, listener: (node: StoreNode | undefined) => void): Watch {
    return this.watches.track('data', this.absolute(path), (value) => listener(value as StoreNode | undefined));
  }

  watchChildren(path: string, listener: (names: readonly string[] | undefined) => void): Watch {
    return this.watches.track('children', this.absolute(path), (value) =>
      listener(value as readonly string[] | undefined),
    );
  }

  watchTree(path: string, listener: TreeListener, options: TreeOptions = {}): TreeWatch {
    return this.watches.trackTree(this.absolute(path), (changed, node) => listener(this.strip(changed), node), {
      ...options,
      onUnseen: (unseen) => options.onUnseen?.(this.strip(unseen)),
    });
  }

  // The session

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

  close(): Promise<void> {
    this.closed ??= this.shutDown();
    return this.closed;
  }

  private async shutDown(): Promise<void> {
    this.ephemeralWork.close();
    for (const node of [...this.ephemerals]) node.abandon();
    this.ephemerals.clear();
    this.watches.close();
    await this.requests.endSession();
    const ended = this.session.close();
    this.requests.close();
    await ended;
    this.emit('closed');
    this.listeners.clear();
  }

  // Requests

  private read<T>(
    operation: string,
    path: string,
    frame: Buffer,
    options: CallOptions | undefined,
    decode: (err: number, r: JuteReader) => T,
  ): Promise<T> {
    return this.requests.call({ operation, path, frame, isWrite: false, options, decode });
  }

  private async change<T>(
    operation: string,
    path: string,
    frame: Buffer,
    options: CallOptions | undefined,
    decode: (err: number, r: JuteReader) => T,
  ): Promise<T> {
    try {
      return await this.requests.call({ operation, path, frame, isWrite: true, options, decode });
    } catch (error) {
      if (error instanceof StoreFrozenError) throw await this.toldWhereTo(error);
      throw error;
    }
  }

  /** The error of a change that a frozen server refused, with where the data went. */
  private async toldWhereTo({ operation, path }: StoreFrozenError): Promise<StoreFrozenError> {
    const frame = readFrame(Op.getData, FROZEN_PATH, false);
    // That it is frozen is the news; where to is an extra.
    const node = await this.read('get', FROZEN_PATH, frame, undefined, readNode).catch(() => undefined);
    return new StoreFrozenError(operation, path, node && new TextDecoder().decode(node.data));
  }

  private absolute(path: string, sequential = false): string {
    checkPath(path, sequential);
    if (this.chroot === '') return path;
    return path === '/' ? this.chroot : this.chroot + path;
  }

  private strip(path: string): string {
    const { chroot } = this;
    if (chroot === '' || !path.startsWith(chroot)) return path;
    return path.slice(chroot.length) || '/';
  }

  private writeCreate(w: JuteWriter, path: string, data: Uint8Array, options: CreateOptions): void {
    const flags = (options.ephemeral ? CreateFlag.ephemeral : 0) | (options.sequential ? CreateFlag.sequential : 0);
    w.string(this.absolute(path, options.sequential)).bytes(data);
    writeAcls(w, this.acls);
    w.int(flags);
  }

  private notice(level: 'info' | 'warn', message: string, fields: object): void {
    this.options.onNotice?.(level, message, fields);
  }
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
