import { addressPoolBlocksPath } from '../nsdb/layout.js';
import type { LeaseSpace } from '../nsdb/leases/lease-registry.js';
import { joinPath } from '../nsdb/path.js';
import { type PoolLayout, SHARD_BLOCKS, shardName } from './pool-layout.js';

/** The blocks of an address pool as things that hosts lease. */
export function addressBlockSpace(poolId: string, layout: PoolLayout): LeaseSpace {
  return {
    id: poolId,
    of: { kind: 'address-pool', id: poolId },
    folderCount: layout.shardCount,
    folder: (n) => addressPoolBlocksPath(poolId, shardName(n)),
    sizeOf: (n) => Math.min(SHARD_BLOCKS, layout.blockCount - n * SHARD_BLOCKS),
    nameAt(n, i) {
      const name = layout.nth(n * SHARD_BLOCKS + i);
      // At most three addresses of a pool are reserved.
      return layout.blockCapacity > 4 || layout.addresses(name).length > 0 ? name : undefined;
    },
    path: (name) => joinPath(addressPoolBlocksPath(poolId, layout.shardOf(name)), name),
    has: (name) => layout.isBlock(name),
  };
}
