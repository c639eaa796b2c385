import test from 'ava';
import fc from 'fast-check';
import { type Action, actionsEqual } from '../../src/flow/action.js';
import { FLOW_KEY_WORDS, FlowKey, VLAN_PRESENT, Word } from '../../src/flow/key.js';
import { MAC_BROADCAST } from '../../src/packet/address.js';
import { EtherType } from '../../src/packet/ethernet.js';
import { NO_RECIRCULATION, type Recirculation } from '../../src/simulation/connection.js';
import type { MirrorFact, PortFact, SourceNatFact, TunnelPath } from '../../src/simulation/fact.js';
import { mirrorFact } from '../../src/simulation/mirror.js';
import { simulate } from '../../src/simulation/simulate.js';
import type { TraceStep } from '../../src/simulation/trace.js';
import type { Condition } from '../../src/topology/chains.js';
import { Filters } from './filters.js';
import { joinToBridge, TestRouter } from './routers.js';
import { fact, keyOf, limits, TestBridge, type TestFact, tcpFrame, tunnelKeyOf, World } from './world.js';

const CLIENT = 0x0200_0000_0001;
const SERVER = 0x0200_0000_0002;
const SERVER_IP = 0x0a02_0002;
const NEAR = 0x0200_0000_0011;
const TUNNEL_PORT = 99;
const EVERYTHING: readonly Condition[] = [{}];

function change(port: TestFact<PortFact>, fields: Partial<PortFact>): void {
  port.value = { ...port.value!, ...fields } as PortFact;
}

/** Client (datapath port 1) and server (2) on one bridge, and on another one who listens to mirrors (3 to 5). */
function bridged() {
  const world = new World();
  const bridge = new TestBridge('bridge');
  const aside = new TestBridge('aside');
  const filters = new Filters();
  const client = world.localPort(bridge, 1, CLIENT);
  const server = world.localPort(bridge, 2, SERVER);
  for (const number of [3, 4, 5]) filters.ports.set(`listener ${number}`, world.localPort(aside, number));
  const mirror = (toPortId: string, conditions: readonly Condition[] = EVERYTHING) =>
    fact<MirrorFact>(
      `mirror to ${toPortId}`,
      mirrorFact({ id: `to ${toPortId}`, toPortId, conditions: [...conditions] }, filters),
    );
  return { world, bridge, aside, filters, client, server, mirror };
}

/** What the client sends is copied to the other bridge, through the port that links the two; the client's port has a zone. */
function copiedAside() {
  const { world, bridge, aside, client, filters, mirror } = bridged();
  const [toAside] = world.link(bridge, aside);
  bridge.links.at(0).value = [];
  filters.ports.set('link', toAside);
  const location = { type: 'local', output: fact('output', 1), zone: fact('zone', 101) } as const;
  change(client, { location, inboundMirrors: [mirror('link')] });
  return { world, aside, filters };
}

const request = (dstMac = SERVER) => keyOf(tcpFrame({ srcMac: CLIENT, dstMac }), 1);
const out = (port: number): Action => ({ type: 'output', port });

/** Where copies go and what is set on the way there, each by itself. */
function copiesOf(actions: readonly Action[]): Action[][] {
  const copies: Action[][] = [];
  let changes: Action[] = [];
  for (const action of actions) {
    if (action.type === 'clone') copies.push([...action.actions]);
    else if (action.type === 'output') {
      copies.push([...changes, action]);
      changes = [];
    } else changes.push(action);
  }
  return copies;
}

test('each tap of a port and of a bridge copies the packet as it is there', (t) => {
  const { world, bridge, filters, client, server, mirror } = bridged();
  const tag = (id: string, pushVlanId: number) =>
    filters.set(id, [{ type: 'l2-transform', action: 'accept', pushVlanId }]);
  const to3 = [mirror('listener 3')];
  const tagged = (copies: Action[][]) =>
    copies.map((copy) =>
      copy.map((one) => (one.type === 'push-vlan' ? one.tci & 0xfff : (one as { port: number }).port)),
    );
  const run = () => tagged(copiesOf(world.done(request()).actions));

  change(client, { inboundMirrors: to3, inboundFilters: [tag('in', 5)] });
  t.deepEqual(run(), [[3], [5, 2]]);
  change(client, { inboundMirrors: [], postInFilterMirrors: to3 });
  t.deepEqual(run(), [
    [5, 3],
    [5, 2],
  ]);
  change(client, { postInFilterMirrors: [], inboundFilters: [] });
  change(server, { preOutFilterMirrors: to3, outboundFilters: [tag('out', 6)] });
  t.deepEqual(run(), [[3], [6, 2]]);
  change(server, { preOutFilterMirrors: [], outboundMirrors: to3 });
  t.deepEqual(run(), [
    [6, 3],
    [6, 2],
  ]);
  change(server, { outboundMirrors: [], outboundFilters: [] });
  bridge.inboundMirrors = to3;
  bridge.inboundFilters = [tag('bridge', 7)];
  t.deepEqual(run(), [[3], [7, 2]]);
  bridge.inboundMirrors = [];
  bridge.outboundMirrors = to3;
  t.deepEqual(
    run(),
    [
      [7, 3],
      [7, 2],
    ],
    'tagged packets, too',
  );
});

