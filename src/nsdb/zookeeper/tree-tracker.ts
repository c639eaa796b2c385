import { joinPath, nodeName, parentPath } from '../path.js';
import { EventType } from '../protocol/records.js';
import type { StoreNode, TreeListener, TreeOptions, TreeWatch } from '../store.js';
import { Fifo } from './fifo.js';

/**
 * What a tree is followed by. The callbacks are called in the order in which the answers and events arrive, synchronously:
 * an answer that comes after an event shows what the event announced. What comes after {@link TreeTracker.disconnected} is
 * void.
 */
export interface TreeSource {
  /** Zxid of the latest answer: the events of all changes up to it came before. */
  lastZxid(): number;
  /** Asks for the events of a path and of everything below it. */
  arm(path: string, fail: (error: Error) => void): void;
  readNode(path: string, done: (node: StoreNode | undefined) => void, fail: (error: Error) => void): void;
  readChildren(path: string, done: (names: readonly string[] | undefined) => void, fail: (error: Error) => void): void;
}

/** What was told of a node. */
interface Known {
  czxid: number;
  mzxid: number;
  /** Names of the children that are known. */
  children: Set<string> | undefined;
}

interface NodeRead {
  /** Whether everything below is to be read as well. */
  deep: boolean;
}

/** Readings under way at a time. */
const MAX_READS = 128;
/** Delays between attempts after an error. */
const RETRY_MIN = 200;
const RETRY_MAX = 10_000;

/**
 * A node and all below it, followed by means of a persistent recursive watch: an event leads to one reading of the node it
 * names. The watch tells nothing of the time before it, so a new connection means that everything is read again, and
 * compared with what was told.
 *
 * A node is told only when its parent was. What is left out because the parent is not known yet is found in the list of
 * the parent's children, which is read after the parent.
 */
export class TreeTracker implements TreeWatch {
  readonly ready: Promise<void>;
  private markReady = () => {};
  private readonly known = new Map<string, Known>();
  /** Nodes to be read or being read. */
  private readonly nodeReads = new Map<string, NodeRead>();
  private readonly queue = new Fifo<() => void>();
  private underWay = 0;
  /** Counts the readings of everything; what belongs to an earlier one is void. */
  private round = 0;
  private loading = false;
  private connected = false;
  private closed = false;
  /** Readings that failed and wait for the next attempt. */
  private readonly failed: (() => void)[] = [];
  private retry: NodeJS.Timeout | undefined;
  private retryDelay = RETRY_MIN;
  /** The level of the nodes below which nothing is looked at. */
  private readonly lowest: number;
  /** A failure was told, and not everything was read since. */
  private complained = false;

  constructor(
    readonly path: string,
    private readonly source: TreeSource,
    private readonly listener: TreeListener,
    private readonly options: TreeOptions,
    private readonly onError: (error: Error) => void,
    private readonly onClosed: () => void,
  ) {
    this.lowest = levelOf(path) + (options.depth ?? Number.POSITIVE_INFINITY);
    this.ready = new Promise((resolve) => {
      this.markReady = resolve;
    });
  }

  /** There is a connection, which knows nothing of this tree. */
  restart(): void {
    this.disconnected();
    this.connected = true;
    this.loading = true;
    const { round } = this;
    this.source.arm(this.path, (error) => {
      if (this.round !== round) return;
      this.disconnected();
      this.failLater(error, () => this.restart());
    });
    this.read(this.path, true);
    this.proceed();
  }

  /** Answers and events come no more, or are void. */
  disconnected(): void {
    this.round++;
    this.connected = false;
    this.queue.takeAll();
    this.nodeReads.clear();
    this.underWay = 0;
    this.failed.length = 0;
    clearTimeout(this.retry);
    this.retry = undefined;
  }

  /** The store's count of changes has begun anew: what was told says nothing about what is there. */
  distrust(): void {
    for (const known of this.known.values()) known.mzxid = -1;
  }

  onEvent(type: number, path: string): void {
    if (!this.connected || levelOf(path) > this.lowest) return;
    if (type === EventType.deleted && !this.known.has(path)) this.call(() => this.options.onUnseen?.(path));
    if (type === EventType.deleted) this.forget(path);
    else if (path === this.path || this.known.has(parentPath(path)!)) this.read(path, false);
    this.proceed();
  }

  settle(): void {
    if (!this.connected) return;
    this.read(this.path, false);
    this.proceed();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.disconnected();
    this.markReady();
    this.known.clear();
    this.onClosed();
  }

  private read(path: string, deep: boolean): void {
    const planned = this.nodeReads.get(path);
    if (planned !== undefined) {
      // Its answer is still to come, and will show what was heard of by then.
      planned.deep ||= deep;
      return;
    }
    const read: NodeRead = { deep };
    this.nodeReads.set(path, read);
    this.queue.push(() =>
      this.ask<StoreNode | undefined>(
        (done, fail) => this.source.readNode(path, done, fail),
        (node) => {
          this.nodeReads.delete(path);
          this.onNode(path, node, read.deep);
        },
        () => {
          this.nodeReads.delete(path);
          this.read(path, read.deep);
        },
      ),
    );
  }

