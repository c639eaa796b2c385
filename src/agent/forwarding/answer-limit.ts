/** ICMP messages a second, and at once, in answer to what comes in at one datapath port. */
const PER_SECOND = 100;
const BURST = 100;

interface Bucket {
  tokens: number;
  /** When it held that many. */
  at: number;
}

/**
 * Keeps routers from being made to send ICMP messages without end (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)): a token
 * bucket for each datapath port, so that one machine does not use up what is for the others.
 */
export class AnswerLimit {
  /** Those that are not full. */
  private readonly buckets = new Map<number, Bucket>();

  constructor(
    /** Milliseconds. */
    private readonly clock: () => number,
  ) {}

  /** Whether one more answer may be given to what comes in at the port. */
  take(port: number): boolean {
    let bucket = this.buckets.get(port);
    if (bucket === undefined) {
      bucket = { tokens: BURST, at: this.clock() };
      this.buckets.set(port, bucket);
    }
    this.refill(bucket);
    if (bucket.tokens < 1) return false;
    bucket.tokens--;
    return true;
  }

  /** To be called from time to time: buckets that are full again are not kept. */
  forgetFull(): void {
    for (const [port, bucket] of this.buckets) {
      this.refill(bucket);
      if (bucket.tokens === BURST) this.buckets.delete(port);
    }
  }

  private refill(bucket: Bucket): void {
    const now = this.clock();
    bucket.tokens = Math.min(BURST, bucket.tokens + ((now - bucket.at) * PER_SECOND) / 1000);
    bucket.at = now;
  }
}
