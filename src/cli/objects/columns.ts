import type { Kind } from '../../topology/types.js';
import { formatDetails, formatTable } from '../terminal/table.js';
import { type Field, fieldsOf, kebab } from './fields.js';
import { type AnyObject, type Names, shortId } from './names.js';
import { formatValue } from './values.js';

/** How objects are shown to people. */

type Cell = (object: AnyObject, names: Names) => Promise<string>;
type Column = readonly [title: string, cell: Cell];

/** The value of a field, references by name. */
function field(kind: Kind, name: string, title?: string): Column {
  const found = fieldsOf(kind).find((one) => one.name === name)!;
  return [title ?? titleOf(found), (object, names) => formatField(found, object, names)];
}

function titleOf({ word }: Field): string {
  return word === 'adminStateUp' ? 'UP' : kebab(word).replaceAll('-', ' ').toUpperCase();
}

const ID: Column = ['ID', async ({ id }) => shortId(id)];
const WHOLE_ID: Column = ['ID', async ({ id }) => id];

/** The fields that a table of a kind shows besides id, name and tenant, in this order. */
const SHOWN: Readonly<Record<Kind, readonly (string | Column)[]>> = {
  bridge: ['adminStateUp', 'inboundFilterId', 'outboundFilterId', 'loadBalancerId'],
  router: ['adminStateUp', 'inboundFilterId', 'outboundFilterId', 'loadBalancerId', 'asNumber'],
  port: [
    ['DEVICE', deviceOf],
    'adminStateUp',
    'mac',
    ['ADDRESSES', async ({ addresses, subnets }) => [addresses, subnets].flat().filter(isGiven).join(',')],
    ['ATTACHED TO', attachmentOf],
    'vlanId',
  ],
  route: ['routerId', 'source', 'destination', 'type', 'nextHopPortId', 'gateway', 'weight'],
  'address-pool': ['bridgeId', 'cidr', 'blockSize', 'gateway'],
  chain: [],
  rule: ['chainId', 'type', 'action', 'condition', ['DETAILS', ruleDetails]],
  'ip-address-group': [],
  'port-group': ['stateful'],
  'load-balancer': ['adminStateUp'],
  pool: ['loadBalancerId', 'adminStateUp', 'protocol', 'healthMonitorId'],
  'pool-member': ['poolId', 'address', 'protocolPort', 'weight', 'adminStateUp', 'status'],
  vip: ['poolId', 'address', 'protocolPort', 'adminStateUp', 'sessionPersistence'],
  'health-monitor': ['type', 'delay', 'timeout', 'maxRetries', 'adminStateUp'],
  'dhcp-subnet': ['bridgeId', 'cidr', 'enabled', 'defaultGateway', 'dnsServers'],
  'dhcp-v6-subnet': ['bridgeId', 'prefix', 'enabled', 'addressing', 'gateway'],
  'bgp-network': ['routerId', 'cidr'],
  'bgp-peer': ['routerId', 'address', 'asNumber'],
  mirror: ['toPortId', 'conditions'],
  'l2-insertion': ['portId', 'servicePortId', 'mac', 'vlanId', 'position', 'failOpen'],
  'qos-policy': ['shared', 'rules', 'description'],
  'trace-request': ['enabled', 'bridgeId', 'routerId', 'portId', 'condition', 'limit'],
  host: [
    ['AGENT', async ({ id }, names) => ((await names.isAlive(id)) ? 'runs' : 'none')],
    'tunnelZones',
    'hostGroupIds',
    'floodingProxyWeight',
  ],
  'host-group': [],
  'tunnel-zone': ['type'],
  vtep: ['managementAddress', 'managementPort', 'tunnelZoneId'],
  'gateway-device': ['routerId', 'tunnelAddresses'],
  'remote-mac-entry': ['gatewayDeviceId', 'mac', 'vtepAddress', 'vni'],
  'rule-logger': ['chainId', 'loggingResourceId', 'event'],
  'logging-resource': ['type', 'enabled'],
};

