import type { Port } from './devices.js';
import type { Kind, TopologyTypes } from './types.js';

/** What becomes of the holder of a reference when the object it names is deleted. */
export type OnDelete = 'cascade' | 'clear' | 'refuse';

/** One field that names another object. */
export interface ReferenceRow {
  /** The kind of object that holds the field. */
  readonly kind: Kind;
  /** Names of fields from the outside in; one that ends in `[]` is a list of which each element counts. */
  readonly field: string;
  /** The kind that it names. */
  readonly names: Kind;
  /**
   * When the named object is deleted: `cascade`, the holder is deleted, too; `clear`, it goes on without the reference: the
   * innermost list element that contains it goes, or else the whole outermost field; `refuse`, the deletion fails.
   */
  readonly onDelete: OnDelete;
  /** With `clear`: holders that are deleted nevertheless. */
  readonly cascadeIf?: (holder: never) => boolean;
  /** `refuse`: the holder cannot be deleted while the field is set. */
  readonly onDeleteHolder?: 'refuse';
  /** An object is named by one holder at most. */
  readonly exclusive?: true;
  /** The named object names the holder in the same field; both are set and cleared together. */
  readonly symmetric?: true;
}

type Rest = Omit<ReferenceRow, 'kind' | 'field' | 'names' | 'onDelete'>;

function row(kind: Kind, field: string, names: Kind, onDelete: OnDelete, rest: Rest = {}): ReferenceRow {
  return { kind, field, names, onDelete, ...rest };
}

/** The references of a condition. A group that a condition compares with must stay: without it, more would match. */
function conditionRows(kind: Kind, field: string): ReferenceRow[] {
  return [
    row(kind, `${field}.inPortIds[]`, 'port', 'clear'),
    row(kind, `${field}.outPortIds[]`, 'port', 'clear'),
    row(kind, `${field}.portGroupId`, 'port-group', 'refuse'),
    row(kind, `${field}.inPortGroupId`, 'port-group', 'refuse'),
    row(kind, `${field}.outPortGroupId`, 'port-group', 'refuse'),
    row(kind, `${field}.sourceAddressGroupId`, 'ip-address-group', 'refuse'),
    row(kind, `${field}.destinationAddressGroupId`, 'ip-address-group', 'refuse'),
    row(kind, `${field}.traversedBridgeIds[]`, 'bridge', 'clear'),
    row(kind, `${field}.traversedRouterIds[]`, 'router', 'clear'),
  ];
}

/** Filters and mirrors, which bridges, routers and ports have alike. */
function deviceRows(kind: 'bridge' | 'router' | 'port'): ReferenceRow[] {
  return [
    row(kind, 'inboundFilterId', 'chain', 'clear'),
    row(kind, 'outboundFilterId', 'chain', 'clear'),
    row(kind, 'inboundMirrorIds[]', 'mirror', 'clear'),
    row(kind, 'outboundMirrorIds[]', 'mirror', 'clear'),
  ];
}

/** Nobody but the front end that made the port could delete it, and its addresses would never be free again. */
const hasOwner = (port: Port) => port.owner !== undefined;

/** Every reference of the topology, and what deleting either end of it does. */
export const REFERENCES: readonly ReferenceRow[] = [
  ...deviceRows('bridge'),
  row('bridge', 'qosPolicyId', 'qos-policy', 'clear'),
  row('bridge', 'loadBalancerId', 'load-balancer', 'clear'),

  ...deviceRows('router'),
  row('router', 'loadBalancerId', 'load-balancer', 'clear', { exclusive: true, onDeleteHolder: 'refuse' }),
  row('router', 'localRedirectChainId', 'chain', 'clear'),
  row('router', 'forwardChainId', 'chain', 'clear'),

  row('port', 'bridgeId', 'bridge', 'cascade'),
  row('port', 'routerId', 'router', 'cascade'),
  row('port', 'binding.hostId', 'host', 'clear', { cascadeIf: hasOwner }),
  row('port', 'peerId', 'port', 'clear', { symmetric: true }),
  ...deviceRows('port'),
  row('port', 'postInFilterMirrorIds[]', 'mirror', 'clear'),
  row('port', 'preOutFilterMirrorIds[]', 'mirror', 'clear'),
  row('port', 'portGroupIds[]', 'port-group', 'clear'),
  row('port', 'qosPolicyId', 'qos-policy', 'clear'),
  row('port', 'insertionIds[]', 'l2-insertion', 'clear'),
  row('port', 'serviceInsertionIds[]', 'l2-insertion', 'clear'),
  row('port', 'vtepId', 'vtep', 'cascade'),
  row('port', 'dhcpSubnetId', 'dhcp-subnet', 'clear'),

  row('route', 'routerId', 'router', 'cascade'),
  row('route', 'nextHopPortId', 'port', 'cascade'),
  row('route', 'dhcpSubnetId', 'dhcp-subnet', 'cascade'),
  row('address-pool', 'bridgeId', 'bridge', 'cascade'),

  row('rule', 'chainId', 'chain', 'cascade'),
  row('rule', 'jumpChainId', 'chain', 'cascade'),
  row('rule', 'floatingIpPortId', 'port', 'cascade'),
  row('rule', 'targetPortId', 'port', 'cascade'),
  row('rule', 'traceRequestId', 'trace-request', 'cascade'),
  ...conditionRows('rule', 'condition'),

  row('pool', 'loadBalancerId', 'load-balancer', 'cascade'),
  row('pool', 'healthMonitorId', 'health-monitor', 'clear'),
  row('pool-member', 'poolId', 'pool', 'cascade'),
  row('vip', 'poolId', 'pool', 'cascade'),
  row('vip', 'gatewayPortId', 'port', 'refuse'),

  row('dhcp-subnet', 'bridgeId', 'bridge', 'cascade'),
  row('dhcp-v6-subnet', 'bridgeId', 'bridge', 'cascade'),

  row('bgp-network', 'routerId', 'router', 'cascade'),
  row('bgp-peer', 'routerId', 'router', 'cascade'),

  row('mirror', 'toPortId', 'port', 'cascade'),
  ...conditionRows('mirror', 'conditions[]'),
  row('l2-insertion', 'portId', 'port', 'cascade'),
  row('l2-insertion', 'servicePortId', 'port', 'cascade'),
  row('trace-request', 'bridgeId', 'bridge', 'cascade'),
  row('trace-request', 'routerId', 'router', 'cascade'),
  row('trace-request', 'portId', 'port', 'cascade'),
  ...conditionRows('trace-request', 'condition'),

  row('host', 'tunnelZones[].zoneId', 'tunnel-zone', 'clear'),
  row('host', 'hostGroupIds[]', 'host-group', 'clear'),

  row('vtep', 'tunnelZoneId', 'tunnel-zone', 'refuse'),
  row('vtep', 'bindings[].bridgeId', 'bridge', 'clear', { onDeleteHolder: 'refuse' }),
  row('gateway-device', 'routerId', 'router', 'clear'),
  row('remote-mac-entry', 'gatewayDeviceId', 'gateway-device', 'cascade'),
  row('remote-mac-entry', 'portIds[]', 'port', 'clear'),

  row('rule-logger', 'chainId', 'chain', 'cascade'),
  row('rule-logger', 'loggingResourceId', 'logging-resource', 'cascade'),
];

