import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import test from 'ava';
import { pino } from 'pino';
import { exampleOf } from '../../../src/api/description/examples.js';
import { NESTED, segmentOf } from '../../../src/api/description/resources.js';
import { objectPath } from '../../../src/nsdb/layout.js';
import { StoreUnavailableError } from '../../../src/nsdb/store.js';
import { type Client, etagIn, itemsOf, TestApi, tenantAdmin } from '../api-test.js';
import { sharedApi } from '../shared-api.js';

const shared = sharedApi();

/** Every item of a collection, and how many pages it took. */
async function allOf(client: Client, path: string): Promise<{ items: Record<string, unknown>[]; pages: number }> {
  const items: Record<string, unknown>[] = [];
  let url: string | undefined = path;
  let pages = 0;
  while (url !== undefined) {
    const page = await client.get(url);
    if (page.status !== 200) throw new Error(JSON.stringify(page.body));
    items.push(...itemsOf(page));
    pages++;
    url = /^<(.*)>; rel="next"$/.exec(page.headers.get('link') ?? '')?.[1];
  }
  return { items, pages };
}

async function make(client: Client, path: string, body: object): Promise<string> {
  const answer = await client.post(path, body);
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
  return (answer.body as { id: string }).id;
}

test('pages hold each object that is there all the time once, while others come and go', async (t) => {
  const { admin } = shared.api;
  const bridgeId = await make(admin, '/v1/bridges', { name: 'busy' });
  const path = `/v1/bridges/${bridgeId}/ports`;
  const lasting = await Promise.all(Array.from({ length: 25 }, () => make(admin, path, {})));
  let isDone = false;
  const others = (async () => {
    while (!isDone) {
      const id = await make(admin, path, {});
      await admin.delete(`/v1/ports/${id}`);
    }
  })();
  const { items, pages } = await allOf(admin, `${path}?limit=4`);
  isDone = true;
  await others;
  const found = items.map(({ id }) => String(id));
  t.is(new Set(found).size, found.length);
  t.deepEqual(found.filter((id) => lasting.includes(id)).toSorted(), lasting.toSorted());
  t.true(pages >= 6);
});

test('of large objects a page has only so many that a server can hold them', async (t) => {
  const { admin } = shared.api;
  const routerId = await make(admin, '/v1/routers', { name: 'edge', tenantId: 'large' });
  const attributes = 'x'.repeat(90_000);
  const route = { routerId, type: 'blackhole', destination: '10.0.0.0/8', attributes };
  const made = await Promise.all(Array.from({ length: 70 }, () => make(admin, '/v1/routes', route)));
  for (const client of [admin, shared.api.as(tenantAdmin('large'))]) {
    for (const path of ['/v1/routes', `/v1/routers/${routerId}/routes`]) {
      const { items, pages } = await allOf(client, `${path}?limit=1000`);
      t.deepEqual(
        items
          .filter((item) => item.routerId === routerId)
          .map(({ id }) => id)
          .toSorted(),
        made.toSorted(),
      );
      t.is(pages, 2, path);
    }
  }
});

