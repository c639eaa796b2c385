import type { ReferenceRow } from '../topology/references.js';
import { KINDS, type Kind } from '../topology/types.js';
import { fnv1a } from './fnv.js';

/**
 * Where things are in the NSDB. Folders that grow with the number of ports are split in 256 shards by a hash of the name,
 * so that 100,000 ports put about 400 nodes in each.
 *
 *     /bridges/ID                        bridge
 *     /bridges/ID/ports/SHARD/PORT       (empty) its ports
 *     /bridges/ID/address-pools/POOL     (empty) its address pools
 *     /bridges/ID/hosts/HOST             {floodKey, openFloodKey}: a host with exterior ports on the bridge
 *     /bridges/ID/links/VLAN/PORT        (empty) its interior ports, by VLAN; 0 for those that have none
 *     /bridges/ID/macs/SHARD/MAC         {portId}: persistent when seeded, ephemeral when learned
 *     /bridges/ID/macs-VLAN/SHARD/MAC    the same for packets with the tag of a VLAN
 *     /bridges/ID/ips/SHARD/ADDRESS      {mac}
 *     /ports/SHARD/ID                    port
 *     /ports/SHARD/ID/neighbors/SHARD/ADDRESS {mac}
 *     /routers/ID/addresses/SHARD/ADDRESS {portId, hostId}
 *     /routers/ID/learned-routes/SHARD/ROUTE {weight}; ROUTE is DESTINATION_PREFIX,GATEWAY,PORT
 *     /hosts/ID                          host
 *     /hosts/ID/ports/PORT               (empty) the ports bound to it
 *     /hosts/ID/leases/SPACE/NAME        the path of a lease that is the host's; SPACE is POOL or DEVICE,ADDRESS
 *     /hosts/ID/alive                    ephemeral: its agent runs, see host-alive.ts
 *     /tunnel-zones/ID                   tunnel zone
 *     /tunnel-zones/ID/hosts/HOST        {address}
 *     /address-pools/ID                  address pool
 *     /address-pools/ID/blocks/SHARD/BLOCK {hostId}: lease of an address block; 4096 consecutive ones share a shard
 *     /nat-blocks/DEVICE/ADDRESS/PORT    {hostId}: lease of the 64 source ports from PORT on, five digits
 *     /health-checkers/BALANCER          {hostId, tunnelKey}: ephemeral, the host that checks its members
 *     /missing-hosts/HOST                {change}: somebody saw that the host's agent does not run
 *     /captures/ID,DIRECTION             ephemeral, see captures.ts: a host wants copies of what crosses a port
 *     /access-tokens/HASH                {name, role, …}: what a bearer token of the REST API allows; HASH is its SHA-256
 *     /flow-state/SHARD/PORT/batch-NUMBER  archived flow state of a port, see NsdbFlowStateArchive
 *     /names/KIND/SHARD/NAME,ID          (empty) an object that has the name, by a hash of the name
 *     /tenants/TENANT/KIND/SHARD/ID      (empty) an object of the tenant; TENANT with % and hexadecimal digits for special characters
 *     /tenants/%/KIND/SHARD/ID           (empty) an object that all tenants may use
 *     /KINDs/SHARD/ID, /KINDs/ID         objects of the other kinds, see UNSHARDED
 *     /ip-address-groups/SHARD/ID/members/SHARD/ADDRESS, /dhcp-subnets/SHARD/ID/members/SHARD/MAC,
 *     /dhcp-v6-subnets/SHARD/ID/members/SHARD/CLIENT      members that are stored one by one
 *     …/ID/refs/KIND.FIELD/SHARD/HOLDER  (empty) an object that names this one in the field
 *     /chains/SHARD/ID/refs/rule.chainId/SHARD/RULE  the same, with a copy of the rule in it
 *     …/ID/refs/KIND.FIELD               {id}: the only object that may do so
 *     …/ID/unique/KIND.FIELD/VALUE       {id}: the object that has the value, which no other below this one may have
 *
 * The folders `links`, `macs-VLAN`, `refs`, `unique` and `members`, and those below them, are made when they are first needed.
 */

