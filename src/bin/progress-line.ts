import type { OnProgress } from '../nsdb/operations/progress.js';

/** Milliseconds that work may take before anything is said about it, and between two lines. */
const QUIET = 1000;
const REDRAW = 200;
const NEXT_LINE = 5000;

/** Says on standard error how far long work has come: on one line of a terminal, else now and then on a new one. */
export class ProgressLine {
  private readonly begun = performance.now();
  private said = Number.NEGATIVE_INFINITY;
  private shown = false;

  constructor(private readonly out: NodeJS.WriteStream = process.stderr) {}

  readonly update: OnProgress = (phase, done, total) => {
    const now = performance.now();
    const pause = this.out.isTTY ? REDRAW : NEXT_LINE;
    if (now - this.begun < QUIET || now - this.said < pause) return;
    this.said = now;
    const parts = [phase, done.toLocaleString('en')];
    if (total !== undefined) parts.push('of', total.toLocaleString('en'));
    const text = parts.join(' ');
    this.out.write(this.out.isTTY ? `\r${text}\u001b[K` : `${text}\n`);
    this.shown = true;
  };

  /** Takes the line away, before anything else is said. */
  clear(): void {
    if (this.shown && this.out.isTTY) this.out.write('\r\u001b[K');
    this.shown = false;
  }
}
