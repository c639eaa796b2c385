import { randomUUID } from 'node:crypto';
import { type FlowKey, Word } from '../../src/flow/key.js';
import { hostAlivePath } from '../../src/nsdb/layout.js';
import { formatIpv4, formatIpv6, formatMac, type Ipv6, MAC_BROADCAST } from '../../src/packet/address.js';
import { ArpOp, buildArpReply, buildArpRequest } from '../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmpEcho, IcmpType } from '../../src/packet/icmp.js';
import { buildIcmpv6Echo, Icmpv6Type } from '../../src/packet/icmpv6.js';
import { formatCidr, parseCidr } from '../../src/packet/ip.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildNeighborAdvertisement } from '../../src/packet/nd.js';
import { positionsAfter } from '../../src/topology/position.js';
import { keyOf } from '../simulation/world.js';
import { type Cluster, Pod, type TestHost } from './cluster.js';
import { clusterTest } from './cluster-test.js';
import { until } from './until.js';

/** A bridge behind a router, and how its machines know that. */
interface Network {
  readonly bridgeId: string;
  readonly number: number;
  readonly routerPortId: string;
  readonly gatewayMac: number;
  readonly gateway: number;
  readonly gateway6: Ipv6;
}

/** A machine on a bridge behind a router: 10.NUMBER.0.HOST and fd00::(NUMBER - 1):HOST. */
class Machine extends Pod {
  constructor(
    readonly network: Network,
    host: number,
  ) {
    super(network.bridgeId, 0x1_0000 * (network.number - 1) + host);
  }

  /** Sends an echo request; `to` is an IPv4 or IPv6 address. */
  ping(to: number | Ipv6, ttl = 64): void {
    const { mac: src, network } = this;
    const payload = new TextEncoder().encode('are you there?');
    if (typeof to === 'number') {
      const echo = buildIcmpEcho(IcmpType.ECHO_REQUEST, 7, 1, payload);
      const packet = buildIpv4({ src: this.ip, dst: to, protocol: IpProtocol.ICMP, ttl }, echo);
      this.send(buildEthernet({ dst: network.gatewayMac, src, type: EtherType.IPV4 }, packet));
    } else {
      const echo = buildIcmpv6Echo(Icmpv6Type.ECHO_REQUEST, 7, 1, payload);
      const packet = buildIpv6({ src: this.ip6, dst: to, protocol: IpProtocol.ICMPV6, hopLimit: ttl }, echo);
      this.send(buildEthernet({ dst: network.gatewayMac, src, type: EtherType.IPV6 }, packet));
    }
  }

  /** The headers of what came since this was last asked. */
  received(): FlowKey[] {
    const keys = (this.device?.received() ?? []).map((frame) => keyOf(frame, 0));
    this.device?.clear();
    return keys;
  }

  /** The headers of the only packet that comes. */
  async hears(what: string): Promise<FlowKey> {
    const keys: FlowKey[] = [];
    await until(what, () => keys.push(...this.received()) > 0);
    if (keys.length > 1) throw new Error(`${what}: ${keys.length} packets came`);
    return keys[0];
  }
}

async function createRouter(c: Cluster): Promise<string> {
  return (await c.repository.create('router', { id: randomUUID(), name: 'edge' })).id;
}

/** A bridge of which the machines are reached through the router. */
async function createNetwork(c: Cluster, routerId: string, number: number): Promise<Network> {
  const bridgeId = await c.createBridge();
  const gatewayMac = 0x0a00_0000_0000 + number;
  const gateway = 0x0a00_00fe + 0x1_0000 * number;
  const gateway6: Ipv6 = [0xfd00_0000, 0, 0, 0x1_0000 * (number - 1) + 0xfe];
  const mac = formatMac(gatewayMac);
  const subnets = [`${formatIpv4(gateway)}/16`, `${formatIpv6(gateway6)}/112`];
  const atRouter = await c.repository.create('port', { id: randomUUID(), routerId, mac, subnets });
  await c.repository.create('port', { id: randomUUID(), bridgeId, peerId: atRouter.id });
  for (const destination of subnets.map((subnet) => formatCidr(parseCidr(subnet)!))) {
    await addRoute(c, routerId, destination, atRouter.id);
  }
  return { bridgeId, number, routerPortId: atRouter.id, gatewayMac, gateway, gateway6 };
}