/** Kinds of which there are few: machines, networks and what is set up for all of them. */
const UNSHARDED: ReadonlySet<Kind> = new Set<Kind>([
  'bridge',
  'router',
  'address-pool',
  'host',
  'host-group',
  'tunnel-zone',
  'vtep',
  'gateway-device',
  'qos-policy',
  'health-monitor',
  'logging-resource',
]);

/** Folders made together with an object of a kind, which agents watch. */
const FOLDERS: Readonly<Partial<Record<Kind, readonly string[]>>> = {
  bridge: ['ports', 'address-pools', 'hosts', 'macs', 'ips'],
  host: ['ports', 'leases'],
  'tunnel-zone': ['hosts'],
  'address-pool': ['blocks'],
};

/** Has a folder for each kind of objects with names. */
export const NAMES = '/names';

/** Has a folder for each tenant that there are objects of. */
export const TENANTS = '/tenants';

/** The folder of what is captured now. */
export const CAPTURES_PATH = '/captures';

export const ACCESS_TOKENS_PATH = '/access-tokens';

export const ROOT_FOLDERS: readonly string[] = [
  ...KINDS.map(kindPath),
  '/nat-blocks',
  '/health-checkers',
  '/missing-hosts',
  CAPTURES_PATH,
  '/flow-state',
  NAMES,
  TENANTS,
  ACCESS_TOKENS_PATH,
];

export function isSharded(kind: Kind): boolean {
  return !UNSHARDED.has(kind);
}

export function objectFolders(kind: Kind): readonly string[] {
  return FOLDERS[kind] ?? [];
}

/** The folder of all objects of a kind, or of their shards. */
export function kindPath(kind: Kind): string {
  return `/${kind.endsWith('y') ? `${kind.slice(0, -1)}ies` : `${kind}s`}`;
}

export function objectPath(kind: Kind, id: string): string {
  return isSharded(kind) ? `${kindPath(kind)}/${shard(id)}/${id}` : `${kindPath(kind)}/${id}`;
}

/**
 * Where it is noted below the named object that `holderId` names it in the field of a row. Undefined for symmetric ones:
 * the named object names the holder itself.
 */
export function referencePath(row: ReferenceRow, holderId: string, namedId: string): string | undefined {
  if (row.symmetric) return undefined;
  const folder = referenceFolder(row, namedId);
  if (row.exclusive) return folder;
  return isReferenceSharded(row) ? `${folder}/${shard(holderId)}/${holderId}` : `${folder}/${holderId}`;
}

/** The folder of those notes, or of their shards; of an exclusive reference the note itself. */
export function referenceFolder(row: ReferenceRow, namedId: string): string {
  const named = objectPath(row.names, namedId);
  return `${named}/${WATCHED_REFERENCES[referenceName(row)] ?? `refs/${referenceName(row)}`}`;
}

export function isReferenceSharded(row: ReferenceRow): boolean {
  const name = referenceName(row);
  return !row.exclusive && (WATCHED_REFERENCES[name] === undefined || name === 'port.bridgeId');
}

/** Names a row, as in `host.tunnelZones.zoneId`. */
export function referenceName({ kind, field }: ReferenceRow): string {
  return `${kind}.${field.replaceAll('[]', '')}`;
}

/** References that agents and front ends watch are noted in a folder of the object's own. */
const WATCHED_REFERENCES: Readonly<Record<string, string | undefined>> = {
  'port.bridgeId': 'ports',
  'port.binding.hostId': 'ports',
  'address-pool.bridgeId': 'address-pools',
  'host.tunnelZones.zoneId': 'hosts',
};

/** Where a member of an object is stored under its name, see Members. */
export function memberPath(kind: Kind, id: string, name: string): string {
  return `${membersPath(kind, id)}/${shard(name)}/${name}`;
}

export function membersPath(kind: Kind, id: string): string {
  return `${objectPath(kind, id)}/members`;
}

/** Where it is noted which object of a kind has `value` in a field, of all that belong to the object at `within`. */
export function uniquePath(within: string, kind: Kind, field: string, value: string): string {
  return `${within}/unique/${kind}.${field}/${encodeURIComponent(value)}`;
}

/** Where the objects of a kind that have a name are noted, among others. */
export function namesPath(kind: Kind, name: string): string {
  return `${NAMES}/${kind}/${shard(name)}`;
}

