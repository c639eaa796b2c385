import type { Logger } from 'pino';
import type { Datapath } from '../../datapath/datapath.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import type { Watch } from '../../nsdb/store.js';
import { parseMac } from '../../packet/address.js';
import { parseIp } from '../../packet/ip.js';
import type { ChainFact, Fact, InterfaceAddress, NeighborFact, PortFact, TunnelPath } from '../../simulation/fact.js';
import { type BridgePort, type Port, routerPortMac } from '../../topology/types.js';
import { AddressCells } from './address-cells.js';
import { BridgeNode } from './bridge-node.js';
import { CaptureCells, sameCaptures } from './capture-cells.js';
import { Cell, type CellOptions, isIdle } from './cell.js';
import { ChainCells, sameFilters } from './chain-cells.js';
import type { DeviceSource } from './device-source.js';
import { HostLiveness } from './host-liveness.js';
import { InsertionCells, sameInsertions } from './insertion-cells.js';
import { LinkedRouters } from './linked-routers.js';
import { LoadBalancerCells } from './load-balancer-cells.js';
import { LocalPort, type LocalPortFacts } from './local-port.js';
import { Meters } from './meters.js';
import { MirrorCells, sameTaps } from './mirror-cells.js';
import { QosCells } from './qos-cells.js';
import { RouterNode } from './router-node.js';
import { SourceNat, type SourceNatOptions } from './source-nat.js';

/** How long a fact that no flow needs is still watched. */
const RELEASE_AFTER_MS = 60_000;

/**
 * The part of the topology that this host's packets need, as facts. A fact is read from the NSDB and watched from the
 * first packet that needs it until a minute after the last flow that did. What belongs to this host's own ports is set
 * here and needs no NSDB.
 */
export class TopologyCache implements DeviceSource {
  private readonly ports = new Map<string, Cell<PortFact>>();
  private readonly bridges = new Map<string, BridgeNode>();
  private readonly routers = new Map<string, RouterNode>();
  /** By port of a router. */
  private readonly neighbors = new Map<string, AddressCells<NeighborFact>>();
  readonly chains = new ChainCells(this);
  readonly mirrors = new MirrorCells(this, this.chains);
  readonly captures: CaptureCells;
  readonly insertions = new InsertionCells(this, this.chains);
  readonly loadBalancers: LoadBalancerCells;
  readonly qos: QosCells;
  readonly meters: Meters;
  readonly hosts: HostLiveness;
  /** Those that front ends of this host attached. */
  private readonly localPorts = new Map<string, LocalPort>();
  /** Facts to be given up and when they were last found to be needed, oldest first. */
  private readonly watched = new Map<Cell<unknown>, number>();
  /** By device. */
  private readonly sourceNats = new Map<string, SourceNat>();
  private localPortsKnown = false;
  private readonly linkedRouters = new LinkedRouters(this, (id) => this.bridge(id));

  /**
   * @param tunnel gives the way to a host
   * @param findNeighbor finds out the MAC address of a neighbour at a port of a router, and watches it
   * @param nat is absent when the datapath cannot translate
   * @param forgotten is told of ports that no packet has needed for a while
   * @param onMemberDown is told of members of load balancers that do not work
   * @param onChange is told of every fact that changes
   */
  constructor(
    readonly repository: TopologyRepository,
    readonly hostId: string,
    readonly tunnel: (hostId: string) => Fact<TunnelPath>,
    private readonly here: (portId: string) => LocalPortFacts,
    private readonly findNeighbor: (portId: string, address: string, cell: Cell<NeighborFact>) => Watch,
    private readonly nat: SourceNatOptions | undefined,
    datapath: Pick<Datapath, 'features' | 'meter' | 'putMeter' | 'deleteMeter'>,
    private readonly forgotten: (portId: string) => void,
    onMemberDown: ConstructorParameters<typeof LoadBalancerCells>[1],
    private readonly onChange: (cell: Cell<unknown>) => void,
    private readonly clock: () => number,
    private readonly log: Logger,
  ) {
    this.loadBalancers = new LoadBalancerCells(this, onMemberDown);
    this.hosts = new HostLiveness(repository.store, clock);
    this.meters = new Meters(this, datapath, log);
    this.qos = new QosCells(this, this.meters);
    this.captures = new CaptureCells(this, this.meters, (portId) => this.capturesChanged(portId));
  }

  /** How many facts are watched in the NSDB, or were needed a short while ago. */
  get size(): number {
    return this.watched.size;
  }

