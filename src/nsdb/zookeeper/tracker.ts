import type { StoreNode, Watch } from '../store.js';

export type WatchKind = 'data' | 'children';
export type TrackedValue = StoreNode | readonly string[] | undefined;

/** `unarmed`: to be read. `present`, `absent`: the server has a watch, left by that reading. */
export type Arming = 'unarmed' | 'present' | 'absent';

/** How the value of a path is read so that the server also leaves a watch. `value` undefined: there is no such node. */
export type ArmedRead = (done: (value: TrackedValue) => void, fail: (error: Error) => void) => void;

interface Subscriber {
  readonly listener: (value: TrackedValue) => void;
  /** Calls of the listener are due until its revision is the tracker's. */
  revision: number;
  closed: boolean;
  readonly onFirst: () => void;
}

/** Delays between attempts to read after an error that is not a lost connection. */
const RETRY_MIN = 200;
const RETRY_MAX = 10_000;

/**
 * The value of one path, followed by means of one-shot watches: every event leads to a new reading that leaves the next
 * watch. There is never more than one reading under way, so values are seen in the store's order.
 */
export class Tracker {
  arming: Arming = 'unarmed';
  private readonly subscribers = new Set<Subscriber>();
  private value: TrackedValue;
  /** 0: nothing known yet. */
  private revision = 0;
  private reading = false;
  private dirty = false;
  /** The server has told of a change since the last value was read. */
  private hasFired = false;
  private retry: NodeJS.Timeout | undefined;
  private retryDelay = RETRY_MIN;

  constructor(
    readonly path: string,
    readonly kind: WatchKind,
    private readonly read: ArmedRead,
    /** Whether an error means that the connection is gone: the reading is repeated at the next {@link refresh}. */
    private readonly isConnectionLoss: (error: Error) => boolean,
    /** Told of the first of several failures in a row. */
    private readonly onError: (error: Error) => void,
    /** Nobody listens: told at once, and again if a reading that was under way then has left a watch. */
    private readonly onUnused: () => void,
  ) {}

  subscribe(listener: (value: TrackedValue) => void): Watch {
    let onFirst = () => {};
    const ready = new Promise<void>((resolve) => {
      onFirst = resolve;
    });
    const subscriber: Subscriber = { listener, revision: 0, closed: false, onFirst };
    this.subscribers.add(subscriber);
    // A value that is known to be old is not told to one who may have read the next; that is about to be read.
    if (this.revision > 0 && this.arming !== 'unarmed') queueMicrotask(() => this.deliver(subscriber));
    return {
      ready,
      close: () => {
        if (subscriber.closed) return;
        subscriber.closed = true;
        subscriber.onFirst();
        this.subscribers.delete(subscriber);
        if (this.subscribers.size === 0) {
          this.stop();
          this.onUnused();
        }
      },
    };
  }

  /** The watch has fired. */
  onEvent(): void {
    this.hasFired = true;
    this.refresh();
  }

  /** Reads again: the watch has fired, or it was never set. */
  refresh(): void {
    this.arming = 'unarmed';
    if (this.reading) {
      this.dirty = true;
      return;
    }
    clearTimeout(this.retry);
    this.retry = undefined;
    this.reading = true;
    this.dirty = false;
    this.read(
      (value) => this.onValue(value),
      (error) => this.onReadError(error),
    );
  }

  /** Ends every subscription. */
  close(): void {
    this.stop();
    for (const subscriber of this.subscribers) {
      subscriber.closed = true;
      subscriber.onFirst();
    }
    this.subscribers.clear();
  }

  private stop(): void {
    clearTimeout(this.retry);
    this.retry = undefined;
  }

  private onValue(value: TrackedValue): void {
    this.reading = false;
    this.retryDelay = RETRY_MIN;
    if (this.subscribers.size === 0) {
      this.arming = value === undefined ? 'absent' : 'present';
      this.onUnused();
      return;
    }
    if (this.dirty) {
      this.refresh();
    } else {
      this.arming = value === undefined ? 'absent' : 'present';
    }
    // Told also when a node came and went before it was read: its maker might wait for ever to see it.
    const cameAndWent = this.hasFired && value === undefined;
    this.hasFired = false;
    if (this.revision === 0 || cameAndWent || !sameValue(this.value, value)) {
      this.value = value;
      this.revision++;
    }
    for (const subscriber of [...this.subscribers]) this.deliver(subscriber);
  }

  private onReadError(error: Error): void {
    this.reading = false;
    if (this.subscribers.size === 0) return;
    if (this.isConnectionLoss(error)) {
      if (this.dirty) this.refresh();
      return;
    }
    if (this.retryDelay === RETRY_MIN) this.onError(error);
    this.retry = setTimeout(() => this.refresh(), this.retryDelay);
    this.retryDelay = Math.min(this.retryDelay * 2, RETRY_MAX);
  }

  private deliver(subscriber: Subscriber): void {
    if (subscriber.closed || subscriber.revision === this.revision) return;
    subscriber.revision = this.revision;
    try {
      subscriber.listener(this.value);
    } catch (error) {
      // A listener that throws is a fault of its owner's; the store goes on.
      queueMicrotask(() => {
        throw error;
      });
    }
    subscriber.onFirst();
  }
}

function sameValue(a: TrackedValue, b: TrackedValue): boolean {
  if (a === undefined || b === undefined) return a === b;
  if ('stat' in a && 'stat' in b) return a.stat.mzxid === b.stat.mzxid && a.stat.czxid === b.stat.czxid;
  if ('stat' in a || 'stat' in b) return false;
  return a.length === b.length && a.every((name, i) => name === b[i]);
}
