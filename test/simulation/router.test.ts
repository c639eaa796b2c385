import test from 'ava';
import fc from 'fast-check';
import { type Action, actionsEqual } from '../../src/flow/action.js';
import { extractKey } from '../../src/flow/extract.js';
import { FlowKey, Word } from '../../src/flow/key.js';
import { IPV6_UNSPECIFIED, parseIpv6 } from '../../src/packet/address.js';
import { buildArpReply, buildArpRequest, buildGratuitousArp } from '../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmpEcho, IcmpType } from '../../src/packet/icmp.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildNeighborAdvertisement, buildNeighborSolicitation } from '../../src/packet/nd.js';
import { buildUdp } from '../../src/packet/udp.js';
import { pushTag } from '../../src/packet/vlan.js';
import type { Decision, DropReason, Effect } from '../../src/simulation/decision.js';
import type { PortFact, RouterPortFact } from '../../src/simulation/fact.js';
import { buildReply } from '../../src/simulation/reply.js';
import { simulateSent } from '../../src/simulation/simulate.js';
import { joinToBridge, TestRouter } from './routers.js';
import { fact, keyOf, limits, TestBridge, type TestFact, tcpFrame, World } from './world.js';

type Done = Extract<Decision, { type: 'done' }>;

const CLIENT = 0x0200_0000_0001;
const SERVER = 0x0200_0000_0002;
const NEAR = 0x0200_0000_0011;
const FAR = 0x0200_0000_0012;
const CLIENT_IP = 0x0a01_0002;
const SERVER_IP = 0x0a02_0002;
const FAR_NETWORK = '10.2.0.0/24';

/** Client at port 1 of one bridge, server at port 2 of another, a router between them. */
function network() {
  const world = new World();
  const near = new TestBridge('near');
  const far = new TestBridge('far');
  const router = new TestRouter('router');
  world.localPort(near, 1, CLIENT);
  world.localPort(far, 2, SERVER);
  far.ipv4(SERVER_IP).value = { mac: SERVER };
  const nearLink = joinToBridge(router, near, NEAR, 0x0a01_0001);
  const farLink = joinToBridge(router, far, FAR, 0x0a02_0001);
  router.add('far', FAR_NETWORK, { type: 'normal', port: farLink.atRouter });
  return { world, near, far, router, nearLink, farLink };
}

function frame(ttl = 64, dst = SERVER_IP): Uint8Array {
  const datagram = buildIpv4(
    { src: CLIENT_IP, dst, protocol: IpProtocol.UDP, ttl },
    buildUdp(1000, 2000, new Uint8Array(8)),
  );
  return buildEthernet({ src: CLIENT, dst: NEAR, type: EtherType.IPV4 }, datagram);
}

function set(actions: readonly Action[]): Extract<Action, { type: 'set' }> {
  const found = actions.find((action) => action.type === 'set');
  if (found?.type !== 'set') throw new Error('no header is set');
  return found;
}

function effect<T extends Effect['type']>(decision: Done, type: T): Extract<Effect, { type: T }> {
  const found = decision.effects.find((one): one is Extract<Effect, { type: T }> => one.type === type);
  if (found === undefined) throw new Error(`no effect ${type}`);
  return found;
}

/** What the router says to the sender, as the sender gets it. */
function replyTo(decision: Done, bytes: Uint8Array): { key: FlowKey; frame: Uint8Array; actions: readonly Action[] } {
  const [effect] = decision.effects.filter(({ type }) => type === 'reply');
  if (effect?.type !== 'reply') throw new Error('nothing is said');
  const frame = buildReply(effect, bytes);
  if (frame === undefined) throw new Error('nothing may be said');
  const key = new FlowKey();
  extractKey(frame, key);
  const sent = simulateSent(key, effect.port, limits());
  if (sent.type !== 'done') throw new Error('it waits');
  return { key, frame, actions: sent.actions };
}

test('a packet is routed from one bridge to the other: its MAC addresses and its TTL change', (t) => {
  const { world } = network();
  const { actions, install } = world.done(keyOf(frame(), 1));
  t.deepEqual(
    actions.map(({ type }) => type),
    ['set', 'output'],
  );
  const { key, mask } = set(actions);
  t.is(key.ethSrc, FAR);
  t.is(key.ethDst, SERVER);
  t.is(key.nwTtl, 63);
  t.is(mask.nwTtl, 0xff);
  t.is(mask.ipv4Dst, 0);
  t.deepEqual(actions[1], { type: 'output', port: 2 });
  t.true(install);
});

