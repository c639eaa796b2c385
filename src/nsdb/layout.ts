import type { Kind } from '../topology/types.js';

/**
 * Where things are in the NSDB. Folders that grow with the number of ports are split in 256 shards by a hash of the name,
 * so that 100,000 ports put about 400 nodes in each.
 *
 *     /bridges/ID                        bridge
 *     /bridges/ID/ports/SHARD/PORT       (empty) its ports
 *     /bridges/ID/address-pools/POOL     (empty) its address pools
 *     /bridges/ID/hosts/HOST             {floodKey}: a host with exterior ports on the bridge
 *     /bridges/ID/macs/SHARD/MAC         {portId}: persistent when seeded, ephemeral when learned
 *     /bridges/ID/ips/SHARD/ADDRESS      {mac}
 *     /ports/SHARD/ID                    port
 *     /hosts/ID                          host
 *     /hosts/ID/ports/PORT               (empty) the ports bound to it
 *     /hosts/ID/blocks/POOL/BLOCK        (empty) the address blocks it owns
 *     /hosts/ID/alive                    ephemeral: its agent runs
 *     /tunnel-zones/ID                   tunnel zone
 *     /tunnel-zones/ID/hosts/HOST        {address}
 *     /address-pools/ID                  address pool
 *     /address-pools/ID/blocks/SHARD/BLOCK {hostId}: who owns the block; 4096 consecutive blocks share a shard
 */
export const ROOT_FOLDERS = ['/bridges', '/ports', '/hosts', '/tunnel-zones', '/address-pools'] as const;

/** Folders made together with an object of a kind. */
export const OBJECT_FOLDERS: Readonly<Record<Kind, readonly string[]>> = {
  bridge: ['ports', 'address-pools', 'hosts', 'macs', 'ips'],
  port: [],
  host: ['ports', 'blocks'],
  'tunnel-zone': ['hosts'],
  'address-pool': ['blocks'],
};

export function objectPath(kind: Kind, id: string): string {
  switch (kind) {
    case 'bridge':
      return `/bridges/${id}`;
    case 'port':
      return `/ports/${shard(id)}/${id}`;
    case 'host':
      return `/hosts/${id}`;
    case 'tunnel-zone':
      return `/tunnel-zones/${id}`;
    case 'address-pool':
      return `/address-pools/${id}`;
  }
}

export function bridgePortPath(bridgeId: string, portId: string): string {
  return `/bridges/${bridgeId}/ports/${shard(portId)}/${portId}`;
}

export function bridgeAddressPoolPath(bridgeId: string, poolId: string): string {
  return `/bridges/${bridgeId}/address-pools/${poolId}`;
}

export function bridgeHostsPath(bridgeId: string): string {
  return `/bridges/${bridgeId}/hosts`;
}

export function bridgeHostPath(bridgeId: string, hostId: string): string {
  return `/bridges/${bridgeId}/hosts/${hostId}`;
}

/** `mac` in canonical text. */
export function macPath(bridgeId: string, mac: string): string {
  return `/bridges/${bridgeId}/macs/${shard(mac)}/${mac}`;
}

/** `address` in canonical text. */
export function ipPath(bridgeId: string, address: string): string {
  return `/bridges/${bridgeId}/ips/${shard(address)}/${address}`;
}

export function hostPortsPath(hostId: string): string {
  return `/hosts/${hostId}/ports`;
}

export function hostPortPath(hostId: string, portId: string): string {
  return `/hosts/${hostId}/ports/${portId}`;
}

export function hostAlivePath(hostId: string): string {
  return `/hosts/${hostId}/alive`;
}

/** Blocks of a pool that belong to a host. */
export function hostBlocksPath(hostId: string, poolId: string): string {
  return `/hosts/${hostId}/blocks/${poolId}`;
}

/** Owners of the blocks of one shard of a pool, see PoolLayout. */
export function addressPoolBlocksPath(poolId: string, shardName: string): string {
  return `/address-pools/${poolId}/blocks/${shardName}`;
}

export function tunnelZoneMemberPath(zoneId: string, hostId: string): string {
  return `/tunnel-zones/${zoneId}/hosts/${hostId}`;
}

/** Two hexadecimal digits that follow from `name`: FNV-1a, folded to 8 bits. */
export function shard(name: string): string {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  hash ^= hash >>> 16;
  hash ^= hash >>> 8;
  return (hash & 0xff).toString(16).padStart(2, '0');
}
