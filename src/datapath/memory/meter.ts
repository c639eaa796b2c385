/** A meter that drops what exceeds its rate: a token bucket as the kernel's (net/openvswitch/meter.c). */
export interface MeterSpec {
  /** Packets per second, or kilobits per second. */
  readonly unit: 'packets' | 'kilobits';
  readonly rate: number;
  /** How much may pass at once, in packets or kilobits. */
  readonly burst: number;
}

export class Meter {
  private tokens: number;
  private last: number;

  constructor(
    private readonly spec: MeterSpec,
    now: number,
  ) {
    this.tokens = spec.burst;
    this.last = now;
  }

  /** Whether a packet of `length` bytes may pass at `now`, in milliseconds. */
  passes(length: number, now: number): boolean {
    const { unit, rate, burst } = this.spec;
    this.tokens = Math.min(burst, this.tokens + ((now - this.last) * rate) / 1000);
    this.last = now;
    const cost = unit === 'packets' ? 1 : (length * 8) / 1000;
    if (this.tokens < cost) return false;
    this.tokens -= cost;
    return true;
  }
}
