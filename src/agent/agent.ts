import { join } from 'node:path';
import type { Logger } from 'pino';
import type { Datapath, DatapathFeatures, Flow, FlowId, TrackedConnection } from '../datapath/datapath.js';
import { FlowKey, TunnelFlag } from '../flow/key.js';
import type { ControlAddress } from '../nsdb/host-alive.js';
import type { NatBlock } from '../nsdb/leases/nat-blocks.js';
import { TopologyRepository } from '../nsdb/repository/topology-repository.js';
import type { Store } from '../nsdb/store.js';
import { EtherType } from '../packet/ethernet.js';
import { formatIp } from '../packet/ip.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import { TRACKED_TUNNEL_KEY } from '../simulation/connection.js';
import type { Fact } from '../simulation/fact.js';
import { Captures } from './capture/captures.js';
import type { Cell } from './facts/cell.js';
import { DEVICE, zoneOwner } from './facts/source-nat.js';
import { TopologyCache } from './facts/topology-cache.js';
import { FlowStateExchange } from './flow-state/flow-state-exchange.js';
import { StatefulGroups } from './flow-state/stateful-groups.js';
import type { OpenStateTransport } from './flow-state/transport.js';
import { Configurator } from './forwarding/configurator.js';
import { Forwarder, type Heard } from './forwarding/forwarder.js';
import type { FlowLimits } from './forwarding/installed-flows.js';
import { ForwarderMetrics } from './forwarding/metrics.js';
import { RouterAdvertiser } from './forwarding/router-advertiser.js';
import { Tracer } from './forwarding/tracer.js';
import { HealthChecks } from './health/health-checks.js';
import { MemberConnections } from './health/member-connections.js';
import { nearbyBalancers } from './health/nearby-balancers.js';
import { Publisher } from './host/publisher.js';
import { Registration, type ZoneMembership, zoneIdOf } from './host/registration.js';
import { AnnouncedAddresses } from './learning/announced-addresses.js';
import { MACS_PER_PORT, MacLearner } from './learning/mac-learner.js';
import { Neighbors } from './learning/neighbors.js';
import { NatLeases } from './numbers/nat-leases.js';
import { TunnelKeys } from './numbers/tunnel-keys.js';
import { Zones } from './numbers/zones.js';
import { Bindings } from './ports/bindings.js';
import { TunnelTargets } from './ports/tunnel-targets.js';
import { type TunnelDevices, type TunnelEndpoint, Tunnels } from './underlay/tunnels.js';

export interface AgentOptions {
  readonly hostId: string;
  readonly hostName: string;
  /** Folder for what must survive a restart. */
  readonly stateFolder: string;
  readonly store: Store;
  readonly datapath: Datapath;
  readonly devices: TunnelDevices;
  readonly tunnelZones: readonly ZoneMembership[];
  readonly flows: FlowLimits;
  /** How many MAC addresses are learned behind a port; {@link MACS_PER_PORT} when absent. */
  readonly macsPerPort?: number;
  /** What carries the state of connections between hosts. */
  readonly openStateTransport: OpenStateTransport;
  readonly log: Logger;
  /** Milliseconds that never go back. */
  readonly clock?: () => number;
}

const TICK_MS = 1000;
/** What health checks need is kept for so long, at least. */
const KEEP_SECONDS = 60;

/** One node: it owns the flows of a datapath and keeps them in agreement with the topology. */
export class Agent {
  readonly repository: TopologyRepository;
  readonly metrics = new ForwarderMetrics();
  readonly tunnelTargets: TunnelTargets;
  readonly bindings: Bindings;
  readonly tunnels: Tunnels;
  readonly publisher: Publisher;
  readonly cache: TopologyCache;
  readonly neighbors: Neighbors;
  readonly addresses: AnnouncedAddresses;
  readonly learner: MacLearner;
  readonly forwarder: Forwarder;
  readonly advertiser: RouterAdvertiser;
  readonly tracer: Tracer;
  readonly natLeases: NatLeases;
  readonly captures: Captures;
  readonly healthChecks: HealthChecks;
  private readonly memberConnections: MemberConnections;
  readonly flowState: FlowStateExchange;
  private readonly statefulGroups: StatefulGroups;
  private registration: Registration | undefined;
  /** Datapath ports whose packets enter by tunnel key. */
  private tunnelPorts: ReadonlySet<number> = new Set();
  private ticker: NodeJS.Timeout | undefined;