test('what a router writes, and the bridge behind it reads, is not matched', (t) => {
  const { world } = network();
  const { mask } = world.done(keyOf(frame(), 1));
  t.is(mask.ethDst, 0xffff_ffff_ffff, 'the destination leads to the router');
  t.is(mask.nwTtl, 0xff, 'what is set comes of what was there');
  t.is(mask.tpSrc, 0);
  t.is(mask.tpDst, 0);
  const other = keyOf(tcpFrame({ srcMac: CLIENT, dstMac: NEAR, src: CLIENT_IP, dst: SERVER_IP }), 1);
  t.true(other.equalsMasked(keyOf(frame(), 1), mask), 'another protocol takes the same flow');
});

test('the headers are set although this packet has them already, as others of the flow may not', (t) => {
  const { world, near, far } = network();
  near.mac(FAR).value = near.mac(NEAR).value;
  far.ipv4(SERVER_IP).value = { mac: SERVER };
  const bytes = frame();
  const key = keyOf(bytes, 1);
  key.ethSrc = FAR;
  // The source was learned from, so it is matched: no need to set it to what it is.
  t.is(set(world.done(key).actions).mask.ethSrc, 0);
  t.is(set(world.done(key).actions).mask.ethDst, 0xffff_ffff_ffff);
});

test('the next hop is the gateway of the route', (t) => {
  const { world, far, farLink, router } = network();
  router.add('far', FAR_NETWORK, {
    type: 'normal',
    port: farLink.atRouter,
    gateway: Uint32Array.of(0x0a02_00fe),
  });
  far.ipv4(0x0a02_00fe).value = { mac: SERVER };
  const decision = world.done(keyOf(frame(), 1));
  t.is(set(decision.actions).key.ethDst, SERVER);
  t.is(decision.mask.ipv4Dst >>> 0, 0xffff_ff00, 'all destinations of the route share a flow');
});

test('a neighbour that the bridge does not know is asked for, and is unreachable when nobody answers', (t) => {
  const { world, far, farLink } = network();
  far.ipv4(SERVER_IP).value = null;
  const waiting = world.run(keyOf(frame(), 1));
  t.is(waiting.type, 'wait');
  const entry = farLink.neighbors.get(String(SERVER_IP))!;
  if (waiting.type === 'wait') t.deepEqual(waiting.missing, [entry]);
  entry.value = { mac: SERVER };
  t.is(set(world.done(keyOf(frame(), 1)).actions).key.ethDst, SERVER);
  entry.value = null;
  const bytes = frame();
  const decision = world.done(keyOf(bytes, 1));
  t.is(decision.drop, 'no-neighbor');
  const { key } = replyTo(decision, bytes);
  t.is(key.tpSrc, IcmpType.UNREACHABLE);
  t.is(key.tpDst, 1, 'host unreachable');
});

for (const [name, change, reason, type, code] of [
  ['a packet without a route', (n) => n.router.table.remove({ id: 'far' }), 'no-route', 3, 0],
  ['a packet of a reject route', (n) => n.router.add('far', FAR_NETWORK, { type: 'reject' }), 'rejected', 3, 13],
  ['a packet to a router that is down', (n) => (n.router.adminStateUp = false), 'router-down', 3, 13],
] as [string, (n: ReturnType<typeof network>) => void, DropReason, number, number][]) {
  test(`${name} is dropped, and its sender is told`, (t) => {
    const n = network();
    change(n);
    const bytes = frame();
    const decision = n.world.done(keyOf(bytes, 1));
    t.is(decision.drop, reason);
    t.deepEqual(decision.actions, []);
    t.false(decision.install, 'each is to be told');
    const { key, actions } = replyTo(decision, bytes);
    t.deepEqual([key.ethSrc, key.ethDst, key.ipv4Src, key.ipv4Dst], [NEAR, CLIENT, 0x0a01_0001, CLIENT_IP]);
    t.deepEqual([key.tpSrc, key.tpDst], [type, code]);
    t.deepEqual(actions, [{ type: 'output', port: 1 }]);
  });
}