async function addRoute(
  c: Cluster,
  routerId: string,
  destination: string,
  nextHopPortId: string,
  gateway?: string,
): Promise<string> {
  const route = { id: randomUUID(), routerId, type: 'normal', destination, nextHopPortId, gateway } as const;
  return (await c.repository.create('route', route)).id;
}

/** A machine on each of two networks, on each of the hosts. */
async function linked(c: Cluster) {
  const routerId = await createRouter(c);
  const networks = [await createNetwork(c, routerId, 1), await createNetwork(c, routerId, 2)];
  const machines: Machine[] = [];
  for (const [i, host] of c.hosts.entries()) {
    for (const network of networks) {
      const machine = new Machine(network, i + 1);
      await host.attach(machine);
      machines.push(machine);
    }
  }
  await c.published();
  return { routerId, networks, machines };
}

clusterTest(
  'machines of two networks reach each other through the router, on one host and across',
  { hosts: 2 },
  async (t, c) => {
    const { machines } = await linked(c);
    for (const from of machines) {
      for (const to of machines) {
        if (from.network === to.network) continue;
        c.underlayFrames = [];
        from.ping(to.ip);
        const key = await to.hears(`${from.interfaceName} reaches ${to.interfaceName}`);
        t.deepEqual([key.ethSrc, key.ethDst], [to.network.gatewayMac, to.mac]);
        t.deepEqual([key.ipv4Src, key.ipv4Dst, key.nwTtl], [from.ip, to.ip, 63]);
        from.ping(to.ip6);
        const key6 = await to.hears(`${from.interfaceName} reaches ${to.interfaceName} by IPv6`);
        t.deepEqual([...key6.words.slice(Word.NW_SRC, Word.NW_SRC + 4)], [...from.ip6]);
        t.is(key6.nwTtl, 63);
        t.is(c.underlayFrames.length, from.host === to.host ? 0 : 2);
      }
    }
    const missed = () => c.hosts.reduce((sum, host) => sum + host.switch.statistics.missed, 0);
    const before = missed();
    for (const from of machines) {
      for (const to of machines) {
        if (from.network === to.network) continue;
        from.ping(to.ip);
        await to.hears('again');
      }
    }
    t.is(missed(), before);
  },
);

clusterTest(
  'a router filters what it forwards and what it sends itself, and tells who is rejected',
  { hosts: 1 },
  async (t, c) => {
    const { routerId, machines, networks } = await linked(c);
    const [near, far] = machines;
    const chainId = (await c.repository.create('chain', { id: randomUUID(), name: 'forward' })).id;
    const [first, second] = positionsAfter(undefined, 2);
    const destination = `${formatIpv4(far.ip)}/32`;
    const reject = { id: randomUUID(), chainId, position: first, type: 'reject', condition: { destination } } as const;
    await c.repository.create('rule', reject);
    const ping = async (to: number) => {
      near.ping(to);
      await c.quiet();
      return near.received();
    };
    near.ping(far.ip);
    await far.hears('there is no filter');
    await c.repository.modify('router', routerId, (router) => ({ ...router, forwardChainId: chainId }));
    await until('the router says that it is prohibited', async () =>
      (await ping(far.ip)).some(({ tpSrc, tpDst }) => tpSrc === IcmpType.UNREACHABLE && tpDst === 13),
    );
    far.received();
    near.ping(far.ip);
    t.is((await near.hears('each time')).ipv4Src, networks[0].gateway);
    t.deepEqual(far.received(), []);

    t.is((await ping(networks[0].gateway)).length, 1);
    const own = { source: `${formatIpv4(networks[0].gateway)}/32` };
    await c.repository.create('rule', { id: randomUUID(), chainId, position: second, type: 'drop', condition: own });
    await until('its own answers are dropped', async () => (await ping(networks[0].gateway)).length === 0);
    await c.repository.delete('chain', chainId);
    await until('there is no filter any more', async () => (await ping(networks[0].gateway)).length === 1);
    near.ping(far.ip);
    await far.hears('the filter is gone');
  },
);

