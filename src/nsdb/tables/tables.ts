/** The tables that hosts share, see docs/nsdb.md. */
import * as z from 'zod';
import { InvalidInputError } from '../../errors.js';
import { formatMac, parseMac } from '../../packet/address.js';
import { formatCidr, formatIp, parseCidr, parseIp } from '../../packet/ip.js';
import { mac, uuid } from '../../topology/fields.js';
import {
  bridgeIpsPath,
  bridgeMacsPath,
  bridgeVlanMacsPath,
  portNeighborsPath,
  routerAddressesPath,
  routerLearnedRoutesPath,
} from '../layout.js';
import type { TableType } from './shared-table.js';

/** Which port a MAC address of a bridge is behind. */
export const macEntrySchema = z.strictObject({ portId: uuid });
export type MacEntry = z.output<typeof macEntrySchema>;

/** The MAC address of an IP address. */
export const ipEntrySchema = z.strictObject({ mac });
export type IpEntry = z.output<typeof ipEntrySchema>;

/** Where an address is that moves between hosts. */
export const addressEntrySchema = z.strictObject({ portId: uuid, hostId: uuid });
export type AddressEntry = z.output<typeof addressEntrySchema>;

/** A route that a router was told of by its peers: of several the lower weight is taken. */
export const learnedRouteSchema = z.strictObject({ weight: z.int().min(0).max(0x7fff_ffff) });
export type LearnedRoute = z.output<typeof learnedRouteSchema>;

/** What tells routes apart: where to, by which gateway (undefined: the destination is on the port's link), through which port. */
export interface LearnedRouteKey {
  /** `ADDRESS/PREFIX` in canonical text. */
  readonly destination: string;
  readonly nextHop: string | undefined;
  readonly portId: string;
}

/** Ports by MAC address, a number of 48 bits, of a bridge: for packets without a VLAN tag. */
export const MAC_TABLE: TableType<number, MacEntry> = {
  name: 'MAC table',
  folder: bridgeMacsPath,
  formatKey: formatMac,
  parseKey: parseMac,
  value: macEntrySchema,
};

/** The same for packets of a VLAN, or (0) without a tag. */
export function macTable(vlan: number): TableType<number, MacEntry> {
  if (vlan === 0) return MAC_TABLE;
  return {
    ...MAC_TABLE,
    name: `MAC table of VLAN ${vlan}`,
    folder: (bridgeId) => bridgeVlanMacsPath(bridgeId, vlan),
  };
}

const addressKey = {
  formatKey: (address: string) => canonical('address', address, parseIp, formatIp),
  parseKey: (text: string) => (parseIp(text) === undefined ? undefined : text),
};

/** MAC addresses by IP address of a bridge: answers ARP and neighbor discovery on the spot. */
export const IP_TABLE: TableType<string, IpEntry> = {
  name: 'IP table',
  folder: bridgeIpsPath,
  ...addressKey,
  value: ipEntrySchema,
};

/** MAC addresses by IP address on the link of a router's port, from ARP and neighbor discovery. */
export const NEIGHBOR_TABLE: TableType<string, IpEntry> = {
  name: 'neighbor table',
  folder: portNeighborsPath,
  ...addressKey,
  value: ipEntrySchema,
};

/** Ports and hosts by IP address of a router. */
export const ADDRESS_TABLE: TableType<string, AddressEntry> = {
  name: 'address table',
  folder: routerAddressesPath,
  ...addressKey,
  value: addressEntrySchema,
};

/** What routing protocols have told a router. */
export const LEARNED_ROUTE_TABLE: TableType<LearnedRouteKey, LearnedRoute> = {
  name: 'table of learned routes',
  folder: routerLearnedRoutesPath,
  // A name cannot have a slash.
  formatKey: ({ destination, nextHop, portId }) => {
    const to = canonical('destination', destination, parseCidr, formatCidr).replace('/', '_');
    const via = nextHop === undefined ? '' : canonical('nextHop', nextHop, parseIp, formatIp);
    return `${to},${via},${portId}`;
  },
  parseKey: (text) => {
    const [to, via, portId, ...rest] = text.split(',');
    const destination = to.replace('_', '/');
    if (parseCidr(destination) === undefined || portId === undefined || rest.length > 0) return undefined;
    if (via !== '' && parseIp(via) === undefined) return undefined;
    return { destination, nextHop: via === '' ? undefined : via, portId };
  },
  value: learnedRouteSchema,
};

function canonical<T>(
  field: string,
  text: string,
  parse: (text: string) => T | undefined,
  format: (value: T) => string,
): string {
  const value = parse(text);
  if (value === undefined) throw new InvalidInputError(field, text, 'expected an IP address or range');
  return format(value);
}
