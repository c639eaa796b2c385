import * as z from 'zod';
import { adminStateUp, ipAddress, nameSchema, reference, tenantId, transportPort, uuid } from './fields.js';

/** Load balancers. One is attached by naming it in a router or in bridges. */
export const loadBalancerSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  tenantId,
  adminStateUp,
});

/** The servers that the connections to some VIPs are divided among. */
export const poolSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  tenantId,
  loadBalancerId: reference.optional(),
  healthMonitorId: reference.optional(),
  adminStateUp,
  protocol: z.enum(['tcp', 'udp', 'sctp']).default('tcp'),
  method: z.enum(['round-robin']).default('round-robin'),
});

export const poolMemberSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  poolId: reference,
  adminStateUp,
  address: ipAddress,
  protocolPort: transportPort,
  /** Share of the connections, relative to the other members. */
  weight: z.int().min(1).max(65_535).default(1),
  /** What the health monitor found. */
  status: z.enum(['active', 'inactive']).default('active'),
});

/** An address and port that clients connect to. */
export const vipSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  poolId: reference,
  adminStateUp,
  address: ipAddress,
  protocolPort: transportPort,
  /** `source-ip`: the connections of one client all go to one member. */
  sessionPersistence: z.enum(['source-ip']).optional(),
  /** The port through which the VIP's address is announced; it is not deleted while it is needed. */
  gatewayPortId: reference.optional(),
});

/** How members are looked after: a connection every `delay` seconds; `maxRetries` failures in a row count. */
export const healthMonitorSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  tenantId,
  adminStateUp,
  type: z.enum(['tcp']).default('tcp'),
  delay: z.int().min(1).max(3600),
  timeout: z.int().min(1).max(3600),
  maxRetries: z.int().min(1).max(10),
});

export type LoadBalancer = z.output<typeof loadBalancerSchema>;
export type Pool = z.output<typeof poolSchema>;
export type PoolMember = z.output<typeof poolMemberSchema>;
export type Vip = z.output<typeof vipSchema>;
export type HealthMonitor = z.output<typeof healthMonitorSchema>;
