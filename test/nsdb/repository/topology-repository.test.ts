import { randomUUID } from 'node:crypto';
import { InvalidInputError, type MidonetError } from '../../../src/errors.js';
import { encodeJson } from '../../../src/nsdb/json.js';
import {
  addressPoolBlocksPath,
  bridgeAddressPoolPath,
  bridgePortPath,
  bridgeVlanLinksPath,
  hostAlivePath,
  hostLeasesPath,
  hostPortPath,
  ipPath,
  macPath,
  objectPath,
  tunnelZoneMemberPath,
} from '../../../src/nsdb/layout.js';
import { encodeLeaseEntry, leaseEntryPath, takeOperations } from '../../../src/nsdb/leases/leases.js';
import { parentPath } from '../../../src/nsdb/path.js';
import {
  ObjectConflictError,
  ObjectExistsError,
  ObjectInUseError,
  ObjectNotFoundError,
  TopologyRepository,
} from '../../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../../src/nsdb/store.js';
import { SharedTable } from '../../../src/nsdb/tables/shared-table.js';
import { ADDRESS_TABLE, LEARNED_ROUTE_TABLE, MAC_TABLE, NEIGHBOR_TABLE } from '../../../src/nsdb/tables/tables.js';
import { requireMac } from '../../../src/packet/address.js';
import { positionBetween, positionsAfter } from '../../../src/topology/position.js';
import type { Bridge, Host, Kind } from '../../../src/topology/types.js';
import { until } from '../../compliance/store.js';
import { allPaths } from '../embedded-nsdb.js';
import { test } from './repository-test.js';

const MAC = '02:00:00:00:00:01';
const OTHER_MAC = '02:00:00:00:00:02';

function bridge(repository: TopologyRepository): Promise<Bridge> {
  return repository.create('bridge', { id: randomUUID(), name: 'blue' });
}

function host(repository: TopologyRepository): Promise<Host> {
  return repository.create('host', { id: randomUUID(), name: 'node-1' });
}

/** As nothing but a mishap would. */
async function removeAll(store: Store, path: string): Promise<void> {
  for (const below of (await allPaths(store, path)).reverse()) await store.delete(below);
  await store.delete(path);
}

async function json(store: Store, path: string): Promise<unknown> {
  const node = await store.get(path);
  return node && JSON.parse(new TextDecoder().decode(node.data));
}

test('every field that is wrong is named, with its value, and nothing is written', async (t) => {
  const { repository, store } = t.context;
  const { id: bridgeId } = await bridge(repository);
  const { id: hostId } = await host(repository);
  const id = randomUUID();
  const good: Partial<Record<Kind, Record<string, unknown>>> = {
    bridge: { id, name: 'b' },
    port: { id, bridgeId, mac: MAC, addresses: ['10.0.0.1'], binding: { hostId, interfaceName: 'eth1' } },
    host: { id, name: 'h' },
    'tunnel-zone': { id, name: 'z', type: 'vxlan' },
    'address-pool': { id, bridgeId, cidr: '10.0.0.0/16', blockSize: 26 },
  };
  const binding = { hostId, interfaceName: 'eth1' };
  const zone = { zoneId: id, address: '192.0.2.1' };
  const wrong: [Kind, string, Record<string, unknown>, unknown?][] = [
    ['bridge', 'id', { id: 'x' }],
    ['bridge', 'name', { name: '' }],
    ['bridge', 'name', { name: 'a b' }],
    ['bridge', 'name', { name: 'x'.repeat(129) }],
    ['bridge', 'adminStateUp', { adminStateUp: 1 }],
    ['bridge', 'color', { color: 'blue' }],
    ['port', 'id', { id: 7 }],
    ['port', 'bridgeId', { bridgeId: 'b' }],
    ['port', 'adminStateUp', { adminStateUp: 'yes' }],
    ['port', 'mac', { mac: '02:00:00:00:00' }],
    ['port', 'mac', { mac: undefined }],
    ['port', 'addresses[1]', { addresses: ['10.0.0.1', '10.0.0.256'] }, '10.0.0.256'],
    ['port', 'addresses[1]', { addresses: ['fd00::1', 'FD00:0::1'] }, 'FD00:0::1'],
    ['port', 'addresses', { addresses: '10.0.0.1' }],
    ['port', 'binding.hostId', { binding: { ...binding, hostId: 'h' } }, 'h'],
    [
      'port',
      'binding.interfaceName',
      { binding: { ...binding, interfaceName: 'sixteen-letters-' } },
      'sixteen-letters-',
    ],
    ['port', 'binding.interfaceName', { binding: { ...binding, interfaceName: '..' } }, '..'],
    ['port', 'binding.interfaceName', { binding: { ...binding, interfaceName: 'a/b' } }, 'a/b'],
    ['port', 'binding.tunnelKey', { binding: { ...binding, tunnelKey: 0 } }, 0],
    ['port', 'binding.tunnelKey', { binding: { ...binding, tunnelKey: 0x80_0000 } }, 0x80_0000],
    ['port', 'binding.speed', { binding: { ...binding, speed: 10 } }, 10],
    ['port', 'owner', { owner: 3 }],
    ['host', 'id', { id: '' }],
    ['host', 'name', { name: '-x' }],
    ['host', 'tunnelZones[0].zoneId', { tunnelZones: [{ zoneId: 'z', address: '192.0.2.1' }] }, 'z'],
    ['host', 'tunnelZones[0].address', { tunnelZones: [{ zoneId: id, address: 'fd00::1' }] }, 'fd00::1'],
    ['host', 'tunnelZones[1].zoneId', { tunnelZones: [zone, zone] }, id],
    ['tunnel-zone', 'id', { id: null }],
    ['tunnel-zone', 'name', { name: undefined }],
    ['tunnel-zone', 'type', { type: 'stt' }],
    ['address-pool', 'id', { id: 'p' }],
    ['address-pool', 'bridgeId', { bridgeId: 1 }],
    ['address-pool', 'cidr', { cidr: '10.0.0.0' }],
    ['address-pool', 'blockSize', { blockSize: 15 }],
    ['address-pool', 'blockSize', { blockSize: 33 }],
    ['address-pool', 'blockSize', { blockSize: 20.5 }],
    ['address-pool', 'gateway', { gateway: '10.0.0' }],
  ];
  const before = await allPaths(store);
  for (const [kind, field, change, value] of wrong) {
    const input = { ...good[kind], ...change };
    const error = await t.throwsAsync<InvalidInputError>(repository.create(kind, input as never), {
      instanceOf: InvalidInputError,
    });
    t.is(error?.field, `${kind}.${field}`);
    const shown = value ?? Object.values(change)[0];
    t.true(error?.message.includes(shown === undefined ? 'got nothing' : JSON.stringify(shown)), error?.message);
  }
  t.deepEqual(await allPaths(store), before);
  for (const kind of Object.keys(good) as Kind[]) {
    await t.notThrowsAsync(repository.create(kind, { ...good[kind], id: randomUUID() } as never), kind);
  }
});

