import * as z from 'zod';
import { nameSchema, tenantId, uuid } from './fields.js';

/** Groups that rules compare with. */

/** IP addresses of both families, stored one by one (see Members): an address joins and leaves by itself. */
export const ipAddressGroupSchema = z.strictObject({ id: uuid, name: nameSchema, tenantId });

/** Nothing is known of a member but its address, under which it is stored. */
export const ipAddressGroupMemberSchema = z.strictObject({});

/** Ports name the groups they are in. The ports of a `stateful` group share their connections. */
export const portGroupSchema = z.strictObject({
  id: uuid,
  name: nameSchema,
  tenantId,
  stateful: z.boolean().default(false),
});

/** Hosts name the groups they are in. */
export const hostGroupSchema = z.strictObject({ id: uuid, name: nameSchema });

export type IpAddressGroup = z.output<typeof ipAddressGroupSchema>;
export type PortGroup = z.output<typeof portGroupSchema>;
export type HostGroup = z.output<typeof hostGroupSchema>;