test('taps of a router copy what comes in, and what goes out as its neighbour gets it', (t) => {
  const { world, bridge, filters, mirror } = bridged();
  const far = new TestBridge('far');
  const router = new TestRouter('router');
  world.localPort(far, 6, SERVER);
  far.ipv4(SERVER_IP).value = { mac: SERVER };
  joinToBridge(router, bridge, NEAR, 0x0a01_0001);
  const { atRouter } = joinToBridge(router, far, NEAR + 1, 0x0a02_0001);
  router.add('far', '10.2.0.0/24', { type: 'normal', port: atRouter });
  const key = keyOf(tcpFrame({ srcMac: CLIENT, dstMac: NEAR, src: 0x0a01_0002, dst: SERVER_IP }), 1);

  router.inboundMirrors = [mirror('listener 3')];
  const [asItCame, routed] = copiesOf(world.done(key).actions);
  t.deepEqual(asItCame, [out(3)]);
  t.is(routed[0].type, 'set');
  router.inboundMirrors = [];
  router.outboundMirrors = [mirror('listener 3')];
  const [[set, to], [original]] = copiesOf(world.done(key).actions);
  t.deepEqual(to, out(3));
  t.true(set.type === 'set' && set.key.ethDst === SERVER && set.key.nwTtl === 63);
  t.true(actionsEqual([original], [set]));

  filters.set('none', [{ type: 'drop' }]);
  router.inboundMirrors = [mirror('listener 4')];
  router.inboundFilters = [filters.chain('none')];
  t.deepEqual(world.done(key).actions, [out(4)]);
});

test('what is dropped behind a mirror is copied all the same', (t) => {
  const { world, filters, client, server, mirror } = bridged();
  change(client, { inboundMirrors: [mirror('listener 3')], inboundFilters: [filters.set('none', [{ type: 'drop' }])] });
  const { actions, drop } = world.done(request());
  t.deepEqual(actions, [out(3)]);
  t.is(drop, undefined);
  change(client, { inboundFilters: [], adminStateUp: false });
  t.deepEqual(world.done(request()).actions, [out(3)], 'at a port that is down');
  change(client, { inboundMirrors: [], adminStateUp: true });
  change(server, { adminStateUp: false, preOutFilterMirrors: [mirror('listener 4')] });
  t.deepEqual(world.done(request()).actions, [out(4)]);
});

test('a mirror copies what one of its conditions matches, and only that is looked at', (t) => {
  const { world, client, mirror } = bridged();
  const conditions = [{ etherType: EtherType.ARP }, { destinationPorts: { start: 80, end: 80 } }];
  change(client, { inboundMirrors: [mirror('listener 3', conditions)] });
  const web = world.done(request());
  t.deepEqual(web.actions, [out(3), out(2)]);
  t.not(web.mask.words[Word.TP_DST], 0);
  const other = world.done(keyOf(tcpFrame({ srcMac: CLIENT, dstMac: SERVER }, 1000, 81), 1));
  t.deepEqual(other.actions, [out(2)]);
  change(client, { inboundMirrors: [mirror('listener 3', [])] });
  t.deepEqual(world.done(request()).actions, [out(2)], 'without conditions, none');
  const { mask } = world.done(request());
  change(client, { inboundMirrors: undefined });
  t.true(world.done(request()).mask.equals(mask));
});

test('a copy goes to another host when the port is there, past the filters of the port', (t) => {
  const { world, aside, filters, client, mirror } = bridged();
  const tunnel = fact<TunnelPath>('tunnel', { output: TUNNEL_PORT, src: 1, dst: 2 });
  const remote = world.remotePort(aside, 0x0200_0000_0099, tunnel, 77);
  change(remote, { outboundFilters: [filters.set('none', [{ type: 'drop' }])] });
  filters.ports.set('remote', remote);
  change(client, { inboundMirrors: [mirror('remote')] });
  const { actions } = world.done(request());
  t.deepEqual(
    actions.map((action) => (action.type === 'set-tunnel' ? action.tunnel.id : action)),
    [77, out(TUNNEL_PORT), out(2)],
  );
});

