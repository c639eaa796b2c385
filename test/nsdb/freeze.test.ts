import test from 'ava';
import { UnsupportedError } from '../../src/errors.js';
import { FROZEN_PATH, freeze, frozenFor, unfreeze } from '../../src/nsdb/freeze.js';
import { StoreFrozenError } from '../../src/nsdb/store.js';
import { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { until } from '../compliance/store.js';
import { ApacheZookeeper } from './apache-zookeeper.js';
import { EmbeddedNsdb } from './embedded-nsdb.js';

const DATA = Buffer.from('x');

test('a frozen server refuses every change, says where the data went, and serves reads and sessions', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const store = nsdb.store();
  await store.create('/a', DATA);
  const other = nsdb.store();
  await other.create('/e', DATA, { ephemeral: true });
  const kept = other.ephemeral('/kept', DATA);
  await kept.ready;
  await freeze(store, 'zk1,zk2:2181/midonet');
  await freeze(store, 'zk1,zk2:2181/midonet');
  for (const [what, change] of Object.entries({
    create: () => store.create('/b', DATA),
    ephemeral: () => store.create('/b', DATA, { ephemeral: true }),
    set: () => store.set('/a', DATA),
    delete: () => store.delete('/a'),
    multi: () => store.multi([{ type: 'set', path: '/a', data: DATA }]),
    'multi that thaws': () => store.multi([{ type: 'delete', path: FROZEN_PATH }]),
  })) {
    const error = await t.throwsAsync(change(), { instanceOf: StoreFrozenError, code: 'MN_STORE_FROZEN' }, what);
    t.regex(error.message, /moved to zk1,zk2:2181\/midonet/);
  }
  await kept.close();
  const notices: string[] = [];
  const late = nsdb.store({ onNotice: (level, message) => level === 'warn' && notices.push(message) });
  const refused = late.ephemeral('/late', DATA);
  const before = late.metrics.requests;
  await until('its making was refused a few times', () => late.metrics.requests >= before + 4);
  t.deepEqual(notices, ['could not keep an ephemeral node'], 'which is told once');
  await refused.close();
  await t.throwsAsync(freeze(store, 'elsewhere'), { instanceOf: StoreFrozenError });
  t.deepEqual((await store.get('/a'))?.data, DATA);
  await store.sync();
  const third = nsdb.store();
  t.deepEqual(await third.children('/'), ['a', 'e', 'kept', 'zookeeper']);
  await other.close();
  t.deepEqual(await third.children('/'), ['a', 'zookeeper'], 'a session that ends takes its ephemeral nodes along');
});

test('a server stays frozen over a restart, until it is thawed', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const store = nsdb.store();
  t.is(await frozenFor(store), undefined);
  await freeze(store, 'there');
  await nsdb.stop();
  await nsdb.resume();
  t.is(await frozenFor(store), 'there');
  await t.throwsAsync(store.create('/b', DATA), { instanceOf: StoreFrozenError });
  await unfreeze(store);
  await unfreeze(store);
  await store.create('/b', DATA);
  t.is(await frozenFor(store), undefined);
});

const withZookeeper = process.env.MIDONET_SKIP_ZOOKEEPER === '1' ? test.skip : test;

withZookeeper('Apache ZooKeeper cannot be frozen, and nothing is left of the attempt', async (t) => {
  const server = await ApacheZookeeper.start();
  t.teardown(() => server.close());
  const store = new ZookeeperStore({ connect: server.address });
  t.teardown(() => store.close());
  await t.throwsAsync(freeze(store, 'there'), { instanceOf: UnsupportedError });
  t.is(await frozenFor(store), undefined);
  await store.create('/b', DATA);
});
