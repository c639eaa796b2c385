import type { Dice } from '../dice.js';

/**
 * A random network, described once: `ours.ts` builds it from bridges, routers and chains of the topology, `linux.ts` from
 * Linux bridges, namespaces, routes and nftables.
 *
 * Router N has the area 10.N.0.0/16 and fd00:N::/32, bridge B in it the network 10.N.B.0/24 and fd00:N:B::/64. Of two routers
 * the second is a way out of the first's area, and each keeps what is in its own area and has no route from coming back.
 */
export interface Network {
  readonly bridges: readonly BridgeSpec[];
  readonly routers: readonly RouterSpec[];
  readonly pods: readonly PodSpec[];
}

export interface BridgeSpec {
  readonly name: string;
  /** MAC addresses of the routers at it. */
  readonly gateways: readonly string[];
}

export interface PodSpec {
  readonly name: string;
  readonly bridge: string;
  readonly mac: string;
  readonly ipv4: string;
  readonly ipv6: string;
  /** Its network, of both families. */
  readonly subnets: readonly string[];
  /** MAC address of its router. */
  readonly gateway: string;
  /** On what the pod sends, and on what it gets: decided where it is plugged in. */
  readonly inbound: readonly RuleSpec[];
  readonly outbound: readonly RuleSpec[];
}

export interface RouterSpec {
  readonly name: string;
  readonly ports: readonly RouterPortSpec[];
  readonly routes: readonly RouteSpec[];
  /** Before the route is chosen, behind `nat`'s destinations. */
  readonly inbound: readonly RuleSpec[];
  /** When it has been, before `nat`'s sources. */
  readonly outbound: readonly RuleSpec[];
  readonly nat: readonly NatSpec[];
}

export interface RouterPortSpec {
  /** Also of the interface in Linux. */
  readonly name: string;
  readonly mac: string;
  /** Addresses with the prefix lengths of the networks, one of each family. */
  readonly subnets: readonly [string, string];
  /** What is at the other end: a bridge, or a port of the other router. */
  readonly to: { readonly bridge: string } | { readonly port: string };
  readonly inbound: readonly RuleSpec[];
  readonly outbound: readonly RuleSpec[];
}

export interface RouteSpec {
  readonly destination: string;
  readonly weight: number;
  readonly type: 'normal' | 'blackhole' | 'reject';
  /** Name of the port, of a normal route. */
  readonly port?: string;
  readonly gateway?: string;
}

export interface RuleSpec {
  readonly verdict: 'accept' | 'drop' | 'reject';
  readonly if: Match;
}

/** All of what is given has to hold. */
export interface Match {
  /** Address family, of a rule that compares nothing which belongs to one. */
  readonly family?: 4 | 6;
  readonly source?: string;
  readonly destination?: string;
  /** Whether everything but these is meant. */
  readonly isSourceInverted?: boolean;
  readonly isDestinationInverted?: boolean;
  readonly protocol?: 'tcp' | 'udp' | 'icmp' | 'icmpv6';
  readonly sourcePorts?: Range;
  readonly destinationPorts?: Range;
  readonly icmpType?: Range;
  /** Answers, and errors about a connection. */
  readonly isReturn?: true;
}

export interface Range {
  readonly start: number;
  readonly end: number;
}

export type NatSpec =
  /** TCP and UDP also get the port. */
  | { readonly type: 'dnat'; readonly destination: string; readonly target: string; readonly port: number }
  | { readonly type: 'snat'; readonly source: string; readonly port: string; readonly address: string };

export const TRANSLATED_PORT = 8080;
/** Ports and the like of packets are below, and so are the limits of rules, that they may meet. */
export const SERVICE_PORTS = 12;

/** The networks outside, which nobody is in. */
export const OUTSIDE = { 4: '203.0.113.0', 6: '2001:db8:113:0:0:0:0:0' } as const;

const AREA = { 4: (router: number) => `10.${router}.0.0/16`, 6: (router: number) => `fd00:${router}::/32` } as const;

function macOf(kind: number, number: number): string {
  const hex = (value: number) => value.toString(16).padStart(2, '0');
  return `02:00:00:${hex(kind)}:00:${hex(number)}`;
}