test('what is written is canonical, whole and read back the same', async (t) => {
  const { repository, store } = t.context;
  const { id: bridgeId } = await bridge(repository);
  const id = randomUUID();
  const made = await repository.create('port', {
    id,
    bridgeId,
    mac: '02:0A:00:00:00:01',
    addresses: ['FD00:0:0::1', '10.0.0.1'],
  });
  t.deepEqual(made, { id, bridgeId, adminStateUp: true, mac: '02:0a:00:00:00:01', addresses: ['fd00::1', '10.0.0.1'] });
  t.like(await repository.get('port', id), { object: made, version: 0 });
  t.deepEqual(await json(store, macPath(bridgeId, '02:0a:00:00:00:01')), { portId: id });
  t.deepEqual(await json(store, ipPath(bridgeId, 'fd00::1')), { mac: '02:0a:00:00:00:01' });
  t.deepEqual(await json(store, ipPath(bridgeId, '10.0.0.1')), { mac: '02:0a:00:00:00:01' });
});

test('a reference that leads nowhere is named', async (t) => {
  const { repository, store } = t.context;
  const { id: bridgeId } = await bridge(repository);
  const { id: hostId } = await host(repository);
  const nowhere = randomUUID();
  const before = (await allPaths(store)).filter((path) => path.split('/').length < 4);
  const check = async (field: string, call: Promise<unknown>) => {
    const error = await t.throwsAsync<ObjectNotFoundError>(call, { instanceOf: ObjectNotFoundError });
    t.like(error, { field, id: nowhere, code: 'MN_NOT_FOUND' });
    t.true(error?.message.startsWith(field));
  };
  const id = randomUUID();
  await check('port.bridgeId', repository.create('port', { id, bridgeId: nowhere }));
  const binding = { hostId: nowhere, interfaceName: 'eth1' };
  await check('port.binding.hostId', repository.create('port', { id, bridgeId, binding }));
  await check(
    'address-pool.bridgeId',
    repository.create('address-pool', { id, bridgeId: nowhere, cidr: '10.0.0.0/16', blockSize: 26 }),
  );
  await check(
    'host.tunnelZones[0].zoneId',
    repository.create('host', { id, name: 'x', tunnelZones: [{ zoneId: nowhere, address: '192.0.2.1' }] }),
  );
  const port = await repository.create('port', { id, bridgeId });
  await check('port.binding.hostId', repository.update('port', { ...port, binding }, 0));
  await check('port.bridgeId', repository.update('port', { ...port, bridgeId: nowhere }, 0));
  await check('host.tunnelZones[0].zoneId', repository.joinTunnelZone(nowhere, hostId, '192.0.2.1'));
  t.deepEqual((await repository.get('host', hostId))?.object.tunnelZones, []);
  const zone = await repository.create('tunnel-zone', { id: randomUUID(), name: 'z', type: 'gre' });
  const error = await t.throwsAsync<ObjectNotFoundError>(repository.joinTunnelZone(zone.id, nowhere, '192.0.2.1'));
  t.like(error, { kind: 'host', id: nowhere });
  await repository.delete('tunnel-zone', zone.id);
  await repository.delete('port', id);
  t.deepEqual(
    (await allPaths(store)).filter((path) => path.split('/').length < 4 && !path.startsWith('/ports/')),
    before,
  );
});

