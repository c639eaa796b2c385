import { join } from 'node:path';
import * as z from 'zod';
import { MidonetError } from '../errors.js';
import type { LeaseStore } from '../nsdb/leases/lease-registry.js';
import type { Store } from '../nsdb/store.js';
import { readStateFolder, writeDurableStateFile } from '../state-file.js';
import type { AddressPool } from '../topology/types.js';
import { validate } from '../topology/validate.js';
import { PoolAllocator, type PoolUsage } from './pool-allocator.js';

const MAINTENANCE_MS = 30_000;

const savedSchema = z.object({ blocks: z.array(z.string()) });

export interface IpamOptions {
  readonly store: LeaseStore & Pick<Store, 'onState' | 'state'>;
  readonly hostId: string;
  /** Folder on disk, made if need be: one file a pool, with the blocks of this host. */
  readonly folder: string;
  readonly warn: (message: string, error?: unknown) => void;
  /** Milliseconds; any origin. */
  readonly now?: () => number;
}

/** The address pools of this host, see {@link PoolAllocator}. */
export class Ipam {
  readonly #options: IpamOptions;
  readonly #saved: Map<string, readonly string[]>;
  readonly #pools = new Map<string, PoolAllocator>();
  readonly #stopListening: () => void;
  readonly #timer: NodeJS.Timeout;
  readonly #closing = new AbortController();
  #maintaining: Promise<void> | undefined;
  #sessionLost = false;

  private constructor(options: IpamOptions, saved: Map<string, readonly string[]>) {
    this.#options = options;
    this.#saved = saved;
    this.#stopListening = options.store.onState((event) => {
      if (event === 'session-lost') this.#sessionLost = true;
      if (event === 'connected') this.#maintainInBackground();
    });
    this.#timer = setInterval(() => this.#maintainInBackground(), MAINTENANCE_MS).unref();
  }

  /** Read what is on disk. Does not touch the NSDB: pools are added and used whether it can be reached or not. */
  static async open(options: IpamOptions): Promise<Ipam> {
    const saved = await readStateFolder(
      options.folder,
      (value, name) => validate(savedSchema, value, name).blocks,
      ({ path, movedTo, error }) => options.warn(`${path} is damaged, moved to ${movedTo}`, error),
    );
    return new Ipam(options, saved);
  }

  /** The allocator of a pool, made at the first call. */
  pool(pool: AddressPool): PoolAllocator {
    const known = this.#pools.get(pool.id);
    if (known !== undefined) return known;
    const { store, hostId, folder, warn, now } = this.#options;
    const allocator = new PoolAllocator({
      pool,
      hostId,
      store,
      knownBlocks: this.#saved.get(pool.id) ?? [],
      saveBlocks: (blocks) => writeDurableStateFile(join(folder, `${pool.id}.json`), { blocks }),
      now: now ?? (() => performance.now()),
      warn,
    });
    this.#pools.set(pool.id, allocator);
    return allocator;
  }

  usage(): PoolUsage[] {
    return [...this.#pools.values()].map((allocator) => allocator.usage);
  }

  /** Compare with the NSDB where needed, give blocks back, take more. Runs by itself every 30 s and on reconnect. */
  async maintain(): Promise<void> {
    const lost = this.#sessionLost;
    this.#sessionLost = false;
    for (const allocator of this.#pools.values()) {
      try {
        if (lost) await allocator.reconcile(this.#closing.signal);
        await allocator.maintain(this.#closing.signal);
      } catch (error) {
        if (this.#closing.signal.aborted) return;
        if (lost) this.#sessionLost = true;
        this.#options.warn(`pool ${allocator.pool.cidr}: maintenance failed, it will be tried again`, error);
        if (error instanceof MidonetError && error.code === 'MN_STORE_UNAVAILABLE') return;
      }
    }
  }

  #maintainInBackground(): void {
    if (this.#closing.signal.aborted || this.#maintaining !== undefined) return;
    if (this.#options.store.state !== 'connected') return;
    this.#maintaining = this.maintain().finally(() => {
      this.#maintaining = undefined;
    });
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#stopListening();
    clearInterval(this.#timer);
    await Promise.all([this.#maintaining, ...[...this.#pools.values()].map((allocator) => allocator.close())]);
  }
}
