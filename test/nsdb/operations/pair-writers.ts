import type { Store } from '../../../src/nsdb/store.js';
import { StoreFrozenError } from '../../../src/nsdb/store.js';

/** Pairs a writer has of its own. */
const PAIRS = 40;

/**
 * Writers that keep an invariant: of each pair of nodes, far from each other in the tree, both are there with the same number
 * or neither is. They remember what was acknowledged.
 */
export class PairWriters {
  /** By name of the pair: the number last acknowledged, undefined for deleted. */
  readonly acknowledged = new Map<string, number | undefined>();
  changes = 0;
  /** Writers that a frozen server has refused. */
  frozen = 0;
  private stopped = false;
  private readonly running: Promise<void>[];

  private constructor(
    stores: readonly Store[],
    private readonly pause: number,
  ) {
    this.running = stores.map((store, i) => this.write(store, `w${i}`));
  }

  static async start(stores: readonly Store[], pause: number): Promise<PairWriters> {
    await stores[0].ensure('/left');
    await stores[0].ensure('/right/deep/down');
    return new PairWriters(stores, pause);
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await Promise.all(this.running);
  }

  private async write(store: Store, name: string): Promise<void> {
    for (let i = 0; !this.stopped; i++) {
      const pair = `${name}-${(i * 7) % PAIRS}`;
      const now = this.acknowledged.get(pair);
      const paths = [`/left/${pair}`, `/right/deep/down/${pair}`];
      const data = Buffer.from(`${i}`);
      try {
        if (now === undefined) await store.multi(paths.map((path) => ({ type: 'create', path, data })));
        else if (i % 5 === 0) await store.multi(paths.map((path) => ({ type: 'delete', path })));
        else await store.multi(paths.map((path) => ({ type: 'set', path, data })));
      } catch (error) {
        if (!(error instanceof StoreFrozenError)) throw error;
        this.frozen++;
        return;
      }
      this.acknowledged.set(pair, now !== undefined && i % 5 === 0 ? undefined : i);
      this.changes++;
      await new Promise((resolve) => setTimeout(resolve, this.pause));
    }
  }
}

/** Pairs of which one half is missing or has another number. */
export function brokenPairs(image: ReadonlyMap<string, Uint8Array>): string[] {
  const text = (path: string) => image.get(path) && Buffer.from(image.get(path)!).toString();
  const names = new Set<string>();
  for (const path of image.keys()) {
    const match = /^\/(?:left|right\/deep\/down)\/(.+)$/.exec(path);
    if (match !== null) names.add(match[1]);
  }
  return [...names].filter((name) => text(`/left/${name}`) !== text(`/right/deep/down/${name}`));
}
