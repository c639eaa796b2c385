import type { Kind } from '../../topology/types.js';
import { fnv1a } from '../fnv.js';
import { decodeJson, encodeJson } from '../json.js';
import { hostLeasesPath } from '../layout.js';
import { joinPath, parentPath } from '../path.js';
import { NodeExistsError, NodeNotFoundError, type Store, type StoreOperation, VersionConflictError } from '../store.js';
import { ObjectNotFoundError } from '../topology-errors.js';
import { encodeLeaseEntry, type Lease, leaseSchema, releaseLease, takeOperations } from './leases.js';

const EMPTY = new Uint8Array();

/** What leases need of the store. */
export type LeaseStore = Pick<
  Store,
  'get' | 'exists' | 'children' | 'create' | 'set' | 'delete' | 'multi' | 'ensure' | 'sync'
>;

/** A set of things that are leased one by one, such as the blocks of an address pool. They lie in one or more folders. */
export interface LeaseSpace {
  /** Names the space among all; without '/'. */
  readonly id: string;
  /** What the space belongs to; its folders are gone with it. Undefined: they are made for the first that takes a lease. */
  readonly of: { readonly kind: Kind; readonly id: string } | undefined;
  /** What others are told of each lease besides whose it is. */
  readonly told?: Omit<Lease, 'hostId'>;
  readonly folderCount: number;
  /** Path of the n-th folder. */
  folder(n: number): string;
  /** How many there are in the n-th folder to be had unasked. */
  sizeOf(n: number): number;
  /** Name of the i-th of them; undefined for one that nobody can use. */
  nameAt(n: number, i: number): string | undefined;
  /** Path of the lease of that name. */
  path(name: string): string;
  /** Whether it is the name of one of the space. */
  has(name: string): boolean;
}

/** A lease of this host, and the version of its node: a release that is late must not take it away again. */
export interface OwnedLease {
  readonly name: string;
  readonly version: number;
}

/** The leases of one space, for one host. See leases.ts for what a lease is. */
export class LeaseRegistry {
  readonly #entries: string;

  constructor(
    readonly store: LeaseStore,
    readonly hostId: string,
    readonly space: LeaseSpace,
  ) {
    this.#entries = joinPath(hostLeasesPath(hostId), space.id);
  }

  /**
   * Take one that is free: one read and one write unless folders are full or others are about to take the same. Where the
   * search starts follows from the host, so that hosts seldom want the same.
   * @returns undefined when all are taken
   * @throws StoreUnavailableError, ObjectNotFoundError if the host, or what the space belongs to, is not in the NSDB
   */
  async takeAny(signal?: AbortSignal): Promise<OwnedLease | undefined> {
    const start = hash(`${this.hostId} ${this.space.id}`);
    const { folderCount } = this.space;
    for (let i = 0; i < folderCount; i++) {
      for (;;) {
        const name = await this.#freeIn((start + i) % folderCount, start, signal);
        if (name === undefined) break;
        const lease = await this.take(name, signal);
        if (lease !== undefined) return lease;
      }
    }
    return undefined;
  }