clusterTest('a router answers pings and tells what it cannot forward', { hosts: 2 }, async (t, c) => {
  const {
    machines: [machine, , , far],
    networks,
  } = await linked(c);
  machine.ping(networks[0].gateway);
  const echo = await machine.hears('the router answers');
  t.deepEqual([echo.tpSrc, echo.ipv4Src, echo.ipv4Dst], [IcmpType.ECHO_REPLY, networks[0].gateway, machine.ip]);
  machine.ping(networks[1].gateway6);
  t.is((await machine.hears('the router answers for its other port')).tpSrc, Icmpv6Type.ECHO_REPLY);

  machine.ping(far.ip, 1);
  const exceeded = await machine.hears('the router says that it took too many hops');
  t.deepEqual(
    [exceeded.tpSrc, exceeded.ipv4Src, exceeded.ethSrc],
    [IcmpType.TIME_EXCEEDED, networks[0].gateway, networks[0].gatewayMac],
  );
  machine.ping(far.ip6, 1);
  t.is((await machine.hears('by IPv6, too')).tpSrc, Icmpv6Type.TIME_EXCEEDED);
  machine.ping(0x0a63_0001);
  const unreachable = await machine.hears('the router says that there is no route');
  t.deepEqual([unreachable.tpSrc, unreachable.tpDst], [IcmpType.UNREACHABLE, 0]);
  const { metrics } = machine.host!.agent;
  t.deepEqual([metrics.drops.get('ttl-exceeded'), metrics.drops.get('no-route'), metrics.replies], [2, 1, 5]);
});

/** A port of the router to the world outside, 192.168.9.1/24, with the interface behind it. */
async function createUplink(c: Cluster, routerId: string, host: TestHost, mac = UPLINK_MAC) {
  const interfaceName = 'up0';
  const device = host.node.addInterface(interfaceName);
  const port = await c.repository.create('port', {
    id: randomUUID(),
    routerId,
    mac: formatMac(mac),
    subnets: ['192.168.9.1/24', 'fd09::1/64'],
    binding: { hostId: host.id, interfaceName },
  });
  await until('the uplink is attached', () => host.agent.bindings.isActive(port.id));
  const frames = () => {
    const frames = device.received();
    device.clear();
    return frames.map((frame) => keyOf(frame, 0));
  };
  return { id: port.id, interfaceName, send: (frame: Uint8Array) => device.send(frame), frames };
}

/** The headers of the first packet of a kind that comes out. */
async function comesOut(
  uplink: { frames(): FlowKey[] },
  what: string,
  isIt: (key: FlowKey) => boolean,
): Promise<FlowKey> {
  let found: FlowKey | undefined;
  await until(what, () => {
    found = uplink.frames().find(isIt);
    return found !== undefined;
  });
  return found!;
}

const UPLINK_MAC = 0x0a00_0000_0099;
const UPLINK = 0xc0a8_0901;
const WORLD_MAC = 0x0200_0000_9999;
const WORLD = 0xc0a8_09fe;
const WORLD6: Ipv6 = [0xfd09_0000, 0, 0, 0xfe];

const isQuestion = (key: FlowKey) =>
  key.ethType === EtherType.ARP && key.nwProto === ArpOp.REQUEST && key.ipv4Dst === WORLD;

