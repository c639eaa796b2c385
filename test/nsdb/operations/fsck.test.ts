import { randomUUID } from 'node:crypto';
import test from 'ava';
import { encodeJson } from '../../../src/nsdb/json.js';
import { flowStatePath, hostLeasesPath, hostPortPath, objectPath } from '../../../src/nsdb/layout.js';
import { type Fault, fsck } from '../../../src/nsdb/operations/fsck.js';
import { walk } from '../../../src/nsdb/repository/deletion.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../../src/nsdb/store.js';
import { Cluster, type Pod } from '../../agent/cluster.js';
import { embedded } from './servers.js';

async function populate(store: Store) {
  const repository = new TopologyRepository(store);
  await repository.initialize();
  const bridge = await repository.create('bridge', { id: randomUUID(), name: 'blue' });
  const host = await repository.create('host', { id: randomUUID(), name: 'node-1' });
  const pool = await repository.create('address-pool', {
    id: randomUUID(),
    bridgeId: bridge.id,
    cidr: '10.0.0.0/16',
    blockSize: 26,
  });
  const port = await repository.create('port', {
    id: randomUUID(),
    bridgeId: bridge.id,
    mac: '02:00:00:00:00:01',
    addresses: ['10.0.0.1'],
    binding: { hostId: host.id, interfaceName: 'eth1' },
  });
  return { bridge, host, pool, port };
}

type Objects = Awaited<ReturnType<typeof populate>>;

async function lease(store: Store, poolId: string, hostId: string): Promise<void> {
  await store.ensure(`/address-pools/${poolId}/blocks/000`);
  await store.create(`/address-pools/${poolId}/blocks/000/0a000000`, encodeJson({ hostId }));
}

/** What was done, and the kinds of faults that it leads to. The last ones cannot be mended. */
const DAMAGES: [name: string, damage: (store: Store, objects: Objects) => Promise<unknown>, kinds: string[]][] = [
  ['a top folder is gone', (store) => store.delete('/nat-blocks'), ['missing-folder']],
  ['a lease of a deleted host', (store, { pool }) => lease(store, pool.id, randomUUID()), ['leaked-lease']],
  ['a lease its host does not know', (store, { pool, host }) => lease(store, pool.id, host.id), ['leaked-lease']],
  [
    'leases of a device that is gone',
    (store) => store.ensure(`/nat-blocks/${randomUUID()}/10.0.0.1`),
    ['leaked-lease', 'leaked-lease'],
  ],
  [
    'an entry for a lease that is gone',
    async (store, { pool, host }) => {
      const folder = `${hostLeasesPath(host.id)}/${pool.id}`;
      await store.create(folder, Buffer.alloc(0));
      await store.create(`${folder}/0a000000`, Buffer.alloc(0));
    },
    ['leaked-lease'],
  ],
  [
    'a binding of a port that is gone',
    (store, { host }) => store.create(hostPortPath(host.id, randomUUID()), Buffer.alloc(0)),
    ['orphaned-entry'],
  ],
  [
    'a member of a tunnel zone that is no host, and a host of a bridge that is none',
    async (store, { bridge }) => {
      const zone = await new TopologyRepository(store).create('tunnel-zone', {
        id: randomUUID(),
        name: 'zone',
        type: 'vxlan',
      });
      await store.create(`/tunnel-zones/${zone.id}/hosts/${randomUUID()}`, encodeJson({ address: '10.0.0.1' }));
      await store.create(`/bridges/${bridge.id}/hosts/${randomUUID()}`, encodeJson({ floodKey: 1 }));
    },
    ['orphaned-entry', 'orphaned-entry'],
  ],
  [
    'an object is gone, what was noted below it stayed',
    (store) => store.ensure(`/bridges/${randomUUID()}/macs/00`),
    ['leftover-folder'],
  ],
  [
    'flow state of a port that is gone, beside that of one that is there',
    async (store, { port }) => {
      for (const id of [randomUUID(), port.id]) {
        const folder = flowStatePath(id);
        await store.ensure(folder);
        await store.create(`${folder}/batch-`, Buffer.alloc(6), { sequential: true });
      }
    },
    ['orphaned-flow-state'],
  ],
  [
    'data of before the indexes of names and tenants',
    async (store) => {
      for (const top of ['/names', '/tenants']) {
        for (const path of [...(await walk(store, top)), top]) await store.delete(path);
      }
    },
    ['missing-folder', 'missing-folder', 'missing-entry', 'missing-entry'],
  ],
];

for (const [name, damage, kinds] of DAMAGES) {
  test(`${name}: found, left alone without --repair, and mended with it`, async (t) => {
    const store = (await embedded(t)).store();
    const objects = await populate(store);
    t.deepEqual(await fsck({ store, repair: false }), { found: 0, mended: 0, left: [] });
    await damage(store, objects);
    const told: Fault[] = [];
    const found = await fsck({ store, repair: false, onFault: (fault) => told.push(fault) });
    t.deepEqual(found.left.map(({ kind }) => kind).sort(), kinds.sort());
    t.deepEqual(told, found.left);
    t.is(found.mended, 0);
    t.deepEqual((await fsck({ store, repair: false })).left, found.left);
    const mended = await fsck({ store, repair: true });
    t.deepEqual(mended.left, []);
    t.true(mended.mended >= kinds.length);
    t.deepEqual(await fsck({ store, repair: false }), { found: 0, mended: 0, left: [] });
    t.truthy(await new TopologyRepository(store).get('port', objects.port.id));
  });
}

test('what only a person can decide is left, and told', async (t) => {
  const store = (await embedded(t)).store();
  const { bridge } = await populate(store);
  await store.ensure('/somebody/else');
  await store.set(objectPath('bridge', bridge.id), Buffer.from('{'));
  const { left, mended } = await fsck({ store, repair: true });
  t.deepEqual(left.map(({ kind, path }) => `${kind} ${path}`).sort(), [
    `undecodable-object /bridges/${bridge.id}`,
    'unknown-node /somebody',
  ]);
  t.is(mended, 0);
  t.truthy(await store.get('/somebody/else'));
});

test('nothing is found in a cluster at work', async (t) => {
  const cluster = await Cluster.start({ hosts: 3 });
  t.teardown(() => cluster.close());
  const bridgeId = await cluster.createBridge();
  const store = cluster.nsdb.store();
  const rounds = 4;
  const churn = Promise.all(
    cluster.hosts.map(async (host) => {
      for (let round = 0; round < rounds * 5; round++) {
        const pods: Pod[] = [cluster.pod(bridgeId), cluster.pod(bridgeId)];
        for (const pod of pods) await host.attach(pod);
        await host.detach(pods[0]);
      }
    }),
  );
  for (let round = 0; round < rounds; round++) t.deepEqual((await fsck({ store, repair: false })).left, []);
  await churn;
  await cluster.published();
  await cluster.hosts[0].crash();
  t.deepEqual(await fsck({ store, repair: true }), { found: 0, mended: 0, left: [] });
});
