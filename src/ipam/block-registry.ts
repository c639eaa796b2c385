import { decodeJson, encodeJson } from '../nsdb/json.js';
import { addressPoolBlocksPath, hostBlocksPath } from '../nsdb/layout.js';
import { joinPath, parentPath } from '../nsdb/path.js';
import { NodeExistsError, NodeNotFoundError, type Store, VersionConflictError } from '../nsdb/store.js';
import { blockOwnerSchema, ObjectNotFoundError } from '../nsdb/topology-repository.js';
import { type PoolLayout, SHARD_BLOCKS, shardName } from './pool-layout.js';

const EMPTY = new Uint8Array();

/** What the registry needs of the store. */
export type BlockStore = Pick<Store, 'get' | 'children' | 'create' | 'set' | 'delete' | 'multi' | 'sync'>;

/** A block of this host, and the version of its node: a give-back that is late must not take it away again. */
export interface OwnedBlock {
  readonly name: string;
  readonly version: number;
}

/**
 * Who owns the blocks of one pool, in the NSDB. A block is a node under the pool, so creating it is the claim: of two hosts
 * that want the same block one gets NodeExistsError. An entry under the host, made and deleted in the same multi, lets the
 * host find its blocks again.
 */
export class BlockRegistry {
  readonly #ownFolder: string;

  constructor(
    readonly store: BlockStore,
    readonly hostId: string,
    readonly poolId: string,
    readonly layout: PoolLayout,
  ) {
    this.#ownFolder = hostBlocksPath(hostId, poolId);
  }

  /**
   * Claim a free block. Where the search starts follows from the host, so that hosts seldom want the same.
   * @returns undefined when every block is taken
   * @throws StoreUnavailableError, ObjectNotFoundError if the pool or the host is not in the NSDB
   */
  async takeAny(signal?: AbortSignal): Promise<OwnedBlock | undefined> {
    const start = hash(`${this.hostId} ${this.poolId}`);
    const { shardCount } = this.layout;
    for (let i = 0; i < shardCount; i++) {
      for (;;) {
        const name = await this.#freeIn((start + i) % shardCount, start, signal);
        if (name === undefined) break;
        const block = await this.take(name, signal);
        if (block !== undefined) return block;
      }
    }
    return undefined;
  }

