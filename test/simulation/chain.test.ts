import test from 'ava';
import type { Action } from '../../src/flow/action.js';
import { type FlowKey, VLAN_PRESENT } from '../../src/flow/key.js';
import { parseIpv6 } from '../../src/packet/address.js';
import { buildArpRequest } from '../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmp, buildIcmpEcho, IcmpType } from '../../src/packet/icmp.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildNeighborAdvertisement, buildNeighborSolicitation } from '../../src/packet/nd.js';
import { buildUdp } from '../../src/packet/udp.js';
import { areStateful } from '../../src/simulation/chain.js';
import { SimulationContext } from '../../src/simulation/context.js';
import type { ChainFact, Fact, PortFact, TunnelPath } from '../../src/simulation/fact.js';
import { simulate, simulateSent } from '../../src/simulation/simulate.js';
import { Filters, type RuleSpec } from './filters.js';
import { joinToBridge, TestRouter } from './routers.js';
import { fact, keyOf, limits, TestBridge, type TestFact, tcpFrame, tunnelKeyOf, World } from './world.js';

const CLIENT = 0x0200_0000_0001;
const SERVER = 0x0200_0000_0002;
const NEAR = 0x0200_0000_0011;
const FAR = 0x0200_0000_0012;
const CLIENT_IP = 0x0a01_0002;
const SERVER_IP = 0x0a02_0002;
const OUT_2: readonly Action[] = [{ type: 'output', port: 2 }];

/** Gives a port filters, groups and the like. */
function change(port: TestFact<PortFact>, fields: Partial<PortFact>): void {
  port.value = { ...port.value!, ...fields } as PortFact;
}

/** Client and server on one bridge; `chain` is the inbound filter of the client's port. */
function bridged(...rules: RuleSpec[]) {
  const world = new World();
  const bridge = new TestBridge('bridge');
  const filters = new Filters();
  const client = world.localPort(bridge, 1, CLIENT);
  const server = world.localPort(bridge, 2, SERVER);
  filters.ports.set('client', client);
  filters.ports.set('server', server);
  change(client, { inboundFilters: [filters.set('chain', rules)] });
  return { world, bridge, filters, client, server };
}

/** The same with a router between two bridges. */
function routed() {
  const world = new World();
  const near = new TestBridge('near');
  const far = new TestBridge('far');
  const router = new TestRouter('router');
  world.localPort(near, 1, CLIENT);
  world.localPort(far, 2, SERVER);
  far.ipv4(SERVER_IP).value = { mac: SERVER };
  const nearLink = joinToBridge(router, near, NEAR, 0x0a01_0001);
  const farLink = joinToBridge(router, far, FAR, 0x0a02_0001);
  router.add('far', '10.2.0.0/24', { type: 'normal', port: farLink.atRouter });
  return { world, near, far, router, nearLink, farLink, filters: new Filters() };
}

function tcp(dstMac = SERVER, dstPort = 80): FlowKey {
  return keyOf(tcpFrame({ srcMac: CLIENT, dstMac, src: CLIENT_IP, dst: SERVER_IP }, 1000, dstPort), 1);
}

const tcpTo = (port: number) => ({ protocol: 6, destinationPorts: { start: port, end: port } });

test('a packet that no rule speaks of is accepted', (t) => {
  const { world } = bridged({ type: 'drop', if: tcpTo(22) });
  t.deepEqual(world.done(tcp()).actions, OUT_2);
  t.is(world.done(tcp(SERVER, 22)).drop, 'filtered');
});

test('the first rule that matches decides, continue and trace decide nothing', (t) => {
  const { world } = bridged(
    { type: 'continue' },
    { type: 'trace', traceRequestId: 'request' },
    { type: 'accept', if: tcpTo(80) },
    { type: 'drop' },
  );
  t.deepEqual(world.done(tcp()).actions, OUT_2);
  const dropped = world.done(tcp(SERVER, 81));
  t.is(dropped.drop, 'filtered');
  t.deepEqual(dropped.actions, []);
  t.true(dropped.install, 'the datapath drops the rest');
});

