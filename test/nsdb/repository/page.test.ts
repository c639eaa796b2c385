import { randomUUID } from 'node:crypto';
import test from 'ava';
import fc from 'fast-check';
import { encodeJson } from '../../../src/nsdb/json.js';
import { objectPath, tenantOfFolder, tenantPath } from '../../../src/nsdb/layout.js';
import { pathFault } from '../../../src/nsdb/path.js';
import { walk } from '../../../src/nsdb/repository/deletion.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../../src/nsdb/store.js';
import { chainSchema, type Kind } from '../../../src/topology/types.js';
import { ApacheZookeeper } from '../apache-zookeeper.js';
import { allPaths, EmbeddedNsdb } from '../embedded-nsdb.js';

const id = () => randomUUID();

type Query = Omit<Parameters<TopologyRepository['page']>[0], 'after' | 'limit'>;

/** Identifiers on all pages of a query, in the order in which they came. */
async function pages(repository: TopologyRepository, query: Query, limit: number, between = async () => {}) {
  const found: string[] = [];
  let after: string | undefined;
  do {
    const page = await repository.page({ ...query, after, limit });
    found.push(...page.items.map(({ object }) => object.id));
    after = page.next;
    await between();
  } while (after !== undefined);
  return found;
}

async function inNsdb<T>(run: (repository: TopologyRepository, store: Store) => Promise<T>): Promise<T> {
  const nsdb = await EmbeddedNsdb.start();
  try {
    const store = nsdb.store();
    const repository = new TopologyRepository(store);
    await repository.initialize();
    return await run(repository, store);
  } finally {
    await nsdb.close();
  }
}

const CONDITIONS = {
  'all of a sharded kind': { kind: 'chain' },
  'all of a kind of few': { kind: 'bridge' },
  'a name': { kind: 'chain', name: 'same' },
  'a tenant': { kind: 'chain', tenantId: 'blue' },
  'a tenant, of a kind of few': { kind: 'bridge', tenantId: 'blue' },
  'a name and a tenant': { kind: 'chain', name: 'same', tenantId: 'blue' },
} satisfies Record<string, Query>;

for (const [what, query] of Object.entries(CONDITIONS) as [string, Query][]) {
  test(`property: pages of ${what} show what was there all the time once, whatever comes and goes`, async (t) => {
    t.timeout(120_000);
    const change = fc.record({ gone: fc.nat(1000), made: fc.nat(3) });
    const outcome = fc.asyncProperty(
      fc.integer({ min: 1, max: 7 }),
      fc.array(change, { minLength: 3, maxLength: 8 }),
      (limit, changes) =>
        inNsdb(async (repository) => {
          const make = async () => {
            const one = { id: id(), name: query.name ?? 'same', tenantId: query.tenantId };
            await repository.create(query.kind as 'chain', one);
            return one.id;
          };
          await repository.create(query.kind as 'chain', { id: id(), name: 'other', tenantId: 'red' });
          const staying = await Promise.all(Array.from({ length: 12 }, make));
          const passing = await Promise.all(Array.from({ length: 12 }, make));
          const left = [...changes];
          const found = await pages(repository, query, limit, async () => {
            const { gone, made } = left.pop() ?? { gone: 0, made: 0 };
            const [victim] = passing.splice(gone % (passing.length + 1), 1);
            if (victim !== undefined) await repository.delete(query.kind, victim);
            for (let i = 0; i < made; i++) passing.push(await make());
          });
          t.is(new Set(found).size, found.length, 'nothing is shown twice');
          t.deepEqual(
            staying.filter((one) => !found.includes(one)),
            [],
          );
        }),
    );
    await fc.assert(outcome, { numRuns: 5 });
  });
}

/** One object after the other, each with a name of its own. */
async function chains(repository: TopologyRepository, names: readonly string[], tenantId?: string): Promise<string[]> {
  const made: string[] = [];
  for (const name of names) made.push((await repository.create('chain', { id: id(), name, tenantId })).id);
  return made;
}

