import test from 'ava';
import fc from 'fast-check';
import type { DatapathFeatures, Upcall } from '../../../src/datapath/datapath.js';
import { DatapathError } from '../../../src/datapath/errors.js';
import type { MemoryDatapath } from '../../../src/datapath/memory/datapath.js';
import type { MemoryInterface } from '../../../src/datapath/memory/interface.js';
import { MemoryNetwork } from '../../../src/datapath/memory/network.js';
import type { MemoryNode } from '../../../src/datapath/memory/node.js';
import type { Action, NatSpec } from '../../../src/flow/action.js';
import { extractKey } from '../../../src/flow/extract.js';
import { CtState, FlowKey, TunnelFlag, VLAN_PRESENT, Word } from '../../../src/flow/key.js';
import { FlowMask } from '../../../src/flow/mask.js';
import { readU32 } from '../../../src/packet/big-endian.js';
import { checksum, crc32c } from '../../../src/packet/checksum.js';
import { buildEthernet, EtherType } from '../../../src/packet/ethernet.js';
import { buildIcmpEcho } from '../../../src/packet/icmp.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../../src/packet/ipv4.js';
import { buildTcp, TcpFlag } from '../../../src/packet/tcp.js';
import { buildUdp } from '../../../src/packet/udp.js';
import { arbitraryFrame } from '../../packet/frames.js';

const IP_A = 0x0a00_0001;
const IP_B = 0x0a00_0002;

class World {
  time = 0;
  readonly network: MemoryNetwork;
  readonly node: MemoryNode;
  readonly datapath: MemoryDatapath;
  readonly upcalls: Upcall[] = [];
  lost = 0;
  private nextId = 1;

  constructor(features: Partial<DatapathFeatures> = {}) {
    this.network = new MemoryNetwork({ now: () => this.time, features });
    this.node = this.network.node(0xac10_0001);
    this.datapath = this.node.datapath('dp');
    this.datapath.start({
      upcalls: (batch) => {
        this.upcalls.push(...batch);
      },
      portsChanged: () => {},
      upcallsLost: (count) => {
        this.lost += count;
      },
    });
  }

  attach(name: string): MemoryInterface {
    const device = this.node.addInterface(name);
    this.node.switch('dp').addPort(name, 'netdev');
    return device;
  }

  put(
    frame: Uint8Array,
    inPort: number,
    actions: Action[],
    metadata: (key: FlowKey, mask: FlowMask) => void = () => {},
  ): void {
    const key = new FlowKey();
    const mask = new FlowMask();
    extractKey(frame, key);
    key.inPort = inPort;
    mask.seeInPort();
    mask.seeRecircId();
    mask.seeNwProto();
    metadata(key, mask);
    this.node.switch('dp').operate({ type: 'put', id: this.nextId++, key, mask, actions });
  }
}

function udp(src: number, dst: number, srcPort: number, dstPort: number): Uint8Array {
  return buildEthernet(
    { dst: 2, src: 1, type: EtherType.IPV4 },
    buildIpv4({ src, dst, protocol: IpProtocol.UDP }, buildUdp(srcPort, dstPort, new Uint8Array(5))),
  );
}

function tcp(src: number, dst: number, srcPort: number, dstPort: number, flags: number): Uint8Array {
  return buildEthernet(
    { dst: 2, src: 1, type: EtherType.IPV4 },
    buildIpv4({ src, dst, protocol: IpProtocol.TCP }, buildTcp({ srcPort, dstPort, flags })),
  );
}

function keyOf(frame: Uint8Array): FlowKey {
  const key = new FlowKey();
  extractKey(frame, key);
  return key;
}

/** A world in which each packet is tracked, committed if new, and crosses between a0 and b0; returns the states seen. */
function tracking(
  world: World,
  nat?: NatSpec,
): (from: 'a0' | 'b0', frame: Uint8Array) => { state: number; out: Uint8Array[] } {
  const a = world.attach('a0');
  const b = world.attach('b0');
  return (from, frame) => {
    const inPort = from === 'a0' ? 1 : 2;
    const actions: Action[] = [
      { type: 'ct', zone: 1, nat: nat === undefined ? undefined : { kind: 'restore' } },
      { type: 'userspace' },
    ];
    const metadata = new FlowKey();
    metadata.inPort = inPort;
    world.node.switch('dp').operate({ type: 'execute', key: metadata, packet: frame, actions });
    world.network.pump();
    const upcall = world.upcalls.pop()!;
    const state = upcall.key.ctState;
    a.clear();
    b.clear();
    if ((state & CtState.INVALID) === 0) {
      const commit: Action[] = [
        {
          type: 'ct',
          zone: 1,
          commit: (state & CtState.NEW) !== 0,
          nat: (state & CtState.NEW) !== 0 ? nat : undefined,
        },
        { type: 'output', port: 3 - inPort },
      ];
      world.node.switch('dp').operate({ type: 'execute', key: upcall.key, packet: upcall.packet, actions: commit });
      world.network.pump();
    }
    return { state: state & 0x3f, out: [...(from === 'a0' ? b : a).received()] };
  };
}