test('a drop at the port comes before the bridge learns, one of the bridge does not', (t) => {
  const { world, client, bridge, filters } = bridged({ type: 'drop' });
  change(client, { mac: undefined });
  t.deepEqual(world.done(tcp()).effects, []);
  change(client, { inboundFilters: [] });
  bridge.inboundFilters = [filters.set('bridge', [{ type: 'drop' }])];
  const { drop, effects } = world.done(tcp());
  t.is(drop, 'filtered');
  t.is(effects[0].type, 'learn');
});

test('return and the end of a chain go back behind the jump, and at the top accept', (t) => {
  const { world, filters } = bridged(
    { type: 'jump', jumpChainId: 'ends' },
    { type: 'jump', jumpChainId: 'returns' },
    { type: 'drop', if: tcpTo(81) },
    { type: 'return' },
    { type: 'drop' },
  );
  filters.set('ends', [{ type: 'drop', if: tcpTo(82) }]);
  filters.set('returns', [{ type: 'jump', jumpChainId: 'deep' }, { type: 'return' }, { type: 'drop' }]);
  filters.set('deep', [{ type: 'accept', if: tcpTo(83) }]);
  t.deepEqual(world.done(tcp()).actions, OUT_2);
  t.deepEqual(world.done(tcp(SERVER, 83)).actions, OUT_2);
  for (const port of [81, 82]) t.is(world.done(tcp(SERVER, port)).drop, 'filtered');
});

test('a jump to a chain that does not exist, or was entered before, goes on behind it', (t) => {
  const { world, filters } = bridged(
    { type: 'jump', jumpChainId: 'missing' },
    { type: 'jump', jumpChainId: 'circle' },
    { type: 'drop' },
  );
  filters.set('circle', [
    { type: 'jump', jumpChainId: 'circle' },
    { type: 'jump', jumpChainId: 'chain' },
    { type: 'accept', if: tcpTo(80) },
  ]);
  t.deepEqual(world.done(tcp()).actions, OUT_2);
  t.like(world.done(tcp(SERVER, 81)), { drop: 'filtered', circles: 2 });
});

test('a chain that two others jump to is entered once, which is no circle', (t) => {
  const { world, filters } = bridged({ type: 'jump', jumpChainId: 'shared' }, { type: 'jump', jumpChainId: 'other' });
  filters.set('other', [{ type: 'jump', jumpChainId: 'shared' }]);
  filters.set('shared', [{ type: 'l2-transform', action: 'return', pushVlanId: 7 }]);
  const { actions, circles } = world.done(tcp());
  t.is(actions.length, 2, 'one tag, one output');
  t.is(circles, 0);
});

test('ten thousand chains that jump to each other take no stack', (t) => {
  const { world, filters } = bridged({ type: 'jump', jumpChainId: '0' }, { type: 'drop' });
  for (let i = 0; i < 10_000; i++) filters.set(String(i), [{ type: 'jump', jumpChainId: String(i + 1) }]);
  t.is(world.done(tcp()).drop, 'filtered');
});

test('a chain that is not in hand is waited for, also one that is jumped to', (t) => {
  const { world, filters } = bridged({ type: 'jump', jumpChainId: 'next' });
  filters.chain('next').value = undefined;
  const decision = world.run(tcp());
  t.deepEqual(decision.type === 'wait' && decision.missing, [filters.chain('next')]);
  filters.set('next', []);
  t.true(world.done(tcp()).tags.includes(filters.chain('next')), 'a change of its rules finds the flow');
});

test('filters are asked in turn until one does not accept', (t) => {
  const { world, client, filters } = bridged();
  const first = filters.set('first', [{ type: 'accept' }]);
  const second = filters.set('second', [{ type: 'drop', if: tcpTo(80) }]);
  const third = filters.set('third', [{ type: 'reject' }]);
  change(client, { inboundFilters: [first, second, third] });
  t.is(world.done(tcp()).drop, 'filtered');
  t.is(world.done(tcp(SERVER, 81)).drop, 'rejected');
});

test('every place has its filter: ports and bridges on the way in and out', (t) => {
  for (const place of ['client', 'bridge in', 'bridge out', 'server'] as const) {
    const { world, bridge, client, server, filters } = bridged();
    const drop = [filters.set('drop', [{ type: 'drop', if: tcpTo(80) }])];
    if (place === 'client') change(client, { inboundFilters: drop });
    if (place === 'bridge in') bridge.inboundFilters = drop;
    if (place === 'bridge out') bridge.outboundFilters = drop;
    if (place === 'server') change(server, { outboundFilters: drop });
    t.is(world.done(tcp()).drop, 'filtered', place);
    t.deepEqual(world.done(tcp(SERVER, 81)).actions, OUT_2, place);
    const back = keyOf(tcpFrame({ srcMac: SERVER, dstMac: CLIENT }), 2);
    t.is(world.done(back).drop, place.startsWith('bridge') ? 'filtered' : undefined, place);
  }
});