clusterTest('the neighbours of an uplink are asked for, shared, confirmed and given up', { hosts: 2 }, async (t, c) => {
  const {
    routerId,
    networks,
    machines: [machine],
  } = await linked(c);
  const [near, far] = c.hosts;
  const uplink = await createUplink(c, routerId, far);
  await addRoute(c, routerId, '0.0.0.0/0', uplink.id, formatIpv4(WORLD));
  await addRoute(c, routerId, '::/0', uplink.id, formatIpv6(WORLD6));

  const announced = await comesOut(uplink, 'the address is announced', (key) => key.ethType === EtherType.ARP);
  t.deepEqual([announced.ipv4Src, announced.ipv4Dst, announced.arpSha], [UPLINK, UPLINK, UPLINK_MAC]);

  // Nobody answers: three questions, then the sender is told.
  machine.ping(0x0808_0808);
  for (let i = 0; i < 3; i++) {
    const asked = await comesOut(uplink, 'the gateway is asked for', isQuestion);
    t.deepEqual([asked.ipv4Src, asked.arpSha, asked.ethDst], [UPLINK, UPLINK_MAC, MAC_BROADCAST]);
    await c.advance(1000);
  }
  const told = await machine.hears('the router says that there is no way');
  t.deepEqual([told.tpSrc, told.tpDst, told.ipv4Src], [IcmpType.UNREACHABLE, 0, networks[0].gateway]);
  t.is(near.agent.metrics.drops.get('no-neighbor'), 1);

  // It is not asked for again at once, but a while later it is.
  await c.advance(1000);
  t.false(uplink.frames().some(isQuestion));
  await c.advance(10_000);
  machine.ping(0x0808_0808);
  await comesOut(uplink, 'the gateway is asked for again', isQuestion);
  uplink.send(buildArpReply(WORLD_MAC, WORLD, UPLINK_MAC, UPLINK));
  const out = await comesOut(uplink, 'the packet goes out', (key) => key.ipv4Dst === 0x0808_0808);
  t.deepEqual([out.ethSrc, out.ethDst, out.nwTtl], [UPLINK_MAC, WORLD_MAC, 63]);
  t.is(far.agent.neighbors.learnedCount, 1);
  machine.ping([0x2001_0db8, 0, 0, 1]);
  await comesOut(uplink, 'it is asked for by IPv6', (key) => key.nwProto === IpProtocol.ICMPV6 && key.tpSrc === 135);
  uplink.send(
    buildNeighborAdvertisement({
      target: WORLD6,
      targetMac: WORLD_MAC,
      dst: [0xfd09_0000, 0, 0, 1],
      dstMac: UPLINK_MAC,
    }),
  );
  await comesOut(
    uplink,
    'the packet goes out by IPv6',
    (key) => key.nwProto === IpProtocol.ICMPV6 && key.tpSrc === 128,
  );

  // The answers are known to machines of the other network on the other host, too.
  uplink.frames();
  machine.ping(0x0909_0909);
  await comesOut(uplink, 'the next goes out', (key) => key.ipv4Dst === 0x0909_0909);

  // Stale: the gateway alone is asked, then everybody; its new MAC address changes the flows.
  await c.advance(69_000);
  const poll = await comesOut(uplink, 'it is asked whether it is there', isQuestion);
  t.is(poll.ethDst, WORLD_MAC);
  await c.advance(10_000);
  t.is((await comesOut(uplink, 'all are asked', isQuestion)).ethDst, MAC_BROADCAST);
  uplink.send(buildArpReply(WORLD_MAC + 1, WORLD, UPLINK_MAC, UPLINK));
  await until('flows go to the new address', async () => {
    machine.ping(0x0808_0808);
    await c.quiet();
    return uplink.frames().some((key) => key.ipv4Dst === 0x0808_0808 && key.ethDst === WORLD_MAC + 1);
  });

  // It does not answer any more: it is given up, and who needs it asks once more.
  for (let i = 0; i < 9; i++) await c.advance(10_500);
  await until('it is given up', () => far.agent.neighbors.learnedCount === 0);
  for (let i = 0; i < 4; i++) await c.advance(1000);
  machine.received();
  await until('the sender is told', async () => {
    machine.ping(0x0808_0808);
    await c.quiet();
    await c.advance(1000);
    return machine.received().some((key) => key.tpSrc === IcmpType.UNREACHABLE);
  });
});

