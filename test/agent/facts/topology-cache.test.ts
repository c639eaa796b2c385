import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { Cell } from '../../../src/agent/facts/cell.js';
import { TopologyCache } from '../../../src/agent/facts/topology-cache.js';
import { MemoryNetwork } from '../../../src/datapath/memory/network.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { parseIpv4 } from '../../../src/packet/address.js';
import type { TunnelPath } from '../../../src/simulation/fact.js';
import type { BridgePort } from '../../../src/topology/types.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';
import { until } from '../until.js';

const MAC = 0x0200_0000_0001;
const IP = parseIpv4('10.0.0.1')!;

async function setUp(t: ExecutionContext) {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const repository = new TopologyRepository(nsdb.store());
  await repository.initialize();
  const bridgeId = (await repository.create('bridge', { id: randomUUID(), name: 'b' })).id;
  const hosts: string[] = [];
  for (const name of ['a', 'b', 'c']) hosts.push((await repository.create('host', { id: randomUUID(), name })).id);
  const clock = { now: 0 };
  const changed: string[] = [];
  const forgotten: string[] = [];
  const tunnels = new Map<string, Cell<TunnelPath>>();
  const outputs = new Map<string, Cell<number>>();
  const zones = new Map<string, Cell<number>>();
  const errors: string[] = [];
  const cellIn = <T>(map: Map<string, Cell<T>>, key: string) => {
    const cell = map.get(key) ?? new Cell<T>(key, { onChange: () => {} });
    map.set(key, cell);
    return cell;
  };
  const store = nsdb.store();
  const cache = new TopologyCache(
    new TopologyRepository(store),
    hosts[0],
    (id) => cellIn(tunnels, id),
    (id) => ({ output: cellIn(outputs, id), zone: cellIn(zones, id) }),
    () => ({ ready: Promise.resolve(), close: () => {} }),
    undefined,
    new MemoryNetwork({ now: () => clock.now }).node(1).datapath('dp'),
    (id) => forgotten.push(id),
    () => {},
    (cell) => changed.push(cell.tag),
    () => clock.now,
    pino({ level: 'error' }, { write: (line: string) => errors.push(line) }),
  );
  const loaded = async <T>(cell: Cell<T>) => {
    cache.load(cell as Cell<unknown>);
    await until(`${cell.tag} is in hand`, () => cell.value !== undefined);
    return cell.value;
  };
  const port = (hostId?: string): BridgePort => ({
    id: randomUUID(),
    bridgeId,
    adminStateUp: true,
    mac: '02:00:00:00:00:01',
    addresses: ['10.0.0.1', 'fd00::1'],
    binding: hostId === undefined ? undefined : { hostId, interfaceName: 'eth1', tunnelKey: 7 },
  });
  return {
    nsdb,
    repository,
    cache,
    store,
    bridgeId,
    hosts,
    clock,
    changed,
    forgotten,
    tunnels,
    outputs,
    zones,
    errors,
    loaded,
    port,
  };
}

test('facts are read when they are needed, and follow the NSDB', async (t) => {
  const { repository, cache, hosts, bridgeId, tunnels, outputs, zones, loaded, port, store } = await setUp(t);
  const there = port(hosts[1]);
  await repository.create('port', there);
  t.is(store.metrics.tracked, 0);
  const bridge = cache.bridge(bridgeId);
  t.is(cache.bridge(bridgeId), bridge);
  t.is(await loaded(bridge.cell), bridge);
  t.deepEqual(await loaded(bridge.mac(MAC)), { port: cache.port(there.id) });
  t.deepEqual(await loaded(bridge.ipv4(IP)), { mac: MAC });
  t.deepEqual(await loaded(bridge.ipv6(Uint32Array.from([9, 0xfd00_0000, 0, 0, 1]), 1)), { mac: MAC });
  t.is(await loaded(bridge.mac(MAC + 1)), null);
  t.is(await loaded(bridge.ipv4(IP + 1)), null);
  const fact = cache.port(there.id);
  t.deepEqual(await loaded(fact), {
    type: 'bridge',
    id: there.id,
    adminStateUp: true,
    mac: MAC,
    addresses: [Uint32Array.of(IP), Uint32Array.of(0xfd00_0000, 0, 0, 1)],
    bridge: bridge.cell,
    location: { type: 'remote', tunnel: tunnels.get(hosts[1])!, tunnelKey: 7 },
    peer: undefined,
    vlanId: undefined,
    isIsolated: false,
    qos: undefined,
    service: undefined,
    services: undefined,
    inboundFilters: [],
    outboundFilters: [],
    groupIds: new Set(),
    inboundMirrors: [],
    outboundMirrors: [],
    postInFilterMirrors: [],
    preOutFilterMirrors: [],
    inboundCaptures: undefined,
    outboundCaptures: undefined,
  });
  await repository.modify('port', there.id, (old) => ({
    ...old,
    binding: { hostId: hosts[0], interfaceName: 'eth1' },
  }));
  await until('it is here', () => fact.value?.location?.type === 'local');
  t.deepEqual(fact.value!.location, { type: 'local', output: outputs.get(there.id)!, zone: zones.get(there.id)! });
  await repository.modify('port', there.id, (old) => ({
    ...old,
    binding: { hostId: hosts[1], interfaceName: 'eth1' },
  }));
  await until('it is nowhere yet', () => fact.value?.location === null);
  await repository.delete('port', there.id);
  await until(
    'it is gone',
    () => fact.value === null && bridge.mac(MAC).value === null && bridge.ipv4(IP).value === null,
  );
  t.is(await loaded(cache.port(randomUUID())), null);
  t.is(await loaded(cache.bridge(randomUUID()).cell), null);
});

