import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { TunnelTarget } from '../../simulation/fact.js';
import type { TopologyCache } from '../facts/topology-cache.js';
import type { Publisher } from '../host/publisher.js';
import type { TunnelTargets } from './tunnel-targets.js';
import { dependsOnPacket, targetOf, type WantedPort } from './wanted-port.js';

export interface LocalBridgesOptions {
  readonly hostId: string;
  readonly repository: TopologyRepository;
  readonly cache: () => TopologyCache;
  readonly publisher: Publisher;
  readonly targets: TunnelTargets;
}

/**
 * The bridges that have ports on this host: where packets go here that are flooded, and what other hosts are told of that.
 * A bridge has a tunnel key for the ports that a packet is flooded to, and where some of them are isolated another for the rest.
 */
export class LocalBridges {
  /** Ports whose interface is attached, by bridge. */
  private readonly active = new Map<string, Set<WantedPort>>();
  /** Bridges of which others are told a key for the ports that are not isolated. */
  private readonly announcedIsolated = new Set<string>();
  /** What is not among {@link active} is not on this host. */
  private isComplete = false;

  constructor(private readonly options: LocalBridgesOptions) {}

  /** How many there are. */
  get size(): number {
    return this.active.size;
  }

  /** Bridges that have ports whose interface is attached. */
  ids(): Iterable<string> {
    return this.active.keys();
  }

  /** The interface of a port is attached. Ports of routers are of no bridge. */
  join(wanted: WantedPort): void {
    const { bridgeId } = wanted.port;
    if (bridgeId === undefined) return;
    const ports = this.active.get(bridgeId) ?? new Set();
    ports.add(wanted);
    this.active.set(bridgeId, ports);
    this.portsChanged(bridgeId);
    if (ports.size > 1) return;
    this.options.cache().bridge(bridgeId).presume(true);
    this.announce(bridgeId);
  }

  leave(wanted: WantedPort): void {
    const { bridgeId } = wanted.port;
    if (bridgeId === undefined) return;
    const ports = this.active.get(bridgeId);
    if (!ports?.delete(wanted)) return;
    this.portsChanged(bridgeId);
    if (ports.size > 0) return;
    this.active.delete(bridgeId);
    this.options.cache().bridge(bridgeId).presume(false);
    this.announce(bridgeId);
  }

  /** Ports of the bridge came, went or changed. */
  portsChanged(bridgeId: string): void {
    this.floodTargetsChanged(bridgeId);
    if (this.hasIsolated(bridgeId) !== this.announcedIsolated.has(bridgeId)) this.announce(bridgeId);
  }

  /** Tell the other hosts whether flooded packets of the bridge are to come here. */
  announce(bridgeId: string): void {
    const { targets, repository, hostId, publisher } = this.options;
    publisher.publish(`bridge ${bridgeId}`, async (signal) => {
      if (!this.active.has(bridgeId)) {
        await repository.setBridgeHost(bridgeId, hostId, undefined, signal);
        if (!this.active.has(bridgeId)) {
          this.announcedIsolated.delete(bridgeId);
          targets.release(bridgeOwner(bridgeId));
          targets.release(openBridgeOwner(bridgeId));
        }
        return;
      }
      const floodKey = targets.takeKey(bridgeOwner(bridgeId));
      const hasIsolated = this.hasIsolated(bridgeId);
      if (hasIsolated) this.announcedIsolated.add(bridgeId);
      else this.announcedIsolated.delete(bridgeId);
      const openFloodKey = hasIsolated ? targets.takeKey(openBridgeOwner(bridgeId)) : undefined;
      this.floodTargetsChanged(bridgeId);
      await repository.setBridgeHost(bridgeId, hostId, { floodKey, openFloodKey }, signal);
      if (!this.announcedIsolated.has(bridgeId)) targets.release(openBridgeOwner(bridgeId));
    });
  }

  /** Tell them again: the NSDB may have lost it. */
  announceAll(): void {
    for (const bridgeId of this.active.keys()) this.announce(bridgeId);
  }

  /** The ports of this host are all known. */
  setComplete(): void {
    this.isComplete = true;
    for (const bridgeId of this.active.keys()) this.floodTargetsChanged(bridgeId);
  }

  private floodTargetsChanged(bridgeId: string): void {
    // Flows of the last run flood to ports that are not attached again yet.
    if (!this.isComplete) return;
    const { targets } = this.options;
    const cache = this.options.cache();
    const up = [...(this.active.get(bridgeId) ?? [])].filter(({ port, complete }) => (complete ?? port).adminStateUp);
    up.sort((a, b) => a.number! - b.number!);
    const isAsking = (wanted: WantedPort) => dependsOnPacket(wanted) || cache.captures.has(wanted.port.id);
    const plain = targetOf(up.filter((wanted) => !isAsking(wanted)));
    const asking = up.filter(isAsking);
    const all = { ...plain, ports: asking.map(({ port }) => cache.port(port.id)) };
    const open = {
      ...plain,
      ports: asking.filter(({ port, complete }) => !(complete ?? port).isolated).map(({ port }) => cache.port(port.id)),
    };
    cache.bridge(bridgeId).localPorts.set(all);
    targets.set(bridgeOwner(bridgeId), nullIfEmpty(all));
    targets.set(openBridgeOwner(bridgeId), nullIfEmpty(open));
  }

  private hasIsolated(bridgeId: string): boolean {
    for (const { port, complete } of this.active.get(bridgeId) ?? []) if ((complete ?? port).isolated) return true;
    return false;
  }
}

function nullIfEmpty(target: TunnelTarget): TunnelTarget | null {
  return target.outputs.length + target.ports.length === 0 ? null : target;
}

function bridgeOwner(bridgeId: string): string {
  return `bridge ${bridgeId}`;
}

/** Of the ports of the bridge that are not isolated. */
function openBridgeOwner(bridgeId: string): string {
  return `bridge ${bridgeId} open`;
}