test('mirrors and their ports are waited for; one that is not there copies nothing', (t) => {
  const { world, client, filters, mirror } = bridged();
  const absent = fact<MirrorFact>('absent', null);
  const unknown = fact<MirrorFact>('unknown', undefined);
  change(client, { inboundMirrors: [absent, unknown] });
  t.deepEqual(world.run(request()), { type: 'wait', missing: [unknown] });
  unknown.value = mirror('listener 3').value;
  const decision = world.done(request());
  t.deepEqual(decision.actions, [out(3), out(2)]);
  t.true([absent, unknown, filters.port('listener 3')].every((one) => decision.tags.includes(one)));
  filters.port('listener 3').value = undefined;
  t.deepEqual(world.run(request()), { type: 'wait', missing: [filters.port('listener 3')] });
});

test('mirrors of a mirror port copy its copies, but none its own', (t) => {
  const { world, client, filters, mirror } = bridged();
  const [to3, to4, to5] = [3, 4, 5].map((number) => mirror(`listener ${number}`));
  change(client, { inboundMirrors: [to3] });
  change(filters.port('listener 3'), { preOutFilterMirrors: [to4], outboundMirrors: [to3] });
  change(filters.port('listener 4'), { outboundMirrors: [to3, to5] });
  const { actions } = world.done(request());
  t.deepEqual(actions, [out(5), out(4), out(3), out(2)]);
});

test('mirrors of which each sees the copies of all others come to an end', (t) => {
  const { world, aside, filters, client, mirror } = bridged();
  const names = Array.from({ length: 10 }, (_, i) => `ring ${i}`);
  for (const [i, name] of names.entries()) filters.ports.set(name, world.localPort(aside, 10 + i));
  const mirrors = names.map((name) => mirror(name));
  for (const name of names) change(filters.port(name), { outboundMirrors: mirrors });
  change(client, { inboundMirrors: mirrors });
  const { actions, cut } = world.done(request());
  t.true(cut > 0);
  t.true(actions.length < 100);
  t.true(actions.some((action) => actionsEqual([action], [out(2)])));
});

test('a copy into another device goes its way there, and a mirror that it comes to again lets it pass', (t) => {
  const { world, bridge, aside, client, filters, mirror } = bridged();
  const [toAside] = world.link(bridge, aside);
  bridge.links.at(0).value = [];
  filters.ports.set('link', toAside);
  const toLink = mirror('link');
  change(client, { inboundMirrors: [toLink] });
  change(filters.port('listener 4'), { outboundMirrors: [toLink] });
  aside.localPorts.value = { outputs: [3, 5], ports: [filters.port('listener 4')] };
  const { actions, cut } = world.done(request());
  t.deepEqual(actions, [out(2), out(3), out(5), out(4)], 'flooded, as nobody there knows the server');
  t.is(cut, 0);
});

test('a copy of a flooded packet takes nothing from the flood', (t) => {
  const { world, bridge, aside, client, filters, mirror } = bridged();
  const [toAside] = world.link(bridge, aside);
  filters.ports.set('link', toAside);
  const plain = world.done(request(MAC_BROADCAST)).actions;
  const numbers = plain.map((action) => (action as { port: number }).port);
  t.deepEqual(numbers, [1, 2, 3, 4, 5].slice(1));
  change(client, { inboundMirrors: [mirror('link')] });
  const ports = world.done(request(MAC_BROADCAST)).actions.map((action) => (action as { port: number }).port);
  t.deepEqual(ports.sort(), [2, 3, 3, 4, 4, 5, 5]);
});

test('what another host has flooded is copied where it leaves, but not into another device', (t) => {
  const { world, bridge, aside, server, filters, mirror } = bridged();
  const [toAside] = world.link(bridge, aside);
  filters.ports.set('link', toAside);
  world.tunnelDevice(TUNNEL_PORT);
  world.targets.at(1000).value = { outputs: [], ports: [server] };
  const key = tunnelKeyOf(tcpFrame({ srcMac: CLIENT, dstMac: MAC_BROADCAST }), TUNNEL_PORT, 1000, 1);
  change(server, { outboundMirrors: [mirror('listener 3'), mirror('link')] });
  t.deepEqual(world.done(key).actions, [out(3), out(2)]);
});