test('a MAC and an address belong to one port of a bridge, and to as many bridges as want them', async (t) => {
  const { repository } = t.context;
  const { id: bridgeId } = await bridge(repository);
  const { id: otherBridge } = await bridge(repository);
  const first = await repository.create('port', {
    id: randomUUID(),
    bridgeId,
    mac: MAC,
    addresses: ['10.0.0.1', 'fd00::1'],
  });
  const check = async (field: string, call: Promise<unknown>) => {
    const error = await t.throwsAsync<ObjectExistsError>(call, { instanceOf: ObjectExistsError });
    t.is(error?.field, field);
  };
  const id = randomUUID();
  await check('port.id', repository.create('port', { id: first.id, bridgeId }));
  await check('port.mac', repository.create('port', { id, bridgeId, mac: MAC }));
  await check('port.addresses', repository.create('port', { id, bridgeId, mac: OTHER_MAC, addresses: ['10.0.0.1'] }));
  await check('port.addresses', repository.create('port', { id, bridgeId, mac: OTHER_MAC, addresses: ['FD00:0::1'] }));
  t.is(await repository.get('port', id), undefined);
  const second = await repository.create('port', { id, bridgeId, mac: OTHER_MAC });
  await check('port.mac', repository.update('port', { ...second, mac: MAC }, 0));
  await check('port.addresses', repository.update('port', { ...second, addresses: ['10.0.0.1'] }, 0));
  await repository.create('port', { ...first, id: randomUUID(), bridgeId: otherBridge });
  await repository.delete('port', first.id);
  await repository.update('port', { ...second, mac: MAC, addresses: ['10.0.0.1'] }, 0);
});

test('an update keeps the indexes in step', async (t) => {
  const { repository, store } = t.context;
  const { id: bridgeId } = await bridge(repository);
  const { id: otherBridge } = await bridge(repository);
  const one = await host(repository);
  const two = await repository.create('host', { id: randomUUID(), name: 'node-2' });
  const id = randomUUID();
  const binding = { hostId: one.id, interfaceName: 'eth1' };
  const port = await repository.create('port', {
    id,
    bridgeId,
    mac: MAC,
    addresses: ['10.0.0.1', '10.0.0.2'],
    binding,
  });
  t.deepEqual(await repository.portsOfHost(one.id), [id]);
  await repository.update('port', { ...port, mac: OTHER_MAC, addresses: ['10.0.0.2', '10.0.0.3'] }, 0);
  t.is(await json(store, macPath(bridgeId, MAC)), undefined);
  t.deepEqual(await json(store, macPath(bridgeId, OTHER_MAC)), { portId: id });
  t.is(await json(store, ipPath(bridgeId, '10.0.0.1')), undefined);
  t.deepEqual(await json(store, ipPath(bridgeId, '10.0.0.2')), { mac: OTHER_MAC });
  t.deepEqual(await json(store, ipPath(bridgeId, '10.0.0.3')), { mac: OTHER_MAC });
  await repository.modify('port', id, (old) => ({
    ...old,
    bridgeId: otherBridge,
    binding: { ...binding, hostId: two.id },
  }));
  t.is(await json(store, macPath(bridgeId, OTHER_MAC)), undefined);
  t.deepEqual(await json(store, macPath(otherBridge, OTHER_MAC)), { portId: id });
  t.deepEqual(await repository.portsOfHost(one.id), []);
  t.deepEqual(await repository.portsOfHost(two.id), [id]);
  await repository.modify('port', id, (old) => ({ ...old, mac: undefined, addresses: [], binding: undefined }));
  t.deepEqual(await repository.portsOfHost(two.id), []);
  t.is(await json(store, macPath(otherBridge, OTHER_MAC)), undefined);
  await repository.delete('bridge', bridgeId);
  t.truthy(await repository.get('port', id));
});

