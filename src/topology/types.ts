import type { z } from 'zod';
import { chainSchema, ruleSchema } from './chains.js';
import { addressPoolSchema, bridgeSchema, portSchema, routerSchema, routeSchema } from './devices.js';
import { dhcpSubnetSchema, dhcpV6SubnetSchema } from './dhcp.js';
import { bgpNetworkSchema, bgpPeerSchema, gatewayDeviceSchema, remoteMacEntrySchema, vtepSchema } from './gateways.js';
import { hostGroupSchema, ipAddressGroupSchema, portGroupSchema } from './groups.js';
import { hostSchema, tunnelZoneSchema } from './hosts.js';
import { healthMonitorSchema, loadBalancerSchema, poolMemberSchema, poolSchema, vipSchema } from './load-balancing.js';
import {
  l2InsertionSchema,
  loggingResourceSchema,
  mirrorSchema,
  qosPolicySchema,
  ruleLoggerSchema,
  traceRequestSchema,
} from './observation.js';

/**
 * The virtual devices as data. One schema a type gives the TypeScript type, the validation and the stored JSON form.
 * Identifiers are UUIDs; addresses are text in canonical form (RFC 5952 for IPv6), MACs six lower-case hex pairs.
 */
export * from './chains.js';
export * from './devices.js';
export * from './dhcp.js';
export { interfaceNameSchema, nameSchema } from './fields.js';
export * from './gateways.js';
export * from './groups.js';
export * from './hosts.js';
export * from './load-balancing.js';
export * from './observation.js';

/** The object types with an identifier of their own, by the name under which they are stored. */
export const SCHEMAS = {
  bridge: bridgeSchema,
  router: routerSchema,
  port: portSchema,
  route: routeSchema,
  'address-pool': addressPoolSchema,
  chain: chainSchema,
  rule: ruleSchema,
  'ip-address-group': ipAddressGroupSchema,
  'port-group': portGroupSchema,
  'load-balancer': loadBalancerSchema,
  pool: poolSchema,
  'pool-member': poolMemberSchema,
  vip: vipSchema,
  'health-monitor': healthMonitorSchema,
  'dhcp-subnet': dhcpSubnetSchema,
  'dhcp-v6-subnet': dhcpV6SubnetSchema,
  'bgp-network': bgpNetworkSchema,
  'bgp-peer': bgpPeerSchema,
  mirror: mirrorSchema,
  'l2-insertion': l2InsertionSchema,
  'qos-policy': qosPolicySchema,
  'trace-request': traceRequestSchema,
  host: hostSchema,
  'host-group': hostGroupSchema,
  'tunnel-zone': tunnelZoneSchema,
  vtep: vtepSchema,
  'gateway-device': gatewayDeviceSchema,
  'remote-mac-entry': remoteMacEntrySchema,
  'rule-logger': ruleLoggerSchema,
  'logging-resource': loggingResourceSchema,
} as const;

export type Kind = keyof typeof SCHEMAS;

export type TopologyTypes = { [K in Kind]: z.output<(typeof SCHEMAS)[K]> };

/** In the order of the table, in which an object's references lead to kinds before and after it. */
export const KINDS = Object.keys(SCHEMAS) as Kind[];
