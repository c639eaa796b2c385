/** Gateways on several hosts whose uplinks share the state of connections: answers come in at another one than requests go out. */
import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { COPY_MARK } from '../../../src/agent/flow-state/flow-state-exchange.js';
import type { MemoryInterface } from '../../../src/datapath/memory/interface.js';
import type { FlowKey } from '../../../src/flow/key.js';
import { formatMac, parseIpv4 } from '../../../src/packet/address.js';
import { ArpOp, buildArpReply } from '../../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../../src/packet/ethernet.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../../src/packet/ipv4.js';
import { buildTcp, TcpFlag } from '../../../src/packet/tcp.js';
import { buildUdp } from '../../../src/packet/udp.js';
import { keyOf } from '../../simulation/world.js';
import { Cluster, Pod, type TestHost } from '../cluster.js';
import { until } from '../until.js';

/** Reached by the first gateway, and by the second. */
const FIRST_WORLD = parseIpv4('203.0.113.7')!;
const SECOND_WORLD = parseIpv4('198.18.0.7')!;
const OUTER = '192.0.2.1';
const VIP = '192.0.2.80';
const GATEWAY_MAC = 0x0a00_0000_0001;
const WORLD_MAC = 0x0e00_0000_0001;

/** What a port of a router has to do with the world outside. */
class Uplink {
  readonly device: MemoryInterface;
  readonly portId = randomUUID();
  readonly mac: number;
  private keys: FlowKey[] = [];

  constructor(
    readonly host: TestHost,
    readonly number: number,
  ) {
    this.mac = 0x0a01_0000_0000 + number;
    this.device = host.node.addInterface(`up${number}`);
    this.device.listen((frame) => {
      const key = keyOf(frame, 0);
      if (key.ethType === EtherType.ARP && key.nwProto === ArpOp.REQUEST) {
        this.device.send(buildArpReply(WORLD_MAC, key.ipv4Dst, key.ethSrc, key.ipv4Src));
      } else if (key.ethType === EtherType.IPV4) this.keys.push(key);
    });
  }

  get neighbor(): string {
    return `169.254.${this.number}.2`;
  }

  send(packet: Uint8Array): void {
    this.device.send(buildEthernet({ dst: this.mac, src: WORLD_MAC, type: EtherType.IPV4 }, packet));
  }

  received(): FlowKey[] {
    const { keys } = this;
    this.keys = [];
    return keys;
  }
}

class Machine extends Pod {
  sendIp(packet: Uint8Array): void {
    this.send(buildEthernet({ dst: GATEWAY_MAC, src: this.mac, type: EtherType.IPV4 }, packet));
  }

  received(): FlowKey[] {
    const keys = (this.device?.received() ?? []).map((frame) => keyOf(frame, 0));
    this.device?.clear();
    return keys.filter(({ ethType }) => ethType === EtherType.IPV4);
  }
}

function udp(src: number, dst: number, srcPort: number, dstPort: number): Uint8Array {
  return buildIpv4({ src, dst, protocol: IpProtocol.UDP }, buildUdp(srcPort, dstPort));
}

function tcp(src: number, dst: number, srcPort: number, dstPort: number, flags: number): Uint8Array {
  return buildIpv4({ src, dst, protocol: IpProtocol.TCP }, buildTcp({ srcPort, dstPort, flags, seq: 1, ack: 1 }));
}

interface Gateways {
  readonly c: Cluster;
  readonly uplinks: readonly Uplink[];
  readonly machine: Machine;
  readonly groupId: string;
}

/**
 * A router with an uplink on each of two hosts, which let in answers and what goes to port 80; a machine behind it, on the last
 * host. With `nat`, what the machine sends gets another source, and the VIP is the machine.
 */