test('a packet whose TTL ends at the router is dropped, and its sender is told', (t) => {
  const { world } = network();
  for (const ttl of [0, 1]) {
    const bytes = frame(ttl);
    const decision = world.done(keyOf(bytes, 1));
    t.is(decision.drop, 'ttl-exceeded');
    t.is(replyTo(decision, bytes).key.tpSrc, IcmpType.TIME_EXCEEDED);
  }
  t.is(set(world.done(keyOf(frame(2), 1)).actions).key.nwTtl, 1);
});

test('a blackhole swallows packets without a word, in a flow', (t) => {
  const { world, router } = network();
  router.add('far', FAR_NETWORK, { type: 'blackhole' });
  const decision = world.done(keyOf(frame(), 1));
  t.is(decision.drop, 'blackhole');
  t.deepEqual(decision.actions, []);
  t.true(decision.install);
  t.deepEqual(decision.effects, []);
});

test('an echo request to the router is answered, whatever its TTL; other packets to it are dropped', (t) => {
  const { world, router } = network();
  router.add('own', '10.1.0.1/32', { type: 'local' });
  const echo = buildIcmpEcho(IcmpType.ECHO_REQUEST, 7, 9, Uint8Array.of(1, 2, 3));
  const ip = buildIpv4({ src: CLIENT_IP, dst: 0x0a01_0001, protocol: IpProtocol.ICMP, ttl: 1 }, echo);
  const bytes = buildEthernet({ src: CLIENT, dst: NEAR, type: EtherType.IPV4 }, ip);
  const decision = world.done(keyOf(bytes, 1));
  const { key, frame: answer, actions } = replyTo(decision, bytes);
  t.is(decision.drop, undefined);
  t.deepEqual([key.tpSrc, key.ipv4Src, key.ipv4Dst, key.ethDst], [0, 0x0a01_0001, CLIENT_IP, CLIENT]);
  t.deepEqual([...answer.slice(-3)], [1, 2, 3]);
  t.deepEqual(actions, [{ type: 'output', port: 1 }]);
  t.is(world.done(keyOf(frame(64, 0x0a01_0001), 1)).drop, 'for-router');
});

test('a router answers ARP requests for its address from its own network only', (t) => {
  const { world, near, router } = network();
  near.ipv4(0x0a01_0001).value = null;
  const port = (near.mac(NEAR).value as { port: TestFact<PortFact> }).port.value!.peer as TestFact<RouterPortFact>;
  world.ingress(9).value = { type: 'port', port };
  const ask = (sender: number, target: number) => keyOf(buildArpRequest(CLIENT, sender, target), 9);
  const answered = (sender: number) => {
    const answer = keyOf(effect(world.done(ask(sender, 0x0a01_0001)), 'send').frame, 0);
    return [answer.ethSrc, answer.ethDst, answer.ipv4Src, answer.ipv4Dst];
  };
  t.deepEqual(answered(CLIENT_IP), [NEAR, CLIENT, 0x0a01_0001, CLIENT_IP]);
  t.deepEqual(answered(0), [NEAR, CLIENT, 0x0a01_0001, 0], 'who wants to know whether the address is in use');
  t.deepEqual(world.done(ask(SERVER_IP, 0x0a01_0001)).effects, [], 'not from that network');
  t.deepEqual(world.done(ask(CLIENT_IP, 0x0a01_0005)).effects, [], 'not its address');
  t.is(router.adminStateUp, true);
});