test('the filters of a bridge do not see packets with a VLAN tag, those of its ports do', (t) => {
  const { world, bridge, server, filters } = bridged();
  const drop = [filters.set('drop', [{ type: 'drop' }])];
  bridge.inboundFilters = drop;
  bridge.outboundFilters = drop;
  const key = tcp();
  key.vlanTci = VLAN_PRESENT | 5;
  key.vlanTpid = EtherType.VLAN;
  t.deepEqual(world.done(key).actions, OUT_2);
  change(server, { outboundFilters: [filters.set('tagged', [{ type: 'drop', if: { vlanId: 5 } }])] });
  t.is(world.done(key).drop, 'filtered');
});

test('a flooded packet passes the outbound filter of the bridge once, with no port to go to', (t) => {
  const { world, bridge, filters } = bridged();
  const unknown = tcp(0x0200_0000_0099);
  const setRules = (rule: RuleSpec) => {
    bridge.outboundFilters = [filters.set('out', [rule])];
  };
  setRules({ type: 'drop', if: { outPortIds: ['port-2'] } });
  t.deepEqual(world.done(unknown).actions, OUT_2);
  t.is(world.done(tcp()).drop, 'filtered');
  setRules({ type: 'drop', if: { outPortIds: ['port-2'], inverted: ['outPortIds'] } });
  t.is(world.done(unknown).drop, 'filtered');
  t.deepEqual(world.done(tcp()).actions, OUT_2);
});

test('rules tell ports of the device, their groups, that of the entry, and devices that were passed', (t) => {
  const { world, near, router, farLink, filters } = routed();
  change(world.localPort(near, 1, CLIENT), { groupIds: new Set(['clients']) });
  change(farLink.atRouter, { groupIds: new Set(['downlinks']) });
  const cases: [string, 'in' | 'out' | 'far', RuleSpec['if'], boolean][] = [
    ['in port', 'in', { inPortIds: ['router-near'] }, true],
    ['other in port', 'in', { inPortIds: ['router-far'] }, false],
    ['out port before routing', 'in', { outPortIds: ['router-far'] }, false],
    ['out port', 'out', { outPortIds: ['router-far'] }, true],
    ['in port behind routing', 'out', { inPortIds: ['router-near'] }, true],
    ['group of the entry', 'out', { portGroupId: 'clients' }, true],
    ['group of the in port', 'out', { inPortGroupId: 'clients' }, false],
    ['group of the out port', 'out', { outPortGroupId: 'downlinks' }, true],
    ['no such group', 'in', { outPortGroupId: 'downlinks' }, false],
    ['bridge passed', 'in', { traversedBridgeIds: ['near'] }, true],
    ['bridge not passed yet', 'in', { traversedBridgeIds: ['far'] }, false],
    ['the router itself', 'in', { traversedRouterIds: ['router'] }, true],
    ['all of the way', 'far', { traversedBridgeIds: ['far'], traversedRouterIds: ['router'] }, true],
  ];
  for (const [name, place, condition, dropped] of cases) {
    const drop = [filters.set('drop', [{ type: 'drop', if: condition }])];
    router.inboundFilters = place === 'in' ? drop : [];
    router.outboundFilters = place === 'out' ? drop : [];
    const far = farLink.atBridge.value!;
    if (far.type === 'bridge') Object.assign(far.bridge.value!, { inboundFilters: place === 'far' ? drop : [] });
    t.is(world.done(tcp(NEAR)).drop, dropped ? 'filtered' : undefined, name);
  }
});

