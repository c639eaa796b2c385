import fc from 'fast-check';
import { formatIpv4, formatIpv6 } from '../../src/packet/address.js';
import { EtherType } from '../../src/packet/ethernet.js';
import type { Condition } from '../../src/topology/chains.js';
import type { RuleSpec } from './filters.js';

/**
 * Virtual networks made at random, for properties that every network has. A plan is plain data, made such that every part of it can be
 * left out or made smaller without touching the rest: numbers that name others are taken modulo how many there are.
 */

/** The IPv4 and the IPv6 address of a thing. */
export interface Addresses {
  readonly ipv4: string;
  readonly ipv6: string;
}

export interface MachinePlan {
  readonly bridge: number;
  /** 0 or 1. */
  readonly host: number;
  /** Whether its addresses are in the tables of its bridge. */
  readonly isKnown: boolean;
  readonly isUp: boolean;
  readonly isIsolated: boolean;
  /** Chains of its port, by number. */
  readonly inbound: number | null;
  readonly outbound: number | null;
  readonly dscp: number | null;
}

export interface BridgePlan {
  readonly inbound: number | null;
  readonly outbound: number | null;
  /** Whether it answers requests for configuration. */
  readonly isServed: boolean;
}

export interface RoutePlan {
  readonly destination: string;
  readonly source: string | null;
  readonly weight: number;
  /** `port`: to the router's port at a bridge; the gateway is another router there, or the destination a neighbour itself. */
  readonly type: 'port' | 'blackhole' | 'reject' | 'local';
  readonly bridge: number;
  readonly gateway: number | null;
}

export interface RouterPlan {
  readonly bridges: readonly number[];
  readonly isUp: boolean;
  readonly inbound: number | null;
  readonly outbound: number | null;
  /** Of all its ports. */
  readonly portInbound: number | null;
  readonly portOutbound: number | null;
  /** Besides those to the networks of its bridges. */
  readonly routes: readonly RoutePlan[];
}

/** Two bridges that are linked, for a VLAN of either or for all. */
export interface TrunkPlan {
  readonly a: number;
  readonly b: number;
  readonly vlanA: number | null;
  readonly vlanB: number | null;
}

export interface MirrorPlan {
  readonly of: 'machine' | 'bridge' | 'router';
  readonly index: number;
  readonly tap: 'inboundMirrors' | 'outboundMirrors' | 'postInFilterMirrors' | 'preOutFilterMirrors';
  /** Machine that gets the copies. */
  readonly to: number;
  readonly condition: Condition;
}

/** Of both families, for TCP and UDP. */
export interface VipPlan {
  readonly of: 'bridge' | 'router';
  readonly index: number;
  readonly isSticky: boolean;
  /** Machines, by number. */
  readonly members: readonly number[];
}

export interface NetworkPlan {
  readonly bridges: readonly BridgePlan[];
  readonly machines: readonly MachinePlan[];
  readonly routers: readonly RouterPlan[];
  readonly trunks: readonly TrunkPlan[];
  readonly chains: readonly (readonly RuleSpec[])[];
  readonly mirrors: readonly MirrorPlan[];
  readonly vips: readonly VipPlan[];
}

export const MAX_BRIDGES = 3;
export const MAX_MACHINES = 5;
export const MAX_CHAINS = 4;
export const VIP: Addresses = { ipv4: '10.99.0.1', ipv6: 'fd99::1' };
export const VIP_PORT = 80;
export const MEMBER_PORT = 8080;
const MEMBER_PORTS = { start: MEMBER_PORT, end: MEMBER_PORT };
/** What sources are translated to. */
export const OUTER: Addresses = { ipv4: '10.98.0.1', ipv6: 'fd98::1' };
/** The VLAN tags that packets and links have. */
const VLANS = [5, 6];
/** Members of the address group that rules name. */
export const GROUP_MEMBERS = [machineAddresses(0, 0), machineAddresses(1, 1)].flatMap(({ ipv4, ipv6 }) => [ipv4, ipv6]);
export const ADDRESS_GROUP = 'two machines';
/** Ports of machines are in one of these by turns. */
export const PORT_GROUPS = ['even', 'odd'];

export function machineName(index: number): string {
  return 'abcdefgh'[index];
}

export function bridgeName(index: number): string {
  return `bridge-${index}`;
}