  /**
   * Whether {@link takeAny} would find a block now, or there is one that is this host's and not in `known`. Changes nothing.
   * @throws StoreUnavailableError, ObjectNotFoundError if the pool or the host is not in the NSDB
   */
  async hasFree(known: ReadonlyMap<string, unknown>, signal?: AbortSignal): Promise<boolean> {
    const own = await this.store.children(this.#ownFolder, { signal });
    if (own === undefined && (await this.store.children(parentPath(this.#ownFolder)!, { signal })) === undefined) {
      throw new ObjectNotFoundError('host', this.hostId);
    }
    const shards = await this.store.children(parentPath(addressPoolBlocksPath(this.poolId, shardName(0)))!, { signal });
    if (shards === undefined) throw new ObjectNotFoundError('address-pool', this.poolId);
    if (own?.some((name) => this.layout.isBlock(name) && !known.has(name))) return true;
    for (let shard = 0; shard < this.layout.shardCount; shard++) {
      if ((await this.#freeIn(shard, 0, signal)) !== undefined) return true;
    }
    return false;
  }

  async #freeIn(shard: number, start: number, signal?: AbortSignal): Promise<string | undefined> {
    signal?.throwIfAborted();
    const first = shard * SHARD_BLOCKS;
    const size = Math.min(SHARD_BLOCKS, this.layout.blockCount - first);
    const folder = addressPoolBlocksPath(this.poolId, shardName(shard));
    const taken = new Set(await this.store.children(folder, { signal }));
    return this.#firstFree(taken, first, size, hash(`${start} ${taken.size}`) % size);
  }

  #firstFree(taken: ReadonlySet<string>, first: number, size: number, start: number): string | undefined {
    for (let i = 0; i < size; i++) {
      const name = this.layout.nth(first + ((start + i) % size));
      if (!taken.has(name) && (this.layout.blockCapacity > 4 || this.layout.addresses(name).length > 0)) return name;
    }
    return undefined;
  }

  /**
   * Claim one block.
   * @returns undefined when somebody has it
   */
  async take(name: string, signal?: AbortSignal): Promise<OwnedBlock | undefined> {
    const path = this.#blockPath(name);
    const own = joinPath(this.#ownFolder, name);
    for (;;) {
      signal?.throwIfAborted();
      try {
        await this.store.multi(
          [
            { type: 'create', path, data: encodeJson({ hostId: this.hostId }) },
            { type: 'create', path: own, data: EMPTY },
          ],
          { signal },
        );
        return { name, version: 0 };
      } catch (error) {
        if (error instanceof NodeNotFoundError) await this.#makeFolder(error.path, signal);
        // An entry for a block that is nobody's: the block was deleted by somebody who did not know of the entry.
        else if (error instanceof NodeExistsError && error.path === own) await this.#deleteIfThere(own, signal);
        else if (error instanceof NodeExistsError) return undefined;
        else throw error;
      }
    }
  }

  /** The host a block belongs to, or undefined. */
  async owner(name: string, signal?: AbortSignal): Promise<string | undefined> {
    const path = this.#blockPath(name);
    const node = await this.store.get(path, { signal });
    return node && decodeJson(blockOwnerSchema, node.data, path).hostId;
  }

  /**
   * The blocks of this host. Each is written once more, so that a {@link giveBack} with an older version that is still on
   * its way can do no harm.
   */
  async own(signal?: AbortSignal): Promise<OwnedBlock[]> {
    await this.store.sync(this.#ownFolder, { signal });
    const blocks: OwnedBlock[] = [];
    for (const name of (await this.store.children(this.#ownFolder, { signal })) ?? []) {
      const block = this.layout.isBlock(name) ? await this.confirm(name, signal) : undefined;
      if (block === undefined) await this.#deleteIfThere(joinPath(this.#ownFolder, name), signal);
      else blocks.push(block);
    }
    return blocks;
  }

  /** Take hold of a block that should be this host's; undefined if it is not. */
  async confirm(name: string, signal?: AbortSignal): Promise<OwnedBlock | undefined> {
    const path = this.#blockPath(name);
    for (;;) {
      signal?.throwIfAborted();
      const node = await this.store.get(path, { signal });
      if (node === undefined || decodeJson(blockOwnerSchema, node.data, path).hostId !== this.hostId) return undefined;
      try {
        const stat = await this.store.set(path, node.data, node.stat.version, { signal });
        return { name, version: stat.version };
      } catch (error) {
        if (!(error instanceof NodeNotFoundError || error instanceof VersionConflictError)) throw error;
      }
    }
  }

  /** Give a block back. Succeeds when it is not this host's any more. */
  async giveBack(block: OwnedBlock, signal?: AbortSignal): Promise<void> {
    const path = this.#blockPath(block.name);
    try {
      await this.store.multi(
        [
          { type: 'delete', path, version: block.version },
          { type: 'delete', path: joinPath(this.#ownFolder, block.name) },
        ],
        { signal },
      );
    } catch (error) {
      if (!(error instanceof NodeNotFoundError || error instanceof VersionConflictError)) throw error;
    }
  }

  #blockPath(name: string): string {
    return joinPath(addressPoolBlocksPath(this.poolId, this.layout.shardOf(name)), name);
  }

  /** Make the folder of a shard or of this host's blocks. Their parents are made with the pool and the host. */
  async #makeFolder(path: string, signal?: AbortSignal): Promise<void> {
    try {
      await this.store.create(path, EMPTY, { signal });
    } catch (error) {
      if (error instanceof NodeNotFoundError) {
        throw path === this.#ownFolder
          ? new ObjectNotFoundError('host', this.hostId)
          : new ObjectNotFoundError('address-pool', this.poolId);
      }
      if (!(error instanceof NodeExistsError)) throw error;
    }
  }

  async #deleteIfThere(path: string, signal?: AbortSignal): Promise<void> {
    try {
      await this.store.delete(path, undefined, { signal });
    } catch (error) {
      if (!(error instanceof NodeNotFoundError)) throw error;
    }
  }
}

/** FNV-1a, 32 bits. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  value ^= value >>> 15;
  return value >>> 0;
}
