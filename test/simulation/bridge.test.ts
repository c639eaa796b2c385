import test from 'ava';
import type { Action } from '../../src/flow/action.js';
import { Word } from '../../src/flow/key.js';
import { IPV6_UNSPECIFIED, MAC_BROADCAST, parseIpv6 } from '../../src/packet/address.js';
import { ArpOp, buildArp, buildGratuitousArp } from '../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { buildNeighborAdvertisement } from '../../src/packet/nd.js';
import type { BridgePortFact, TunnelPath } from '../../src/simulation/fact.js';
import { fact, keyOf, TestBridge, tcpFrame, tunnelKeyOf, World } from './world.js';

const A = 0x0200_0000_0001;
const B = 0x0200_0000_0002;
const C = 0x0200_0000_0003;
const PATH: TunnelPath = { output: 9, src: 0xc0a8_0001, dst: 0xc0a8_0002 };

function setUp() {
  const world = new World();
  const bridge = new TestBridge('b');
  const a = world.localPort(bridge, 1, A);
  const b = world.localPort(bridge, 2, B);
  const tunnel = fact<TunnelPath>('tunnel', PATH);
  const c = world.remotePort(bridge, C, tunnel, 77);
  bridge.remoteHosts.value = [{ tunnel, floodKey: 500 }];
  return { world, bridge, a, b, c, tunnel };
}

function output(port: number): Action {
  return { type: 'output', port };
}

function tunnelTo(path: TunnelPath, id: number): Action[] {
  return [
    { type: 'set-tunnel', tunnel: { id, src: path.src, dst: path.dst, tos: 0, ttl: 64, flags: 0 } },
    output(path.output),
  ];
}

test('a frame to a port of this host goes there, whatever is in it', (t) => {
  const { world, bridge, a, b } = setUp();
  const decision = world.done(keyOf(tcpFrame({ srcMac: A, dstMac: B }), 1));
  t.deepEqual(decision.actions, [output(2)]);
  t.true(decision.install);
  t.is(decision.drop, undefined);
  t.deepEqual(decision.effects, []);
  for (const tag of [world.ingress(1), a, bridge.cell, bridge.mac(B), b]) t.true(decision.tags.includes(tag), tag.tag);
  const { words } = decision.mask;
  t.deepEqual([words[Word.ETH_TYPE], words[Word.NW_SRC], words[Word.NW_PROTO], words[Word.TP_DST]], [0, 0, 0, 0]);
});

test('a frame to a port of another host goes into the tunnel under the key of that port', (t) => {
  const { world, tunnel } = setUp();
  const decision = world.done(keyOf(tcpFrame({ srcMac: A, dstMac: C }), 1));
  t.deepEqual(decision.actions, tunnelTo(PATH, 77));
  t.true(decision.tags.includes(tunnel));
});

test('a frame to an address that nobody has is flooded: once to each local port but its own, once to each host', (t) => {
  const { world } = setUp();
  for (const dstMac of [0x0200_0000_0099, MAC_BROADCAST, 0x0100_5e00_0001]) {
    const decision = world.done(keyOf(tcpFrame({ srcMac: A, dstMac }), 1));
    t.deepEqual(decision.actions, [output(2), ...tunnelTo(PATH, 500)]);
    t.is(decision.cut, 0);
  }
});

test('hosts that cannot be reached are left out of a flood', (t) => {
  const { world, tunnel } = setUp();
  tunnel.value = null;
  const decision = world.done(keyOf(tcpFrame({ srcMac: A, dstMac: MAC_BROADCAST }), 1));
  t.deepEqual(decision.actions, [output(2)]);
  t.true(decision.tags.includes(tunnel));
});

test('copies beyond the longest action list are cut and counted, those to local ports as well', (t) => {
  const world = new World();
  const bridge = new TestBridge('b');
  for (let port = 1; port <= 8; port++) world.localPort(bridge, port);
  const hosts = [1, 2, 3].map((i) => ({ tunnel: fact<TunnelPath>(`t${i}`, { ...PATH, dst: i }), floodKey: i }));
  bridge.remoteHosts.value = hosts;
  const key = keyOf(tcpFrame({ srcMac: A, dstMac: MAC_BROADCAST }), 1);
  // Seven local copies take 70 bytes, each host 20.
  t.like(world.done(key, 130), { cut: 0, actions: { length: 13 } });
  t.like(world.done(key, 129), { cut: 1, actions: { length: 11 } });
  t.like(world.done(key, 60), { cut: 4, actions: { length: 6 } });
});

test('drops, each with its reason', (t) => {
  const reason = (change: (setting: ReturnType<typeof setUp>) => void, srcMac = A, dstMac = B, port = 1) => {
    const setting = setUp();
    change(setting);
    const decision = setting.world.done(keyOf(tcpFrame({ srcMac, dstMac }), port));
    t.deepEqual(decision.actions, []);
    t.true(decision.install);
    return decision.drop;
  };
  const nothing = () => {};
  t.is(reason(nothing, A, B, 33), 'no-port');
  t.is(
    reason(({ a }) => Object.assign(a, { value: null })),
    'no-port',
  );
  t.is(
    reason(({ a }) => Object.assign(a, { value: { ...a.value!, adminStateUp: false } })),
    'port-down',
  );
  t.is(
    reason(({ b }) => Object.assign(b, { value: { ...b.value!, adminStateUp: false } })),
    'port-down',
  );
  t.is(
    reason(({ b }) => Object.assign(b, { value: null })),
    'no-port',
  );
  t.is(
    reason(({ b }) => Object.assign(b, { value: { ...b.value!, location: null } })),
    'unbound-port',
  );
  t.is(
    reason(({ b }) =>
      Object.assign(b, { value: { ...b.value!, location: { type: 'local', output: fact('o', null) } } }),
    ),
    'unbound-port',
  );
  t.is(
    reason(({ bridge }) => Object.assign(bridge, { adminStateUp: false })),
    'bridge-down',
  );
  t.is(
    reason(({ bridge }) => Object.assign(bridge.cell, { value: null })),
    'no-bridge',
  );
  t.is(
    reason(({ tunnel }) => Object.assign(tunnel, { value: null }), A, C),
    'no-tunnel',
  );
  t.is(reason(nothing, 0x0300_0000_0001, B), 'multicast-source');
  t.is(reason(nothing, A, 0x0180_c200_0000), 'link-local');
  t.is(reason(nothing, A, 0x0180_c200_000f), 'link-local');
  t.is(reason(nothing, 0x0200_0000_0055, A), 'same-port');
});