async function exercise(t: import('ava').ExecutionContext, store: Store): Promise<void> {
  const repository = new TopologyRepository(store);
  await repository.initialize();
  const [web] = await chains(repository, ['web', 'db'], 'a/b. ä%');
  t.deepEqual(await repository.tenants(), ['a/b. ä%']);
  t.deepEqual(await pages(repository, { kind: 'chain', name: 'web' }, 10), [web]);
  t.deepEqual(await pages(repository, { kind: 'chain', name: 'we' }, 10), []);

  const before = (await repository.get('chain', web))!;
  const listed = (await repository.page({ kind: 'chain', name: 'web', limit: 1 })).items;
  const { dataLength: bytes } = (await store.exists(objectPath('chain', web)))!;
  t.deepEqual(listed, [{ ...before, bytes }]);
  await repository.modify('chain', web, (chain) => ({ ...chain, name: 'www', tenantId: 'new' }));
  const after = (await repository.get('chain', web))!;
  t.true(after.modified > before.modified);
  t.deepEqual(await pages(repository, { kind: 'chain', name: 'web' }, 10), []);
  t.deepEqual(await pages(repository, { kind: 'chain', name: 'www', tenantId: 'new' }, 10), [web]);
  t.deepEqual((await repository.tenants()).sort(), ['a/b. ä%', 'new']);

  await t.throwsAsync(repository.create('chain', { id: web, name: 'taken', tenantId: 'nobody' }));
  t.false((await repository.tenants()).includes('nobody'), 'nothing is left of what was refused');
  await repository.delete('chain', web);
  t.deepEqual(await repository.tenants(), ['a/b. ä%'], 'a tenant goes with its last object');
  await repository.create('chain', { id: web, name: 'again' });
  t.true(
    (await repository.get('chain', web))!.modified > after.modified,
    'an object made anew is told from the former',
  );

  const bridge = await repository.create('bridge', { id: id(), name: 'b' });
  const ports = await Promise.all(
    Array.from({ length: 5 }, () => repository.create('port', { id: id(), bridgeId: bridge.id })),
  );
  const peer = await repository.create('port', { id: id(), bridgeId: bridge.id, name: 'up', peerId: ports[0].id });
  const ofBridge = { field: 'bridgeId', id: bridge.id };
  const found = await pages(repository, { kind: 'port', holderOf: ofBridge }, 2);
  t.deepEqual(found.sort(), [...ports, peer].map((port) => port.id).sort());
  t.deepEqual(await pages(repository, { kind: 'port', holderOf: ofBridge, name: 'up' }, 2), [peer.id]);
  t.deepEqual(await pages(repository, { kind: 'port', holderOf: { field: 'peerId', id: peer.id } }, 2), [ports[0].id]);
  t.deepEqual(await pages(repository, { kind: 'port', holderOf: { field: 'bridgeId', id: id() } }, 2), []);
}

test('objects are found by name, by tenant and by what they name, in the embedded server', (t) =>
  inNsdb((_, store) => exercise(t, store)));

if (process.env.MIDONET_SKIP_ZOOKEEPER !== '1') {
  test('objects are found by name, by tenant and by what they name, in Apache ZooKeeper', async (t) => {
    t.timeout(60_000);
    const server = await ApacheZookeeper.start();
    t.teardown(() => server.close());
    const { ZookeeperStore } = await import('../../../src/nsdb/zookeeper/client.js');
    const store = new ZookeeperStore({ connect: server.address });
    t.teardown(() => store.close());
    await exercise(t, store);
  });
}

