import type { Logger } from 'pino';
import type { Store } from '../../nsdb/store.js';
import { StoreUnavailableError } from '../../nsdb/store.js';

const FIRST_RETRY_MS = 200;
const LAST_RETRY_MS = 30_000;
/** Writes under way at once. */
const CONCURRENCY = 16;

/** Makes the NSDB agree with this host in one respect. Must be idempotent: it is tried until it succeeds. */
export type Publication = (signal: AbortSignal) => Promise<void>;

interface Entry {
  publication: Publication;
  attempts: number;
  /** Ends the run that is under way, if one is. */
  running: AbortController | undefined;
  /** Set while waiting after a failure that has nothing to do with the connection. */
  timer: NodeJS.Timeout | undefined;
}

/**
 * Writes to the NSDB what happened on this host, behind its back: nothing here waits for the NSDB. Of several
 * publications under one name only the newest counts. What fails is tried again, at once when the store comes back.
 */
export class Publisher {
  private readonly pending = new Map<string, Entry>();
  private readonly ready: string[] = [];
  private running = 0;
  private paused = false;
  private closed = false;
  private pumping: NodeJS.Immediate | undefined;
  private readonly unsubscribe: () => void;

  constructor(
    store: Store,
    private readonly log: Logger,
  ) {
    this.unsubscribe = store.onState((event) => {
      if (event === 'connected') this.retryAll();
    });
  }

  /** How much has not reached the NSDB yet. */
  get backlog(): number {
    return this.pending.size;
  }

  /** Whether what was published under the name has not reached the NSDB yet. */
  isPending(name: string): boolean {
    return this.pending.has(name);
  }

  publish(name: string, publication: Publication): void {
    if (this.closed) return;
    const entry = this.pending.get(name);
    if (entry === undefined) {
      this.pending.set(name, { publication, attempts: 0, running: undefined, timer: undefined });
      this.ready.push(name);
    } else {
      entry.publication = publication;
      entry.attempts = 0;
      // What was to be written is not true any more; the new one runs when the old one has ended.
      if (entry.running === undefined) this.wake(name, entry);
      else entry.running.abort();
    }
    // Whoever publishes has an answer to give first.
    this.pumping ??= setImmediate(() => {
      this.pumping = undefined;
      this.pump();
    });
  }

  /** Begin to write nothing until {@link resume}; what is under way goes on. */
  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.pump();
  }

  /** Give up what is pending. */
  close(): void {
    this.closed = true;
    clearImmediate(this.pumping);
    this.unsubscribe();
    for (const entry of this.pending.values()) {
      clearTimeout(entry.timer);
      entry.running?.abort();
    }
    this.pending.clear();
  }

  /** Settles when everything has reached the NSDB or `timeoutMs` have passed; tells whether it did. */
  async drain(timeoutMs: number): Promise<boolean> {
    const deadline = Date.now() + timeoutMs;
    while (this.pending.size > 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
    return this.pending.size === 0;
  }

  private retryAll(): void {
    for (const [name, entry] of this.pending) {
      // A store that is just back may fail once more; how often it has failed while it was away says nothing about that.
      entry.attempts = 0;
      if (entry.running === undefined) this.wake(name, entry);
    }
    this.pump();
  }

  private wake(name: string, entry: Entry): void {
    if (entry.timer === undefined) return;
    clearTimeout(entry.timer);
    entry.timer = undefined;
    this.ready.push(name);
  }

  private pump(): void {
    while (!this.paused && this.running < CONCURRENCY) {
      const name = this.ready.shift();
      if (name === undefined) return;
      const entry = this.pending.get(name);
      if (entry !== undefined && entry.running === undefined && entry.timer === undefined) this.run(name, entry);
    }
  }

  private run(name: string, entry: Entry): void {
    this.running++;
    const running = new AbortController();
    entry.running = running;
    const { publication } = entry;
    publication(running.signal)
      .then(
        () => {
          entry.running = undefined;
          if (entry.publication === publication) this.pending.delete(name);
          else this.ready.push(name);
        },
        (error: Error) => {
          entry.running = undefined;
          if (this.closed) return;
          if (entry.publication !== publication) this.ready.push(name);
          else this.retryLater(name, entry, error);
        },
      )
      .finally(() => {
        this.running--;
        this.pump();
      });
  }

  private retryLater(name: string, entry: Entry, error: Error): void {
    const delay = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** entry.attempts++);
    if (!(error instanceof StoreUnavailableError)) {
      this.log.warn({ name, error: error.message, retryInMs: delay }, 'could not write to the NSDB');
    }
    entry.timer = setTimeout(() => {
      this.wake(name, entry);
      this.pump();
    }, delay);
  }
}