const NEW = CtState.TRACKED | CtState.NEW;
const EST = CtState.TRACKED | CtState.ESTABLISHED;
const REPLY = EST | CtState.REPLY;
const INVALID = CtState.TRACKED | CtState.INVALID;

test('a UDP connection ends when it has been silent', (t) => {
  const world = new World();
  const step = tracking(world);
  const there = udp(IP_A, IP_B, 1, 2);
  const back = udp(IP_B, IP_A, 2, 1);
  t.is(step('a0', there).state, NEW);
  world.time += 29_000;
  t.is(step('b0', back).state, REPLY);
  world.time += 119_000;
  t.is(step('a0', there).state, EST);
  t.is(world.node.conntrack.connections().length, 1);
  world.time += 120_001;
  t.is(world.node.conntrack.connections().length, 0);
  t.is(step('b0', back).state, NEW);
});

test('the life of a TCP connection', (t) => {
  const world = new World();
  const step = tracking(world);
  const { SYN, ACK, FIN, RST } = TcpFlag;
  const there = (flags: number) => step('a0', tcp(IP_A, IP_B, 1, 2, flags)).state;
  const back = (flags: number) => step('b0', tcp(IP_B, IP_A, 2, 1, flags)).state;
  t.is(there(SYN | FIN), INVALID);
  t.is(back(SYN | ACK), INVALID);
  t.is(there(SYN), NEW);
  t.is(back(SYN | ACK), REPLY);
  t.is(there(ACK), EST);
  t.is(back(SYN), INVALID);
  world.time += 3_600_000;
  t.is(back(ACK), REPLY);
  t.is(there(FIN | ACK), EST);
  t.is(back(ACK), REPLY);
  t.is(back(FIN | ACK), REPLY);
  t.is(there(ACK), EST);
  t.is(there(SYN), NEW, 'reopened');
  t.is(back(RST | ACK), REPLY, 'refused');
  t.is(world.node.conntrack.connections().length, 0);
  t.is(there(ACK), NEW, 'picked up in the middle');
});

test('wrong checksums are invalid', (t) => {
  const world = new World();
  const step = tracking(world);
  const frame = udp(IP_A, IP_B, 1, 2);
  frame[frame.length - 1] ^= 1;
  t.is(step('a0', frame).state, INVALID);
});

test('an ICMP echo is a connection, an echo reply starts none', (t) => {
  const world = new World();
  const step = tracking(world);
  const echo = (src: number, dst: number, type: 0 | 8, id: number) =>
    buildEthernet(
      { dst: 2, src: 1, type: EtherType.IPV4 },
      buildIpv4({ src, dst, protocol: 1 }, buildIcmpEcho(type, id, 1)),
    );
  t.is(step('b0', echo(IP_B, IP_A, 0, 5)).state, INVALID);
  t.is(step('a0', echo(IP_A, IP_B, 8, 5)).state, NEW);
  t.is(step('b0', echo(IP_B, IP_A, 0, 5)).state, REPLY);
  t.is(step('b0', echo(IP_B, IP_A, 0, 6)).state, INVALID);
});

test('source translation gives each connection a port of its own, and its replies find back', (t) => {
  const world = new World();
  const nat: NatSpec = { kind: 'src', ipMin: [0xc0a8_0001], ipMax: [0xc0a8_0001], portMin: 100, portMax: 103 };
  const step = tracking(world, nat);
  const ports = new Set<number>();
  for (let client = 1; client <= 4; client++) {
    const { out } = step('a0', udp(client, IP_B, 5000, 53));
    t.is(out.length, 1);
    const key = keyOf(out[0]);
    t.is(key.ipv4Src, 0xc0a8_0001);
    ports.add(key.tpSrc);
    const { out: back } = step('b0', udp(IP_B, 0xc0a8_0001, 53, key.tpSrc));
    t.like(keyOf(back[0]), { ipv4Dst: client, tpDst: 5000, ipv4Src: IP_B, tpSrc: 53 });
  }
  t.deepEqual([...ports].sort(), [100, 101, 102, 103]);
  t.throws(() => step('a0', udp(9, IP_B, 5000, 53)), { instanceOf: DatapathError }, 'no port is left');
  world.time += 200_000;
  t.is(step('a0', udp(9, IP_B, 5000, 53)).out.length, 1, 'ports come free');
});

