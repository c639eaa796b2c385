import test from 'ava';
import { Word } from '../../src/flow/key.js';
import { IPV6_UNSPECIFIED, parseIpv6 } from '../../src/packet/address.js';
import { ArpOp, buildArp, buildArpReply, buildArpRequest, parseArp } from '../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import {
  buildNeighborAdvertisement,
  buildNeighborSolicitation,
  newNeighborMessage,
  parseNeighborMessage,
} from '../../src/packet/nd.js';
import type { Decision } from '../../src/simulation/decision.js';
import { keyOf, TestBridge, World } from './world.js';

const A = 0x0200_0000_0001;
const B = 0x0200_0000_0002;
const A4 = 0x0a01_0001;
const B4 = 0x0a01_0002;
const A6 = parseIpv6('fd00::1')!;
const B6 = parseIpv6('fd00::2')!;

function setUp() {
  const world = new World();
  const bridge = new TestBridge('b');
  world.localPort(bridge, 1, A);
  world.localPort(bridge, 2, B);
  bridge.ipv4(A4).value = { mac: A };
  bridge.ipv4(B4).value = { mac: B };
  bridge.ipv6(Uint32Array.from(A6), 0).value = { mac: A };
  bridge.ipv6(Uint32Array.from(B6), 0).value = { mac: B };
  return { world, bridge };
}

/** The packet of the only effect, which goes out where the question came in. */
function answer(decision: Extract<Decision, { type: 'done' }>): Uint8Array | undefined {
  const [effect, more] = decision.effects;
  if (effect === undefined) return undefined;
  if (more !== undefined || effect.type !== 'send' || effect.port.tag !== 'port 1')
    throw new Error(JSON.stringify(decision.effects));
  return effect.frame;
}

test('an ARP request for a known address is answered, forwarded nowhere and leaves no flow', (t) => {
  const { world } = setUp();
  const decision = world.done(keyOf(buildArpRequest(A, A4, B4), 1));
  t.deepEqual(answer(decision), buildArpReply(B, B4, A, A4));
  t.deepEqual(decision.actions, []);
  t.false(decision.install);
  t.is(decision.drop, undefined);
});

test('a probe (sender 0.0.0.0) for an address in use is answered, one for the own address is not', (t) => {
  const { world } = setUp();
  const conflict = { op: 0, senderMac: 0, senderIp: 0, targetMac: 0, targetIp: 0 };
  t.true(parseArp(answer(world.done(keyOf(buildArpRequest(A, 0, B4), 1)))!, 14, conflict));
  t.deepEqual(conflict, { op: ArpOp.REPLY, senderMac: B, senderIp: B4, targetMac: A, targetIp: 0 });
  const own = world.done(keyOf(buildArpRequest(A, 0, A4), 1));
  t.is(answer(own), undefined);
  t.is(own.actions.length, 1);
});

test('other ARP is forwarded like any packet', (t) => {
  const { world, bridge } = setUp();
  const broadcastReply = buildEthernet(
    { dst: 0xffff_ffff_ffff, src: A, type: EtherType.ARP },
    buildArp({ op: ArpOp.REPLY, senderMac: A, senderIp: A4, targetMac: B, targetIp: B4 }),
  );
  const tagged = buildEthernet(
    { dst: 0xffff_ffff_ffff, src: A, type: EtherType.ARP, vlans: [{ id: 5 }] },
    buildArp({ op: ArpOp.REQUEST, senderMac: A, senderIp: A4, targetMac: 0, targetIp: B4 }),
  );
  const unicast = buildEthernet(
    { dst: B, src: A, type: EtherType.ARP },
    buildArp({ op: ArpOp.REQUEST, senderMac: A, senderIp: A4, targetMac: 0, targetIp: B4 }),
  );
  for (const frame of [
    buildArpRequest(A, A4, 0x0a01_0063),
    broadcastReply,
    tagged,
    unicast,
    buildArpReply(A, A4, B, B4),
  ]) {
    const decision = world.done(keyOf(frame, 1));
    t.is(answer(decision), undefined);
    t.deepEqual(decision.actions, [{ type: 'output', port: 2 }]);
    t.true(decision.install);
  }
  bridge.neighbors.rest = undefined;
  t.like(world.run(keyOf(buildArpRequest(A, A4, 0x0a01_0064), 1)), { type: 'wait', missing: { length: 1 } });
});

test('a neighbour solicitation for a known address is answered, forwarded nowhere and leaves no flow', (t) => {
  const { world } = setUp();
  const decision = world.done(keyOf(buildNeighborSolicitation({ src: A6, srcMac: A, target: B6 }), 1));
  t.deepEqual(answer(decision), buildNeighborAdvertisement({ target: B6, targetMac: B, dst: A6, dstMac: A }));
  t.deepEqual(decision.actions, []);
  t.false(decision.install);
});

test('a duplicate address probe: for an address in use answered to all nodes, for the own one flooded', (t) => {
  const { world } = setUp();
  const packet = answer(
    world.done(keyOf(buildNeighborSolicitation({ src: IPV6_UNSPECIFIED, srcMac: A, target: B6 }), 1)),
  )!;
  const message = newNeighborMessage();
  t.true(parseNeighborMessage(packet, 54, packet.length, message));
  t.like(message, { solicited: false, override: false, targetMac: B });
  const own = world.done(keyOf(buildNeighborSolicitation({ src: IPV6_UNSPECIFIED, srcMac: A, target: A6 }), 1));
  t.is(answer(own), undefined);
  t.is(own.actions.length, 1);
});

test('other ICMPv6 to a solicited-node address is forwarded, with as few bits looked at as can be', (t) => {
  const { world, bridge } = setUp();
  const solicitation = buildNeighborSolicitation({ src: A6, srcMac: A, target: B6 });
  const routed = solicitation.slice();
  routed[21] = 254;
  t.is(world.done(keyOf(routed, 1)).actions.length, 1);
  const unknown = buildNeighborSolicitation({ src: A6, srcMac: A, target: parseIpv6('fd00::99')! });
  t.is(world.done(keyOf(unknown, 1)).actions.length, 1);
  const dst = 0x3333_ff00_0002;
  const udp = buildEthernet(
    { dst, src: A, type: EtherType.IPV6 },
    buildIpv6({ src: A6, dst: B6, protocol: IpProtocol.UDP }, new Uint8Array(16)),
  );
  const decision = world.done(keyOf(udp, 1));
  t.is(decision.actions.length, 1);
  t.is(decision.mask.words[Word.NW_PROTO], 0xff);
  t.is(decision.mask.words[Word.TP_SRC], 0);
  t.is(decision.mask.words[Word.ND_TARGET], 0);
  bridge.neighbors.rest = undefined;
  const strange = buildNeighborSolicitation({ src: A6, srcMac: A, target: parseIpv6('fd00::98')! });
  t.like(world.run(keyOf(strange, 1)), { type: 'wait', missing: { length: 1 } });
});
