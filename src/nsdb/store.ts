/**
 * The Network State Database as the rest of the project sees it: a tree of nodes, each with bytes and children, strongly
 * consistent, watched. One client implements it (`zookeeper/`), against Apache ZooKeeper and the embedded server alike.
 * Objects, JSON and references between objects are the business of the layers above.
 */
import { InvalidInputError, MidonetError } from '../errors.js';

/** What the store knows of a node. Zxids are positions in the store's total order of changes; they fit a Number. */
export interface Stat {
  /** Zxid of the change that created the node. Tells a node from an earlier one of the same path. */
  readonly czxid: number;
  /** Zxid of the last change of its data. */
  readonly mzxid: number;
  /** Zxid of the last change of its list of children. */
  readonly pzxid: number;
  /** Milliseconds since 1970, by the server's clock. */
  readonly ctime: number;
  readonly mtime: number;
  /** Changes of the data since creation: 0 for a new node. */
  readonly version: number;
  /** Changes of the list of children. */
  readonly cversion: number;
  /** Changes of the access list. */
  readonly aversion: number;
  /** Session that owns an ephemeral node, 16 hexadecimal digits; undefined for a persistent node. */
  readonly ephemeralOwner: string | undefined;
  readonly dataLength: number;
  readonly numChildren: number;
}

/** A node's bytes and stat, read together. The bytes must not be changed. */
export interface StoreNode {
  readonly data: Uint8Array;
  readonly stat: Stat;
}

/** Who a client is, in the scheme "digest". */
export interface Credentials {
  /** Without ":". */
  readonly user: string;
  readonly password: string;
}

/** One end of an encrypted connection: contents of PEM files. */
export interface Tls {
  /** Authorities that the other end's certificate must come from; undefined: those that Node.js comes with. */
  readonly ca?: string;
  /** What this end shows, with the certificates between it and the authority. */
  readonly certificate?: string;
  readonly key?: string;
}

export interface CallOptions {
  /** Gives up waiting. A write that is under way may still happen. */
  readonly signal?: AbortSignal;
}

export interface CreateOptions extends CallOptions {
  /** The node lives as long as the session. See {@link Store.ephemeral} for one that also survives session loss. */
  readonly ephemeral?: boolean;
  /** A number of ten digits, growing within the parent, is appended to the path. */
  readonly sequential?: boolean;
}

/** One part of a {@link Store.multi}. A missing `version` matches any. */
export type StoreOperation =
  | {
      readonly type: 'create';
      readonly path: string;
      readonly data: Uint8Array;
      readonly ephemeral?: boolean;
      readonly sequential?: boolean;
    }
  | { readonly type: 'set'; readonly path: string; readonly data: Uint8Array; readonly version?: number }
  | { readonly type: 'delete'; readonly path: string; readonly version?: number }
  | { readonly type: 'check'; readonly path: string; readonly version?: number };

/** What became of one part of a multi: the path (with its number when sequential), and the stat of a `set`. */
export interface StoreOperationResult {
  readonly path: string;
  readonly stat?: Stat;
}

/** `connecting`: no session yet. `disconnected`: the session may live on at the server; the client tries to get back. */
export type StoreState = 'connecting' | 'connected' | 'disconnected' | 'closed';

/**
 * `connected`: requests go through. `disconnected`: they wait. `session-lost`: every plain ephemeral node of this client
 * is gone and a new session is being made; comes before its `connected`. `closed`: for good.
 */
export type StoreEvent = 'connected' | 'disconnected' | 'session-lost' | 'closed';

/** A subscription. */
export interface Watch {
  /** Settles when the listener has been called for the first time, or the watch was closed. Never rejects. */
  readonly ready: Promise<void>;
  /** The listener is not called again, not even for what is already under way. */
  close(): void;
}

/** `node` undefined: there is none at `path` any more. Deletions are told from the leaves up, everything else from the root down. */
export type TreeListener = (path: string, node: StoreNode | undefined) => void;

export interface TreeOptions {
  /** Levels below the path that are told and read; changes further down cost their messages only. All when absent. */
  readonly depth?: number;
  /**
   * Called when everything that is there has been told, for the first time and after every re-reading. What the listener
   * was told is then what the store held at one point of its order of changes.
   */
  readonly onCurrent?: () => void;
  /**
   * Called when something was read and all that was heard of has been told: every change up to `zxid`, and none after it. Smaller
   * than before only if the servers were set back.
   */
  readonly onSettled?: (zxid: number) => void;
  /** Called for a node that was made and deleted before it could be read, unless that happened while there was no connection. */
  readonly onUnseen?: (path: string) => void;
}

