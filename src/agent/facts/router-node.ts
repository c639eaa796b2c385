import type { FlowKey } from '../../flow/key.js';
import type { FlowMask } from '../../flow/mask.js';
import type { Watch } from '../../nsdb/store.js';
import { SharedTable } from '../../nsdb/tables/shared-table.js';
import { LEARNED_ROUTE_TABLE, type LearnedRoute, type LearnedRouteKey } from '../../nsdb/tables/tables.js';
import { type Cidr, parseCidr, parseIp } from '../../packet/ip.js';
import type {
  ChainFact,
  Fact,
  LoadBalancerFact,
  MirrorFact,
  PortFact,
  RouteFact,
  RouterFact,
  SourceNatFact,
} from '../../simulation/fact.js';
import type { Port, Route, Router } from '../../topology/types.js';
import type { Cell } from './cell.js';
import { sameFilters } from './chain-cells.js';
import type { DeviceSource } from './device-source.js';
import { sameTaps } from './mirror-cells.js';
import { RouteRegions, type UsableRoute } from './route-regions.js';

/** What a route is, whether or not packets can take it now. */
type KnownRoute = Omit<UsableRoute, 'isLocal'> & {
  /** It counts only while this port of the router is up. */
  readonly portId: string | undefined;
};

/** Added to the weight of routes that leave at a host that is gone: they are taken if there is no other to the same destination. */
const GONE = 2 ** 31;

/** A region of addresses has no node of its own in the NSDB: it follows from the routes, which the router's fact watches. */
const NOTHING_TO_WATCH: Watch = { ready: Promise.resolve(), close: () => {} };

/**
 * A router's facts. Its ports and routes, those of the topology and those that routing protocols learned, are read with
 * the router itself and watched one by one; it is known when all of them are.
 */
export class RouterNode implements RouterFact {
  readonly cell: Cell<RouterFact>;
  readonly sourceNat: SourceNatFact | undefined;
  loadBalancerId: string | undefined;
  loadBalancer: Fact<LoadBalancerFact> | undefined;
  adminStateUp = true;
  inboundFilters: readonly Fact<ChainFact>[] = [];
  outboundFilters: readonly Fact<ChainFact>[] = [];
  inboundMirrors: readonly Fact<MirrorFact>[] = [];
  outboundMirrors: readonly Fact<MirrorFact>[] = [];
  private readonly ports = new Map<string, Port>();
  private readonly known = new Map<string, KnownRoute>();
  /** Whether the hosts of bound ports are there, by port. */
  private readonly hosts = new Map<string, { readonly id: string; readonly watch: Watch }>();
  /** Identifiers of routes by the port that they need. */
  private readonly byPort = new Map<string, Set<string>>();
  private regions: RouteRegions;

  constructor(
    readonly id: string,
    private readonly source: DeviceSource,
  ) {
    this.sourceNat = source.sourceNat(id);
    this.cell = source.cell<RouterFact>(`router ${id}`, { subscribe: (self) => this.watch(self) });
    this.regions = this.noRoutes();
  }

  routes(packet: FlowKey, seen: FlowMask): Fact<readonly RouteFact[]> {
    return this.regions.find(packet, seen);
  }

  /** The ports that routes lead to. */
  *portsInUse(): Generator<Fact<PortFact>> {
    for (const { fact } of this.known.values()) if (fact.type === 'normal') yield fact.port;
  }

  private noRoutes(): RouteRegions {
    return new RouteRegions((name, forget) => {
      const cell = this.source.cell<readonly RouteFact[]>(`routes of router ${this.id} to ${name}`, {
        subscribe: () => NOTHING_TO_WATCH,
        same: sameRoutes,
        forget,
      });
      this.source.load(cell as Cell<unknown>);
      return cell;
    });
  }