export function routerName(index: number): string {
  return `router-${index}`;
}

/** A router's port at a bridge. */
export function routerPortName(router: number, bridge: number): string {
  return `${routerName(router)}-${bridgeName(bridge)}`;
}

export function chainName(index: number): string {
  return `chain-${index}`;
}

/** Each bridge has a network of its own. */
export function networkOf(bridge: number): Addresses {
  return { ipv4: `10.0.${bridge + 1}.0/24`, ipv6: `fd00:0:0:${bridge + 1}::/64` };
}

function addressIn(bridge: number, host: number): Addresses {
  return {
    ipv4: formatIpv4(0x0a00_0000 + 0x100 * (bridge + 1) + host),
    ipv6: formatIpv6([0xfd00_0000, bridge + 1, 0, host]),
  };
}

export function machineAddresses(index: number, bridge: number): Addresses {
  return addressIn(bridge, 10 + index);
}

export function routerAddresses(index: number, bridge: number): Addresses {
  return addressIn(bridge, 1 + index);
}

/** Null in `nulls` of `nulls + 1` cases. */
export const maybe = <T>(arbitrary: fc.Arbitrary<T>, nulls = 1): fc.Arbitrary<T | null> =>
  fc.oneof({ withCrossShrink: true }, { weight: nulls, arbitrary: fc.constant(null) }, { weight: 1, arbitrary });
const mostly = (value: boolean) => fc.nat(11).map((number) => (number === 11 ? !value : value));
const bridge = fc.nat(MAX_BRIDGES - 1);
const machine = fc.nat(MAX_MACHINES - 1);
const chain = maybe(fc.nat(MAX_CHAINS - 1));
const network = bridge.chain((index) => fc.constantFrom(...Object.values(networkOf(index))));
/** Each machine is on the bridge of its number in half of the networks, for what names it by address. */
const address = fc
  .tuple(machine, bridge)
  .chain(([index, at]) => fc.constantFrom(...Object.values(machineAddresses(index, at))));
const range = fc.oneof(
  network,
  address.map((one) => `${one}/${one.includes(':') ? 128 : 32}`),
  fc.constantFrom(`${VIP.ipv4}/32`, `${VIP.ipv6}/128`, '10.0.0.0/8', 'fd00::/8', '10.0.2.0/23', `${OUTER.ipv4}/32`),
);
/** Those that packets have, and ends of ranges next to them. */
const port = fc.constantFrom(22, 79, 80, 81, 1000, 1023, 8080);
const ports = fc.tuple(port, port).map(([a, b]) => ({ start: Math.min(a, b), end: Math.max(a, b) }));

const FIELDS: { [F in keyof Condition]?: fc.Arbitrary<Condition[F]> } = {
  source: range,
  destination: range,
  protocol: fc.constantFrom(1, 6, 17, 58),
  sourcePorts: ports,
  destinationPorts: ports,
  matchForwardFlow: fc.constant(true),
  matchReturnFlow: fc.constant(true),
  inPortIds: fc.constantFrom(machineName(0), machineName(1), routerPortName(0, 0)).map((id) => [id]),
  outPortIds: fc.constantFrom(machineName(0), machineName(1), routerPortName(0, 0)).map((id) => [id]),
  portGroupId: fc.constantFrom(...PORT_GROUPS),
  outPortGroupId: fc.constantFrom(...PORT_GROUPS),
  sourceAddressGroupId: fc.constant(ADDRESS_GROUP),
  destinationAddressGroupId: fc.constant(ADDRESS_GROUP),
  traversedBridgeIds: bridge.map((index) => [bridgeName(index)]),
  traversedRouterIds: fc.constant([routerName(0)]),
  vlanId: fc.constantFrom(...VLANS),
  etherType: fc.constantFrom(EtherType.IPV4, EtherType.IPV6, EtherType.ARP),
  destinationMac: fc.constantFrom('02:00:00:00:00:01', 'ff:ff:ff:ff:ff:ff'),
  tos: fc.constantFrom(0, 0x20),
  fragmentPolicy: fc.constantFrom('header' as const, 'nonheader' as const, 'unfragmented' as const),
  icmpDataSource: range,
  matchDestinationRewritten: fc.constant(true),
};
const INVERTIBLE = ['source', 'destination', 'destinationPorts', 'inPortIds', 'protocol', 'destinationAddressGroupId'];