/** `wide`: all fields, and whole identifiers. */
export async function tableOf(kind: Kind, objects: readonly AnyObject[], names: Names, wide: boolean): Promise<string> {
  const columns = wide ? wideColumns(kind) : narrowColumns(kind);
  // Names of what is referred to are asked for together.
  const rows = await Promise.all(objects.map((object) => rowOf(columns, object, names)));
  return formatTable(
    columns.map(([title]) => title),
    rows,
  );
}

/** The titles of the rows that {@link lineOf} makes. */
export function titlesOf(kind: Kind): string[] {
  return narrowColumns(kind).map(([title]) => title);
}

/** A row of the table that {@link tableOf} makes, and its titles, for rows that come one by one. */
export async function lineOf(kind: Kind, object: AnyObject, names: Names): Promise<[title: string, cell: string][]> {
  const columns = narrowColumns(kind);
  const cells = await rowOf(columns, object, names);
  return columns.map(([title], i) => [title, cells[i]]);
}

function rowOf(columns: readonly Column[], object: AnyObject, names: Names): Promise<string[]> {
  return Promise.all(columns.map(([, cell]) => cell(object, names)));
}

function narrowColumns(kind: Kind): Column[] {
  const given = fieldsOf(kind).map(({ name }) => name);
  const common = ['name', 'tenantId'].filter((name) => given.includes(name));
  return [ID, ...[...common, ...SHOWN[kind]].map((one) => (typeof one === 'string' ? field(kind, one) : one))];
}

function wideColumns(kind: Kind): Column[] {
  const names = fieldsOf(kind).map(({ name }) => name);
  const first = ['name', 'tenantId'].filter((name) => names.includes(name));
  const rest = names.filter((name) => name !== 'id' && !first.includes(name));
  return [WHOLE_ID, ...[...first, ...rest].map((name) => field(kind, name))];
}

/** All that an object says, a field a line. */
export async function detailsOf(kind: Kind, object: AnyObject, names: Names): Promise<string> {
  const entries = await Promise.all(
    fieldsOf(kind)
      .filter(({ name }) => object[name] !== undefined)
      .map(
        async (one): Promise<[string, string]> => [
          one.word,
          await formatField(one, object, names, (id, name) => `${name} (${id})`),
        ],
      ),
  );
  return formatDetails(entries);
}

type Show = (id: string, name: string) => string;

/** The value of a field in words, references by name. */
export async function formatField(
  { name, shape }: Field,
  object: AnyObject,
  names: Names,
  show: Show = (_, name) => name,
): Promise<string> {
  const asked = new Map<string, Promise<string>>();
  // Once to find out which names are wanted, and once with them.
  formatValue(shape, object[name], (kind, id) => {
    asked.set(id, names.nameOf(kind, id));
    return '';
  });
  const known = new Map<string, string>();
  for (const [id, found] of asked) known.set(id, show(id, await found));
  return formatValue(shape, object[name], (_, id) => known.get(id)!);
}

async function deviceOf({ bridgeId, routerId }: AnyObject, names: Names): Promise<string> {
  return bridgeId === undefined
    ? names.nameOf('router', routerId as string)
    : names.nameOf('bridge', bridgeId as string);
}

async function attachmentOf({ binding, peerId }: AnyObject, names: Names): Promise<string> {
  if (peerId !== undefined) return `port ${await names.nameOf('port', peerId as string)}`;
  if (binding === undefined) return '';
  const { hostId, interfaceName } = binding as { hostId: string; interfaceName: string };
  return `${await names.nameOf('host', hostId)}:${interfaceName}`;
}

async function ruleDetails(rule: AnyObject, names: Names): Promise<string> {
  const shown = ['jumpChainId', 'targets', 'popVlan', 'pushVlanId', 'targetPortId', 'traceRequestId'];
  const details = fieldsOf('rule').filter(({ name }) => shown.includes(name) && rule[name] !== undefined);
  const texts = await Promise.all(details.map((one) => formatField(one, rule, names)));
  return texts.map((text, i) => `${kebab(details[i].word)}=${text}`).join(' ');
}

function isGiven(value: unknown): boolean {
  return value !== undefined;
}
