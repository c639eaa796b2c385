import {
  type EphemeralNode,
  type EphemeralOptions,
  type EphemeralState,
  NodeExistsError,
  NodeNotFoundError,
  type Store,
  StoreFrozenError,
  type StoreNode,
  VersionConflictError,
  type Watch,
} from './store.js';
import type { WorkQueue } from './work-queue.js';

/**
 * Keeps an ephemeral node by watching it: what the watch shows is compared with what shall be, and one step towards that
 * is made at a time. Session loss, deletion by somebody and a lost answer all look the same from here: the node is not
 * what it shall be.
 */
export class KeptEphemeralNode implements EphemeralNode {
  readonly ready: Promise<void>;
  private markReady = () => {};
  private readonly left: Promise<void>;
  private markLeft = () => {};
  private currentState: EphemeralState = 'pending';
  private readonly watch: Watch;
  private seen: StoreNode | undefined;
  private known = false;
  /** Nothing is to be done any more, not even to delete the node. */
  private ended = false;
  private queued = false;
  private again = false;
  private complained = false;

  constructor(
    private readonly store: Store,
    private readonly queue: WorkQueue,
    readonly path: string,
    private data: Uint8Array,
    private readonly options: EphemeralOptions,
    /** Told of the first of several failures in a row. */
    private readonly onError: (error: Error) => void,
    private readonly onEnded: () => void,
  ) {
    this.ready = new Promise((resolve) => {
      this.markReady = resolve;
    });
    this.left = new Promise((resolve) => {
      this.markLeft = resolve;
    });
    this.watch = store.watchData(path, (node) => {
      this.seen = node;
      this.known = true;
      this.step();
    });
  }

  get state(): EphemeralState {
    return this.currentState;
  }

  set(data: Uint8Array): void {
    this.data = data;
    if (this.known) this.step();
  }

  close(): Promise<void> {
    if (this.currentState !== 'closed') {
      this.watch.close();
      this.become('closed');
      this.markReady();
      this.step();
      if (this.store.state !== 'connected') this.markLeft();
    }
    return this.left;
  }

  /** Leaves the node to the session's end. */
  abandon(): void {
    this.watch.close();
    this.become('closed');
    this.markReady();
    this.end();
  }

  /** The store has lost its session, and the node with it. What has come in its place the watch is going to show. */
  sessionLost(sessionId: string): void {
    if (this.currentState === 'closed') {
      this.end();
      return;
    }
    if (this.currentState === 'held') this.become('pending');
    if (this.seen?.stat.ephemeralOwner !== sessionId) return;
    this.seen = undefined;
    this.known = false;
  }

  /**
   * The store has a connection again. A node that was made and lost before the watch could show it looks to the watch as if
   * nothing had happened.
   */
  connected(): void {
    if (this.known && this.seen === undefined && this.currentState !== 'closed') this.step();
  }

  /** The store has lost its connection. */
  disconnected(): void {
    if (this.currentState === 'closed') this.markLeft();
  }

  private end(): void {
    if (this.ended) return;
    this.ended = true;
    this.markLeft();
    this.onEnded();
  }

  private isOurs(node: StoreNode): boolean {
    return node.stat.ephemeralOwner !== undefined && node.stat.ephemeralOwner === this.store.sessionId;
  }

  private become(state: EphemeralState): void {
    if (this.currentState === state || this.currentState === 'closed') return;
    this.currentState = state;
    if (state === 'held') this.markReady();
    this.options.onState?.(state, this);
  }

  private step(): void {
    if (this.ended) return;
    if (this.queued) {
      this.again = true;
      return;
    }
    this.queued = true;
    this.queue.add(this.work);
  }

  private readonly work = async (): Promise<void> => {
    this.again = false;
    try {
      if (this.ended) return;
      if (this.currentState === 'closed') await this.leave();
      else if (this.known) await this.keep();
      this.complained = false;
    } catch (error) {
      if (error instanceof NodeExistsError || error instanceof VersionConflictError) {
        // The node has changed since it was seen. The watch tells how, unless there is none any more.
        if (this.currentState === 'closed') throw error;
      } else if (error instanceof StoreFrozenError && this.currentState === 'closed') {
        // A server that is frozen may never take a change again. It still ends sessions.
        this.end();
      } else if (!this.ended) {
        if (!this.complained) this.onError(error as Error);
        this.complained = true;
        throw error;
      }
    }
    this.queued = false;
    if (this.again) this.step();
  };

  private async keep(): Promise<void> {
    const { seen, data, path } = this;
    if (seen === undefined) {
      this.become('pending');
      const { sessionId } = this.store;
      await this.create();
      // The watch is going to show it, too, but there is no need to wait for that.
      if (this.store.sessionId === sessionId && this.seen === undefined) this.become('held');
    } else if (this.isOurs(seen)) {
      if (Buffer.compare(seen.data, data) === 0) this.become('held');
      else await this.store.set(path, data, seen.stat.version);
    } else if (this.options.takeOver?.(seen)) {
      await this.store.multi([
        { type: 'delete', path, version: seen.stat.version },
        { type: 'create', path, data, ephemeral: true },
      ]);
    } else {
      this.become('conflict');
    }
  }

  private async create(): Promise<void> {
    const { path, data } = this;
    try {
      await this.store.create(path, data, { ephemeral: true });
    } catch (error) {
      if (!(error instanceof NodeNotFoundError && this.options.makeParent !== undefined)) throw error;
      await this.options.makeParent();
      if (this.currentState !== 'closed') await this.store.create(path, data, { ephemeral: true });
    }
  }

  /** What the watch has shown may be out of date, so the node is read. */
  private async leave(): Promise<void> {
    const node = await this.store.get(this.path);
    if (node !== undefined && this.isOurs(node)) {
      try {
        await this.store.delete(this.path, node.stat.version);
      } catch (error) {
        if (!(error instanceof NodeNotFoundError)) throw error;
      }
    }
    this.end();
  }
}