test('the other hosts of a bridge, in one order, once all of them are known', async (t) => {
  const { repository, cache, hosts, bridgeId, tunnels, changed } = await setUp(t);
  for (const [i, hostId] of hosts.entries()) await repository.setBridgeHost(bridgeId, hostId, { floodKey: i + 1 });
  const cell = cache.bridge(bridgeId).remoteHosts;
  cache.load(cell as Cell<unknown>);
  const others = hosts.slice(1).sort();
  const expected = others.map((id) => ({ tunnel: tunnels.get(id)!, floodKey: hosts.indexOf(id) + 1 }));
  await until('they are in hand', () => cell.value !== undefined);
  t.deepEqual(
    cell.value,
    others.map((id) => ({ tunnel: tunnels.get(id)!, floodKey: hosts.indexOf(id) + 1 })),
  );
  t.is(changed.filter((tag) => tag === cell.tag).length, 1);
  t.is(expected.length, 2);
  await repository.setBridgeHost(bridgeId, others[0], undefined);
  await until('one is gone', () => cell.value?.length === 1);
  await repository.setBridgeHost(bridgeId, others[0], { floodKey: 99 });
  await until('it is back', () => cell.value?.length === 2);
  t.deepEqual(cell.value?.[0], { tunnel: tunnels.get(others[0])!, floodKey: 99 });
});

test('a change of the admin state of a bridge is told, though its fact is the same object', async (t) => {
  const { repository, cache, bridgeId, changed, loaded } = await setUp(t);
  const bridge = cache.bridge(bridgeId);
  await loaded(bridge.cell);
  changed.length = 0;
  await repository.modify('bridge', bridgeId, (old) => ({ ...old, adminStateUp: false }));
  await until('that is told', () => changed.includes(bridge.cell.tag));
  t.false(bridge.adminStateUp);
  changed.length = 0;
  await repository.modify('bridge', bridgeId, (old) => ({ ...old, name: 'other' }));
  await repository.modify('bridge', bridgeId, (old) => ({ ...old, adminStateUp: true }));
  await until('that is told, and only that', () => bridge.adminStateUp);
  t.is(changed.length, 1);
});

test('what no flow has needed for a minute is given up', async (t) => {
  const { cache, bridgeId, clock, loaded, store, forgotten } = await setUp(t);
  const bridge = cache.bridge(bridgeId);
  const [idle, used] = [bridge.mac(1), bridge.mac(2)];
  const port = cache.port(randomUUID());
  for (const cell of [idle, used, port, bridge.ipv4(IP)]) await loaded(cell as Cell<unknown>);
  used.flows.add(1);
  t.is(cache.size, 4);
  clock.now = 59_999;
  cache.releaseUnused();
  t.is(cache.size, 4);
  clock.now = 60_000;
  cache.releaseUnused();
  t.is(cache.size, 1);
  t.is(store.metrics.tracked, 1);
  t.is(forgotten.length, 1);
  t.not(bridge.mac(1), idle);
  t.is(bridge.mac(2), used);
  t.is(used.value, null);
  used.flows.delete(1);
  used.idleSince = 90_000;
  clock.now = 149_999;
  cache.releaseUnused();
  t.is(cache.size, 1);
  clock.now += 60_001;
  cache.releaseUnused();
  t.is(cache.size, 0);
  t.is(store.metrics.tracked, 0);
});

test('what is of this host hides what the NSDB says, needs it not, and leaves nothing', async (t) => {
  const { nsdb, cache, hosts, bridgeId, outputs, zones, clock, port, loaded, repository } = await setUp(t);
  const elsewhere = await repository.create('port', { ...port(hosts[1]), id: randomUUID() });
  const bridge = cache.bridge(bridgeId);
  await loaded(bridge.mac(MAC));
  const here = port(hosts[0]);
  await nsdb.stop();
  cache.setLocalPort(here);
  bridge.presume(true);
  t.is(bridge.cell.value, bridge);
  t.deepEqual(bridge.mac(MAC).value, { port: cache.port(here.id) });
  t.deepEqual(bridge.ipv4(IP).value, { mac: MAC });
  t.deepEqual(bridge.neighbor('fd00::1').value, { mac: MAC });
  t.deepEqual(cache.port(here.id).value?.location, {
    type: 'local',
    output: outputs.get(here.id)!,
    zone: zones.get(here.id)!,
  });
  const [portCell, macCell] = [cache.port(here.id), bridge.mac(MAC)];
  for (let i = 0; i < 3; i++) {
    clock.now += 60_000;
    cache.releaseUnused();
  }
  t.is(bridge.mac(MAC), macCell);
  t.is(bridge.cell.value, bridge);
  cache.clearLocalPort(here);
  bridge.presume(false);
  t.deepEqual(macCell.value, { port: cache.port(elsewhere.id) });
  t.is(portCell.value, undefined);
  for (let i = 0; i < 3; i++) {
    clock.now += 60_000;
    cache.releaseUnused();
  }
  t.is(cache.size, 0);
  t.not(cache.port(here.id), portCell);
  t.not(bridge.mac(MAC), macCell);
});

