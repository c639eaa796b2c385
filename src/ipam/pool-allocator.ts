import { ClosedError, InvalidInputError } from '../errors.js';
import { LeaseRegistry, type LeaseStore, type OwnedLease } from '../nsdb/leases/lease-registry.js';
import { cidrContains, formatIp, type Ip, parseIp } from '../packet/ip.js';
import type { AddressPool } from '../topology/types.js';
import { addressBlockSpace } from './address-block-space.js';
import { AddressInUseError, PoolExhaustedError } from './errors.js';
import { PoolLayout } from './pool-layout.js';

/** How long a block must be wholly free before it is given back, so that its addresses are not soon used by others. */
const QUIET_MS = 60_000;
/** How long after a failure nothing is taken in advance. */
const RETRY_MS = 10_000;
/** How long a change that was sent may take to be made after its sender has given up, or has crashed. */
const LATE_MS = 30_000;

export interface PoolAllocatorOptions {
  readonly pool: AddressPool;
  readonly hostId: string;
  readonly store: LeaseStore;
  /** Blocks that belonged to this host when {@link PoolAllocatorOptions.saveBlocks} was last called. */
  readonly knownBlocks: readonly string[];
  /** Keeps the names of the host's blocks on disk, for a start without the NSDB. Durable when it returns. */
  readonly saveBlocks: (names: readonly string[]) => Promise<void>;
  /** Milliseconds; any origin. */
  readonly now: () => number;
  /** Told of what went wrong in the background. */
  readonly warn: (message: string, error?: unknown) => void;
}

interface Block {
  /** Undefined until the NSDB has confirmed that the block is this host's. */
  owned: OwnedLease | undefined;
  /** Number of its addresses in use. */
  used: number;
  /** When an address of it was last released. */
  releasedAt: number;
  /** Somebody else has it, though addresses of it are in use here: no more of it are handed out. */
  lost: boolean;
}

/** Counts of a pool on this host. */
export interface PoolUsage {
  readonly poolId: string;
  readonly cidr: string;
  readonly blocks: number;
  readonly used: number;
  readonly free: number;
}

/**
 * Hands out the addresses of one pool on this host, out of blocks that belong to the host. Which addresses are in use is
 * not stored here: whoever uses them says so after a restart ({@link adopt}).
 *
 * Addresses are reused in the order in which they were released, after all that were never used. The blocks on disk are
 * always among those the NSDB gives to this host: a new block is saved after it was taken, one to give back is removed
 * before.
 */
export class PoolAllocator {
  readonly pool: AddressPool;
  readonly layout: PoolLayout;
  readonly #registry: LeaseRegistry;
  readonly #options: PoolAllocatorOptions;
  readonly #blocks = new Map<string, Block>();
  readonly #used = new Set<string>();
  /** Free addresses of the blocks, in the order in which they will be handed out. */
  readonly #free = new Set<string>();
  /** When fewer are free, another block is taken before it is needed. */
  readonly #low: number;
  /** Operations on the NSDB, one at a time. */
  #queue: Promise<unknown> = Promise.resolve();
  #refilling: Promise<void> | undefined;
  /** What is in memory may differ from the NSDB. */
  #unconfirmed = true;
  /** When a change last failed; before the start one may have, too. */
  #doubtedAt: number;
  #refillAfter = Number.NEGATIVE_INFINITY;
  readonly #closing = new AbortController();

  constructor(options: PoolAllocatorOptions) {
    this.#options = options;
    this.#doubtedAt = options.now();
    this.pool = options.pool;
    this.layout = new PoolLayout(options.pool);
    this.#registry = new LeaseRegistry(options.store, options.hostId, addressBlockSpace(options.pool.id, this.layout));
    this.#low = Math.max(1, Math.min(16, Math.floor(this.layout.blockCapacity / 4)));
    for (const name of options.knownBlocks) if (this.layout.isBlock(name)) this.#addBlock(name, undefined);
  }

  get usage(): PoolUsage {
    return {
      poolId: this.pool.id,
      cidr: this.pool.cidr,
      blocks: this.#blocks.size,
      used: this.#used.size,
      free: this.#free.size,
    };
  }

  /** Whether the address is in use on this host. */
  isUsed(address: string): boolean {
    return this.#used.has(address);
  }

