import type { FlowKey } from '../../src/flow/key.js';
import type { FlowMask } from '../../src/flow/mask.js';
import { parseIpv6 } from '../../src/packet/address.js';
import { parseCidr } from '../../src/packet/ip.js';
import type {
  ChainFact,
  Fact,
  MirrorFact,
  NeighborFact,
  PortFact,
  RouteFact,
  RouterFact,
} from '../../src/simulation/fact.js';
import { type Route, RouteTable } from '../../src/simulation/route-table.js';
import { fact, type TestBridge, type TestFact } from './world.js';

export type RouteTarget =
  | { readonly type: 'blackhole' | 'reject' | 'local' }
  | { readonly type: 'normal'; readonly port: Fact<PortFact>; readonly gateway?: Uint32Array };

interface TestRoute extends Route {
  readonly fact: RouteFact;
}

/** A router with its routes in one table. */
export class TestRouter implements RouterFact {
  readonly cell: TestFact<RouterFact>;
  readonly table = new RouteTable<TestRoute>();
  private readonly found = new Map<string, TestFact<readonly RouteFact[]>>();
  adminStateUp = true;
  inboundFilters: readonly Fact<ChainFact>[] = [];
  outboundFilters: readonly Fact<ChainFact>[] = [];
  inboundMirrors: readonly Fact<MirrorFact>[] = [];
  outboundMirrors: readonly Fact<MirrorFact>[] = [];

  constructor(readonly id: string) {
    this.cell = fact<RouterFact>(`router ${id}`, this);
  }

  routes(packet: FlowKey, seen: FlowMask): TestFact<readonly RouteFact[]> {
    const best = this.table.lookup(packet, seen);
    const name = best.length === 1 ? best[0].id : best.map(({ id }) => id).join();
    let routes = this.found.get(name);
    if (routes === undefined) {
      routes = fact<readonly RouteFact[]>(`routes ${name}`, undefined);
      this.found.set(name, routes);
    }
    const known = routes.value;
    if (known?.length !== best.length || known.some((route, i) => route !== best[i].fact)) {
      routes.value = best.map(({ fact }) => fact);
    }
    return routes;
  }

  /** Adds a route to `destination`, such as 10.0.0.0/8; returns it for {@link RouteTable.remove}. */
  add(id: string, destination: string, to: RouteTarget): TestRoute {
    const { family, words, prefix } = parseCidr(destination)!;
    const anywhere = { words: words.map(() => 0), length: 0 };
    const route = { id, family, destination: { words, length: prefix }, source: anywhere, weight: 0 };
    const entry = { ...route, fact: { id, ...to } };
    this.table.insert(entry);
    return entry;
  }
}

export interface Interior {
  readonly atRouter: TestFact<PortFact>;
  readonly atBridge: TestFact<PortFact>;
  readonly neighbors: Map<string, TestFact<NeighborFact>>;
  /** What is known of neighbours that nobody has asked for yet. */
  answer: null | undefined;
}

/** Links a router to a bridge; the bridge knows the router's address. */
export function joinToBridge(router: TestRouter, bridge: TestBridge, mac: number, address: number): Interior {
  const neighbors = new Map<string, TestFact<NeighborFact>>();
  const neighbor = (name: string) => {
    const entry = neighbors.get(name) ?? fact<NeighborFact>(`neighbor ${name}`, link.answer);
    neighbors.set(name, entry);
    return entry;
  };
  const atRouter = fact<PortFact>(`port of ${router.id} to ${bridge.id}`, undefined);
  const atBridge = fact<PortFact>(`port of ${bridge.id} to ${router.id}`, {
    type: 'bridge',
    id: `${bridge.id}-${router.id}`,
    adminStateUp: true,
    mac,
    bridge: bridge.cell,
    peer: atRouter,
    location: null,
  });
  const v6 = parseIpv6('fd00::1')!;
  atRouter.value = {
    type: 'router',
    id: `${router.id}-${bridge.id}`,
    adminStateUp: true,
    mac,
    router: router.cell,
    addresses: [
      { words: Uint32Array.of(address), prefix: 24 },
      { words: Uint32Array.from(v6), prefix: 64 },
    ],
    peer: atBridge,
    location: null,
    ipv4: (ip) => neighbor(String(ip)),
    ipv6: (words, offset) => neighbor(words.slice(offset, offset + 4).join(':')),
  };
  bridge.addInteriorPort(atBridge);
  bridge.mac(mac).value = { port: atBridge };
  bridge.ipv4(address).value = { mac };
  const link: Interior = { atRouter, atBridge, neighbors, answer: undefined };
  return link;
}