const BY_HOLDER = new Map<Kind, ReferenceRow[]>();
const BY_NAMED = new Map<Kind, ReferenceRow[]>();
for (const one of REFERENCES) {
  BY_HOLDER.set(one.kind, [...(BY_HOLDER.get(one.kind) ?? []), one]);
  BY_NAMED.set(one.names, [...(BY_NAMED.get(one.names) ?? []), one]);
}

/** The rows of the fields that a kind of object holds. */
export function referencesOf(kind: Kind): readonly ReferenceRow[] {
  return BY_HOLDER.get(kind) ?? [];
}

/** The rows of the fields that name a kind of object. */
export function referencesTo(kind: Kind): readonly ReferenceRow[] {
  return BY_NAMED.get(kind) ?? [];
}

/** One reference of an object: which field, as errors name it, and which object it names. */
export interface Reference {
  readonly row: ReferenceRow;
  /** Such as `tunnelZones[1].zoneId`. */
  readonly field: string;
  readonly id: string;
}

/** The references that an object holds, in the order of the table. */
export function referencesIn(kind: Kind, object: TopologyTypes[Kind]): Reference[] {
  const found: Reference[] = [];
  for (const row of referencesOf(kind)) collect(row, object, STEPS.get(row)!, '', found);
  return found;
}

/** Whether the object names `id` in the field of the row. */
export function refersTo(row: ReferenceRow, object: TopologyTypes[Kind], id: string): boolean {
  const found: Reference[] = [];
  collect(row, object, STEPS.get(row)!, '', found);
  return found.some((reference) => reference.id === id);
}

/** One step of a field's path. */
interface Step {
  readonly name: string;
  readonly isList: boolean;
}

const STEPS = new Map<ReferenceRow, readonly Step[]>(
  REFERENCES.map((one) => [
    one,
    one.field.split('.').map((step) => ({ name: step.replace('[]', ''), isList: step.endsWith('[]') })),
  ]),
);

function collect(row: ReferenceRow, value: unknown, steps: readonly Step[], at: string, found: Reference[]): void {
  if (value === undefined) return;
  if (steps.length === 0) {
    found.push({ row, field: at, id: value as string });
    return;
  }
  const [{ name, isList }, ...rest] = steps;
  const child = (value as Record<string, unknown>)[name];
  if (child === undefined) return;
  const field = at === '' ? name : `${at}.${name}`;
  if (!isList) collect(row, child, rest, field, found);
  else for (const [i, element] of (child as unknown[]).entries()) collect(row, element, rest, `${field}[${i}]`, found);
}

/** The object without the references of a row to `id`; the same object if it has none. */
export function withoutReference<T extends TopologyTypes[Kind]>(row: ReferenceRow, object: T, id: string): T {
  return without(object, STEPS.get(row)!, id) as T;
}

function without(value: object, steps: readonly Step[], id: string): object {
  const [{ name, isList }, ...rest] = steps;
  const { [name]: child, ...others } = value as Record<string, unknown>;
  if (child === undefined) return value;
  const isInnermost = !rest.some((inner) => inner.isList);
  if (isList) {
    const elements = child as unknown[];
    const kept = isInnermost
      ? elements.filter((element) => valueAt(element, rest) !== id)
      : elements.map((element) => without(element as object, rest, id));
    const isSame = kept.length === elements.length && kept.every((element, i) => element === elements[i]);
    return isSame ? value : { ...value, [name]: kept };
  }
  if (isInnermost) return valueAt(child, rest) === id ? others : value;
  const changed = without(child as object, rest, id);
  return changed === child ? value : { ...value, [name]: changed };
}

function valueAt(value: unknown, steps: readonly Step[]): unknown {
  return steps.reduce<unknown>((at, { name }) => (at as Record<string, unknown> | undefined)?.[name], value);
}