test('members of address groups are facts of their own, of both sides', (t) => {
  const { world, client, filters } = bridged();
  const group = filters.group('servers', ['10.2.0.2']);
  group.rest = undefined;
  const rule: RuleSpec = { type: 'drop', if: { destinationAddressGroupId: 'servers' } };
  change(client, { inboundFilters: [filters.set('chain', [rule])] });
  const decision = world.done(tcp());
  t.is(decision.drop, 'filtered');
  t.true(decision.tags.includes(group.member('10.2.0.2')));
  filters.set('chain', [{ type: 'drop', if: { sourceAddressGroupId: 'servers' } }]);
  const waiting = world.run(tcp());
  t.deepEqual(waiting.type === 'wait' && waiting.missing, [group.member('10.1.0.2')]);
  group.member('10.1.0.2').value = null;
  t.deepEqual(world.done(tcp()).actions, OUT_2);
});

test('what a router rejects, its sender is told, by whichever filter', (t) => {
  for (const place of ['port in', 'in', 'out', 'port out'] as const) {
    const { world, router, nearLink, farLink, filters } = routed();
    const reject = [filters.set('reject', [{ type: 'reject' }])];
    if (place === 'port in') change(nearLink.atRouter, { inboundFilters: reject });
    if (place === 'in') router.inboundFilters = reject;
    if (place === 'out') router.outboundFilters = reject;
    if (place === 'port out') change(farLink.atRouter, { outboundFilters: reject });
    const { drop, install, effects } = world.done(tcp(NEAR));
    t.is(drop, 'rejected', place);
    t.false(install, 'each is to be told');
    const reply = effects.find(({ type }) => type === 'reply');
    if (reply?.type !== 'reply') return t.fail(`nothing is said at ${place}`);
    t.is(reply.port, nearLink.atRouter, place);
    t.is(reply.to, CLIENT, `${place}: not the router itself`);
    t.deepEqual(reply.reply, { type: 'error', icmpType: IcmpType.UNREACHABLE, icmpCode: 13 });
  }
});

test('what a bridge rejects is dropped, and nothing is said of what was not for the router', (t) => {
  const { world, near, nearLink, filters } = routed();
  const reject = [filters.set('reject', [{ type: 'reject' }])];
  change(nearLink.atRouter, { inboundFilters: reject });
  near.mac(0x0200_0000_0077).value = { port: nearLink.atBridge };
  const other = world.done(tcp(0x0200_0000_0077));
  t.is(other.drop, 'rejected');
  t.deepEqual(other.effects, []);
  near.inboundFilters = reject;
  const { drop, install, effects } = world.done(tcp(NEAR));
  t.is(drop, 'rejected');
  t.true(install);
  t.deepEqual(effects, []);
});

test('the sender of a first fragment that a router drops is asked for smaller packets', (t) => {
  const { world, router, filters } = routed();
  router.inboundFilters = [filters.set('drop', [{ type: 'drop', if: { fragmentPolicy: 'header' } }])];
  const ip = { src: CLIENT_IP, dst: SERVER_IP, protocol: IpProtocol.UDP, fragment: { offset: 0, more: true } };
  const datagram = buildIpv4(ip, buildUdp(1000, 2000, new Uint8Array(8)));
  const { drop, effects } = world.done(
    keyOf(buildEthernet({ src: CLIENT, dst: NEAR, type: EtherType.IPV4 }, datagram), 1),
  );
  t.is(drop, 'filtered');
  t.like(effects.find(({ type }) => type === 'reply')!, { reply: { icmpType: IcmpType.UNREACHABLE, icmpCode: 4 } });
  t.deepEqual(world.done(tcp(NEAR)).effects, [], 'a whole packet is just dropped');
});

test('what a router sends itself passes its outbound filter, and that of the port', (t) => {
  const { router, nearLink, filters } = routed();
  const echo = buildIpv4(
    { src: 0x0a01_0001, dst: CLIENT_IP, protocol: IpProtocol.ICMP },
    buildIcmpEcho(IcmpType.ECHO_REPLY, 1, 1, new Uint8Array(8)),
  );
  const key = keyOf(buildEthernet({ src: NEAR, dst: CLIENT, type: EtherType.IPV4 }, echo), 0);
  const sent = () => simulateSent(key, nearLink.atRouter, limits());
  const dropped = () => {
    const decision = sent();
    return decision.type === 'done' ? decision.drop : 'wait';
  };
  t.is(dropped(), undefined);
  const drop = [filters.set('drop', [{ type: 'drop', if: { outPortIds: ['router-near'] } }])];
  router.outboundFilters = drop;
  t.is(dropped(), 'filtered');
  const [own, other] = [parseIpv6('fd00::1')!, parseIpv6('fd00::2')!];
  for (const frame of [
    buildArpRequest(NEAR, 0x0a01_0001, CLIENT_IP),
    buildNeighborSolicitation({ src: own, srcMac: NEAR, target: other }),
    buildNeighborAdvertisement({ target: own, targetMac: NEAR, dst: other, dstMac: CLIENT }),
  ]) {
    const decision = simulateSent(keyOf(frame, 0), nearLink.atRouter, limits());
    t.like(decision, { type: 'done', drop: undefined }, 'what finds neighbours is not routed');
  }
  router.outboundFilters = [];
  change(nearLink.atRouter, { outboundFilters: drop });
  t.is(dropped(), 'filtered');
});