clusterTest('a change of routes concerns the flows to where they lead, and no others', { hosts: 2 }, async (t, c) => {
  const {
    routerId,
    machines: [machine, , , far],
  } = await linked(c);
  const [near] = c.hosts;
  const uplink = await createUplink(c, routerId, c.hosts[1]);
  uplink.send(buildArpRequest(WORLD_MAC, WORLD, UPLINK));
  await comesOut(uplink, 'the router answers', (key) => key.nwProto === ArpOp.REPLY);
  machine.ping(far.ip);
  await far.hears('the other network is reached');
  const sent = async (to: number) => {
    await c.quiet();
    uplink.frames();
    machine.ping(to);
    await c.quiet();
    return uplink.frames().filter((key) => key.ipv4Dst === to).length;
  };
  const isTold = async (to: number, code: number) => {
    machine.received();
    machine.ping(to);
    await c.quiet();
    return machine.received().some((key) => key.tpSrc === IcmpType.UNREACHABLE && key.tpDst === code);
  };
  t.true(await isTold(0x0808_0808, 0), 'no route');

  const revisits = near.agent.metrics.revisits;
  const route = await addRoute(c, routerId, '8.0.0.0/8', uplink.id, formatIpv4(WORLD));
  await until('the route is taken', async () => (await sent(0x0808_0808)) === 1);
  t.is(await sent(0x0801_0101), 1);
  t.is(near.agent.metrics.revisits, revisits, 'no flow was there that it concerns');

  const blackhole = { id: randomUUID(), routerId, type: 'reject', destination: '8.8.0.0/16' } as const;
  await c.repository.create('route', blackhole);
  await until('the longer prefix counts', () => isTold(0x0808_0808, 13));
  t.is(await sent(0x0801_0101), 1);
  await c.repository.delete('route', blackhole.id);
  await until('the shorter counts again', async () => (await sent(0x0808_0808)) === 1);

  await c.repository.modify('route', route, (one) => ({ ...one, gateway: undefined }));
  await until('the neighbours themselves are asked for, of which there are none', () => isTold(0x0808_0808, 1));
  await c.repository.modify('route', route, (one) => ({ ...one, gateway: formatIpv4(WORLD) }));
  await until('the gateway is back', async () => (await sent(0x0808_0808)) === 1);

  // An uplink without its interface is no way out.
  c.hosts[1].node.removeInterface(uplink.interfaceName);
  await until('there is no route', () => isTold(0x0808_0808, 0));
  c.hosts[1].node.addInterface(uplink.interfaceName);
  c.hosts[1].agent.interfaceChanged(uplink.interfaceName);
  await until('it is back', () => c.hosts[1].agent.bindings.isActive(uplink.id));
  machine.ping(far.ip);
  await far.hears('the other network is reached as before');
});

clusterTest('what a router says is limited, and the agent is spared the rest', { hosts: 1 }, async (t, c) => {
  const {
    machines: [machine],
  } = await linked(c);
  const { metrics } = c.hosts[0].agent;
  machine.ping(0x0a63_0001);
  await machine.hears('the router says that there is no route');
  for (let i = 0; i < 200; i++) machine.ping(0x0a63_0001);
  await until('it has said so often', () => metrics.unanswered > 0);
  await c.quiet();
  t.is(machine.received().length, 99);
  const { upcalls } = metrics;
  for (let i = 0; i < 200; i++) machine.ping(0x0a63_0001);
  await c.quiet();
  t.is(machine.received().length, 0);
  t.is(metrics.upcalls, upcalls);
  await c.advance(2000);
  machine.ping(0x0a63_0001);
  await machine.hears('a second later it speaks again');
});

clusterTest('after a restart packets are routed by the flows that were there', { hosts: 2 }, async (t, c) => {
  const {
    machines: [machine, , , far],
  } = await linked(c);
  machine.ping(far.ip);
  await far.hears('it is reached');
  machine.ping(far.ip6);
  await far.hears('it is reached by IPv6');
  const [host] = c.hosts;
  await c.quiet();
  const flows = () =>
    host
      .flows()
      .map(({ id, actions }) => JSON.stringify([id, actions]))
      .sort();
  const before = flows();
  await host.stop();
  const { missed } = host.switch.statistics;
  machine.ping(far.ip);
  await far.hears('while there is no agent');
  await host.start();
  await until('all ports are known', () => host.agent.bindings.isComplete);
  machine.ping(far.ip);
  await far.hears('by the new agent');
  t.is(host.switch.statistics.missed, missed);
  await c.quiet();
  t.deepEqual(flows(), before);
});