/** A port in the making. */
interface Place extends Omit<RouterPortSpec, 'inbound' | 'outbound'> {
  /** The network it is in. */
  readonly networks: readonly [string, string];
}

export function randomNetwork(dice: Dice): Network {
  const routerCount = 1 + dice.below(2);
  const places: Place[][] = Array.from({ length: routerCount }, () => []);
  const bridges: { name: string; gateways: string[] }[] = [];
  const pods: PodSpec[] = [];
  const isTranslating = dice.chance(60);
  const translating = dice.below(routerCount);
  const rules = new RuleMaker(dice, isTranslating);

  const addPlace = (router: number, networks: readonly [string, string], host: number, to: RouterPortSpec['to']) => {
    const name = `r${router + 1}p${places[router].length + 1}`;
    const [v4, v6] = networks;
    const subnets = [`${hostOf(v4, host)}/24`, `${hostOf(v6, host)}/64`] as const;
    const place: Place = { name, mac: macOf(router + 1, places[router].length + 1), subnets, to, networks };
    places[router].push(place);
    return place;
  };
  const addPods = (bridge: string, networks: readonly [string, string], gateway: Place) => {
    for (let i = 1 + dice.below(3); i > 0; i--) {
      const number = pods.length + 1;
      pods.push({
        name: `pod${number}`,
        bridge,
        mac: macOf(0x10, number),
        ipv4: hostOf(networks[0], 10 + number),
        ipv6: hostOf(networks[1], 10 + number),
        subnets: networks,
        gateway: gateway.mac,
        inbound: dice.chance(30) ? rules.list(false, false) : [],
        outbound: dice.chance(30) ? rules.list(false, false) : [],
      });
    }
  };

  for (let i = 1 + dice.below(3); i > 0; i--) {
    const router = dice.below(routerCount);
    const number = bridges.length + 1;
    const networks = [`10.${router + 1}.${number}.0/24`, `fd00:${router + 1}:${number}::/64`] as const;
    const name = `br${number}`;
    const place = addPlace(router, networks, 254, { bridge: name });
    bridges.push({ name, gateways: [place.mac] });
    addPods(name, networks, place);
  }
  if (routerCount === 2) {
    const networks = ['10.0.9.0/24', 'fd00:0:9::/64'] as const;
    if (dice.chance(50)) {
      const names = places.map((list, i) => `r${i + 1}p${list.length + 1}`);
      for (const router of [0, 1]) addPlace(router, networks, router + 1, { port: names[1 - router] });
    } else {
      const ends = [0, 1].map((router) => addPlace(router, networks, router + 1, { bridge: 'transit' }));
      // Without pods: what they send and get may pass one router on one way only, which Linux then knows half of.
      bridges.push({ name: 'transit', gateways: ends.map(({ mac }) => mac) });
    }
  }
  const routes = places.map((_, i) => randomRoutes(dice, places, i, pods));
  const routers = places.map((list, i): RouterSpec => {
    const ports = list.map(({ networks: _, ...place }) => ({
      ...place,
      inbound: dice.chance(15) ? rules.list(true) : [],
      outbound: dice.chance(15) ? rules.list(false) : [],
    }));
    return {
      name: `r${i + 1}`,
      ports,
      routes: routes[i],
      inbound: dice.chance(50) ? rules.list(true) : [],
      outbound: dice.chance(40) ? rules.list(false) : [],
      nat: isTranslating && i === translating ? randomNat(dice, i, list, pods) : [],
    };
  });
  return { bridges, routers, pods };
}