test('a router hears its neighbours: who asks it or answers it, and who tells everybody', (t) => {
  const { world, near } = network();
  const port = (near.mac(NEAR).value as { port: TestFact<PortFact> }).port.value!.peer!;
  world.ingress(9).value = { type: 'port', port };
  const heard = (frame: Uint8Array) =>
    world
      .done(keyOf(frame, 9))
      .effects.flatMap((one) =>
        one.type === 'neighbor' ? [{ address: [...one.address], mac: one.mac, isForRouter: one.isForRouter }] : [],
      );
  const own = 0x0a01_0001;
  const spoken = { address: [CLIENT_IP], mac: CLIENT, isForRouter: true };
  t.deepEqual(heard(buildArpRequest(CLIENT, CLIENT_IP, own)), [spoken]);
  t.deepEqual(heard(buildArpReply(CLIENT, CLIENT_IP, NEAR, own)), [spoken]);
  t.deepEqual(heard(buildGratuitousArp(CLIENT, CLIENT_IP)), [{ ...spoken, isForRouter: false }]);
  for (const [why, frame] of [
    ['not of that network', buildArpReply(CLIENT, SERVER_IP, NEAR, own)],
    ['to another machine', buildArpReply(CLIENT, CLIENT_IP, SERVER, own)],
    ['the address of the router', buildGratuitousArp(CLIENT, own)],
    ['not the address of a machine', buildArpReply(0x0100_5e00_0001, CLIENT_IP, NEAR, own)],
    ['a question to another', buildArpRequest(CLIENT, CLIENT_IP, CLIENT_IP + 1)],
  ] as const) {
    t.deepEqual(heard(frame), [], why);
  }

  const [src, target] = [parseIpv6('fd00::2')!, parseIpv6('fd00::1')!];
  const spoken6 = { address: [...src], mac: CLIENT, isForRouter: true };
  t.deepEqual(heard(buildNeighborSolicitation({ target, src, srcMac: CLIENT })), [spoken6]);
  const advertisement = { target: src, targetMac: CLIENT, dst: target, dstMac: NEAR };
  t.deepEqual(heard(buildNeighborAdvertisement(advertisement)), [spoken6]);
  const toAll = { ...advertisement, dst: IPV6_UNSPECIFIED };
  t.deepEqual(heard(buildNeighborAdvertisement(toAll)), [{ ...spoken6, isForRouter: false }]);
  t.deepEqual(heard(buildNeighborAdvertisement({ ...advertisement, target: parseIpv6('fd09::2')! })), []);

  // The bridge knows better.
  near.ipv4(CLIENT_IP).value = { mac: SERVER };
  t.deepEqual(heard(buildArpRequest(CLIENT, CLIENT_IP, own)), []);
});

test('IPv6: solicitations for its addresses are answered, packets are routed, errors are told', (t) => {
  const { world, near, far, router, farLink } = network();
  const port = (near.mac(NEAR).value as { port: TestFact<PortFact> }).port.value!.peer!;
  world.ingress(9).value = { type: 'port', port };
  const src = parseIpv6('fd00::2')!;
  const dst = parseIpv6('fd01::2')!;
  for (const target of ['fd00::1', 'fe80::ff:fe00:11']) {
    const question = buildNeighborSolicitation({ target: parseIpv6(target)!, src, srcMac: CLIENT });
    t.is(keyOf(effect(world.done(keyOf(question, 9)), 'send').frame, 0).ethDst, CLIENT, target);
  }
  const packet = (hopLimit: number, to: readonly number[] = dst) =>
    buildEthernet(
      { src: CLIENT, dst: NEAR, type: EtherType.IPV6 },
      buildIpv6({ src, dst: to, protocol: IpProtocol.UDP, hopLimit }, buildUdp(1, 2, new Uint8Array(1))),
    );
  const bytes = packet(64);
  const decision = world.done(keyOf(bytes, 1));
  t.is(decision.drop, 'no-route');
  const { key } = replyTo(decision, bytes);
  t.deepEqual([key.nwProto, key.tpSrc, key.tpDst, key.ethDst], [IpProtocol.ICMPV6, 1, 0, CLIENT]);
  t.deepEqual([...key.words.slice(Word.NW_DST, Word.NW_DST + 4)], [...src]);

  router.add('far6', 'fd01::/64', { type: 'normal', port: farLink.atRouter });
  far.ipv6(Uint32Array.from(dst), 0).value = { mac: SERVER };
  const { actions } = world.done(keyOf(packet(64), 1));
  t.is(set(actions).key.nwTtl, 63);
  t.is(set(actions).key.ethDst, SERVER);
  t.is(world.done(keyOf(packet(1), 1)).drop, 'ttl-exceeded');
  t.is(world.done(keyOf(packet(64, parseIpv6('fe80::5')!), 1)).drop, 'not-routable', 'a link-local address');
});