async function setUp(t: ExecutionContext, { hosts = 2, nat = false, stateful = true } = {}): Promise<Gateways> {
  const c = await Cluster.start({ hosts });
  t.teardown(async () => {
    if (!t.passed) for (const host of c.hosts) for (const line of host.warnings.slice(-20)) t.log(host.name, line);
    await c.close();
  });
  const { repository } = c;
  const routerId = (await repository.create('router', { id: randomUUID(), name: 'edge' })).id;
  const groupId = (await repository.create('port-group', { id: randomUUID(), name: 'uplinks', stateful })).id;
  const answers = await c.createChain([
    { type: 'accept', condition: { matchReturnFlow: true } },
    { type: 'accept', condition: { etherType: EtherType.IPV4, destinationPorts: { start: 80, end: 80 } } },
    { type: 'drop', condition: { etherType: EtherType.IPV4 } },
  ]);
  const uplinks: Uplink[] = [];
  for (const [i, world] of ['203.0.113.0/24', '198.18.0.0/16'].entries()) {
    const uplink = new Uplink(c.hosts[i % hosts], i + 1);
    uplinks.push(uplink);
    await repository.create('port', {
      id: uplink.portId,
      routerId,
      mac: formatMac(uplink.mac),
      subnets: [`169.254.${uplink.number}.1/30`],
      portGroupIds: [groupId],
      inboundFilterId: answers,
      binding: { hostId: uplink.host.id, interfaceName: uplink.device.name },
    });
    const route = { id: randomUUID(), routerId, type: 'normal', destination: world } as const;
    await repository.create('route', { ...route, nextHopPortId: uplink.portId, gateway: uplink.neighbor });
  }
  const bridgeId = await c.createBridge();
  const atRouter = await repository.create('port', {
    id: randomUUID(),
    routerId,
    mac: formatMac(GATEWAY_MAC),
    subnets: ['10.1.255.254/16'],
  });
  await repository.create('port', { id: randomUUID(), bridgeId, peerId: atRouter.id });
  const route = { id: randomUUID(), routerId, type: 'normal', destination: '10.1.0.0/16' } as const;
  await repository.create('route', { ...route, nextHopPortId: atRouter.id });
  const machine = new Machine(bridgeId, 7);
  await c.hosts.at(-1)!.attach(machine);
  if (nat) {
    const inboundFilterId = await c.createChain([
      {
        type: 'dnat',
        targets: [{ start: '10.1.0.7', end: '10.1.0.7', ports: { start: 8080, end: 8080 } }],
        action: 'accept',
        condition: { destination: `${VIP}/32` },
      },
      { type: 'reverse-snat', action: 'accept', condition: { destination: `${OUTER}/32` } },
    ]);
    const outboundFilterId = await c.createChain([
      {
        type: 'snat',
        targets: [{ start: OUTER, end: OUTER, ports: { start: 1024, end: 65535 } }],
        action: 'accept',
        condition: { source: '10.1.0.0/16' },
      },
    ]);
    await repository.modify('router', routerId, (router) => ({ ...router, inboundFilterId, outboundFilterId }));
  }
  await c.published();
  await until('the uplinks are attached', () =>
    uplinks.every(({ host, portId }) => host.agent.bindings.isActive(portId)),
  );
  const g = { c, uplinks, machine, groupId };
  if (stateful) await settled(g);
  await until('packets get out', async () => {
    machine.sendIp(udp(machine.ip, FIRST_WORLD, 1, 1));
    machine.sendIp(udp(machine.ip, SECOND_WORLD, 1, 1));
    await c.quiet();
    return uplinks.every((uplink) => uplink.received().length > 0);
  });
  return g;
}

/** Whether all gateways have told each other what there is. */
function shared({ uplinks }: Gateways): boolean {
  const others = new Set(uplinks.map(({ host }) => host)).size - 1;
  return uplinks.every(({ host }) => host.agent.flowState.peerCount === others && host.agent.flowState.isSettled);
}

async function settled(g: Gateways): Promise<void> {
  await g.c.quiet();
  await until('the gateways have told each other', async () => {
    await g.c.advance(300);
    return shared(g);
  });
}

/** What the machine sends goes out at the first uplink, as this. */
async function request(g: Gateways, packet: Uint8Array): Promise<FlowKey> {
  g.machine.sendIp(packet);
  const keys: FlowKey[] = [];
  await until('it gets out', () => keys.push(...g.uplinks[0].received()) > 0);
  return keys[0];
}

/** Whether a packet that comes in at the uplink gets to the machine. */
async function arrives(g: Gateways, uplink: Uplink, packet: Uint8Array): Promise<FlowKey | undefined> {
  g.machine.received();
  uplink.send(packet);
  await g.c.quiet();
  return g.machine.received()[0];
}