test('the interior ports of a bridge are listed by VLAN, for as long as they are linked', async (t) => {
  const { repository, store } = t.context;
  const [{ id: trunk }, { id: inside }] = [await bridge(repository), await bridge(repository)];
  const linked = async (bridgeId: string, vlan: number) =>
    (await store.children(bridgeVlanLinksPath(bridgeId, vlan))) ?? [];
  const [atTrunk, atInside] = [randomUUID(), randomUUID()];
  await repository.create('port', { id: atTrunk, bridgeId: trunk, vlanId: 10 });
  t.deepEqual(await linked(trunk, 10), [], 'it leads nowhere');
  await repository.create('port', { id: atInside, bridgeId: inside, peerId: atTrunk });
  t.deepEqual([await linked(trunk, 10), await linked(inside, 0)], [[atTrunk], [atInside]]);
  await repository.modify('port', atTrunk, (port) => ({ ...port, vlanId: 20 }));
  t.deepEqual([await linked(trunk, 10), await linked(trunk, 20)], [[], [atTrunk]]);
  await repository.delete('port', atInside);
  t.deepEqual([await linked(trunk, 20), await linked(inside, 0)], [[], []]);
});

test('of writers that read the same version one wins, and modify loses nothing', async (t) => {
  const { repository } = t.context;
  const made = await bridge(repository);
  await repository.update('bridge', { ...made, name: 'one' }, 0);
  await t.throwsAsync(repository.update('bridge', { ...made, name: 'two' }, 0), { instanceOf: ObjectConflictError });
  t.like(await repository.get('bridge', made.id), { version: 1, object: { name: 'one' } });
  const counts = Array.from({ length: 10 }, () =>
    repository.modify('bridge', made.id, (old) => ({ ...old, name: `n${Number(old.name.slice(1)) + 1 || 1}` })),
  );
  await Promise.all(counts);
  t.like(await repository.get('bridge', made.id), { version: 11, object: { name: 'n10' } });
  await repository.modify('bridge', made.id, () => undefined);
  t.is((await repository.get('bridge', made.id))?.version, 11);
  const gone = randomUUID();
  await t.throwsAsync(
    repository.modify('bridge', gone, (old) => old),
    { instanceOf: ObjectNotFoundError },
  );
  await t.throwsAsync(repository.update('bridge', { id: gone, name: 'x' }, 0), { instanceOf: ObjectNotFoundError });
});

test('of many that create the same at once, in an NSDB where no shard exists, one succeeds', async (t) => {
  const { nsdb, repository } = t.context;
  const { id: bridgeId } = await bridge(repository);
  const repositories = Array.from({ length: 4 }, () => new TopologyRepository(nsdb.store()));
  const outcomes = await Promise.allSettled(
    repositories.flatMap((one) => [
      one.create('port', { id: randomUUID(), bridgeId, mac: MAC, addresses: ['10.0.0.1'] }),
      one.create('port', { id: randomUUID(), bridgeId, mac: OTHER_MAC, addresses: ['10.0.0.1'] }),
      one.create('port', { id: randomUUID(), bridgeId, mac: '02:00:00:00:00:03' }),
    ]),
  );
  t.is(outcomes.filter(({ status }) => status === 'fulfilled').length, 2);
  for (const outcome of outcomes) {
    if (outcome.status === 'rejected') t.is((outcome.reason as MidonetError).code, 'MN_ALREADY_EXISTS');
  }
  await Promise.all(repositories.map((one) => one.initialize()));
});

test('a seeded entry takes the place of a learned one', async (t) => {
  const { nsdb, repository, store } = t.context;
  const { id: bridgeId } = await bridge(repository);
  const path = macPath(bridgeId, MAC);
  const learner = new SharedTable(nsdb.store(), MAC_TABLE, bridgeId);
  await learner.learn(requireMac(MAC, 'mac'), { portId: randomUUID() });
  const { id } = await repository.create('port', { id: randomUUID(), bridgeId, mac: MAC });
  t.deepEqual(await json(store, path), { portId: id });
  t.is((await store.get(path))?.stat.ephemeralOwner, undefined);
});

test('tables go with the object that they belong to', async (t) => {
  const { nsdb, repository, store } = t.context;
  const { id: bridgeId } = await bridge(repository);
  const { id: routerId } = await repository.create('router', { id: randomUUID(), name: 'r' });
  const port = await repository.create('port', { id: randomUUID(), bridgeId, mac: MAC });
  const neighbors = new SharedTable(nsdb.store(), NEIGHBOR_TABLE, port.id);
  await neighbors.put('10.0.0.1', { mac: MAC });
  await neighbors.learn('fd00::1', { mac: MAC });
  const ofPort = async () => (await allPaths(store)).filter((path) => path.includes(port.id));
  t.is((await ofPort()).filter((path) => path.includes('/neighbors/')).length, 4);
  await repository.delete('port', port.id);
  await until('the learner knows', () => neighbors.learnedCount === 0);
  t.deepEqual(await ofPort(), []);
  const routes = new SharedTable(nsdb.store(), LEARNED_ROUTE_TABLE, routerId);
  await routes.put({ destination: '10.0.0.0/8', nextHop: '192.0.2.1', portId: port.id }, { weight: 1 });
  const addresses = new SharedTable(nsdb.store(), ADDRESS_TABLE, routerId);
  await addresses.put('192.0.2.7', { portId: port.id, hostId: randomUUID() });
  await repository.delete('router', routerId);
  t.is(await store.exists(`/routers/${routerId}`), undefined);
});

