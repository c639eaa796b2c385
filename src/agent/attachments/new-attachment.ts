import { InvalidInputError } from '../../errors.js';
import type { Ipam } from '../../ipam/ipam.js';
import type { PoolAllocator } from '../../ipam/pool-allocator.js';
import { cidrContains, formatIp, parseCidr, parseIp } from '../../packet/ip.js';
import { idFromName } from '../../topology/id.js';
import type { BridgePort } from '../../topology/types.js';
import { type Attachment, type AttachmentRequest, hostInterfaceName } from './attachment.js';
import type { InterfaceRoute } from './container-interfaces.js';
import { macOf } from './mac-addresses.js';

/** An address that was taken of a pool. */
export interface Reserved {
  readonly allocator: PoolAllocator;
  readonly address: string;
}

/** Take an address of each pool; those taken so far are in `reserved` when it throws. */
export async function reserve(
  request: AttachmentRequest,
  ipam: Ipam,
  reserved: Reserved[],
  signal?: AbortSignal,
): Promise<void> {
  const asked = assignAddresses(request);
  for (const pool of request.network.pools) {
    const allocator = ipam.pool(pool);
    const wanted = asked.get(pool.id);
    const address =
      wanted === undefined ? await allocator.allocate(signal) : await allocator.request(wanted, 'ips', signal);
    reserved.push({ allocator, address });
  }
}

/** What is to be made for a request with the addresses that were reserved for it. */
export function newAttachment(
  id: string,
  request: AttachmentRequest,
  reserved: readonly Reserved[],
  { hostId, bootId, namespaceIdentity }: Pick<Attachment, 'bootId' | 'namespaceIdentity'> & { readonly hostId: string },
): Attachment {
  const { network, containerId, interfaceName, namespacePath, mtu, owner } = request;
  const hostInterface = hostInterfaceName(id);
  // An address that is used again has the same MAC, so what others have in their neighbour caches stays right.
  const mac = request.mac ?? macOf(idFromName('mac', network.bridgeId, reserved[0]?.address ?? id), 0x02);
  const routes: InterfaceRoute[] = [];
  for (const { allocator } of reserved) {
    const { gateway } = allocator.pool;
    if (gateway === undefined || !request.defaultRoute) continue;
    routes.push({ destination: allocator.layout.range.family === 4 ? '0.0.0.0/0' : '::/0', gateway });
  }
  const port: BridgePort = {
    id,
    bridgeId: network.bridgeId,
    adminStateUp: true,
    mac,
    addresses: reserved.map(({ address }) => address),
    binding: { hostId, interfaceName: hostInterface },
    owner,
  };
  return {
    state: 'adding',
    network: network.name,
    containerId,
    interfaceName,
    namespacePath,
    namespaceIdentity,
    bootId,
    hostInterface,
    hostMac: macOf(id, 0x06),
    mac,
    mtu,
    addresses: reserved.map(({ allocator, address }) => ({
      address,
      prefix: allocator.layout.range.prefix,
      ...(allocator.pool.gateway === undefined ? {} : { gateway: allocator.pool.gateway }),
      pool: allocator.pool,
    })),
    routes,
    port,
  };
}

/** Which pool each address asked for is of. @throws InvalidInputError */
function assignAddresses(request: AttachmentRequest): Map<string, string> {
  const asked = new Map<string, string>();
  for (const text of request.addresses) {
    const ip = parseIp(text);
    const pool = request.network.pools.find((candidate) => {
      const range = parseCidr(candidate.cidr);
      return ip !== undefined && range !== undefined && cidrContains(range, ip);
    });
    if (ip === undefined || pool === undefined) {
      const ranges = request.network.pools.map((candidate) => candidate.cidr).join(' or ');
      throw new InvalidInputError('ips', text, `expected an address of ${ranges}`);
    }
    const other = asked.get(pool.id);
    if (other !== undefined && other !== formatIp(ip)) {
      throw new InvalidInputError('ips', text, `expected one address of ${pool.cidr}, there is ${other} too`);
    }
    asked.set(pool.id, formatIp(ip));
  }
  return asked;
}