test('bridges, their hosts and the ways there are given up when no port leads to them', async (t) => {
  const { cache, hosts, bridgeId, clock, loaded, store, repository, port } = await setUp(t);
  const there = await repository.create('port', { ...port(hosts[1]), id: randomUUID() });
  await repository.setBridgeHost(bridgeId, hosts[1], { floodKey: 5 });
  const bridge = cache.bridge(bridgeId);
  await loaded(bridge.cell);
  await loaded(bridge.mac(MAC));
  await loaded(cache.port(there.id));
  await loaded(bridge.remoteHosts);
  const [path] = cache.tunnelsInUse();
  t.deepEqual(cache.port(there.id).value?.location, { type: 'remote', tunnel: path, tunnelKey: 7 });
  // The bridge, the MAC, the port and the hosts.
  t.is(store.metrics.tracked, 4);
  const fact = cache.port(there.id);
  fact.flows.add(1);
  clock.now = 60_000;
  t.true(cache.releaseUnused());
  t.is(store.metrics.tracked, 1);
  t.is(cache.bridge(bridgeId), bridge, 'the port leads to it');
  t.deepEqual([...cache.tunnelsInUse()], [path]);
  t.false(cache.releaseUnused());
  fact.flows.delete(1);
  fact.idleSince = clock.now;
  clock.now += 120_000;
  t.true(cache.releaseUnused());
  t.is(store.metrics.tracked, 0);
  t.is(cache.tunnelsInUse().size, 0);
  const again = cache.bridge(bridgeId);
  t.not(again, bridge);
  t.is(await loaded(again.cell), again);
  t.is(store.metrics.tracked, 1);
});

test('a port that a MAC address led to, and no packet asked for, is given up with the MAC address', async (t) => {
  const { cache, hosts, bridgeId, clock, loaded, repository, port, forgotten } = await setUp(t);
  const there = await repository.create('port', { ...port(hosts[1]), id: randomUUID() });
  const mac = cache.bridge(bridgeId).mac(MAC);
  await loaded(mac);
  const fact = cache.port(there.id);
  t.deepEqual(mac.value, { port: fact });
  clock.now = 60_000;
  t.true(cache.releaseUnused());
  t.deepEqual(forgotten, [there.id]);
  t.not(cache.port(there.id), fact);
});

test('a fact that is given up does not take along its successor of the same name', async (t) => {
  const { cache, hosts, clock, port, loaded } = await setUp(t);
  const here = port(hosts[0]);
  const old = cache.port(here.id);
  await loaded(old);
  clock.now = 60_000;
  cache.releaseUnused();
  // Somebody who still held the old one needs it again.
  await loaded(old);
  cache.setLocalPort(here);
  const now = cache.port(here.id);
  t.not(now, old);
  clock.now = 120_000;
  cache.releaseUnused();
  t.is(cache.port(here.id), now);
});

test('a port that a route leads to is one fact, also when no packet has come that way for a while', async (t) => {
  const { cache, bridgeId, clock, loaded, repository } = await setUp(t);
  const routerId = (await repository.create('router', { id: randomUUID(), name: 'r' })).id;
  const mac = '02:00:00:00:00:99';
  const subnets = ['10.0.0.254/24'];
  const down = await repository.create('port', { id: randomUUID(), routerId, mac, subnets });
  const up = await repository.create('port', { id: randomUUID(), bridgeId, peerId: down.id });
  await repository.create('route', {
    id: randomUUID(),
    routerId,
    type: 'normal',
    destination: '10.0.0.0/24',
    nextHopPortId: down.id,
  });
  const router = cache.router(routerId).cell;
  await loaded(router);
  const port = cache.port(down.id);
  await loaded(port);
  const peer = cache.port(up.id);
  await loaded(peer);
  const entry = cache.bridge(bridgeId).mac(0x0200_0000_0099);
  await until('the bridge knows the MAC address of the router', () => entry.value?.port === peer);
  router.flows.add(1);
  peer.flows.add(1);
  entry.flows.add(1);
  clock.now = 60_000;
  t.true(cache.releaseUnused());
  t.false(port.started);
  t.is(cache.port(down.id), port);
  await loaded(port);
  await until('the bridge knows it again', () => entry.value?.port === peer);
});
