import test from 'ava';
import fc from 'fast-check';
import type { FlowKey } from '../../src/flow/key.js';
import { buildArpRequest } from '../../src/packet/arp.js';
import { type Recirculation, type Recirculations, recirculationHash } from '../../src/simulation/connection.js';
import { explain, formatPasses } from '../../src/simulation/explain.js';
import { simulate } from '../../src/simulation/simulate.js';
import type { TraceStep } from '../../src/simulation/trace.js';
import { Filters, type RuleSpec } from './filters.js';
import { joinToBridge, TestRouter } from './routers.js';
import { fact, keyOf, limits, TestBridge, tcpFrame, World } from './world.js';

const CLIENT = 0x0200_0000_0001;
const SERVER = 0x0200_0000_0002;
const NEAR = 0x0200_0000_0011;
const FAR = 0x0200_0000_0012;
const CLIENT_IP = 0x0a01_0002;
const SERVER_IP = 0x0a02_0002;

/** Client at port 1 of a bridge, past a firewall; server at port 2 of another; a router between them. */
function network(rules: readonly RuleSpec[]) {
  const world = new World();
  const near = new TestBridge('near');
  const far = new TestBridge('far');
  const router = new TestRouter('router');
  const client = world.localPort(near, 1, CLIENT);
  world.localPort(far, 2, SERVER);
  far.ipv4(SERVER_IP).value = { mac: SERVER };
  joinToBridge(router, near, NEAR, 0x0a01_0001);
  const { atRouter } = joinToBridge(router, far, FAR, 0x0a02_0001);
  router.add('to-far', '10.2.0.0/24', { type: 'normal', port: atRouter });
  const filters = new Filters();
  filters.set('trusted', [{ type: 'accept', if: { source: '10.1.0.0/24' } }]);
  client.value = { ...client.value!, inboundFilters: [filters.set('firewall', rules)] };
  return { world, near, far, client };
}

const FIREWALL: readonly RuleSpec[] = [
  { type: 'drop', if: { protocol: 6, destinationPorts: { start: 20, end: 25 } } },
  { type: 'jump', jumpChainId: 'trusted', if: { protocol: 17, inverted: ['protocol'] } },
  { type: 'reject' },
];

/** None is known beforehand: what a simulation gives a number to is found by it. */
const recirculations: Recirculations = {
  get: (id) => fact<Recirculation>(`recirculation ${id}`, null),
  idOf: recirculationHash,
};

