import { z } from 'zod';
import { parseCidr } from '../packet/ip.js';
import { cidr, ipAddress, ipv4Address, nameSchema, reference } from './fields.js';

/** DHCP of a bridge. The machines of a subnet are stored one by one (see Members). */

const ipv4Cidr = cidr.refine((text) => parseCidr(text)?.family === 4, 'expected an IPv4 address range');
const ipv6Cidr = cidr.refine((text) => parseCidr(text)?.family === 6, 'expected an IPv6 address range');

/** A bridge has each subnet once. */
export const dhcpSubnetSchema = z.strictObject({
  id: z.uuid(),
  bridgeId: reference,
  cidr: ipv4Cidr,
  enabled: z.boolean().default(true),
  serverAddress: ipv4Address.optional(),
  defaultGateway: ipv4Address.optional(),
  dnsServers: z.array(ipv4Address).optional(),
  interfaceMtu: z.int().min(68).max(65_535).optional(),
  /** Classless static routes (RFC 3442). */
  routes: z.array(z.strictObject({ destination: ipv4Cidr, gateway: ipv4Address })).optional(),
});

/** A machine of a DHCP subnet; stored under its MAC address. */
export const dhcpHostSchema = z.strictObject({
  address: ipv4Address,
  name: nameSchema.optional(),
  /** Options to send besides, by name or number. */
  extraOptions: z.array(z.strictObject({ name: z.string().min(1), value: z.string() })).optional(),
});

export const dhcpV6SubnetSchema = z.strictObject({ id: z.uuid(), bridgeId: reference, prefix: ipv6Cidr });

/** A machine of a DHCPv6 subnet; stored under its client identifier (DUID, hexadecimal). */
export const dhcpV6HostSchema = z.strictObject({
  address: ipAddress.refine((text) => text.includes(':'), 'expected an IPv6 address'),
  name: nameSchema.optional(),
});

export type DhcpSubnet = z.output<typeof dhcpSubnetSchema>;
export type DhcpHost = z.output<typeof dhcpHostSchema>;
export type DhcpV6Subnet = z.output<typeof dhcpV6SubnetSchema>;
export type DhcpV6Host = z.output<typeof dhcpV6HostSchema>;
