import type { Logger } from 'pino';
import type { LeaseStore } from '../../nsdb/leases/lease-registry.js';
import {
  NAT_BLOCK_PORTS,
  type NatBlock,
  NatBlocks,
  NatExhaustedError,
  type PortRange,
} from '../../nsdb/leases/nat-blocks.js';

/** How many blocks are leased of an address as soon as any is needed, side by side if they are free. */
const BLOCKS_AT_ONCE = 16;
const RETRY_MS = 1000;
/** While all blocks of an address belong to others. */
const EXHAUSTED_RETRY_MS = 10_000;
/** How long blocks stay leased that no flow needs. MidoNet's value. */
const KEEP_MS = 300_000;

export interface NatLeasesOptions {
  readonly store: LeaseStore;
  readonly hostId: string;
  /** Under which others send this host replies to what it has translated for a device. */
  readonly tunnelKey: (deviceId: string) => number;
  /** Which of the blocks, all of one address, have ports that connections use. */
  readonly inUse: (blocks: readonly NatBlock[], signal: AbortSignal) => Promise<ReadonlySet<NatBlock>>;
  /** What an earlier run leased is known. */
  readonly onLoaded: () => void;
  /** Nothing is leased for the device any more. */
  readonly onNothingLeft: (deviceId: string) => void;
  /** Milliseconds that never go back. */
  readonly clock: () => number;
  readonly log: Logger;
}

/** Told of the ports of its range that this host may translate to, as ranges in order; null when there are none to be had. */
export type PortsListener = (ranges: readonly PortRange[] | null) => void;

interface Holder {
  readonly range: PortRange;
  readonly listener: PortsListener;
  /** Whether as many blocks were leased for it as there should be, or could be had. */
  isServed: boolean;
}

/** What is leased of one address for one device. */
interface Supply {
  readonly deviceId: string;
  readonly address: string;
  /** In order of their ports. */
  blocks: NatBlock[];
  /** Being given back: nothing is translated to these any more, but they may still be leased. */
  readonly leaving: Set<NatBlock>;
  readonly holders: Set<Holder>;
  /** Since when there is no holder. */
  idleSince: number;
  isBusy: boolean;
  retry: NodeJS.Timeout | undefined;
}

/**
 * The source ports that this host may translate to, by device and address. They are leased when the first packet needs some, and
 * given back when no flow has needed any for five minutes and no connection uses them. What an earlier run leased counts as leased
 * from the start, as its connections are still in the kernel.
 */
export class NatLeases {
  private readonly blocks: NatBlocks;
  private readonly supplies = new Map<string, Supply>();
  private loaded = false;
  private failed = false;
  private giving = false;
  private timer: NodeJS.Timeout | undefined;
  private readonly abort = new AbortController();

  constructor(private readonly options: NatLeasesOptions) {
    const { store, hostId, tunnelKey } = options;
    this.blocks = new NatBlocks({ store, hostId, tunnelKey, onLost: (block) => this.lost(block), now: options.clock });
  }

  /** Begin to read what an earlier run leased. Nothing is leased before that is known. */
  start(): void {
    this.blocks.load(this.abort.signal).then(
      (blocks) => {
        // Of some there may be nothing left but the folders, which are to go, too.
        for (const { deviceId, address } of this.blocks.addresses()) this.supply(deviceId, address);
        for (const block of blocks) this.add(this.supply(block.deviceId, block.address), block);
        this.loaded = true;
        this.failed = false;
        this.options.onLoaded();
        for (const supply of this.supplies.values()) {
          this.announce(supply, ...supply.holders);
          this.lease(supply);
        }
      },
      (error: Error) => {
        this.tell(error);
        if (!this.abort.signal.aborted) this.timer = setTimeout(() => this.start(), RETRY_MS);
      },
    );
  }

  /** Lease ports of the address, as long as the result is not closed. */
  hold(deviceId: string, address: string, range: PortRange, listener: PortsListener): { close(): void } {
    const supply = this.supply(deviceId, address);
    const holder = { range, listener, isServed: false };
    supply.holders.add(holder);
    this.announce(supply, holder);
    this.lease(supply);
    return {
      close: () => {
        supply.holders.delete(holder);
        supply.idleSince = this.options.clock();
      },
    };
  }

