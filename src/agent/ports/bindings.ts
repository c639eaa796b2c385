import type { Logger } from 'pino';
import type { Datapath, DatapathPort } from '../../datapath/datapath.js';
import { DatapathError } from '../../datapath/errors.js';
import { hostPortsPath } from '../../nsdb/layout.js';
import {
  ObjectExistsError,
  ObjectNotFoundError,
  type TopologyRepository,
} from '../../nsdb/repository/topology-repository.js';
import type { Watch } from '../../nsdb/store.js';
import type { Ingress, TunnelTarget } from '../../simulation/fact.js';
import { type BridgePort, bridgePortSchema, isBridgePort, type Port, routerPortMac } from '../../topology/types.js';
import { validate } from '../../topology/validate.js';
import { Cell } from '../facts/cell.js';
import { mergedPort } from '../facts/local-port.js';
import type { TopologyCache } from '../facts/topology-cache.js';
import type { Publisher } from '../host/publisher.js';
import type { TunnelKeys } from '../numbers/tunnel-keys.js';
import type { Zones } from '../numbers/zones.js';
import type { LocalPorts } from './local-ports.js';

/** How long changes of the datapath's ports are gathered before they are looked at. */
const SETTLE_MS = 20;

/** A port that is to be on this host. */
interface Wanted {
  port: Port;
  interfaceName: string;
  /** The port with what others have set of it in the NSDB, such as filters; undefined while that is not known. */
  complete: BridgePort | undefined;
  /** Attached by this host's own front ends, which need no NSDB; otherwise bound in the NSDB. */
  readonly local: boolean;
  /** Datapath port number while the interface is attached. */
  number: number | undefined;
  /** In which its connections are tracked, once it was attached; null when the kernel tracks none. */
  zone: number | null;
  /** Whether the interface was ever attached for this port. */
  attached: boolean;
}

export interface BindingsOptions {
  readonly hostId: string;
  readonly datapath: Datapath;
  readonly repository: TopologyRepository;
  readonly cache: () => TopologyCache;
  readonly publisher: Publisher;
  readonly keys: TunnelKeys;
  readonly zones: Zones;
  /** A datapath port is gone, or its number belongs to another interface now. */
  readonly onPortReplaced: (number: number) => void;
  /** A tunnel key of this host came into use, whose packets all go the same way. */
  readonly onTunnelKey: (tunnelKey: number) => void;
  /** A port of a router is attached here, or the router has other addresses at it. */
  readonly onRouterPort: (port: Port) => void;
  /** A port of a router is not attached here any more. */
  readonly onRouterPortGone: (portId: string) => void;
  readonly onChange: (cell: Cell<unknown>) => void;
  readonly log: Logger;
}

/**
 * The ports of this host: which are wanted (attached here, or bound in the NSDB), which are there, and what follows from
 * that: where their packets enter and leave, their tunnel keys, and what other hosts are told.
 */
export class Bindings implements LocalPorts {
  private readonly wanted = new Map<string, Wanted>();
  private readonly byInterface = new Map<string, Wanted>();
  private readonly outputs = new Map<string, Cell<number>>();
  private readonly zones = new Map<string, Cell<number>>();
  private readonly ingresses = new Map<number, Cell<Ingress>>();
  private readonly targets = new Map<number, Cell<TunnelTarget>>();
  /** Active ports by bridge. */
  private readonly active = new Map<string, Set<Wanted>>();
  /** Bridges of which others are told a key for the ports that are not isolated. */
  private readonly announcedIsolated = new Set<string>();
  private readonly portWatches = new Map<string, Watch>();
  private listWatch: Watch | undefined;
  /** What the NSDB lists for this host has been read once. */
  private listed = false;
  private readonly byNumber = new Map<number, Wanted>();
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

