import type { BridgeFact, Fact, RouterFact } from '../../simulation/fact.js';
import type { TopologyCache } from '../facts/topology-cache.js';
import type { Bindings } from '../ports/bindings.js';
import type { BalancedDevices } from './member-checks.js';

/** The load balancers that concern a host. */
export interface NearbyBalancers {
  /** The devices that each serves, so far as these concern the host. */
  readonly devices: ReadonlyMap<string, BalancedDevices>;
  /** Whether there are surely no others. */
  readonly isComplete: boolean;
}

/**
 * The load balancers of bridges and routers that have ports on this host, and of routers that are linked to these bridges:
 * there the host's traffic comes along. To be asked for again and again: what is not in hand is read meanwhile.
 *
 * @param need begins to read a fact, and keeps it for a while
 */
export function nearbyBalancers(
  bindings: Pick<Bindings, 'activeBridges' | 'activeRouters'>,
  cache: Pick<TopologyCache, 'bridge' | 'router'>,
  need: (fact: Fact<unknown>) => void,
): NearbyBalancers {
  const devices = new Map<string, { routers: Fact<RouterFact>[]; bridges: Fact<BridgeFact>[] }>();
  let isComplete = true;
  const read = <T>(fact: Fact<T>): T | null => {
    need(fact);
    if (fact.value === undefined) isComplete = false;
    return fact.value ?? null;
  };
  const of = (loadBalancerId: string) => {
    const found = devices.get(loadBalancerId) ?? { routers: [], bridges: [] };
    devices.set(loadBalancerId, found);
    return found;
  };

  const routerIds = new Set(bindings.activeRouters());
  for (const id of bindings.activeBridges()) {
    const bridge = cache.bridge(id);
    read(bridge.cell);
    if (bridge.loadBalancerId !== undefined) of(bridge.loadBalancerId).bridges.push(bridge.cell);
    for (const fact of read(bridge.interiorPorts(0)) ?? []) {
      const peer = read(fact)?.peer;
      const port = peer && read(peer);
      const router = port?.type === 'router' ? read(port.router) : null;
      if (router !== null) routerIds.add(router.id);
    }
  }
  for (const id of routerIds) {
    const router = cache.router(id);
    read(router.cell);
    if (router.loadBalancerId !== undefined) of(router.loadBalancerId).routers.push(router.cell);
  }
  return { devices, isComplete };
}
