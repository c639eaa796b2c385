import test from 'ava';
import fc from 'fast-check';
import { actionsEqual } from '../../src/flow/action.js';
import { CtState, FlowKey, Word } from '../../src/flow/key.js';
import { buildArpRequest } from '../../src/packet/arp.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildUdp } from '../../src/packet/udp.js';
import type { Recirculation } from '../../src/simulation/connection.js';
import type { BridgePortFact, QosFact } from '../../src/simulation/fact.js';
import { simulate } from '../../src/simulation/simulate.js';
import { Filters } from './filters.js';
import { fact, keyOf, limits, TestBridge, type TestFact, tcpFrame, World } from './world.js';

const CLIENT = 0x0200_0000_0001;
const SERVER = 0x0200_0000_0002;
/** Expedited forwarding (RFC 3246). */
const EF = 46;

function setUp() {
  const world = new World();
  const bridge = new TestBridge('bridge');
  const port = world.localPort(bridge, 1, CLIENT) as TestFact<BridgePortFact>;
  world.localPort(bridge, 2, SERVER);
  const setPolicy = (qos: TestFact<QosFact> | undefined) => {
    port.value = { ...port.value!, qos };
  };
  return { world, bridge, port, setPolicy };
}

const policy = (dscp: number | undefined) => fact<QosFact>('policy', { dscp });

function request(tos = 0): FlowKey {
  const key = keyOf(tcpFrame({ srcMac: CLIENT, dstMac: SERVER }), 1);
  key.nwTos = tos;
  return key;
}

/** The bits of the TOS that are set, and what to; undefined when none are. */
function tosSet(world: World, key: FlowKey): [mask: number, tos: number] | undefined {
  const { actions } = world.done(key);
  const [set] = actions;
  if (set.type !== 'set') return undefined;
  return [set.mask.nwTos, set.key.nwTos & set.mask.nwTos];
}

test('packets from a machine are marked, and the bits of congestion notification are let alone', (t) => {
  const { world, setPolicy } = setUp();
  setPolicy(policy(EF));
  for (const tos of [0, 3, 0x28]) t.deepEqual(tosSet(world, request(tos)), [0xfc, EF << 2]);
  t.is(world.done(request()).mask.words[Word.NW_TOS], 0, 'whatever they were marked with before');
  setPolicy(policy(0));
  t.deepEqual(tosSet(world, request(0x28)), [0xfc, 0]);
});

test('the policy of the bridge counts for ports without one', (t) => {
  const { world, bridge, setPolicy } = setUp();
  bridge.qos = policy(EF);
  t.deepEqual(tosSet(world, request()), [0xfc, EF << 2]);
  setPolicy(policy(10));
  t.deepEqual(tosSet(world, request()), [0xfc, 10 << 2]);
  setPolicy(policy(undefined));
  t.is(tosSet(world, request()), undefined);
});

test('IPv6 packets are marked, what is no IP is not', (t) => {
  const { world, setPolicy } = setUp();
  setPolicy(policy(EF));
  const bytes = buildIpv6({ src: [1, 2, 3, 4], dst: [1, 2, 3, 5], protocol: IpProtocol.UDP }, buildUdp(1, 2));
  const frame = buildEthernet({ dst: SERVER, src: CLIENT, type: EtherType.IPV6 }, bytes);
  t.deepEqual(tosSet(world, keyOf(frame, 1)), [0xfc, EF << 2]);
  const arp = keyOf(buildArpRequest(CLIENT, 1, 2), 1);
  arp.ethDst = SERVER;
  t.is(tosSet(world, arp), undefined);
});

