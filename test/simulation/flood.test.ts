import test from 'ava';
import fc from 'fast-check';
import { type Action, actionsEqual } from '../../src/flow/action.js';
import { FLOW_KEY_WORDS, FlowKey } from '../../src/flow/key.js';
import type { FlowMask } from '../../src/flow/mask.js';
import { MAC_BROADCAST } from '../../src/packet/address.js';
import { ArpOp, buildArp, buildArpRequest } from '../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import type { BridgePortFact, PortFact, TunnelPath } from '../../src/simulation/fact.js';
import { joinToBridge, TestRouter } from './routers.js';
import { fact, keyOf, TestBridge, type TestFact, tcpFrame, World } from './world.js';

const TUNNEL_PORT = 99;
const SENDER = 0x0200_0000_0001;
const VLANS = [undefined, 1, 2];

/** Bridges linked at random, in circles too, with ports here and on other hosts. Plain data, so that a counterexample can be read. */
const plans = fc.integer({ min: 1, max: 4 }).chain((count) => {
  const bridge = fc.nat(count - 1);
  const vlan = fc.constantFrom(...VLANS);
  return fc.record({
    bridges: fc.constant(count),
    ports: fc.array(
      fc.record({ bridge, isIsolated: fc.boolean(), isUp: fc.boolean(), dependsOnPacket: fc.boolean() }),
      { minLength: 1, maxLength: 6 },
    ),
    hosts: fc.uniqueArray(fc.record({ bridge, host: fc.nat(2), hasIsolated: fc.boolean() }), {
      selector: ({ bridge, host }) => 10 * bridge + host,
      maxLength: 5,
    }),
    links: fc.array(fc.record({ a: bridge, b: bridge, vlanA: vlan, vlanB: vlan, isUp: fc.boolean() }), {
      maxLength: 6,
    }),
    routers: fc.array(bridge, { maxLength: 2 }),
  });
});
type Plan = typeof plans extends fc.Arbitrary<infer T> ? T : never;

const floodKey = (bridge: number, host: number) => 100 * (bridge + 1) + host;
const openFloodKey = (bridge: number, host: number) => 1000 + floodKey(bridge, host);

function build(plan: Plan): World {
  return buildAll(plan).world;
}

/** The world, its bridges and their ports. */
function buildAll(plan: Plan) {
  const world = new World();
  const bridges = Array.from({ length: plan.bridges }, (_, i) => new TestBridge(`b${i}`));
  const portsOf: TestFact<PortFact>[][] = bridges.map(() => []);
  plan.ports.forEach(({ bridge, isIsolated, isUp, dependsOnPacket }, i) => {
    const at = bridges[bridge];
    const { outputs, ports } = at.localPorts.value!;
    const port = world.localPort(at, i + 1);
    portsOf[bridge].push(port);
    change(port, { isIsolated, adminStateUp: isUp });
    // As the agent does it: a port that is down is in no list.
    if (!isUp) at.localPorts.value = { outputs, ports };
    else if (isIsolated || dependsOnPacket) at.localPorts.value = { outputs, ports: [...ports, port] };
  });
  for (const { bridge, host, hasIsolated } of plan.hosts) {
    const tunnel = fact<TunnelPath>(`host ${host}`, { output: TUNNEL_PORT, src: 1, dst: host });
    const hosts = bridges[bridge].remoteHosts;
    const open = hasIsolated ? { openFloodKey: openFloodKey(bridge, host) } : {};
    hosts.value = [...hosts.value!, { tunnel, floodKey: floodKey(bridge, host), ...open }];
  }
  for (const { a, b, vlanA, vlanB, isUp } of plan.links) {
    const [atA, atB] = world.link(bridges[a], bridges[b], { a: vlanA, b: vlanB });
    portsOf[a].push(atA);
    portsOf[b].push(atB);
    change(atA, { adminStateUp: isUp });
  }
  plan.routers.forEach((bridge, i) => {
    joinToBridge(new TestRouter(`r${i}`), bridges[bridge], 0x0200_0000_0100 + i, 0x0a00_0001);
  });
  return { world, bridges, ports: portsOf };
}