test('a condition on the connection has its state asked for, and a copy is tracked nowhere', (t) => {
  const { world, client, server, filters, mirror } = bridged();
  const zoned = (port: TestFact<PortFact>, number: number, zone: number) =>
    change(port, { location: { type: 'local', output: fact('output', number), zone: fact('zone', zone) } });
  zoned(client, 1, 101);
  zoned(server, 2, 102);
  zoned(filters.port('listener 3'), 3, 103);
  change(client, { inboundMirrors: [mirror('listener 3', [{ matchForwardFlow: true }])] });
  const known = new Map();
  const recirculations = {
    get: (id: number) => fact(`recirculation ${id}`, known.get(id) ?? null),
    idOf: () => 7,
  };
  const key = request();
  const run = () => {
    const decision = simulate(key, world.ingress(1), limits(), recirculations);
    if (decision.type === 'wait') throw new Error('it waits');
    for (const { id, recirculation } of decision.recirculations) known.set(id, recirculation);
    return decision.actions;
  };
  t.deepEqual(run(), [
    { type: 'ct', zone: 101 },
    { type: 'recirc', id: 7 },
  ]);
  key.recircId = 7;
  key.ctState = 0x21;
  t.deepEqual(run(), [
    { type: 'ct', zone: 101, commit: true },
    out(3),
    { type: 'clone', actions: [{ type: 'ct', zone: 102, commit: true, nat: { kind: 'restore' } }, out(2)] },
  ]);
});

test('a copy is tracked nowhere either where it passes a device that asks for connections', (t) => {
  const { world, aside, filters } = copiedAside();
  const statefulOnly = { matchReturnFlow: true, etherType: EtherType.IPV6 };
  aside.inboundFilters = [filters.set('stateful', [{ type: 'drop', if: statefulOnly }])];
  const recirculations = { get: (id: number) => fact(`recirculation ${id}`, null), idOf: () => 7 };
  const decision = simulate(request(), world.ingress(1), limits(), recirculations);
  t.deepEqual(decision.type === 'done' && decision.actions, [out(2), out(3), out(4), out(5)]);
});

test('a copy whose source is translated is in the connections of the device that does it, and in no others', (t) => {
  const { world, aside, filters } = copiedAside();
  const sourceNat: SourceNatFact = {
    zone: fact('zone of the device', 500),
    ports: () => fact('ports', [{ first: 1024, last: 1087 }]),
    owner: () => fact('owner', null),
  };
  const targets = [{ start: '10.9.9.9', end: '10.9.9.9', ports: { start: 1024, end: 65535 } }];
  Object.assign(aside, { sourceNat });
  aside.inboundFilters = [filters.set('snat', [{ type: 'snat', action: 'accept', targets }])];
  const answered = fact<Recirculation>('answered', { ...NO_RECIRCULATION, direction: 'key' });
  const key = request();
  key.recircId = 6;
  key.ctState = 0x21;
  const decision = simulate(key, world.ingress(1), limits(), { get: () => answered, idOf: () => 7 });
  if (decision.type === 'wait') throw new Error(`it waits for ${decision.missing.map(({ tag }) => tag)}`);
  const [copy, original] = decision.actions;
  t.deepEqual(original, out(2));
  const zones = copy.type === 'clone' && copy.actions.map((one) => (one.type === 'ct' ? one.zone : one.type));
  t.deepEqual(zones, [500, 'recirc']);
  t.is(decision.actions.length, 2);
});

test('the destination of a copy is not translated: the connection is that of the packet itself', (t) => {
  const { world, aside, filters } = copiedAside();
  const targets = [{ start: '10.9.9.9', end: '10.9.9.9', ports: { start: 80, end: 80 } }];
  aside.inboundFilters = [filters.set('dnat', [{ type: 'dnat', action: 'accept', targets }])];
  const recirculations = { get: (id: number) => fact(`recirculation ${id}`, null), idOf: () => 7 };
  const decision = simulate(request(), world.ingress(1), limits(), recirculations);
  t.deepEqual(decision.type === 'done' && decision.actions, [out(2), out(3), out(4), out(5)]);
});

test('mirrors of a port that packets are redirected to know it as the port out', (t) => {
  const { world, client, server, filters, mirror } = bridged();
  filters.ports.set('server', server);
  const toServer = filters.set('redirect', [{ type: 'l2-transform', action: 'redirect', targetPortId: 'server' }]);
  change(client, { inboundFilters: [toServer] });
  change(server, { outboundMirrors: [mirror('listener 3', [{ outPortIds: [server.value!.id] }])] });
  t.deepEqual(world.done(request()).actions, [out(3), out(2)]);
});