test('a rule puts a VLAN tag on, and another takes it off', (t) => {
  const { world, client, server, filters } = bridged({ type: 'l2-transform', action: 'accept', pushVlanId: 7 });
  const push: Action = { type: 'push-vlan', tpid: 0x8100, tci: VLAN_PRESENT | 7 };
  t.deepEqual(world.done(tcp()).actions, [push, ...OUT_2]);
  const pop: RuleSpec = { type: 'l2-transform', action: 'continue', popVlan: true, if: { vlanId: 7 } };
  change(server, { outboundFilters: [filters.set('pop', [pop, { type: 'drop', if: { vlanId: 7 } }])] });
  t.deepEqual(world.done(tcp()).actions, OUT_2, 'what was put on is off again');
  const tagged = tcp();
  tagged.vlanTci = VLAN_PRESENT | 7;
  tagged.vlanTpid = EtherType.VLAN;
  change(client, { inboundFilters: [] });
  t.deepEqual(world.done(tagged).actions, [{ type: 'pop-vlan' }, ...OUT_2]);
});

test('a rule that would take a tag off where there is none does not apply', (t) => {
  const { world } = bridged(
    { type: 'l2-transform', action: 'accept', popVlan: true },
    { type: 'l2-transform', action: 'drop' },
  );
  t.is(world.done(tcp()).drop, 'filtered');
});

test('a packet is redirected out of a port, past its filters, or into it as if it had come from there', (t) => {
  const { world, bridge, client, filters } = bridged();
  const service = world.localPort(bridge, 3);
  const drop = filters.set('drop', [{ type: 'drop' }]);
  change(service, { outboundFilters: [drop] });
  filters.ports.set('service', service);
  const redirect = { type: 'l2-transform', action: 'redirect', targetPortId: 'service' } as const;
  const use = (rule: RuleSpec) => change(client, { inboundFilters: [filters.set('chain', [rule])] });
  use({ ...redirect, pushVlanId: 9 });
  const out = [
    { type: 'push-vlan', tpid: 0x8100, tci: VLAN_PRESENT | 9 },
    { type: 'output', port: 3 },
  ];
  t.deepEqual(world.done(tcp()).actions, out as Action[]);
  use({ ...redirect, ingress: true });
  t.deepEqual(world.done(tcp()).actions, OUT_2);
  change(service, { inboundFilters: [drop] });
  t.is(world.done(tcp()).drop, 'filtered');
});

test('a packet that cannot leave at its target is dropped, or with failOpen goes on as if it had come back', (t) => {
  const { world, bridge, client, filters } = bridged();
  const service = world.localPort(bridge, 3);
  filters.ports.set('service', service);
  const redirect = { type: 'l2-transform', action: 'redirect', targetPortId: 'service' } as const;
  const downs: Partial<PortFact>[] = [{ adminStateUp: false }, { location: null }];
  for (const down of [...downs, { location: { type: 'local', output: fact<number>('gone', null) } } as const]) {
    change(service, { adminStateUp: true, ...down });
    change(client, { inboundFilters: [filters.set('chain', [redirect])] });
    t.is(world.done(tcp()).drop, 'port-down');
    change(client, { inboundFilters: [filters.set('chain', [{ ...redirect, failOpen: true }])] });
    t.deepEqual(world.done(tcp()).actions, OUT_2);
  }
});

