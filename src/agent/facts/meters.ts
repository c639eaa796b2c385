import type { Logger } from 'pino';
import type { Datapath } from '../../datapath/datapath.js';
import type { Watch } from '../../nsdb/store.js';
import type { Cell } from './cell.js';
import type { TopologySource } from './topology-source.js';

/** The datapath takes what machines send in frames of up to 64 KiB, if they leave it to others to cut them: 524.28 kilobits. */
const MIN_BURST = 525;
const MAX_UINT32 = 0xffff_ffff;
/** So many numbers without a meter mean that there are no more. */
const MAX_GAP = 64;

/** Kilobits per second, and kilobits at once; or packets. */
export interface RateLimit {
  readonly unit?: 'packets';
  readonly rate: number;
  readonly burst: number;
}

/**
 * The meters of ports whose rate is limited. A meter is put when a packet needs it, and known when it is there: without it a flow would let
 * all pass. It is deleted when no flow has needed it for a while. Meters outlive the agent, as flows do; the next
 * one puts its own under the same numbers, and deletes what it does not need.
 */
export class Meters {
  /** By port and limit. */
  private readonly cells = new Map<string, Cell<number>>();
  private readonly taken = new Set<number>();
  private closed = false;
  private isShortageTold = false;

  constructor(
    private readonly source: Pick<TopologySource, 'cell'>,
    private readonly datapath: Pick<Datapath, 'features' | 'meter' | 'putMeter' | 'deleteMeter'>,
    private readonly log: Logger,
  ) {}

  /** How many there are. */
  get size(): number {
    return this.taken.size;
  }

  /** Null when the datapath has no such meter: the port has no limit then. */
  meter(portId: string, limit: RateLimit): Cell<number> {
    const unit = limit.unit ?? 'kbit';
    const name = `${portId} at ${limit.rate} ${unit}/s, ${limit.burst} ${unit} at once`;
    let cell = this.cells.get(name);
    if (cell === undefined) {
      cell = this.source.cell<number>(`meter of port ${name}`, {
        subscribe: (self) => this.make(limit, self),
        forget: (self) => {
          if (this.cells.get(name) === self) this.cells.delete(name);
        },
      });
      this.cells.set(name, cell);
    }
    return cell;
  }

  /**
   * Delete meters of an earlier run that no flow uses any more.
   * @param isUsed whether a flow of the datapath goes through the meter
   */
  async removeLeftOvers(isUsed: (id: number) => boolean): Promise<void> {
    const { meters } = this.datapath.features;
    try {
      // They have the lowest numbers that were free.
      for (let id = 0, missing = 0; id < meters && missing < MAX_GAP && !this.closed; id++) {
        const counters = await this.datapath.meter(id);
        missing = counters === undefined ? missing + 1 : 0;
        if (counters !== undefined && !this.taken.has(id) && !isUsed(id)) await this.datapath.deleteMeter(id);
      }
    } catch (error) {
      if (this.closed) return;
      this.log.warn({ error: (error as Error).message }, 'meters of an earlier run stay in the datapath');
    }
  }

  /** The meters stay in the datapath, as the flows do that need them. */
  close(): void {
    this.closed = true;
  }

  private make(limit: RateLimit, cell: Cell<number>): Watch {
    const id = this.takeNumber();
    let isWanted = true;
    const ready = this.put(id, limit, cell.tag).then((meter) => {
      if (isWanted) cell.set(meter);
    });
    const close = () => {
      isWanted = false;
      if (id !== undefined && !this.closed) ready.then(() => this.remove(id));
    };
    return { ready, close };
  }

  private async put(id: number | undefined, { unit, rate, burst }: RateLimit, tag: string): Promise<number | null> {
    if (id === undefined) return null;
    const spec = {
      unit: unit ?? 'kilobits',
      rate: Math.min(rate, MAX_UINT32),
      burst: Math.min(unit === 'packets' ? burst : Math.max(burst, MIN_BURST), MAX_UINT32),
    } as const;
    try {
      await this.datapath.putMeter(id, spec);
      return id;
    } catch (error) {
      this.log.error(
        { error: (error as Error).message, meter: tag },
        'a rate is not limited: the datapath refused the meter',
      );
      return null;
    }
  }

  private async remove(id: number): Promise<void> {
    try {
      await this.datapath.deleteMeter(id);
    } catch (error) {
      this.log.warn({ error: (error as Error).message, id }, 'a meter that is not needed stays in the datapath');
    }
    this.taken.delete(id);
  }

  /** The lowest that is free, as the kernel keeps meters in an array; undefined if there is none. */
  private takeNumber(): number | undefined {
    const { meters } = this.datapath.features;
    for (let id = 0; id < meters; id++) {
      if (this.taken.has(id)) continue;
      this.taken.add(id);
      return id;
    }
    if (!this.isShortageTold) this.log.warn({ meters }, 'rates are not limited: the datapath has no meter left');
    this.isShortageTold = true;
    return undefined;
  }
}