  private constructor(
    private readonly options: AgentOptions,
    keys: TunnelKeys,
    readonly zones: Zones,
    clock: () => number,
  ) {
    const { store, datapath, hostId, log } = options;
    const onChange = (cell: Cell<unknown>) => {
      this.forwarder.factChanged(cell);
      this.tracer.factChanged();
      this.healthChecks.factChanged();
    };
    this.repository = new TopologyRepository(store, (error) =>
      log.warn({ error: error.message }, 'what a change leaves behind is not removed; `midonet nsdb fsck` finds it'),
    );
    this.memberConnections = new MemberConnections(datapath, log);
    this.publisher = new Publisher(store, log);
    this.tunnelTargets = new TunnelTargets({
      keys,
      router: (id) => this.cache.router(id).cell,
      onTunnelKey: (key) => this.pinTunnelKeys([key]),
      onChange,
    });
    this.bindings = new Bindings({
      hostId,
      datapath,
      repository: this.repository,
      cache: () => this.cache,
      publisher: this.publisher,
      targets: this.tunnelTargets,
      zones,
      onPortReplaced: (port) => this.forwarder.portReplaced(port),
      onRouterPort: (port) => this.neighbors.announce(port),
      onRouterPortGone: (portId) => this.neighbors.portGone(portId),
      onPortGroups: (portId, groupIds, zone) => this.statefulGroups.setPort(portId, groupIds, zone),
      onChange,
      log,
    });
    this.tunnels = new Tunnels({
      hostId,
      configuredZoneIds: options.tunnelZones.map(({ name }) => zoneIdOf(name)),
      repository: this.repository,
      devices: options.devices,
      onEndpoints: () => this.endpointsChanged(),
      onChange,
      log,
    });
    this.natLeases = new NatLeases({
      store,
      hostId,
      tunnelKey: (routerId) => this.tunnelTargets.routerKey(routerId),
      inUse: (blocks, signal) => this.blocksInUse(blocks, signal),
      onLoaded: () => this.releaseUnusedDevices(),
      onNothingLeft: () => this.releaseUnusedDevices(),
      clock,
      log,
    });
    this.cache = new TopologyCache(
      this.repository,
      hostId,
      (id) => this.tunnels.path(id),
      (id) => ({ output: this.bindings.output(id), zone: this.bindings.zone(id) }),
      (portId, address, cell) => this.neighbors.watch(portId, address, cell),
      datapath.features.nat ? { store, leases: this.natLeases, zones } : undefined,
      datapath,
      (id) => this.bindings.forgetPort(id),
      (protocol, { address, port }) => this.memberConnections.memberDown({ protocol, words: address, port }),
      onChange,
      clock,
      log,
    );
    this.captures = new Captures({ hostId, store, datapath, targets: this.tunnelTargets, cache: this.cache });
    this.statefulGroups = new StatefulGroups({
      hostId,
      repository: this.repository,
      onChange: () => this.flowState.groupsChanged(),
      invalid: this.cache.invalid,
    });
    this.flowState = new FlowStateExchange({
      hostId,
      datapath,
      groups: this.statefulGroups,
      path: (id) => {
        const path = this.tunnels.path(id);
        this.cache.load(path as Cell<unknown>);
        this.cache.keep(path as Cell<unknown>, 10);
        return path.value;
      },
      open: options.openStateTransport,
      clock,
      log,
    });
    this.addresses = new AnnouncedAddresses(this.repository.store, clock, log);
    this.neighbors = new Neighbors({
      store,
      port: (id) => {
        const port = this.cache.port(id);
        this.cache.load(port as Cell<unknown>);
        return port;
      },
      send: (port, frame) => this.forwarder.send(port, frame),
      invalid: (error) => this.cache.invalid(error),
      clock,
      log,
    });
    this.learner = new MacLearner(this.repository.store, options.macsPerPort ?? MACS_PER_PORT, clock, log);
    this.forwarder = new Forwarder({
      datapath,
      ingress: (port) => this.bindings.ingress(port),
      load: (cell) => this.cache.load(cell),
      learner: this.learner,
      hear: (heard, frame) => this.heard(heard, frame),
      capture: (upcall) => this.captures.upcall(upcall),
      configurator: new Configurator({
        load: (cell) => this.cache.load(cell),
        keep: (cell, seconds) => this.cache.keep(cell, seconds),
        mtu: () => this.tunnels.mtu,
        metrics: this.metrics,
      }),
      metrics: this.metrics,
      limits: options.flows,
      clock,
      log,
    });
    this.tracer = new Tracer({
      datapath,
      recirculations: this.forwarder.recirculations,
      port: (id) => this.cache.port(id),
      output: (portId) => this.bindings.output(portId),
      load: (cell) => this.cache.load(cell),
    });
    const need = (fact: Fact<unknown>, seconds = 0) => {
      this.cache.load(fact as Cell<unknown>);
      this.cache.keep(fact as Cell<unknown>, Math.max(seconds, KEEP_SECONDS));
    };
    this.healthChecks = new HealthChecks({
      hostId,
      repository: this.repository,
      nearby: () => nearbyBalancers(this.bindings, this.cache, need),
      bridge: (id) => this.cache.bridge(id).cell,
      need: (facts, seconds) => {
        for (const fact of facts) need(fact, seconds);
      },
      tunnelKey: () => this.tunnelTargets.healthKey(),
      releaseTunnelKey: () => this.tunnelTargets.releaseHealthKey(),
      send: (port, frame) => this.forwarder.send(port, frame),
      datapath,
      publisher: this.publisher,
      invalid: (error) => this.cache.invalid(error),
      clock,
      log,
    });
    this.advertiser = new RouterAdvertiser({
      bridges: () => Array.from(this.bindings.activeBridges(), (id) => this.cache.bridge(id)),
      load: (cell) => this.cache.load(cell),
      keep: (cell, seconds) => this.cache.keep(cell, seconds),
      mtu: () => this.tunnels.mtu,
      datapath,
      metrics: this.metrics,
      clock,
    });
  }