/** The first packet of its kind, which may be lost while the hosts find out about the network. */
async function arrivesInTheEnd(g: Gateways, uplink: Uplink, packet: Uint8Array): Promise<FlowKey> {
  let key: FlowKey | undefined;
  await until('it arrives', async () => {
    key = await arrives(g, uplink, packet);
    return key !== undefined;
  });
  return key!;
}

function connectionsAt(uplink: Uplink) {
  const zone = uplink.host.agent.zoneOf(uplink.portId)!;
  return uplink.host.node.conntrack.list(zone, Number.MAX_SAFE_INTEGER);
}

function upcalls({ c }: Gateways): number {
  return c.hosts.reduce((sum, host) => sum + host.switch.statistics.missed, 0);
}

for (const hosts of [2, 3]) {
  test.serial(`answers come in at the other gateway, and cost no upcall (hosts: ${hosts})`, async (t) => {
    const g = await setUp(t, { hosts });
    const [first, second] = g.uplinks;
    const answer = (port: number) => arrives(g, second, udp(FIRST_WORLD, g.machine.ip, 2000, port));
    await request(g, udp(g.machine.ip, FIRST_WORLD, 1000, 2000));
    await settled(g);
    await arrivesInTheEnd(g, second, udp(FIRST_WORLD, g.machine.ip, 2000, 1000));
    t.is(await answer(1001), undefined, 'an answer to nothing');
    const before = upcalls(g);
    for (let port = 1100; port < 1150; port++) {
      await request(g, udp(g.machine.ip, FIRST_WORLD, port, 2000));
      await until('the other gateway knows', () =>
        connectionsAt(second).some(({ original }) => original.srcPort === port),
      );
      t.truthy(await answer(port));
    }
    t.is(upcalls(g), before);
    await settled(g);
    for (const uplink of [first, second]) {
      const answered = connectionsAt(uplink).filter(({ original }) => original.srcPort >= 1000);
      t.is(answered.length, 51);
      t.true(answered.every((connection) => connection.answered));
    }
    t.deepEqual(
      g.c.hosts.flatMap(({ warnings }) => warnings),
      [],
    );
  });
}

test.serial('two uplinks of one host share connections, too', async (t) => {
  const g = await setUp(t, { hosts: 1, nat: true });
  const [first, second] = g.uplinks;
  await request(g, udp(g.machine.ip, FIRST_WORLD, 1000, 2000));
  const known = () => connectionsAt(second).filter(({ original }) => original.dst[0] === FIRST_WORLD);
  await until('it is known at the other', () => known().some(({ original }) => original.dstPort === 2000));
  const [{ original }] = known().filter(({ original: { dstPort } }) => dstPort === 2000);
  const answer = udp(FIRST_WORLD, original.src[0], 2000, original.srcPort);
  t.like(await arrivesInTheEnd(g, second, answer), { ipv4Dst: g.machine.ip, tpDst: 1000 });
  await until('it is answered at the first', () =>
    connectionsAt(first).some((connection) => connection.original.dstPort === 2000 && connection.answered),
  );
});

test.serial('in a group that is not stateful they do not', async (t) => {
  const g = await setUp(t, { stateful: false });
  await request(g, udp(g.machine.ip, FIRST_WORLD, 1000, 2000));
  await g.c.quiet();
  await arrivesInTheEnd(g, g.uplinks[0], udp(FIRST_WORLD, g.machine.ip, 2000, 1000));
  t.is(await arrives(g, g.uplinks[1], udp(FIRST_WORLD, g.machine.ip, 2000, 1000)), undefined);
  t.deepEqual(
    g.c.hosts.map(({ agent }) => agent.flowState.peerCount),
    [0, 0],
  );
  await g.c.repository.modify('port-group', g.groupId, (group) => ({ ...group, stateful: true }));
  await settled(g);
  t.truthy(
    await arrivesInTheEnd(g, g.uplinks[1], udp(FIRST_WORLD, g.machine.ip, 2000, 1000)),
    'what was there is told',
  );
});

