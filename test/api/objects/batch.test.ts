import { randomUUID } from 'node:crypto';
import test from 'ava';
import { etagIn, itemsOf, type Reply, TestApi, tenantAdmin } from '../api-test.js';
import { sharedApi } from '../shared-api.js';

const shared = sharedApi();

interface Result {
  readonly kind: string;
  readonly id: string;
  readonly result: string;
  readonly etag?: string;
  readonly object?: Record<string, unknown>;
}

const resultsOf = ({ body }: Reply) => (body as { results: Result[] }).results;

test('objects that name each other are made, changed and deleted together', async (t) => {
  const { admin } = shared.api;
  const [bridgeId, routerId, left, right] = [randomUUID(), randomUUID(), randomUUID(), randomUUID()];
  const made = await admin.post('/v1/batch', {
    operations: [
      { op: 'create', kind: 'port', id: left, body: { bridgeId, peerId: right } },
      { op: 'create', kind: 'bridge', body: { id: bridgeId, name: 'web' } },
      { op: 'create', kind: 'port', id: right, body: { routerId, subnets: ['10.0.0.1/24'] } },
      { op: 'create', kind: 'router', body: { id: routerId, name: 'edge' } },
    ],
  });
  t.is(made.status, 200, JSON.stringify(made.body));
  t.deepEqual(
    resultsOf(made).map(({ id, result }) => [id, result]),
    [left, bridgeId, right, routerId].map((id) => [id, 'created']),
  );
  t.is(resultsOf(made)[2].object?.peerId, left);
  const bridge = await admin.get(`/v1/bridges/${bridgeId}`);
  t.is(resultsOf(made)[1].etag, etagIn(bridge));

  const changed = await admin.post('/v1/batch', {
    operations: [
      { op: 'patch', kind: 'bridge', id: bridgeId, ifMatch: etagIn(bridge), body: { name: 'shop' } },
      { op: 'patch', kind: 'bridge', id: bridgeId, body: { adminStateUp: false } },
      { op: 'replace', kind: 'router', id: routerId, body: { name: 'core' } },
      { op: 'delete', kind: 'port', id: left },
    ],
  });
  t.is(changed.status, 200, JSON.stringify(changed.body));
  t.like((await admin.get(`/v1/bridges/${bridgeId}`)).body, { name: 'shop', adminStateUp: false });
  t.is((await admin.get(`/v1/ports/${left}`)).status, 404);
  t.false('peerId' in ((await admin.get(`/v1/ports/${right}`)).body as object));
});

test('of a batch of which one part fails nothing happens, and the error names the part', async (t) => {
  const { admin } = shared.api;
  const [bridgeId, nowhere, mac] = [randomUUID(), randomUUID(), '02:00:00:00:00:01'];
  await admin.post('/v1/bridges', { id: bridgeId, name: 'web' });
  await admin.post('/v1/ports', { bridgeId, mac });
  const etag = etagIn(await admin.get(`/v1/bridges/${bridgeId}`));
  const renaming = { op: 'patch', kind: 'bridge', id: bridgeId, body: { name: 'renamed' } };
  const port = (body: object) => ({ op: 'create', kind: 'port', body: { bridgeId, ...body } });
  const failing: [object, number, string][] = [
    [port({ mac: 'x' }), 400, 'operations[2].body.mac'],
    [port({ colour: 1 }), 400, 'operations[2].body.colour'],
    [{ op: 'create', kind: 'port', body: 7 }, 400, 'operations[2].body'],
    [{ op: 'create', kind: 'port' }, 400, 'operations[2].body'],
    [port({ mac }), 409, 'operations[2].body.mac'],
    [port({ mac: '02:00:00:00:00:02' }), 409, 'operations[2].body.mac'],
    [port({ portGroupIds: [nowhere] }), 400, 'operations[2].body.portGroupIds[0]'],
    [port({ peerId: nowhere }), 400, 'operations[2].body.peerId'],
    [{ op: 'patch', kind: 'router', id: nowhere, body: {} }, 400, 'operations[2].id'],
    [{ op: 'patch', kind: 'bridge', id: bridgeId, ifMatch: '"1"', body: {} }, 412, 'operations[2].ifMatch'],
    [{ op: 'patch', kind: 'bridge', id: bridgeId, ifMatch: '260', body: {} }, 400, 'operations[2].ifMatch'],
    [{ op: 'create', kind: 'car', body: {} }, 400, 'operations[2].kind'],
    [{ op: 'patch', kind: 'port', body: {} }, 400, 'operations[2].id'],
    [{ op: 'delete', kind: 'host', id: bridgeId, extra: 1 }, 400, 'operations[2].extra'],
  ];
  for (const [operation, status, field] of failing) {
    const operations = [renaming, port({ mac: '02:00:00:00:00:02' }), operation];
    const answer = await admin.post('/v1/batch', { operations });
    t.like(answer, { status, body: { field } }, JSON.stringify(answer.body));
  }
  t.is(etagIn(await admin.get(`/v1/bridges/${bridgeId}`)), etag);
  t.is(itemsOf(await admin.get(`/v1/bridges/${bridgeId}/ports`)).length, 1);
});