test('a collection is narrowed by fields with plain values and by references', async (t) => {
  const { admin } = shared.api;
  const [tenantId, name] = [randomUUID(), `name-${randomUUID()}`];
  const bridgeId = await make(admin, '/v1/bridges', { name, tenantId });
  const other = await make(admin, '/v1/bridges', { name, adminStateUp: false });
  const groupId = await make(admin, '/v1/port-groups', { name: 'group' });
  const hostId = await make(admin, '/v1/hosts', { name: 'host' });
  const binding = { hostId, interfaceName: 'eth1' };
  const port = await make(admin, '/v1/ports', { bridgeId, mac: '02:00:00:00:00:0a', portGroupIds: [groupId], binding });
  const second = await make(admin, '/v1/ports', {
    bridgeId,
    peerId: await make(admin, '/v1/ports', { bridgeId: other }),
  });
  const ids = async (query: string) => (await allOf(admin, `/v1/${query}`)).items.map(({ id }) => id).toSorted();
  t.deepEqual(await ids(`bridges?name=${name}`), [bridgeId, other].toSorted());
  t.deepEqual(await ids(`bridges?name=${name}&adminStateUp=false`), [other]);
  t.deepEqual(await ids(`bridges?tenantId=${tenantId}`), [bridgeId]);
  t.deepEqual(await ids(`bridges?tenantId=${tenantId}&name=x`), []);
  t.deepEqual(await ids(`ports?bridgeId=${bridgeId}`), [port, second].toSorted());
  t.deepEqual(await ids(`ports?bridgeId=${bridgeId}&mac=02:00:00:00:00:0A`), [port]);
  t.deepEqual(await ids(`ports?portGroupIds=${groupId}`), [port]);
  t.deepEqual(await ids(`ports?binding.hostId=${hostId}`), [port]);
  t.deepEqual(await ids(`bridges/${bridgeId}/ports?mac=02:00:00:00:00:0a`), [port]);
  const { peerId } = (await admin.get(`/v1/ports/${second}`)).body as { peerId: string };
  t.deepEqual(await ids(`ports?peerId=${peerId}`), [second]);
});

test('a parameter that means nothing is refused by its name', async (t) => {
  const { admin } = shared.api;
  const wrong: [string, string][] = [
    ['bridges?colour=blue', 'colour'],
    ['bridges?adminStateUp=maybe', 'adminStateUp'],
    ['bridges?name=a&name=b', 'name'],
    ['bridges?limit=0', 'limit'],
    ['bridges?limit=1001', 'limit'],
    ['bridges?limit=x', 'limit'],
    ['bridges?after=x', 'after'],
    ['ports?bridgeId=../hosts', 'bridgeId'],
    ['ports?mac=x', 'mac'],
    ['ports?subnets=10.0.0.1/24', 'subnets'],
    ['rules?condition=x', 'condition'],
    ['bridges/x', 'id'],
    [`bridges/${randomUUID()}?x=1`, 'x'],
  ];
  for (const [query, field] of wrong) {
    t.like(await admin.get(`/v1/${query}`), { status: 400, body: { code: 'MN_INVALID_INPUT', field } }, query);
  }
});

test('what goes with an object is found and made below it', async (t) => {
  const { admin } = shared.api;
  for (const { parent, segment, row } of NESTED) {
    const examples = exampleOf(row.kind);
    const { object } = examples.at(-1)! as { object: Record<string, unknown> };
    const isForm = object[row.field] !== undefined;
    if (!isForm) continue;
    for (const { kind, object } of examples.slice(0, -1)) {
      t.true([200, 201].includes((await admin.post(`/v1/${segmentOf(kind)}`, object)).status), kind);
    }
    const path = `/v1/${segmentOf(parent)}/${object[row.field]}/${segment}`;
    const { [row.field]: parentId, ...rest } = object;
    const made = await admin.post(path, rest);
    t.is(made.status, 201, `${path} ${JSON.stringify(made.body)}`);
    t.is(made.headers.get('location'), `/v1/${segment}/${object.id}`);
    t.like(made.body, { [row.field]: parentId });
    t.deepEqual((await allOf(admin, path)).items, [made.body], path);
    t.like(await admin.post(path, { ...rest, [row.field]: randomUUID() }), { status: 400, body: { field: row.field } });
    for (const { kind, object } of examples.toReversed()) await admin.delete(`/v1/${segmentOf(kind)}/${object.id}`);
    t.is((await admin.get(path)).status, 404);
    t.is((await admin.post(path, rest)).status, 404);
  }
});