  /**
   * Whether {@link takeAny} would find one now, or there is one that is this host's and not in `known`. Changes nothing.
   * @throws as {@link takeAny}
   */
  async hasFree(known: ReadonlyMap<string, unknown>, signal?: AbortSignal): Promise<boolean> {
    const { space, store } = this;
    const own = await store.children(this.#entries, { signal });
    if (own === undefined && (await store.children(hostLeasesPath(this.hostId), { signal })) === undefined) {
      throw new ObjectNotFoundError('host', this.hostId);
    }
    if (space.of !== undefined && (await store.children(parentPath(space.folder(0))!, { signal })) === undefined) {
      throw new ObjectNotFoundError(space.of.kind, space.of.id);
    }
    if (own?.some((name) => space.has(name) && !known.has(name))) return true;
    for (let n = 0; n < space.folderCount; n++) {
      if ((await this.#freeIn(n, 0, signal)) !== undefined) return true;
    }
    return false;
  }

  async #freeIn(n: number, start: number, signal?: AbortSignal): Promise<string | undefined> {
    signal?.throwIfAborted();
    const taken = new Set(await this.store.children(this.space.folder(n), { signal }));
    const size = this.space.sizeOf(n);
    const first = hash(`${start} ${taken.size}`) % size;
    for (let i = 0; i < size; i++) {
      const name = this.space.nameAt(n, (first + i) % size);
      if (name !== undefined && !taken.has(name)) return name;
    }
    return undefined;
  }

  /**
   * Take the one of that name.
   * @returns undefined when somebody has it
   */
  async take(name: string, signal?: AbortSignal): Promise<OwnedLease | undefined> {
    const path = this.space.path(name);
    const entryPath = this.#entryPath(name);
    const operations = takeOperations(this.#lease, path, entryPath);
    for (;;) {
      signal?.throwIfAborted();
      try {
        await this.store.multi(operations, { signal });
        return { name, version: 0 };
      } catch (error) {
        if (error instanceof NodeNotFoundError) await this.#makeFolder(error.path, signal);
        // An entry without a lease: the lease was deleted by somebody who did not know of the entry.
        else if (error instanceof NodeExistsError && error.path === entryPath) await this.#forget(name, signal);
        else if (error instanceof NodeExistsError) return undefined;
        else throw error;
      }
    }
  }

  /** The host that has the one of that name, or undefined. One read. */
  async owner(name: string, signal?: AbortSignal): Promise<string | undefined> {
    return (await this.#read(name, signal))?.hostId;
  }

  async #read(name: string, signal?: AbortSignal): Promise<{ hostId: string; version: number } | undefined> {
    const path = this.space.path(name);
    const node = await this.store.get(path, { signal });
    return node && { hostId: decodeJson(leaseSchema, node.data, path).hostId, version: node.stat.version };
  }

  /**
   * The leases of this host. Each is written once more, so that a {@link release} with an older version that is still on
   * its way can do no harm.
   */
  async own(signal?: AbortSignal): Promise<OwnedLease[]> {
    await this.store.sync(this.#entries, { signal });
    const leases: OwnedLease[] = [];
    for (const name of (await this.store.children(this.#entries, { signal })) ?? []) {
      const lease = this.space.has(name) ? await this.confirm(name, signal) : undefined;
      if (lease === undefined) await this.#forget(name, signal);
      else leases.push(lease);
    }
    return leases;
  }

  /** Take hold of a lease that should be this host's; undefined if it is not. Makes its entry again if that is missing. */
  async confirm(name: string, signal?: AbortSignal): Promise<OwnedLease | undefined> {
    const path = this.space.path(name);
    const entry = { path: this.#entryPath(name), data: encodeLeaseEntry(path) };
    let entryOperation: 'set' | 'create' = 'set';
    for (;;) {
      signal?.throwIfAborted();
      const lease = await this.#read(name, signal);
      if (lease?.hostId !== this.hostId) return undefined;
      const operations: StoreOperation[] = [
        { type: 'set', path, data: encodeJson(this.#lease), version: lease.version },
        { type: entryOperation, ...entry },
      ];
      try {
        await this.store.multi(operations, { signal });
        return { name, version: lease.version + 1 };
      } catch (error) {
        if (error instanceof NodeNotFoundError && error.path === entry.path) entryOperation = 'create';
        else if (error instanceof NodeNotFoundError && error.path !== path) await this.#makeFolder(error.path, signal);
        else if (error instanceof NodeExistsError) entryOperation = 'set';
        else if (!(error instanceof NodeNotFoundError || error instanceof VersionConflictError)) throw error;
      }
    }
  }

  /** Give one back. Succeeds when it is not this host's any more. */
  release(lease: OwnedLease, signal?: AbortSignal): Promise<void> {
    const { store, space } = this;
    return releaseLease(store, space.path(lease.name), this.#entryPath(lease.name), lease.version, signal);
  }

  get #lease(): Lease {
    return { hostId: this.hostId, ...this.space.told };
  }

  #entryPath(name: string): string {
    return joinPath(this.#entries, name);
  }

  /** Make a folder of the space, or the one for the host's entries. That one's parent is made with the host. */
  async #makeFolder(path: string, signal?: AbortSignal): Promise<void> {
    const owner = path === this.#entries ? ({ kind: 'host', id: this.hostId } as const) : this.space.of;
    try {
      if (owner === undefined) await this.store.ensure(path, { signal });
      else await this.store.create(path, EMPTY, { signal });
    } catch (error) {
      if (error instanceof NodeExistsError) return;
      if (error instanceof NodeNotFoundError && owner !== undefined)
        throw new ObjectNotFoundError(owner.kind, owner.id);
      throw error;
    }
  }

  async #forget(name: string, signal?: AbortSignal): Promise<void> {
    try {
      await this.store.delete(this.#entryPath(name), undefined, { signal });
    } catch (error) {
      if (!(error instanceof NodeNotFoundError)) throw error;
    }
  }
}

/** A number from 0 on that follows from the text. */
function hash(text: string): number {
  const value = fnv1a(text);
  return (value ^ (value >>> 15)) >>> 0;
}
