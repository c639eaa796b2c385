import type { MeterCounters, MeterSpec } from '../datapath.js';

/** A meter as the kernel's with one band (ovs_meter_execute in net/openvswitch/meter.c, Linux 5.12 and later). */
export class Meter {
  /** In bits or thousandths of a packet, so that rate times milliseconds is a whole number of them. */
  private tokens: number;
  private last: number;
  private packets = 0;
  private bytes = 0;
  private droppedPackets = 0;
  private droppedBytes = 0;

  constructor(
    private readonly spec: MeterSpec,
    now: number,
  ) {
    this.tokens = spec.burst * 1000;
    this.last = now;
  }

  /** Whether a packet of `length` bytes may pass at `now`, in milliseconds. */
  passes(length: number, now: number): boolean {
    const { unit, rate, burst } = this.spec;
    this.tokens = Math.min(burst * 1000, this.tokens + (now - this.last) * rate);
    this.last = now;
    this.packets++;
    this.bytes += length;
    const cost = unit === 'packets' ? 1000 : length * 8;
    if (this.tokens >= cost) {
      this.tokens -= cost;
      return true;
    }
    this.droppedPackets++;
    this.droppedBytes += length;
    return false;
  }

  counters(): MeterCounters {
    const { packets, bytes, droppedPackets, droppedBytes } = this;
    return { packets, bytes, droppedPackets, droppedBytes };
  }
}
