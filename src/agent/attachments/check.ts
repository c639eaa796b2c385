import type { Datapath } from '../../datapath/datapath.js';
import type { Ipam } from '../../ipam/ipam.js';
import { type Attachment, AttachmentDamagedError } from './attachment.js';
import type { ContainerInterfaces, InterfaceRoute } from './container-interfaces.js';

/** What an attachment is to be found as, where that may differ from what was made: others may have changed it since. */
export interface ListedAttachment {
  readonly mac?: string;
  readonly mtu?: number;
  /** Of the routes that were made those that are not listed are not looked for. */
  readonly routes?: readonly InterfaceRoute[];
}

/** Where the parts of an attachment are. */
export interface CheckedParts {
  readonly interfaces: ContainerInterfaces;
  readonly ipam: Ipam;
  /** Absent where it need not be asked. */
  readonly datapath?: Pick<Datapath, 'ports'>;
}

/**
 * Check that all an attachment consists of is there. More addresses and routes, and a smaller MTU, are no fault.
 * @throws AttachmentDamagedError saying what is missing
 */
export async function checkAttachment(
  record: Attachment,
  namespacePath: string,
  listed: ListedAttachment,
  { interfaces, datapath, ipam }: CheckedParts,
  signal?: AbortSignal,
): Promise<void> {
  const damaged = (what: string) => new AttachmentDamagedError(record, what);
  if (interfaces.namespaceIdentity(namespacePath) !== record.namespaceIdentity) {
    throw damaged(`${namespacePath} is another network namespace than the one it was made in`);
  }
  const state = await interfaces.read(namespacePath, record.interfaceName, signal);
  if (state === undefined) throw damaged(`interface ${record.interfaceName} is missing in ${namespacePath}`);
  if (!state.up) throw damaged(`interface ${record.interfaceName} is down`);
  const { mac = record.mac, mtu = record.mtu, routes } = listed;
  if (state.mac !== mac) throw damaged(`the MAC address is ${state.mac}, expected ${mac}`);
  if (state.mtu > mtu) throw damaged(`the MTU is ${state.mtu}, expected at most ${mtu}`);
  for (const { address, prefix, pool } of record.addresses) {
    if (!state.addresses.some((one) => one.address === address && one.prefix === prefix)) {
      throw damaged(`address ${address}/${prefix} is missing on ${record.interfaceName}`);
    }
    if (!ipam.pool(pool).isUsed(address)) throw damaged(`address ${address} is not reserved`);
  }
  for (const route of record.routes) {
    if (routes !== undefined && !hasRoute(routes, route)) continue;
    if (!hasRoute(state.routes, route)) {
      throw damaged(`route ${route.destination} via ${route.gateway} is missing`);
    }
  }
  const up = (await interfaces.hostInterfaces(signal)).get(record.hostInterface);
  if (up === undefined) throw damaged(`interface ${record.hostInterface} is missing on the host`);
  if (!up) throw damaged(`interface ${record.hostInterface} of the host is down`);
  if (datapath !== undefined && !(await datapath.ports(signal)).some((port) => port.name === record.hostInterface)) {
    throw damaged(`interface ${record.hostInterface} is not attached to the datapath`);
  }
}

function hasRoute(routes: readonly InterfaceRoute[], { destination, gateway }: InterfaceRoute): boolean {
  return routes.some((one) => one.destination === destination && one.gateway === gateway);
}
