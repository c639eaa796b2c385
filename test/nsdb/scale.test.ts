/**
 * What grows with the cluster and what must not. The cluster: one bridge, 100 ports on each host. One agent runs, with
 * ports of its own; the other hosts are there in the NSDB only. Counts, not times: they are the same on every machine.
 */
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import test from 'ava';
import type { TreeNode } from '../../src/nsdb/embedded/database.js';
import { nodeDisk } from '../../src/nsdb/embedded/disk.js';
import { load } from '../../src/nsdb/embedded/storage.js';
import { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { formatIpv4, formatMac, MAC_BROADCAST } from '../../src/packet/address.js';
import { buildEthernet } from '../../src/packet/ethernet.js';
import { idFromName } from '../../src/topology/id.js';
import { Cluster } from '../agent/cluster.js';
import { noTraffic, StoreGate, type Traffic } from '../agent/store-gate.js';
import { until } from '../agent/until.js';

const FEW = 1000;
/** The full size, 100,000 ports on 1,000 hosts, takes some minutes, and a flood to all of them does not fit in one flow. */
const MANY = Number(process.env.MIDONET_PORTS ?? 20_000);
const PORTS_PER_HOST = 100;
const IN_FLIGHT = 128;
/** IEEE 802. */
const EXPERIMENTAL_ETHER_TYPE = 0x88b5;
const OTHERS_UNDERLAY = 0xc0a9_0000;

/** What the NSDB sends to others in a moment comes in this time. */
const QUIET_MS = 300;

interface Counts {
  readonly addPort: Traffic;
  /** Of the running agent while a port was added elsewhere. */
  readonly bystander: Traffic;
  /** Of an agent with {@link PORTS_PER_HOST} ports from its start until all is published. */
  readonly agentStart: Traffic;
  readonly agentWatches: number;
  /** Of the agent for the first packet to a port elsewhere, and the watches it left. */
  readonly firstPacket: Traffic;
  readonly firstPacketWatches: number;
}

class World {
  private ports = 0;
  readonly hostIds: string[] = [];

  private constructor(
    readonly cluster: Cluster,
    readonly bridgeId: string,
    private readonly gate: StoreGate,
    private readonly store: ZookeeperStore,
  ) {}

  static async make(): Promise<World> {
    const cluster = await Cluster.start({ hosts: 1 });
    const bridgeId = await cluster.createBridge();
    await cluster.populate(bridgeId, PORTS_PER_HOST);
    const { folder } = cluster.nsdb;
    const gate = await StoreGate.to(join(folder, 'socket'), join(folder, 'gate-front-end'));
    const store = new ZookeeperStore({ connect: `unix:${gate.path}`, operationTimeout: 60_000 });
    return new World(cluster, bridgeId, gate, store);
  }

  get repository(): TopologyRepository {
    return new TopologyRepository(this.store);
  }

  /** Ports on other hosts, until there are `count`. */
  async grow(count: number): Promise<void> {
    while (this.hostIds.length < count / PORTS_PER_HOST) await this.addHost();
    const worker = async () => {
      while (this.ports < count) await this.addPort();
    };
    await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
  }

  async addHost(): Promise<void> {
    const { cluster, repository, bridgeId, hostIds } = this;
    const id = randomUUID();
    const number = hostIds.push(id);
    await repository.create('host', { id, name: `other-${number}` });
    const { underlay } = cluster.network.node(OTHERS_UNDERLAY + number);
    await repository.joinTunnelZone(idFromName('tunnel-zone', 'zone-0'), id, formatIpv4(underlay));
    await repository.setBridgeHost(bridgeId, id, { floodKey: 1_000_000 + number });
  }

  /** On one of the other hosts; returns its addresses. */
  async addPort(): Promise<{ mac: number; ip: number }> {
    const number = ++this.ports;
    const ip = addressOf(number);
    const port = {
      id: randomUUID(),
      bridgeId: this.bridgeId,
      mac: formatMac(0x0400_0000_0000 + number),
      addresses: [formatIpv4(ip)],
      binding: {
        hostId: this.hostIds[number % this.hostIds.length],
        interfaceName: `veth${100_000 + number}`,
        tunnelKey: 1_000_000 + number,
      },
    };
    await this.repository.create('port', port);
    return { mac: 0x0400_0000_0000 + number, ip };
  }

  async count(): Promise<Counts> {
    const [host] = this.cluster.hosts;
    await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
    this.gate.traffic = noTraffic();
    host.gate.traffic = noTraffic();
    const target = await this.addPort();
    await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
    const addPort = { ...this.gate.traffic };
    const bystander = { ...host.gate.traffic };

    await host.stop();
    host.gate.traffic = noTraffic();
    await host.start();
    await this.cluster.published();
    await until('the agent knows its ports', () => host.agent.bindings.isComplete);
    await host.gate.quiet();
    const agentStart = { ...host.gate.traffic };
    const agentWatches = host.store.metrics.tracked;

    host.gate.traffic = noTraffic();
    this.cluster.underlayFrames = [];
    this.cluster.sendTo([...host.journal.values()][0], target);
    await until('the packet is on its way', () => this.cluster.underlayFrames.length === 1);
    const firstPacket = { ...host.gate.traffic };
    const firstPacketWatches = host.store.metrics.tracked - agentWatches;
    // The flow goes, and what it needed.
    for (let minutes = 0; minutes < 3; minutes++) await this.cluster.advance(61_000);
    return { addPort, bystander, agentStart, agentWatches, firstPacket, firstPacketWatches };
  }

  async close(): Promise<void> {
    await this.store.close();
    await this.gate.close();
    await this.cluster.close();
  }
}

/** An IPv4 address whose text is as long as any other's. */
function addressOf(number: number): number {
  const octets = [number / 22_500, number / 150, number].map((part) => 100 + (Math.floor(part) % 150));
  return ((100 << 24) | (octets[0] << 16) | (octets[1] << 8) | octets[2]) >>> 0;
}

let world: World;
let few: Counts;
let many: Counts;

test.before(async () => {
  world = await World.make();
  await world.grow(FEW);
  few = await world.count();
  await world.grow(MANY);
  many = await world.count();
});

test.after.always(() => world?.close());

test.serial('adding a port costs the same', (t) => {
  t.log(few.addPort, many.addPort);
  t.deepEqual(many.addPort, few.addPort);
});

test.serial('a port that is added elsewhere costs an agent that has nothing to do with it nothing', (t) => {
  t.deepEqual(few.bystander, noTraffic());
  t.deepEqual(many.bystander, noTraffic());
});

test.serial('what an agent reads and watches when it starts is the same', (t) => {
  t.log(few.agentStart, few.agentWatches, many.agentStart, many.agentWatches);
  // One for each port and its bridge, and what every agent watches: its host, its zone and its membership of it, captures.
  t.true(many.agentWatches <= PORTS_PER_HOST + 11);
  // A watch or a request or two more or less: what is published, or needed for a while, waits for what else is under way.
  t.true(many.agentWatches <= few.agentWatches + 1);
  for (const field of ['requests', 'requestBytes', 'answers', 'answerBytes'] as const) {
    t.true(many.agentStart[field] <= few.agentStart[field] * 1.05, field);
  }
});

test.serial('what the first packet to another host reads and watches is the same', (t) => {
  t.log(few.firstPacket, few.firstPacketWatches, many.firstPacket, many.firstPacketWatches);
  t.is(many.firstPacketWatches, few.firstPacketWatches);
  t.deepEqual(many.firstPacket, few.firstPacket);
});

test.serial(
  'a flood needs every host of the bridge once; a host that joins costs its entry, not the list',
  async (t) => {
    const { cluster, hostIds } = world;
    const [host] = cluster.hosts;
    const before = host.store.metrics.tracked;
    host.gate.traffic = noTraffic();
    cluster.underlayFrames = [];
    const [pod] = host.journal.values();
    pod.send(buildEthernet({ dst: MAC_BROADCAST, src: pod.mac, type: EXPERIMENTAL_ETHER_TYPE }, new Uint8Array(46)));
    await until(
      'the packet is on its way to every host',
      () => cluster.underlayFrames.length === hostIds.length,
      20_000,
    );
    // The list and the address of each host in the tunnel zone; the linked ports are known where load balancers are looked for.
    const watched = host.store.metrics.tracked;
    t.true([1, 2].includes(watched - before - hostIds.length), `${before} and ${watched} watches`);
    t.log(host.gate.traffic);
    host.gate.traffic = noTraffic();
    await world.addHost();
    await until('the agent knows where the host is', () => host.store.metrics.tracked === watched + 1);
    await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
    t.log(host.gate.traffic);
    t.true(host.gate.traffic.answers <= 4);
    t.true(host.gate.traffic.answerBytes <= 1000);
  },
);

test.serial('no node is large, and none has more than a few thousand children', async (t) => {
  const { nsdb } = world.cluster;
  await nsdb.stop();
  const { database } = load(nodeDisk, join(nsdb.folder, 'data'), Number.POSITIVE_INFINITY);
  let largest = { path: '', bytes: 0 };
  let widest = { path: '', children: 0 };
  const visit = (path: string, node: TreeNode) => {
    if (node.data.length > largest.bytes) largest = { path, bytes: node.data.length };
    const children = node.children?.size ?? 0;
    if (children > widest.children) widest = { path, children };
    for (const [name, child] of node.children ?? []) visit(`${path}/${name}`, child);
  };
  visit('', database.root);
  t.log(database.nodeCount, 'nodes', largest, widest);
  t.true(largest.bytes <= 1000);
  t.true(widest.children <= 2000);
});
