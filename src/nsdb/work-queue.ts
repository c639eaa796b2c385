/** One piece of work. It is repeated after a pause for as long as it rejects. */
export type Work = () => Promise<void>;

interface Failed {
  readonly due: number;
  readonly pause: number;
}

/** Pieces of work under way at a time. */
const MAX_RUNNING = 64;
/** Milliseconds before the next attempt; longer each time. */
const PAUSE_MIN = 100;
const PAUSE_MAX = 5000;

/**
 * Work of many owners: a bounded number of pieces at a time, in the order in which they were added, and only while the
 * queue is open. However many have failed, one timer brings them back.
 */
export class WorkQueue {
  private readonly waiting = new Set<Work>();
  private readonly failed = new Map<Work, Failed>();
  private running = 0;
  private isOpen = false;
  private timer: NodeJS.Timeout | undefined;

  /** The work must not be in the queue. */
  add(work: Work): void {
    this.waiting.add(work);
    this.proceed();
  }

  /** Begin, and repeat at once what has failed. */
  open(): void {
    this.isOpen = true;
    this.retry(Number.POSITIVE_INFINITY);
  }

  /** Begin nothing any more; what is under way goes on. */
  close(): void {
    this.isOpen = false;
    clearInterval(this.timer);
    this.timer = undefined;
  }

  private proceed(): void {
    for (const work of this.waiting) {
      if (!this.isOpen || this.running >= MAX_RUNNING) return;
      this.waiting.delete(work);
      this.start(work, PAUSE_MIN);
    }
  }

  private start(work: Work, pause: number): void {
    this.running++;
    work()
      .catch(() => {
        // Its owner has told what went wrong.
        this.failed.set(work, { due: performance.now() + pause, pause });
        if (this.isOpen) this.timer ??= setInterval(() => this.retry(performance.now()), PAUSE_MIN);
      })
      .finally(() => {
        this.running--;
        this.proceed();
      });
  }

  private retry(now: number): void {
    for (const [work, { due, pause }] of this.failed) {
      if (due > now || this.running >= MAX_RUNNING) continue;
      this.failed.delete(work);
      this.start(work, Math.min(pause * 2, PAUSE_MAX));
    }
    this.proceed();
    if (this.failed.size > 0) {
      this.timer ??= setInterval(() => this.retry(performance.now()), PAUSE_MIN);
    } else {
      clearInterval(this.timer);
      this.timer = undefined;
    }
  }
}
