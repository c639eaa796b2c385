import test from 'ava';
import { CtState, type FlowKey } from '../../src/flow/key.js';
import {
  type Recirculation,
  type Recirculations,
  recirculationHash,
  TRACKED_TUNNEL_KEY,
} from '../../src/simulation/connection.js';
import { simulate } from '../../src/simulation/simulate.js';
import { answer, frameOf, type Packet, send, sendInFragments } from './conversation.js';
import { Filters, type RuleSpec } from './filters.js';
import { Hosts, type NetworkSpec } from './hosts.js';
import { unsoundFlow } from './simulated-host.js';
import { fact, keyOf, limits, TestBridge, type TestFact, tcpFrame, tunnelKeyOf, World } from './world.js';

const INSIDE = [
  { name: 'client', side: 'inside', host: 0 },
  { name: 'near', side: 'inside', host: 0 },
  { name: 'far', side: 'inside', host: 1 },
  { name: 'server', side: 'outside', host: 0 },
  { name: 'remote', side: 'outside', host: 1 },
] as const;

const ONLY_ANSWERS: readonly RuleSpec[] = [{ type: 'accept', if: { matchReturnFlow: true } }, { type: 'drop' }];
const PROTOCOLS = ['tcp', 'udp', 'icmp'] as const;

function hosts(spec: Omit<NetworkSpec, 'machines'>): Hosts {
  return new Hosts({ machines: INSIDE, ...spec });
}

function packetTo(network: Hosts, name: string, protocol: Packet['protocol'] = 'tcp', srcPort = 1000): Packet {
  return { protocol, to: network.machine(name).ip, srcPort, dstPort: 80 };
}

for (const protocol of PROTOCOLS) {
  for (const peer of ['near', 'far', 'server', 'remote']) {
    test(`a port that takes only answers gets those of ${peer} over ${protocol}`, (t) => {
      const network = hosts({ ports: { client: { outbound: ONLY_ANSWERS } } });
      const unasked = packetTo(network, 'client', protocol, 2000);
      t.deepEqual(send(network, peer, { ...unasked, dstPort: 1000 }), []);
      const packet = packetTo(network, peer, protocol);
      const [there] = send(network, 'client', packet);
      t.is(there?.at, peer);
      const [back] = answer(network, packet, there);
      t.is(back?.at, 'client');
      t.deepEqual(send(network, peer, { ...unasked, srcPort: 3000 }), []);
      for (const host of network.hosts) t.is(unsoundFlow(host), undefined);
    });
  }
}

test('what opens connections to a machine needs no rule for its answers', (t) => {
  const network = hosts({ ports: { remote: { inbound: ONLY_ANSWERS } } });
  const packet = packetTo(network, 'remote');
  const [there] = send(network, 'client', packet);
  t.is(there?.at, 'remote');
  t.is(answer(network, packet, there)[0]?.at, 'client');
  t.deepEqual(send(network, 'remote', packetTo(network, 'client', 'tcp', 5)), []);
});

test('connections after the first cost no upcall', (t) => {
  const network = hosts({ ports: { client: { outbound: ONLY_ANSWERS }, remote: { inbound: ONLY_ANSWERS } } });
  const converse = (srcPort: number) => {
    const packet = packetTo(network, 'remote', 'tcp', srcPort);
    const [there] = send(network, 'client', packet);
    const [back] = answer(network, packet, there);
    return back?.at;
  };
  t.is(converse(1), 'client');
  const { upcalls } = network;
  for (let port = 2; port < 200; port++) t.is(converse(port), 'client');
  t.is(network.upcalls, upcalls);
});

test('fragments go the way of the rest of their connection', (t) => {
  const to80: RuleSpec = { type: 'accept', if: { protocol: 17, destinationPorts: { start: 80, end: 80 } } };
  const network = hosts({ ports: { client: { inbound: [to80, { type: 'drop' }], outbound: ONLY_ANSWERS } } });
  const packet = packetTo(network, 'remote', 'udp');
  const arrived = sendInFragments(network, 'client', packet);
  t.deepEqual([arrived[0]?.at, arrived[0]?.dstPort], ['remote', 80]);
  t.is(answer(network, packet, arrived[0])[0]?.at, 'client');
  t.deepEqual(sendInFragments(network, 'client', { ...packet, dstPort: 81 }), []);
});