test('membership of a tunnel zone', async (t) => {
  const { repository, store } = t.context;
  const { id: hostId } = await host(repository);
  const zone = await repository.create('tunnel-zone', { id: randomUUID(), name: 'z', type: 'vxlan' });
  const path = tunnelZoneMemberPath(zone.id, hostId);
  const error = await t.throwsAsync<InvalidInputError>(repository.joinTunnelZone(zone.id, hostId, '192.0.2'));
  t.is(error?.field, 'tunnelZoneMember.address');
  await Promise.all([1, 2, 3].map(() => repository.joinTunnelZone(zone.id, hostId, '192.0.2.1')));
  t.deepEqual((await repository.get('host', hostId))?.object.tunnelZones, [{ zoneId: zone.id, address: '192.0.2.1' }]);
  const { version } = (await repository.get('host', hostId))!;
  await repository.joinTunnelZone(zone.id, hostId, '192.0.2.1');
  t.is((await repository.get('host', hostId))?.version, version);
  await repository.joinTunnelZone(zone.id, hostId, '192.0.2.2');
  t.deepEqual(await json(store, path), { address: '192.0.2.2' });
  await repository.leaveTunnelZone(zone.id, hostId);
  await repository.leaveTunnelZone(zone.id, hostId);
  t.deepEqual((await repository.get('host', hostId))?.object.tunnelZones, []);
  t.is(await store.get(path), undefined);
});

test('a host is not deleted while its agent runs', async (t) => {
  const { repository, store } = t.context;
  const { id } = await host(repository);
  await store.create(hostAlivePath(id), encodeJson({}), { ephemeral: true });
  const error = await t.throwsAsync<ObjectInUseError>(repository.delete('host', id), { instanceOf: ObjectInUseError });
  t.is(error?.code, 'MN_REFERENCED');
  t.truthy(await repository.get('host', id));
  await store.delete(hostAlivePath(id));
  await repository.delete('host', id);
  t.is(await repository.get('host', id), undefined);
});

test('deleting takes along what belongs to the object, and leaves nothing', async (t) => {
  const { nsdb, repository, store } = t.context;
  const shards = (paths: readonly string[]) => paths.filter((path) => !/^\/ports\/..$/.test(path));
  const before = await allPaths(store);
  const blue = await bridge(repository);
  const node = await host(repository);
  const zone = await repository.create('tunnel-zone', { id: randomUUID(), name: 'z', type: 'vxlan' });
  await repository.joinTunnelZone(zone.id, node.id, '192.0.2.1');
  const pool = await repository.create('address-pool', {
    id: randomUUID(),
    bridgeId: blue.id,
    cidr: '10.0.0.0/16',
    blockSize: 26,
  });
  await leaseBlock(store, node.id, pool.id, '0a000000');
  const ports = [];
  for (let i = 1; i <= 20; i++) {
    const mac = `02:00:00:00:01:${i.toString(16).padStart(2, '0')}`;
    const binding = { hostId: node.id, interfaceName: `eth${i}`, tunnelKey: i };
    const port = { id: randomUUID(), bridgeId: blue.id, mac, addresses: [`10.0.1.${i}`, `fd00::${i}`], binding };
    ports.push(await repository.create('port', port));
  }
  await repository.setBridgeHost(blue.id, node.id, { floodKey: 99 });
  await repository.setBridgeHost(blue.id, node.id, { floodKey: 100 });
  const table = new SharedTable(nsdb.store(), MAC_TABLE, blue.id);
  await table.learn(requireMac(OTHER_MAC, 'mac'), { portId: ports[0].id });

  await repository.delete('port', ports[0].id);
  await repository.delete('port', ports[0].id);
  t.is((await repository.portsOfHost(node.id)).length, 19);
  await repository.delete('host', node.id);
  t.is((await repository.get('port', ports[1].id))?.object.binding, undefined);
  t.deepEqual(await store.children(`/bridges/${blue.id}/hosts`), []);
  t.deepEqual(await store.children(`/tunnel-zones/${zone.id}/hosts`), []);
  await repository.delete('bridge', blue.id);
  t.is(await repository.get('port', ports[1].id), undefined);
  t.is(await repository.get('address-pool', pool.id), undefined);
  await repository.delete('tunnel-zone', zone.id);
  t.deepEqual(shards(await allPaths(store)), before);
});