/** The name, which has no comma, comes first in the name of a note. */
export function namePath(kind: Kind, name: string, id: string): string {
  return `${namesPath(kind, name)}/${name},${id}`;
}

/** Where the objects of a kind that belong to a tenant are noted, in shards. The folders are there while there are objects in them. */
export function tenantKindPath(tenantId: string, kind: Kind): string {
  return `${TENANTS}/${encodeURIComponent(tenantId).replaceAll('.', '%2E')}/${kind}`;
}

/** Where the objects of a kind that all tenants may use are noted, in shards. No tenant's folder is called so. */
export function sharedKindPath(kind: Kind): string {
  return `${TENANTS}/%/${kind}`;
}

export function sharedPath(kind: Kind, id: string): string {
  return `${sharedKindPath(kind)}/${shard(id)}/${id}`;
}

/** The tenant of a folder of {@link TENANTS}; undefined for a name that is none's. */
export function tenantOfFolder(name: string): string | undefined {
  try {
    return decodeURIComponent(name);
  } catch {
    return undefined;
  }
}

export function tenantPath(tenantId: string, kind: Kind, id: string): string {
  return `${tenantKindPath(tenantId, kind)}/${shard(id)}/${id}`;
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

export function bridgeLinksPath(bridgeId: string): string {
  return `/bridges/${bridgeId}/links`;
}

/** The interior ports of a bridge that a VLAN goes through; VLAN 0: those that have none. */
export function bridgeVlanLinksPath(bridgeId: string, vlanId: number): string {
  return `${bridgeLinksPath(bridgeId)}/${vlanId}`;
}

/** Folders of tables, for {@link tableEntryPath}. Those of a port or router are made when they are first needed. */
export function bridgeMacsPath(bridgeId: string): string {
  return `/bridges/${bridgeId}/macs`;
}

export function bridgeVlanMacsPath(bridgeId: string, vlan: number): string {
  return `/bridges/${bridgeId}/macs-${vlan}`;
}

export function bridgeIpsPath(bridgeId: string): string {
  return `/bridges/${bridgeId}/ips`;
}

export function portNeighborsPath(portId: string): string {
  return `${objectPath('port', portId)}/neighbors`;
}

export function routerAddressesPath(routerId: string): string {
  return `/routers/${routerId}/addresses`;
}

export function routerLearnedRoutesPath(routerId: string): string {
  return `/routers/${routerId}/learned-routes`;
}

/** `key` in canonical text. */
export function tableEntryPath(folder: string, key: string): string {
  return `${folder}/${shard(key)}/${key}`;
}

/** `mac` in canonical text. */
export function macPath(bridgeId: string, mac: string): string {
  return tableEntryPath(bridgeMacsPath(bridgeId), mac);
}

/** `address` in canonical text. */
export function ipPath(bridgeId: string, address: string): string {
  return tableEntryPath(bridgeIpsPath(bridgeId), address);
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

/** Archived flow state of a port. */
export function flowStatePath(portId: string): string {
  return `/flow-state/${shard(portId)}/${portId}`;
}

/** Which host checks the members of a load balancer. */
export function healthCheckerPath(loadBalancerId: string): string {
  return `/health-checkers/${loadBalancerId}`;
}

/** Of what crosses a port in one direction. */
export function capturePath(captureId: string, direction: string): string {
  return `${CAPTURES_PATH}/${captureId},${direction}`;
}

/** The mark that a host's agent was not running when somebody looked. */
export function missingHostPath(hostId: string): string {
  return `/missing-hosts/${hostId}`;
}

/** What a bearer token allows; `hash` is its SHA-256, hexadecimal. */
export function accessTokenPath(hash: string): string {
  return `${ACCESS_TOKENS_PATH}/${hash}`;
}

export function tunnelZoneMemberPath(zoneId: string, hostId: string): string {
  return `/tunnel-zones/${zoneId}/hosts/${hostId}`;
}

/** Two hexadecimal digits that follow from `name`: FNV-1a, folded to 8 bits. */
export function shard(name: string): string {
  let hash = fnv1a(name);
  hash ^= hash >>> 16;
  hash ^= hash >>> 8;
  return (hash & 0xff).toString(16).padStart(2, '0');
}
