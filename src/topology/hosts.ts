import * as z from 'zod';
import { ipv4Address, nameSchema, reference, references, uuid } from './fields.js';

/** Machines and the underlay between them. */

/** A host's membership of a tunnel zone: its address in that underlay. */
export const tunnelZoneMemberSchema = z.strictObject({ address: ipv4Address });

const tunnelZones = z
  .array(z.strictObject({ zoneId: reference, address: ipv4Address }))
  .superRefine((members, context) => {
    const again = members.findIndex(({ zoneId }, i) => members.some((other, j) => j < i && other.zoneId === zoneId));
    if (again >= 0) {
      context.addIssue({ code: 'custom', path: [again, 'zoneId'], message: 'expected each tunnel zone once' });
    }
  })
  .default([]);

/** A machine that runs an agent. */
export const hostSchema = z.strictObject({
  id: uuid,
  name: nameSchema,
  /** The tunnel zones it is in, with its address in each. */
  tunnelZones,
  hostGroupIds: references,
  /** Share of the flooded packets of a VTEP that it relays, relative to other hosts; 1 when absent. */
  floodingProxyWeight: z.int().min(0).max(65_535).optional(),
});

/** Hosts that reach each other over one underlay with one encapsulation. `vtep`: hardware VTEPs are in it. */
export const tunnelZoneSchema = z.strictObject({
  id: uuid,
  name: nameSchema,
  type: z.enum(['vxlan', 'gre', 'vtep']),
});

export type Host = z.output<typeof hostSchema>;
export type TunnelZone = z.output<typeof tunnelZoneSchema>;
export type TunnelZoneMember = z.output<typeof tunnelZoneMemberSchema>;