export interface TreeWatch extends Watch {
  /** Has {@link TreeOptions.onSettled} called soon, even if nothing changes; without a connection when there is one. */
  settle(): void;
}

export interface EphemeralOptions {
  /** Told of every change of {@link EphemeralNode.state}. */
  readonly onState?: (state: EphemeralState, node: EphemeralNode) => void;
  /**
   * Asked when another session holds the path. True replaces that node at once (for a restarted process, whose former
   * session has yet to time out); otherwise the path is taken as soon as it is free.
   */
  readonly takeOver?: (current: StoreNode) => boolean;
  /** Makes the parent, where that may be missing. What it rejects with counts as a failed attempt. */
  readonly makeParent?: () => Promise<void>;
}

/**
 * `pending`: not (or not known to be) in the store. `held`: ours, with our data. `conflict`: another session holds the path.
 */
export type EphemeralState = 'pending' | 'held' | 'conflict' | 'closed';

/**
 * An ephemeral node that is kept: made again when the session was lost or somebody deleted it. Of many nodes some are
 * worked on at a time, and only while there is a connection. The parent must exist unless {@link EphemeralOptions.makeParent}.
 */
export interface EphemeralNode {
  readonly path: string;
  readonly state: EphemeralState;
  /** Settles when the node is first `held`, or closed. Never rejects. */
  readonly ready: Promise<void>;
  /** Sets what the node shall hold. It is written as soon as possible; of several values in a row only the last must be. */
  set(data: Uint8Array): void;
  /**
   * Stops keeping the node and deletes it if it is ours. Settles when that is done or has to wait for a connection: it
   * is done then, unless the session's end does it.
   */
  close(): Promise<void>;
}

/**
 * Every call that reaches for the store ends in bounded time (the client's `operationTimeout`, 5 s unless set): with a
 * result, with an error that names the node, or with {@link StoreUnavailableError}. Calls made one after the other are
 * carried out in that order. Reads never go back in time, not even over a reconnect; {@link sync} makes them current.
 * Answers and what watches show come in one order, the store's: whoever was shown a value is not given an older one after it.
 */
export interface Store {
  readonly state: StoreState;
  /** The session's number, 16 hexadecimal digits, once there is one. To compare with {@link Stat.ephemeralOwner}. */
  readonly sessionId: string | undefined;

  /** The node, or undefined when there is none. */
  get(path: string, options?: CallOptions): Promise<StoreNode | undefined>;
  exists(path: string, options?: CallOptions): Promise<Stat | undefined>;
  /** Names (not paths) of the children, sorted; undefined when there is no such node. */
  children(path: string, options?: CallOptions): Promise<string[] | undefined>;

  /**
   * Makes a node; returns its path (with its number when sequential).
   *
   * @throws NodeExistsError, NodeNotFoundError (the parent, which it names), EphemeralParentError
   */
  create(path: string, data: Uint8Array, options?: CreateOptions): Promise<string>;
  /** @throws NodeNotFoundError, VersionConflictError when `version` is given and not the node's. */
  set(path: string, data: Uint8Array, version?: number, options?: CallOptions): Promise<Stat>;
  /** @throws NodeNotFoundError, VersionConflictError, NodeNotEmptyError */
  delete(path: string, version?: number, options?: CallOptions): Promise<void>;
  /**
   * All or nothing, in order, seen by others at once. The error is the one the first failing part would have had alone,
   * with {@link NodeError.operationIndex}.
   */
  multi(operations: readonly StoreOperation[], options?: CallOptions): Promise<StoreOperationResult[]>;
  /** Makes the node and its parents, persistent and empty, where they do not exist. */
  ensure(path: string, options?: CallOptions): Promise<void>;
  /** After this, reads see everything that was written anywhere before the call. */
  sync(path?: string, options?: CallOptions): Promise<void>;

  /**
   * Calls the listener with the node now and whenever it differs, undefined while there is none. Changes in quick
   * succession may be seen as one; values never go back in time. It survives disconnects and session loss: then the node
   * is read again and the listener called only if it changed meanwhile. That there is none is told again when a node came and
   * went unseen. The listener is not called during this call.
   */
  watchData(path: string, listener: (node: StoreNode | undefined) => void): Watch;
  /** The same for the sorted names of a node's children. */
  watchChildren(path: string, listener: (names: readonly string[] | undefined) => void): Watch;

  /**
   * Calls the listener for the node and every one below it, now and once per change: a change costs one message and one
   * reading of the node that changed. Nodes need not exist. After a reconnect all are read again, and what differs from
   * what was told is told, deletions included. Values in quick succession may be seen as one; those of a node never go back
   * in time. The listener is not called during this call; {@link Watch.ready} settles when all that is there was told.
   * A node that this client may not read is tried again and again: to take it for one that is not there could have its user
   * undo what it stands for. Until it can be read, or is gone, the tree is not current.
   */
  watchTree(path: string, listener: TreeListener, options?: TreeOptions): TreeWatch;