/** Those to the networks at its ports, those that the other router needs, and some more. */
function randomRoutes(dice: Dice, places: readonly Place[][], router: number, pods: readonly PodSpec[]): RouteSpec[] {
  const own = places[router];
  const routes = own.flatMap(({ name, networks }) =>
    networks.map((destination): RouteSpec => ({ destination, weight: 1, type: 'normal', port: name })),
  );
  const other = places[1 - router]?.at(-1);
  const link = own.at(-1)!;
  const nearby = pods.filter(({ bridge }) => own.some(({ to }) => 'bridge' in to && to.bridge === bridge));
  const viaPod = (index: 0 | 1): Pick<RouteSpec, 'type' | 'port' | 'gateway'> => {
    const pod = dice.pick(nearby);
    if (pod === undefined) return { type: 'blackhole' };
    const place = own.find(({ to }) => 'bridge' in to && to.bridge === pod.bridge)!;
    return { type: 'normal', port: place.name, gateway: index === 0 ? pod.ipv4 : pod.ipv6 };
  };
  for (const [index, family] of [4, 6].entries()) {
    const at = index as 0 | 1;
    const any = family === 4 ? '0.0.0.0/0' : '::/0';
    const gateway = other?.subnets[at].split('/')[0];
    const viaOther = { type: 'normal', port: link.name, gateway } as const;
    const end = (): Pick<RouteSpec, 'type'> => ({ type: dice.chance(50) ? 'blackhole' : 'reject' });
    const areaOf = AREA[family as 4 | 6];
    if (other !== undefined) {
      // Nothing goes round: what the other sends here for this area stays.
      routes.push({ destination: areaOf(router + 1), weight: 1, ...end() });
      routes.push({ destination: areaOf(2 - router), weight: 1, ...viaOther });
    }
    const isWayOut = router === 0 && gateway !== undefined && dice.chance(60);
    if (isWayOut) routes.push({ destination: any, weight: 1, ...viaOther });
    else if (dice.chance(60)) routes.push({ destination: any, weight: 1, ...(dice.chance(50) ? viaPod(at) : end()) });
    const used = new Set<string>();
    for (let i = dice.below(6); i > 0; i--) {
      // Linux does not take a gateway of IPv6 that a route of its own leads to.
      const candidates = family === 4 ? pods : pods.filter((pod) => !nearby.includes(pod));
      const isOutside = candidates.length === 0 || dice.chance(70);
      const destination = isOutside ? outsidePrefix(dice, family as 4 | 6) : podPrefix(dice, candidates, at);
      const weight = 1 + dice.below(3);
      if (used.has(`${destination} ${weight}`)) continue;
      used.add(`${destination} ${weight}`);
      const isViaOther = isOutside && router === 0 && gateway !== undefined && dice.chance(30);
      routes.push({ destination, weight, ...(isViaOther ? viaOther : dice.chance(50) ? viaPod(at) : end()) });
    }
  }
  return routes;
}

/** Ranges within each other. */
function outsidePrefix(dice: Dice, family: 4 | 6): string {
  if (family === 4) {
    const prefix = dice.pick([24, 25, 26, 28, 31, 32])!;
    const host = dice.pick([0, 16, 77, 128, 200])!;
    return `203.0.113.${host & (0xff << (32 - prefix)) & 0xff}/${prefix}`;
  }
  return dice.pick([
    '2001:db8:113::/48',
    '2001:db8:113::/52',
    '2001:db8:113:8000::/49',
    '2001:db8:113:10::/60',
    '2001:db8:113:10::/64',
    '2001:db8:113:10::4d/128',
    '2001:db8:113:8000::/127',
  ])!;
}

/** Around a pod's address. */
function podPrefix(dice: Dice, pods: readonly PodSpec[], index: 0 | 1): string {
  const pod = dice.pick(pods)!;
  if (index === 1) return `${pod.ipv6}/128`;
  const prefix = dice.pick([30, 31, 32])!;
  const [a, b, c, d] = pod.ipv4.split('.').map(Number);
  return `${a}.${b}.${c}.${d & (0xff << (32 - prefix)) & 0xff}/${prefix}`;
}

