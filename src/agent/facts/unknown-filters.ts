import type { ChainFact } from '../../simulation/fact.js';
import type { Cell } from './cell.js';
import type { TopologySource } from './topology-source.js';

/** How long an NSDB that does not answer is waited for. */
const PATIENCE_MS = 1000;

/**
 * Stands for the filters of something on this host that the NSDB has not told of yet: packets wait for it. But not for an
 * NSDB that cannot be reached: what is on this host works without it.
 */
export class UnknownFilters {
  private readonly cell: Cell<ChainFact>;
  private patience: NodeJS.Timeout | undefined;
  private isKnown = false;

  /** @param onKnown is told when the filters are known, or not waited for any more */
  constructor(
    of: string,
    private readonly source: TopologySource,
    private readonly onKnown: () => void,
  ) {
    this.cell = source.cell<ChainFact>(`filters of ${of}`, {});
    if (source.repository.store.state === 'disconnected') this.isKnown = true;
    else this.wait();
  }

  /** In front of the filters that are known; none when all are. */
  get filters(): readonly Cell<ChainFact>[] {
    return this.isKnown ? [] : [this.cell];
  }

  /** The NSDB has told of the filters. */
  settle(): void {
    if (this.isKnown) return;
    this.isKnown = true;
    clearTimeout(this.patience);
    this.onKnown();
    this.cell.set(null);
  }

  close(): void {
    clearTimeout(this.patience);
  }

  private wait(): void {
    this.patience = setTimeout(() => {
      if (this.source.repository.store.state === 'connected') this.wait();
      else this.settle();
    }, PATIENCE_MS);
  }
}