test.serial(
  'what is masqueraded is answered at the other gateway, and a TCP connection goes on in both directions',
  async (t) => {
    const g = await setUp(t, { nat: true });
    const [, second] = g.uplinks;
    const outer = parseIpv4(OUTER)!;
    const out = await request(g, tcp(g.machine.ip, FIRST_WORLD, 1000, 443, TcpFlag.SYN));
    t.is(out.ipv4Src, outer);
    await settled(g);
    const answer = (flags: number) => tcp(FIRST_WORLD, outer, 443, out.tpSrc, flags);
    const accepted = await arrivesInTheEnd(g, second, answer(TcpFlag.SYN | TcpFlag.ACK));
    t.like(accepted, { ipv4Dst: g.machine.ip, tpDst: 1000 });
    await settled(g);
    for (let i = 0; i < 3; i++) {
      const next = await request(g, tcp(g.machine.ip, FIRST_WORLD, 1000, 443, TcpFlag.ACK));
      t.is(next.tpSrc, out.tpSrc);
      t.like(await arrives(g, second, answer(TcpFlag.ACK)), { ipv4Dst: g.machine.ip, tpDst: 1000 });
    }
    for (const uplink of g.uplinks) {
      const [connection] = connectionsAt(uplink).filter(({ protocol }) => protocol === IpProtocol.TCP);
      t.is(connection.tcpState, 'ESTABLISHED');
    }
  },
);

test.serial(
  'what came in at one gateway is translated back at the other, also when the answer came before the news',
  async (t) => {
    const g = await setUp(t, { nat: true });
    const [first, second] = g.uplinks;
    const vip = parseIpv4(VIP)!;
    const answer = async (port: number) => {
      g.machine.sendIp(udp(g.machine.ip, SECOND_WORLD, 8080, port));
      const keys: FlowKey[] = [];
      await until('the answer gets out', () => keys.push(...second.received()) > 0);
      return keys[0];
    };
    t.like(await arrivesInTheEnd(g, first, udp(SECOND_WORLD, vip, 5000, 80)), { tpDst: 8080 });
    await settled(g);
    t.like(await answer(5000), { ipv4Src: vip, tpSrc: 80, tpDst: 5000 });

    g.c.stateNetwork.copies = () => 0;
    t.like(await arrives(g, first, udp(SECOND_WORLD, vip, 5001, 80)), { tpDst: 8080 });
    t.not((await answer(5001)).ipv4Src, vip, 'nobody has told yet');
    g.c.stateNetwork.copies = () => 1;
    await settled(g);
    t.like(await answer(5001), { ipv4Src: vip, tpSrc: 80, tpDst: 5001 });
    t.is(second.host.agent.flowState.counters.replaced, 1);
    t.is(first.host.agent.flowState.counters.replaced, 0);
    t.truthy(await arrives(g, first, udp(SECOND_WORLD, vip, 5001, 80)));
  },
);

test.serial('an answer that came before the news is dropped, and the next one is let in', async (t) => {
  const g = await setUp(t);
  g.c.stateNetwork.copies = () => 0;
  await request(g, udp(g.machine.ip, FIRST_WORLD, 1000, 2000));
  const answer = () => arrives(g, g.uplinks[1], udp(FIRST_WORLD, g.machine.ip, 2000, 1000));
  t.is(await answer(), undefined);
  g.c.stateNetwork.copies = () => 1;
  await settled(g);
  await until('it is let in', async () => (await answer()) !== undefined);
});

test.serial('messages may get lost and come twice, and gateways may be gone for a while', async (t) => {
  const g = await setUp(t);
  const [first, second] = g.uplinks;
  let dice = 1;
  g.c.stateNetwork.copies = () => {
    dice = (dice * 48_271) % 0x7fff_ffff;
    return dice % 3;
  };
  const known = () => connectionsAt(second).filter(({ original }) => original.srcPort >= 1000).length;
  for (let port = 1000; port < 1100; port++) await request(g, udp(g.machine.ip, FIRST_WORLD, port, 2000));
  await until('all are known', async () => {
    await g.c.advance(300);
    return known() === 100;
  });
  t.true(first.host.agent.flowState.counters.resent > 0);

  g.c.stateNetwork.copies = () => 0;
  for (let port = 1100; port < 1200; port++) await request(g, udp(g.machine.ip, FIRST_WORLD, port, 2000));
  for (let i = 0; i < 5; i++) await g.c.advance(3000);
  t.is(first.host.agent.flowState.unsent, 0, 'nothing is kept for it');
  t.is(known(), 100);
  g.c.stateNetwork.copies = () => 1;
  await settled(g);
  t.is(known(), 200);
});