function change(port: TestFact<PortFact>, changes: Partial<BridgePortFact>): void {
  port.value = { ...(port.value as BridgePortFact), ...changes };
}

/** Where copies of a broadcast packet from `plan.ports[from]` have to arrive, and with which tag: `PORT or KEY/TAG`. */
function expectedCopies(plan: Plan, from: number, tag: number): string[] {
  const origin = plan.ports[from];
  if (!origin.isUp) return [];
  const states = [{ bridge: origin.bridge, vlan: tag }];
  const copies: string[] = [];
  // Grows while it is gone through.
  for (const { bridge, vlan } of states) {
    const isHome = states[0].bridge === bridge && states[0].vlan === vlan;
    plan.ports.forEach((port, i) => {
      if (port.bridge !== bridge || i === from || !port.isUp) return;
      if (!(isHome && origin.isIsolated && port.isIsolated)) copies.push(`${i + 1}/${vlan}`);
    });
    for (const { host, hasIsolated } of plan.hosts.filter((one) => one.bridge === bridge)) {
      const isOpen = isHome && origin.isIsolated && hasIsolated;
      copies.push(`${isOpen ? openFloodKey(bridge, host) : floodKey(bridge, host)}/${vlan}`);
    }
    for (const link of plan.links.filter(({ isUp }) => isUp)) {
      const ways = [
        { at: link.a, out: link.vlanA, to: link.b, into: link.vlanB },
        { at: link.b, out: link.vlanB, to: link.a, into: link.vlanA },
      ];
      for (const { at, out, to, into } of ways) {
        if (at !== bridge || (out !== undefined && out !== vlan)) continue;
        const inside = out === undefined ? vlan : 0;
        if (into !== undefined && inside !== 0) continue;
        const next = { bridge: to, vlan: into ?? inside };
        if (!states.some((state) => state.bridge === next.bridge && state.vlan === next.vlan)) states.push(next);
      }
    }
  }
  return copies.sort();
}

/** What the actions do, in the same form. */
function copiesOf(actions: readonly Action[], tag: number): string[] {
  const copies: string[] = [];
  const run = (list: readonly Action[], vlan: number) => {
    let current = vlan;
    let key = 0;
    for (const action of list) {
      if (action.type === 'push-vlan') current = action.tci & 0xfff;
      else if (action.type === 'pop-vlan') current = 0;
      else if (action.type === 'set-tunnel') key = action.tunnel.id;
      else if (action.type === 'clone') run(action.actions, current);
      else if (action.type === 'output') copies.push(`${action.port === TUNNEL_PORT ? key : action.port}/${current}`);
      else throw new Error(`unexpected ${action.type}`);
    }
  };
  run(actions, tag);
  return copies.sort();
}

function broadcast(port: number, tag: number, type = 0x9999): FlowKey {
  const vlans = tag === 0 ? [] : [{ id: tag }];
  return keyOf(buildEthernet({ dst: MAC_BROADCAST, src: SENDER, type, vlans }, new Uint8Array(46)), port);
}

test('a flooded packet reaches every port of its VLAN once, however bridges are linked, and not where it came from', (t) => {
  fc.assert(
    fc.property(plans, fc.nat(5), fc.constantFrom(0, 1, 2), (plan, port, tag) => {
      const from = port % plan.ports.length;
      const decision = build(plan).done(broadcast(from + 1, tag));
      t.deepEqual(copiesOf(decision.actions, tag), expectedCopies(plan, from, tag));
      t.is(decision.cut, 0);
    }),
    { numRuns: 2000 },
  );
});

