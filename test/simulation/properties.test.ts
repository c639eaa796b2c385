import test from 'ava';
import fc from 'fast-check';
import { kernelMask } from '../../src/datapath/memory/validate.js';
import { type Action, actionsEqual } from '../../src/flow/action.js';
import { FLOW_KEY_WORDS, FlowKey, Frag, Word } from '../../src/flow/key.js';
import type { FlowMask } from '../../src/flow/mask.js';
import { MAC_BROADCAST, parseIpv6 } from '../../src/packet/address.js';
import { ArpOp, buildArp } from '../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildNeighborSolicitation } from '../../src/packet/nd.js';
import { buildRouterSolicitation } from '../../src/packet/router-advertisement.js';
import { buildTcp } from '../../src/packet/tcp.js';
import { buildUdp } from '../../src/packet/udp.js';
import { CONFIGURATION_SERVER_MAC } from '../../src/simulation/answer.js';
import type { Decision } from '../../src/simulation/decision.js';
import type { TunnelPath } from '../../src/simulation/fact.js';
import { fact, keyOf, TestBridge, tunnelKeyOf, World } from './world.js';

const MACS = [0x0200_0000_0001, 0x0200_0000_0002, 0x0200_0000_0003, 0x0200_0000_0004];
const REQUEST_MACS = [MAC_BROADCAST, CONFIGURATION_SERVER_MAC, 0x3333_0001_0002, 0x3333_0000_0002];
const OTHER_MACS = [
  MAC_BROADCAST,
  0x3333_0000_0001,
  0x0180_c200_0001,
  0x3333_ff00_0002,
  0x0100_5e00_0001,
  0x0300_0000_0000,
  0,
];
const IPV4S = [0x0a01_0001, 0x0a01_0002, 0x0a01_0003, 0];
const IPV6S = ['fd00::1', 'fd00::2', 'fe80::1', '::'].map((text) => parseIpv6(text)!);
const TUNNEL_PORT = 9;

const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: null, freq: 4 });
const mac = fc.constantFrom(...MACS, ...OTHER_MACS, ...REQUEST_MACS);
const ipv4 = fc.constantFrom(...IPV4S);
const ipv6 = fc.constantFrom(...IPV6S);

/** What a world is made of, so that a counterexample can be read. */
const worlds = fc.record({
  bridgeUp: fc.boolean(),
  served: maybe(fc.record({ dhcp: fc.boolean(), dhcpV6: fc.boolean(), advertisements: fc.boolean() })),
  locals: fc.array(fc.record({ mac: maybe(fc.constantFrom(...MACS)), up: fc.boolean() }), { maxLength: 4 }),
  remotes: fc.array(fc.record({ mac: fc.constantFrom(...MACS), up: fc.boolean(), reachable: fc.boolean() }), {
    maxLength: 3,
  }),
  neighbors4: fc.array(fc.tuple(ipv4, fc.constantFrom(...MACS)), { maxLength: 3 }),
  neighbors6: fc.array(fc.tuple(ipv6, fc.constantFrom(...MACS)), { maxLength: 3 }),
  targets: fc.array(fc.tuple(fc.integer({ min: 1, max: 4 }), fc.array(fc.integer({ min: 1, max: 4 }))), {
    maxLength: 3,
  }),
});
type Plan = typeof worlds extends fc.Arbitrary<infer T> ? T : never;

function build(plan: Plan): World {
  const world = new World();
  const bridge = new TestBridge('b');
  bridge.adminStateUp = plan.bridgeUp;
  bridge.served.value = plan.served;
  plan.locals.forEach(({ mac, up }, i) => {
    const port = world.localPort(bridge, i + 1, mac ?? undefined);
    port.value = { ...port.value!, adminStateUp: up };
  });
  const hosts = plan.remotes.map(({ mac, up, reachable }, i) => {
    const path: TunnelPath = { output: TUNNEL_PORT, src: 1, dst: 100 + i };
    const tunnel = fact<TunnelPath>(`tunnel ${i}`, reachable ? path : null);
    const port = world.remotePort(bridge, mac, tunnel, i + 1);
    port.value = { ...port.value!, adminStateUp: up };
    return { tunnel, floodKey: 1000 + i };
  });
  bridge.remoteHosts.value = hosts;
  for (const [address, mac] of plan.neighbors4) bridge.ipv4(address).value = { mac };
  for (const [address, mac] of plan.neighbors6) bridge.ipv6(Uint32Array.from(address), 0).value = { mac };
  world.tunnelDevice(TUNNEL_PORT);
  for (const [key, outputs] of plan.targets) world.targets.at(key).value = { outputs, ports: [] };
  return world;
}