test('a packet to all machines of a network is not forwarded into it, and nobody is told', (t) => {
  const { world, router, nearLink } = network();
  t.is(world.done(keyOf(frame(64, 0x0a02_00ff), 1)).drop, 'not-routable');
  t.deepEqual(
    world.done(keyOf(frame(64, 0x0a02_00ff), 1)).effects.filter(({ type }) => type === 'reply'),
    [],
  );
  router.add('near', '10.1.0.0/24', { type: 'normal', port: nearLink.atRouter });
  t.is(world.done(keyOf(frame(64, 0x0a01_00ff), 1)).drop, 'not-routable');
  router.add('none', '10.1.0.255/32', { type: 'reject' });
  const bytes = frame(64, 0x0a01_00ff);
  const decision = world.done(keyOf(bytes, 1));
  t.is(decision.drop, 'rejected');
  t.throws(() => replyTo(decision, bytes), { message: 'nothing may be said' });
});

test('a packet may leave at the port it came in at, when a router sends it back', (t) => {
  const { world, router, near, nearLink } = network();
  near.ipv4(0x0a01_0009).value = { mac: CLIENT };
  router.add('back', '10.1.0.9/32', { type: 'normal', port: nearLink.atRouter });
  const { actions } = world.done(keyOf(frame(64, 0x0a01_0009), 1));
  t.is(set(actions).key.ethDst, CLIENT);
  t.deepEqual(actions.at(-1), { type: 'output', port: 1 });
});

test('who is not known to be at the port that its packet came in at gets it there, too, flooded behind a router', (t) => {
  const { world, router, near, nearLink } = network();
  const unknown = 0x0200_0000_0009;
  world.localPort(near, 3);
  near.ipv4(0x0a01_0009).value = { mac: unknown };
  router.add('back', '10.1.0.9/32', { type: 'normal', port: nearLink.atRouter });
  const { actions } = world.done(keyOf(frame(64, 0x0a01_0009), 1));
  t.is(set(actions.flatMap((one) => (one.type === 'clone' ? one.actions : [one]))).key.ethDst, unknown);
  const outputs = actions.flatMap((one) => (one.type === 'clone' ? one.actions : [one]));
  t.deepEqual(
    outputs.flatMap((one) => (one.type === 'output' ? [one.port] : [])),
    [1, 3],
  );
});

test('what a router must not forward is dropped', (t) => {
  const { world } = network();
  for (const dst of [0x7f00_0001, 0, 0xe000_0001, 0xffff_ffff]) {
    t.is(world.done(keyOf(frame(64, dst), 1)).drop, 'not-routable', dst.toString(16));
  }
  const tagged = keyOf(frame(), 1);
  tagged.vlanTci = 0x1001;
  tagged.vlanTpid = 0x8100;
  t.is(world.done(tagged).drop, 'not-routable');
});

test('routers that send a packet to each other for ever lose it', (t) => {
  const { world, farLink, router } = network();
  const other = new TestRouter('other');
  const a = farLink.atRouter;
  const b = fact<PortFact>('the other end', undefined);
  const here = a.value as RouterPortFact;
  b.value = {
    ...here,
    router: other.cell,
    peer: a,
    mac: 0x0200_0000_0099,
    addresses: [{ words: Uint32Array.of(9), prefix: 32 }],
  };
  a.value = { ...here, peer: b };
  router.add('far', FAR_NETWORK, { type: 'normal', port: a, gateway: Uint32Array.of(9) });
  other.add('back', '0.0.0.0/0', { type: 'normal', port: b, gateway: Uint32Array.of(0x0a02_0001) });
  const decision = world.done(keyOf(frame(200), 1));
  t.is(decision.drop, 'too-many-devices');
  t.deepEqual(decision.actions, []);
});

/** Frames of the client, to addresses that some routes lead to and others do not. */
const frames = fc
  .record({
    src: fc.constantFrom(CLIENT, CLIENT, CLIENT, SERVER, 0x0300_0000_0001),
    dst: fc.constantFrom(NEAR, NEAR, NEAR, SERVER, 0xffff_ffff_ffff),
    from: fc.constantFrom(CLIENT_IP, CLIENT_IP, CLIENT_IP, 0x0a01_0009, 0x7f00_0001, 0xe000_0001),
    to: fc.constantFrom(
      SERVER_IP,
      SERVER_IP,
      SERVER_IP,
      0x0a02_0003,
      0x0a02_00fe,
      0x0a03_0001,
      0x0a01_0001,
      0xe000_0001,
      0,
    ),
    protocol: fc.constantFrom(IpProtocol.UDP, IpProtocol.ICMP),
    ttl: fc.constantFrom(0, 1, 2, 64, 64, 64),
    payload: fc.uint8Array({ minLength: 8, maxLength: 12, size: 'max' }),
  })
  .map(({ src, dst, from, to, protocol, ttl, payload }) =>
    buildEthernet({ src, dst, type: EtherType.IPV4 }, buildIpv4({ src: from, dst: to, protocol, ttl }, payload)),
  );

