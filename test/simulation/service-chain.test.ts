import test from 'ava';
import { VLAN_PRESENT } from '../../src/flow/key.js';
import type { PortFact } from '../../src/simulation/fact.js';
import {
  inboundServiceRules,
  outboundServiceRules,
  returnRules,
  serviceChainId,
} from '../../src/simulation/service-chain.js';
import type { L2Insertion } from '../../src/topology/observation.js';
import { Filters } from './filters.js';
import { fact, keyOf, TestBridge, type TestFact, tcpFrame, World } from './world.js';

const CLIENT = 0x0200_0000_0001;
const SERVER = 0x0200_0000_0002;
const UNKNOWN = 0x0200_0000_0099;

/** Ports of one bridge: client and server at 1 and 2, services at 3 and 4. */
function network(insertions: readonly Omit<L2Insertion, 'id'>[]) {
  const world = new World();
  const bridge = new TestBridge('bridge');
  const filters = new Filters();
  const ports = [
    world.localPort(bridge, 1, CLIENT),
    world.localPort(bridge, 2, SERVER),
    world.localPort(bridge, 3),
    world.localPort(bridge, 4),
  ];
  const all = insertions.map((one, i): L2Insertion => ({ id: `insertion-${i}`, ...one }));
  for (const port of ports) filters.ports.set(port.value!.id, port);
  for (const port of ports) {
    const { id } = port.value!;
    const own = all.filter(({ portId }) => portId === id);
    const served = all.filter(({ servicePortId }) => servicePortId === id);
    const inbound = filters.setAll(serviceChainId('inbound', id), inboundServiceRules(id, own));
    const outbound = filters.setAll(serviceChainId('outbound', id), outboundServiceRules(id, own));
    const service = filters.setAll(serviceChainId('service', id), returnRules(id, served));
    if (own.length > 0) change(port, { services: { inbound, outbound } });
    if (served.length > 0) change(port, { service });
  }
  return { world, filters, ports };
}

function change(port: TestFact<PortFact>, fields: object): void {
  port.value = { ...port.value!, ...fields } as PortFact;
}

/** Where a packet goes, port by port, if each service sends back what it gets: with the tag that it has there. */
function way(world: World, srcMac: number, dstMac: number, from: number, tci = 0): string[] {
  const key = keyOf(tcpFrame({ srcMac, dstMac }), from);
  key.vlanTci = tci;
  key.vlanTpid = tci === 0 ? 0 : 0x8100;
  const steps: string[] = [];
  for (let i = 0; i < 10; i++) {
    const { actions, drop } = world.done(key);
    if (drop !== undefined) return [...steps, drop];
    for (const action of actions) {
      if (action.type === 'pop-vlan') key.vlanTci = 0;
      else if (action.type === 'push-vlan') key.vlanTci = action.tci;
      else if (action.type === 'output') key.inPort = action.port;
      else throw new Error(action.type);
    }
    key.vlanTpid = key.vlanTci === 0 ? 0 : 0x8100;
    const tag = key.vlanTci === 0 ? '' : ` ${(key.vlanTci & 0xfff).toString()}/${key.vlanTci >>> 13}`;
    steps.push(`${key.inPort}${tag}`);
    if (key.inPort < 3) return steps;
  }
  return steps;
}

const ofClient = { portId: 'port-1', mac: '02:00:00:00:00:01', position: 0, failOpen: false } as const;
const ofServer = { ...ofClient, portId: 'port-2', mac: '02:00:00:00:00:02' } as const;

test('traffic of a port goes through its services in their order, both ways', (t) => {
  const { world } = network([
    { ...ofClient, servicePortId: 'port-3', vlanId: 7, position: 2 },
    { ...ofClient, servicePortId: 'port-4', vlanId: 8, position: 1 },
  ]);
  t.deepEqual(way(world, CLIENT, SERVER, 1), ['4 8/1', '3 7/1', '2']);
  t.deepEqual(way(world, SERVER, CLIENT, 2), ['4 8/2', '3 7/2', '1']);
});

test('two ports may share a service and its VLAN, also when they talk to each other', (t) => {
  const { world } = network([
    { ...ofClient, servicePortId: 'port-3' },
    { ...ofServer, servicePortId: 'port-3' },
  ]);
  t.deepEqual(way(world, CLIENT, SERVER, 1), ['3 0/1', '3 0/2', '2']);
  t.deepEqual(way(world, SERVER, CLIENT, 2), ['3 0/1', '3 0/2', '1']);
});

test('nothing gets round a service by the tag or the address that it has', (t) => {
  const { world } = network([{ ...ofClient, servicePortId: 'port-3', vlanId: 7 }]);
  for (const priority of [0, 1, 2, 4]) {
    t.deepEqual(way(world, CLIENT, SERVER, 1, VLAN_PRESENT | (priority << 13) | 7), ['filtered']);
    t.deepEqual(way(world, SERVER, CLIENT, 2, VLAN_PRESENT | (priority << 13) | 7), ['filtered']);
  }
  t.deepEqual(way(world, UNKNOWN, SERVER, 1), ['filtered']);
  t.deepEqual(way(world, CLIENT, SERVER, 3, VLAN_PRESENT | (1 << 13) | 8), ['filtered'], 'of no insertion');
});

test('a service that is down is passed over or stops the traffic, as its insertion says', (t) => {
  for (const down of [{ adminStateUp: false }, { location: null }]) {
    const { world, ports } = network([
      { ...ofClient, servicePortId: 'port-3', failOpen: true },
      { ...ofClient, servicePortId: 'port-4', position: 1 },
    ]);
    change(ports[2], down);
    t.deepEqual(way(world, CLIENT, SERVER, 1), ['4 0/1', '2']);
    t.deepEqual(way(world, SERVER, CLIENT, 2), ['4 0/2', '1']);
    change(ports[3], down);
    t.deepEqual(way(world, CLIENT, SERVER, 1), ['port-down']);
    t.deepEqual(way(world, SERVER, CLIENT, 2), ['port-down']);
  }
});

test("only what is redirected leaves at a service's port, and the filters of the protected port count once each way", (t) => {
  const { world, ports, filters } = network([{ ...ofClient, servicePortId: 'port-3' }]);
  change(ports[2], { mac: UNKNOWN });
  const [first] = ports;
  if (first.value?.type !== 'bridge') throw new Error('the port is of a bridge');
  const bridge = first.value.bridge.value as TestBridge;
  bridge.mac(UNKNOWN).value = { port: ports[2] };
  t.deepEqual(way(world, SERVER, UNKNOWN, 2), ['service-port']);
  change(first, { inboundFilters: [filters.set('in', [{ type: 'drop' }])] });
  t.deepEqual(way(world, CLIENT, SERVER, 1), ['3 0/1', 'filtered']);
  change(first, { inboundFilters: [], outboundFilters: [filters.set('out', [{ type: 'drop' }])] });
  t.deepEqual(way(world, SERVER, CLIENT, 2), ['filtered']);
  const gone = fact<number>('gone', null);
  change(first, { outboundFilters: [], location: { type: 'local', output: gone } });
  t.deepEqual(way(world, SERVER, CLIENT, 2), ['3 0/2', 'port-down']);
});