  /**
   * Take over the datapath and begin to answer its upcalls. The flows that are there stay until it is known what they
   * should be: {@link portsKnown} must follow. Does not wait for the NSDB.
   */
  static async start(options: AgentOptions, signal?: AbortSignal): Promise<Agent> {
    const { stateFolder, datapath, log, clock = () => performance.now() } = options;
    const keys = await TunnelKeys.open(join(stateFolder, 'tunnel-keys'));
    const zones = await Zones.open({ folder: join(stateFolder, 'zones'), datapath, clock, log });
    const agent = new Agent(options, keys, zones, clock);
    agent.registration = await Registration.open({
      ...options,
      repository: agent.repository,
      publisher: agent.publisher,
      onNewSession: () => {
        agent.bindings.republish();
        agent.natLeases.reconcile();
      },
    });
    agent.bindings.inherit(await options.datapath.ports(signal));
    const { kept, removed } = await agent.forwarder.adopt(signal);
    if (kept + removed > 0) options.log.info({ kept, removed }, 'adopted the flows of the datapath');
    options.datapath.start({
      upcalls: (batch) => agent.forwarder.upcalls(batch),
      portsChanged: () => {
        agent.bindings.changed();
        agent.tunnels.refresh();
      },
      upcallsLost: (count) => {
        agent.metrics.upcallsLost += count;
      },
    });
    const metersInUse = agent.forwarder.flows.metersInUse();
    void agent.cache.meters.removeLeftOvers((id) => metersInUse.has(id));
    agent.captures.start();
    agent.cache.captures.start((portId) => agent.bindings.capturesChanged(portId));
    agent.registration.start();
    agent.tunnels.start();
    if (agent.features.nat) agent.natLeases.start();
    agent.ticker = setInterval(() => {
      agent.forwarder.tick();
      agent.advertiser.tick();
      agent.neighbors.tick();
      agent.healthChecks.tick();
      agent.addresses.expire();
      agent.cache.hosts.tick();
      if (agent.cache.releaseUnused()) {
        agent.tunnels.forgetUnused(agent.cache.tunnelsInUse());
        agent.releaseUnusedDevices();
      }
      agent.bindings.forgetUnused();
      agent.tunnelTargets.forgetUnused();
      agent.zones.tick();
      agent.natLeases.tick();
      agent.flowState.refreshPaths();
    }, TICK_MS);
    return agent;
  }

  /** The front ends have attached again what they had attached before the restart; other ports come from the NSDB. */
  portsKnown(): void {
    this.bindings.start(this.tunnels.ready);
    this.bindings.changed();
  }

  get features(): DatapathFeatures {
    return this.options.datapath.features;
  }

  get hostId(): string {
    return this.options.hostId;
  }

  /** Tell the NSDB where this agent can be asked; undefined: nowhere. */
  setControl(control: ControlAddress | undefined): void {
    this.registration?.setControl(control);
  }

  /** See {@link Datapath.flow}. */
  flow(id: FlowId, signal?: AbortSignal): Promise<Flow | undefined> {
    return this.options.datapath.flow(id, signal);
  }

  /** The zone of a port or device of this host, if it has one. */
  zoneOf(id: string): number | undefined {
    return this.zones.find(id);
  }

  /** What a zone belongs to: `port` or the kind of device, and its id. */
  zoneOwner(zone: number): string | undefined {
    return this.zones.ownerOf(zone);
  }

  /** See {@link Datapath.connections}. */
  connections(zone: number | undefined, limit: number, signal?: AbortSignal): Promise<TrackedConnection[]> {
    return this.options.datapath.connections(zone, limit, signal);
  }

  /** Why packets of this host's containers do not all get where they should, or undefined if they do. Asks the datapath. */
  async fault(signal?: AbortSignal): Promise<string | undefined> {
    try {
      await this.options.datapath.ports(signal);
    } catch (error) {
      signal?.throwIfAborted();
      return `the datapath does not answer: ${(error as Error).message}`;
    }
    return this.registration?.fault ?? this.tunnels.fault;
  }

