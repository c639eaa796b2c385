import { Cell } from '../facts/cell.js';

/**
 * Facts of one kind that only this host can tell. One that is asked for before it is told is unknown, until all that there
 * are have been told.
 */
export class LocalCells<K, T> {
  private readonly cells = new Map<K, Cell<T>>();
  private isComplete = false;

  constructor(
    private readonly tagOf: (name: K) => string,
    private readonly onChange: (cell: Cell<unknown>) => void,
  ) {}

  /** How many are kept. */
  get size(): number {
    return this.cells.size;
  }

  get(name: K): Cell<T> {
    let cell = this.cells.get(name);
    if (cell === undefined) {
      cell = new Cell<T>(this.tagOf(name), { onChange: this.onChange });
      if (this.isComplete) cell.set(null);
      this.cells.set(name, cell);
    }
    return cell;
  }

  entries(): Iterable<[K, Cell<T>]> {
    return this.cells;
  }

  /** There is no such thing any more, and nobody will ask for it by this name. */
  remove(name: K): void {
    this.get(name).set(null);
    this.cells.delete(name);
  }

  /** Nobody asks for it. */
  forget(name: K): void {
    this.cells.delete(name);
  }

  /** Forget what is not there and no flow depends on. */
  forgetUnused(): void {
    for (const [name, cell] of this.cells) if (cell.value === null && cell.flows.size === 0) this.cells.delete(name);
  }

  /** All that there are have been told. */
  setComplete(): void {
    this.isComplete = true;
    for (const cell of this.cells.values()) if (cell.value === undefined) cell.set(null);
  }
}