test('a rule is put in front of another, behind it, in front of all or behind all', async (t) => {
  const { admin } = shared.api;
  const chainId = await make(admin, '/v1/chains', { name: 'ordered' });
  const path = `/v1/chains/${chainId}/rules`;
  const rule = (query = '') => make(admin, `${path}${query}`, { type: 'accept' });
  const b = await rule();
  const d = await rule();
  const a = await rule('?first=true');
  const c = await rule(`?after=${b}`);
  const e = await rule(`?after=${d}`);
  const between = await rule(`?before=${c}`);
  const order = [a, b, between, c, d, e];
  for (const limit of [1, 4, 100]) {
    t.deepEqual(
      (await allOf(admin, `${path}?limit=${limit}`)).items.map(({ id }) => id),
      order,
    );
  }
  t.like(await admin.post(`${path}?after=${randomUUID()}`, { type: 'drop' }), {
    status: 400,
    body: { field: 'after' },
  });
  t.is((await admin.post(`${path}?after=${a}&before=${b}`, { type: 'drop' })).status, 400);
  const moved = await admin.put(`/v1/rules/${e}`, { chainId, type: 'drop' });
  t.like(moved.body, { type: 'drop' });
  t.deepEqual(
    (await allOf(admin, path)).items.map(({ id }) => id),
    order,
    'a rule that is replaced stays where it is',
  );
});

test('rules that are put behind the others at the same time have places of their own', async (t) => {
  const { admin } = shared.api;
  const chainId = await make(admin, '/v1/chains', { name: 'busy' });
  const path = `/v1/chains/${chainId}/rules`;
  await Promise.all(Array.from({ length: 8 }, () => make(admin, path, { type: 'accept' })));
  const { items } = await allOf(admin, path);
  t.is(new Set(items.map(({ position }) => position)).size, 8);
  for (const { id } of items) await make(admin, `${path}?before=${id}`, { type: 'drop' });
  t.deepEqual(
    (await allOf(admin, path)).items.map(({ type }) => type),
    Array.from({ length: 16 }, (_, i) => (i % 2 === 0 ? 'drop' : 'accept')),
  );
});

test('requests that are not in order are told why', async (t) => {
  const { admin } = shared.api;
  const put = await admin.put('/v1/bridges', {});
  t.is(put.status, 405);
  t.is(put.headers.get('allow'), 'OPTIONS, GET, POST, HEAD');
  const options = await admin.send('OPTIONS', '/v1/bridges');
  t.is(options.status, 204);
  t.is(options.headers.get('allow'), 'OPTIONS, GET, POST, HEAD');
  t.like(await admin.get('/v1/cars'), { status: 404, body: { code: 'MN_NOT_FOUND' } });
  t.like(await admin.post('/v1/bridges', '{"name": '), { status: 400, body: { field: 'body' } });
  t.like(await admin.post('/v1/bridges', '[]'), { status: 400, body: { field: 'body' } });
  t.like(await admin.post('/v1/bridges', undefined), { status: 400, body: { field: 'body' } });
  t.is((await admin.post('/v1/bridges', 'name: web', { 'content-type': 'text/yaml' })).status, 415);
  t.is((await admin.post('/v1/bridges', `"${'x'.repeat(1_100_000)}"`)).status, 413);
  t.is((await admin.post('/v1/bridges', '['.repeat(100_000) + ']'.repeat(100_000))).status, 400);
  t.is((await admin.get('/v1/bridges/%zz')).status, 400);
  const problem = await admin.post('/v1/bridges', { name: 'not a name' });
  t.is(problem.headers.get('content-type'), 'application/problem+json; charset=utf-8');
  t.deepEqual(problem.body, {
    type: 'urn:midonet:error:MN_INVALID_INPUT',
    title: 'Bad request',
    status: 400,
    detail:
      'name: expected letters, digits, "_", "." and "-", 128 at most, the first a letter or a digit, got "not a name"',
    code: 'MN_INVALID_INPUT',
    field: 'name',
    value: 'not a name',
  });
});