/** Up to two fields: more hardly ever match a packet. */
const conditions: fc.Arbitrary<Condition> = fc
  .tuple(
    fc.subarray(Object.keys(FIELDS) as (keyof Condition)[], { maxLength: 2 }),
    fc.constantFrom(false, false, false, true),
  )
  .chain(([names, isInverted]) =>
    fc.record(Object.fromEntries(names.map((name) => [name, FIELDS[name] as fc.Arbitrary<unknown>]))).map((fields) => {
      const inverted = names.filter((name) => isInverted && INVERTIBLE.includes(name));
      const comparesPorts = names.includes('sourcePorts') || names.includes('destinationPorts');
      if (comparesPorts) delete fields.fragmentPolicy;
      return (inverted.length === 0 ? fields : { ...fields, inverted }) as Condition;
    }),
  );

const natAction = fc.constantFrom('accept' as const, 'continue' as const, 'return' as const);
/** Of both families. */
const target = ({ ipv4, ipv6 }: Addresses, ports: { start: number; end: number }) =>
  [ipv4, ipv6].map((start) => ({ start, end: start, ports }));
const memberTargets = fc
  .array(fc.tuple(machine, bridge), { minLength: 1, maxLength: 2 })
  .map((list) => list.flatMap(([index, at]) => target(machineAddresses(index, at), MEMBER_PORTS)));

type RuleAction = RuleSpec extends infer R ? (R extends RuleSpec ? Omit<R, 'if'> : never) : never;

const plainActions: fc.Arbitrary<RuleAction> = fc
  .constantFrom('accept' as const, 'drop' as const, 'reject' as const, 'return' as const, 'continue' as const)
  .map((type) => ({ type }));
const jumps: fc.Arbitrary<RuleAction> = fc
  .nat(MAX_CHAINS - 1)
  .map((index) => ({ type: 'jump', jumpChainId: chainName(index) }));
const translations: fc.Arbitrary<RuleAction> = fc.oneof(
  fc.record({ type: fc.constant('dnat' as const), targets: memberTargets, action: natAction }),
  fc.record({
    type: fc.constant('snat' as const),
    targets: fc.constant(target(OUTER, { start: 1024, end: 65_535 })),
    action: natAction,
  }),
  fc.record({
    type: fc.constantFrom('snat' as const, 'dnat' as const),
    targets: address.map((start) => [{ start, end: start }]),
    action: natAction,
  }),
  fc.record({ type: fc.constantFrom('reverse-dnat' as const, 'reverse-snat' as const), action: natAction }),
);
const detours: fc.Arbitrary<RuleAction> = fc.oneof(
  fc.record({
    type: fc.constant('l2-transform' as const),
    action: fc.constantFrom('accept' as const, 'continue' as const, 'drop' as const, 'return' as const),
    popVlan: fc.boolean(),
    pushVlanId: fc.constantFrom(undefined, ...VLANS),
  }),
  fc.record({
    type: fc.constant('l2-transform' as const),
    action: fc.constant('redirect' as const),
    targetPortId: fc.constantFrom(machineName(0), machineName(1), machineName(2)),
    ingress: fc.boolean(),
    failOpen: fc.boolean(),
  }),
  fc.constant<RuleAction>({ type: 'trace', traceRequestId: 'trace-1' }),
);

function rulesOf(actions: fc.Arbitrary<RuleAction>): fc.Arbitrary<RuleSpec> {
  return fc
    .tuple(actions, conditions)
    .map(
      ([action, condition]) =>
        (Object.keys(condition).length === 0 ? action : { ...action, if: condition }) as RuleSpec,
    );
}

const rules = rulesOf(
  fc.oneof(
    { weight: 5, arbitrary: plainActions },
    { weight: 2, arbitrary: jumps },
    { weight: 5, arbitrary: translations },
    { weight: 1, arbitrary: detours },
  ),
);

