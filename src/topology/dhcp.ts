import * as z from 'zod';
import { parseDhcpOption } from '../packet/dhcp-options.js';
import { isDomainName } from '../packet/dns-name.js';
import { parseCidr } from '../packet/ip.js';
import { cidr, ipAddress, ipv4Address, nameSchema, reference, uuid } from './fields.js';

/** DHCP of a bridge. The machines of a subnet are stored one by one (see Members). */

const ipv4Cidr = cidr.refine((text) => parseCidr(text)?.family === 4, 'expected an IPv4 address range');
const ipv6Cidr = cidr.refine((text) => parseCidr(text)?.family === 6, 'expected an IPv6 address range');

const ipv6Address = ipAddress.refine((text) => text.includes(':'), 'expected an IPv6 address');
const domainName = z.string().refine(isDomainName, 'expected a domain name such as example.org');
/** In seconds; the largest stands for ever (RFC 2131 section 3.3, RFC 8415 section 7.7). */
const lifetime = z.int().min(1).max(0xffff_ffff);

/** A bridge has each subnet once. */
export const dhcpSubnetSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  bridgeId: reference,
  cidr: ipv4Cidr,
  enabled: z.boolean().default(true),
  serverAddress: ipv4Address.optional(),
  defaultGateway: ipv4Address.optional(),
  dnsServers: z.array(ipv4Address).optional(),
  domainName: domainName.optional(),
  /** How long an address may be used without asking again. */
  leaseSeconds: lifetime.default(86_400),
  interfaceMtu: z.int().min(68).max(65_535).optional(),
  /** Classless static routes (RFC 3442). */
  routes: z.array(z.strictObject({ destination: ipv4Cidr, gateway: ipv4Address })).optional(),
});

/** An option for one machine: its name or code, and the value as text, see parseDhcpOption. */
const extraOption = z.strictObject({ name: z.string(), value: z.string() }).superRefine(({ name, value }, context) => {
  const result = parseDhcpOption(name, value);
  if ('fault' in result) context.addIssue({ code: 'custom', path: [result.fault], message: result.expected });
});

/** A machine of a DHCP subnet; stored under its MAC address. */
export const dhcpHostSchema = z.strictObject({
  address: ipv4Address,
  name: nameSchema.optional(),
  /** Options to send besides, or in place of those that follow from the subnet. Of two with one code the later counts. */
  extraOptions: z.array(extraOption).optional(),
});

/** What routers say of an IPv6 subnet (RFC 4861 section 4.2). */
const advertisement = z
  .strictObject({
    /** How long the gateway may be used, in seconds; 0: it is no default router. */
    routerLifetime: z.int().min(0).max(65_535).default(65_535),
    /** How long addresses made of the prefix may be used, in seconds. */
    preferredLifetime: lifetime.default(0xffff_ffff),
    validLifetime: lifetime.default(0xffff_ffff),
    /** Whether machines reach each other in the subnet without the gateway. */
    onLink: z.boolean().default(true),
  })
  .superRefine(ordered);

/**
 * An IPv6 subnet of a bridge, which has each once. How its machines come by addresses and the rest:
 *
 *     slaac      they make an address of the prefix (RFC 4862), and get all else from the advertisement
 *     stateless  they make an address of the prefix, and ask for all else by DHCPv6
 *     stateful   they ask for both by DHCPv6
 */
export const dhcpV6SubnetSchema = z
  .strictObject({
    id: uuid,
    name: nameSchema.optional(),
    bridgeId: reference,
    prefix: ipv6Cidr,
    enabled: z.boolean().default(true),
    addressing: z.enum(['slaac', 'stateless', 'stateful']).default('stateful'),
    dnsServers: z.array(ipv6Address).optional(),
    /** Domains in which machines look for names without a dot. */
    domainSearch: z.array(domainName).optional(),
    /** How long addresses from DHCPv6 may be used, in seconds: for new connections, and at all. */
    preferredLifetime: lifetime.default(43_200),
    validLifetime: lifetime.default(86_400),
    /** The default router that is advertised: its address in the subnet, or the link-local one. */
    gateway: ipv6Address.optional(),
    interfaceMtu: z.int().min(1280).max(65_535).optional(),
    /** Answer router solicitations; when absent, routers on the bridge are left to do so. */
    advertisement: advertisement.optional(),
  })
  .superRefine(ordered);

/** A machine of a DHCPv6 subnet; stored under its client identifier (DUID, hexadecimal). */
export const dhcpV6HostSchema = z.strictObject({ address: ipv6Address, name: nameSchema.optional() });

/** RFC 4862 section 5.5.3 c, RFC 8415 section 21.6: what says otherwise is ignored. */
function ordered(
  times: { readonly preferredLifetime: number; readonly validLifetime: number },
  context: z.RefinementCtx,
): void {
  if (times.preferredLifetime <= times.validLifetime) return;
  const message = `expected at most the valid lifetime, ${times.validLifetime}`;
  context.addIssue({ code: 'custom', path: ['preferredLifetime'], message });
}

export type DhcpSubnet = z.output<typeof dhcpSubnetSchema>;
export type DhcpHost = z.output<typeof dhcpHostSchema>;
export type DhcpV6Subnet = z.output<typeof dhcpV6SubnetSchema>;
export type DhcpV6Host = z.output<typeof dhcpV6HostSchema>;