test('the way of a packet tells of its copies', (t) => {
  const { world, client, mirror } = bridged();
  change(client, { inboundMirrors: [mirror('listener 3')] });
  const trace: TraceStep[] = [];
  simulate(request(), world.ingress(1), limits(), undefined, undefined, trace);
  t.deepEqual(
    trace.slice(0, 4).map(({ type }) => type),
    ['in', 'mirror', 'out', 'output'],
  );
});

const condition: fc.Arbitrary<Condition> = fc.record(
  {
    etherType: fc.constantFrom<number>(EtherType.IPV4, EtherType.ARP),
    source: fc.constantFrom('10.1.0.0/16', '10.1.0.1/32', '10.0.0.0/8'),
    destinationPorts: fc.constantFrom({ start: 80, end: 80 }, { start: 64, end: 127 }),
    vlanId: fc.constantFrom(5, 6),
    sourceMac: fc.constant('02:00:00:00:00:01'),
  },
  { requiredKeys: [] },
);
const plans = fc.record({
  mirrors: fc.array(
    fc.record({
      to: fc.constantFrom('listener 3', 'listener 4', 'listener 5', 'link'),
      conditions: fc.array(condition, { minLength: 1, maxLength: 3 }),
      at: fc.constantFrom('in', 'postIn', 'bridgeIn', 'bridgeOut', 'preOut', 'out', 'listener 3', 'listener 4'),
    }),
    { maxLength: 6 },
  ),
  filter: fc.constantFrom('none', 'drop', 'tag'),
});

function build(plan: typeof plans extends fc.Arbitrary<infer T> ? T : never): World {
  const { world, bridge, aside, client, server, filters } = bridged();
  filters.ports.set('link', world.link(bridge, aside)[0]);
  const at = (place: string) =>
    plan.mirrors.flatMap((spec, i) =>
      spec.at === place
        ? [fact(`mirror ${i}`, mirrorFact({ id: `${i}`, toPortId: spec.to, conditions: spec.conditions }, filters))]
        : [],
    );
  const chain = filters.set('filter', [
    plan.filter === 'tag'
      ? { type: 'l2-transform', action: 'accept', pushVlanId: 5 }
      : { type: plan.filter === 'drop' ? 'drop' : 'accept', if: { source: '10.1.0.0/17' } },
  ]);
  change(client, { inboundMirrors: at('in'), postInFilterMirrors: at('postIn'), inboundFilters: [chain] });
  change(server, { preOutFilterMirrors: at('preOut'), outboundMirrors: at('out') });
  for (const name of ['listener 3', 'listener 4']) change(filters.port(name), { outboundMirrors: at(name) });
  bridge.inboundMirrors = at('bridgeIn');
  bridge.outboundMirrors = at('bridgeOut');
  return world;
}

const keys = fc
  .record({
    dstMac: fc.constantFrom(SERVER, MAC_BROADCAST, 0x0200_0000_0077),
    src: fc.constantFrom(0x0a01_0001, 0x0a01_8001, 0x0b00_0001),
    port: fc.constantFrom(80, 81, 100, 1000),
    tag: fc.constantFrom(0, 0, 5, 6),
  })
  .map(({ dstMac, src, port, tag }) => {
    const key = keyOf(tcpFrame({ srcMac: CLIENT, dstMac, src }, 1000, port), 1);
    if (tag === 0) return key;
    key.vlanTci = VLAN_PRESENT | tag;
    key.vlanTpid = EtherType.VLAN;
    return key;
  });

test('soundness: packets that agree in the bits that mirrors looked at are copied alike', (t) => {
  fc.assert(
    fc.property(plans, keys, keys, (plan, a, other) => {
      const world = build(plan);
      const decision = world.done(a);
      const { words } = decision.mask;
      const b = new FlowKey(new Uint32Array(FLOW_KEY_WORDS));
      b.words.set(a.words.map((word, i) => (word & words[i]) | (other.words[i] & ~words[i])));
      const again = world.done(b);
      t.true(actionsEqual(again.actions, decision.actions));
      t.true(again.mask.equals(decision.mask));
    }),
    { numRuns: 400 },
  );
});

test('whatever mirrors copy, the packet goes where it would go without them', (t) => {
  fc.assert(
    fc.property(plans, keys, (plan, key) => {
      const without = copiesOf(build({ ...plan, mirrors: [] }).done(key).actions);
      const copies = copiesOf(build(plan).done(key).actions);
      for (const copy of without) {
        const at = copies.findIndex((other) => actionsEqual(other, copy));
        t.true(at >= 0);
        copies.splice(at, 1);
      }
    }),
    { numRuns: 400 },
  );
});
