import { randomUUID } from 'node:crypto';
import anyTest, { type TestFn } from 'ava';
import { UnsupportedError } from '../../../src/errors.js';
import { encodeJson } from '../../../src/nsdb/json.js';
import { objectPath } from '../../../src/nsdb/layout.js';
import { findFaults } from '../../../src/nsdb/repository/integrity.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../../src/nsdb/store.js';
import type { Migrations } from '../../../src/topology/stored-form.js';
import { EmbeddedNsdb } from '../embedded-nsdb.js';

interface Context {
  nsdb: EmbeddedNsdb;
  store: Store;
}

const test = anyTest as TestFn<Context>;

test.beforeEach(async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  const store = nsdb.store();
  await new TopologyRepository(store).initialize();
  t.context = { nsdb, store };
});
test.afterEach.always((t) => t.context.nsdb.close());

/** As if bridges had been stored with `label` at first, then with `title`. */
const MIGRATIONS: Migrations = {
  bridge: [
    ({ label, ...rest }) => ({ ...rest, title: label }),
    ({ title, ...rest }) => ({ ...rest, name: `${title}-3` }),
  ],
};

const json = async (store: Store, path: string) => JSON.parse(Buffer.from((await store.get(path))!.data).toString());

test('the first form of a kind is stored without a version', async (t) => {
  const { store } = t.context;
  const bridge = await new TopologyRepository(store).create('bridge', { id: randomUUID(), name: 'b' });
  t.deepEqual(await json(store, objectPath('bridge', bridge.id)), bridge);
});

test('an older form is brought up to date when it is read, and written with the next change', async (t) => {
  const { store } = t.context;
  const repository = new TopologyRepository(store, undefined, MIGRATIONS);
  const [first, second] = [randomUUID(), randomUUID()];
  const path = objectPath('bridge', first);
  const fresh = await repository.create('bridge', { id: second, name: 'new' });
  t.deepEqual(await json(store, objectPath('bridge', second)), { v: 3, ...fresh });
  for (const [stored, name] of [
    [{ label: 'one' }, 'one-3'],
    [{ v: 2, title: 'two' }, 'two-3'],
    [{ v: 3, name: 'three' }, 'three'],
  ] as const) {
    await store.ensure(path);
    await store.set(path, encodeJson({ id: first, adminStateUp: true, ...stored }));
    const read = await repository.get('bridge', first);
    t.like(read?.object, { id: first, name });
    t.false('v' in read!.object);
  }
  await store.set(path, encodeJson({ id: first, adminStateUp: true, label: 'one' }));
  await repository.modify('bridge', first, (bridge) => ({ ...bridge, adminStateUp: false }));
  t.deepEqual(await json(store, path), { v: 3, id: first, name: 'one-3', adminStateUp: false });
  await store.set(path, encodeJson({ id: first, label: 'one' }));
  await repository.delete('bridge', first);
  t.is(await repository.get('bridge', first), undefined);
});

test('a newer form is refused with both versions, and a watcher keeps what it has', async (t) => {
  const { store } = t.context;
  const repository = new TopologyRepository(store, undefined, MIGRATIONS);
  const bridge = await repository.create('bridge', { id: randomUUID(), name: 'b' });
  const path = objectPath('bridge', bridge.id);
  const seen: (string | undefined)[] = [];
  const errors: Error[] = [];
  let wake = () => {};
  const next = () => new Promise<void>((resolve) => (wake = resolve));
  const first = next();
  const watch = repository.watch(
    'bridge',
    bridge.id,
    (value) => {
      seen.push(value?.name);
      wake();
    },
    (error) => {
      errors.push(error);
      wake();
    },
  );
  await first;
  for (const stored of [{ v: 4, ...bridge, fancy: true }, { v: 'x' }, { v: 3, ...bridge, name: 'good' }]) {
    const change = next();
    await store.set(path, encodeJson(stored));
    await change;
  }
  watch.close();
  t.deepEqual(seen, ['b', 'good']);
  t.true(errors[0] instanceof UnsupportedError);
  t.is((errors[0] as UnsupportedError).code, 'MN_UNSUPPORTED');
  t.is(errors[0].message, `${path}: written in version 4 of the form of a bridge; this program knows 3`);
  t.true(errors[1].message.startsWith(`${path}.v: expected a version`));
  await store.set(path, encodeJson({ v: 4, ...bridge }));
  await t.throwsAsync(repository.get('bridge', bridge.id), { instanceOf: UnsupportedError });
  await t.throwsAsync(
    repository.modify('bridge', bridge.id, (old) => old),
    { instanceOf: UnsupportedError },
  );
  const findings = [];
  for await (const { kind } of findFaults(store, { migrations: MIGRATIONS })) findings.push(kind);
  t.deepEqual(findings, ['undecodable-object']);
});