  /** Returns whether it is another than before. */
  private change(router: Router): boolean {
    const { chains } = this.source;
    const inbound = chains.filters(router.localRedirectChainId, router.inboundFilterId);
    const outbound = chains.filters(router.forwardChainId, router.outboundFilterId);
    const { inboundMirrors, outboundMirrors } = this.source.mirrors.taps(router);
    const { loadBalancerId: balancerId } = router;
    const balancer = balancerId === undefined ? undefined : this.source.loadBalancers.loadBalancer(balancerId);
    const isSame =
      sameTaps({ inboundMirrors, outboundMirrors }, this) &&
      router.adminStateUp === this.adminStateUp &&
      balancer === this.loadBalancer &&
      sameFilters(inbound, this.inboundFilters) &&
      sameFilters(outbound, this.outboundFilters);
    this.adminStateUp = router.adminStateUp;
    this.inboundFilters = inbound;
    this.outboundFilters = outbound;
    this.inboundMirrors = inboundMirrors;
    this.outboundMirrors = outboundMirrors;
    this.loadBalancerId = balancerId;
    this.loadBalancer = balancer;
    return !isSame;
  }

  private watch(cell: Cell<RouterFact>): Watch {
    const { id, source } = this;
    const { repository, invalid } = source;
    let exists: boolean | undefined;
    const awaited = new Set(['ports', 'routes', 'learned routes']);
    const update = () => {
      if (exists === false) cell.set(null);
      else if (exists && awaited.size === 0) cell.set(this);
    };
    const has = (part: string) => () => {
      awaited.delete(part);
      update();
    };
    const watches = [
      repository.watch(
        'router',
        id,
        (router) => {
          exists = router !== undefined;
          const changed = router !== undefined && this.change(router);
          update();
          if (changed && cell.value !== undefined) cell.touch();
        },
        invalid,
      ),
      repository.watchHolders('port', 'routerId', id, this.portChanged, invalid, has('ports')),
      repository.watchHolders('route', 'routerId', id, this.routeChanged, invalid, has('routes')),
      new SharedTable(repository.store, LEARNED_ROUTE_TABLE, id).watchTable(this.learnedChanged, invalid, {
        onCurrent: has('learned routes'),
      }),
    ];
    return {
      ready: watches[0].ready,
      close: () => {
        for (const one of watches) one.close();
        for (const { watch } of this.hosts.values()) watch.close();
        this.hosts.clear();
        this.ports.clear();
        this.known.clear();
        this.byPort.clear();
        this.regions = this.noRoutes();
      },
    };
  }

  private readonly portChanged = (portId: string, port: Port | undefined): void => {
    const before = this.ports.get(portId)?.subnets ?? [];
    if (port === undefined) this.ports.delete(portId);
    else this.ports.set(portId, port);
    this.watchHost(portId, port?.binding?.hostId);
    this.applyAll(portId);
    const after = new Set(port?.subnets);
    for (const subnet of before) if (!after.has(subnet)) this.forget(localRouteId(portId, subnet));
    for (const subnet of after) this.learn(localRoute(portId, subnet));
  };

  private watchHost(portId: string, hostId: string | undefined): void {
    const before = this.hosts.get(portId);
    if (before?.id === hostId) return;
    before?.watch.close();
    this.hosts.delete(portId);
    if (hostId === undefined || hostId === this.source.hostId) return;
    this.hosts.set(portId, { id: hostId, watch: this.source.hosts.watch(hostId, () => this.applyAll(portId)) });
  }

  private readonly routeChanged = (routeId: string, route: Route | undefined): void => {
    if (route === undefined) this.forget(routeId);
    else this.learn(this.routeOf(route));
  };

  private readonly learnedChanged = (key: LearnedRouteKey, entry: LearnedRoute | undefined): void => {
    const { destination, nextHop, portId } = key;
    const id = `${destination} by ${nextHop ?? 'the link'} at ${portId}`;
    if (entry === undefined) return this.forget(id);
    const fact: RouteFact = { id, type: 'normal', port: this.source.port(portId), gateway: wordsOf(nextHop) };
    this.learn({ id, ...prefixes(destination, undefined), weight: entry.weight, fact, portId });
  };