clusterTest(
  'of two uplinks that of a host that is gone is left, and taken again when it is back',
  { hosts: 3 },
  async (t, c) => {
    const {
      routerId,
      machines: [machine],
    } = await linked(c);
    const [, first, second] = c.hosts;
    const uplinks = [await createUplink(c, routerId, first), await createUplink(c, routerId, second, UPLINK_MAC + 1)];
    for (const uplink of uplinks) {
      await addRoute(c, routerId, '0.0.0.0/0', uplink.id, formatIpv4(WORLD));
      uplink.send(buildArpRequest(WORLD_MAC, WORLD, UPLINK));
    }
    await until('both gateways are known', () =>
      [first, second].every((host) => host.agent.neighbors.learnedCount === 1),
    );
    /** Which uplinks packets to some addresses go out at. */
    const used = async () => {
      for (const uplink of uplinks) uplink.frames();
      for (let i = 1; i <= 16; i++) machine.ping(0x0808_0800 + i);
      await c.quiet();
      return uplinks.map((uplink) => uplink.frames().filter((key) => key.ethType === EtherType.IPV4).length > 0);
    };
    await until('both are used', async () => (await used()).every(Boolean));
    await second.stop();
    await until('the NSDB knows', async () => (await c.repository.store.get(hostAlivePath(second.id))) === undefined);
    t.deepEqual(await used(), [true, true], 'the kernel goes on');
    await until('it is left', async () => {
      await c.advance(6000);
      const [isFirst, isSecond] = await used();
      return isFirst && !isSecond;
    });
    await second.start();
    await until('it is taken again', async () => {
      uplinks[1].send(buildArpReply(WORLD_MAC, WORLD, UPLINK_MAC + 1, UPLINK));
      return (await used()).every(Boolean);
    });
  },
);

clusterTest('a neighbour at a port of this host is found without the NSDB, too', { hosts: 1 }, async (t, c) => {
  const {
    routerId,
    machines: [machine],
  } = await linked(c);
  const [host] = c.hosts;
  const uplink = await createUplink(c, routerId, host);
  await addRoute(c, routerId, '192.168.9.0/24', uplink.id);
  const isFor = (to: number) => (key: FlowKey) => key.ethType === EtherType.IPV4 && key.ipv4Dst === to;
  const asksFor = (to: number) => (key: FlowKey) => key.ethType === EtherType.ARP && key.ipv4Dst === to;
  await until('the route is taken', async () => {
    machine.ping(WORLD);
    await c.quiet();
    return uplink.frames().some(asksFor(WORLD));
  });
  uplink.send(buildArpReply(WORLD_MAC, WORLD, UPLINK_MAC, UPLINK));
  await comesOut(uplink, 'the packet goes out', isFor(WORLD));

  host.gate.shut();
  await until('the NSDB is away', () => host.store.state !== 'connected');
  machine.ping(WORLD - 1);
  await c.quiet();
  t.false(uplink.frames().some(asksFor(WORLD - 1)), 'first the NSDB has its chance');
  await c.advance(1000);
  await comesOut(uplink, 'the neighbour is asked for', asksFor(WORLD - 1));
  uplink.send(buildArpReply(WORLD_MAC - 1, WORLD - 1, UPLINK_MAC, UPLINK));
  t.is((await comesOut(uplink, 'the next packet goes out', isFor(WORLD - 1))).ethDst, WORLD_MAC - 1);
});

clusterTest(
  'what packets through a router needed is watched no longer than flows need it',
  { hosts: 2 },
  async (t, c) => {
    const {
      machines: [machine, , , far],
      networks,
    } = await linked(c);
    const [host] = c.hosts;
    const released = () =>
      until('nothing is needed', async () => {
        await c.advance(61_000);
        return host.flows().every(({ key }) => key.tunId !== 0);
      });
    await released();
    for (let i = 0; i < 4; i++) await c.advance(61_000);
    const before = host.agent.cache.size;
    machine.ping(far.ip);
    await far.hears('it is reached');
    machine.ping(far.ip6);
    await far.hears('it is reached by IPv6');
    machine.ping(networks[1].gateway);
    await machine.hears('the router answers');
    machine.ping(0x0a02_7777);
    await c.quiet();
    t.true(host.agent.cache.size > before + 5);
    await released();
    await until('all is given up', async () => {
      await c.advance(61_000);
      return host.agent.cache.size <= before;
    });
    // Again, from nothing. What came was the question who has the address that nobody has.
    t.true(far.received().every(({ ethType }) => ethType === EtherType.ARP));
    machine.ping(far.ip);
    await far.hears('it is reached again');
  },
);
