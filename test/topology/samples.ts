import { randomUUID } from 'node:crypto';
import { positionBetween } from '../../src/topology/position.js';
import type { ReferenceRow } from '../../src/topology/references.js';
import type { Kind } from '../../src/topology/types.js';

/** An object in the form that `create` takes, whatever its kind. */
export type Sample = Record<string, unknown> & { id: string };

/** Gives the identifier of an object of the kind, which the caller makes. */
export type Need = (kind: Kind) => string;

/** Fields that an object of each kind cannot do without. */
const REQUIRED: Readonly<Record<Kind, (need: Need) => Record<string, unknown>>> = {
  bridge: () => ({ name: 'blue' }),
  router: () => ({ name: 'edge' }),
  port: (need) => ({ bridgeId: need('bridge') }),
  route: (need) => ({ routerId: need('router'), type: 'blackhole', destination: '10.0.0.0/8' }),
  'address-pool': (need) => ({ bridgeId: need('bridge'), cidr: '10.0.0.0/16', blockSize: 26 }),
  chain: () => ({ name: 'filter' }),
  rule: (need) => ({ chainId: need('chain'), type: 'accept', position: positionBetween(undefined, undefined) }),
  'ip-address-group': () => ({ name: 'web' }),
  'port-group': () => ({ name: 'uplinks' }),
  'load-balancer': () => ({}),
  pool: () => ({}),
  'pool-member': (need) => ({ poolId: need('pool'), address: '10.0.0.2', protocolPort: 80 }),
  vip: (need) => ({ poolId: need('pool'), address: '10.1.0.1', protocolPort: 80 }),
  'health-monitor': () => ({ delay: 5, timeout: 2, maxRetries: 3 }),
  'dhcp-subnet': (need) => ({ bridgeId: need('bridge'), cidr: '10.0.0.0/24' }),
  'dhcp-v6-subnet': (need) => ({ bridgeId: need('bridge'), prefix: 'fd00::/64' }),
  'bgp-network': (need) => ({ routerId: need('router'), cidr: '10.0.0.0/16' }),
  'bgp-peer': (need) => ({ routerId: need('router'), address: '192.0.2.9', asNumber: 64_512 }),
  mirror: (need) => ({ toPortId: need('port') }),
  'l2-insertion': (need) => ({ portId: need('port'), servicePortId: need('port'), mac: '02:00:00:00:00:09' }),
  'qos-policy': () => ({ name: 'slow', rules: [{ type: 'bandwidth-limit', maxKbps: 1000 }] }),
  'trace-request': (need) => ({ createdAt: 0, bridgeId: need('bridge') }),
  host: () => ({ name: 'node-1' }),
  'host-group': () => ({ name: 'rack' }),
  'tunnel-zone': () => ({ name: 'underlay', type: 'vxlan' }),
  vtep: (need) => ({ managementAddress: '192.0.2.8', tunnelZoneId: need('tunnel-zone') }),
  'gateway-device': () => ({}),
  'remote-mac-entry': (need) => ({
    gatewayDeviceId: need('gateway-device'),
    mac: '02:00:00:00:00:08',
    vtepAddress: '192.0.2.7',
    vni: 5,
  }),
  'rule-logger': (need) => ({ chainId: need('chain'), loggingResourceId: need('logging-resource') }),
  'logging-resource': () => ({}),
};

export function sample(kind: Kind, need: Need): Sample {
  return { id: randomUUID(), ...REQUIRED[kind](need) };
}

/** What has to be otherwise for an object to have the field. */
const VARIANTS: Readonly<Record<string, (need: Need) => Record<string, unknown>>> = {
  'port.routerId': () => ({ bridgeId: undefined }),
  'route.nextHopPortId': () => ({ type: 'normal' }),
  'rule.jumpChainId': () => ({ type: 'jump' }),
  'rule.targetPortId': () => ({ type: 'l2-transform', action: 'redirect' }),
  'rule.traceRequestId': () => ({ type: 'trace' }),
  'l2-insertion.portId': (need) => ({ servicePortId: need('port') }),
  'l2-insertion.servicePortId': (need) => ({ portId: need('port') }),
  'trace-request.routerId': () => ({ bridgeId: undefined }),
  'trace-request.portId': () => ({ bridgeId: undefined }),
};

/** An object that names `id` in the field of the row. */
export function holder(row: ReferenceRow, id: string, need: Need): Sample {
  const own = row.field.replace('[]', '');
  const required = (kind: Kind) => (kind === row.names && own === row.field ? id : need(kind));
  const base = { ...sample(row.kind, required), ...VARIANTS[`${row.kind}.${row.field}`]?.(need) };
  return { ...base, ...fieldOf(row, id) } as Sample;
}

function fieldOf(row: ReferenceRow, id: string): Record<string, unknown> {
  if (row.field === 'binding.hostId') return { binding: { hostId: id, interfaceName: 'eth1' } };
  if (row.field === 'tunnelZones[].zoneId') return { tunnelZones: [{ zoneId: id, address: '192.0.2.1' }] };
  if (row.field === 'bindings[].bridgeId') return { bindings: [{ portName: 'p1', vlanId: 7, bridgeId: id }] };
  const [outer, inner] = row.field.split('.');
  const name = (step: string) => step.replace('[]', '');
  const value = (step: string, content: unknown) => (step.endsWith('[]') ? [content] : content);
  if (inner === undefined) return { [name(outer)]: value(outer, id) };
  return { [name(outer)]: value(outer, { [name(inner)]: value(inner, id) }) };
}