test('a translated packet that was sent up is still known to its connection', (t) => {
  const world = new World();
  const nat: NatSpec = { kind: 'src', ipMin: [0xc0a8_0001], ipMax: [0xc0a8_0001], portMin: 100, portMax: 100 };
  tracking(world, nat)('a0', udp(IP_A, IP_B, 5000, 53));
  const again = (key: FlowKey, packet: Uint8Array): Upcall => {
    const actions: Action[] = [{ type: 'ct', zone: 1, nat: { kind: 'restore' } }, { type: 'userspace' }];
    world.node.switch('dp').operate({ type: 'execute', key, packet, actions });
    world.network.pump();
    return world.upcalls.pop()!;
  };
  const first = again(new FlowKey(), udp(IP_B, 0xc0a8_0001, 53, 100));
  t.like(first.key, { ipv4Dst: IP_A, tpDst: 5000 });
  const second = again(first.key, first.packet);
  t.is(second.key.ctState, first.key.ctState);
  t.deepEqual(second.packet, first.packet);
});

test('two destinations that become one keep their clients apart', (t) => {
  const world = new World();
  const nat: NatSpec = { kind: 'dst', ipMin: [0xc0a8_0005], ipMax: [0xc0a8_0005], portMin: 80, portMax: 80 };
  const step = tracking(world, nat);
  const first = keyOf(step('a0', udp(IP_A, 0x0b00_0001, 5000, 80)).out[0]);
  const second = keyOf(step('a0', udp(IP_A, 0x0b00_0002, 5000, 80)).out[0]);
  t.like(first, { ipv4Dst: 0xc0a8_0005, tpSrc: 5000 });
  t.is(second.ipv4Dst, 0xc0a8_0005);
  t.not(second.tpSrc, 5000);
  for (const [key, vip] of [
    [first, 0x0b00_0001],
    [second, 0x0b00_0002],
  ] as const) {
    const { out } = step('b0', udp(0xc0a8_0005, IP_A, 80, key.tpSrc));
    t.like(keyOf(out[0]), { ipv4Src: vip, ipv4Dst: IP_A, tpSrc: 80, tpDst: 5000 });
  }
});

test('echo identifiers are translated where they clash', (t) => {
  const world = new World();
  const nat: NatSpec = { kind: 'src', ipMin: [0xc0a8_0001], ipMax: [0xc0a8_0001] };
  const step = tracking(world, nat);
  const echo = (src: number) =>
    buildEthernet(
      { dst: 2, src: 1, type: EtherType.IPV4 },
      buildIpv4({ src, dst: IP_B, protocol: 1 }, buildIcmpEcho(8, 5, 1)),
    );
  const ids = [1, 2].map((client) => {
    const { out } = step('a0', echo(client));
    t.is(checksum(out[0], 34, out[0].length), 0);
    return readU32(out[0], 38) >>> 16;
  });
  t.is(ids[0], 5);
  t.not(ids[1], 5);
});

test('a flood of upcalls is bounded and told of', (t) => {
  const world = new World();
  const a = world.attach('a0');
  world.node.switch('dp').upcallQueue = 100;
  for (let i = 0; i < 150; i++) a.send(udp(IP_A, IP_B, i, 1));
  world.network.pump();
  t.is(world.upcalls.length, 100);
  t.is(world.lost, 50);
  t.deepEqual(world.node.switch('dp').statistics, { hits: 0, missed: 150, lost: 50 });
});

test('upcalls come in batches of at most 64', (t) => {
  const world = new World();
  const sizes: number[] = [];
  world.node.switch('dp').addHandler({
    upcalls: (batch) => {
      sizes.push(batch.length);
    },
    portsChanged: () => {},
    upcallsLost: () => {},
  });
  const a = world.attach('a0');
  for (let i = 0; i < 150; i++) a.send(udp(IP_A, IP_B, i, 1));
  world.network.pump();
  t.deepEqual(sizes, [64, 64, 22]);
});