test('only what machines send is marked, not what comes from another bridge', (t) => {
  const { world, bridge, setPolicy } = setUp();
  const far = new TestBridge('far');
  const [atBridge] = world.link(bridge, far);
  world.localPort(far, 3, 0x0200_0000_0003);
  bridge.mac(0x0200_0000_0003).value = { port: atBridge };
  far.qos = policy(EF);
  const key = keyOf(tcpFrame({ srcMac: CLIENT, dstMac: 0x0200_0000_0003 }), 1);
  t.deepEqual(world.done(key).actions, [{ type: 'output', port: 3 }]);
  setPolicy(policy(10));
  t.deepEqual(tosSet(world, key), [0xfc, 10 << 2]);
});

test('what comes in at a port with a limit passes the meter before all else, also to be asked for its connection', (t) => {
  const { world, bridge, port, setPolicy } = setUp();
  const meter = fact<number>('meter', undefined);
  const limited = fact<QosFact>('policy', {
    dscp: undefined,
    meter: (portId) => (portId === 'port-1' ? meter : other),
  });
  const other = fact<number>('another meter', 8);
  bridge.qos = limited;
  t.deepEqual(world.run(request()), { type: 'wait', missing: [meter] });
  meter.value = 7;
  t.deepEqual(world.done(request()).actions, [
    { type: 'meter', id: 7 },
    { type: 'output', port: 2 },
  ]);
  t.deepEqual(world.done(request(), 15).actions, [], 'it counts for the length of the list');
  meter.value = null;
  t.deepEqual(world.done(request()).actions, [{ type: 'output', port: 2 }]);

  meter.value = 7;
  setPolicy(limited);
  const drop = new Filters().set('none', [{ type: 'drop' }]);
  port.value = { ...port.value!, inboundFilters: [drop] };
  t.deepEqual(world.done(request()).actions, []);
  const ask = new Filters().set('ask', [{ type: 'accept', if: { matchReturnFlow: true } }]);
  const zone = fact('zone', 101);
  const location = { type: 'local', output: fact('output', 1), zone } as const;
  port.value = { ...port.value!, location, inboundFilters: [ask] };
  const returned: Recirculation[] = [];
  const recirculations = { get: (id: number) => fact(`recirculation ${id}`, returned[0]), idOf: () => 5 };
  const run = (key: FlowKey) => {
    const decision = simulate(key, world.ingress(1), limits(), recirculations);
    if (decision.type === 'wait') throw new Error('it waits');
    returned.push(...decision.recirculations.map(({ recirculation }) => recirculation));
    return decision.actions.map(({ type }) => type);
  };
  t.deepEqual(run(request()), ['meter', 'ct', 'recirc']);
  const back = request();
  back.recircId = 5;
  back.ctState = CtState.TRACKED | CtState.NEW;
  t.deepEqual(run(back), ['ct', 'output'], 'which it has passed when it comes back');
});

test('a policy is waited for, and one that is not there marks nothing', (t) => {
  const { world, setPolicy } = setUp();
  const unknown = fact<QosFact>('policy', undefined);
  setPolicy(unknown);
  t.deepEqual(world.run(request()), { type: 'wait', missing: [unknown] });
  unknown.value = null;
  t.deepEqual(world.done(request()).actions, [{ type: 'output', port: 2 }]);
});

test('soundness: packets that agree in the bits that were looked at are marked alike', (t) => {
  const tos = fc.nat(255);
  const ethType = fc.constantFrom(EtherType.IPV4, EtherType.IPV6, EtherType.ARP);
  fc.assert(
    fc.property(fc.option(fc.nat(63), { nil: undefined }), tos, tos, ethType, ethType, (dscp, a, b, typeA, typeB) => {
      const { world, setPolicy } = setUp();
      setPolicy(policy(dscp));
      const first = request(a);
      first.ethType = typeA;
      const other = request(b);
      other.ethType = typeB;
      const decision = world.done(first);
      const { words } = decision.mask;
      const again = world.done(
        new FlowKey(first.words.map((word, i) => (word & words[i]) | (other.words[i] & ~words[i]))),
      );
      t.true(actionsEqual(again.actions, decision.actions));
      t.true(again.mask.equals(decision.mask));
    }),
  );
});
