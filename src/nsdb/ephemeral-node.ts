import {
  type EphemeralNode,
  type EphemeralOptions,
  type EphemeralState,
  NodeExistsError,
  NodeNotFoundError,
  type Store,
  type StoreNode,
  VersionConflictError,
  type Watch,
} from './store.js';

const RETRY_MIN = 100;
const RETRY_MAX = 5000;

/**
 * Keeps an ephemeral node by watching it: what the watch shows is compared with what shall be, and one step towards that
 * is made at a time. Session loss, deletion by somebody and a lost answer all look the same from here: the node is not
 * what it shall be.
 */
export class KeptEphemeralNode implements EphemeralNode {
  readonly ready: Promise<void>;
  private markReady = () => {};
  private currentState: EphemeralState = 'pending';
  private readonly watch: Watch;
  private seen: StoreNode | undefined;
  private known = false;
  private working: Promise<void> | undefined;
  private again = false;
  private retry: NodeJS.Timeout | undefined;
  private retryDelay = RETRY_MIN;

  constructor(
    private readonly store: Store,
    readonly path: string,
    private data: Uint8Array,
    private readonly options: EphemeralOptions,
    private readonly onError: (error: Error) => void,
    private readonly onClosed: () => void,
  ) {
    this.ready = new Promise((resolve) => {
      this.markReady = resolve;
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

  async close(): Promise<void> {
    if (this.currentState === 'closed') return;
    this.abandon();
    this.onClosed();
    await this.working;
    try {
      const node = await this.store.get(this.path);
      if (node !== undefined && this.isOurs(node)) await this.store.delete(this.path, node.stat.version);
    } catch (error) {
      if (!(error instanceof NodeNotFoundError)) this.onError(error as Error);
    }
  }

  /** Stops keeping the node and leaves it to the session's end. */
  abandon(): void {
    clearTimeout(this.retry);
    this.watch.close();
    this.become('closed');
    this.markReady();
  }

  /** The store has lost its session, and the node with it. */
  sessionLost(): void {
    if (this.currentState === 'held') this.become('pending');
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
    if (this.currentState === 'closed') return;
    if (this.working !== undefined) {
      this.again = true;
      return;
    }
    clearTimeout(this.retry);
    this.again = false;
    this.working = this.work()
      .then(
        () => {
          this.retryDelay = RETRY_MIN;
        },
        (error: unknown) => this.onFault(error),
      )
      .finally(() => {
        this.working = undefined;
        if (this.again) this.step();
      });
  }

  private onFault(error: unknown): void {
    // The node has changed since it was seen: the watch tells how.
    if (error instanceof NodeExistsError || error instanceof VersionConflictError) return;
    if (this.currentState === 'closed') return;
    this.onError(error as Error);
    this.retry = setTimeout(() => this.step(), this.retryDelay);
    this.retryDelay = Math.min(this.retryDelay * 2, RETRY_MAX);
  }

  private async work(): Promise<void> {
    const { seen, data, path } = this;
    if (seen === undefined) {
      this.become('pending');
      await this.store.create(path, data, { ephemeral: true });
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
}