const targets = fc.constantFrom('near', 'far', 'far', 'gateway', 'gateway', 'blackhole', 'reject', 'local');
const routings = fc.array(
  fc.record({
    destination: fc.constantFrom('0.0.0.0/0', '10.0.0.0/8', '10.2.0.0/16', '10.2.0.0/30', '10.2.0.2/32', '10.1.0.1/32'),
    target: targets,
  }),
  { minLength: 1, maxLength: 8, size: 'max' },
);

test('soundness: every packet that a flow through a router would take is treated alike', (t) => {
  let routed = 0;
  fc.assert(
    fc.property(routings, frames, frames, fc.constantFrom(1, 1, 1, 2), (routing, one, other, port) => {
      const { world, router, far, nearLink, farLink } = network();
      far.ipv4(0x0a02_00fe).value = { mac: SERVER + 1 };
      far.mac(SERVER + 1).value = far.mac(SERVER).value;
      router.table.remove({ id: 'far' });
      for (const [i, { destination, target }] of routing.entries()) {
        const gateway = Uint32Array.of(0x0a02_00fe);
        if (target === 'near') router.add(String(i), destination, { type: 'normal', port: nearLink.atRouter });
        else if (target === 'far') router.add(String(i), destination, { type: 'normal', port: farLink.atRouter });
        else if (target === 'gateway') {
          router.add(String(i), destination, { type: 'normal', port: farLink.atRouter, gateway });
        } else router.add(String(i), destination, { type: target });
      }
      for (const link of [nearLink, farLink]) link.answer = null;
      const key = keyOf(one, port);
      const decision = world.done(key);
      if (!decision.install) return;
      if (decision.actions.some(({ type }) => type === 'set')) routed++;
      const { mask } = decision;
      const twin = keyOf(other, port);
      for (let i = 0; i < twin.words.length; i++) {
        twin.words[i] = (key.words[i] & mask.words[i]) | (twin.words[i] & ~mask.words[i]);
      }
      const again = world.done(twin);
      t.true(again.install);
      t.true(actionsEqual(decision.actions, again.actions));
      t.is(again.drop, decision.drop);
      t.true(mask.equals(again.mask));
    }),
    { numRuns: 3000 },
  );
  t.true(routed > 50, `${routed} packets were routed`);
});

test('a router answers what came in with the tag of a VLAN that leads to it', (t) => {
  const { world, near, router } = network();
  router.add('near', '10.1.0.1/32', { type: 'local' });
  const trunk = new TestBridge('trunk');
  world.localPort(trunk, 5);
  world.link(trunk, near, { a: 7 });
  trunk.mac(NEAR, 7).value = { port: trunk.links.at(7).value![0] };
  const tagged = (bytes: Uint8Array) => pushTag(bytes, 0x8100, 7);
  const expired = tagged(frame(1));
  const decision = world.done(keyOf(expired, 5));
  t.is(decision.drop, 'ttl-exceeded');
  const { key } = replyTo(decision, expired);
  t.like(key, { ipv4Dst: CLIENT_IP, tpSrc: IcmpType.TIME_EXCEEDED, vlanTci: 0 });
  const echo = tagged(
    buildEthernet(
      { src: CLIENT, dst: NEAR, type: EtherType.IPV4 },
      buildIpv4(
        { src: CLIENT_IP, dst: 0x0a01_0001, protocol: IpProtocol.ICMP },
        buildIcmpEcho(IcmpType.ECHO_REQUEST, 1, 2, new Uint8Array(8)),
      ),
    ),
  );
  t.like(replyTo(world.done(keyOf(echo, 5)), echo).key, { ipv4Dst: CLIENT_IP, tpSrc: IcmpType.ECHO_REPLY });
});