/** Make the lease of a block, and its folders. */
async function leaseBlock(store: Store, hostId: string, poolId: string, block: string): Promise<void> {
  const path = `${addressPoolBlocksPath(poolId, '000')}/${block}`;
  const entryPath = leaseEntryPath(hostId, poolId, path);
  await store.ensure(parentPath(path)!);
  await store.ensure(parentPath(entryPath)!);
  await store.multi(takeOperations({ hostId }, path, entryPath));
}

test('deleting a pool or a zone leaves nothing at the hosts', async (t) => {
  const { repository, store } = t.context;
  const blue = await bridge(repository);
  const node = await host(repository);
  const before = await allPaths(store);
  const pool = await repository.create('address-pool', {
    id: randomUUID(),
    bridgeId: blue.id,
    cidr: '10.0.0.0/16',
    blockSize: 26,
  });
  await store.ensure(`${hostLeasesPath(node.id)}/${pool.id}/0a000000`);
  const zone = await repository.create('tunnel-zone', { id: randomUUID(), name: 'z', type: 'gre' });
  await repository.joinTunnelZone(zone.id, node.id, '192.0.2.1');
  await repository.delete('address-pool', pool.id);
  await repository.delete('tunnel-zone', zone.id);
  t.deepEqual(await allPaths(store), before);
  t.deepEqual((await repository.get('host', node.id))?.object.tunnelZones, []);
});

for (const missing of ['an index entry', 'the folder of its entry', 'its bridge'] as const) {
  test(`a port is deleted when ${missing} is missing, with few calls`, async (t) => {
    const { repository, store } = t.context;
    const { id: bridgeId } = await bridge(repository);
    const { id: hostId } = await host(repository);
    const id = randomUUID();
    const binding = { hostId, interfaceName: 'eth1' };
    await repository.create('port', { id, bridgeId, mac: MAC, addresses: ['10.0.0.1', 'fd00::1'], binding });
    await store.delete(ipPath(bridgeId, 'fd00::1'));
    if (missing !== 'an index entry') await store.delete(parentPath(ipPath(bridgeId, 'fd00::1'))!);
    if (missing === 'its bridge') await removeAll(store, objectPath('bridge', bridgeId));
    await repository.delete('port', id, AbortSignal.timeout(2000));
    t.is(await repository.get('port', id), undefined);
    t.deepEqual(await repository.portsOfHost(hostId), []);
    if (missing !== 'its bridge') await repository.create('port', { id, bridgeId, mac: MAC, addresses: ['10.0.0.1'] });
  });
}

test('a bridge whose lists name what does not exist is deleted, and only its own ports with it', async (t) => {
  const { repository, store } = t.context;
  const before = await store.children('/bridges');
  const { id: bridgeId } = await bridge(repository);
  const { id: otherId } = await bridge(repository);
  const port = await repository.create('port', { id: randomUUID(), bridgeId: otherId });
  for (const id of [randomUUID(), port.id]) await store.ensure(bridgePortPath(bridgeId, id));
  await store.ensure(bridgeAddressPoolPath(bridgeId, randomUUID()));
  await repository.delete('bridge', bridgeId, AbortSignal.timeout(2000));
  t.is(await repository.get('bridge', bridgeId), undefined);
  t.truthy(await repository.get('port', port.id));
  await repository.delete('bridge', otherId, AbortSignal.timeout(2000));
  t.deepEqual(await store.children('/bridges'), before);
});

test('between tries to delete what others add to, a pause that gets longer', async (t) => {
  const { nsdb, repository, store } = t.context;
  const { id } = await bridge(repository);
  const intruder = nsdb.store();
  const tries: number[] = [];
  const multi = store.multi.bind(store);
  store.multi = async (operations, options) => {
    if (operations.some(({ type, path }) => type === 'delete' && path === objectPath('bridge', id))) {
      if (tries.push(performance.now()) < 5) await intruder.ensure(macPath(id, `02:00:00:00:00:0${tries.length}`));
    }
    return multi(operations, options);
  };
  await repository.delete('bridge', id, AbortSignal.timeout(30_000));
  t.is(tries.length, 5);
  // Timers may fire a little early.
  for (const [i, least] of [5, 10, 20, 40].entries()) t.true(tries[i + 1] - tries[i] >= least - 2, tries.join(' '));
  t.is(await repository.get('bridge', id), undefined);
});

