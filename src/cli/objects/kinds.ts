import { COLLECTIONS, segmentOf } from '../../api/description/resources.js';
import { InvalidInputError, MidonetError, UnsupportedError } from '../../errors.js';
import { KINDS, type Kind } from '../../topology/types.js';
import { nearest } from './nearest.js';

/** What each kind of object is, in a few words, and an example of making one. */
export const ABOUT: Readonly<Record<Kind, { readonly description: string; readonly example: string }>> = {
  bridge: { description: 'Layer 2 networks', example: 'create web --tenant blue' },
  router: { description: 'Routers', example: 'create edge --tenant blue' },
  port: {
    description: 'Ports of bridges and routers',
    example: 'create vm1 --bridge web --mac 02:00:00:00:00:01 --addresses 10.0.0.2',
  },
  route: {
    description: 'Routes of routers',
    example:
      'create --router edge --type normal --destination 0.0.0.0/0 --next-hop-port edge/uplink --gateway 192.0.2.1',
  },
  'address-pool': {
    description: 'Ranges of addresses that hosts hand out on a bridge',
    example: 'create --bridge pods --cidr 10.88.0.0/16 --block-size 26',
  },
  chain: { description: 'Chains of rules: firewalls and NAT', example: 'create fw --tenant blue' },
  rule: {
    description: 'Rules of chains',
    example: 'create --chain fw --type accept --protocol tcp --destination-ports 80 --source 10.0.0.0/8',
  },
  'ip-address-group': { description: 'Groups of addresses that rules compare with', example: 'create admins' },
  'port-group': { description: 'Groups of ports', example: 'create uplinks --stateful true' },
  'load-balancer': { description: 'Load balancers', example: 'create lb --tenant blue' },
  pool: { description: 'Pools of servers', example: 'create web --load-balancer lb --protocol tcp' },
  'pool-member': {
    description: 'Servers of pools',
    example: 'create --pool web --address 10.0.0.2 --protocol-port 8080',
  },
  vip: {
    description: 'Addresses that clients of a pool connect to',
    example: 'create --pool web --address 10.99.0.1 --protocol-port 80',
  },
  'health-monitor': {
    description: 'How the servers of pools are looked after',
    example: 'create --delay 5 --timeout 2 --max-retries 3',
  },
  'dhcp-subnet': {
    description: 'Subnets served by DHCP',
    example: 'create --bridge web --cidr 10.0.0.0/24 --default-gateway 10.0.0.1',
  },
  'dhcp-v6-subnet': {
    description: 'IPv6 subnets served by DHCPv6 and router advertisements',
    example: 'create --bridge web --prefix fd00::/64 --addressing stateful',
  },
  'bgp-network': {
    description: 'Address ranges that routers announce',
    example: 'create --router edge --cidr 10.0.0.0/16',
  },
  'bgp-peer': {
    description: 'BGP neighbours of routers',
    example: 'create --router edge --address 192.0.2.9 --as-number 64512',
  },
  mirror: { description: 'Copies of traffic to a port', example: 'create tap --to-port tools/analyser' },
  'l2-insertion': {
    description: 'Services that the traffic of a machine goes through',
    example: 'create --port web/vm1 --service-port services/scanner --mac 02:00:00:00:00:01',
  },
  'qos-policy': {
    description: 'Rate limits and DSCP marks',
    example: 'create slow --rules type=bandwidth-limit,max-kbps=1000',
  },
  'trace-request': {
    description: 'Packets at a device that are to be traced',
    example: 'create --port web/vm1 --enabled true --limit 10',
  },
  host: {
    description: 'Machines that run an agent',
    example: 'update node-1 --tunnel-zones zone=underlay,address=10.0.0.11',
  },
  'host-group': { description: 'Groups of hosts', example: 'create rack-1' },
  'tunnel-zone': { description: 'Underlay networks between hosts', example: 'create underlay --type vxlan' },
  vtep: {
    description: 'Switches that end VXLAN tunnels',
    example: 'create tor-1 --management-address 192.0.2.8 --tunnel-zone vteps',
  },
  'gateway-device': { description: 'Routers joined to those of other sites', example: 'create site-b --router edge' },
  'remote-mac-entry': {
    description: 'MAC addresses behind VTEPs of other sites',
    example: 'create --gateway-device site-b --mac 02:00:00:00:00:08 --vtep-address 192.0.2.7 --vni 5',
  },
  'rule-logger': {
    description: 'Chains whose decisions are logged',
    example: 'create --chain fw --logging-resource log --event drop',
  },
  'logging-resource': { description: 'Where decisions are logged', example: 'create log --type file' },
};

/** What belongs to objects and is none itself, and where it is found. */
const NO_OBJECTS: Readonly<Record<string, string>> = {
  addresses:
    'no objects, and not to be watched; `midonet ip-address-group list-addresses GROUP` tells which are in a group',
  'mac-table': 'not to be watched; GET /v1/bridges/ID/mac-table of the API has the entries of a bridge',
  'ip-table': 'not to be watched; GET /v1/bridges/ID/ip-table of the API has the entries of a bridge',
  neighbors: 'not to be watched; GET /v1/ports/ID/neighbors of the API has those of a port',
  'learned-routes': 'not to be watched; GET /v1/routers/ID/learned-routes of the API has those of a router',
};

/** The kind of this name, in the singular or the plural. */
export function kindCalled(word: string): Kind | undefined {
  return KINDS.find((one) => one === word) ?? COLLECTIONS.get(word);
}

/**
 * The kind that somebody names in the singular or the plural.
 * @param at names the option or field in errors
 * @throws MidonetError, with the nearest where there is one
 */
export function kindNamed(text: string, at = 'kind'): Kind {
  const word = text.toLowerCase();
  const kind = kindCalled(word);
  if (kind !== undefined) return kind;
  const elsewhere = NO_OBJECTS[word];
  if (elsewhere !== undefined) throw new UnsupportedError(`${at} ${text}`, elsewhere);
  const near = nearest(word, [...KINDS, ...KINDS.map(segmentOf)]);
  if (near === undefined) throw new InvalidInputError(at, text, `expected one of ${KINDS.join(', ')}`);
  throw new MidonetError('MN_INVALID_INPUT', `${at}: there are no objects called ${text}; did you mean ${near}?`);
}