  private routeOf({ id, type, source, destination, weight, nextHopPortId: portId, gateway }: Route): KnownRoute {
    const fact: RouteFact =
      type === 'normal' ? { id, type, port: this.source.port(portId!), gateway: wordsOf(gateway) } : { id, type };
    return { id, ...prefixes(destination, source), weight, fact, portId };
  }

  private learn(route: KnownRoute): void {
    const before = this.known.get(route.id);
    if (before !== undefined && before.portId !== route.portId) this.unindex(before);
    this.known.set(
      route.id,
      before !== undefined && leadsToSame(before, route) ? { ...route, fact: before.fact } : route,
    );
    if (route.portId !== undefined) {
      const ids = this.byPort.get(route.portId) ?? new Set();
      this.byPort.set(route.portId, ids.add(route.id));
    }
    this.apply(this.known.get(route.id)!);
  }

  private forget(id: string): void {
    const route = this.known.get(id);
    if (route === undefined) return;
    this.unindex(route);
    this.known.delete(id);
    this.regions.delete(id);
  }

  private unindex({ id, portId }: KnownRoute): void {
    if (portId === undefined) return;
    const ids = this.byPort.get(portId);
    ids?.delete(id);
    if (ids?.size === 0) this.byPort.delete(portId);
  }

  /** The state of a port has changed: those of its routes that packets can take may be others. */
  private applyAll(portId: string): void {
    for (const routeId of this.byPort.get(portId) ?? []) this.apply(this.known.get(routeId)!);
  }

  /** Packets can take a route that needs no port, or one that is up. */
  private apply(route: KnownRoute): void {
    const port = route.portId === undefined ? undefined : this.ports.get(route.portId);
    const isUsable = route.portId === undefined || (port !== undefined && isUp(port, route));
    if (!isUsable) return this.regions.delete(route.id);
    const hostId = port?.binding?.hostId;
    const isGone = hostId !== undefined && this.source.hosts.isGone(hostId);
    const weight = isGone ? route.weight + GONE : route.weight;
    this.regions.set({ ...route, weight, isLocal: hostId === this.source.hostId });
  }
}

/** To reach the router itself at a port takes no more than that it is not switched off. */
function isUp(port: Port, { fact }: KnownRoute): boolean {
  if (!port.adminStateUp) return false;
  return fact.type !== 'normal' || port.peerId !== undefined || port.binding?.tunnelKey !== undefined;
}

function localRouteId(portId: string, subnet: string): string {
  return `${subnet} of port ${portId}`;
}

/** How packets to an address of the router's at a port find it. MidoNet's weight. */
function localRoute(portId: string, subnet: string): KnownRoute {
  const id = localRouteId(portId, subnet);
  const address = subnet.slice(0, subnet.indexOf('/'));
  const { destination, ...rest } = prefixes(`${address}/${address.includes(':') ? 128 : 32}`, undefined);
  return { id, ...rest, destination, weight: 0, fact: { id, type: 'local' }, portId };
}

function prefixes(
  destination: string,
  source: string | undefined,
): Pick<UsableRoute, 'family' | 'destination' | 'source'> {
  const to = parseCidr(destination)!;
  const from: Cidr = source === undefined ? { ...to, prefix: 0 } : parseCidr(source)!;
  return {
    family: to.family,
    destination: { words: to.words, length: to.prefix },
    source: { words: from.words, length: from.prefix },
  };
}

/** The unspecified address stands for no gateway, as in MidoNet. */
function wordsOf(gateway: string | undefined): Uint32Array | undefined {
  const words = gateway === undefined ? [] : parseIp(gateway)!.words;
  return words.some((word) => word !== 0) ? Uint32Array.from(words) : undefined;
}

function leadsToSame({ fact: a }: KnownRoute, { fact: b }: KnownRoute): boolean {
  if (a.type !== 'normal' || b.type !== 'normal') return a.type === b.type;
  return a.port === b.port && a.gateway?.join() === b.gateway?.join();
}

function sameRoutes(a: readonly RouteFact[], b: readonly RouteFact[]): boolean {
  return a.length === b.length && a.every((route, i) => route === b[i]);
}
