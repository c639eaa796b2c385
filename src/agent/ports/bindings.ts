import type { Logger } from 'pino';
import type { Datapath, DatapathPort } from '../../datapath/datapath.js';
import { DatapathError } from '../../datapath/errors.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { Ingress } from '../../simulation/fact.js';
import { type BridgePort, bridgePortSchema, isBridgePort, type Port, routerPortMac } from '../../topology/types.js';
import { validate } from '../../topology/validate.js';
import type { Cell } from '../facts/cell.js';
import type { TopologyCache } from '../facts/topology-cache.js';
import type { Publisher } from '../host/publisher.js';
import type { Zones } from '../numbers/zones.js';
import { BoundPorts } from './bound-ports.js';
import { LocalBridges } from './local-bridges.js';
import { LocalCells } from './local-cells.js';
import type { LocalPorts } from './local-ports.js';
import { PortPublications } from './port-publications.js';
import type { TunnelTargets } from './tunnel-targets.js';
import { targetOf, type WantedPort, wantedPort } from './wanted-port.js';

/** How long changes of the datapath's ports are gathered before they are looked at. */
const SETTLE_MS = 20;

export interface BindingsOptions {
  readonly hostId: string;
  readonly datapath: Datapath;
  readonly repository: TopologyRepository;
  readonly cache: () => TopologyCache;
  readonly publisher: Publisher;
  readonly targets: TunnelTargets;
  readonly zones: Zones;
  /** A datapath port is gone, or its number belongs to another interface now. */
  readonly onPortReplaced: (number: number) => void;
  /** A port of a router is attached here, or the router has other addresses at it. */
  readonly onRouterPort: (port: Port) => void;
  /** A port of a router is not attached here any more. */
  readonly onRouterPortGone: (portId: string) => void;
  /** The port groups of a port, and its zone if it has one, may be others than before; no groups when it is not attached. */
  readonly onPortGroups: (portId: string, groupIds: readonly string[], zone: number | null) => void;
  readonly onChange: (cell: Cell<unknown>) => void;
  readonly log: Logger;
}

/**
 * The ports of this host: which are wanted (attached here, or bound in the NSDB), which are there, and what follows from
 * that: where their packets enter and leave, their tunnel keys, and what other hosts are told.
 */
export class Bindings implements LocalPorts {
  private readonly wanted = new Map<string, WantedPort>();
  private readonly byInterface = new Map<string, WantedPort>();
  private readonly byNumber = new Map<number, WantedPort>();
  private readonly outputs: LocalCells<string, number>;
  private readonly zones: LocalCells<string, number>;
  private readonly ingresses: LocalCells<number, Ingress>;
  private readonly bridges: LocalBridges;
  private readonly publications: PortPublications;
  private readonly bound: BoundPorts;
  /** Interfaces attached before the start, with their port numbers: what flows say of these is still about them. */
  private inherited = new Map<string, number>();
  /** Every other use of datapath ports is known. */
  private othersKnown = false;
  /** The ports of this host are all known: what is not among them does not exist. */
  private complete = false;
  private settling: NodeJS.Timeout | undefined;
  private reconciling = false;
  private again = false;
  private closed = false;

  constructor(private readonly options: BindingsOptions) {
    const { hostId, repository, publisher, onChange, log } = options;
    this.outputs = new LocalCells((portId) => `output of port ${portId}`, onChange);
    this.zones = new LocalCells((portId) => `zone of port ${portId}`, onChange);
    this.ingresses = new LocalCells((number) => `datapath port ${number}`, onChange);
    this.bridges = new LocalBridges(options);
    this.publications = new PortPublications(hostId, repository, publisher);
    this.bound = new BoundPorts({
      hostId,
      repository,
      isOwn: (id) => this.wanted.get(id)?.local === true,
      onPort: (id, port) => this.boundPort(id, port),
      onRead: () => this.changed(),
      log,
    });
  }

