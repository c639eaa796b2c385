import {
  type Recirculation,
  type Recirculations,
  recirculationHash,
  recirculationsEqual,
} from '../../simulation/connection.js';
import type { NumberedRecirculation } from '../../simulation/decision.js';
import { Cell } from '../facts/cell.js';

/** How long an identifier is kept that no flow sends packets to: some may be on their way. */
const KEEP_MS = 10_000;
const MAX_ID = 0x7fff_ffff;

/**
 * What the identifiers in `recirc` actions stand for on this host. They are kept while any flow sends packets to them. Of one that
 * the flows of the last run use nothing is known until these have been simulated again: what they decide is the same, so the
 * identifiers are, too. What waits for one meanwhile goes on when it is known, or known to be nothing's.
 */
export class RecirculationTable implements Recirculations {
  private readonly cells = new Map<number, Cell<Recirculation>>();
  /** Identifiers that no flow sends to, and since when. */
  private readonly unused = new Map<number, number>();

  constructor(
    /** Whether any flow sends packets to the identifier. */
    private readonly isUsed: (id: number) => boolean,
    private readonly onChange: (cell: Cell<unknown>) => void,
    private readonly clock: () => number,
  ) {}

  /** Number of identifiers known or asked for. */
  get size(): number {
    return this.cells.size;
  }

  get(id: number): Cell<Recirculation> {
    let cell = this.cells.get(id);
    if (cell === undefined) {
      cell = new Cell<Recirculation>(`recirculation ${id}`, { onChange: this.onChange, same: recirculationsEqual });
      this.cells.set(id, cell);
      this.unused.set(id, this.clock());
    }
    return cell;
  }

  idOf(recirculation: Recirculation): number {
    let id = recirculationHash(recirculation);
    for (;;) {
      const known = this.cells.get(id)?.value;
      if (known == null || recirculationsEqual(known, recirculation)) return id;
      id = id === MAX_ID ? 1 : id + 1;
    }
  }

  /** Packets may be sent to these from here on. */
  learn(recirculations: readonly NumberedRecirculation[]): void {
    for (const { id, recirculation } of recirculations) {
      this.get(id).set(recirculation);
      // Put at the end, as the oldest are looked at first.
      this.unused.delete(id);
      this.unused.set(id, this.clock());
    }
  }

  /** A flow that sent packets to the identifier does so no longer. */
  released(id: number): void {
    if (this.cells.has(id) && !this.unused.has(id)) this.unused.set(id, this.clock());
  }

  /** To be called once a second. */
  tick(): void {
    const horizon = this.clock() - KEEP_MS;
    for (const [id, since] of this.unused) {
      if (since > horizon) break;
      this.unused.delete(id);
      if (this.isUsed(id)) continue;
      const cell = this.cells.get(id)!;
      // Flows that take its packets are looked at once more, and go.
      cell.set(null);
      if (cell.flows.size === 0) this.cells.delete(id);
      else this.unused.set(id, this.clock());
    }
  }
}