const machines: fc.Arbitrary<MachinePlan> = fc.record({
  bridge,
  host: fc.nat(1),
  isKnown: mostly(true),
  isUp: mostly(true),
  isIsolated: mostly(false),
  inbound: chain,
  outbound: chain,
  dscp: maybe(fc.constantFrom(8, 46), 5),
});
const routes: fc.Arbitrary<RoutePlan> = fc.record({
  destination: range,
  source: maybe(range, 3),
  weight: fc.nat(1),
  type: fc.constantFrom('port' as const, 'port' as const, 'blackhole' as const, 'reject' as const, 'local' as const),
  bridge,
  gateway: maybe(fc.nat(1)),
});
const routers: fc.Arbitrary<RouterPlan> = fc.record({
  bridges: fc.uniqueArray(bridge, { minLength: 1, maxLength: MAX_BRIDGES }),
  isUp: mostly(true),
  inbound: chain,
  outbound: chain,
  portInbound: maybe(fc.nat(MAX_CHAINS - 1), 2),
  portOutbound: maybe(fc.nat(MAX_CHAINS - 1), 2),
  routes: fc.array(routes, { maxLength: 4 }),
});
const vlan = maybe(fc.constantFrom(...VLANS));

/** Everything that a network can have, in all combinations. */
export const networkPlans: fc.Arbitrary<NetworkPlan> = fc.noBias(
  fc
    .record({
      bridges: fc.array(fc.record({ inbound: chain, outbound: chain, isServed: mostly(false) }), {
        minLength: 1,
        maxLength: MAX_BRIDGES,
      }),
      machines: fc.array(machines, { minLength: 1, maxLength: MAX_MACHINES }),
      routers: fc.array(routers, { maxLength: 2 }),
      trunks: fc.array(fc.record({ a: bridge, b: bridge, vlanA: vlan, vlanB: vlan }), { maxLength: 2 }),
      chains: fc.array(fc.array(rules, { maxLength: 4 }), { maxLength: MAX_CHAINS }),
      mirrors: fc.array(
        fc.record({
          of: fc.constantFrom('machine' as const, 'bridge' as const, 'router' as const),
          index: fc.nat(2),
          tap: fc.constantFrom(
            'inboundMirrors' as const,
            'outboundMirrors' as const,
            'postInFilterMirrors' as const,
            'preOutFilterMirrors' as const,
          ),
          to: machine,
          condition: conditions,
        }),
        { maxLength: 2 },
      ),
      vips: fc.array(
        fc.record({
          of: fc.constantFrom('bridge' as const, 'router' as const),
          index: fc.nat(2),
          family: fc.constantFrom(4 as const, 6 as const),
          protocol: fc.constantFrom(6, 17),
          isSticky: fc.boolean(),
          members: fc.array(machine, { maxLength: 3 }),
        }),
        { maxLength: 2 },
      ),
    })
    .map(readable(describeNetwork)),
);

/** The same network where nothing is chosen by the hash of a packet, which every datapath has its own of. */
export function withoutChoices(plan: NetworkPlan): NetworkPlan {
  return readable(describeNetwork)({
    ...plan,
    chains: plan.chains.map((rules) =>
      // The first target is of both families.
      rules.map((rule) => (rule.type === 'dnat' ? { ...rule, targets: rule.targets.slice(0, 2) } : rule)),
    ),
    vips: plan.vips.map((vip) => ({ ...vip, members: vip.members.slice(0, 1) })),
  });
}

/** Has fast-check print a value by these lines. */
export function readable<T extends object>(describe: (value: T) => string): (value: T) => T {
  return (value) => Object.assign(value, { [fc.toStringMethod]: () => `\n${describe(value)}\n` });
}

