import * as z from 'zod';
import { parseCidr } from '../packet/ip.js';
import {
  adminStateUp,
  cidr,
  distinct,
  interfaceAddress,
  interfaceNameSchema,
  ipAddress,
  mac,
  nameSchema,
  reference,
  references,
  tenantId,
  uuid,
  vlanId,
  vni,
} from './fields.js';

/** Bridges, routers, their ports and routes, and the ranges of addresses of a bridge. */

/** The tunnel key of a port, 1 to 2^22 - 1: unique on the host the port is bound to. Bits 22 and 23 speak of connections. */
export const MAX_TUNNEL_KEY = 0x3f_ffff;
const tunnelKey = z.int().min(1).max(MAX_TUNNEL_KEY);

const filters = { inboundFilterId: reference.optional(), outboundFilterId: reference.optional() };
const mirrors = { inboundMirrorIds: references, outboundMirrorIds: references };

/**
 * A layer 2 network: forwards by MAC address, answers ARP and neighbour discovery from its IP table. It is aware of VLANs
 * as soon as one of its interior ports has a VLAN id.
 */
export const bridgeSchema = z.strictObject({
  id: uuid,
  name: nameSchema,
  tenantId,
  adminStateUp,
  ...filters,
  ...mirrors,
  qosPolicyId: reference.optional(),
  /** Serves what the bridge's machines send to its VIPs, whoever they send it through. A load balancer may serve several bridges. */
  loadBalancerId: reference.optional(),
  /** The VXLAN network identifier under which hardware VTEPs know the bridge. */
  vni: vni.optional(),
});

export const routerSchema = z.strictObject({
  id: uuid,
  name: nameSchema,
  tenantId,
  adminStateUp,
  ...filters,
  ...mirrors,
  /** A load balancer serves at most one router. */
  loadBalancerId: reference.optional(),
  /** Autonomous system number, for BGP. */
  asNumber: z.int().min(1).max(0xffff_ffff).optional(),
  /** Evaluated on traffic to the router's own addresses, before it handles that itself. */
  localRedirectChainId: reference.optional(),
  /** Evaluated between routing and egress. */
  forwardChainId: reference.optional(),
});

/** Where an exterior port is: the host's agent adds `tunnelKey` when it makes the port active. */
export const bindingSchema = z.strictObject({
  hostId: uuid,
  interfaceName: interfaceNameSchema,
  tunnelKey: tunnelKey.optional(),
});

const portFields = {
  id: uuid,
  name: nameSchema.optional(),
  adminStateUp,
  mac: mac.optional(),
  addresses: z.array(ipAddress).superRefine(distinct).default([]),
  /** Exterior: on this interface of this host. */
  binding: bindingSchema.optional(),
  /** Interior: linked to this port, which names this one in turn. */
  peerId: reference.optional(),
  /** The front end that made the port and alone may delete it, such as 'cni'. */
  owner: z.string().optional(),
  ...filters,
  ...mirrors,
  /** Mirrors of what is left behind the inbound filter, and of what comes before the outbound filter. */
  postInFilterMirrorIds: references,
  preOutFilterMirrorIds: references,
  portGroupIds: references,
  qosPolicyId: reference.optional(),
  /** The VLAN of the bridge whose traffic goes through this port, without its tag, to the port that it is linked to. */
  vlanId: vlanId.optional(),
  /** Exchanges packets only with those ports of the bridge that are not isolated. */
  isolated: z.boolean().optional(),
  /**
   * Inserted services that traffic of this port of a bridge goes through, and those that are behind it. The repository notes
   * them here as insertions come and go.
   */
  insertionIds: references,
  serviceInsertionIds: references,
  /** The hardware VTEP behind this port of a bridge. */
  vtepId: reference.optional(),
  /** The DHCP subnet whose router this port of a bridge leads to. */
  dhcpSubnetId: reference.optional(),
};

/**
 * A port of a bridge or of a router: exterior with a `binding`, interior with a `peerId`, else unbound.
 *
 * Of a bridge: `mac` and `addresses` are what is known of the one machine behind it; the bridge's tables are seeded from
 * them, and its MAC is never learned. Of a router: `mac` is the router's own there, `subnets` its addresses.
 */