test('an object cannot be deleted and made anew in one batch, as its ports would go over to the other', async (t) => {
  const { admin } = shared.api;
  const bridgeId = randomUUID();
  await admin.post('/v1/bridges', { id: bridgeId, name: 'old' });
  const portId = ((await admin.post('/v1/ports', { bridgeId })).body as { id: string }).id;
  for (const making of [
    { op: 'create', kind: 'bridge', body: { id: bridgeId, name: 'new' } },
    { op: 'replace', kind: 'bridge', id: bridgeId, body: { name: 'new' } },
  ]) {
    const operations = [{ op: 'delete', kind: 'bridge', id: bridgeId }, making];
    const answer = await admin.post('/v1/batch', { operations });
    t.like(answer, { status: 400, body: { field: 'operations[1].body.id', value: bridgeId } });
  }
  t.is((await admin.get(`/v1/ports/${portId}`)).status, 200);
  t.like((await admin.get(`/v1/bridges/${bridgeId}`)).body, { name: 'old' });
});

test('a batch may be sent again: what is there already stays as it is', async (t) => {
  const { admin } = shared.api;
  const [bridgeId, portId] = [randomUUID(), randomUUID()];
  const batch = {
    operations: [
      { op: 'create', kind: 'bridge', id: bridgeId, body: { name: 'web' } },
      { op: 'create', kind: 'port', id: portId, body: { bridgeId, adminStateUp: true } },
    ],
  };
  const first = resultsOf(await admin.post('/v1/batch', batch));
  const second = resultsOf(await admin.post('/v1/batch', batch));
  t.deepEqual(
    second,
    first.map((one) => ({ ...one, result: 'unchanged' })),
  );
});

test('rules of a batch stand in its order, behind those that were there', async (t) => {
  const { admin } = shared.api;
  const chainId = randomUUID();
  await admin.post('/v1/chains', { id: chainId, name: 'chain' });
  const ids = Array.from({ length: 12 }, () => randomUUID());
  const rule = (id: string) => ({ op: 'create', kind: 'rule', id, body: { chainId, type: 'accept' } });
  await admin.post('/v1/batch', { operations: ids.slice(0, 6).map(rule) });
  await admin.post('/v1/batch', { operations: ids.slice(6).map(rule) });
  const rules = itemsOf(await admin.get(`/v1/chains/${chainId}/rules`));
  t.deepEqual(
    rules.map(({ id }) => id),
    ids,
  );
});

test('the rules of a chain are read once for all that a batch puts behind them', async (t) => {
  let reads = 0;
  const store = shared.nsdb.store();
  const get = store.get.bind(store);
  store.get = (path, options) => {
    reads++;
    return get(path, options);
  };
  const counting = await TestApi.start(store);
  t.teardown(() => counting.close());
  const { admin } = counting;
  const chainId = randomUUID();
  await admin.post('/v1/chains', { id: chainId, name: 'long' });
  const add = (count: number) => {
    const rule = { op: 'create', kind: 'rule', body: { chainId, type: 'drop' } };
    return admin.post('/v1/batch', { operations: Array.from({ length: count }, () => rule) });
  };
  t.is((await add(100)).status, 200);
  const before = reads;
  t.is((await add(20)).status, 200);
  t.true(reads - before < 200, `${reads - before} reads`);
});

test('a tenant may use in a batch what it makes there', async (t) => {
  const client = shared.api.as(tenantAdmin('orange'));
  const bridgeId = randomUUID();
  const port = { op: 'create', kind: 'port', body: { bridgeId } };
  const bridge = { op: 'create', kind: 'bridge', id: bridgeId, body: { name: 'own' } };
  t.like(await client.post('/v1/batch', { operations: [port] }), {
    status: 400,
    body: { field: 'operations[0].body.bridgeId' },
  });
  t.is((await client.post('/v1/batch', { operations: [bridge, port] })).status, 200);
  t.like((await client.get(`/v1/bridges/${bridgeId}`)).body, { tenantId: 'orange' });
});

test('what does not fit in one transaction is refused', async (t) => {
  const operations = Array.from({ length: 501 }, () => ({ op: 'create', kind: 'chain', body: { name: 'c' } }));
  t.like(await shared.api.admin.post('/v1/batch', { operations }), { status: 400, body: { field: 'operations' } });
  const named = operations.slice(0, 500).map((one) => ({ ...one, body: { name: 'c', tenantId: 'many' } }));
  t.like(await shared.api.admin.post('/v1/batch', { operations: named }), {
    status: 413,
    body: { code: 'MN_TOO_LARGE' },
  });
  t.deepEqual(itemsOf(await shared.api.admin.get('/v1/chains?tenantId=many')), []);
});