test('recirculation in a circle comes to an end', (t) => {
  const world = new World();
  const a = world.attach('a0');
  const b = world.attach('b0');
  const frame = udp(IP_A, IP_B, 1, 2);
  const actions: Action[] = [
    { type: 'output', port: 2 },
    { type: 'recirc', id: 1 },
    { type: 'recirc', id: 1 },
  ];
  world.put(frame, 1, actions);
  world.put(frame, 1, actions, (key) => {
    key.recircId = 1;
  });
  a.send(frame);
  world.network.pump();
  t.true(b.received().length > 4);
  t.true(b.received().length < 100, String(b.received().length));
});

test('a chain of recirculations as long as the kernel allows arrives', (t) => {
  const world = new World();
  const a = world.attach('a0');
  const b = world.attach('b0');
  const frame = udp(IP_A, IP_B, 1, 2);
  for (let i = 0; i < 6; i++) {
    world.put(frame, 1, [{ type: 'recirc', id: i + 1 }], (key) => {
      key.recircId = i;
    });
  }
  world.put(frame, 1, [{ type: 'output', port: 2 }], (key) => {
    key.recircId = 6;
  });
  a.send(frame);
  world.network.pump();
  t.is(b.received().length, 1);
});

test('a datapath without zones tracks in zone 0 only', (t) => {
  const world = new World({ zones: false });
  const frame = udp(IP_A, IP_B, 1, 2);
  const track = (zone: number): void => {
    const actions: Action[] = [{ type: 'ct', zone, commit: true, nat: { kind: 'restore' } }];
    world.node.switch('dp').operate({ type: 'execute', key: new FlowKey(), packet: frame, actions });
  };
  t.false(world.datapath.features.zones);
  t.throws(() => track(1), { instanceOf: DatapathError, message: /zones/ });
  track(0);
  t.is(world.node.conntrack.connections().length, 1);
  const zoned = () =>
    world.put(frame, 1, [], (key, mask) => {
      key.ctZone = 1;
      mask.ctZone = 0xffff;
    });
  t.throws(zoned, { instanceOf: DatapathError, message: /ctZone/ });
});

test('a datapath without NAT or connection tracking refuses the actions for it', async (t) => {
  const frame = udp(IP_A, IP_B, 1, 2);
  const put = (features: Partial<DatapathFeatures>, action: Action) => () =>
    new World(features).put(frame, 1, [action]);
  t.notThrows(put({ nat: false }, { type: 'ct', zone: 1 }));
  t.throws(put({ nat: false }, { type: 'ct', zone: 1, nat: { kind: 'restore' } }), { message: /NAT/ });
  t.throws(put({ conntrack: false }, { type: 'ct', zone: 0 }), { message: /not tracked/ });
  const { datapath } = new World({ meters: 0 });
  await t.throwsAsync(datapath.putMeter(1, { unit: 'packets', rate: 1, burst: 1 }), { code: 'MN_UNSUPPORTED' });
});

test('a meter drops what exceeds its rate', (t) => {
  const world = new World();
  const a = world.attach('a0');
  const b = world.attach('b0');
  world.node.switch('dp').putMeter(1, { unit: 'packets', rate: 10, burst: 5 });
  const frame = udp(IP_A, IP_B, 1, 2);
  world.put(frame, 1, [
    { type: 'meter', id: 1 },
    { type: 'output', port: 2 },
  ]);
  const burst = (count: number) => {
    b.clear();
    for (let i = 0; i < count; i++) a.send(frame);
    world.network.pump();
    return b.received().length;
  };
  t.is(burst(8), 5);
  world.time += 300;
  t.is(burst(8), 3);
  world.node.switch('dp').deleteMeter(1);
  t.is(burst(8), 8);
});

test('flows tell how long they have been idle', async (t) => {
  const world = new World();
  const a = world.attach('a0');
  const frame = udp(IP_A, IP_B, 1, 2);
  world.put(frame, 1, []);
  a.send(frame);
  world.network.pump();
  world.time += 1234;
  t.is((await world.datapath.flow(1))?.idleMs, 1234);
});