function randomNat(dice: Dice, router: number, places: readonly Place[], pods: readonly PodSpec[]): NatSpec[] {
  const nat: NatSpec[] = [];
  // Answers have to come back to this router.
  const targets = pods.filter(({ gateway }) => places.some(({ mac }) => mac === gateway));
  for (const [index, address] of [
    (host: number) => `10.${router + 1}.200.${host}`,
    (host: number) => `fd00:${router + 1}:200::${host}`,
  ].entries()) {
    const ip = (pod: PodSpec) => (index === 0 ? pod.ipv4 : pod.ipv6);
    for (let host = 1; host <= 2; host++) {
      const target = dice.pick(targets);
      if (target === undefined || !dice.chance(60)) continue;
      nat.push({ type: 'dnat', destination: address(host), target: ip(target), port: TRANSLATED_PORT });
    }
    if (dice.chance(60)) {
      const out = dice.pick(places)!;
      const source = dice.pick(pods)!.subnets[index];
      const isMasquerade = dice.chance(50);
      const own = out.subnets[index].split('/')[0];
      nat.push({ type: 'snat', source, port: out.name, address: isMasquerade ? own : address(9) });
    }
  }
  return nat;
}

/** Address `host` in a network with nothing behind its prefix. */
function hostOf(network: string, host: number): string {
  const [address] = network.split('/');
  return address.includes(':') ? `${address}${host.toString(16)}` : address.replace(/0$/, String(host));
}

/** Rules whose limits packets meet. */
class RuleMaker {
  constructor(
    private readonly dice: Dice,
    private readonly isTranslating: boolean,
  ) {}

  /**
   * Where sources of answers are translated back matters: here at the port where the connection came in, in Linux in the router.
   * So in a network with NAT answers pass first.
   */
  list(mayReject: boolean, mayTrack = true): RuleSpec[] {
    const { dice } = this;
    if (this.isTranslating && !mayTrack) return [];
    const rules = Array.from({ length: 1 + dice.below(4) }, () => this.rule(mayReject));
    if (mayTrack && (this.isTranslating || dice.chance(50)))
      rules.unshift({ verdict: 'accept', if: { isReturn: true } });
    if (dice.chance(15)) rules.push({ verdict: 'drop', if: { family: 4 } });
    return rules;
  }

  private rule(mayReject: boolean): RuleSpec {
    const { dice } = this;
    const verdict = dice.pick(
      mayReject ? (['accept', 'drop', 'drop', 'reject'] as const) : (['accept', 'drop'] as const),
    )!;
    return { verdict, if: this.match() };
  }

  private match(): Match {
    const { dice } = this;
    const family = dice.chance(50) ? 4 : 6;
    const range = () => {
      const start = dice.below(SERVICE_PORTS);
      return { start, end: start + dice.below(SERVICE_PORTS - start) };
    };
    const addresses = {
      family,
      ...(dice.chance(40) && { source: this.addresses(family), isSourceInverted: dice.chance(20) }),
      ...(dice.chance(40) && { destination: this.addresses(family), isDestinationInverted: dice.chance(20) }),
    } as const;
    switch (dice.below(4)) {
      case 0:
        return addresses;
      case 1:
        return family === 4
          ? {
              ...addresses,
              protocol: 'icmp',
              icmpType: dice.pick([
                { start: 8, end: 8 },
                { start: 0, end: 7 },
              ])!,
            }
          : {
              ...addresses,
              protocol: 'icmpv6',
              icmpType: dice.pick([
                { start: 128, end: 128 },
                { start: 129, end: 140 },
              ])!,
            };
      default:
        return {
          ...addresses,
          protocol: dice.chance(50) ? 'tcp' : 'udp',
          ...(dice.chance(60) && { destinationPorts: range() }),
          ...(dice.chance(20) && { sourcePorts: { start: 1000, end: 1000 + dice.below(4000) } }),
        };
    }
  }

  private addresses(family: 4 | 6): string {
    const { dice } = this;
    const [area, bridge, pod] = [1 + dice.below(2), 1 + dice.below(3), 11 + dice.below(8)];
    const ranges =
      family === 4
        ? [`10.${area}.0.0/16`, `10.${area}.${bridge}.0/24`, `10.${area}.${bridge}.${pod & ~3}/30`, '203.0.113.0/25']
        : [
            `fd00:${area}::/32`,
            `fd00:${area}:${bridge}::/64`,
            `fd00:${area}:${bridge}::${pod.toString(16)}/128`,
            '2001:db8::/32',
          ];
    return dice.pick(ranges)!;
  }
}