test('what every bridge on its way learns is the port where the packet came in there first, once', (t) => {
  fc.assert(
    fc.property(plans, fc.nat(5), fc.constantFrom(0, 1, 2), (plan, port, tag) => {
      const from = port % plan.ports.length;
      const { effects } = build(plan).done(broadcast(from + 1, tag));
      const places = effects.map((effect) =>
        effect.type === 'learn' ? `${effect.bridge.id}/${effect.vlan}` : effect.type,
      );
      t.is(new Set(places).size, places.length);
      if (plan.ports[from].isUp) t.is(places[0], `b${plan.ports[from].bridge}/${tag}`);
    }),
    { numRuns: 300 },
  );
});

const ROUTER = 0x0200_0000_0100;
const MACS = [SENDER, 0x0200_0000_0002, ROUTER, ROUTER + 1];
const network = (bridge: number) => 0x0a00_0000 + 0x100 * bridge;

/** What bridges know, and routers that each join two of them. */
const tables = fc.record({
  macs: fc.array(
    fc.record({ bridge: fc.nat(3), mac: fc.constantFrom(...MACS), vlan: fc.constantFrom(0, 1, 2), port: fc.nat(9) }),
    { maxLength: 8 },
  ),
  neighbors: fc.array(fc.record({ bridge: fc.nat(3), mac: fc.constantFrom(...MACS) }), { maxLength: 4 }),
  routers: fc.array(fc.record({ a: fc.nat(3), b: fc.nat(3), isKnown: fc.boolean() }), { maxLength: 2 }),
});
type Tables = typeof tables extends fc.Arbitrary<infer T> ? T : never;

/** The plan's bridges with these tables. Every port of the plan and its links may be what an address is behind. */
function buildWithTables(plan: Plan, { macs, neighbors, routers }: Tables): World {
  const { world, bridges, ports } = buildAll(plan);
  routers.forEach(({ a, b, isKnown }, i) => {
    const router = new TestRouter(`router ${i}`);
    for (const side of new Set([a % bridges.length, b % bridges.length])) {
      const link = joinToBridge(router, bridges[side], ROUTER + i, network(side) + 1);
      link.answer = null;
      router.add(`to ${side}`, `10.0.${side}.0/24`, { type: 'normal', port: link.atRouter });
      // Where nobody told the bridge of the router, what is for it is flooded.
      if (!isKnown) bridges[side].mac(ROUTER + i).value = null;
    }
  });
  for (const { bridge, mac, vlan, port } of macs) {
    const at = bridge % bridges.length;
    const candidates = ports[at];
    if (candidates.length > 0) bridges[at].mac(mac, vlan).value = { port: candidates[port % candidates.length] };
  }
  for (const { bridge, mac } of neighbors) {
    const at = bridge % bridges.length;
    bridges[at].ipv4(network(at) + 5).value = { mac };
  }
  return world;
}

test('soundness: packets that agree in what a flow matches go the same ways, by bridges and routers', (t) => {
  const ip = fc.tuple(fc.nat(3), fc.constantFrom(1, 5)).map(([bridge, host]) => network(bridge) + host);
  const payload = fc.oneof(
    fc.record({
      type: fc.constantFrom(0x0800, 0x0806, 0x86dd, 0x9999),
      bytes: fc.uint8Array({ minLength: 46, maxLength: 46 }),
    }),
    fc.record({ src: ip, dst: ip, ttl: fc.constantFrom(1, 2, 64) }).map(({ src, dst, ttl }) => ({
      type: EtherType.IPV4,
      bytes: buildIpv4({ src, dst, ttl, protocol: IpProtocol.UDP }, new Uint8Array(26)),
    })),
    fc.record({ senderMac: fc.constantFrom(...MACS), senderIp: ip, targetIp: ip }).map((arp) => ({
      type: EtherType.ARP,
      bytes: buildArp({ op: ArpOp.REQUEST, targetMac: 0, ...arp }),
    })),
  );
  const frames = fc
    .record({
      dst: fc.constantFrom(MAC_BROADCAST, ...MACS),
      src: fc.constantFrom(SENDER, 0x0200_0000_0003),
      tag: fc.constantFrom(0, 0, 1, 2),
      port: fc.integer({ min: 1, max: 6 }),
      payload,
    })
    .map(({ dst, src, tag, port, payload: { type, bytes } }) =>
      keyOf(buildEthernet({ dst, src, type, vlans: tag === 0 ? [] : [{ id: tag }] }, bytes), port),
    );
  fc.assert(
    fc.property(plans, tables, frames, frames, (plan, filled, a, other) => {
      const world = buildWithTables(plan, filled);
      const decision = world.done(a);
      const b = merged(a, other, decision.mask);
      const again = world.done(b);
      t.true(actionsEqual(decision.actions, again.actions));
      t.is(again.drop, decision.drop);
      t.is(again.effects.length, decision.effects.length);
      t.true(decision.mask.equals(again.mask));
    }),
    { numRuns: 3000 },
  );
});