  /** Whether anything is leased, or wanted, for the device. */
  has(deviceId: string): boolean {
    for (const supply of this.supplies.values()) if (supply.deviceId === deviceId) return true;
    return false;
  }

  /** Whether it is known what an earlier run leased. */
  get isLoaded(): boolean {
    return this.loaded;
  }

  /** How many blocks are leased. */
  get size(): number {
    let count = 0;
    for (const { blocks } of this.supplies.values()) count += blocks.length;
    return count;
  }

  /** Compare with the NSDB what is leased: a session was lost. */
  reconcile(): void {
    if (!this.loaded) return;
    clearTimeout(this.timer);
    this.blocks.reconcile(this.abort.signal).then(
      () => {
        this.failed = false;
      },
      (error: Error) => {
        this.tell(error);
        if (!this.abort.signal.aborted) this.timer = setTimeout(() => this.reconcile(), RETRY_MS);
      },
    );
  }

  /** To be called once a second: what nobody needs is given back. */
  tick(): void {
    if (!this.loaded || this.giving) return;
    const horizon = this.options.clock() - KEEP_MS;
    const idle = [...this.supplies.values()].filter((supply) => isIdle(supply) && supply.idleSince <= horizon);
    if (idle.length === 0) return;
    this.giving = true;
    this.giveBack(idle)
      .catch((error: Error) => this.tell(error))
      .finally(() => {
        this.giving = false;
      });
  }

  close(): void {
    this.abort.abort();
    clearTimeout(this.timer);
    for (const { retry } of this.supplies.values()) clearTimeout(retry);
  }

  private supply(deviceId: string, address: string): Supply {
    const name = `${deviceId} ${address}`;
    let supply = this.supplies.get(name);
    if (supply === undefined) {
      const idleSince = this.options.clock();
      const [blocks, leaving, holders] = [[], new Set<NatBlock>(), new Set<Holder>()];
      supply = { deviceId, address, blocks, leaving, holders, idleSince, isBusy: false, retry: undefined };
      this.supplies.set(name, supply);
    }
    return supply;
  }

  private add(supply: Supply, block: NatBlock): void {
    for (const one of supply.leaving) if (one.first === block.first) supply.leaving.delete(one);
    supply.blocks = [...supply.blocks, block].sort((a, b) => a.first - b.first);
  }

  /** What there is; nothing is not told before it is known that there is none. */
  private announce(supply: Supply, ...holders: readonly Holder[]): void {
    for (const { range, listener } of holders) {
      const ranges = within(supply.blocks, range);
      if (ranges.length > 0) listener(ranges);
    }
  }

  /** Lease what the holders lack, one after the other. */
  private lease(supply: Supply): void {
    if (!this.loaded || supply.isBusy) return;
    supply.isBusy = true;
    clearTimeout(supply.retry);
    this.leaseNow(supply)
      .then(
        () => {
          this.failed = false;
          // Blocks may have been lost, or others have come, while some were leased.
          return [...supply.holders].every((holder) => hasPorts(supply, holder)) ? undefined : EXHAUSTED_RETRY_MS;
        },
        (error: Error) => {
          this.tell(error);
          return RETRY_MS;
        },
      )
      .then((again) => {
        supply.isBusy = false;
        if (this.abort.signal.aborted) return;
        if (again !== undefined) supply.retry = setTimeout(() => this.lease(supply), again);
        // One may have come at the very end.
        else if ([...supply.holders].some(({ range }) => within(supply.blocks, range).length === 0)) this.lease(supply);
      });
  }

  /** A holder has to go without if others have all. */
  private async leaseNow(supply: Supply): Promise<void> {
    for (const holder of supply.holders) {
      if (!hasPorts(supply, holder)) {
        if ((await this.take(supply, holder.range)) === undefined) {
          holder.listener(null);
          this.options.log.error({ address: supply.address, device: supply.deviceId }, 'no source ports are left');
          continue;
        }
        holder.isServed = false;
        this.announce(supply, holder);
      }
      if (holder.isServed) continue;
      try {
        await this.extend(supply, holder.range);
      } finally {
        // What was leased before it failed can be used.
        this.announce(supply, ...supply.holders);
      }
      holder.isServed = true;
    }
  }

