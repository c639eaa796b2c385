import test, { type ExecutionContext } from 'ava';
import { exampleOf } from '../../../src/api/description/examples.js';
import { segmentOf } from '../../../src/api/description/resources.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { KINDS, type Kind } from '../../../src/topology/types.js';
import { ApacheZookeeper } from '../../nsdb/apache-zookeeper.js';
import { type Client, etagIn, itemsOf, TestApi } from '../api-test.js';
import { sharedApi } from '../shared-api.js';

/** One for all tests, which leave nothing behind. */
const shared = sharedApi();

/** From create to delete, with all that there is to it. */
async function lifeOfAnObject(t: ExecutionContext<unknown>, client: Client, kind: Kind): Promise<void> {
  const examples = exampleOf(kind);
  for (const { kind, object } of examples.slice(0, -1)) {
    const { status } = await client.post(`/v1/${segmentOf(kind)}`, object);
    t.is(status, 201, kind);
  }
  const { object } = examples.at(-1)!;
  const collection = `/v1/${segmentOf(kind)}`;
  const path = `${collection}/${object.id}`;
  t.is((await client.get(path)).status, 404, kind);

  const created = await client.post(collection, object);
  t.is(created.status, 201, JSON.stringify(created.body));
  t.is(created.headers.get('location'), path);
  t.like(created.body, object, kind);

  const read = await client.get(path);
  t.is(read.status, 200);
  t.deepEqual(read.body, created.body);
  t.is(etagIn(read), etagIn(created));
  t.is((await client.get(path, { 'if-none-match': etagIn(read) })).status, 304);
  t.true(itemsOf(await client.get(collection)).some(({ id }) => id === object.id));

  const again = await client.post(collection, object);
  t.is(again.status, 200, 'the same again makes no difference');
  t.is(etagIn(again), etagIn(read));

  const renamed = await client.patch(path, { name: 'other-name' }, { 'if-match': etagIn(read) });
  t.is(renamed.status, 200, JSON.stringify(renamed.body));
  t.like(renamed.body, { ...object, name: 'other-name' });
  t.not(etagIn(renamed), etagIn(read));
  t.is((await client.patch(path, { name: 'third' }, { 'if-match': etagIn(read) })).status, 412);
  t.is((await client.post(collection, object)).status, 409, 'other content');

  const replaced = await client.put(path, object, { 'if-match': etagIn(renamed) });
  t.is(replaced.status, 200, JSON.stringify(replaced.body));
  t.deepEqual(replaced.body, created.body);
  t.is((await client.put(path, object, { 'if-match': etagIn(renamed) })).status, 412);
  t.is((await client.put(path, object, { 'if-none-match': '*' })).status, 412);

  const wrong = await client.put(path, { ...object, colour: 'blue' });
  t.like(wrong, { status: 400, body: { code: 'MN_INVALID_INPUT', field: 'colour', value: 'blue' } });

  t.is((await client.delete(path, { 'if-match': etagIn(renamed) })).status, 412);
  t.is((await client.delete(path, { 'if-match': etagIn(replaced) })).status, 204, kind);
  t.is((await client.get(path)).status, 404);
  t.is((await client.delete(path)).status, 204);
  t.is((await client.delete(path, { 'if-match': '*' })).status, 412);
  t.is((await client.patch(path, {})).status, 404);

  t.is((await client.put(path, object, { 'if-match': '*' })).status, 412);
  t.is((await client.put(path, object)).status, 201);
  for (const { kind, object } of examples.toReversed()) {
    t.is((await client.delete(`/v1/${segmentOf(kind)}/${object.id}`)).status, 204);
  }
}

for (const kind of KINDS) {
  test.serial(`a ${kind} is made, read, changed, replaced and deleted`, async (t) => {
    await lifeOfAnObject(t, shared.api.admin, kind);
  });
}

test('every kind of object is dealt with alike on Apache ZooKeeper', async (t) => {
  const server = await ApacheZookeeper.start();
  t.teardown(() => server.close());
  const store = new ZookeeperStore({ connect: server.address, sessionTimeout: 10_000 });
  t.teardown(() => store.close());
  const api = await TestApi.start(store);
  t.teardown(() => api.close());
  for (const kind of KINDS) await lifeOfAnObject(t, api.admin, kind);
});