test('a deleted host takes the ports that its front ends made along, and gives back its blocks', async (t) => {
  const { repository, store } = t.context;
  const { id: bridgeId } = await bridge(repository);
  const node = await host(repository);
  const other = await host(repository);
  const pool = await repository.create('address-pool', {
    id: randomUUID(),
    bridgeId,
    cidr: '10.0.0.0/16',
    blockSize: 26,
  });
  const lost = randomUUID();
  const shardFolder = addressPoolBlocksPath(pool.id, '000');
  for (const [block, owner] of [
    ['0a000000', node.id],
    ['0a000040', other.id],
    ['0a000080', node.id],
  ]) {
    await leaseBlock(store, owner, pool.id, block);
  }
  // Entries for a block that is another's, and of a pool that is gone.
  const another = encodeLeaseEntry(`${shardFolder}/0a000040`);
  await store.create(`${hostLeasesPath(node.id)}/${pool.id}/0a000040`, another);
  await store.ensure(`${hostLeasesPath(node.id)}/${lost}/0a000000`);
  const port = (hostId: string, mac: string, address: string, owner?: string) =>
    repository.create('port', {
      id: randomUUID(),
      bridgeId,
      mac,
      addresses: [address],
      binding: { hostId, interfaceName: 'eth1' },
      ...(owner === undefined ? {} : { owner }),
    });
  const owned = await port(node.id, MAC, '10.0.0.1', 'cni');
  const plain = await port(node.id, OTHER_MAC, '10.0.0.2');
  const elsewhere = await port(other.id, '02:00:00:00:00:03', '10.0.0.3', 'cni');
  // A leftover: the port is bound to the other host by now.
  await store.create(hostPortPath(node.id, elsewhere.id), new Uint8Array());

  await repository.delete('host', node.id, AbortSignal.timeout(5000));
  t.is(await repository.get('host', node.id), undefined);
  t.is(await repository.get('port', owned.id), undefined);
  t.is((await repository.get('port', plain.id))?.object.binding, undefined);
  t.is((await repository.get('port', elsewhere.id))?.object.binding?.hostId, other.id);
  t.deepEqual(await store.children(shardFolder), ['0a000040']);
  t.deepEqual(await store.children(`${hostLeasesPath(other.id)}/${pool.id}`), ['0a000040']);
  await t.notThrowsAsync(port(other.id, MAC, '10.0.0.1', 'cni'), 'its heir has its addresses');
});

test('a bridge is deleted while others add ports to it, and no part of it comes back', async (t) => {
  const { nsdb, repository, store } = t.context;
  const { id: bridgeId } = await bridge(repository);
  const other = new TopologyRepository(nsdb.store());
  const creations = Array.from({ length: 40 }, () => other.create('port', { id: randomUUID(), bridgeId }));
  const outcomes = Promise.allSettled(creations);
  await repository.delete('bridge', bridgeId);
  for (const outcome of await outcomes) {
    if (outcome.status === 'rejected') t.true(outcome.reason instanceof ObjectNotFoundError, String(outcome.reason));
  }
  t.deepEqual(await store.children('/bridges'), []);
  t.is(await store.get(objectPath('bridge', bridgeId)), undefined);
  const left = (await allPaths(store)).filter((path) => /^\/ports\/..\/./.test(path));
  t.deepEqual(left, [], 'no port without a bridge');
});

test('a value that is not valid is reported with its path and otherwise ignored', async (t) => {
  const { repository, store } = t.context;
  const made = await bridge(repository);
  const path = objectPath('bridge', made.id);
  const seen: (string | undefined)[] = [];
  const errors: string[] = [];
  let wake = () => {};
  const step = () => new Promise<void>((resolve) => (wake = resolve));
  const first = step();
  const watch = repository.watch(
    'bridge',
    made.id,
    (value) => {
      seen.push(value?.name);
      wake();
    },
    (error) => {
      errors.push(error.message);
      wake();
    },
  );
  await first;
  for (const change of [
    () => store.set(path, new TextEncoder().encode('{')),
    () => store.set(path, encodeJson({ ...made, name: '' })),
    () => store.set(path, encodeJson({ ...made, name: 'good' })),
    () => repository.delete('bridge', made.id),
  ]) {
    const next = step();
    await change();
    await next;
  }
  watch.close();
  t.deepEqual(seen, ['blue', 'good', undefined]);
  t.is(errors.length, 2);
  t.true(errors[0].includes(`${path}: not JSON`));
  t.true(errors[1].startsWith(`${path}.name`));
});

/** Names of the store's functions, as they are called from here on. */
function callsOf(store: Store): string[] {
  const calls: string[] = [];
  for (const name of ['get', 'exists', 'children', 'create', 'set', 'delete', 'multi', 'ensure'] as const) {
    const call = store[name].bind(store) as (...values: unknown[]) => never;
    store[name] = (...values: unknown[]) => {
      const [operations] = values;
      calls.push(Array.isArray(operations) ? `multi of ${operations.length}` : name);
      return call(...values);
    };
  }
  return calls;
}

test('that all top folders are there is seen with one question, and only what is missing is made', async (t) => {
  const { repository, store } = t.context;
  const folders = await store.children('/');
  await store.delete('/captures');
  const calls = callsOf(store);
  await repository.initialize();
  t.deepEqual(calls.splice(0), ['children', 'ensure', 'exists', 'exists', 'create']);
  await repository.initialize();
  t.deepEqual(calls.splice(0), ['children']);
  t.deepEqual(await store.children('/'), folders);
});