/** The network in a few lines, for people. */
export function describeNetwork(plan: NetworkPlan): string {
  const chains = (inbound: number | null, outbound: number | null) => [
    ...chainsOf(plan, inbound).map((name) => `in ${name}`),
    ...chainsOf(plan, outbound).map((name) => `out ${name}`),
  ];
  const lines = plan.bridges.map((one, i) =>
    [bridgeName(i), ...chains(one.inbound, one.outbound), ...(one.isServed ? ['with DHCP'] : [])].join(', '),
  );
  plan.machines.forEach((one, i) => {
    const at = one.bridge % plan.bridges.length;
    const { ipv4, ipv6 } = machineAddresses(i, at);
    lines.push(
      [
        `${machineName(i)} ${ipv4} ${ipv6} on ${bridgeName(at)}, host ${one.host}`,
        ...(one.isKnown ? [] : ['unknown']),
        ...(one.isUp ? [] : ['down']),
        ...(one.isIsolated ? ['isolated'] : []),
        ...chains(one.inbound, one.outbound),
        ...(one.dscp === null ? [] : [`dscp ${one.dscp}`]),
      ].join(', '),
    );
  });
  plan.routers.forEach((one, i) => {
    const ports = chains(one.portInbound, one.portOutbound).map((text) => `ports ${text}`);
    const at = bridgesOf(plan, one).map(bridgeName).join(' ');
    lines.push(
      [`${routerName(i)} on ${at}`, ...(one.isUp ? [] : ['down']), ...chains(one.inbound, one.outbound), ...ports].join(
        ', ',
      ),
    );
    for (const route of one.routes) lines.push(`  ${describeRoute(plan, one, route)}`);
  });
  for (const { a, b, vlanA, vlanB } of plan.trunks) {
    const end = (index: number, tag: number | null) =>
      bridgeName(index % plan.bridges.length) + (tag === null ? '' : ` vlan ${tag}`);
    lines.push(`${end(a, vlanA)} linked to ${end(b, vlanB)}`);
  }
  plan.chains.forEach((list, i) => {
    lines.push(`${chainName(i)}: ${list.map(describeRule).join('; ') || 'no rules'}`);
  });
  for (const { of, index, tap, to, condition } of plan.mirrors) {
    lines.push(`${tap} of ${nameOf(plan, of, index)} to ${machineName(to)}: ${JSON.stringify(condition)}`);
  }
  for (const { of, index, isSticky, members } of plan.vips) {
    const sticky = isSticky ? ', sticky' : '';
    const names = membersOf(plan, members).map(machineName).join(' ');
    lines.push(`vip of ${nameOf(plan, of, index)}${sticky}: ${names || 'no members'}`);
  }
  return lines.map((line) => `  ${line}`).join('\n');
}

/** The names of the chains that a number stands for: one or none. */
export function chainsOf({ chains }: NetworkPlan, index: number | null): string[] {
  return index === null || chains.length === 0 ? [] : [chainName(index % chains.length)];
}

/** The bridge or router that a number stands for; undefined if there is none. */
export function deviceOf(plan: NetworkPlan, of: 'bridge' | 'router', index: number): number | undefined {
  const { length } = of === 'bridge' ? plan.bridges : plan.routers;
  return length === 0 ? undefined : index % length;
}

/** The bridges that a router is on. */
export function bridgesOf(plan: NetworkPlan, router: RouterPlan): number[] {
  return [...new Set(router.bridges.map((index) => index % plan.bridges.length))];
}

/** Where a route leads to: the bridge, and the router there, if that is a gateway. */
export function nextOf(
  plan: NetworkPlan,
  router: RouterPlan,
  route: RoutePlan,
): { at: number; gateway: number | null } {
  const at = bridgesOf(plan, router);
  const chosen = at[route.bridge % at.length];
  const gateways = plan.routers.flatMap((one, i) =>
    one !== router && bridgesOf(plan, one).includes(chosen) ? [i] : [],
  );
  const gateway = route.gateway === null || gateways.length === 0 ? null : gateways[route.gateway % gateways.length];
  return { at: chosen, gateway };
}

/** The machines that are members of a VIP. */
export function membersOf({ machines }: NetworkPlan, members: readonly number[]): number[] {
  return members.map((member) => member % machines.length);
}

function nameOf(plan: NetworkPlan, of: MirrorPlan['of'], index: number): string {
  if (of === 'machine') return machineName(index % plan.machines.length);
  const device = deviceOf(plan, of, index);
  if (device === undefined) return 'nothing';
  return of === 'bridge' ? bridgeName(device) : routerName(device);
}

function describeRoute(plan: NetworkPlan, router: RouterPlan, route: RoutePlan): string {
  const { destination, source, weight, type } = route;
  const { at, gateway } = nextOf(plan, router, route);
  const via = gateway === null ? '' : ` via ${routerName(gateway)}`;
  const to = type === 'port' ? `to ${bridgeName(at)}${via}` : type;
  return `${destination}${source === null ? '' : ` from ${source}`} ${to}, weight ${weight}`;
}

function describeRule({ if: condition, ...action }: RuleSpec): string {
  const { type, ...fields } = action;
  const details = Object.keys(fields).length === 0 ? '' : ` ${JSON.stringify(fields)}`;
  return `${type}${details}${condition === undefined ? '' : ` if ${JSON.stringify(condition)}`}`;
}
