import { TimeoutError } from '../../errors.js';
import type { Store, StoreNode, Watch } from '../store.js';
import type { Image, TreeContent } from './image.js';
import type { OperationOptions } from './progress.js';
import { isServersOwn } from './walk.js';

/** A tree as it was at one point in the order of changes. */
export interface TreeAtOnce extends TreeContent {
  /** Of the last change in it. */
  readonly zxid: number;
}

/** The content of a whole tree, kept in step with the store. */
export class LiveTree implements TreeContent {
  readonly image: Image = new Map();
  readonly ephemerals = new Set<string>();
  private zxid = 0;
  private changed = new Set<string>();
  private told = 0;
  private isCurrent = false;
  private readonly watch: Watch;
  private readonly firstCurrent: Promise<TreeAtOnce>;

  constructor(
    store: Store,
    private readonly options: OperationOptions,
  ) {
    let current = (_: TreeAtOnce) => {};
    this.firstCurrent = new Promise((resolve) => {
      current = resolve;
    });
    this.watch = store.watchTree('/', (path, node) => this.onNode(path, node), {
      onCurrent: () => {
        const { image, ephemerals, zxid } = this;
        if (this.isCurrent) return;
        this.isCurrent = true;
        // What changes from here on is not in it.
        this.changed.clear();
        current({ image: new Map(image), ephemerals: new Set(ephemerals), zxid });
      },
    });
  }

  /**
   * The tree as it was when all of it had been read and, for a moment, nothing changed.
   * @throws TimeoutError when there was no such moment in the time given, milliseconds
   */
  async atOnce(timeout: number): Promise<TreeAtOnce> {
    const { signal } = this.options;
    signal?.throwIfAborted();
    let cancel = () => {};
    try {
      return await Promise.race([
        this.firstCurrent,
        new Promise<never>((_, reject) => {
          const what = 'waiting for a moment in which nothing in the NSDB changes';
          const timer = setTimeout(() => reject(new TimeoutError(what, timeout)), timeout);
          const abort = () => reject(signal?.reason);
          signal?.addEventListener('abort', abort, { once: true });
          cancel = () => {
            clearTimeout(timer);
            signal?.removeEventListener('abort', abort);
          };
        }),
      ]);
    } finally {
      cancel();
    }
  }

  /** Paths that have changed since {@link atOnce}, or since this was asked last. */
  takeChanges(): ReadonlySet<string> {
    const { changed } = this;
    this.changed = new Set();
    return changed;
  }

  close(): void {
    this.watch.close();
  }

  private onNode(path: string, node: StoreNode | undefined): void {
    if (path === '/' || isServersOwn(path)) return;
    this.options.onProgress?.('reading nodes', ++this.told);
    this.changed.add(path);
    const ephemeral = node?.stat.ephemeralOwner !== undefined;
    if (node === undefined || ephemeral) this.image.delete(path);
    else this.image.set(path, node.data);
    if (ephemeral) this.ephemerals.add(path);
    else this.ephemerals.delete(path);
    if (node !== undefined) this.zxid = Math.max(this.zxid, node.stat.mzxid, node.stat.pzxid);
  }
}