test('what another host floods to a port that takes only answers is no answer', (t) => {
  const network = hosts({ ports: { remote: { outbound: ONLY_ANSWERS } } });
  const frame = frameOf(network, 'client', packetTo(network, 'remote'));
  const key = tunnelKeyOf(frame, 1, network.hosts[1].floodKey('remote') | TRACKED_TUNNEL_KEY, 1);
  t.is(network.hosts[1].simulate(key).drop, 'filtered');
});

/** A bridge with three ports, one with an address to translate to; recirculations are kept as they are decided. */
function floodedBridge() {
  const world = new World();
  const bridge = new TestBridge('b');
  const [, , translating] = [1, 2, 3].map((number) => {
    const port = world.localPort(bridge, number);
    port.value = {
      ...port.value!,
      location: { type: 'local', output: fact('output', number), zone: fact('zone', number) },
    };
    return port;
  });
  const target = { start: '10.1.0.9', end: '10.1.0.9', ports: { start: 80, end: 80 } };
  const chain = new Filters().set('dnat', [{ type: 'dnat', targets: [target], action: 'accept' }]);
  translating.value = { ...translating.value!, outboundFilters: [chain] };
  bridge.localPorts.value = { outputs: [2], zones: [2], ports: [translating] };
  const known = new Map<number, TestFact<Recirculation>>();
  const recirculations: Recirculations = {
    get: (id) => known.get(id) ?? fact<Recirculation>('unknown', null),
    idOf: recirculationHash,
  };
  const decide = (key: FlowKey) => {
    const decision = simulate(key, world.ingress(1), limits(), recirculations);
    if (decision.type !== 'done') throw new Error('it waits');
    for (const { id, recirculation } of decision.recirculations) known.set(id, fact('known', recirculation));
    return decision;
  };
  return { world, bridge, translating, decide };
}

const FLOODED = tcpFrame({ srcMac: 0x0200_0000_0001, dstMac: 0x0200_0000_0009 });

test('of a flooded packet only the copy that is translated comes back', (t) => {
  const { decide } = floodedBridge();
  const first = decide(keyOf(FLOODED, 1));
  const [copy, translated] = first.actions;
  t.deepEqual(first.actions.length, 2);
  t.deepEqual(copy.type === 'clone' && copy.actions.at(-1)?.type, 'recirc');
  t.deepEqual(translated, { type: 'output', port: 2 });
  const key = keyOf(FLOODED, 1);
  key.recircId = first.recirculations[0].id;
  key.ctState = CtState.TRACKED | CtState.NEW | CtState.DNAT;
  const second = decide(key);
  t.deepEqual(
    second.actions.filter(({ type }) => type === 'output'),
    [{ type: 'output', port: 3 }],
  );
});

test('what comes back to a way that is not there any more is dropped, and no flow takes it', (t) => {
  const { decide, translating } = floodedBridge();
  const key = keyOf(FLOODED, 1);
  key.recircId = decide(keyOf(FLOODED, 1)).recirculations[0].id;
  translating.value = { ...translating.value!, outboundFilters: [] };
  t.like(decide(key), { drop: 'stale-recirculation', install: false, actions: [] });
  key.recircId++;
  t.like(decide(key), { drop: 'stale-recirculation', install: false, actions: [] });
});

test('what comes back from nobody knows where is dropped, also where its connection would be asked for', (t) => {
  const network = new Hosts({
    machines: [
      { name: 'a', side: 'inside', host: 0 },
      { name: 'b', side: 'inside', host: 0 },
    ],
    bridges: { inbound: [{ type: 'drop', if: { matchReturnFlow: true } }] },
  });
  send(network, 'a', { protocol: 'udp', to: network.machine('b').ip, srcPort: 1, dstPort: 2 });
  const [host] = network.hosts;
  const asked = host.decisions.find(({ key }) => key.recircId === 0)!;
  t.is(asked.decision.actions.at(-1)?.type, 'recirc');
  const lost = asked.key.clone();
  lost.recircId = 12_345;
  t.like(host.simulate(lost), { drop: 'stale-recirculation', install: false, actions: [] });
});

test('without connection tracking what needs it is dropped', (t) => {
  const { world, bridge, translating } = floodedBridge();
  t.deepEqual(world.done(keyOf(FLOODED, 1)).actions, [{ type: 'output', port: 2 }]);
  bridge.localPorts.value = { outputs: [], ports: [translating] };
  t.like(world.done(keyOf(FLOODED, 1)), { drop: 'no-connection-state', actions: [] });
});
