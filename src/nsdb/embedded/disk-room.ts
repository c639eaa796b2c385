import type { Disk } from './disk.js';

export interface RoomEvents {
  /** The room has become less than the reserve, or more again. */
  onChange(full: boolean, free: number): void;
  onError(error: Error): void;
}

/** Milliseconds between looks, for what others write and remove. */
const LOOK_INTERVAL = 1000;

/**
 * Knows whether the disk has more room than a reserve. It asks the system once a second; in between it takes for used what
 * was appended since, which costs a subtraction. So what waits to be written never reaches into the reserve.
 */
export class DiskRoom {
  private free = Number.POSITIVE_INFINITY;
  /** Bytes appended that {@link free} may not have seen. */
  private unseen = 0;
  private looking: Promise<void> | undefined;
  private timer: NodeJS.Timeout | undefined;
  private isFull = false;
  private fault: string | undefined;

  constructor(
    private readonly disk: Disk,
    private readonly folder: string,
    /** Bytes; 0 turns it off. */
    private readonly reserve: number,
    /** Bytes appended that have not been written. */
    private readonly unwritten: () => number,
    private readonly events: RoomEvents,
  ) {}

  /** Whether less than the reserve is left. */
  get full(): boolean {
    return this.isFull;
  }

  /** Ends when it has looked for the first time. */
  async start(): Promise<void> {
    await this.look();
    if (this.reserve === 0) return;
    this.timer = setInterval(() => void this.look(), LOOK_INTERVAL);
    this.timer.unref();
  }

  appended(bytes: number): void {
    this.unseen += bytes;
    if (this.reserve === 0 || this.isFull || this.free - this.unseen >= this.reserve) return;
    this.decide();
    void this.look();
  }

  /** Asks the system. */
  async look(): Promise<void> {
    if (this.reserve === 0) return;
    this.looking ??= this.ask().finally(() => {
      this.looking = undefined;
    });
    await this.looking;
  }

  async close(): Promise<void> {
    clearInterval(this.timer);
    await this.looking;
  }

  private async ask(): Promise<void> {
    const seen = this.unseen - this.unwritten();
    try {
      this.free = await this.disk.free(this.folder);
      this.unseen -= seen;
      this.fault = undefined;
      this.decide();
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.fault) this.events.onError(error as Error);
      this.fault = message;
    }
  }

  private decide(): void {
    const free = this.free - this.unseen;
    const full = free < this.reserve;
    if (full === this.isFull) return;
    this.isFull = full;
    this.events.onChange(full, Math.max(0, free));
  }
}