/** Those of DHCP and DHCPv6, those that differ from them in one bit, and any. */
const port = fc.oneof(fc.constantFrom(67, 68, 546, 547, 66, 0x8043, 0x8044, 0x0143), fc.nat(65535));
const tcp = fc.record({ srcPort: fc.nat(65535), dstPort: fc.nat(65535), payload: fc.uint8Array({ maxLength: 8 }) });

/** The bytes behind an Ethernet header, with their EtherType. */
const payloads: fc.Arbitrary<{ type: number; bytes: Uint8Array }> = fc.oneof(
  fc.record({ op: fc.constantFrom(1, 2, 3, 300), senderMac: mac, senderIp: ipv4, targetIp: ipv4 }).map((arp) => ({
    type: EtherType.ARP,
    bytes: buildArp({ ...arp, targetMac: 0 }),
  })),
  fc
    .record({ src: ipv4, dst: ipv4, protocol: fc.constantFrom(1, 6, 17, 47), tcp, fragment: maybe(fc.boolean()) })
    .map(({ src, dst, protocol, tcp, fragment }) => ({
      type: EtherType.IPV4,
      bytes: buildIpv4(
        { src, dst, protocol, fragment: fragment === null ? undefined : { offset: fragment ? 0 : 64, more: true } },
        buildTcp(tcp, tcp.payload),
      ),
    })),
  fc
    .record({ src: ipv6, dst: ipv6, protocol: fc.constantFrom(6, 58, 59), hopLimit: fc.constantFrom(64, 255), tcp })
    .map(({ src, dst, protocol, hopLimit, tcp }) => ({
      type: EtherType.IPV6,
      bytes: buildIpv6({ src, dst, protocol, hopLimit }, buildTcp(tcp, tcp.payload)),
    })),
  fc
    .record({
      src: ipv6,
      target: ipv6,
      srcMac: mac,
      hops: fc.constantFrom(64, 255),
      type: fc.constantFrom(135, 136),
      code: fc.constantFrom(0, 1),
    })
    .map((nd) => {
      const bytes = buildNeighborSolicitation({ src: nd.src, srcMac: nd.srcMac, target: nd.target }).slice(14);
      bytes[7] = nd.hops;
      bytes[40] = nd.type;
      bytes[41] = nd.code;
      // The option of an advertisement is the target's link-layer address.
      if (nd.type === 136 && bytes.length > 64) bytes[64] = 2;
      return { type: EtherType.IPV6, bytes };
    }),
  fc
    .record({ isIpv6: fc.boolean(), srcPort: port, dstPort: port, fragment: maybe(fc.boolean()) })
    .map(({ isIpv6, srcPort, dstPort, fragment }) => ({
      type: isIpv6 ? EtherType.IPV6 : EtherType.IPV4,
      bytes: isIpv6
        ? buildIpv6({ src: IPV6S[2], dst: IPV6S[0], protocol: 17 }, buildUdp(srcPort, dstPort))
        : buildIpv4(
            { src: 0, dst: 1, protocol: 17, fragment: fragment === null ? undefined : { offset: 0, more: fragment } },
            buildUdp(srcPort, dstPort),
          ),
    })),
  fc.record({ src: ipv6, srcMac: mac, hops: fc.constantFrom(64, 255), code: fc.constantFrom(0, 1) }).map((nd) => {
    const bytes = buildRouterSolicitation(nd.src, nd.srcMac).slice(14);
    bytes[7] = nd.hops;
    bytes[41] = nd.code;
    return { type: EtherType.IPV6, bytes };
  }),
  fc.record({ type: fc.integer({ min: 0x600, max: 0xffff }), bytes: fc.uint8Array({ maxLength: 40, size: 'max' }) }),
);