test('a patch takes fields away, and leaves alone what others change at the same time', async (t) => {
  const { admin } = shared.api;
  const id = await make(admin, '/v1/chains', { name: 'chain', metadata: { a: '1', b: '2' } });
  const path = `/v1/chains/${id}`;
  const merged = await admin.patch(
    path,
    { metadata: { a: null, c: '3' } },
    { 'content-type': 'application/merge-patch+json' },
  );
  t.like(merged, { status: 200, body: { name: 'chain', metadata: { b: '2', c: '3' } } });
  const same = await admin.patch(path, { name: 'chain' });
  t.is(etagIn(same), etagIn(merged), 'what makes no difference makes no version');
  const fields = Array.from({ length: 12 }, (_, i) => `writer-${i}`);
  await Promise.all(fields.map((field) => admin.patch(path, { metadata: { [field]: 'was here' } })));
  const { metadata } = (await admin.get(path)).body as { metadata: Record<string, string> };
  t.deepEqual(Object.keys(metadata).toSorted(), ['b', 'c', ...fields].toSorted());
});

test('a port keeps its tunnel key while it stays where it is, and leaves it behind when it moves', async (t) => {
  const { admin } = shared.api;
  const bridgeId = await make(admin, '/v1/bridges', { name: 'bridge' });
  const hosts = [await make(admin, '/v1/hosts', { name: 'one' }), await make(admin, '/v1/hosts', { name: 'other' })];
  const binding = { hostId: hosts[0], interfaceName: 'eth1' };
  const path = `/v1/ports/${await make(admin, '/v1/ports', { bridgeId, binding: { ...binding, tunnelKey: 7 } })}`;
  t.like((await admin.put(path, { bridgeId, binding })).body, { binding: { ...binding, tunnelKey: 7 } });
  t.like((await admin.patch(path, { binding: { interfaceName: 'eth1' } })).body, { binding: { tunnelKey: 7 } });
  const moved = await admin.patch(path, { binding: { hostId: hosts[1] } });
  t.like(moved.body, { binding: { hostId: hosts[1], interfaceName: 'eth1', tunnelKey: undefined } });
});

test('what cannot be read in the NSDB is no fault of the request', async (t) => {
  const { admin, store } = shared.api;
  const chainId = await make(admin, '/v1/chains', { name: 'damaged' });
  const ruleId = await make(admin, `/v1/chains/${chainId}/rules`, { type: 'accept' });
  await store.set(objectPath('rule', ruleId), new TextEncoder().encode('{"type": 7}'));
  const fault = { status: 500, body: { code: 'MN_STORE_CORRUPT' } };
  t.like(await admin.get(`/v1/rules/${ruleId}`), fault);
  t.like(await admin.patch(`/v1/rules/${ruleId}`, { type: 'drop' }), fault);
  t.like(await admin.get(`/v1/chains/${chainId}/rules`), fault);
  t.like(await admin.delete(`/v1/chains/${chainId}`), fault);
  t.false(itemsOf(await admin.get(`/v1/rules?chainId=${chainId}`)).some(({ id }) => id === ruleId));
});

test('the log says why the server could not do something, and nothing of clients that did not wait', async (t) => {
  const logged: string[] = [];
  const log = pino({ level: 'error' }, { write: (line) => logged.push(line) });
  const store = shared.nsdb.store();
  const own = await TestApi.start(store, { log });
  t.teardown(() => own.close());
  const bridgeId = await make(own.admin, '/v1/bridges', { name: 'damaged' });
  const multi = store.multi.bind(store);
  const leaving = new AbortController();
  const isGivenUp = new Promise<void>((resolve) => {
    store.multi = async (operations, options) => {
      const { signal } = options!;
      setImmediate(() => leaving.abort());
      await once(signal!, 'abort');
      setTimeout(resolve, 100);
      return multi(operations, options);
    };
  });
  const left = fetch(`${own.address}/v1/bridges/${bridgeId}`, {
    method: 'PATCH',
    headers: { 'content-type': 'application/json' },
    body: '{"adminStateUp": false}',
    signal: leaving.signal,
  });
  t.is(await left.catch(() => 'left'), 'left');
  await isGivenUp;
  t.deepEqual(logged, []);

  await store.set(objectPath('bridge', bridgeId), new TextEncoder().encode('{"name": 7}'));
  t.is((await own.admin.get(`/v1/bridges/${bridgeId}`)).status, 500);
  t.is(logged.length, 1);
  t.true(logged[0].includes('request failed') && logged[0].includes('expected text'), logged[0]);
});