  /**
   * Watch the bindings of this host in the NSDB. To be called when the front ends have attached what they know of:
   * ports that the NSDB says are theirs and that they do not know are leftovers of a crash, and deleted.
   * @param othersKnown settles when {@link ingress} has been set for the datapath ports that belong to no virtual port
   */
  start(othersKnown: Promise<void>): void {
    othersKnown.then(() => {
      this.othersKnown = true;
      this.changed();
    });
    this.bound.start();
  }

  /** The ports that the datapath had before the start. */
  inherit(ports: readonly DatapathPort[]): void {
    this.inherited = new Map(ports.map(({ name, number }) => [name, number]));
  }

  /** Where packets to a port of this host leave. */
  output(portId: string): Cell<number> {
    return this.outputs.get(portId);
  }

  /** The zone in which connections of a port of this host are tracked. */
  zone(portId: string): Cell<number> {
    return this.zones.get(portId);
  }

  /** How packets from a datapath port enter. */
  ingress(number: number): Cell<Ingress> {
    return this.ingresses.get(number);
  }

  /** The port whose interface is this port of the datapath. */
  readonly portAt = (number: number): string | undefined => this.byNumber.get(number)?.port.id;

  /** The ports that are to be on this host. */
  wantedPorts(): Iterable<Readonly<WantedPort>> {
    return this.wanted.values();
  }

  /** No packet has gone to the port for a while. */
  forgetPort(portId: string): void {
    if (this.wanted.has(portId)) return;
    this.outputs.forget(portId);
    this.zones.forget(portId);
  }

  /** Whether what the NSDB binds here is known, and attached if it can be. */
  get isComplete(): boolean {
    return this.complete;
  }

  /** Bridges that have ports whose interface is attached. */
  activeBridges(): Iterable<string> {
    return this.bridges.ids();
  }

  /** Routers that have ports whose interface is attached. */
  activeRouters(): Set<string> {
    const ids = new Set<string>();
    for (const { port } of this.byNumber.values()) if (port.routerId !== undefined) ids.add(port.routerId);
    return ids;
  }

  /** Number of ports whose interface is attached. */
  get activePorts(): number {
    return this.byNumber.size;
  }

  async attach(port: BridgePort, interfaceName: string, signal?: AbortSignal): Promise<void> {
    const { datapath, targets, hostId } = this.options;
    const valid = validate(bridgePortSchema, { ...port, binding: { hostId, interfaceName } }, 'port');
    const holder = this.byInterface.get(interfaceName);
    if (holder !== undefined && holder.port.id !== port.id) {
      throw new DatapathError('busy', `interface ${interfaceName} is bound to port ${holder.port.id}`);
    }
    const { number } = await datapath.addPort(interfaceName, 'netdev', signal);
    const tunnelKey = targets.takeKey(portOwner(port.id));
    const bound: BridgePort = { ...valid, binding: { hostId, interfaceName, tunnelKey } };
    const before = this.wanted.get(port.id);
    if (before !== undefined) this.forget(before);
    const wanted = wantedPort(bound, interfaceName, true);
    this.want(wanted);
    this.activate(wanted, number);
    this.publications.attached(bound);
    if (before !== undefined && before.interfaceName !== interfaceName) await this.detachInterface(before, signal);
  }

  async detach(portId: string, signal?: AbortSignal): Promise<void> {
    const wanted = this.wanted.get(portId);
    if (wanted !== undefined) {
      this.forget(wanted);
      try {
        await this.detachInterface(wanted, signal);
      } catch (error) {
        // It is still attached, so it is still ours, and the caller may try again.
        if (!this.wanted.has(portId)) this.want(wanted);
        this.changed();
        throw error;
      }
      if (this.wanted.has(portId)) return;
    }
    this.releaseNumbers(portId);
    this.publications.detached(portId);
  }

  /** Whether the port's interface is attached to the datapath. */
  isActive(portId: string): boolean {
    return this.wanted.get(portId)?.number !== undefined;
  }