  /** More blocks, since connections to one destination need a port each: those next to the last, as long as they are free. */
  private async extend(supply: Supply, range: PortRange): Promise<void> {
    const blocks = supply.blocks.filter((block) => isWithin(block, range));
    let { last } = blocks.at(-1)!;
    for (let count = blocks.length; count < BLOCKS_AT_ONCE; count++) {
      const first = last + 1;
      const isInRange = first <= range.last;
      const beside = isInRange ? await this.take(supply, { first, last: last + NAT_BLOCK_PORTS }) : undefined;
      const next = beside ?? (await this.take(supply, range));
      if (next === undefined) return;
      last = next.last;
    }
  }

  private async take(supply: Supply, range: PortRange): Promise<NatBlock | undefined> {
    const { signal } = this.abort;
    try {
      const block = await this.blocks.take(supply.deviceId, supply.address, { range, signal });
      this.add(supply, block);
      return block;
    } catch (error) {
      if (error instanceof NatExhaustedError) return undefined;
      throw error;
    }
  }

  private lost(block: NatBlock): void {
    const supply = this.supply(block.deviceId, block.address);
    supply.blocks = supply.blocks.filter(({ first }) => first !== block.first);
    for (const { range, listener } of supply.holders) {
      const ranges = within(supply.blocks, range);
      listener(ranges.length === 0 ? null : ranges);
    }
    this.lease(supply);
  }

  private async giveBack(supplies: readonly Supply[]): Promise<void> {
    const { inUse, clock, onNothingLeft } = this.options;
    const { signal } = this.abort;
    for (const supply of supplies) {
      // Those that the NSDB did not take back the last time.
      for (const block of supply.leaving) if (isIdle(supply)) await this.release(supply, block);
      const used = supply.blocks.length === 0 ? new Set() : await inUse(supply.blocks, signal);
      for (const block of supply.blocks) {
        if (used.has(block) || !isIdle(supply)) continue;
        supply.blocks = supply.blocks.filter((other) => other !== block);
        supply.leaving.add(block);
        await this.release(supply, block);
      }
      supply.idleSince = clock();
      if (supply.blocks.length + supply.leaving.size > 0 || !isIdle(supply)) continue;
      const isForgotten = await this.blocks.forget(supply.deviceId, supply.address, signal);
      if (!isForgotten || !isIdle(supply)) continue;
      this.supplies.delete(`${supply.deviceId} ${supply.address}`);
      if (!this.has(supply.deviceId)) onNothingLeft(supply.deviceId);
    }
  }

  private async release(supply: Supply, block: NatBlock): Promise<void> {
    await this.blocks.release(block, this.abort.signal);
    supply.leaving.delete(block);
  }

  /** Once, not at every attempt: it is tried until it works. */
  private tell(error: Error): void {
    if (this.abort.signal.aborted || this.failed) return;
    this.failed = true;
    this.options.log.warn({ error: error.message }, 'could not lease source ports, or give them back; trying again');
  }
}

function isIdle({ holders, isBusy }: Supply): boolean {
  return holders.size === 0 && !isBusy;
}

function hasPorts({ blocks }: Supply, { range }: Holder): boolean {
  return blocks.some((block) => isWithin(block, range));
}

/** Whether any port of the block is in the range. */
function isWithin({ first, last }: NatBlock, range: PortRange): boolean {
  return first <= range.last && last >= range.first;
}

/** What is in the range of the blocks, those side by side as one. */
function within(blocks: readonly NatBlock[], range: PortRange): PortRange[] {
  const ranges: { first: number; last: number }[] = [];
  for (const block of blocks) {
    const first = Math.max(block.first, range.first);
    const last = Math.min(block.last, range.last);
    if (first > last) continue;
    const before = ranges.at(-1);
    if (before !== undefined && before.last === first - 1) before.last = last;
    else ranges.push({ first, last });
  }
  return ranges;
}