const frames = fc
  .record({ dst: mac, src: mac, tag: maybe(fc.nat(0xfff)), payload: payloads })
  .map(({ dst, src, tag, payload }) =>
    buildEthernet({ dst, src, type: payload.type, vlans: tag === null ? [] : [{ id: tag }] }, payload.bytes),
  );

const keys = fc.oneof(
  { weight: 5, arbitrary: fc.tuple(frames, fc.integer({ min: 1, max: 5 })).map(([frame, port]) => keyOf(frame, port)) },
  {
    weight: 1,
    arbitrary: fc
      .tuple(frames, fc.integer({ min: 1, max: 5 }))
      .map(([frame, id]) => tunnelKeyOf(frame, TUNNEL_PORT, id, 1)),
  },
);

/** Key `a` in the bits of the mask, `b` in all others. */
function merged(a: FlowKey, b: FlowKey, mask: FlowMask): FlowKey {
  const out = new FlowKey();
  for (let i = 0; i < FLOW_KEY_WORDS; i++) {
    out.words[i] = (a.words[i] & mask.words[i]) | (b.words[i] & ~mask.words[i]);
  }
  return out;
}

function effects(decision: Extract<Decision, { type: 'done' }>): unknown[] {
  // The answer to a question repeats bits that are not looked at; packets that are answered leave no flow.
  return decision.effects.map((effect) => {
    switch (effect.type) {
      case 'learn':
        return ['learn', effect.bridge.id, effect.mac, effect.port.id];
      case 'configure':
        return ['configure', effect.bridge.id, effect.port.id, effect.request];
      case 'neighbor':
        return ['neighbor', effect.port.id, effect.mac];
      case 'announce':
        return ['announce', effect.bridge.id, effect.address.join(), effect.mac];
      case 'trace':
        return ['trace', effect.traceRequestId];
      case 'health':
        return ['health'];
      default:
        return [effect.type, effect.port.tag];
    }
  });
}

test('soundness: every key that a flow would take has the same decision', (t) => {
  fc.assert(
    fc.property(worlds, keys, keys, (plan, a, other) => {
      const world = build(plan);
      const decision = world.done(a);
      const b = merged(a, other, decision.mask);
      const again = world.done(b);
      t.true(actionsEqual(decision.actions, again.actions));
      t.deepEqual(effects(again), effects(decision));
      t.is(again.install, decision.install);
      t.is(again.drop, decision.drop);
      t.true(decision.mask.equals(again.mask));
      t.deepEqual(again.tags, decision.tags);
    }),
    { numRuns: 2000 },
  );
});

test('soundness holds under the mask that the kernel makes of a decision, which only adds bits', (t) => {
  fc.assert(
    fc.property(worlds, keys, (plan, key) => {
      const { mask, install } = build(plan).done(key);
      if (!install) return;
      const widened = kernelMask(key, mask);
      for (let i = 0; i < FLOW_KEY_WORDS; i++) {
        // With no tag there is no TPID to match, and the kernel does not take a mask of it.
        if (i === Word.VLAN_TPID) continue;
        t.is(mask.words[i] & ~widened.words[i], 0, `word ${i}`);
      }
    }),
    { numRuns: 500 },
  );
});

test('two flows of one topology are the same or match no packet in common', (t) => {
  fc.assert(
    fc.property(worlds, keys, keys, (plan, a, b) => {
      const world = build(plan);
      const one = world.done(a);
      const two = world.done(b);
      const both = new FlowKey();
      for (let i = 0; i < FLOW_KEY_WORDS; i++) both.words[i] = one.mask.words[i] & two.mask.words[i];
      if (!a.equalsMasked(b, both as FlowMask)) return;
      t.true(one.mask.equals(two.mask));
      t.true(actionsEqual(one.actions, two.actions));
    }),
    { numRuns: 2000 },
  );
});

