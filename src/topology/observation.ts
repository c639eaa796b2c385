import * as z from 'zod';
import { conditionSchema } from './chains.js';
import { mac, nameSchema, reference, tenantId, uuid, vlanId } from './fields.js';

/** What watches, shapes or diverts traffic on its way: mirrors, inserted services, quality of service, traces, logs. */

/** A copy of each packet that one of the conditions matches goes out of `toPortId`. Devices name their mirrors. */
export const mirrorSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  tenantId,
  toPortId: reference,
  conditions: z.array(conditionSchema).default([]),
});

/**
 * Traffic of the machine with this MAC address at `portId` goes through a service at `servicePortId`, with a VLAN tag; through
 * several services in order of `position`. Both are ports of bridges.
 */
export const l2InsertionSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  portId: reference,
  servicePortId: reference,
  mac,
  vlanId: vlanId.optional(),
  position: z.int().min(0).default(0),
  /** Whether traffic goes on without the service while its port is not up. */
  failOpen: z.boolean().default(false),
});

export const qosPolicySchema = z.strictObject({
  id: uuid,
  name: nameSchema,
  description: z.string().max(1024).optional(),
  tenantId,
  shared: z.boolean().default(false),
  rules: z
    .array(
      z.discriminatedUnion('type', [
        z.strictObject({
          type: z.literal('bandwidth-limit'),
          maxKbps: z.int().min(1),
          maxBurstKb: z.int().min(0).optional(),
        }),
        z.strictObject({ type: z.literal('dscp'), mark: z.int().min(0).max(63) }),
      ]),
    )
    .default([]),
});

/** Packets at a device that the condition matches are to be traced, at most `limit` of them. */
export const traceRequestSchema = z
  .strictObject({
    id: uuid,
    name: nameSchema.optional(),
    enabled: z.boolean().default(false),
    condition: conditionSchema.default({}),
    limit: z.int().min(1).optional(),
    /** Milliseconds since 1970. */
    createdAt: z.int().min(0),
    bridgeId: reference.optional(),
    routerId: reference.optional(),
    portId: reference.optional(),
  })
  .superRefine((request, context) => {
    const devices = [request.bridgeId, request.routerId, request.portId].filter((id) => id !== undefined);
    if (devices.length !== 1) {
      context.addIssue({ code: 'custom', path: ['portId'], message: 'expected one of a bridge, a router and a port' });
    }
  });

export const loggingResourceSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  type: z.enum(['file']).default('file'),
  enabled: z.boolean().default(true),
});

/** Decisions of a chain are logged. */
export const ruleLoggerSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  chainId: reference,
  loggingResourceId: reference,
  event: z.enum(['accept', 'drop', 'all']).default('all'),
});

export type Mirror = z.output<typeof mirrorSchema>;
export type L2Insertion = z.output<typeof l2InsertionSchema>;
export type QosPolicy = z.output<typeof qosPolicySchema>;
export type TraceRequest = z.output<typeof traceRequestSchema>;
export type LoggingResource = z.output<typeof loggingResourceSchema>;
export type RuleLogger = z.output<typeof ruleLoggerSchema>;
