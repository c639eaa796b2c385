import { fnv1a } from '../../../src/nsdb/fnv.js';
import { Dice } from '../../dice.js';

const realSetImmediate = setImmediate;

/** Node.js comes to the next immediate when all promises and ticks are done. */
function allDone(): Promise<void> {
  return new Promise((resolve) => realSetImmediate(resolve));
}

/** Something that runs in a world and can be killed there: then none of its events happens any more. */
export class VirtualProcess {
  isAlive = true;

  constructor(readonly name: string) {}
}

/** Something that will happen. It is also what setTimeout returns. */
export class VirtualTimer {
  cancelled = false;

  constructor(
    readonly owner: VirtualProcess,
    /** By the clock of its world. */
    public due: number,
    public sequence: number,
    readonly action: () => void,
    /** Milliseconds after which it happens again. */
    readonly every: number | undefined,
  ) {}

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }
}

/** What happens in a world, one after the other: time goes from event to event. */
export class Events {
  /** Milliseconds. */
  now = 0;
  readonly dice: Dice;
  /** What has happened, as a number. */
  hash = 0;
  /** Told of all that counts for {@link hash}. */
  onTrace: ((line: string) => void) | undefined;
  /** Whose event happens now. */
  running: VirtualProcess | undefined;
  private readonly queue: VirtualTimer[] = [];
  private sequence = 0;

  constructor(seed: number) {
    this.dice = new Dice(Math.imul(seed, 0x9e3779b1) | 1);
    // The first numbers of seeds that are close to each other are alike.
    for (let i = 0; i < 8; i++) this.dice.below(2);
  }

  /** Note what is to be the same in every run of the seed. */
  trace(line: string): void {
    const text = `${this.now.toFixed(3)} ${line}`;
    this.hash = Math.imul(this.hash, 31) ^ fnv1a(text);
    this.onTrace?.(text);
  }

  schedule(owner: VirtualProcess, delay: number, action: () => void, every?: number): VirtualTimer {
    return this.scheduleAt(owner, this.now + delay, action, every);
  }

  /** Of two that are due at the same time the one that was scheduled first comes first. */
  scheduleAt(owner: VirtualProcess, due: number, action: () => void, every?: number): VirtualTimer {
    const timer = new VirtualTimer(owner, due, this.sequence++, action, every);
    insert(this.queue, timer);
    return timer;
  }

  /** Lets the next event happen, unless it is later than `end`: then it is `end` afterwards. Tells whether there was one. */
  async step(end: number): Promise<boolean> {
    const next = this.queue[0];
    if (next === undefined || next.due > end) {
      this.now = end;
      return false;
    }
    removeFirst(this.queue);
    if (next.cancelled || !next.owner.isAlive) return true;
    this.now = next.due;
    this.running = next.owner;
    current = this;
    try {
      next.action();
      await allDone();
      if (next.every !== undefined && !next.cancelled) {
        next.due = this.now + next.every;
        next.sequence = this.sequence++;
        insert(this.queue, next);
      }
    } finally {
      current = undefined;
      this.running = undefined;
    }
    return true;
  }
}

let current: Events | undefined;

/** Those of which one happens now. */
export function currentEvents(): Events | undefined {
  return current;
}

// A heap: the next event first.

function comesBefore(a: VirtualTimer, b: VirtualTimer): boolean {
  return a.due < b.due || (a.due === b.due && a.sequence < b.sequence);
}

function insert(heap: VirtualTimer[], timer: VirtualTimer): void {
  let at = heap.length;
  while (at > 0) {
    const parent = (at - 1) >> 1;
    if (!comesBefore(timer, heap[parent])) break;
    heap[at] = heap[parent];
    at = parent;
  }
  heap[at] = timer;
}

function removeFirst(heap: VirtualTimer[]): void {
  const last = heap.pop()!;
  if (heap.length === 0) return;
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child + 1 < heap.length && comesBefore(heap[child + 1], heap[child])) child++;
    if (child >= heap.length || !comesBefore(heap[child], last)) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = last;
}