test.serial(
  'a gateway that has lost its memory is told all, and one whose agent was away what it has missed',
  async (t) => {
    const g = await setUp(t);
    const [first, second] = g.uplinks;
    for (let port = 1000; port < 1100; port++) await request(g, udp(g.machine.ip, FIRST_WORLD, port, 2000));
    await settled(g);
    const { host } = second;
    await host.stop();
    host.node.conntrack.clear();
    await request(g, udp(g.machine.ip, FIRST_WORLD, 1100, 2000));
    await host.start();
    await until('it is back', () => host.agent.bindings.isComplete);
    await settled(g);
    const known = () => connectionsAt(second).filter(({ original }) => original.srcPort >= 1000);
    t.is(known().length, 101);
    t.true(known().every(({ mark }) => (mark & COPY_MARK) !== 0));
    t.truthy(await arrivesInTheEnd(g, second, udp(FIRST_WORLD, g.machine.ip, 2000, 1100)));

    await first.host.stop();
    await request(g, udp(g.machine.ip, FIRST_WORLD, 1101, 2000));
    await first.host.start();
    await settled(g);
    t.is(known().length, 102);
  },
);

test.serial(
  'a copy outlives what it was made of while it is used, and ends with it otherwise; nothing is left',
  async (t) => {
    const g = await setUp(t);
    const [first, second] = g.uplinks;
    const count = (uplink: Uplink) => connectionsAt(uplink).length;
    for (let port = 1000; port < 1010; port++) await request(g, udp(g.machine.ip, FIRST_WORLD, port, 2000));
    await settled(g);
    await arrivesInTheEnd(g, second, udp(FIRST_WORLD, g.machine.ip, 2000, 1000));
    await settled(g);
    // Answers go on, at the other gateway only, for longer than either would live without.
    for (let i = 0; i < 8; i++) {
      await g.c.advance(25_000);
      await settled(g);
      t.truthy(await arrives(g, second, udp(FIRST_WORLD, g.machine.ip, 2000, 1000)), `after ${25 * (i + 1)} s`);
    }
    await until('what is not used ends', async () => {
      await settled(g);
      return count(first) <= 1 && count(second) === 1;
    });
    // The first host's are used on: the copies are told again before they end.
    await request(g, udp(g.machine.ip, FIRST_WORLD, 3000, 2000));
    await arrivesInTheEnd(g, first, udp(FIRST_WORLD, g.machine.ip, 2000, 3000));
    for (let i = 0; i < 8; i++) {
      await g.c.advance(25_000);
      await request(g, udp(g.machine.ip, FIRST_WORLD, 3000, 2000));
      await settled(g);
      t.true(
        connectionsAt(second).some(({ original }) => original.srcPort === 3000),
        `after ${25 * (i + 1)} s`,
      );
    }
    for (let i = 0; i < 4; i++) {
      await g.c.advance(120_000);
      await settled(g);
    }
    t.is(first.host.node.conntrack.connections().length, 0);
    t.is(second.host.node.conntrack.connections().length, 0);
    t.is(first.host.agent.flowState.unsent + second.host.agent.flowState.unsent, 0);
  },
);

test.serial('who leaves the group is told no more, and listens no more', async (t) => {
  const g = await setUp(t);
  const [first, second] = g.uplinks;
  await g.c.repository.modify('port', second.portId, (port) => ({ ...port, portGroupIds: [] }));
  await until('they part', () => g.uplinks.every(({ host }) => host.agent.flowState.peerCount === 0));
  await request(g, udp(g.machine.ip, FIRST_WORLD, 1000, 2000));
  await g.c.quiet();
  t.is(connectionsAt(second).filter(({ original }) => original.srcPort === 1000).length, 0);
  await g.c.repository.modify('port', second.portId, (port) => ({ ...port, portGroupIds: [g.groupId] }));
  await settled(g);
  t.is(connectionsAt(second).filter(({ original }) => original.srcPort === 1000).length, 1);
  t.is(connectionsAt(first).filter(({ original }) => original.srcPort === 1000).length, 1);
});
