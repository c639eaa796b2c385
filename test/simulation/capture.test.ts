import test from 'ava';
import fc from 'fast-check';
import { type Action, actionsEqual } from '../../src/flow/action.js';
import { FLOW_KEY_WORDS, FlowKey, Word } from '../../src/flow/key.js';
import { MAC_BROADCAST } from '../../src/packet/address.js';
import { compileCondition } from '../../src/simulation/condition.js';
import type { CaptureFact, CaptureTarget, PortFact, TunnelPath } from '../../src/simulation/fact.js';
import { simulate } from '../../src/simulation/simulate.js';
import type { TraceStep } from '../../src/simulation/trace.js';
import type { Condition } from '../../src/topology/chains.js';
import { Filters } from './filters.js';
import { fact, keyOf, limits, TestBridge, type TestFact, tcpFrame, tunnelKeyOf, World } from './world.js';

const CLIENT = 0x0200_0000_0001;
const SERVER = 0x0200_0000_0002;
const TUNNEL_PORT = 99;
const USERDATA = Uint8Array.of(0, 0, 0, 7);
const METER = 3;

const out = (port: number): Action => ({ type: 'output', port });
const toAgent: Action = { type: 'userspace', userdata: USERDATA };
/** Nothing else becomes of the packet. */
const alone: readonly Action[] = [{ type: 'meter', id: METER }, toAgent];
/** What is over the limit goes on all the same. */
const limited: Action = { type: 'clone', actions: alone };
const request = (dstPort = 2000) => keyOf(tcpFrame({ srcMac: CLIENT, dstMac: SERVER }, 1000, dstPort), 1);

/** Client (datapath port 1) and server (2) on a bridge. */
function bridged() {
  const world = new World();
  const bridge = new TestBridge('bridge');
  return { world, client: world.localPort(bridge, 1, CLIENT), server: world.localPort(bridge, 2, SERVER) };
}

function change(port: TestFact<PortFact>, fields: Partial<PortFact>): void {
  port.value = { ...port.value!, ...fields } as PortFact;
}

const here = (): CaptureTarget & { type: 'local' } => ({
  type: 'local',
  userdata: USERDATA,
  meter: fact<number>('meter', METER),
});

function captured(target: CaptureTarget, conditions: readonly Condition[] = [{}]): TestFact<CaptureFact> {
  return fact<CaptureFact>('capture', { id: 'capture', conditions: conditions.map(compileCondition), target });
}

test('what comes in is handed to the agent before the filters, what goes out behind them', (t) => {
  const { world, client, server } = bridged();
  const none = [new Filters().set('none', [{ type: 'drop' }])];
  change(client, { inboundCaptures: [captured(here())] });
  t.deepEqual(world.done(request()).actions, [limited, out(2)]);
  change(client, { inboundFilters: none });
  t.deepEqual(world.done(request()).actions, alone);
  change(client, { inboundFilters: [], inboundCaptures: undefined });
  change(server, { outboundCaptures: [captured(here())] });
  t.deepEqual(world.done(request()).actions, [limited, out(2)]);
  change(server, { outboundFilters: none });
  t.deepEqual(world.done(request()).actions, []);
});

test('the meter is waited for; without one all is handed over', (t) => {
  const { world, client } = bridged();
  const meter = fact<number>('meter', undefined);
  change(client, { inboundCaptures: [captured({ type: 'local', userdata: USERDATA, meter })] });
  t.like(simulate(request(), world.ingress(1), limits()), { type: 'wait', missing: [meter] });
  meter.value = null;
  t.deepEqual(world.done(request()).actions, [{ type: 'clone', actions: [toAgent] }, out(2)]);
});

test('only what a condition matches is captured, and only that is looked at', (t) => {
  const { world, client } = bridged();
  const { mask } = world.done(request());
  change(client, { inboundCaptures: [captured(here(), [{ destinationPorts: { start: 80, end: 80 } }])] });
  t.deepEqual(world.done(request(80)).actions, [limited, out(2)]);
  const other = world.done(request(81));
  t.deepEqual(other.actions, [out(2)]);
  t.not(other.mask.words[Word.TP_DST], 0);
  change(client, { inboundCaptures: [captured(here())] });
  t.true(world.done(request()).mask.equals(mask));
});