function textOf(world: World, key: FlowKey, connection: 'new' | 'reply' = 'new'): string {
  const ingress = world.ingress(key.inPort);
  const passes = explain({ key, ingress, limits: limits(), recirculations, connection, hash: 0 });
  // The number of a recirculation is a hash of what it holds.
  return formatPasses(passes).replaceAll(/(recirc\(|recirc_id=)[1-9][0-9]*/g, '$1N');
}

function tcp(dst: number, port: number): FlowKey {
  return keyOf(tcpFrame({ srcMac: CLIENT, dstMac: NEAR, src: CLIENT_IP, dst }, 1000, port), 1);
}

test('the way of a packet through a firewall, a router and two bridges', (t) => {
  const { world } = network(FIREWALL);
  t.is(
    textOf(world, tcp(SERVER_IP, 80)),
    `tcp 10.1.0.2:1000 > 10.2.0.2:80, ttl 64, 02:00:00:00:00:01 > 02:00:00:00:00:11
in at port port-1 of a bridge
  chain firewall
    rule firewall-1 where not udp: jump to trusted
  chain trusted
    rule trusted-0 where from 10.1.0.0/24: accept
bridge near
  02:00:00:00:00:11 is behind port near-router
  out at port near-router
in at port router-near of a router
router router
  route to-far, normal
  10.2.0.2 has 02:00:00:00:00:02
  set MAC addresses to 02:00:00:00:00:12 > 02:00:00:00:00:02
  set TTL to 63
  out at port router-far
in at port far-router of a bridge
bridge far
  02:00:00:00:00:02 is behind port port-2
  out at port port-2
  sent: output(2)
actions: set(eth_src=02:00:00:00:00:12 eth_dst=02:00:00:00:00:02 nw_ttl=63), output(2)
flow: in_port=1 recirc_id=0 eth_src=02:00:00:00:00:01 eth_dst=02:00:00:00:00:11 vlan=none eth_type=0x0800 \
nw_src=10.1.0.0/24 nw_dst=10.2.0.2 nw_proto=6 nw_ttl=64 nw_frag=0 tp_dst=64/0xffc0
`,
  );
});

test('why a packet is dropped', (t) => {
  const { world } = network(FIREWALL);
  t.is(
    textOf(world, tcp(SERVER_IP, 22)),
    `tcp 10.1.0.2:1000 > 10.2.0.2:22, ttl 64, 02:00:00:00:00:01 > 02:00:00:00:00:11
in at port port-1 of a bridge
  chain firewall
    rule firewall-0 where tcp, to ports 20-25: drop
  dropped: filtered
actions: drop (filtered)
flow: in_port=1 recirc_id=0 vlan=none eth_type=0x0800 nw_proto=6 nw_frag=0 tp_dst=20/0xfffc
`,
  );
  t.is(
    textOf(world, tcp(0x0a03_0001, 80)).split('\n').slice(10).join('\n'),
    `router router
  told the sender out of port router-near: ICMP error type 3 code 0
  dropped: no-route
actions: drop (no-route)
no flow: each such packet is looked at
`,
  );
});

test('what is answered, and what a packet waits for', (t) => {
  const { world, near, far } = network([]);
  near.ipv4(0x0a01_0005).value = { mac: SERVER };
  t.is(
    textOf(world, keyOf(buildArpRequest(CLIENT, CLIENT_IP, 0x0a01_0005), 1)),
    `arp who-has 10.1.0.5 tell 10.1.0.2, 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff
in at port port-1 of a bridge
  chain firewall
    no further rule matches
bridge near
  answered out of port port-1 with 020000000001020000000002080600010800060400020200000000020a0100050200000000010a010002
actions: drop
no flow: each such packet is looked at
`,
  );
  far.ipv4(SERVER_IP).value = undefined;
  t.is(
    textOf(world, tcp(SERVER_IP, 80)).split('\n').slice(-4).join('\n'),
    `  route to-far, normal
  waits for address ${SERVER_IP}
waits for: address ${SERVER_IP}
`,
  );
});

test('a packet that has to come back with the state of its connection is followed', (t) => {
  const { world, client } = network([
    { type: 'accept', if: { matchReturnFlow: true } },
    { type: 'drop', if: { destinationPorts: { start: 22, end: 22 } } },
  ]);
  const location = { type: 'local', output: fact('output', 1), zone: fact('zone', 7) } as const;
  client.value = { ...client.value!, location };
  const ofReply = textOf(world, tcp(SERVER_IP, 22), 'reply').split('\n');
  t.deepEqual(ofReply.slice(0, 6), [
    'tcp 10.1.0.2:1000 > 10.2.0.2:22, ttl 64, 02:00:00:00:00:01 > 02:00:00:00:00:11',
    'in at port port-1 of a bridge',
    '  chain firewall',
    '  has to come back with the state of its connection in zone 7',
    'actions: ct(zone 7), recirc(N)',
    'flow: in_port=1 recirc_id=0 vlan=none eth_type=0x0800 nw_frag=0',
  ]);
  t.deepEqual(ofReply.slice(7, 12), [
    'tcp 10.1.0.2:1000 > 10.2.0.2:22, ttl 64, 02:00:00:00:00:01 > 02:00:00:00:00:11, come back',
    'in at port port-1 of a bridge',
    '  chain firewall',
    '  replies on its connection',
    '    rule firewall-0 where replies: accept',
  ]);
  t.true(ofReply.includes('  sent: output(2)'));
  const ofNew = textOf(world, tcp(SERVER_IP, 22));
  t.regex(ofNew, /goes the way that its connection was opened\n {4}rule firewall-1 .*: drop\n {2}dropped: filtered\n/);
});

test('a packet that has to come back with a hash and translated is followed', (t) => {
  const target = (address: string) => ({ start: address, end: address, ports: { start: 8080, end: 8080 } });
  const targets = [target('10.2.0.2'), target('10.2.0.3')];
  const { world, client } = network([
    { type: 'dnat', action: 'accept', targets, if: { destination: '10.5.0.1/32', protocol: 6 } },
  ]);
  const location = { type: 'local', output: fact('output', 1), zone: fact('zone', 7) } as const;
  client.value = { ...client.value!, location };
  const passes = textOf(world, tcp(0x0a05_0001, 80)).split('\n\n');
  const rule = `in at port port-1 of a bridge
  chain firewall
    rule firewall-0 where tcp, to 10.5.0.1/32: dnat, then accept
`;
  const macs = 'ttl 64, 02:00:00:00:00:01 > 02:00:00:00:00:11';
  t.is(passes.length, 3);
  t.is(
    passes[0],
    `tcp 10.1.0.2:1000 > 10.5.0.1:80, ${macs}
${rule}  has to come back with a hash
actions: hash(28014), recirc(N)
flow: in_port=1 recirc_id=0 vlan=none eth_type=0x0800 nw_dst=10.5.0.1 nw_proto=6 nw_frag=0`,
  );
  t.is(
    passes[1],
    `tcp 10.1.0.2:1000 > 10.5.0.1:80, ${macs}, come back
${rule}  bucket 0 of its hash
  has to come back with another destination: zone 7, nat dst 10.2.0.2 port 8080
actions: ct(zone 7, commit, nat dst 10.2.0.2 port 8080), recirc(N)
flow: in_port=1 recirc_id=N dp_hash=0/0x1 vlan=none eth_type=0x0800 nw_dst=10.5.0.1 nw_proto=6 nw_frag=0`,
  );
  t.true(
    passes[2].startsWith(`tcp 10.1.0.2:1000 > 10.2.0.2:8080, ${macs}, come back
${rule}  has another destination from here on
bridge near
`),
  );
  t.true(passes[2].includes('  10.2.0.2 has 02:00:00:00:00:02\n'));
  t.true(passes[2].includes('\nflow: in_port=1 recirc_id=N ct_state=+dnat '));
});

const conditions = fc.record(
  {
    source: fc.constantFrom('10.1.0.0/16', '10.1.0.2/32', '10.9.0.0/16'),
    destinationPorts: fc.constantFrom({ start: 80, end: 80 }, { start: 0, end: 79 }),
    matchReturnFlow: fc.constant(true),
  },
  { requiredKeys: [] },
);
const rules: fc.Arbitrary<readonly RuleSpec[]> = fc.array(
  fc.oneof(
    fc.record({ type: fc.constantFrom('accept', 'drop', 'reject', 'return', 'continue'), if: conditions }),
    fc.record({ type: fc.constant('jump'), jumpChainId: fc.constantFrom('trusted', 'firewall'), if: conditions }),
    fc.record({
      type: fc.constant('l2-transform'),
      action: fc.constantFrom('accept', 'continue'),
      pushVlanId: fc.constantFrom(5, undefined),
      if: conditions,
    }),
  ) as fc.Arbitrary<RuleSpec>,
  { maxLength: 5, size: 'max' },
);
const frames = fc.oneof(
  fc
    .record({
      dstMac: fc.constantFrom(NEAR, NEAR, NEAR, SERVER, 0xffff_ffff_ffff),
      dst: fc.constantFrom(SERVER_IP, SERVER_IP, 0x0a03_0001, 0x0a01_0001, 0xe000_0001),
      port: fc.constantFrom(22, 80),
    })
    .map(({ dstMac, dst, port }) => tcpFrame({ srcMac: CLIENT, dstMac, src: CLIENT_IP, dst }, 1000, port)),
  fc.constantFrom(SERVER_IP, 0x0a01_0001, CLIENT_IP).map((target) => buildArpRequest(CLIENT, CLIENT_IP, target)),
);

test('a decision is the same whether or not it is traced', (t) => {
  const kinds = new Set<TraceStep['type']>();
  fc.assert(
    fc.property(rules, frames, fc.boolean(), fc.boolean(), (firewall, frame, isKnown, hasZone) => {
      const { world, far, client } = network(firewall);
      if (!isKnown) far.ipv4(SERVER_IP).value = undefined;
      const zone = hasZone ? fact('zone', 7) : undefined;
      client.value = { ...client.value!, location: { type: 'local', output: fact('output', 1), zone } };
      const run = (trace?: TraceStep[]) =>
        simulate(keyOf(frame, 1), world.ingress(1), limits(), recirculations, frame, trace);
      const steps: TraceStep[] = [];
      t.deepEqual(run(steps), run());
      for (const { type } of steps) kinds.add(type);
    }),
    { numRuns: 300 },
  );
  for (const type of ['rule', 'drop', 'output', 'flood', 'wait', 'ask', 'answer', 'reply', 'set'] as const) {
    t.true(kinds.has(type), type);
  }
});