  /** An interface appeared or changed on this host. */
  interfaceChanged(name: string): void {
    this.bindings.interfaceAppeared(name);
    if (this.options.devices.concerns(name)) this.tunnels.refresh();
  }

  /** Stop. The datapath keeps forwarding by the flows it has. What has not reached the NSDB is written first, if it can be. */
  async close(): Promise<void> {
    clearInterval(this.ticker);
    if (this.options.store.state === 'connected' && this.registration?.fault === undefined) {
      await this.publisher.drain(2000);
    }
    this.forwarder.close();
    await this.captures.close();
    await this.neighbors.close();
    await this.healthChecks.close();
    this.memberConnections.close();
    this.publisher.close();
    this.bindings.close();
    this.statefulGroups.close();
    await this.flowState.close();
    this.tunnels.close();
    this.cache.close();
    this.natLeases.close();
    await this.zones.close();
    await this.options.datapath.close();
    await this.registration?.close();
  }

  /** A packet told something, which is written down here or elsewhere. */
  private heard(heard: Heard, frame: Uint8Array): void {
    switch (heard.type) {
      case 'neighbor':
        return this.neighbors.heard(heard);
      case 'announce':
        return this.addresses.announced(heard);
      case 'health':
        return this.healthChecks.heard(frame);
    }
  }

  /** Which blocks of source ports, all of one address, have a port that a connection is translated to. */
  private async blocksInUse(blocks: readonly NatBlock[], signal: AbortSignal): Promise<ReadonlySet<NatBlock>> {
    const [{ deviceId, address }] = blocks;
    const zone = this.zones.take(zoneOwner(deviceId));
    const used = new Set<NatBlock>();
    if (zone === undefined) return used;
    for (const { family, protocol, reply } of await this.connections(zone, Number.MAX_SAFE_INTEGER, signal)) {
      if (formatIp({ family, words: reply.dst }) !== address) continue;
      const isIcmp = protocol === IpProtocol.ICMP || protocol === IpProtocol.ICMPV6;
      const port = isIcmp ? reply.srcPort : reply.dstPort;
      const block = blocks.find(({ first, last }) => port >= first && port <= last);
      if (block !== undefined) used.add(block);
    }
    return used;
  }

  /** Devices for which nothing is leased here, and which no flow translates for, need no numbers of this host's. */
  private releaseUnusedDevices(): void {
    if (!this.natLeases.isLoaded) return;
    for (const owner of [...this.zones.allOwners()]) {
      const [kind, id] = owner.split(' ');
      if (kind !== DEVICE || this.natLeases.has(id) || this.cache.usesSourceNat(id)) continue;
      try {
        this.tunnelTargets.releaseRouterKey(id);
      } catch (error) {
        // The zone is kept, so that it is tried again.
        this.options.log.error({ owner, error: (error as Error).message }, 'could not give a tunnel key back');
        continue;
      }
      this.zones.release(owner);
    }
  }

  private endpointsChanged(): void {
    const ports = new Set(this.tunnels.devicePorts());
    for (const port of this.tunnelPorts) if (!ports.has(port)) this.bindings.ingress(port).setLocal(undefined);
    for (const port of ports) {
      if (this.tunnelPorts.has(port)) continue;
      this.bindings.ingress(port).setLocal({ type: 'tunnel', target: (key) => this.tunnelTargets.target(key) });
    }
    this.tunnelPorts = ports;
    this.pinTunnelKeys(this.tunnelTargets.keysThatTakeAll());
  }

  /**
   * Packets with these keys are let in by the kernel alone, without an upcall for the first: those that the sender wants tracked, too,
   * which can only be IP.
   */
  private pinTunnelKeys(tunnelKeys: readonly number[]): void {
    for (const endpoint of this.tunnels.endpoints()) {
      for (const tunnelKey of tunnelKeys) {
        this.forwarder.pin(tunnelFlowKey(endpoint, tunnelKey));
        if (!this.features.conntrack) continue;
        for (const ethType of [EtherType.IPV4, EtherType.IPV6]) {
          const key = tunnelFlowKey(endpoint, tunnelKey | TRACKED_TUNNEL_KEY);
          key.ethType = ethType;
          this.forwarder.pin(key);
        }
      }
    }
  }
}

function tunnelFlowKey(endpoint: TunnelEndpoint, tunnelKey: number): FlowKey {
  const key = new FlowKey();
  key.inPort = endpoint.port;
  key.tunDst = endpoint.address;
  key.tunId = tunnelKey;
  key.tunFlags = TunnelFlag.KEY;
  return key;
}