test('an object that cannot be read is left out, and told', (t) =>
  inNsdb(async (repository, store) => {
    const [first, second] = await chains(repository, ['one', 'two']);
    await store.set(objectPath('chain', first), encodeJson({ id: first, name: 'one', v: 9 }));
    const told: string[] = [];
    const page = await repository.page({ kind: 'chain', limit: 10, onUnreadable: (one) => told.push(one) });
    t.deepEqual(
      page.items.map(({ object }) => object.id),
      [second],
    );
    t.deepEqual(told, [first]);
  }));

test('an object of before the indexes can be changed, renamed and deleted', (t) =>
  inNsdb(async (repository, store) => {
    const paths = await allPaths(store);
    const [kept, gone] = await chains(repository, ['one', 'two'], 'blue');
    for (const top of ['/names', '/tenants']) {
      for (const path of [...(await walk(store, top)), top]) await store.delete(path);
    }
    await repository.modify('chain', kept, (chain) => ({ ...chain, metadata: { a: 'b' } }));
    await repository.modify('chain', kept, (chain) => ({ ...chain, name: 'new', tenantId: 'red' }));
    t.deepEqual(await pages(repository, { kind: 'chain', name: 'new' }, 5), [kept]);
    t.deepEqual(await repository.tenants(), ['red']);
    await repository.delete('chain', gone);
    await repository.delete('chain', kept);
    const left = (await allPaths(store)).filter((path) => !/^\/chains\/..$/.test(path));
    t.deepEqual(left, paths);
  }));

test('a watch of a kind tells of objects that are there, come, change and go, and of nothing below them', (t) =>
  inNsdb(async (repository) => {
    for (const kind of ['bridge', 'port-group'] as const satisfies readonly Kind[]) {
      const told: string[] = [];
      const one = await repository.create(kind, { id: id(), name: 'one' });
      const watch = repository.watchKind(kind, {
        put: (object, modified) => told.push(`put ${object.name} ${modified}`),
        delete: (gone) => told.push(`delete ${gone}`),
        invalid: (bad) => told.push(`invalid ${bad}`),
        current: () => told.push('current'),
      });
      await watch.ready;
      const modified = async (of: string) => (await repository.get(kind, of))?.modified;
      t.deepEqual(told.splice(0), [`put one ${await modified(one.id)}`, 'current']);
      const two = await repository.create(kind, { id: id(), name: 'two' });
      const made = await modified(two.id);
      if (kind === 'bridge') await repository.create('port', { id: id(), bridgeId: one.id, mac: '02:00:00:00:00:01' });
      else await repository.create('rule', await ruleNaming(repository, one.id));
      await repository.modify(kind, one.id, (object) => ({ ...object, name: 'uno' }));
      const changed = await modified(one.id);
      await repository.delete(kind, two.id);
      await repository.store.sync();
      t.deepEqual(told, [`put two ${made}`, `put uno ${changed}`, `delete ${two.id}`]);
      watch.close();
    }
  }));

test('property: whatever a tenant is called, the folder of its objects has a name, which tells of it', (t) => {
  const names = fc.oneof(
    fc.string({ unit: 'binary', minLength: 1, maxLength: 255 }),
    fc.constantFrom('.', '..', '/', '%', '%2E', 'zookeeper', '漢'.repeat(255)),
  );
  fc.assert(
    fc.property(names, (tenant) => {
      const { success } = chainSchema.safeParse({ id: id(), name: 'c', tenantId: tenant });
      t.is(success, tenant.length <= 255);
      if (!success) return;
      const path = tenantPath(tenant, 'chain', id());
      t.is(pathFault(path), undefined);
      t.is(tenantOfFolder(path.split('/')[2]), tenant);
    }),
  );
  t.false(chainSchema.safeParse({ id: id(), name: 'c', tenantId: '\ud800' }).success, 'half of a character');
});

async function ruleNaming(repository: TopologyRepository, portGroupId: string) {
  const [chainId] = await chains(repository, ['c']);
  return { id: id(), chainId, type: 'drop', position: 'i0000000', condition: { portGroupId } } as const;
}
