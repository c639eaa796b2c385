/** Upper bounds of the buckets, milliseconds. */
export const LATENCY_BOUNDS: readonly number[] = [
  0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000,
];

/** How often something took how long. Observing is a short search and two additions: cheap enough for every request. */
export class LatencyHistogram {
  /** Observations by bucket; the last is for those beyond every bound. */
  readonly counts: number[] = new Array<number>(LATENCY_BOUNDS.length + 1).fill(0);
  /** Of all observations, milliseconds. */
  sum = 0;
  /** The last observation, milliseconds. */
  last = 0;

  observe(milliseconds: number): void {
    let bucket = 0;
    while (bucket < LATENCY_BOUNDS.length && milliseconds > LATENCY_BOUNDS[bucket]) bucket++;
    this.counts[bucket]++;
    this.sum += milliseconds;
    this.last = milliseconds;
  }
}
