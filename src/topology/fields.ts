import * as z from 'zod';
import { formatMac, parseMac } from '../packet/address.js';
import { formatCidr, formatIp, parseCidr, parseIp } from '../packet/ip.js';

/** Kinds of values that fields of the topology have. Text is brought into its canonical form on the way in. */

/** An interface name as the kernel takes it: 1 to 15 bytes, no '/', ':' or white space, not '.' or '..'. */
export const interfaceNameSchema = z
  .string()
  .regex(/^(?!\.{1,2}$)[^/:\s]{1,15}$/, 'expected an interface name of 1 to 15 characters without / : or white space');

/** A name that people give: of a network, a host, a tunnel zone. */
export const nameSchema = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/,
    'expected letters, digits, "_", "." and "-", 128 at most, the first a letter or a digit',
  );

/** Who an object belongs to, as the outer system names it. */
export const tenantId = z
  .string()
  .min(1)
  .max(255)
  .refine((text) => Buffer.from(text).toString() === text, 'expected text that UTF-8 can express')
  .optional();

export const mac = z
  .string()
  .transform((text, context) => {
    const value = parseMac(text);
    if (value !== undefined) return formatMac(value);
    context.addIssue({ code: 'custom', message: 'expected a MAC address such as 02:00:00:00:00:01' });
    return z.NEVER;
  })
  .describe('A MAC address, such as 02:00:00:00:00:01.');

export const ipAddress = z
  .string()
  .transform((text, context) => {
    const value = parseIp(text);
    if (value !== undefined) return formatIp(value);
    context.addIssue({ code: 'custom', message: 'expected an IPv4 or IPv6 address' });
    return z.NEVER;
  })
  .describe('An IPv4 or IPv6 address.');

export const ipv4Address = z.ipv4('expected an IPv4 address');

/** An address range of either family, without bits set behind the prefix. */
export const cidr = z
  .string()
  .transform((text, context) => {
    const value = parseCidr(text);
    if (value !== undefined) return formatCidr(value);
    context.addIssue({ code: 'custom', message: 'expected an address range such as 10.0.0.0/16' });
    return z.NEVER;
  })
  .describe('A range of IPv4 or IPv6 addresses, such as 10.0.0.0/16.');

/** The address of an interface and the length of its network's prefix, as in 10.0.0.1/24 or fd00::1/64. */
export const interfaceAddress = z
  .string()
  .transform((text, context) => {
    const [, address, prefix] = /^([^/]+)\/(\d{1,3})$/.exec(text) ?? [];
    const ip = address === undefined ? undefined : parseIp(address);
    if (ip !== undefined && Number(prefix) <= (ip.family === 4 ? 32 : 128)) return `${formatIp(ip)}/${Number(prefix)}`;
    context.addIssue({ code: 'custom', message: 'expected an address with a prefix length such as 10.0.0.1/24' });
    return z.NEVER;
  })
  .describe('An address with the length of its network’s prefix, such as 10.0.0.1/24.');

export const adminStateUp = z.boolean().default(true);
/** IEEE 802.1Q: 12 bits, 0 and 4095 have no VLAN of their own. */
export const vlanId = z.int().min(1).max(4094);
/** IEEE 802.1Q: the three bits of a tag above the VLAN. */
export const vlanPriority = z.int().min(0).max(7);
/** A port of TCP or UDP that something listens on. */
export const transportPort = z.int().min(1).max(65_535);
/** A VXLAN network identifier (RFC 7348 section 5). */
export const vni = z.int().min(0).max(0xff_ffff);

/** What an object is called by everything else. Its letters may come in either case, and are lower-case from then on. */
export const uuid = z.uuid().toLowerCase();

/** A reference to another object, which must exist. */
export const reference = uuid;

/** References in any order, each once; absent rather than empty where nothing is referred to. */
export const references = z.array(uuid).superRefine(distinct).optional();

/** Reports values that are in a list a second time. */
export function distinct(values: readonly string[], context: z.RefinementCtx): void {
  const again = values.findIndex((value, i) => values.indexOf(value) < i);
  if (again >= 0) context.addIssue({ code: 'custom', path: [again], message: 'expected each value once' });
}