test('generality: packets that differ in ports, payload or IP identifiers only share one flow', (t) => {
  fc.assert(
    fc.property(
      worlds,
      mac,
      mac,
      ipv4,
      ipv4,
      fc.array(tcp, { minLength: 2, maxLength: 5 }),
      (plan, src, dst, a, b, segments) => {
        const world = build(plan);
        const flows = new Set<string>();
        for (const segment of segments) {
          const frame = buildEthernet(
            { dst, src, type: EtherType.IPV4 },
            buildIpv4(
              { src: a, dst: b, protocol: IpProtocol.TCP, id: segment.srcPort, ttl: 1 + (segment.dstPort & 0x3f) },
              buildTcp(segment, segment.payload),
            ),
          );
          const key = keyOf(frame, 1);
          const { mask } = world.done(key);
          flows.add(`${mask.words} ${key.masked(mask).words}`);
        }
        t.is(flows.size, 1);
      },
    ),
    { numRuns: 500 },
  );
});

test('determinism: the same world built twice gives the same decisions', (t) => {
  fc.assert(
    fc.property(worlds, keys, (plan, key) => {
      const one = build(plan).done(key);
      const two = build(plan).done(key.clone());
      t.true(actionsEqual(one.actions, two.actions));
      t.true(one.mask.equals(two.mask));
      t.deepEqual(
        one.tags.map((tag) => tag.tag),
        two.tags.map((tag) => tag.tag),
      );
    }),
    { numRuns: 300 },
  );
});

test('a mask matches a field only along with what makes it exist', (t) => {
  fc.assert(
    fc.property(worlds, keys, (plan, key) => {
      const { words } = build(plan).done(key).mask;
      const any = (from: number, to: number) => words.subarray(from, to).some((word) => word !== 0);
      t.is(words[Word.IN_PORT], 0xffff_ffff);
      t.is(words[Word.RECIRC_ID], 0xffff_ffff);
      t.is(words[Word.VLAN_TCI], 0xffff);
      if (any(Word.NW_SRC, FLOW_KEY_WORDS)) t.is(words[Word.ETH_TYPE], 0xffff);
      if (any(Word.TP_SRC, FLOW_KEY_WORDS)) t.is(words[Word.NW_PROTO], 0xff);
      if (any(Word.TP_SRC, Word.ARP_SHA)) {
        t.is(words[Word.NW_FRAG], 0xff);
        t.not(key.nwFrag, Frag.LATER);
      }
      if (any(Word.ND_TARGET, Word.ARP_SHA)) {
        t.deepEqual([words[Word.TP_SRC], words[Word.TP_DST]], [0xffff, 0xffff]);
        t.deepEqual([key.tpSrc, key.tpDst, key.nwProto], [135, 0, IpProtocol.ICMPV6]);
      }
      if (any(Word.ARP_SHA, Word.ARP_THA)) t.deepEqual([key.ethType, key.nwProto], [EtherType.ARP, ArpOp.REQUEST]);
      if (any(Word.TUN_ID, Word.ETH_SRC)) t.is(words[Word.TUN_DST], 0xffff_ffff);
    }),
    { numRuns: 1000 },
  );
});

test('bounds: a flood to thousands of hosts and ports keeps to the longest action list, the rest is counted', (t) => {
  fc.assert(
    fc.property(fc.nat(5000), fc.nat(5000), fc.integer({ min: 0, max: 40_000 }), (ports, hosts, limit) => {
      const world = new World();
      const bridge = new TestBridge('b');
      world.localPort(bridge, 1);
      bridge.localPorts.value = { outputs: Array.from({ length: ports + 1 }, (_, i) => i + 1), ports: [] };
      bridge.remoteHosts.value = Array.from({ length: hosts }, (_, i) => ({
        tunnel: fact<TunnelPath>(`tunnel ${i}`, { output: TUNNEL_PORT, src: 1, dst: 2 + i }),
        floodKey: i + 1,
      }));
      const frame = buildEthernet({ dst: MAC_BROADCAST, src: MACS[0], type: 0x9999 }, new Uint8Array(46));
      const decision = world.done(keyOf(frame, 1), limit);
      t.true(10 * decision.actions.length <= limit);
      const count = (type: Action['type']) => decision.actions.filter((action) => action.type === type).length;
      t.is(count('output') + decision.cut, ports + hosts);
      const needed = 10 * ports + 20 * hosts;
      t.is(decision.cut > 0, needed > limit);
    }),
    { numRuns: 20 },
  );
});