export const portSchema = z
  .strictObject({
    ...portFields,
    bridgeId: reference.optional(),
    routerId: reference.optional(),
    /** Addresses of a router in the networks at this port, such as 10.0.0.1/24 and fd00::1/64. */
    subnets: z.array(interfaceAddress).superRefine(distinct).optional(),
  })
  .superRefine((port, context) => {
    const fault = (field: string, message: string) => context.addIssue({ code: 'custom', path: [field], message });
    if (port.bridgeId === undefined && port.routerId === undefined) fault('bridgeId', 'expected a bridge or a router');
    if (port.bridgeId !== undefined && port.routerId !== undefined)
      fault('routerId', 'expected no router, as there is a bridge');
    if (port.binding !== undefined && port.peerId !== undefined)
      fault('peerId', 'expected no peer, as the port is bound');
    if (port.peerId === port.id) fault('peerId', 'expected another port');
    if (port.routerId === undefined) {
      if (port.addresses.length > 0 && port.mac === undefined) {
        fault('mac', 'expected a MAC address, as the port has IP addresses');
      }
      if (port.subnets !== undefined) fault('subnets', 'expected none on a port of a bridge');
    } else {
      for (const field of [
        'vlanId',
        'isolated',
        'insertionIds',
        'serviceInsertionIds',
        'vtepId',
        'dhcpSubnetId',
      ] as const) {
        if (port[field] !== undefined) fault(field, 'expected none on a port of a router');
      }
      if (port.addresses.length > 0) fault('addresses', 'expected none on a port of a router, which has subnets');
    }
  });

/** A port that is of a bridge by its type. */
export const bridgePortSchema = z.strictObject({ ...portFields, bridgeId: reference });

/**
 * A route of a router. `normal` leaves through a port of the same router, to `gateway` or straight to the destination;
 * `local` is for the router itself. Of the routes that match, the longest destination counts, then the least weight.
 */
export const routeSchema = z
  .strictObject({
    id: uuid,
    name: nameSchema.optional(),
    routerId: reference,
    type: z.enum(['normal', 'blackhole', 'reject', 'local']),
    /** From anywhere when absent. */
    source: cidr.optional(),
    destination: cidr,
    weight: z.int().min(0).max(0x7fff_ffff).default(100),
    nextHopPortId: reference.optional(),
    gateway: ipAddress.optional(),
    attributes: z.string().optional(),
    /** The DHCP subnet that the route was made for. */
    dhcpSubnetId: reference.optional(),
  })
  .superRefine((route, context) => {
    const fault = (field: string, message: string) => context.addIssue({ code: 'custom', path: [field], message });
    const family = parseCidr(route.destination)?.family;
    if (route.source !== undefined && family !== undefined && parseCidr(route.source)?.family !== family) {
      fault('source', 'expected a range of the same family as the destination');
    }
    const isNormal = route.type === 'normal';
    if (isNormal && route.nextHopPortId === undefined) fault('nextHopPortId', 'expected a port of the router');
    if ((route.type === 'blackhole' || route.type === 'reject') && route.nextHopPortId !== undefined) {
      fault('nextHopPortId', `expected none on a ${route.type} route`);
    }
    if (route.gateway !== undefined && !isNormal) fault('gateway', `expected none on a ${route.type} route`);
    if (route.gateway !== undefined && family !== undefined && route.gateway.includes(':') !== (family === 6)) {
      fault('gateway', 'expected an address of the same family as the destination');
    }
  });

/** A range of addresses of a bridge, handed out to hosts in blocks of 2^(32 or 128 - blockSize) addresses. */
export const addressPoolSchema = z
  .strictObject({
    id: uuid,
    name: nameSchema.optional(),
    bridgeId: reference,
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

/** The MAC address of a router at a port of it, when its description has none: the end of the port's id makes it one of its own. */
export function routerPortMac({ id, mac }: Port): string {
  return mac ?? `ac:ca:ba:${id.slice(-6, -4)}:${id.slice(-4, -2)}:${id.slice(-2)}`;
}

/** Whether the port is of a bridge. */
export function isBridgePort(port: Port): port is Port & BridgePort {
  return port.bridgeId !== undefined;
}

export type Bridge = z.output<typeof bridgeSchema>;
export type Router = z.output<typeof routerSchema>;
export type Binding = z.output<typeof bindingSchema>;
export type Port = z.output<typeof portSchema>;
export type BridgePort = z.output<typeof bridgePortSchema>;
export type Route = z.output<typeof routeSchema>;
export type AddressPool = z.output<typeof addressPoolSchema>;