  bridge(id: string): BridgeNode {
    let node = this.bridges.get(id);
    if (node === undefined) {
      node = new BridgeNode(id, this);
      if (this.localPortsKnown) node.localPorts.set(null);
      this.bridges.set(id, node);
    }
    return node;
  }

  router(id: string): RouterNode {
    let node = this.routers.get(id);
    if (node === undefined) {
      node = new RouterNode(id, this);
      this.routers.set(id, node);
    }
    return node;
  }

  sourceNat(deviceId: string): SourceNat | undefined {
    if (this.nat === undefined) return undefined;
    let sourceNat = this.sourceNats.get(deviceId);
    if (sourceNat === undefined) {
      sourceNat = new SourceNat(deviceId, this, this.nat);
      this.sourceNats.set(deviceId, sourceNat);
    }
    return sourceNat;
  }

  /** Whether a flow or packet needs that the sources of packets be translated for the device. */
  usesSourceNat(deviceId: string): boolean {
    return this.sourceNats.get(deviceId)?.isIdle === false;
  }

  port(id: string): Cell<PortFact> {
    let cell = this.ports.get(id);
    if (cell === undefined) {
      cell = this.cell<PortFact>(`port ${id}`, {
        subscribe: (self) => this.watchPort(id, self),
        same: samePort,
      });
      this.ports.set(id, cell);
    }
    return cell;
  }

  private watchPort(id: string, cell: Cell<PortFact>): Watch {
    const follow = (port: Port | undefined) => {
      // Packets that waited for the port are not to be flooded, but to go where the router is.
      if (port !== undefined) this.linkedRouters.portChanged(id, port);
      cell.set(port === undefined ? null : this.portFact(port));
      if (port === undefined) this.linkedRouters.portChanged(id, undefined);
    };
    const watch = this.repository.watch('port', id, follow, this.invalid);
    const close = () => {
      watch.close();
      this.linkedRouters.portChanged(id, undefined);
    };
    return { ready: watch.ready, close };
  }

  /** Begin to read and watch a fact that a simulation waits for. */
  load(cell: Cell<unknown>): void {
    if (cell.started) return;
    cell.start();
    if (cell.started) this.watched.set(cell, this.clock());
  }

  /** Watch a fact that was read for so many seconds, though no flow needs it. */
  keep(cell: Cell<unknown>, seconds: number): void {
    cell.keptUntil = this.clock() + 1000 * seconds;
  }

  /** Stop watching what no flow has needed for a minute, and forget what nothing leads to. Tells whether there was any. */
  releaseUnused(): boolean {
    const horizon = this.clock() - RELEASE_AFTER_MS;
    let isAnyReleased = false;
    for (const [cell, since] of this.watched) {
      if (since > horizon) break;
      this.watched.delete(cell);
      // What is set on this host packets do not wait for, so nothing would start the watch again.
      const isKept = cell.keptUntil !== undefined && cell.keptUntil > this.clock();
      if (!cell.isLocal && !isKept && cell.flows.size === 0 && (cell.idleSince ?? since) <= horizon) {
        cell.stop();
        isAnyReleased = true;
      } else this.watched.set(cell, this.clock());
    }
    if (isAnyReleased) this.forgetUnused();
    return isAnyReleased;
  }

  /** The ways to other hosts that some fact leads to. */
  tunnelsInUse(): Set<Fact<TunnelPath>> {
    const tunnels = new Set<Fact<TunnelPath>>();
    for (const { value } of this.ports.values()) {
      if (value?.location?.type === 'remote') tunnels.add(value.location.tunnel);
    }
    for (const bridge of this.bridges.values()) {
      for (const { tunnel } of bridge.remoteHosts.value ?? []) tunnels.add(tunnel);
    }
    for (const tunnel of this.loadBalancers.tunnels()) tunnels.add(tunnel);
    for (const sourceNat of this.sourceNats.values()) for (const tunnel of sourceNat.tunnels()) tunnels.add(tunnel);
    for (const tunnel of this.captures.tunnels()) tunnels.add(tunnel);
    return tunnels;
  }