  private readChildren(path: string, deep: boolean): void {
    this.queue.push(() =>
      this.ask<readonly string[] | undefined>(
        (done, fail) => this.source.readChildren(path, done, fail),
        (names) => this.onChildren(path, names, deep),
        () => this.readChildren(path, deep),
      ),
    );
  }

  private ask<T>(
    send: (done: (value: T) => void, fail: (error: Error) => void) => void,
    done: (value: T) => void,
    again: () => void,
  ): void {
    const { round } = this;
    this.underWay++;
    send(
      (value) => {
        if (this.round !== round) return;
        this.underWay--;
        this.retryDelay = RETRY_MIN;
        done(value);
        this.proceed();
        this.tellSettled();
      },
      (error) => {
        if (this.round !== round) return;
        this.underWay--;
        this.failLater(error, again);
        this.proceed();
      },
    );
  }

  private failLater(error: Error, again: () => void): void {
    if (!this.complained) this.onError(error);
    this.complained = true;
    this.failed.push(again);
    this.retry ??= setTimeout(() => {
      this.retry = undefined;
      this.retryDelay = Math.min(this.retryDelay * 2, RETRY_MAX);
      for (const attempt of this.failed.splice(0)) attempt();
      this.proceed();
    }, this.retryDelay);
  }

  private proceed(): void {
    while (this.underWay < MAX_READS) {
      const next = this.queue.shift();
      if (next === undefined) break;
      next();
    }
    if (!this.connected || this.underWay > 0 || this.failed.length > 0) return;
    this.complained = false;
    if (this.loading) {
      this.loading = false;
      this.call(() => this.options.onCurrent?.());
      this.markReady();
    }
  }

  /** Only after an answer: the event of a deletion comes with no zxid, and is of a change after the latest answer. */
  private tellSettled(): void {
    const { onSettled } = this.options;
    if (onSettled === undefined || !this.connected || this.underWay > 0 || this.failed.length > 0) return;
    this.call(() => onSettled(this.source.lastZxid()));
  }

  private onNode(path: string, node: StoreNode | undefined, deep: boolean): void {
    if (node === undefined) {
      this.forget(path);
      return;
    }
    const parent = path === this.path ? undefined : this.known.get(parentPath(path)!);
    // Read for a parent that is gone; the one that replaced it is going to be read, with its children.
    if (path !== this.path && parent === undefined) return;
    const { czxid, mzxid, numChildren } = node.stat;
    const before = this.known.get(path);
    const known: Known = before ?? { czxid, mzxid, children: undefined };
    const isNew = before === undefined || before.czxid !== czxid;
    const changed = isNew || before.mzxid !== mzxid;
    known.czxid = czxid;
    known.mzxid = mzxid;
    if (before === undefined) {
      this.known.set(path, known);
      if (parent !== undefined) {
        parent.children ??= new Set();
        parent.children.add(nodeName(path));
      }
    }
    if (changed) this.tell(path, node);
    if (this.closed || !(deep || isNew)) return;
    if (numChildren > 0 && levelOf(path) < this.lowest) this.readChildren(path, deep);
    else this.forgetChildren(path, known, NO_NAMES);
  }

  private onChildren(path: string, names: readonly string[] | undefined, deep: boolean): void {
    const known = this.known.get(path);
    // Deleted meanwhile, and told so; if it was made again, it is going to be read.
    if (known === undefined) return;
    if (names === undefined) {
      this.forget(path);
      return;
    }
    this.forgetChildren(path, known, new Set(names));
    for (const name of names) {
      if (deep || !known.children?.has(name)) this.read(joinPath(path, name), true);
    }
  }

  private forgetChildren(path: string, known: Known, but: ReadonlySet<string>): void {
    for (const name of known.children ?? NO_NAMES) {
      if (!but.has(name)) this.forget(joinPath(path, name));
    }
  }

  /** The node is gone, and all below it. */
  private forget(path: string): void {
    const known = this.known.get(path);
    if (known === undefined) return;
    this.forgetChildren(path, known, NO_NAMES);
    this.known.delete(path);
    if (path !== this.path) this.known.get(parentPath(path)!)?.children?.delete(nodeName(path));
    this.tell(path, undefined);
  }

  private tell(path: string, node: StoreNode | undefined): void {
    if (!this.closed) this.call(() => this.listener(path, node));
  }

  private call(owners: () => void): void {
    try {
      owners();
    } catch (error) {
      // A fault of the subscriber's; the store goes on.
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}

function levelOf(path: string): number {
  return path === '/' ? 0 : path.split('/').length - 1;
}

const NO_NAMES: ReadonlySet<string> = new Set();