test('copies for another host go there by their tunnel key, which hands them over', (t) => {
  const { world, client } = bridged();
  const tunnel = fact<TunnelPath>('tunnel', { output: TUNNEL_PORT, src: 1, dst: 2 });
  change(client, { inboundCaptures: [captured({ type: 'remote', tunnel, tunnelKey: 77 })] });
  t.deepEqual(
    world.done(request()).actions.map((action) => (action.type === 'set-tunnel' ? action.tunnel.id : action)),
    [77, out(TUNNEL_PORT), out(2)],
  );
  tunnel.value = null;
  t.deepEqual(world.done(request()).actions, [out(2)], 'without a way there');

  world.ingress(TUNNEL_PORT).value = { type: 'tunnel', target: (key) => world.targets.at(key) };
  world.targets.at(77).value = { outputs: [], ports: [], capture: here() };
  const { actions, mask } = world.done(tunnelKeyOf(tcpFrame({ srcMac: CLIENT, dstMac: SERVER }), TUNNEL_PORT, 77, 2));
  t.deepEqual(actions, alone);
  t.is(mask.words[Word.TP_DST], 0);
});

test('a trace tells the copy from the packet', (t) => {
  const { world, client } = bridged();
  change(client, { inboundCaptures: [captured(here())] });
  const steps: TraceStep[] = [];
  simulate(request(), world.ingress(1), limits(), undefined, undefined, steps);
  const types = steps.map(({ type }) => type);
  t.deepEqual(types.slice(0, 4), ['in', 'capture', 'output', 'captured']);
});

const captures = fc.array(
  fc.record({
    at: fc.constantFrom<'client' | 'server'>('client', 'server'),
    way: fc.constantFrom<'inboundCaptures' | 'outboundCaptures'>('inboundCaptures', 'outboundCaptures'),
    isHere: fc.boolean(),
    conditions: fc.array(
      fc.constantFrom<Condition>(
        {},
        { protocol: 6 },
        { source: '10.1.0.0/24' },
        { destinationPorts: { start: 64, end: 127 } },
      ),
      { minLength: 1, maxLength: 2 },
    ),
  }),
  { maxLength: 5 },
);
const packets = fc
  .record({
    dstMac: fc.constantFrom(SERVER, MAC_BROADCAST, 0x0200_0000_0077),
    src: fc.constantFrom(0x0a01_0001, 0x0a01_8001),
    port: fc.constantFrom(80, 63, 1000),
  })
  .map(({ dstMac, src, port }) => keyOf(tcpFrame({ srcMac: CLIENT, dstMac, src }, 1000, port), 1));

test('whatever is captured, the packet goes where it would, and packets that agree in what was looked at are captured alike', (t) => {
  fc.assert(
    fc.property(captures, packets, packets, (wanted, a, other) => {
      const { world, client, server } = bridged();
      const without = world.done(a).actions;
      const tunnel = fact<TunnelPath>('tunnel', { output: TUNNEL_PORT, src: 1, dst: 2 });
      for (const [i, { at, way, isHere, conditions }] of wanted.entries()) {
        const port = at === 'client' ? client : server;
        const target: CaptureTarget = isHere ? here() : { type: 'remote', tunnel, tunnelKey: 77 };
        const id = `capture ${i}`;
        const capture = fact<CaptureFact>(id, { id, conditions: conditions.map(compileCondition), target });
        change(port, { [way]: [...(port.value?.[way] ?? []), capture] });
      }
      const { actions, mask } = world.done(a);
      const isOfPacket = (action: Action) => action.type === 'output' && action.port !== TUNNEL_PORT;
      t.true(actionsEqual(actions.filter(isOfPacket), without));
      const b = new FlowKey(new Uint32Array(FLOW_KEY_WORDS));
      b.words.set(a.words.map((word, i) => (word & mask.words[i]) | (other.words[i] & ~mask.words[i])));
      const again = world.done(b);
      t.true(actionsEqual(again.actions, actions));
      t.true(again.mask.equals(mask));
    }),
    { numRuns: 200 },
  );
});
