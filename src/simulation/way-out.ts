import { type FlowKey, Word } from '../flow/key.js';
import { EtherType } from '../packet/ethernet.js';
import { CONFIGURATION_SERVER_MAC } from './answer.js';
import { type Limits, SimulationContext } from './context.js';
import { chooseRoute } from './ecmp.js';
import type { BridgeFact, Fact, PortFact, RouterFact } from './fact.js';
import { nextHop } from './router.js';
import { simulateSent } from './simulate.js';

/** Where a packet of a device's own leaves it, and with which MAC addresses. */
export interface Way {
  readonly port: Fact<PortFact>;
  readonly src: number;
  readonly dst: number;
}

export interface WayOut {
  /** Null: there is none. Undefined: some facts are not in hand. */
  readonly way: Way | null | undefined;
  /** What it depends on, up to where the packet leaves this host; those that are not in hand, while there are such. */
  readonly facts: readonly Fact<unknown>[];
}

/** The way on which a router sends an IP packet of its own with these headers. */
export function wayFromRouter(fact: Fact<RouterFact>, key: FlowKey, limits: Limits): WayOut {
  return find(key, limits, (context) => {
    const router = context.read(fact);
    const routes = router && context.read(router.routes(context.packet, context.mask));
    if (!routes || routes.length === 0) return null;
    const route = chooseRoute(routes, context.packet, context.mask);
    if (route.type !== 'normal') return null;
    const out = context.read(route.port);
    if (out?.type !== 'router' || !out.adminStateUp) return null;
    const neighbor = nextHop(context, out, route.gateway);
    return neighbor ? { port: route.port, src: out.mac, dst: neighbor.mac } : null;
  });
}

/** The way on which a bridge sends an IP packet of its own with these headers: to a machine that its tables know. */
export function wayFromBridge(fact: Fact<BridgeFact>, key: FlowKey, limits: Limits): WayOut {
  return find(key, limits, (context) => {
    const bridge = context.read(fact);
    if (!bridge?.adminStateUp) return null;
    const { words } = context.packet;
    const isIpv4 = key.ethType === EtherType.IPV4;
    const neighbor = context.read(isIpv4 ? bridge.ipv4(words[Word.NW_DST]) : bridge.ipv6(words, Word.NW_DST));
    const entry = neighbor && context.read(bridge.mac(neighbor.mac));
    return entry ? { port: entry.port, src: CONFIGURATION_SERVER_MAC, dst: neighbor.mac } : null;
  });
}

function find(key: FlowKey, limits: Limits, follow: (context: SimulationContext) => Way | null): WayOut {
  const context = new SimulationContext(key, limits);
  const way = follow(context);
  const decision = context.decision();
  if (decision.type === 'wait') return { way: undefined, facts: decision.missing };
  if (way === null) return { way, facts: decision.tags };
  const sent = key.clone();
  sent.ethSrc = way.src;
  sent.ethDst = way.dst;
  const behind = simulateSent(sent, way.port, limits);
  if (behind.type === 'wait') return { way: undefined, facts: behind.missing };
  return { way, facts: [...decision.tags, ...behind.tags] };
}