  /** Keeps an ephemeral node, see {@link EphemeralNode}. */
  ephemeral(path: string, data: Uint8Array, options?: EphemeralOptions): EphemeralNode;

  /** Calls the listener at every change; returns how to stop that. */
  onState(listener: (event: StoreEvent) => void): () => void;

  /**
   * Ends every watch, and the session, which deletes its ephemeral nodes; without a connection the session is left to its
   * timeout. Calls still waiting fail with ClosedError, writes that were sent with StoreUnavailableError.
   */
  close(): Promise<void>;
}

/** The store could not be reached, or did not answer, in the time allowed. */
export class StoreUnavailableError extends MidonetError {
  constructor(
    readonly operation: string,
    readonly path: string,
    /** True for a write that was sent but not answered: it may have happened. False: it has not and will not. */
    readonly outcomeUnknown: boolean,
    reason: string,
  ) {
    super(
      'MN_STORE_UNAVAILABLE',
      `${operation} ${path}: ${reason}${outcomeUnknown ? '; the change may have been made' : ''}`,
    );
  }
}

/** Base of the errors about one node; `operationIndex` is the part of the multi that failed. */
export class NodeError extends MidonetError {
  constructor(
    code: MidonetError['code'],
    readonly path: string,
    message: string,
    readonly operationIndex?: number,
  ) {
    super(code, operationIndex === undefined ? message : `operation ${operationIndex}: ${message}`);
  }
}

/** The node, or the parent of a node to create, does not exist. */
export class NodeNotFoundError extends NodeError {
  constructor(path: string, operationIndex?: number) {
    super('MN_NOT_FOUND', path, `no node ${path}`, operationIndex);
  }
}

export class NodeExistsError extends NodeError {
  constructor(path: string, operationIndex?: number) {
    super('MN_ALREADY_EXISTS', path, `node ${path} exists already`, operationIndex);
  }
}

/** The node's version is not the one given. */
export class VersionConflictError extends NodeError {
  constructor(path: string, operationIndex?: number) {
    super('MN_CONFLICT', path, `node ${path} was changed by somebody else`, operationIndex);
  }
}

/** A node with children cannot be deleted. */
export class NodeNotEmptyError extends NodeError {
  constructor(path: string, operationIndex?: number) {
    super('MN_REFERENCED', path, `node ${path} has children`, operationIndex);
  }
}

/** An ephemeral node cannot have children. */
export class EphemeralParentError extends NodeError {
  constructor(path: string, operationIndex?: number) {
    super('MN_CONFLICT', path, `the parent of ${path} is ephemeral and cannot have children`, operationIndex);
  }
}

/** The server takes no changes: its data are being moved, or were moved, to another. See freeze.ts. */
export class StoreFrozenError extends MidonetError {
  constructor(
    readonly operation: string,
    readonly path: string,
    /** Connect string of the other server, if it could be told. */
    readonly movedTo?: string,
  ) {
    const where = movedTo === undefined ? 'its data are being moved to another server' : `moved to ${movedTo}`;
    super('MN_STORE_FROZEN', `${operation} ${path}: the NSDB takes no changes, ${where}`);
  }
}

/** The disk of the server has too little room for the change, which was not made. Deleting is still possible. */
export class StoreFullError extends NodeError {
  constructor(operation: string, path: string, operationIndex?: number) {
    super('MN_STORE_FULL', path, `${operation} ${path}: the disk of the NSDB server is full`, operationIndex);
  }
}

/** A limit that somebody has set does not allow more nodes, or more data, at and below some path above the node. */
export class QuotaExceededError extends NodeError {
  constructor(path: string, operationIndex?: number) {
    super('MN_QUOTA_EXCEEDED', path, `a quota does not allow more for ${path}`, operationIndex);
  }
}

/** The store refused the credentials, or the operation to their owner. */
export class StoreAuthError extends NodeError {
  constructor(path: string, detail: string, operationIndex?: number) {
    super('MN_STORE_AUTH', path, `${path}: ${detail}`, operationIndex);
  }
}

/** Data of one request are more than the servers take (ZooKeeper's jute.maxbuffer, 1 MiB less what surrounds them). */
export class RequestTooLargeError extends InvalidInputError {
  constructor(path: string, bytes: number, limit: number) {
    super(`data of ${path}`, `${bytes} bytes`, `expected a request of at most ${limit} bytes`);
  }
}
