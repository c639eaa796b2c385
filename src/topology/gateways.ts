import * as z from 'zod';
import {
  cidr,
  ipAddress,
  ipv4Address,
  mac,
  nameSchema,
  reference,
  references,
  transportPort,
  uuid,
  vni,
} from './fields.js';

/** Ways to other networks: BGP, hardware VTEPs, routers of other sites. */

/** A range of addresses that a router announces. */
export const bgpNetworkSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  routerId: reference,
  cidr,
});

/** A neighbour of a router. Times in seconds. */
export const bgpPeerSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  routerId: reference,
  address: ipAddress,
  asNumber: z.int().min(1).max(0xffff_ffff),
  keepAlive: z.int().min(5).max(3600).optional(),
  holdTime: z.int().min(5).max(7200).optional(),
  connectRetry: z.int().min(5).max(3600).optional(),
  password: z.string().min(1).max(80).optional(),
});

/** A switch that ends VXLAN tunnels; which of its ports and VLANs are on which bridge. */
export const vtepSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  managementAddress: ipAddress,
  managementPort: transportPort.default(6632),
  tunnelZoneId: reference,
  bindings: z
    .array(z.strictObject({ portName: z.string().min(1), vlanId: z.int().min(0).max(4095), bridgeId: reference }))
    .superRefine((bindings, context) => {
      const again = bindings.findIndex(({ portName, vlanId }, i) =>
        bindings.some((other, j) => j < i && other.portName === portName && other.vlanId === vlanId),
      );
      if (again >= 0) {
        context.addIssue({ code: 'custom', path: [again, 'vlanId'], message: 'expected each VLAN of a port once' });
      }
    })
    .optional(),
});

/** A router that is joined to routers of other sites by tunnels. */
export const gatewayDeviceSchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  routerId: reference.optional(),
  tunnelAddresses: z.array(ipv4Address).optional(),
});

/** A MAC address behind a VTEP of another site. */
export const remoteMacEntrySchema = z.strictObject({
  id: uuid,
  name: nameSchema.optional(),
  gatewayDeviceId: reference,
  mac,
  vtepAddress: ipv4Address,
  vni,
  portIds: references,
});

export type BgpNetwork = z.output<typeof bgpNetworkSchema>;
export type BgpPeer = z.output<typeof bgpPeerSchema>;
export type Vtep = z.output<typeof vtepSchema>;
export type GatewayDevice = z.output<typeof gatewayDeviceSchema>;
export type RemoteMacEntry = z.output<typeof remoteMacEntrySchema>;