/** Key `a` in the bits of the mask, `b` in all others. */
function merged(a: FlowKey, b: FlowKey, mask: FlowMask): FlowKey {
  const words = new Uint32Array(FLOW_KEY_WORDS);
  for (let i = 0; i < FLOW_KEY_WORDS; i++) words[i] = (a.words[i] & mask.words[i]) | (b.words[i] & ~mask.words[i]);
  return new FlowKey(words);
}

/** A trunk with a bridge for VLAN 10 behind it, where a machine is. */
function linked() {
  const world = new World();
  const trunk = new TestBridge('trunk');
  const inside = new TestBridge('inside');
  const outer = world.localPort(trunk, 1);
  world.localPort(trunk, 2);
  const inner = world.localPort(inside, 3);
  const [atTrunk, atInside] = world.link(trunk, inside, { a: 10 });
  return { world, trunk, inside, outer, inner, atTrunk, atInside };
}

const OUTSIDE = 0x0200_0000_0007;
const MACHINE = 0x0200_0000_0008;
const push: Action = { type: 'push-vlan', tpid: 0x8100, tci: 0x100a };
const output = (port: number): Action => ({ type: 'output', port });
const frame = (srcMac: number, dstMac: number, tag: number, port: number) => {
  const key = keyOf(tcpFrame({ srcMac, dstMac }), port);
  key.vlanTci = tag === 0 ? 0 : 0x1000 | tag;
  key.vlanTpid = tag === 0 ? 0 : 0x8100;
  return key;
};

test('frames with the tag of a VLAN lose it on the way to its bridge, and get it on the way back', (t) => {
  const { world, trunk, inside, outer, inner, atTrunk, atInside } = linked();
  trunk.mac(MACHINE, 10).value = { port: atTrunk };
  trunk.mac(OUTSIDE, 10).value = { port: outer };
  inside.mac(MACHINE).value = { port: inner };
  inside.mac(OUTSIDE).value = { port: atInside };
  t.deepEqual(world.done(frame(OUTSIDE, MACHINE, 10, 1)).actions, [{ type: 'pop-vlan' }, output(3)]);
  t.deepEqual(world.done(frame(MACHINE, OUTSIDE, 0, 3)).actions, [push, output(1)]);
  t.deepEqual(world.done(frame(MACHINE, OUTSIDE, 5, 3)).actions, [], 'a tag inside would be a second one outside');
  t.is(world.done(frame(MACHINE, MACHINE, 0, 3)).drop, 'same-port');
  const other = world.done(frame(OUTSIDE, MACHINE, 11, 1));
  t.deepEqual(other.actions, [output(2)], 'another VLAN has other machines');
  trunk.mac(MACHINE, 11).value = { port: atTrunk };
  t.is(world.done(frame(OUTSIDE, MACHINE, 11, 1)).drop, 'other-vlan');
});

