/**
 * A whole cluster in one process: agents on `memory` datapaths that an underlay joins, one embedded NSDB. Each host
 * reaches the NSDB through a gate of its own that can be shut. Time stands still unless {@link Cluster.advance} is called.
 */
import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type Logger, pino } from 'pino';
import { Agent } from '../../src/agent/agent.js';
import type { StateTransport } from '../../src/agent/flow-state/transport.js';
import type { FlowLimits } from '../../src/agent/forwarding/installed-flows.js';
import type { ZoneMembership } from '../../src/agent/host/registration.js';
import type { TunnelType } from '../../src/agent/underlay/tunnels.js';
import type { Datapath, DatapathFeatures, Flow } from '../../src/datapath/datapath.js';
import { DatapathError } from '../../src/datapath/errors.js';
import type { MemoryInterface } from '../../src/datapath/memory/interface.js';
import { MemoryNetwork } from '../../src/datapath/memory/network.js';
import type { MemoryNode } from '../../src/datapath/memory/node.js';
import type { MemorySwitch } from '../../src/datapath/memory/switch.js';
import { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { formatIpv4, formatIpv6, formatMac, type Ipv6 } from '../../src/packet/address.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildUdp } from '../../src/packet/udp.js';
import { positionsAfter } from '../../src/topology/position.js';
import { EmbeddedNsdb } from '../nsdb/embedded-nsdb.js';
import { MemoryTunnelDevices } from './memory-tunnel-devices.js';
import { StoreGate } from './store-gate.js';
import { until } from './until.js';

const UNDERLAY = 0xc0a8_6400;

/** A machine on the virtual network, whether or not it is plugged in now. */
export class Pod {
  readonly id = randomUUID();
  readonly mac: number;
  readonly ip: number;
  readonly ip6: Ipv6;
  readonly interfaceName: string;
  device: MemoryInterface | undefined;
  host: TestHost | undefined;

  constructor(
    readonly bridgeId: string,
    number: number,
    /** Whether the topology is told its addresses. */
    readonly known = true,
  ) {
    this.mac = 0x0200_0000_0000 + number;
    this.ip = 0x0a01_0000 + number;
    this.ip6 = [0xfd00_0000, 0, 0, number];
    this.interfaceName = `pod${number}`;
  }

  /** As a front end describes it. */
  get port() {
    const { id, bridgeId } = this;
    if (!this.known) return { id, bridgeId, adminStateUp: true, addresses: [] };
    return {
      id,
      bridgeId,
      adminStateUp: true,
      mac: formatMac(this.mac),
      addresses: [formatIpv4(this.ip), formatIpv6(this.ip6)],
    };
  }

  send(frame: Uint8Array): void {
    if (this.device === undefined) throw new Error(`pod ${this.interfaceName} is not plugged in`);
    this.device.send(frame);
  }

  /** How often a frame with this text in it came. */
  count(text: string): number {
    const frames = this.device?.received() ?? [];
    return frames.filter((frame) => Buffer.from(frame).includes(text)).length;
  }
}

/** A host: what survives its agent, and the agent. */
export class TestHost {
  readonly node: MemoryNode;
  readonly switch: MemorySwitch;
  /** What the front end of this host has attached, as it would find it in its journal. */
  readonly journal = new Map<string, Pod>();
  /** Milliseconds it takes to make a tunnel device. */
  deviceDelay = 0;
  /** Whether the datapath refuses to put flows. */
  refusePuts = false;
  /** What agents of this host warned of, and what else they wrote to their logs. */
  readonly warnings: string[] = [];
  readonly notes: string[] = [];
  private readonly log: Logger;
  private running: { agent: Agent; store: ZookeeperStore } | undefined;
  private readonly dying: Promise<unknown>[] = [];

  constructor(
    readonly cluster: Cluster,
    readonly name: string,
    readonly address: number,
    readonly folder: string,
    readonly gate: StoreGate,
    /** Counts from the next start. */
    public zones: readonly ZoneMembership[],
    private readonly flowOptions: FlowLimits,
    readonly id: string = randomUUID(),
  ) {
    this.node = cluster.network.node(address);
    this.switch = this.node.switch('dp');
    const write = (line: string) => {
      const { level } = JSON.parse(line) as { level: number };
      (level >= pino.levels.values.warn ? this.warnings : this.notes).push(line);
    };
    this.log = pino({ level: 'info', base: null }, { write });
  }

  get agent(): Agent {
    if (this.running === undefined) throw new Error(`the agent of ${this.name} does not run`);
    return this.running.agent;
  }

  get store(): ZookeeperStore {
    if (this.running === undefined) throw new Error(`the agent of ${this.name} does not run`);
    return this.running.store;
  }

  get isRunning(): boolean {
    return this.running !== undefined;
  }

  get hasPacketsWaiting(): boolean {
    return this.running !== undefined && this.running.agent.forwarder.waitingPackets > 0;
  }

  /** Start the agent and attach what the journal holds. */
  async start(): Promise<void> {
    const store = new ZookeeperStore({
      connect: `unix:${this.gate.path}`,
      sessionTimeout: 1000 * this.cluster.slowness,
    });
    const datapath = this.node.datapath('dp');
    this.letRefuse(datapath);
    const agent = await Agent.start({
      hostId: this.id,
      hostName: this.name,
      stateFolder: this.folder,
      store,
      datapath,
      devices: new MemoryTunnelDevices(this.node, datapath, this.deviceDelay),
      tunnelZones: this.zones,
      flows: this.flowOptions,
      openStateTransport: (receive) => this.cluster.stateNetwork.open(this.address, receive),
      log: this.log,
      clock: () => this.cluster.now,
    });
    this.running = { agent, store };
    for (const pod of this.journal.values())
      await agent.bindings.attach({ ...pod.port, owner: 'cni' }, pod.interfaceName);
    agent.portsKnown();
  }

  /** A fault that cannot be had otherwise. */
  private letRefuse(datapath: Datapath): void {
    const submit = datapath.submit.bind(datapath);
    datapath.submit = (operations, done) => {
      const refused = operations.map(({ type }) => this.refusePuts && type === 'put');
      submit(
        operations.filter((_, i) => !refused[i]),
        (errors) => {
          let at = 0;
          done?.(refused.map((no) => (no ? new DatapathError('failed', 'ENOMEM: refused by the test') : errors[at++])));
        },
      );
    };
  }

  async stop(): Promise<void> {
    const running = this.running;
    if (running === undefined) return;
    this.running = undefined;
    await running.agent.close();
    await running.store.close();
  }

  /** The process is killed: nothing is written any more, the session is left to time out. */
  async crash(): Promise<void> {
    const { agent, store } = this.running!;
    this.running = undefined;
    this.gate.shut();
    await until(`${this.name} has lost the NSDB`, () => store.state !== 'connected');
    // What is left of the old process in this one: it reaches neither the NSDB nor, closed, the datapath.
    const end = async () => {
      await agent.close();
      await store.close();
    };
    this.dying.push(end());
    this.gate.reopen();
    store.close().catch(() => {});
  }

  /** Like a container runtime: make the interface and have it attached. */
  async attach(pod: Pod): Promise<void> {
    this.plug(pod);
    this.journal.set(pod.id, pod);
    await this.agent.bindings.attach({ ...pod.port, owner: 'cni' }, pod.interfaceName);
  }

  async detach(pod: Pod): Promise<void> {
    await this.agent.bindings.detach(pod.id);
    this.journal.delete(pod.id);
    this.unplug(pod);
  }

  plug(pod: Pod): void {
    pod.device = this.node.addInterface(pod.interfaceName);
    pod.host = this;
  }

  unplug(pod: Pod): void {
    this.node.removeInterface(pod.interfaceName);
    pod.device = undefined;
    pod.host = undefined;
  }

  flows(): Flow[] {
    return this.switch.flows();
  }

  async close(): Promise<void> {
    await this.stop();
    await Promise.all(this.dying);
    await this.gate.close();
  }
}

/** Carries what hosts tell each other of connections, at once, unless a test says otherwise. */
export class StateNetwork {
  /** How often a datagram arrives. */
  copies: (from: number, to: number, bytes: Uint8Array) => number = () => 1;
  private readonly receivers = new Map<number, (from: number, bytes: Uint8Array) => void>();

  open(address: number, receive: (from: number, bytes: Uint8Array) => void): StateTransport {
    this.receivers.set(address, receive);
    return {
      send: (from, to, bytes) => {
        for (let left = this.copies(from, to, bytes); left > 0; left--) {
          setImmediate(() => this.receivers.get(to)?.(from, bytes));
        }
      },
      retain: () => {},
      close: () => {
        if (this.receivers.get(address) === receive) this.receivers.delete(address);
      },
    };
  }
}

export interface ClusterOptions {
  readonly hosts: number;
  readonly zones?: readonly TunnelType[];
  readonly flows?: Partial<FlowLimits>;
  /** What the hosts' kernels lack. */
  readonly features?: Partial<DatapathFeatures>;
  /** How many times slower than others the machine may be; 1 if absent. */
  readonly slowness?: number;
}

export class Cluster {
  /** Milliseconds. */
  now = 1_000_000;
  readonly network: MemoryNetwork;
  readonly stateNetwork = new StateNetwork();
  readonly hosts: TestHost[] = [];
  /** Frames that entered a tunnel. */
  underlayFrames: { from: number; to: number; frame: Uint8Array }[] = [];
  private readonly store: ZookeeperStore;
  readonly repository: TopologyRepository;
  private pods = 0;

  private constructor(
    readonly nsdb: EmbeddedNsdb,
    features: Partial<DatapathFeatures> | undefined,
    readonly slowness: number,
  ) {
    this.network = new MemoryNetwork({ now: () => this.now, automatic: true, features });
    this.store = nsdb.store({ sessionTimeout: 4000 * slowness });
    this.repository = new TopologyRepository(this.store);
    this.network.setUnderlay((from, to, frame) => {
      this.underlayFrames.push({ from, to, frame });
      return true;
    });
  }

  static async start(options: ClusterOptions): Promise<Cluster> {
    const nsdb = await EmbeddedNsdb.start();
    const cluster = new Cluster(nsdb, options.features, options.slowness ?? 1);
    await cluster.repository.initialize();
    for (let i = 1; i <= options.hosts; i++) await cluster.addHost(options);
    await Promise.all(cluster.hosts.map((host) => host.start()));
    await cluster.published();
    const isComplete = () => cluster.hosts.every((host) => host.agent.bindings.isComplete);
    await until('all hosts know their ports', isComplete, 8000 * cluster.slowness);
    return cluster;
  }

  /** A host that does not run yet, with the identity given if it is a copy of another. */
  async addHost(options: Omit<ClusterOptions, 'hosts'> = {}, id?: string): Promise<TestHost> {
    const i = this.hosts.length + 1;
    const folder = join(this.nsdb.folder, `host-${i}`);
    await mkdir(folder);
    const gate = await StoreGate.to(join(this.nsdb.folder, 'socket'), join(this.nsdb.folder, `gate-${i}`));
    const flows = { idleTimeout: 60, maxFlows: 10_000, ...options.flows };
    const address = UNDERLAY + i;
    const zones = (options.zones ?? ['vxlan']).map((type, n) => ({
      name: `zone-${n}`,
      type,
      address: formatIpv4(address),
    }));
    const host = new TestHost(this, `host-${i}`, address, folder, gate, zones, flows, id);
    this.hosts.push(host);
    return host;
  }

  async createBridge(): Promise<string> {
    return (await this.repository.create('bridge', { id: randomUUID(), name: 'blue' })).id;
  }

  /** A chain with these rules, without their identifiers and positions, in their order. */
  async createChain(rules: readonly object[]): Promise<string> {
    const chainId = (await this.repository.create('chain', { id: randomUUID(), name: 'chain' })).id;
    const positions = positionsAfter(undefined, rules.length);
    for (const [i, rule] of rules.entries()) {
      const whole = { ...rule, id: randomUUID(), chainId, position: positions[i] };
      await this.repository.create('rule', whole as Parameters<typeof this.repository.create<'rule'>>[1]);
    }
    return chainId;
  }

  pod(bridgeId: string, known = true): Pod {
    return new Pod(bridgeId, ++this.pods, known);
  }

  /** A pod on each host, attached as container runtimes do, known everywhere. */
  async populate(bridgeId: string, perHost: number): Promise<Pod[]> {
    const pods: Pod[] = [];
    for (const host of this.hosts) {
      for (let i = 0; i < perHost; i++) {
        const pod = this.pod(bridgeId);
        pods.push(pod);
        await host.attach(pod);
      }
    }
    await this.published();
    return pods;
  }

  /** What hosts have to tell the NSDB is there. */
  async published(): Promise<void> {
    const isPublished = () => this.hosts.every((host) => !host.isRunning || host.agent.publisher.backlog === 0);
    await until('everything is published', isPublished, 8000 * this.slowness);
  }

  /** Let time pass, and have agents and datapaths notice. */
  async advance(milliseconds: number): Promise<void> {
    this.now += milliseconds;
    for (const host of this.hosts) {
      if (!host.isRunning) continue;
      host.agent.forwarder.tick();
      host.agent.advertiser.tick();
      host.agent.neighbors.tick();
      host.agent.healthChecks.tick();
      host.agent.cache.hosts.tick();
      host.agent.cache.releaseUnused();
      host.agent.bindings.forgetUnused();
      host.agent.tunnelTargets.forgetUnused();
      host.agent.zones.tick();
      host.agent.natLeases.tick();
      host.agent.flowState.refreshPaths();
      host.agent.flowState.tick();
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }

  /** Send one packet and wait for it to come out, once. */
  async ping(from: Pod, to: Pod): Promise<void> {
    const text = this.sendTo(from, to);
    await until(`a packet from ${from.interfaceName} reaches ${to.interfaceName}`, () => to.count(text) > 0, 3000);
    if (to.count(text) !== 1) throw new Error(`${to.count(text)} copies came`);
    to.device?.clear();
  }

  /** Send packets until one arrives: while the hosts are hearing of each other some may get lost. */
  async connects(from: Pod, to: Pod): Promise<void> {
    await until(`${from.interfaceName} connects to ${to.interfaceName}`, async () => {
      const text = this.sendTo(from, to);
      for (let i = 0; i < 20; i++) {
        if (to.count(text) > 0) return true;
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
      return false;
    });
    to.device?.clear();
  }

  /** Returns a text that tells the packet from all others. */
  sendTo(from: Pod, to: { mac: number; ip: number }, srcPort = 1000, dstPort = 2000): string {
    const text = randomUUID();
    from.send(udp(from, to, text, srcPort, dstPort));
    return text;
  }

  /** Everything that was sent has gone as far as it can without the NSDB's help. */
  async quiet(): Promise<void> {
    // Some packets wait for ever: their facts are nowhere to be had.
    const end = performance.now() + 300;
    do {
      await new Promise((resolve) => setTimeout(resolve, 10));
      this.network.pump();
    } while (this.hosts.some((host) => host.hasPacketsWaiting) && performance.now() < end);
  }

  async eachPair(pods: readonly Pod[], check: (from: Pod, to: Pod) => Promise<void>): Promise<void> {
    for (const from of pods) for (const to of pods) if (from !== to) await check(from, to);
  }

  async close(): Promise<void> {
    for (const host of this.hosts) await host.close();
    await this.nsdb.close();
  }
}

function udp(
  from: { mac: number; ip: number },
  to: { mac: number; ip: number },
  text: string,
  srcPort: number,
  dstPort: number,
): Uint8Array {
  return buildEthernet(
    { dst: to.mac, src: from.mac, type: EtherType.IPV4 },
    buildIpv4({ src: from.ip, dst: to.ip, protocol: IpProtocol.UDP }, buildUdp(srcPort, dstPort, Buffer.from(text))),
  );
}