test('folders that an object needs are made at once when they are missed', async (t) => {
  const { repository, store } = t.context;
  const calls = callsOf(store);
  await repository.create('host', { id: randomUUID(), name: 'node' });
  // Of hosts, which is there, of names of hosts, and of their shard.
  t.deepEqual(calls, ['multi of 4', 'create', 'create', 'create', 'multi of 4']);
});

test('one object more costs the same however many there are', async (t) => {
  const { repository, store } = t.context;
  const { id: bridgeId } = await bridge(repository);
  const chain = await repository.create('chain', { id: randomUUID(), name: 'c' });
  // In shards that are there, as nearly all are where there are many.
  const shardOf = (id: string) => parentPath(objectPath('port', id))!.slice(-2);
  const idInShard = () => {
    for (;;) {
      const id = randomUUID();
      if (shardOf(id) === '00') return id;
    }
  };
  const makeOne = async () => {
    await repository.create('port', { id: idInShard(), bridgeId, inboundFilterId: chain.id });
    const position = positionBetween('i0000000', 'i0000001');
    await repository.create('rule', { id: idInShard(), chainId: chain.id, type: 'drop', position });
  };
  const calls = callsOf(store);
  await makeOne();
  calls.length = 0;
  await makeOne();
  const first = [...calls];
  for (let i = 0; i < 300; i++) await makeOne();
  calls.length = 0;
  await makeOne();
  t.deepEqual(calls, first);
  t.deepEqual(first, ['multi of 5', 'multi of 3']);
});

test('who names an object is told with every change, and once when all are known', async (t) => {
  const { repository } = t.context;
  const [blue, red] = [randomUUID(), randomUUID()];
  for (const id of [blue, red]) await repository.create('router', { id, name: 'r' });
  const route = (routerId: string, destination: string) =>
    repository.create('route', { id: randomUUID(), routerId, type: 'reject', destination });
  const [first, second] = [await route(blue, '10.1.0.0/16'), await route(blue, '10.2.0.0/16')];
  const other = await route(red, '10.3.0.0/16');
  const known = new Map<string, string>();
  let countWhenKnown: number | undefined;
  const watch = repository.watchHolders(
    'route',
    'routerId',
    blue,
    (id, object) => (object === undefined ? known.delete(id) : known.set(id, object.destination)),
    (error) => t.fail(error.message),
    () => {
      t.is(countWhenKnown, undefined);
      countWhenKnown = known.size;
    },
  );
  await until('all are known', () => countWhenKnown !== undefined);
  t.is(countWhenKnown, 2);
  await repository.modify('route', first.id, (one) => ({ ...one, destination: '10.9.0.0/16' }));
  await repository.modify('route', second.id, (one) => ({ ...one, routerId: red }));
  await repository.modify('route', other.id, (one) => ({ ...one, routerId: blue }));
  const third = await route(blue, '10.4.0.0/16');
  await repository.delete('route', third.id);
  const expected = new Map([
    [first.id, '10.9.0.0/16'],
    [other.id, '10.3.0.0/16'],
  ]);
  await until('the changes are known', () => [...expected].every(([id, to]) => known.get(id) === to));
  await until('what is gone is not', () => known.size === expected.size);
  watch.close();
});

test('the rules of a chain are followed by one watch, through changes and moves', async (t) => {
  const { repository, nsdb } = t.context;
  const chain = async (name: string) => (await repository.create('chain', { id: randomUUID(), name })).id;
  const [blue, red] = [await chain('blue'), await chain('red')];
  const positions = positionsAfter(undefined, 4);
  const rule = (chainId: string, place: number) =>
    repository.create('rule', { id: randomUUID(), chainId, position: positions[place], type: 'accept' });
  const [first, second, other] = [await rule(blue, 0), await rule(blue, 1), await rule(red, 2)];
  const known = new Map<string, string>();
  const counts: number[] = [];
  const store = nsdb.store();
  const watch = new TopologyRepository(store).watchRules(
    blue,
    (id, found) => (found === undefined ? known.delete(id) : known.set(id, found.position + found.type)),
    ({ error }) => t.fail(error.message),
    () => counts.push(known.size),
  );
  await until('all are known', () => counts.length > 0);
  t.is(counts[0], 2);
  t.is(store.metrics.tracked, 1);
  await repository.modify('rule', first.id, (one) => ({ ...one, position: positions[3] }));
  await repository.modify('rule', second.id, (one) => ({ ...one, chainId: red }));
  await repository.modify('rule', other.id, (one) => ({ ...one, chainId: blue }));
  await repository.delete('rule', (await rule(blue, 1)).id);
  const expected = new Map([
    [first.id, `${positions[3]}accept`],
    [other.id, `${positions[2]}accept`],
  ]);
  await until('the changes are known', () => [...expected].every(([id, to]) => known.get(id) === to));
  await until('what is gone is not', () => known.size === expected.size);
  watch.close();
});