test('packets that are redirected in a circle are dropped', (t) => {
  const { world, client, filters } = bridged();
  const redirect: RuleSpec = { type: 'l2-transform', action: 'redirect', targetPortId: 'client', ingress: true };
  change(client, { inboundFilters: [filters.set('chain', [redirect])] });
  t.is(world.done(tcp()).drop, 'too-many-devices');
});

test('what another host has flooded and a rule redirects is flooded on this host only, so that it comes to rest', (t) => {
  const { world, bridge, server, filters } = bridged();
  const tunnel = fact<TunnelPath>('tunnel', { output: 9, src: 1, dst: 2 });
  bridge.remoteHosts.value = [{ tunnel, floodKey: 5 }];
  world.tunnelDevice(9);
  world.targets.at(5).value = { outputs: [1], ports: [server] };
  const redirect: RuleSpec = { type: 'l2-transform', action: 'redirect', targetPortId: 'server', ingress: true };
  change(server, { outboundFilters: [filters.set('aside', [redirect])] });
  const frame = tcpFrame({ srcMac: CLIENT, dstMac: 0x0200_0000_0009 });
  t.deepEqual(world.done(tunnelKeyOf(frame, 9, 5, 1)).actions, [
    { type: 'output', port: 1 },
    { type: 'output', port: 1 },
    { type: 'output', port: 2 },
  ]);
  bridge.localPorts.value = { outputs: [], ports: [] };
  world.targets.at(5).value = { outputs: [], ports: [server] };
  t.is(world.done(tunnelKeyOf(frame, 9, 5, 1)).drop, 'loop');
});

test('the addresses in an ICMP error are compared, and no flow is made of that', (t) => {
  const { world } = bridged(
    { type: 'drop', if: { icmpDataSource: '10.2.0.0/24' } },
    { type: 'accept', if: { icmpDataDestination: '10.9.0.0/24' } },
    { type: 'drop', if: { protocol: 1 } },
  );
  const send = (src: number, dst: number) => {
    const quoted = buildIpv4({ src, dst, protocol: IpProtocol.UDP }, buildUdp(1, 2, new Uint8Array(8)));
    const error = buildIcmp(IcmpType.UNREACHABLE, 1, 0, quoted);
    const ip = buildIpv4({ src: CLIENT_IP, dst: SERVER_IP, protocol: IpProtocol.ICMP }, error);
    const frame = buildEthernet({ src: CLIENT, dst: SERVER, type: EtherType.IPV4 }, ip);
    return simulate(keyOf(frame, 1), world.ingress(1), limits(), undefined, frame);
  };
  t.like(send(0x0a02_0005, 0), { drop: 'filtered', install: false });
  t.like(send(0x0a03_0005, 0x0a09_0001), { drop: undefined, actions: OUT_2, install: false });
  t.like(send(0x0a03_0005, 0x0a08_0001), { drop: 'filtered', install: false });
  t.true(world.done(tcp()).install);
});

test('what needs the state of the connection is not let through without it', (t) => {
  const targets = [{ start: '10.2.0.3', end: '10.2.0.3' }];
  const stateful: RuleSpec[] = [
    { type: 'accept', if: { matchReturnFlow: true } },
    { type: 'accept', if: { matchForwardFlow: true } },
    { type: 'dnat', targets, action: 'accept' },
  ];
  for (const rule of stateful) {
    const { world } = bridged(rule);
    t.is(world.done(tcp()).drop, 'no-connection-state');
  }
});

test('whether filters may ask for the state of a connection is known behind jumps too', (t) => {
  const { filters } = bridged();
  const ask = (chains: readonly Fact<ChainFact>[] | undefined) =>
    areStateful(new SimulationContext(tcp(), limits()), chains);
  t.false(ask(undefined));
  const top = filters.set('top', [{ type: 'jump', jumpChainId: 'next' }, { type: 'drop' }]);
  const next = filters.set('next', [{ type: 'jump', jumpChainId: 'top' }]);
  t.false(ask([top]));
  next.value = undefined;
  t.is(ask([top]), undefined);
  filters.set('next', [
    { type: 'jump', jumpChainId: 'top' },
    { type: 'accept', if: { matchReturnFlow: true } },
  ]);
  t.true(ask([top]));
  t.false(ask([filters.chain('missing')]));
  t.true(ask([filters.set('nat', [{ type: 'reverse-snat', action: 'accept' }])]));
});
