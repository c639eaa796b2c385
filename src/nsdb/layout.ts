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
 *     /hosts/ID/leases/SPACE/NAME        the path of a lease that is the host's; SPACE is POOL or DEVICE,ADDRESS
 *     /hosts/ID/alive                    ephemeral: its agent runs
 *     /tunnel-zones/ID                   tunnel zone
 *     /tunnel-zones/ID/hosts/HOST        {address}
 *     /address-pools/ID                  address pool
 *     /address-pools/ID/blocks/SHARD/BLOCK {hostId}: lease of an address block; 4096 consecutive ones share a shard
 *     /nat-blocks/DEVICE/ADDRESS/PORT    {hostId}: lease of the 64 source ports from PORT on, five digits
 *     /missing-hosts/HOST                {change}: somebody saw that the host's agent does not run
 */
export const ROOT_FOLDERS = [
  '/bridges',
  '/ports',
  '/hosts',
  '/tunnel-zones',
  '/address-pools',
  '/nat-blocks',
  '/missing-hosts',
] as const;

/** Folders made together with an object of a kind. */
export const OBJECT_FOLDERS: Readonly<Record<Kind, readonly string[]>> = {
  bridge: ['ports', 'address-pools', 'hosts', 'macs', 'ips'],
  port: [],
  host: ['ports', 'leases'],
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

/** What a host has leased, in a folder for each lease space. */
export function hostLeasesPath(hostId: string): string {
  return `/hosts/${hostId}/leases`;
}

/** Leases of the blocks of one shard of a pool, see PoolLayout. */
export function addressPoolBlocksPath(poolId: string, shardName: string): string {
  return `/address-pools/${poolId}/blocks/${shardName}`;
}

/** Leases of the source ports of all addresses that a device translates to. */
export function deviceNatBlocksPath(deviceId: string): string {
  return `/nat-blocks/${deviceId}`;
}

/** Leases of the source ports of one of them; `address` in canonical text. */
export function natBlocksPath(deviceId: string, address: string): string {
  return `/nat-blocks/${deviceId}/${address}`;
}

/** The name of those leases among a host's. */
export function natSpaceId(deviceId: string, address: string): string {
  return `${deviceId},${address}`;
}

/** The mark that a host's agent was not running when somebody looked. */
export function missingHostPath(hostId: string): string {
  return `/missing-hosts/${hostId}`;
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