  /**
   * Forget ports that nothing of a bridge leads to any more, nor a route, a mirror, a rule or the port that they are linked
   * to, and bridges and routers that no port does. They are not watched; what still led to one would have a fact of its own
   * beside that of whoever asks by name.
   */
  private forgetUnused(): void {
    const ports = new Set<Fact<PortFact>>();
    for (const bridge of this.bridges.values()) for (const port of bridge.portsInUse()) ports.add(port);
    for (const router of this.routers.values()) for (const port of router.portsInUse()) ports.add(port);
    for (const port of this.mirrors.portsInUse()) ports.add(port);
    for (const port of this.chains.portsInUse()) ports.add(port);
    for (const port of this.insertions.portsInUse()) ports.add(port);
    for (const { value } of this.ports.values()) if (value?.peer !== undefined) ports.add(value.peer);
    for (const [id, port] of this.ports) {
      if (!isIdle(port) || this.watched.has(port as Cell<unknown>) || ports.has(port)) continue;
      this.ports.delete(id);
      this.forgotten(id);
    }
    const devices = new Set<Fact<unknown>>();
    for (const { value } of this.ports.values()) {
      if (value) devices.add(value.type === 'bridge' ? value.bridge : value.router);
    }
    for (const [id, bridge] of this.bridges) if (bridge.isIdle && !devices.has(bridge.cell)) this.bridges.delete(id);
    for (const [id, { cell }] of this.routers) if (isIdle(cell) && !devices.has(cell)) this.routers.delete(id);
    for (const [id, sourceNat] of this.sourceNats) {
      if (sourceNat.isIdle && !this.bridges.has(id) && !this.routers.has(id)) this.sourceNats.delete(id);
    }
    for (const [id, cells] of this.neighbors) if (cells.isEmpty && !this.ports.has(id)) this.neighbors.delete(id);
  }

  /**
   * A port of this host, with the entries of its bridge's tables that follow from it.
   * @param onComplete is told of the port with what others have set of it, now or when that is known, and when it changes
   */
  setLocalPort(port: BridgePort, onComplete: (port: BridgePort) => void = () => {}): void {
    this.localPorts.get(port.id)?.close();
    const show = (local: LocalPort) => {
      this.port(port.id).setLocal(this.portFact(local.port, local.unknownFilters));
      if (local.isComplete) onComplete(local.port);
    };
    const local = new LocalPort(port, this, show);
    this.localPorts.set(port.id, local);
    show(local);
    this.seed(port, true);
  }

  clearLocalPort(port: BridgePort): void {
    this.localPorts.get(port.id)?.close();
    this.localPorts.delete(port.id);
    this.seed(port, false);
    this.clearLocal(this.port(port.id));
  }

  /** All bridges that have ports on this host have been told of them. */
  setLocalPortsKnown(): void {
    this.localPortsKnown = true;
    for (const { localPorts } of this.bridges.values()) if (localPorts.value === undefined) localPorts.set(null);
  }

  close(): void {
    for (const port of this.localPorts.values()) port.close();
    for (const bridge of this.bridges.values()) bridge.close();
    this.linkedRouters.close();
    this.captures.close();
    this.meters.close();
    for (const cell of this.watched.keys()) cell.stop();
    this.watched.clear();
  }

  cell<T>(tag: string, options: Omit<CellOptions<T>, 'onChange'>): Cell<T> {
    return new Cell<T>(tag, { ...options, onChange: this.onChange });
  }

  /** Somebody begins to capture, or ends it, what crosses the port. */
  private capturesChanged(portId: string): void {
    const cell = this.ports.get(portId);
    const port = cell?.value;
    if (cell === undefined || !port) return;
    const changed = { ...port, ...this.captures.ofPort(portId) };
    if (cell.isLocal) cell.setLocal(changed);
    else cell.set(changed);
  }

  /** @param unknown what packets have to wait for at the port besides its filters */
  private portFact(port: Port, unknown: readonly Fact<ChainFact>[] = []): PortFact {
    const { id, adminStateUp, bridgeId, routerId, subnets = [] } = port;
    const peer = port.peerId === undefined ? undefined : this.port(port.peerId);
    const location = this.location(port);
    const filtersAndTaps = {
      inboundFilters: [...unknown, ...this.chains.filters(port.inboundFilterId)],
      outboundFilters: [...this.chains.filters(port.outboundFilterId), ...unknown],
      groupIds: new Set(port.portGroupIds),
      ...this.mirrors.taps(port),
      ...this.captures.ofPort(id),
    };
    if (bridgeId !== undefined) {
      const mac = port.mac === undefined ? undefined : parseMac(port.mac);
      const addresses = port.addresses.map((address) => Uint32Array.from(parseIp(address)!.words));
      return {
        type: 'bridge',
        id,
        adminStateUp,
        mac,
        addresses,
        bridge: this.bridge(bridgeId).cell,
        location,
        peer,
        vlanId: peer === undefined ? undefined : port.vlanId,
        isIsolated: port.isolated ?? false,
        qos: this.qos.policy(port.qosPolicyId),
        ...this.insertions.ofPort(port),
        ...filtersAndTaps,
      };
    }
    const neighbors = this.neighborsAt(id);
    return {
      type: 'router',
      id,
      adminStateUp,
      mac: parseMac(routerPortMac(port))!,
      router: this.router(routerId!).cell,
      addresses: subnets.map(interfaceAddress),
      peer,
      location,
      ...filtersAndTaps,
      ipv4: (address) => neighbors.ipv4(address),
      ipv6: (words, offset) => neighbors.ipv6(words, offset),
    };
  }