  /** An interface of this name appeared, or came up. */
  interfaceAppeared(name: string): void {
    const wanted = this.byInterface.get(name);
    if (wanted !== undefined && wanted.number === undefined) this.changed();
  }

  /** Somebody begins to capture what crosses the port, or ends it: what is flooded there is to be looked at, or not. */
  capturesChanged(portId: string): void {
    const wanted = this.wanted.get(portId);
    if (wanted?.number !== undefined && wanted.port.bridgeId !== undefined) {
      this.bridges.portsChanged(wanted.port.bridgeId);
    }
  }

  /** Ports of the datapath came or went, or interfaces that are wanted may be there now. */
  changed(): void {
    if (this.closed || this.settling !== undefined) return;
    this.settling = setTimeout(() => {
      this.settling = undefined;
      this.reconcile();
    }, SETTLE_MS);
  }

  /** Tell the NSDB again what it was told of this host: it may have lost that. What it has is left as it is. */
  republish(): void {
    for (const wanted of this.wanted.values()) {
      if (this.publications.isPending(wanted.port.id)) continue;
      if (wanted.local) this.publications.attachedStill(wanted.port);
      else if (wanted.number !== undefined) this.publishKey(wanted);
    }
    this.bridges.announceAll();
  }

  /** Forget what datapath ports that nobody uses were asked for. */
  forgetUnused(): void {
    this.ingresses.forgetUnused();
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.settling);
    this.bound.close();
  }

  private want(wanted: WantedPort): void {
    const { port, interfaceName } = wanted;
    this.wanted.set(port.id, wanted);
    const holder = this.byInterface.get(interfaceName);
    if (holder === undefined) this.byInterface.set(interfaceName, wanted);
    else {
      this.options.log.error(
        { interface: interfaceName, port: port.id, holder: holder.port.id },
        'two ports are bound to one interface; the first keeps it',
      );
    }
  }

  private forget(wanted: WantedPort): void {
    this.deactivate(wanted);
    this.wanted.delete(wanted.port.id);
    if (this.byInterface.get(wanted.interfaceName) !== wanted) return;
    this.byInterface.delete(wanted.interfaceName);
    for (const other of this.wanted.values()) {
      if (other.interfaceName !== wanted.interfaceName) continue;
      this.byInterface.set(other.interfaceName, other);
      return;
    }
  }

  /** After {@link forget}: take the interface out of the datapath, unless it never was in it for this port. */
  private async detachInterface(wanted: WantedPort, signal?: AbortSignal): Promise<void> {
    if (wanted.attached) await this.options.datapath.deletePort(wanted.interfaceName, signal);
    // Another port may have waited for the interface.
    this.changed();
  }

  private activate(wanted: WantedPort, number: number): void {
    const former = this.byNumber.get(number);
    // Its interface went unnoticed, and the datapath has given its number to this one.
    if (former !== undefined && former !== wanted) this.deactivate(former);
    if (this.inherited.get(wanted.interfaceName) !== number) this.options.onPortReplaced(number);
    this.inherited.delete(wanted.interfaceName);
    this.byNumber.set(number, wanted);
    wanted.number = number;
    wanted.attached = true;
    const { port } = wanted;
    const cache = this.options.cache();
    const zone = this.options.zones.take(portOwner(port.id)) ?? null;
    wanted.zone = zone;
    this.output(port.id).set(number);
    this.zone(port.id).set(zone);
    if (wanted.local && isBridgePort(port)) {
      cache.setLocalPort(port, (complete) => this.completed(wanted, complete));
    }
    this.ingress(number).set({ type: 'port', port: cache.port(port.id) });
    this.options.targets.set(portOwner(port.id), targetOf([wanted]));
    this.bridges.join(wanted);
    this.tellGroups(wanted);
    if (port.routerId !== undefined) this.options.onRouterPort(port);
  }

  private deactivate(wanted: WantedPort): void {
    const { port, number } = wanted;
    if (number === undefined) return;
    wanted.number = undefined;
    wanted.complete = undefined;
    this.byNumber.delete(number);
    this.options.onPortReplaced(number);
    this.bridges.leave(wanted);
    this.tellGroups(wanted);
    this.output(port.id).set(null);
    this.ingresses.remove(number);
    const tunnelKey = port.binding?.tunnelKey;
    if (tunnelKey !== undefined) this.options.targets.remove(tunnelKey);
    if (wanted.local && isBridgePort(port)) this.options.cache().clearLocalPort(port);
    if (port.routerId !== undefined) this.options.onRouterPortGone(port.id);
  }

  private tellGroups({ port, complete, number, zone }: WantedPort): void {
    this.options.onPortGroups(port.id, number === undefined ? [] : ((complete ?? port).portGroupIds ?? []), zone);
  }

  /** It is known what others have set of a port that was attached here. */
  private completed(wanted: WantedPort, complete: BridgePort): void {
    wanted.complete = complete;
    if (wanted.number === undefined) return;
    this.tellGroups(wanted);
    this.bridges.portsChanged(complete.bridgeId);
  }

  /** A port that the NSDB lists for this host, as it is now. */
  private boundPort(id: string, port: Port | undefined): void {
    const wanted = this.wanted.get(id);
    if (wanted?.local) return;
    const interfaceName = port?.binding?.hostId === this.options.hostId ? port.binding.interfaceName : undefined;
    if (port === undefined || interfaceName === undefined) {
      if (wanted !== undefined) this.unbind(wanted);
      return;
    }
    if (port.owner !== undefined) {
      // What the NSDB says is older than what it is being told.
      if (this.publications.isPending(id)) return;
      // Its owner attaches ports of this host itself, and did not know this one.
      this.options.log.info({ port: id, owner: port.owner }, 'deleting a port that its owner has forgotten');
      this.publications.detached(id);
      return;
    }
    if (wanted !== undefined && (wanted.interfaceName !== interfaceName || !isOfSameDevice(wanted.port, port))) {
      this.unbind(wanted);
    }
    const current = this.wanted.get(id);
    if (current !== undefined) {
      const before = current.port;
      const { binding } = before;
      current.port = { ...port, binding };
      if (current.number === undefined) return;
      this.tellGroups(current);
      if (port.bridgeId !== undefined) this.bridges.portsChanged(port.bridgeId);
      else if (!isKnownAlike(before, port)) this.options.onRouterPort(port);
      if (port.binding?.tunnelKey !== binding?.tunnelKey) this.publishKey(current);
      return;
    }
    this.want(wantedPort(port, interfaceName, false));
    this.changed();
  }

  /** A port that the NSDB bound here is bound here no longer. */
  private unbind(wanted: WantedPort): void {
    const { log } = this.options;
    const { id } = wanted.port;
    this.forget(wanted);
    this.detachInterface(wanted)
      .then(() => (this.wanted.has(id) ? undefined : this.releaseNumbers(id)))
      .catch((error: Error) =>
        log.error({ error: error.message, interface: wanted.interfaceName }, 'could not detach an interface'),
      );
  }

  private becomeComplete(): void {
    if (this.complete || this.closed) return;
    this.complete = true;
    this.bridges.setComplete();
    this.options.cache().setLocalPortsKnown();
    for (const cells of [this.outputs, this.zones, this.ingresses, this.options.targets]) cells.setComplete();
    this.releaseUnused().catch((error: Error) =>
      this.options.log.error({ error: error.message }, 'could not release tunnel keys and zones'),
    );
  }

  private async releaseUnused(): Promise<void> {
    const { targets, zones } = this.options;
    for (const owner of [...targets.owners()]) {
      const [kind, id] = owner.split(' ');
      // What other hosts were told of a bridge in the last run has to be taken back, too.
      if (kind === 'bridge') this.bridges.announce(id);
      else if (kind === 'port' && !this.wanted.has(id)) targets.release(owner);
    }
    for (const owner of [...zones.allOwners()]) {
      const [kind, id] = owner.split(' ');
      if (kind === 'port' && !this.wanted.has(id)) zones.release(owner);
    }
  }

  /** The port is not of this host any more: give back its tunnel key and its zone. */
  private releaseNumbers(portId: string): void {
    const { targets, zones } = this.options;
    targets.release(portOwner(portId));
    zones.release(portOwner(portId));
  }

  /** Make what is attached agree with what is wanted. */
  private reconcile(): void {
    if (this.reconciling) {
      this.again = true;
      return;
    }
    this.reconciling = true;
    this.reconcileNow()
      .catch((error: Error) => {
        if (!this.closed) this.options.log.error({ error: error.message }, 'could not read the ports of the datapath');
      })
      .finally(() => {
        this.reconciling = false;
        if (!this.again) return;
        this.again = false;
        this.changed();
      });
  }

  private async reconcileNow(): Promise<void> {
    const { datapath } = this.options;
    const all = this.bound.isRead && this.othersKnown;
    const before = new Map([...this.wanted.values()].map((wanted) => [wanted, wanted.number]));
    const ports = new Map((await datapath.ports()).map((port) => [port.name, port]));
    for (const [wanted, number] of before) {
      // What changed while the list was read is not judged by it.
      if (this.closed || this.wanted.get(wanted.port.id) !== wanted || wanted.number !== number) continue;
      if (number !== undefined && ports.get(wanted.interfaceName)?.number !== number) this.deactivate(wanted);
      if (wanted.number === undefined) await this.tryActivate(wanted);
      if (wanted.number === undefined) this.withdrawKey(wanted);
    }
    // Not before what is wanted has been attached: flows of the last run must not find themselves without a port.
    if (all) this.becomeComplete();
  }

  private async tryActivate(wanted: WantedPort): Promise<void> {
    const { datapath, targets, hostId, log } = this.options;
    if (this.byInterface.get(wanted.interfaceName) !== wanted) return;
    let number: number;
    try {
      number = (await datapath.addPort(wanted.interfaceName, 'netdev')).number;
    } catch (error) {
      if (!(error instanceof DatapathError)) throw error;
      // Not there yet: interfaceAppeared() will tell.
      if (error.kind !== 'not-found') {
        log.error({ error: error.message, interface: wanted.interfaceName }, 'could not attach an interface');
      }
      return;
    }
    const { id } = wanted.port;
    const tunnelKey = targets.takeKey(portOwner(id));
    if (this.closed || this.wanted.get(id) !== wanted || wanted.number !== undefined) return;
    wanted.port = { ...wanted.port, binding: { hostId, interfaceName: wanted.interfaceName, tunnelKey } };
    this.activate(wanted, number);
    if (!wanted.local) this.publishKey(wanted);
  }

  /** Routers take other ways, if there are any, than through a port whose interface is not there. */
  private withdrawKey(wanted: WantedPort): void {
    const { port } = wanted;
    if (port.routerId === undefined || port.binding?.tunnelKey === undefined) return;
    wanted.port = { ...port, binding: { ...port.binding, tunnelKey: undefined } };
    this.publishKey(wanted);
  }

  /** Tell other hosts the tunnel key of a port that is bound here in the NSDB, or that it has none. */
  private publishKey(wanted: WantedPort): void {
    const { id } = wanted.port;
    this.publications.key(id, () => (this.wanted.get(id) === wanted ? wanted.port.binding?.tunnelKey : null));
  }
}

function portOwner(portId: string): string {
  return `port ${portId}`;
}

function isOfSameDevice(a: Port, b: Port): boolean {
  return a.bridgeId === b.bridgeId && a.routerId === b.routerId;
}

/** Whether neighbours know the router by the same addresses at both. */
function isKnownAlike(a: Port, b: Port): boolean {
  return routerPortMac(a) === routerPortMac(b) && a.subnets?.join() === b.subnets?.join();
}
