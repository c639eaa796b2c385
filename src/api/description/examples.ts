import type { z } from 'zod';
import { idFromName } from '../../topology/id.js';
import { referencesIn } from '../../topology/references.js';
import { KINDS, type Kind, SCHEMAS, type TopologyTypes } from '../../topology/types.js';
import { validate } from '../../topology/validate.js';

/** An object as a client sends it. */
export type ExampleObject<K extends Kind> = z.input<(typeof SCHEMAS)[K]>;

/** An example with its kind. */
export type Example = { [K in Kind]: { readonly kind: K; readonly object: ExampleObject<K> } }[Kind];

const id = (name: string) => idFromName('example', name);

/** One object of each kind. Those that they name are among them, and in {@link OTHERS}. */
export const EXAMPLES: { readonly [K in Kind]: ExampleObject<K> } = {
  bridge: { id: id('bridge'), name: 'web', tenantId: 'blue' },
  router: { id: id('router'), name: 'edge', tenantId: 'blue', asNumber: 64_512 },
  port: { id: id('port'), bridgeId: id('bridge'), mac: '02:00:00:00:00:10', addresses: ['10.0.0.10'] },
  route: { id: id('route'), routerId: id('router'), type: 'blackhole', destination: '10.9.0.0/16', weight: 50 },
  'address-pool': {
    id: id('address-pool'),
    bridgeId: id('bridge'),
    cidr: '10.0.0.0/16',
    blockSize: 26,
    gateway: '10.0.0.1',
  },
  chain: { id: id('chain'), name: 'firewall', tenantId: 'blue' },
  rule: {
    id: id('rule'),
    chainId: id('chain'),
    type: 'accept',
    position: 'i0000000',
    condition: { protocol: 6, destinationPorts: { start: 80, end: 80 } },
  },
  'ip-address-group': { id: id('ip-address-group'), name: 'offices', tenantId: 'blue' },
  'port-group': { id: id('port-group'), name: 'uplinks', tenantId: 'blue', stateful: true },
  'load-balancer': { id: id('load-balancer'), name: 'shop', tenantId: 'blue' },
  pool: { id: id('pool'), name: 'shop-servers', loadBalancerId: id('load-balancer'), protocol: 'tcp' },
  'pool-member': { id: id('pool-member'), poolId: id('pool'), address: '10.0.0.10', protocolPort: 8080, weight: 2 },
  vip: {
    id: id('vip'),
    poolId: id('pool'),
    address: '203.0.113.10',
    protocolPort: 80,
    sessionPersistence: 'source-ip',
  },
  'health-monitor': { id: id('health-monitor'), delay: 5, timeout: 2, maxRetries: 3 },
  'dhcp-subnet': {
    id: id('dhcp-subnet'),
    bridgeId: id('bridge'),
    cidr: '10.0.0.0/24',
    defaultGateway: '10.0.0.1',
    dnsServers: ['192.0.2.53'],
  },
  'dhcp-v6-subnet': {
    id: id('dhcp-v6-subnet'),
    bridgeId: id('bridge'),
    prefix: 'fd00:0:0:1::/64',
    addressing: 'slaac',
  },
  'bgp-network': { id: id('bgp-network'), routerId: id('router'), cidr: '203.0.113.0/24' },
  'bgp-peer': { id: id('bgp-peer'), routerId: id('router'), address: '192.0.2.9', asNumber: 64_513, holdTime: 90 },
  mirror: { id: id('mirror'), name: 'web-traffic', toPortId: id('port'), conditions: [{ protocol: 17 }] },
  'l2-insertion': {
    id: id('l2-insertion'),
    portId: id('port'),
    servicePortId: id('service-port'),
    mac: '02:00:00:00:00:10',
    failOpen: true,
  },
  'qos-policy': {
    id: id('qos-policy'),
    name: 'slow',
    tenantId: 'blue',
    rules: [
      { type: 'bandwidth-limit', maxKbps: 10_000, maxBurstKb: 100 },
      { type: 'dscp', mark: 10 },
    ],
  },
  'trace-request': {
    id: id('trace-request'),
    name: 'lost-packets',
    portId: id('port'),
    createdAt: 1_750_000_000_000,
    limit: 10,
  },
  host: { id: id('host'), name: 'node-1', tunnelZones: [{ zoneId: id('tunnel-zone'), address: '192.0.2.1' }] },
  'host-group': { id: id('host-group'), name: 'rack-1' },
  'tunnel-zone': { id: id('tunnel-zone'), name: 'underlay', type: 'vxlan' },
  vtep: { id: id('vtep'), name: 'switch-1', managementAddress: '192.0.2.8', tunnelZoneId: id('tunnel-zone') },
  'gateway-device': { id: id('gateway-device'), name: 'site-2', tunnelAddresses: ['198.51.100.1'] },
  'remote-mac-entry': {
    id: id('remote-mac-entry'),
    gatewayDeviceId: id('gateway-device'),
    mac: '02:00:00:00:00:20',
    vtepAddress: '198.51.100.7',
    vni: 100,
  },
  'rule-logger': {
    id: id('rule-logger'),
    chainId: id('chain'),
    loggingResourceId: id('logging-resource'),
    event: 'drop',
  },
  'logging-resource': { id: id('logging-resource'), type: 'file', enabled: true },
};

/** A port that is bound to a host. */
export const BOUND_PORT_EXAMPLE: Extract<Example, { kind: 'port' }> = {
  kind: 'port',
  object: {
    id: id('bound-port'),
    bridgeId: id('bridge'),
    binding: { hostId: id('host'), interfaceName: 'eth5' },
  },
};

/** A port that is of a router. */
export const ROUTER_PORT_EXAMPLE: Extract<Example, { kind: 'port' }> = {
  kind: 'port',
  object: { id: id('router-port'), routerId: id('router'), mac: '02:00:00:00:00:01', subnets: ['10.0.0.1/24'] },
};

/** Second ones of their kinds, which examples of others need. */
export const OTHERS: readonly Example[] = [
  ROUTER_PORT_EXAMPLE,
  BOUND_PORT_EXAMPLE,
  { kind: 'port', object: { id: id('service-port'), bridgeId: id('bridge') } },
];

const ALL: readonly Example[] = [...KINDS.map((kind) => ({ kind, object: EXAMPLES[kind] }) as Example), ...OTHERS];

/** The example of a kind and what must be there for it, each behind the objects that it names. */
export function exampleOf(kind: Kind): readonly Example[] {
  const found: Example[] = [];
  const add = (example: Example) => {
    if (found.includes(example)) return;
    const object = validate(SCHEMAS[example.kind], example.object, example.kind) as TopologyTypes[Kind];
    const named = referencesIn(example.kind, object);
    for (const { id } of named) add(ALL.find((other) => other.object.id === id)!);
    found.push(example);
  };
  add(ALL.find((example) => example.kind === kind)!);
  return found;
}
