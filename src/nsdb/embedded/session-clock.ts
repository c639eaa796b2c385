import type { SessionRecord } from './database.js';

/**
 * When sessions end that nobody hears from. It counts only time in which this process ran: after a suspended machine or
 * a stall of the process every session gets the time back, since its client may have been sending all along.
 */
export class SessionClock {
  private readonly deadlines = new Map<string, { record: SessionRecord; at: number }>();
  private readonly timer: NodeJS.Timeout;
  private lastTick: number;
  private lost = 0;

  constructor(
    private readonly tick: number,
    private readonly onExpired: (sessionId: string) => void,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.lastTick = now();
    this.timer = setInterval(() => this.check(), tick);
  }

  /** The session was heard of. */
  touch(record: SessionRecord): void {
    const at = this.now() - this.lost + record.timeout;
    const entry = this.deadlines.get(record.id);
    if (entry === undefined) this.deadlines.set(record.id, { record, at });
    else entry.at = at;
  }

  remove(sessionId: string): void {
    this.deadlines.delete(sessionId);
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private check(): void {
    const now = this.now();
    const late = now - this.lastTick - this.tick;
    this.lastTick = now;
    if (late > this.tick * 2) this.lost += late;
    const running = now - this.lost;
    for (const [id, { at }] of this.deadlines) {
      if (at <= running) {
        this.deadlines.delete(id);
        this.onExpired(id);
      }
    }
  }
}