test('a packet longer than the MTU is lost', (t) => {
  const world = new World();
  const a = world.attach('a0');
  const b = world.attach('b0');
  world.put(udp(IP_A, IP_B, 1, 2), 1, [{ type: 'output', port: 2 }]);
  const sized = (length: number) =>
    buildEthernet(
      { dst: 2, src: 1, type: EtherType.IPV4 },
      buildIpv4({ src: 1, dst: 2, protocol: 17 }, buildUdp(1, 2, new Uint8Array(length - 28))),
    );
  a.send(sized(1500));
  a.send(sized(1501));
  world.network.pump();
  t.deepEqual(
    b.received().map((frame) => frame.length),
    [1514],
  );
});

test('the underlay loses what it is told to', (t) => {
  const world = new World();
  const a = world.attach('a0');
  world.node.addInterface('vxlan0', 'vxlan');
  world.node.switch('dp').addPort('vxlan0', 'netdev');
  const far = world.network.node(0xac10_0002);
  far.addInterface('vxlan0', 'vxlan');
  far.switch('dp').addPort('vxlan0', 'netdev');
  const frame = udp(IP_A, IP_B, 1, 2);
  const tunnel = { id: 7, src: 0, dst: 0xac10_0002, tos: 0, ttl: 64, flags: TunnelFlag.KEY };
  world.put(frame, 1, [
    { type: 'set-tunnel', tunnel },
    { type: 'output', port: 2 },
  ]);
  const missed = () => {
    a.send(frame);
    world.network.pump();
    return far.switch('dp').statistics.missed;
  };
  t.is(missed(), 1);
  world.network.setUnderlay((from, to) => !(from === 0xac10_0001 && to === 0xac10_0002));
  t.is(missed(), 1);
  world.network.setUnderlay(() => true);
  t.is(missed(), 2);
});

test('a removed interface is no port any more, and its number is used again', async (t) => {
  const world = new World();
  world.attach('a0');
  world.attach('b0');
  world.node.removeInterface('a0');
  t.deepEqual(
    (await world.datapath.ports()).map((port) => [port.number, port.name]),
    [
      [0, 'dp'],
      [2, 'b0'],
    ],
  );
  world.attach('c0');
  t.is((await world.datapath.ports())[1].name, 'c0');
});

test('a network that is automatic runs by itself', async (t) => {
  const network = new MemoryNetwork({ now: () => 0, automatic: true });
  const node = network.node(1);
  const datapath = node.datapath('dp');
  const a = node.addInterface('a0');
  await datapath.addPort('a0', 'netdev');
  const upcall = new Promise<Upcall>((resolve) => {
    datapath.start({ upcalls: ([first]) => resolve(first), portsChanged: () => {}, upcallsLost: () => {} });
  });
  a.send(udp(1, 2, 3, 4));
  t.is((await upcall).key.tpDst, 4);
});

test('SCTP ports are set with its checksum', (t) => {
  const world = new World();
  const a = world.attach('a0');
  const b = world.attach('b0');
  const sctp = new Uint8Array(20).map((_, i) => i);
  sctp.fill(0, 8, 12);
  const crc = crc32c(sctp, 0, sctp.length);
  new DataView(sctp.buffer).setUint32(8, crc, true);
  const frame = buildEthernet(
    { dst: 2, src: 1, type: EtherType.IPV4 },
    buildIpv4({ src: 1, dst: 2, protocol: 132 }, sctp),
  );
  const key = new FlowKey();
  const mask = new FlowKey();
  key.ethType = EtherType.IPV4;
  key.nwProto = 132;
  key.tpDst = 999;
  mask.tpDst = 0xffff;
  world.put(frame, 1, [
    { type: 'set', key, mask },
    { type: 'output', port: 2 },
  ]);
  a.send(frame);
  world.network.pump();
  const out = b.received()[0].slice(34);
  const stored = new DataView(out.buffer).getUint32(8, true);
  out.fill(0, 8, 12);
  t.is(stored, crc32c(out, 0, out.length));
  t.is(keyOf(b.received()[0]).tpDst, 999);
});