test('addresses next to the link-local ones are flooded', (t) => {
  const { world } = setUp();
  for (const dstMac of [0x0180_c1ff_ffff, 0x0180_c200_0010]) {
    t.is(world.done(keyOf(tcpFrame({ srcMac: A, dstMac }), 1)).actions.length, 3);
  }
});

test('source addresses are learned behind a port whose address is not known, and only there', (t) => {
  const { world, bridge, a } = setUp();
  const other = 0x0200_0000_0077;
  for (const srcMac of [A, other]) t.deepEqual(world.done(keyOf(tcpFrame({ srcMac, dstMac: B }), 1)).effects, []);
  a.value = { ...(a.value as BridgePortFact), mac: undefined };
  t.deepEqual(world.done(keyOf(tcpFrame({ srcMac: other, dstMac: B }), 1)).effects, [
    { type: 'learn', bridge, mac: other, vlan: 0, port: a.value as BridgePortFact },
  ]);
});

test('an announcement of an address is flooded, and the bridge hears it', (t) => {
  const { world, bridge } = setUp();
  const ip = 0x0a01_0001;
  const ip6 = parseIpv6('fd00::1')!;
  const advertisement = buildNeighborAdvertisement({ target: ip6, targetMac: A, dst: IPV6_UNSPECIFIED, dstMac: 0 });
  const reply = buildEthernet(
    { dst: MAC_BROADCAST, src: A, type: EtherType.ARP },
    buildArp({ op: ArpOp.REPLY, senderMac: A, senderIp: ip, targetMac: A, targetIp: ip }),
  );
  for (const [frame, address] of [
    [buildGratuitousArp(A, ip), [ip]],
    [reply, [ip]],
    [advertisement, ip6],
  ] as const) {
    const decision = world.done(keyOf(frame, 1));
    t.is(decision.actions.length, 3);
    t.deepEqual(decision.effects, [{ type: 'announce', bridge, address: Uint32Array.from(address), mac: A }]);
    t.false(decision.install, 'it may come again');
  }
  bridge.ipv4(ip).value = { mac: B, isRouter: true };
  const decision = world.done(keyOf(buildGratuitousArp(A, ip), 1));
  t.deepEqual(decision.effects, [], 'a router has that');
  t.is(decision.actions.length, 3);
  for (const mac of [0, MAC_BROADCAST]) t.deepEqual(world.done(keyOf(buildGratuitousArp(mac, 1), 1)).effects, []);
});

test('what is not in hand is waited for, all of it that can be told at once', (t) => {
  const { world, bridge, a } = setUp();
  bridge.macs.rest = undefined;
  const key = keyOf(tcpFrame({ srcMac: A, dstMac: 0x0200_0000_0099 }), 1);
  t.deepEqual(world.run(key), { type: 'wait', missing: [bridge.mac(0x0200_0000_0099)] });
  bridge.mac(0x0200_0000_0099).value = null;
  bridge.localPorts.value = undefined;
  bridge.remoteHosts.value = undefined;
  t.deepEqual(world.run(key), { type: 'wait', missing: [bridge.localPorts, bridge.remoteHosts] });
  a.value = undefined;
  t.deepEqual(world.run(key), { type: 'wait', missing: [a] });
  world.ingress(1).value = undefined;
  t.deepEqual(world.run(key), { type: 'wait', missing: [world.ingress(1)] });
});

test('out of a tunnel, the key alone says where to', (t) => {
  const world = new World();
  world.tunnelDevice(9);
  world.targets.at(77).value = { outputs: [2], ports: [] };
  world.targets.at(500).value = { outputs: [1, 2, 3], ports: [] };
  const frame = tcpFrame({ srcMac: C, dstMac: A });
  const one = world.done(tunnelKeyOf(frame, 9, 77, PATH.src));
  t.deepEqual(one.actions, [output(2)]);
  t.deepEqual(one.effects, []);
  t.is(one.mask.words[Word.TUN_ID], 0xffff_ffff);
  t.is(one.mask.words[Word.TUN_DST], 0xffff_ffff);
  t.is(one.mask.words[Word.ETH_SRC + 1], 0);
  t.deepEqual(world.done(tunnelKeyOf(frame, 9, 500, PATH.src)).actions, [output(1), output(2), output(3)]);
  t.like(world.done(tunnelKeyOf(frame, 9, 78, PATH.src)), { drop: 'unknown-tunnel-key', actions: { length: 0 } });
  t.like(world.done(tunnelKeyOf(frame, 9, 500, PATH.src), 20), { cut: 1, actions: { length: 2 } });
  world.targets.rest = undefined;
  t.like(world.run(tunnelKeyOf(frame, 9, 79, PATH.src)), { type: 'wait', missing: { length: 1 } });
});