test('addresses are learned where they are, in their VLAN, behind links of bridges too but not of routers', (t) => {
  const { world, trunk, inside, outer, atInside } = linked();
  const learned = (key: FlowKey) =>
    world
      .done(key)
      .effects.flatMap((effect) => (effect.type === 'learn' ? [[effect.bridge, effect.vlan, effect.port]] : []));
  t.deepEqual(learned(frame(OUTSIDE, MACHINE, 10, 1)), [
    [trunk, 10, outer.value!],
    [inside, 0, atInside.value!],
  ]);
  const router = new TestRouter('r');
  const { atRouter } = joinToBridge(router, inside, 0x0200_0000_0100, 0x0a00_0001);
  change(inside.mac(0x0200_0000_0100).value!.port as TestFact<PortFact>, { mac: undefined });
  world.ingress(5).value = { type: 'port', port: (atRouter.value as { peer: TestFact<PortFact> }).peer };
  t.deepEqual(
    learned(frame(0x0200_0000_0100, MACHINE, 0, 5)).length,
    1,
    'the trunk learns, not the bridge of the router',
  );
});

test('the spanning tree of switches goes from trunk to trunk, and no further', (t) => {
  const { world, trunk } = linked();
  const bpdu = (port: number) =>
    keyOf(buildEthernet({ dst: 0x0180_c200_0000, src: OUTSIDE, type: 0x26 }, new Uint8Array(46)), port);
  t.deepEqual(world.done(bpdu(1)).actions, [output(2)]);
  t.is(world.done(bpdu(3)).drop, 'link-local');
  trunk.isVlanAware.value = undefined;
  t.is(world.run(bpdu(1)).type, 'wait');
});

test('a packet does not go back through the link that it came by', (t) => {
  const { world, inside, atInside } = linked();
  inside.mac(MACHINE).value = { port: atInside };
  t.deepEqual(world.done(frame(OUTSIDE, MACHINE, 10, 1)).actions, [output(2)]);
});

test('isolated ports reach the others only', (t) => {
  const world = new World();
  const bridge = new TestBridge('b');
  const [a, b] = [world.localPort(bridge, 1), world.localPort(bridge, 2)];
  for (const port of [a, b]) change(port, { isIsolated: true });
  bridge.localPorts.value = { outputs: [3], ports: [a, b] };
  world.ingress(3).value = { type: 'port', port: fact('port 3', { ...a.value!, isIsolated: false } as PortFact) };
  bridge.mac(MACHINE).value = { port: b };
  t.is(world.done(frame(OUTSIDE, MACHINE, 0, 1)).drop, 'isolated');
  t.deepEqual(world.done(frame(OUTSIDE, MACHINE, 0, 3)).actions, [output(2)]);
  t.deepEqual(world.done(broadcast(1, 0)).actions, [output(3)]);
  t.deepEqual(world.done(broadcast(3, 0)).actions, [output(1), output(2)]);
});

test('a router on a bridge answers what is flooded to it, and is no way for the rest', (t) => {
  const { world, inside } = linked();
  const router = new TestRouter('r');
  joinToBridge(router, inside, 0x0200_0000_0100, 0x0a00_0001);
  inside.ipv4(0x0a00_0001).value = null;
  const asked = world.done(keyOf(buildArpRequest(MACHINE, 0x0a00_0005, 0x0a00_0001), 3));
  t.deepEqual(
    asked.effects.map(({ type }) => type),
    ['learn', 'learn', 'neighbor', 'send'],
  );
  t.deepEqual(copiesOf(asked.actions, 0), ['1/10', '2/10']);
  const unknown = world.done(frame(MACHINE, OUTSIDE, 0, 3));
  t.deepEqual(copiesOf(unknown.actions, 0), ['1/10', '2/10']);
  t.is(unknown.mask.ethType, 0, 'who it is for says enough');
});

test('a chain of bridges longer than a packet may go ends there, and that is counted', (t) => {
  const world = new World();
  const bridges = Array.from({ length: 14 }, (_, i) => new TestBridge(`b${i}`));
  bridges.forEach((bridge, i) => {
    world.localPort(bridge, i + 1);
    if (i > 0) world.link(bridges[i - 1], bridge);
  });
  const { actions, cut } = world.done(broadcast(1, 0));
  t.is(actions.length, 11);
  t.is(cut, 1);
});