function arbitraryAction(): fc.Arbitrary<Action> {
  const setAll = (ethType: number, protocol: number): Action => {
    const key = new FlowKey();
    const mask = new FlowKey();
    key.words.fill(0x0102_0304);
    key.ethType = ethType;
    key.nwProto = protocol;
    for (const word of [Word.NW_SRC, Word.NW_DST]) {
      mask.words.fill(0xffff_ffff, word, word + (ethType === EtherType.IPV6 ? 4 : 1));
    }
    mask.nwTtl = mask.nwTos = 0xff;
    if (protocol !== 0) mask.tpSrc = mask.tpDst = 0xffff;
    mask.ethSrc = mask.ethDst = 0xffff_ffff_ffff;
    return { type: 'set', key, mask };
  };
  const nat: NatSpec = { kind: 'src', ipMin: [1], ipMax: [9], portMin: 5, portMax: 50 };
  const plain: Action[] = [
    { type: 'output', port: 2 },
    { type: 'userspace', userdata: new Uint8Array(3) },
    { type: 'push-vlan', tpid: 0x8100, tci: VLAN_PRESENT | 5 },
    { type: 'pop-vlan' },
    { type: 'ct', zone: 1 },
    { type: 'ct', zone: 1, commit: true },
    { type: 'ct', zone: 2, commit: true, nat },
    { type: 'ct', zone: 2, nat: { kind: 'restore' } },
    { type: 'ct', zone: 2, forceCommit: true, mark: 3 },
    { type: 'ct-clear' },
    { type: 'recirc', id: 1 },
    { type: 'hash', basis: 7 },
    { type: 'trunc', maxLength: 20 },
    { type: 'meter', id: 3 },
    setAll(EtherType.IPV4, 0),
    setAll(EtherType.IPV4, 6),
    setAll(EtherType.IPV4, 17),
    setAll(EtherType.IPV4, 132),
    setAll(EtherType.IPV6, 0),
    setAll(EtherType.IPV6, 17),
  ];
  const leaf = fc.constantFrom(...plain);
  return fc.oneof(
    leaf,
    fc.array(leaf, { maxLength: 4 }).map((actions): Action => ({ type: 'clone', actions })),
  );
}

test('any actions on any bytes: no crash, no change of the caller’s bytes, the same outcome again', (t) => {
  const step = fc.tuple(arbitraryFrame(), fc.array(arbitraryAction(), { maxLength: 8 }));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 6 }), (steps) => {
      const outcome = () => {
        const world = new World();
        world.attach('a0');
        const b = world.attach('b0');
        const errors: string[] = [];
        const metadata = new FlowKey();
        metadata.inPort = 1;
        world.datapath.submit(
          steps.map(([packet, actions]) => ({ type: 'execute', key: metadata, packet, actions })),
          (results) => {
            for (const error of results) errors.push(error === undefined ? '' : `${error.name} ${error.message}`);
          },
        );
        world.network.pump();
        return {
          errors,
          frames: b.received().map((frame) => Buffer.from(frame).toString('hex')),
          upcalls: world.upcalls.map((upcall) => upcall.key.words.join()),
        };
      };
      const before = steps.map(([frame]) => frame.slice());
      const first = outcome();
      for (const error of first.errors) t.regex(error, /^($|DatapathError|UnsupportedError)/);
      t.deepEqual(
        steps.map(([frame]) => frame),
        before,
      );
      t.deepEqual(outcome(), first);
    }),
    { numRuns: 500 },
  );
});

test('checksums that were right stay right through any translation', (t) => {
  const port = fc.integer({ min: 1, max: 65535 });
  const address = fc.integer({ min: 1, max: 0xdfff_ffff });
  fc.assert(
    fc.property(
      address,
      address,
      port,
      port,
      address,
      port,
      fc.boolean(),
      (src, dst, srcPort, dstPort, to, toPort, source) => {
        const world = new World();
        const nat: NatSpec = {
          kind: source ? 'src' : 'dst',
          ipMin: [to],
          ipMax: [to],
          portMin: toPort,
          portMax: toPort,
        };
        const step = tracking(world, nat);
        const { out } = step('a0', udp(src, dst, srcPort, dstPort));
        t.is(out.length, 1);
        t.is(checksum(out[0], 14, 34), 0);
        const key = keyOf(out[0]);
        t.is(source ? key.ipv4Src : key.ipv4Dst, to);
        t.is(source ? key.tpSrc : key.tpDst, toPort);
        // An invalid checksum would make it untrackable.
        const back = udp(key.ipv4Dst, key.ipv4Src, key.tpDst, key.tpSrc);
        const reply = step('b0', back);
        t.like(keyOf(reply.out[0]), { ipv4Src: dst, ipv4Dst: src, tpSrc: dstPort, tpDst: srcPort });
        t.is(world.node.conntrack.track(out[0], locateUdp(), 99) === undefined, false);
      },
    ),
    { numRuns: 200 },
  );
});

function locateUdp() {
  return { version: 4, ip: 14, protocol: 17, transport: 34, end: 14 + 20 + 8 + 5, fragment: false };
}