  constructor(private readonly options: BindingsOptions) {}

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
    this.listWatch = this.options.repository.store.watchChildren(hostPortsPath(this.options.hostId), (ids = []) =>
      this.boundPorts(ids),
    );
  }

  /** The ports that the datapath had before the start. */
  inherit(ports: readonly DatapathPort[]): void {
    this.inherited = new Map(ports.map(({ name, number }) => [name, number]));
  }

  /** Where packets to a port of this host leave. */
  output(portId: string): Cell<number> {
    return this.cell(this.outputs, portId, `output of port ${portId}`);
  }

  /** The zone in which connections of a port of this host are tracked. */
  zone(portId: string): Cell<number> {
    return this.cell(this.zones, portId, `zone of port ${portId}`);
  }

  /** How packets from a datapath port enter. */
  ingress(number: number): Cell<Ingress> {
    return this.cell(this.ingresses, number, `datapath port ${number}`);
  }

  /** What a tunnel key of this host stands for. */
  target(tunnelKey: number): Cell<TunnelTarget> {
    return this.cell(this.targets, tunnelKey, `tunnel key ${tunnelKey}`);
  }

  /** The key under which other hosts send here replies to what this host has translated for a router. */
  routerKey(routerId: string): number {
    const key = this.options.keys.take(routerOwner(routerId));
    const target = this.target(key);
    if (!target.value) target.set({ outputs: [], ports: [], router: this.options.cache().router(routerId).cell });
    return key;
  }

  /** This host translates nothing for the router any more. */
  releaseRouterKey(routerId: string): void {
    this.releaseKey(routerOwner(routerId));
  }

  /** No packet has gone to the port for a while. */
  forgetPort(portId: string): void {
    if (this.wanted.has(portId)) return;
    this.outputs.delete(portId);
    this.zones.delete(portId);
  }

  /** Tunnel keys in use whose packets all go the same way. */
  tunnelKeys(): number[] {
    return [...this.targets].filter(([, { value }]) => value && takesAll(value)).map(([key]) => key);
  }

  /** Whether what the NSDB binds here is known, and attached if it can be. */
  get isComplete(): boolean {
    return this.complete;
  }

  /** Bridges that have ports whose interface is attached. */
  activeBridges(): Iterable<string> {
    return this.active.keys();
  }

  /** Number of ports whose interface is attached. */
  get activePorts(): number {
    return this.byNumber.size;
  }

  async attach(port: BridgePort, interfaceName: string, signal?: AbortSignal): Promise<void> {
    const { datapath, keys, hostId } = this.options;
    const valid = validate(bridgePortSchema, { ...port, binding: { hostId, interfaceName } }, 'port');
    const holder = this.byInterface.get(interfaceName);
    if (holder !== undefined && holder.port.id !== port.id) {
      throw new DatapathError('busy', `interface ${interfaceName} is bound to port ${holder.port.id}`);
    }
    const { number } = await datapath.addPort(interfaceName, 'netdev', signal);
    const tunnelKey = keys.take(portOwner(port.id));
    const bound: BridgePort = { ...valid, binding: { hostId, interfaceName, tunnelKey } };
    const before = this.wanted.get(port.id);
    if (before !== undefined) this.forget(before);
    const wanted: Wanted = {
      port: bound,
      interfaceName,
      complete: undefined,
      local: true,
      number: undefined,
      zone: null,
      attached: false,
    };
    this.want(wanted);
    this.activate(wanted, number, tunnelKey);
    this.publishPort(bound);
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
    this.publishDeletion(portId);
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
    const { publisher, hostId } = this.options;
    for (const wanted of this.wanted.values()) {
      const { port } = wanted;
      if (publisher.isPending(`port ${port.id}`)) continue;
      // One that was attached to another host since is that host's.
      if (wanted.local) this.publishPort(port, ({ binding }) => binding?.hostId === hostId);
      else if (wanted.number !== undefined) this.publishKey(wanted);
    }
    for (const bridgeId of this.active.keys()) this.announceBridge(bridgeId);
  }

  /** Forget what tunnel keys and datapath ports that nobody uses were asked for. */
  forgetUnused(): void {
    for (const cells of [this.ingresses, this.targets] as Map<number, Cell<unknown>>[]) {
      for (const [key, cell] of cells) if (cell.value === null && cell.flows.size === 0) cells.delete(key);
    }
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.settling);
    this.listWatch?.close();
    for (const watch of this.portWatches.values()) watch.close();
    this.portWatches.clear();
  }

  private cell<K, T>(cells: Map<K, Cell<T>>, key: K, tag: string): Cell<T> {
    let cell = cells.get(key);
    if (cell === undefined) {
      cell = new Cell<T>(tag, { onChange: this.options.onChange });
      if (this.complete) cell.set(null);
      cells.set(key, cell);
    }
    return cell;
  }

  private want(wanted: Wanted): void {
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

  private forget(wanted: Wanted): void {
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
  private async detachInterface(wanted: Wanted, signal?: AbortSignal): Promise<void> {
    if (wanted.attached) await this.options.datapath.deletePort(wanted.interfaceName, signal);
    // Another port may have waited for the interface.
    this.changed();
  }

  private activate(wanted: Wanted, number: number, tunnelKey: number): void {
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
    this.target(tunnelKey).set(targetOf([wanted]));
    this.options.onTunnelKey(tunnelKey);
    this.joinBridge(wanted);
    if (port.routerId !== undefined) this.options.onRouterPort(port);
  }

  private deactivate(wanted: Wanted): void {
    const { port, number } = wanted;
    if (number === undefined) return;
    wanted.number = undefined;
    wanted.complete = undefined;
    this.byNumber.delete(number);
    this.options.onPortReplaced(number);
    this.leaveBridge(wanted);
    this.output(port.id).set(null);
    this.ingress(number).set(null);
    this.ingresses.delete(number);
    const tunnelKey = port.binding?.tunnelKey;
    if (tunnelKey !== undefined) {
      this.target(tunnelKey).set(null);
      this.targets.delete(tunnelKey);
    }
    if (wanted.local && isBridgePort(port)) this.options.cache().clearLocalPort(port);
    if (port.routerId !== undefined) this.options.onRouterPortGone(port.id);
  }

  private joinBridge(wanted: Wanted): void {
    const { bridgeId } = wanted.port;
    if (bridgeId === undefined) return;
    const ports = this.active.get(bridgeId) ?? new Set();
    ports.add(wanted);
    this.active.set(bridgeId, ports);
    this.bridgePortsChanged(bridgeId);
    if (ports.size === 1) {
      this.options.cache().bridge(bridgeId).presume(true);
      this.announceBridge(bridgeId);
    }
  }

  private leaveBridge(wanted: Wanted): void {
    const { bridgeId } = wanted.port;
    if (bridgeId === undefined) return;
    const ports = this.active.get(bridgeId);
    if (!ports?.delete(wanted)) return;
    this.bridgePortsChanged(bridgeId);
    if (ports.size === 0) {
      this.active.delete(bridgeId);
      this.options.cache().bridge(bridgeId).presume(false);
      this.announceBridge(bridgeId);
    }
  }

  /** It is known what others have set of a port that was attached here. */
  private completed(wanted: Wanted, complete: BridgePort): void {
    wanted.complete = complete;
    if (wanted.number !== undefined) this.bridgePortsChanged(complete.bridgeId);
  }

  /** Ports of the bridge came, went or changed. */
  private bridgePortsChanged(bridgeId: string): void {
    this.floodTargetsChanged(bridgeId);
    if (this.hasIsolated(bridgeId) !== this.announcedIsolated.has(bridgeId)) this.announceBridge(bridgeId);
  }

  private floodTargetsChanged(bridgeId: string): void {
    // Flows of the last run flood to ports that are not attached again yet.
    if (!this.complete) return;
    const cache = this.options.cache();
    const up = [...(this.active.get(bridgeId) ?? [])].filter(({ port, complete }) => (complete ?? port).adminStateUp);
    up.sort((a, b) => a.number! - b.number!);
    const plain = targetOf(up.filter((wanted) => !dependsOnPacket(wanted)));
    const asking = up.filter(dependsOnPacket);
    const all = { ...plain, ports: asking.map(({ port }) => cache.port(port.id)) };
    const open = {
      ...plain,
      ports: asking.filter(({ port, complete }) => !(complete ?? port).isolated).map(({ port }) => cache.port(port.id)),
    };
    cache.bridge(bridgeId).localPorts.set(all);
    this.setFloodTarget(bridgeOwner(bridgeId), all);
    this.setFloodTarget(openBridgeOwner(bridgeId), open);
  }

  private setFloodTarget(owner: string, target: TunnelTarget): void {
    const key = this.options.keys.keyOf(owner);
    if (key === undefined) return;
    const isEmpty = target.outputs.length + target.ports.length === 0;
    this.target(key).set(isEmpty ? null : target);
    if (!isEmpty && takesAll(target)) this.options.onTunnelKey(key);
  }

  private hasIsolated(bridgeId: string): boolean {
    for (const { port, complete } of this.active.get(bridgeId) ?? []) if ((complete ?? port).isolated) return true;
    return false;
  }

  /** Nothing comes under this tunnel key any more. */
  private releaseKey(owner: string): void {
    const key = this.options.keys.keyOf(owner);
    if (key === undefined) return;
    this.options.keys.release(owner);
    this.target(key).set(null);
  }

  /** Tell the other hosts whether flooded packets of the bridge are to come here. */
  private announceBridge(bridgeId: string): void {
    const { keys, repository, hostId, publisher } = this.options;
    publisher.publish(`bridge ${bridgeId}`, async (signal) => {
      if (!this.active.has(bridgeId)) {
        await repository.setBridgeHost(bridgeId, hostId, undefined, signal);
        if (!this.active.has(bridgeId)) {
          this.announcedIsolated.delete(bridgeId);
          this.releaseKey(bridgeOwner(bridgeId));
          this.releaseKey(openBridgeOwner(bridgeId));
        }
        return;
      }
      const floodKey = keys.take(bridgeOwner(bridgeId));
      const hasIsolated = this.hasIsolated(bridgeId);
      if (hasIsolated) this.announcedIsolated.add(bridgeId);
      else this.announcedIsolated.delete(bridgeId);
      const openFloodKey = hasIsolated ? keys.take(openBridgeOwner(bridgeId)) : undefined;
      this.floodTargetsChanged(bridgeId);
      await repository.setBridgeHost(bridgeId, hostId, { floodKey, openFloodKey }, signal);
      if (!this.announcedIsolated.has(bridgeId)) this.releaseKey(openBridgeOwner(bridgeId));
    });
  }

  /** @param replaces whether a port that the NSDB has under this id is replaced */
  private publishPort(port: Port, replaces: (current: Port) => boolean = () => true): void {
    const { repository, publisher } = this.options;
    publisher.publish(`port ${port.id}`, async (signal) => {
      try {
        await repository.create('port', port, signal);
      } catch (error) {
        if (!(error instanceof ObjectExistsError) || error.field !== 'port.id') throw error;
        const change = (current: Port) => {
          // What others have set of it, such as filters, stays.
          const merged = mergedPort(port, current);
          return samePort(current, merged) || !replaces(current) ? undefined : merged;
        };
        await repository.modify('port', port.id, change, signal);
      }
    });
  }

  private publishDeletion(portId: string): void {
    const { repository, publisher, hostId } = this.options;
    // When it was attached to another host since, it is not ours to delete any more.
    const isOurs = ({ binding }: Port) => binding === undefined || binding.hostId === hostId;
    publisher.publish(`port ${portId}`, (signal) => repository.deleteIf('port', portId, isOurs, signal));
  }

  /** The NSDB's list of this host's ports. */
  private boundPorts(ids: readonly string[]): void {
    const { repository, log } = this.options;
    const listed = new Set(ids);
    for (const [id, watch] of this.portWatches) {
      if (listed.has(id)) continue;
      watch.close();
      this.portWatches.delete(id);
      const wanted = this.wanted.get(id);
      if (wanted !== undefined && !wanted.local) this.unbind(wanted);
    }
    const unknown: Promise<void>[] = [];
    for (const id of listed) {
      if (this.portWatches.has(id) || this.wanted.get(id)?.local) continue;
      const watch = repository.watch(
        'port',
        id,
        (port) => this.boundPort(id, port),
        (error) => log.error({ error: error.message, port: id }, 'a port bound to this host is not valid'),
      );
      this.portWatches.set(id, watch);
      unknown.push(watch.ready);
    }
    if (this.listed) return;
    Promise.all(unknown).then(() => {
      this.listed = true;
      this.changed();
    });
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
      if (this.options.publisher.isPending(`port ${id}`)) return;
      // Its owner attaches ports of this host itself, and did not know this one.
      this.options.log.info({ port: id, owner: port.owner }, 'deleting a port that its owner has forgotten');
      this.publishDeletion(id);
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
      if (port.bridgeId !== undefined) this.bridgePortsChanged(port.bridgeId);
      else if (!isKnownAlike(before, port)) this.options.onRouterPort(port);
      if (port.binding?.tunnelKey !== binding?.tunnelKey) this.publishKey(current);
      return;
    }
    this.want({
      port,
      interfaceName,
      complete: undefined,
      local: false,
      number: undefined,
      zone: null,
      attached: false,
    });
    this.changed();
  }

  /** A port that the NSDB bound here is bound here no longer. */
  private unbind(wanted: Wanted): void {
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
    for (const bridgeId of this.active.keys()) this.floodTargetsChanged(bridgeId);
    this.options.cache().setLocalPortsKnown();
    for (const cells of [this.outputs, this.zones, this.ingresses, this.targets] as Map<unknown, Cell<unknown>>[]) {
      for (const cell of cells.values()) if (cell.value === undefined) cell.set(null);
    }
    this.releaseUnused().catch((error: Error) =>
      this.options.log.error({ error: error.message }, 'could not release tunnel keys and zones'),
    );
  }

  private async releaseUnused(): Promise<void> {
    const { keys, zones } = this.options;
    for (const owner of [...keys.owners()]) {
      const [kind, id] = owner.split(' ');
      // What other hosts were told of a bridge in the last run has to be taken back, too.
      if (kind === 'bridge') this.announceBridge(id);
      else if (kind === 'port' && !this.wanted.has(id)) keys.release(owner);
    }
    for (const owner of [...zones.allOwners()]) {
      const [kind, id] = owner.split(' ');
      if (kind === 'port' && !this.wanted.has(id)) zones.release(owner);
    }
  }

  /** The port is not of this host any more: give back its tunnel key and its zone. */
  private releaseNumbers(portId: string): void {
    const { keys, zones } = this.options;
    keys.release(portOwner(portId));
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
    const all = this.listed && this.othersKnown;
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

  private async tryActivate(wanted: Wanted): Promise<void> {
    const { datapath, keys, hostId, log } = this.options;
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
    const tunnelKey = keys.take(portOwner(id));
    if (this.closed || this.wanted.get(id) !== wanted || wanted.number !== undefined) return;
    wanted.port = { ...wanted.port, binding: { hostId, interfaceName: wanted.interfaceName, tunnelKey } };
    this.activate(wanted, number, tunnelKey);
    if (!wanted.local) this.publishKey(wanted);
  }

  /** Routers take other ways, if there are any, than through a port whose interface is not there. */
  private withdrawKey(wanted: Wanted): void {
    const { port } = wanted;
    if (port.routerId === undefined || port.binding?.tunnelKey === undefined) return;
    wanted.port = { ...port, binding: { ...port.binding, tunnelKey: undefined } };
    this.publishKey(wanted);
  }

  /** Tell other hosts the tunnel key of a port that is bound here in the NSDB, or that it has none. */
  private publishKey(wanted: Wanted): void {
    const { hostId, publisher, repository } = this.options;
    const { id } = wanted.port;
    publisher.publish(`port ${id}`, async (signal) => {
      const tunnelKey = wanted.port.binding?.tunnelKey;
      const change = (port: Port): Port | undefined =>
        this.wanted.get(id) === wanted && port.binding?.hostId === hostId && port.binding.tunnelKey !== tunnelKey
          ? { ...port, binding: { ...port.binding, tunnelKey } }
          : undefined;
      try {
        await repository.modify('port', id, change, signal);
      } catch (error) {
        // Deleted meanwhile: the watch tells.
        if (!(error instanceof ObjectNotFoundError && error.id === id)) throw error;
      }
    });
  }
}

/** Where packets go that come for these ports, which are attached and take whatever comes. */
function targetOf(wanted: readonly Wanted[]): TunnelTarget {
  const outputs = wanted.map(({ number }) => number!);
  const zones = wanted.flatMap(({ zone }) => (zone === null ? [] : [zone]));
  return { outputs, zones: zones.length < wanted.length ? undefined : zones, ports: [] };
}

function portOwner(portId: string): string {
  return `port ${portId}`;
}

function routerOwner(routerId: string): string {
  return `router ${routerId}`;
}

function bridgeOwner(bridgeId: string): string {
  return `bridge ${bridgeId}`;
}

/** Of the ports of the bridge that are not isolated. */
function openBridgeOwner(bridgeId: string): string {
  return `bridge ${bridgeId} open`;
}

/** Whether it does not depend on the packet what becomes of it. */
function takesAll({ ports, router }: TunnelTarget): boolean {
  return ports.length === 0 && router === undefined;
}

/** Whether a packet that is flooded may not leave at the port, or not as it is. */
function dependsOnPacket({ port, local, complete }: Wanted): boolean {
  if (local && complete === undefined) return true;
  const { isolated, outboundFilterId, outboundMirrorIds, preOutFilterMirrorIds } = complete ?? port;
  const mirrors = [...(outboundMirrorIds ?? []), ...(preOutFilterMirrorIds ?? [])];
  return isolated === true || outboundFilterId !== undefined || mirrors.length > 0;
}

function isOfSameDevice(a: Port, b: Port): boolean {
  return a.bridgeId === b.bridgeId && a.routerId === b.routerId;
}

/** Whether neighbours know the router by the same addresses at both. */
function isKnownAlike(a: Port, b: Port): boolean {
  return routerPortMac(a) === routerPortMac(b) && a.subnets?.join() === b.subnets?.join();
}

function samePort(a: Port, b: Port): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
