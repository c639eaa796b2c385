import { z } from 'zod';
import { formatMac, parseMac } from '../packet/address.js';
import { formatCidr, formatIp, parseCidr, parseIp } from '../packet/ip.js';

/**
 * The virtual devices as data. One schema a type gives the TypeScript type, the validation and the stored JSON form.
 * Identifiers are UUIDs; addresses are text in canonical form (RFC 5952 for IPv6), MACs six lower-case hex pairs.
 */

/** An interface name as the kernel takes it: 1 to 15 bytes, no '/', ':' or white space, not '.' or '..'. */
export const interfaceNameSchema = z
  .string()
  .regex(/^(?!\.{1,2}$)[^/:\s]{1,15}$/, 'expected an interface name of 1 to 15 characters without / : or white space');

/** A name that people give: of a network, a host, a tunnel zone. */
export const nameSchema = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/, 'expected letters, digits, "_", "." and "-"');

const mac = z.string().transform((text, context) => {
  const value = parseMac(text);
  if (value !== undefined) return formatMac(value);
  context.addIssue({ code: 'custom', message: 'expected a MAC address such as 02:00:00:00:00:01' });
  return z.NEVER;
});

const ipAddress = z.string().transform((text, context) => {
  const value = parseIp(text);
  if (value !== undefined) return formatIp(value);
  context.addIssue({ code: 'custom', message: 'expected an IPv4 or IPv6 address' });
  return z.NEVER;
});

const ipv4Address = z.ipv4('expected an IPv4 address');

const cidr = z.string().transform((text, context) => {
  const value = parseCidr(text);
  if (value !== undefined) return formatCidr(value);
  context.addIssue({ code: 'custom', message: 'expected an address range such as 10.0.0.0/16' });
  return z.NEVER;
});

/** The tunnel key of a port, 1 to 2^23 - 1: unique on the host the port is bound to. Bit 23 is kept for tracking. */
export const MAX_TUNNEL_KEY = 0x7f_ffff;
const tunnelKey = z.int().min(1).max(MAX_TUNNEL_KEY);

/** A layer 2 network: forwards by MAC address, answers ARP and neighbour discovery from its IP table. */
export const bridgeSchema = z.strictObject({
  id: z.uuid(),
  name: nameSchema,
  adminStateUp: z.boolean().default(true),
});

/** Where an exterior port is: the host's agent adds `tunnelKey` when it makes the port active. */
export const bindingSchema = z.strictObject({
  hostId: z.uuid(),
  interfaceName: interfaceNameSchema,
  tunnelKey: tunnelKey.optional(),
});

/**
 * A port of a bridge. Exterior with a `binding`, else unbound. `mac` and `addresses` are what is known of the one
 * machine behind it: the bridge's tables are seeded from them, and its MAC is never learned.
 */
export const portSchema = z.strictObject({
  id: z.uuid(),
  bridgeId: z.uuid(),
  adminStateUp: z.boolean().default(true),
  mac: mac.optional(),
  addresses: z.array(ipAddress).default([]),
  binding: bindingSchema.optional(),
  /** The front end that made the port and alone may delete it, such as 'cni'. */
  owner: z.string().optional(),
});

/** A machine that runs an agent. */
export const hostSchema = z.strictObject({
  id: z.uuid(),
  name: nameSchema,
  tunnelZoneIds: z.array(z.uuid()).default([]),
});

/** Hosts that reach each other over one underlay with one encapsulation. */
export const tunnelZoneSchema = z.strictObject({
  id: z.uuid(),
  name: nameSchema,
  type: z.enum(['vxlan', 'gre']),
});

/** A host's membership of a tunnel zone: its address in that underlay. */
export const tunnelZoneMemberSchema = z.strictObject({ address: ipv4Address });

/** A range of addresses of a bridge, handed out to hosts in blocks of 2^(32 or 128 - blockSize) addresses. */
export const addressPoolSchema = z
  .strictObject({
    id: z.uuid(),
    bridgeId: z.uuid(),
    cidr,
    /** Prefix length of a block, which holds at most 2^16 addresses. */
    blockSize: z.int(),
    /** Never handed out; the default route of containers when given. */
    gateway: ipAddress.optional(),
  })
  .superRefine((pool, context) => {
    const range = parseCidr(pool.cidr);
    if (range === undefined) return;
    const width = range.family === 4 ? 32 : 128;
    const least = Math.max(range.prefix, width - 16);
    if (pool.blockSize < least || pool.blockSize > width) {
      context.addIssue({
        code: 'custom',
        path: ['blockSize'],
        message: `expected a prefix length from ${least} to ${width}`,
      });
    }
  });

export type Bridge = z.output<typeof bridgeSchema>;
export type Binding = z.output<typeof bindingSchema>;
export type Port = z.output<typeof portSchema>;
export type Host = z.output<typeof hostSchema>;
export type TunnelZone = z.output<typeof tunnelZoneSchema>;
export type TunnelZoneMember = z.output<typeof tunnelZoneMemberSchema>;
export type AddressPool = z.output<typeof addressPoolSchema>;

/** The object types with an identifier of their own, by the name under which they are stored. */
export const SCHEMAS = {
  bridge: bridgeSchema,
  port: portSchema,
  host: hostSchema,
  'tunnel-zone': tunnelZoneSchema,
  'address-pool': addressPoolSchema,
} as const;

export interface TopologyTypes {
  bridge: Bridge;
  port: Port;
  host: Host;
  'tunnel-zone': TunnelZone;
  'address-pool': AddressPool;
}

export type Kind = keyof TopologyTypes;
