import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MemoryInterface } from '../../src/datapath/memory/interface.js';
import { extractKey } from '../../src/flow/extract.js';
import { FlowKey } from '../../src/flow/key.js';
import type { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import { EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { formatPasses } from '../../src/simulation/explain.js';
import type { Condition, Rule } from '../../src/topology/chains.js';
import { positionsAfter } from '../../src/topology/position.js';
import type { Cluster, TestHost } from '../agent/cluster.js';
import { until } from '../agent/until.js';
import type { Match, NatSpec, Network, PodSpec, RouterSpec, RuleSpec } from './network.js';
import type { Twin } from './twin.js';

/** How long an agent may take to plug in a pod. */
const READY_MS = 60_000;
/** For how long nothing may happen while agents read facts, and write what has to be on the disk, on a busy machine. */
const FACTS_MS = 1500;

/** A {@link Network} of ours: in the topology, with agents on memory datapaths that carry it out. */
export class OurTwin implements Twin {
  private readonly devices = new Map<string, MemoryInterface>();

  private readonly plugs: { readonly name: string; readonly portId: string; readonly host: TestHost }[] = [];

  private constructor(private readonly cluster: Cluster) {}

  /** The pods are spread over the hosts of the cluster, where others with the same names must be gone. */
  static async build(cluster: Cluster, network: Network): Promise<OurTwin> {
    const twin = new OurTwin(cluster);
    const topology = await describe(cluster.repository, network);
    for (const [i, pod] of network.pods.entries())
      await twin.plug(pod, topology, cluster.hosts[i % cluster.hosts.length]);
    await cluster.published();
    // A host that has had an answer to its own question has heard before of all that was written before; what that makes it
    // read takes as many questions more.
    for (let i = 0; i < 20; i++) for (const host of cluster.hosts) await host.store.get('/');
    return twin;
  }

  send(pod: string, frame: Uint8Array): void {
    this.devices.get(pod)!.send(frame);
  }

  /** What the agent of the pod's host says becomes of a frame, in lines. */
  async explain(pod: string, frame: Uint8Array): Promise<string> {
    const { host, portId } = this.plugs.find(({ name }) => name === pod)!;
    const key = new FlowKey();
    extractKey(frame, key);
    const passes = await host.agent.tracer.explain(
      { portId, key, bytes: frame, connection: 'new', hash: 0 },
      AbortSignal.timeout(READY_MS),
    );
    const drops = [...host.agent.metrics.drops].map(([reason, count]) => `${reason} ${count}`);
    return `${formatPasses(passes)}${host.name} has dropped: ${drops.join(', ')}, NSDB ${host.store.state}`;
  }

  async received(): Promise<[string, Uint8Array][]> {
    await this.cluster.quiet();
    const frames: [string, Uint8Array][] = [];
    for (const [name, device] of this.devices) {
      for (const frame of device.received()) frames.push([name, frame]);
      device.clear();
    }
    return frames;
  }

  /**
   * Three questions are asked, a second apart. Packets that wait for something else have to have it before time passes, as
   * they do not wait for long.
   */
  async letNeighborsFail(expected: number): Promise<void> {
    await this.stable(expected, FACTS_MS);
    for (let i = 0; i < 4 && this.waiting > 0; i++) {
      await this.cluster.advance(1000);
      await this.stable(0, 50);
    }
  }

  private get waiting(): number {
    return this.cluster.hosts.reduce((sum, host) => sum + host.agent.forwarder.waitingPackets, 0);
  }

  /** Waits until no more packets wait than `expected`, or as many as so many milliseconds ago. */
  private async stable(expected: number, milliseconds: number): Promise<void> {
    let since = performance.now();
    for (let before = this.waiting; performance.now() - since < (before <= expected ? 100 : milliseconds); ) {
      await sleep(5);
      const { waiting } = this;
      if (waiting !== before) since = performance.now();
      before = waiting;
    }
  }

  async close(): Promise<void> {
    for (const { host, portId, name } of this.plugs) {
      await this.cluster.repository.delete('port', portId);
      await until(`${name} is detached`, () => !host.agent.bindings.isActive(portId), READY_MS);
      host.node.removeInterface(name);
    }
  }

  private async plug(pod: PodSpec, topology: Topology, host: TestHost): Promise<void> {
    const { name, mac, ipv4, ipv6 } = pod;
    this.devices.set(name, host.node.addInterface(name));
    const port = await this.cluster.repository.create('port', {
      id: randomUUID(),
      bridgeId: topology.bridges.get(pod.bridge)!,
      mac,
      addresses: [ipv4, ipv6],
      inboundFilterId: await topology.addChain(pod.inbound),
      outboundFilterId: await topology.addChain(pod.outbound),
      binding: { hostId: host.id, interfaceName: name },
    });
    this.plugs.push({ name, portId: port.id, host });
    await until(`${name} is attached`, () => host.agent.bindings.isActive(port.id), READY_MS);
  }
}

interface Topology {
  /** Identifiers by name. */
  readonly bridges: ReadonlyMap<string, string>;
  /** Undefined without rules. */
  addChain(rules: readonly RuleSpec[], nat?: readonly NatRule[]): Promise<string | undefined>;
}

type WithoutPlace<R> = R extends Rule ? Omit<R, 'id' | 'chainId' | 'position'> : never;
type NatRule = WithoutPlace<Extract<Rule, { type: 'dnat' | 'snat' } | { type: 'reverse-dnat' | 'reverse-snat' }>>;

/** Writes everything but the pods. */
async function describe(repository: TopologyRepository, network: Network): Promise<Topology> {
  const addChain: Topology['addChain'] = async (rules, nat = []) => {
    const all = [...nat, ...rules.map(({ verdict, if: match }) => ({ type: verdict, condition: conditionOf(match) }))];
    if (all.length === 0) return undefined;
    const chainId = (await repository.create('chain', { id: randomUUID(), name: 'twin' })).id;
    const positions = positionsAfter(undefined, all.length);
    for (const [i, rule] of all.entries()) {
      await repository.create('rule', { ...rule, id: randomUUID(), chainId, position: positions[i] });
    }
    return chainId;
  };
  const bridges = new Map<string, string>();
  for (const { name } of network.bridges) {
    bridges.set(name, (await repository.create('bridge', { id: randomUUID(), name })).id);
  }
  const ports = new Map(network.routers.flatMap((router) => router.ports.map(({ name }) => [name, randomUUID()])));
  const linked = new Set<string>();
  for (const router of network.routers) {
    const routerId = (await repository.create('router', { id: randomUUID(), name: router.name })).id;
    for (const { name, mac, subnets, to, inbound, outbound } of router.ports) {
      const id = ports.get(name)!;
      const filters = { inboundFilterId: await addChain(inbound), outboundFilterId: await addChain(outbound) };
      // The second of two ports names the first.
      const peerId = 'port' in to && linked.has(to.port) ? ports.get(to.port) : undefined;
      await repository.create('port', { id, routerId, mac, subnets: [...subnets], peerId, ...filters });
      linked.add(name);
      if ('bridge' in to) {
        await repository.create('port', { id: randomUUID(), bridgeId: bridges.get(to.bridge)!, peerId: id });
      }
    }
    for (const { port, ...route } of router.routes) {
      const nextHopPortId = port === undefined ? undefined : ports.get(port);
      await repository.create('route', { ...route, id: randomUUID(), routerId, nextHopPortId });
    }
    await setFilters(repository, routerId, router, ports, addChain);
  }
  return { bridges, addChain };
}

/** Filters of their own for what is forwarded and for sources: what the first accepts the second is asked, too. */
async function setFilters(
  repository: TopologyRepository,
  routerId: string,
  { inbound, outbound, nat }: RouterSpec,
  ports: ReadonlyMap<string, string>,
  addChain: Topology['addChain'],
): Promise<void> {
  const sources = nat.flatMap((spec) => sourceRule(spec, ports));
  const filters = {
    inboundFilterId: await addChain(inbound, nat.map(destinationRule)),
    forwardChainId: await addChain(outbound),
    outboundFilterId: await addChain([], sources),
  };
  await repository.modify('router', routerId, (router) => ({ ...router, ...filters }));
}

function destinationRule(nat: NatSpec): NatRule {
  if (nat.type === 'snat')
    return { type: 'reverse-snat', action: 'continue', condition: { destination: only(nat.address) } };
  const ports = { start: nat.port, end: nat.port };
  const targets = [{ start: nat.target, end: nat.target, ports }];
  return { type: 'dnat', action: 'continue', targets, condition: { destination: only(nat.destination) } };
}

function sourceRule(nat: NatSpec, ports: ReadonlyMap<string, string>): NatRule[] {
  if (nat.type === 'dnat') return [];
  const targets = [{ start: nat.address, end: nat.address, ports: { start: 1024, end: 65535 } }];
  const condition = { source: nat.source, outPortIds: [ports.get(nat.port)!] };
  return [{ type: 'snat', action: 'accept', targets, condition }];
}

function only(address: string): string {
  return `${address}/${address.includes(':') ? 128 : 32}`;
}

const PROTOCOLS = { tcp: IpProtocol.TCP, udp: IpProtocol.UDP, icmp: IpProtocol.ICMP, icmpv6: IpProtocol.ICMPV6 };

function conditionOf(match: Match): Condition {
  const { family, source, destination, protocol, sourcePorts, destinationPorts, icmpType, isReturn } = match;
  const inverted: ('source' | 'destination')[] = [];
  if (match.isSourceInverted) inverted.push('source');
  if (match.isDestinationInverted) inverted.push('destination');
  return {
    ...(isReturn && { matchReturnFlow: true }),
    ...(family && { etherType: family === 4 ? EtherType.IPV4 : EtherType.IPV6 }),
    ...(source && { source }),
    ...(destination && { destination }),
    ...(inverted.length > 0 && { inverted }),
    ...(protocol && { protocol: PROTOCOLS[protocol] }),
    ...((sourcePorts ?? icmpType) && { sourcePorts: sourcePorts ?? icmpType }),
    ...(destinationPorts && { destinationPorts }),
  };
}