  private neighborsAt(portId: string): AddressCells<NeighborFact> {
    let cells = this.neighbors.get(portId);
    if (cells === undefined) {
      cells = new AddressCells((address, forget) =>
        this.cell<NeighborFact>(`neighbor ${address} at port ${portId}`, {
          subscribe: (self) => this.findNeighbor(portId, address, self),
          same: (a, b) => a.mac === b.mac,
          forget,
          namedByPackets: true,
        }),
      );
      this.neighbors.set(portId, cells);
    }
    return cells;
  }

  private location(port: Port): PortFact['location'] {
    const binding = port.binding;
    if (binding === undefined) return null;
    if (binding.hostId === this.hostId) return { type: 'local', ...this.here(port.id) };
    if (binding.tunnelKey === undefined) return null;
    return { type: 'remote', tunnel: this.tunnel(binding.hostId), tunnelKey: binding.tunnelKey };
  }

  private seed(port: BridgePort, present: boolean): void {
    if (port.mac === undefined) return;
    const bridge = this.bridge(port.bridgeId);
    const mac = parseMac(port.mac)!;
    const neighbors = port.addresses.map((address) => bridge.neighbor(address));
    if (present) {
      bridge.mac(mac).setLocal({ port: this.port(port.id) });
      for (const neighbor of neighbors) neighbor.setLocal({ mac });
    } else {
      this.clearLocal(bridge.mac(mac));
      for (const neighbor of neighbors) this.clearLocal(neighbor);
    }
  }

  /** Flows that need the fact load it when they are revisited; it is given up when none does. */
  clearLocal<T>(cell: Cell<T>): void {
    cell.setLocal(undefined);
    this.watched.delete(cell as Cell<unknown>);
    this.watched.set(cell as Cell<unknown>, this.clock());
  }

  readonly invalid = (error: Error): void => {
    this.log.error({ error: error.message }, 'the NSDB holds a value that is not valid; the last valid one stays');
  };

  unreadableRule(chain: string, rule: string, error: Error): void {
    this.log.error({ chain, rule, error: error.message }, 'a rule cannot be read; packets that come to it are dropped');
  }
}

function interfaceAddress(subnet: string): InterfaceAddress {
  const [address, prefix] = subnet.split('/');
  return { words: Uint32Array.from(parseIp(address)!.words), prefix: Number(prefix) };
}

function samePort(a: PortFact, b: PortFact): boolean {
  if (a.adminStateUp !== b.adminStateUp || a.mac !== b.mac || a.peer !== b.peer) return false;
  if (!sameLocation(a.location, b.location)) return false;
  if (!sameFilters(a.inboundFilters, b.inboundFilters) || !sameFilters(a.outboundFilters, b.outboundFilters))
    return false;
  if (!sameIds(a.groupIds, b.groupIds) || !sameTaps(a, b) || !sameCaptures(a, b)) return false;
  if (a.type === 'bridge') {
    if (b.type !== 'bridge' || a.bridge !== b.bridge || a.qos !== b.qos || !sameInsertions(a, b)) return false;
    return a.vlanId === b.vlanId && a.isIsolated === b.isIsolated;
  }
  return b.type === 'router' && a.router === b.router && sameAddresses(a.addresses, b.addresses);
}

function sameAddresses(a: readonly InterfaceAddress[], b: readonly InterfaceAddress[]): boolean {
  if (a.length !== b.length) return false;
  return a.every(({ prefix, words }, i) => prefix === b[i].prefix && words.join() === b[i].words.join());
}

function sameIds(a: ReadonlySet<string> = new Set(), b: ReadonlySet<string> = new Set()): boolean {
  return a.size === b.size && [...a].every((id) => b.has(id));
}

function sameLocation(a: PortFact['location'], b: PortFact['location']): boolean {
  if (a === null || b === null) return a === b;
  if (a.type === 'local') return b.type === 'local' && a.output === b.output;
  return b.type === 'remote' && a.tunnel === b.tunnel && a.tunnelKey === b.tunnelKey;
}
