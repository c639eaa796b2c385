import type { FlowId } from '../../datapath/datapath.js';
import type { Watch } from '../../nsdb/store.js';
import type { Fact } from '../../simulation/fact.js';

export interface CellOptions<T> {
  /** Told when the value changes. */
  readonly onChange: (cell: Cell<unknown>) => void;
  /** Starts watching the source; absent when the value is only ever set on this host. */
  readonly subscribe?: (cell: Cell<T>) => Watch;
  /** Whether two values mean the same to a simulation; when absent, whether they are identical. */
  readonly same?: (a: T, b: T) => boolean;
  /** Takes the cell out of whatever finds it by name: it is not needed any more. */
  readonly forget?: (cell: Cell<T>) => void;
  /** What is in packets names it, such as an address: there may be any number of its kind. */
  readonly namedByPackets?: boolean;
}

/**
 * A fact as the agent holds it: its value, where that comes from, the flows that carry it as a tag and who waits for it.
 * The source is watched from the first `start` until `stop`. What is known on this host (`setLocal`) hides what the
 * source says, so that ports of this host work without the NSDB.
 */
export class Cell<T> implements Fact<T> {
  /** Flows to revisit when the value changes. */
  readonly flows = new Set<FlowId>();
  /** When the last flow left; undefined while there are flows. Milliseconds of the agent's clock. */
  idleSince: number | undefined;
  /** Until when it is watched though no flow needs it. Milliseconds of the agent's clock. */
  keptUntil: number | undefined;
  private local: T | undefined;
  private remote: T | null | undefined;
  private watch: Watch | undefined;

  constructor(
    readonly tag: string,
    private readonly options: CellOptions<T>,
  ) {}

  get value(): T | null | undefined {
    return this.local ?? this.remote;
  }

  get started(): boolean {
    return this.watch !== undefined;
  }

  /** Whether the value is set on this host. */
  get isLocal(): boolean {
    return this.local !== undefined;
  }

  start(): void {
    if (this.watch === undefined && this.options.subscribe !== undefined) this.watch = this.options.subscribe(this);
  }

  /** Stop watching the source. What it said is forgotten. */
  stop(): void {
    this.watch?.close();
    this.watch = undefined;
    this.remote = undefined;
    if (!this.isLocal) this.options.forget?.(this);
  }

  /** Whoever asked for it will not wait for it: what only a packet has named is not kept. */
  discard(): void {
    if (this.options.namedByPackets && isIdle(this)) this.stop();
  }

  /** What the source says; `null` when there is no such thing, undefined while that is being found out again. */
  set(value: T | null | undefined): void {
    const before = this.value;
    this.remote = value;
    this.changed(before);
  }

  /** What is known on this host; undefined to go by the source again, which whoever needs it then has to start. */
  setLocal(value: T | undefined): void {
    const before = this.value;
    this.local = value;
    this.changed(before);
  }

  /** The value is the same object but holds something else now. */
  touch(): void {
    this.options.onChange(this as Cell<unknown>);
  }

  private changed(before: T | null | undefined): void {
    const after = this.value;
    if (before === after) return;
    const { same } = this.options;
    if (same !== undefined && before != null && after != null && same(before, after)) return;
    this.options.onChange(this as Cell<unknown>);
  }
}

/** Whether nobody watches the source of a fact, set it on this host or has a flow that depends on it. */
export function isIdle<T>(cell: Cell<T>): boolean {
  return !cell.started && !cell.isLocal && cell.flows.size === 0;
}