test('who is not told what a change has made, as the NSDB goes away just then, is told that it was made', async (t) => {
  const store = shared.nsdb.store();
  const own = await TestApi.start(store);
  t.teardown(() => own.close());
  const [get, multi] = [store.get.bind(store), store.multi.bind(store)];
  store.multi = async (operations, options) => {
    const results = await multi(operations, options);
    store.get = (path) => Promise.reject(new StoreUnavailableError('get', path, false, 'no connection'));
    return results;
  };
  const id = randomUUID();
  const answer = await own.admin.post('/v1/bridges', { id, name: 'unseen' });
  store.get = get;
  t.like(answer, { status: 503, body: { code: 'MN_STORE_UNAVAILABLE' } });
  t.true(JSON.stringify(answer.body).includes(`bridge ${id} is created`), JSON.stringify(answer.body));
  t.is((await own.admin.get(`/v1/bridges/${id}`)).status, 200);
});

test('what others need cannot be deleted, and the answer says what that is', async (t) => {
  const { admin } = shared.api;
  const loadBalancerId = await make(admin, '/v1/load-balancers', {});
  const routerId = await make(admin, '/v1/routers', { name: 'router', loadBalancerId });
  const answer = await admin.delete(`/v1/routers/${routerId}`);
  t.like(answer, { status: 409, body: { code: 'MN_REFERENCED' } });
  t.true(JSON.stringify(answer.body).includes(loadBalancerId));
});

test('parameters and fields that begin with a slash are the fault of whoever sends them', async (t) => {
  const { admin } = shared.api;
  const asked = [await admin.get('/v1/bridges?%2Fx=1'), await admin.post('/v1/bridges', { name: 'a', '/x': 1 })];
  for (const { status, body } of asked) {
    t.is(status, 400);
    t.like(body, { code: 'MN_INVALID_INPUT', field: '/x' });
  }
});

test('a version without its quotes, and a body that is not there, are refused as such', async (t) => {
  const { admin, address } = shared.api;
  const path = `/v1/bridges/${await make(admin, '/v1/bridges', { name: 'web' })}`;
  for (const tag of ['260', '"260', '260, "1"']) {
    const headers = { 'if-match': tag };
    const refused = { status: 400, body: { code: 'MN_INVALID_INPUT', field: 'if-match', value: tag } };
    t.like(await admin.patch(path, {}, headers), refused);
    t.like(await admin.put(path, { name: 'web' }, headers), refused);
    t.like(await admin.delete(path, headers), refused);
  }
  t.is((await admin.patch(path, {}, { 'if-match': '"1", W/"260"' })).status, 412);

  const headers = { 'content-type': 'application/json' };
  for (const [method, to] of [
    ['PATCH', path],
    ['POST', '/v1/chains'],
  ]) {
    const answer = await fetch(`${address}${to}`, { method, headers, body: '' });
    t.like({ status: answer.status, body: await answer.json() }, { status: 400, body: { code: 'MN_INVALID_INPUT' } });
  }
  const wrongMethod = (await admin.patch('/v1/bridges', {})).body as { detail: string };
  t.is(wrongMethod.detail, 'PATCH /v1/bridges: expected GET, POST');
});