  /** Mark an address as in use that was handed out before a restart. */
  adopt(address: string): void {
    if (this.#used.has(address)) return;
    this.#use(address);
  }

  /**
   * An address nobody uses. Does not wait for the NSDB while the host's blocks have one.
   * @throws PoolExhaustedError, StoreUnavailableError
   */
  async allocate(signal?: AbortSignal): Promise<string> {
    for (;;) {
      signal?.throwIfAborted();
      const next = this.#free.values().next();
      if (!next.done) {
        this.#use(next.value);
        if (this.#free.size < this.#low) this.#refillInBackground();
        return next.value;
      }
      await this.#refill();
    }
  }

  /**
   * Take the address asked for.
   * @param field where it was asked for, for errors
   * @throws InvalidInputError if it is not of this pool or reserved; AddressInUseError; StoreUnavailableError if it is in a
   *   block of which only the NSDB knows whose it is
   */
  async request(address: string, field: string, signal?: AbortSignal): Promise<string> {
    const ip = this.#parse(address, field);
    const canonical = formatIp(ip);
    const role = this.layout.reservedAs(canonical);
    if (role !== undefined) {
      throw new InvalidInputError(field, address, `expected an address of ${this.pool.cidr} that is not ${role}`);
    }
    const name = this.layout.blockOf(ip);
    if (this.#used.has(canonical)) throw new AddressInUseError(canonical, 'another interface of this host has it');
    if (!this.#isOurs(name)) {
      await this.#exclusive(() => this.#takeNamed(name, canonical, signal));
      if (this.#used.has(canonical)) throw new AddressInUseError(canonical, 'another interface of this host has it');
      if (!this.#isOurs(name)) throw new AddressInUseError(canonical, 'its block was just given back');
    }
    this.#use(canonical);
    return canonical;
  }

  #isOurs(name: string): boolean {
    const block = this.#blocks.get(name);
    return block !== undefined && !block.lost;
  }

  async #takeNamed(name: string, address: string, signal?: AbortSignal): Promise<void> {
    if (this.#isOurs(name)) return;
    const taken = await this.#doubting(() => this.#claim(name, signal));
    if (taken === undefined) {
      const owner = await this.#registry.owner(name, signal);
      throw new AddressInUseError(address, `block ${this.layout.describe(name)} belongs to host ${owner ?? '?'}`);
    }
    this.#addBlock(name, taken);
    await this.#saveNew();
  }

  /** Take a block by name, or find that it is ours already. */
  async #claim(name: string, signal?: AbortSignal): Promise<OwnedLease | undefined> {
    return (await this.#registry.take(name, signal)) ?? (await this.#registry.confirm(name, signal));
  }

  /** The address is not in use any more. Succeeds when it was not. */
  release(address: string): void {
    if (!this.#used.delete(address)) return;
    const ip = parseIp(address);
    const name = ip && this.layout.blockOf(ip);
    const block = name && this.#blocks.get(name);
    if (!block) return;
    block.used -= 1;
    block.releasedAt = this.#options.now();
    if (!block.lost) this.#free.add(address);
    else if (block.used === 0) this.#blocks.delete(name);
  }

  /**
   * See whether {@link allocate} would succeed now. Takes nothing.
   * @throws PoolExhaustedError, StoreUnavailableError, ObjectNotFoundError
   */
  async requireFree(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (this.#free.size === 0 && !(await this.#registry.hasFree(this.#blocks, signal))) throw this.#exhausted();
  }

  /**
   * Bring this host's blocks in line with the NSDB: take in those that only the NSDB knows of, claim again those in use
   * that it has forgotten. Needed once after the start, after a session was lost, and after a change whose outcome is not
   * known.
   */
  async reconcile(signal?: AbortSignal): Promise<void> {
    await this.#exclusive(() => this.#reconcile(signal));
  }

  async #reconcile(signal?: AbortSignal): Promise<void> {
    const settled = this.#options.now() - this.#doubtedAt >= LATE_MS;
    this.#unconfirmed = true;
    const own = new Map((await this.#registry.own(signal)).map((block) => [block.name, block]));
    for (const [name, block] of [...this.#blocks]) {
      const confirmed = own.get(name);
      if (confirmed !== undefined) {
        this.#regain(name, block, confirmed);
      } else if (block.used > 0) {
        await this.#claimAgain(name, block, signal);
      } else {
        this.#removeBlock(name);
      }
    }
    for (const [name, block] of own) if (!this.#blocks.has(name)) this.#addBlock(name, block);
    // Addresses in use outside any known block: handed out before the file with the blocks was lost.
    for (const address of this.#used) {
      const ip = parseIp(address);
      if (ip === undefined) continue;
      const name = this.layout.blockOf(ip);
      if (this.#blocks.has(name)) continue;
      await this.#claimAgain(name, this.#addBlock(name, undefined, true), signal);
    }
    await this.#saveNew();
    this.#unconfirmed = !settled;
  }

  /** Claim a block of which addresses are in use here. Until that succeeds no more of it are handed out. */
  async #claimAgain(name: string, block: Block, signal?: AbortSignal): Promise<void> {
    block.owned = undefined;
    block.lost = true;
    for (const address of this.layout.addresses(name)) this.#free.delete(address);
    const taken = await this.#claim(name, signal);
    if (taken !== undefined) {
      this.#regain(name, block, taken);
      return;
    }
    this.#options.warn(
      `pool ${this.pool.cidr}: block ${this.layout.describe(name)} belongs to host ` +
        `${(await this.#registry.owner(name, signal)) ?? '?'}, but ${block.used} addresses of it are in use on this host`,
    );
  }

  #regain(name: string, block: Block, owned: OwnedLease): void {
    block.owned = owned;
    if (!block.lost) return;
    block.lost = false;
    for (const address of this.layout.addresses(name)) if (!this.#used.has(address)) this.#free.add(address);
  }

  /**
   * Give back blocks that have been wholly free for a while, except one; take a block when few addresses are left.
   * To be called now and then.
   */
  async maintain(signal?: AbortSignal): Promise<void> {
    if (this.#unconfirmed) await this.reconcile(signal);
    await this.#exclusive(() => this.#giveBack(signal));
    if (this.#free.size < this.#low && this.#blocks.size > 0) await this.#refill();
  }

  async #giveBack(signal?: AbortSignal): Promise<void> {
    const now = this.#options.now();
    const idle: [string, Block][] = [];
    let kept = 0;
    for (const entry of this.#blocks) {
      const block = entry[1];
      if (block.used > 0) continue;
      if (block.owned !== undefined && now - block.releasedAt >= QUIET_MS) idle.push(entry);
      else kept += 1;
    }
    if (kept === 0) idle.shift();
    for (const [name, block] of idle) {
      // Between two of them an address may have been handed out.
      if (block.used > 0 || block.owned === undefined) continue;
      this.#removeBlock(name);
      try {
        await this.#save();
      } catch (error) {
        this.#addBlock(name, block.owned);
        throw error;
      }
      const { owned } = block;
      await this.#doubting(() => this.#registry.release(owned, signal));
    }
  }

  /** Stop what runs in the background. Blocks stay this host's. */
  async close(): Promise<void> {
    this.#closing.abort(new ClosedError(`address pool ${this.pool.cidr}`));
    await Promise.allSettled([this.#queue, this.#refilling]);
  }

  #refillInBackground(): void {
    if (this.#closing.signal.aborted || this.#refilling !== undefined) return;
    if (this.#options.now() < this.#refillAfter) return;
    this.#refill().catch((error: unknown) => {
      if (this.#closing.signal.aborted) return;
      this.#refillAfter = this.#options.now() + RETRY_MS;
      // Addresses are left; whoever needs one when there are none gets the error.
      this.#options.warn(`pool ${this.pool.cidr}: no further block yet`, error);
    });
  }

  /** Take one block; those who ask meanwhile share it. */
  #refill(): Promise<void> {
    this.#refilling ??= this.#exclusive(() => this.#takeBlock()).finally(() => {
      this.#refilling = undefined;
    });
    return this.#refilling;
  }

  async #takeBlock(): Promise<void> {
    const { signal } = this.#closing;
    if (this.#unconfirmed) {
      const before = this.#free.size;
      await this.#reconcile(signal);
      if (this.#free.size > before) return;
    }
    const block = await this.#doubting(() => this.#registry.takeAny(signal));
    if (block === undefined) {
      this.#refillAfter = this.#options.now() + RETRY_MS;
      if (this.#free.size > 0) return;
      throw this.#exhausted();
    }
    this.#addBlock(block.name, block);
    await this.#saveNew();
  }

  #exhausted(): PoolExhaustedError {
    const { blockCount, blockCapacity } = this.layout;
    return new PoolExhaustedError(
      this.pool.id,
      this.pool.cidr,
      `all ${blockCount} blocks of ${blockCapacity} addresses belong to hosts; ` +
        `${this.#used.size} addresses are in use in the ${this.#blocks.size} blocks of this host`,
    );
  }

  async #save(): Promise<void> {
    const names: string[] = [];
    for (const [name, block] of this.#blocks) if (!block.lost) names.push(name);
    await this.#options.saveBlocks(names.sort());
  }

  /** Save after blocks were added. One that is not on disk serves all the same, but not after a start without the NSDB. */
  async #saveNew(): Promise<void> {
    try {
      await this.#save();
    } catch (error) {
      this.#options.warn(`pool ${this.pool.cidr}: cannot write the list of blocks`, error);
    }
  }

  /** A change that failed may have been made, or is still to be made: look before the next one. */
  async #doubting<T>(change: () => Promise<T>): Promise<T> {
    try {
      return await change();
    } catch (error) {
      this.#unconfirmed = true;
      this.#doubtedAt = this.#options.now();
      throw error;
    }
  }

  #exclusive<T>(operation: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(operation);
    this.#queue = result.catch(() => undefined);
    return result;
  }

  #addBlock(name: string, owned: OwnedLease | undefined, lost = false): Block {
    const block: Block = { owned, used: 0, releasedAt: this.#options.now(), lost };
    this.#blocks.set(name, block);
    for (const address of this.layout.addresses(name)) {
      if (this.#used.has(address)) block.used += 1;
      else if (!lost) this.#free.add(address);
    }
    return block;
  }

  #removeBlock(name: string): void {
    this.#blocks.delete(name);
    for (const address of this.layout.addresses(name)) this.#free.delete(address);
  }

  #use(address: string): void {
    this.#free.delete(address);
    this.#used.add(address);
    const ip = parseIp(address);
    const block = ip && this.#blocks.get(this.layout.blockOf(ip));
    if (block !== undefined) block.used += 1;
  }

  #parse(address: string, field: string): Ip {
    const ip = parseIp(address);
    if (ip === undefined || !cidrContains(this.layout.range, ip)) {
      throw new InvalidInputError(field, address, `expected an address of ${this.pool.cidr}`);
    }
    return ip;
  }
}
