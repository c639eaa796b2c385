import { randomUUID } from 'node:crypto';
import test from 'ava';
import { EXAMPLES, exampleOf } from '../../../src/api/description/examples.js';
import { NESTED, segmentOf } from '../../../src/api/description/resources.js';
import { MEMBER_PATHS } from '../../../src/api/objects/member-routes.js';
import { TABLE_PATHS } from '../../../src/api/objects/table-routes.js';
import { ADMIN_KINDS, hasTenant, OWNERS } from '../../../src/api/tenancy/tenancy.js';
import type { GroupKind } from '../../../src/nsdb/repository/members.js';
import { KINDS, type Kind } from '../../../src/topology/types.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';
import { type Client, itemsOf, problemIn, TestApi, tenantAdmin, tenantReader } from '../api-test.js';

let nsdb: EmbeddedNsdb | undefined;
let api: TestApi | undefined;

/** Examples of all kinds, of the tenant blue. The tests only try to change them. */
test.before(async () => {
  nsdb = await EmbeddedNsdb.start();
  api = await TestApi.start(nsdb.store());
  for (const kind of KINDS) {
    for (const example of exampleOf(kind)) {
      const body = hasTenant(example.kind) ? { ...example.object, tenantId: 'blue' } : example.object;
      const { status, body: answer } = await api.admin.post(`/v1/${segmentOf(example.kind)}`, body);
      if (status !== 201 && status !== 200) throw new Error(`${example.kind}: ${JSON.stringify(answer)}`);
    }
  }
});
test.after.always(async () => {
  await api?.close();
  await nsdb?.close();
});

const blue = tenantAdmin('blue');
const red = tenantAdmin('red');
/** Has nothing. */
const green = tenantAdmin('green');

test("every kind of object is a tenant's, or an admin's", (t) => {
  for (const kind of KINDS) t.is(ADMIN_KINDS.has(kind), !(hasTenant(kind) || kind in OWNERS), kind);
});

/** Requests for an object, or for what is below it. */
function requestsFor(kind: Kind, id: string): [string, string, unknown][] {
  const path = `/v1/${segmentOf(kind)}/${id}`;
  const requests: [string, string, unknown][] = [
    ['GET', path, undefined],
    ['PATCH', path, { name: 'stolen' }],
    ['PATCH', path, {}],
    ['DELETE', path, undefined],
  ];
  for (const { parent, segment, row } of NESTED) {
    if (parent !== kind) continue;
    requests.push(['GET', `${path}/${segment}`, undefined]);
    requests.push(['POST', `${path}/${segment}`, { ...EXAMPLES[row.kind], id: undefined, [row.field]: undefined }]);
  }
  for (const { owner, segment, key } of TABLE_PATHS) {
    if (owner !== kind) continue;
    const name = key === 'mac' ? '02:00:00:00:00:10' : '10.0.0.10';
    const entry = key === 'mac' ? { portId: EXAMPLES.port.id } : { mac: '02:00:00:00:00:66' };
    requests.push(['GET', `${path}/${segment}`, undefined]);
    if (key === 'route') continue;
    requests.push(['GET', `${path}/${segment}/${name}`, undefined]);
    requests.push(['PUT', `${path}/${segment}/${name}`, entry]);
    requests.push(['DELETE', `${path}/${segment}/${name}`, undefined]);
  }
  if (kind in MEMBER_PATHS) {
    const { segment, key } = MEMBER_PATHS[kind as GroupKind];
    const name = { address: '10.0.0.10', mac: '02:00:00:00:00:10', clientId: '00010203' }[key];
    requests.push(['GET', `${path}/${segment}`, undefined]);
    requests.push(['GET', `${path}/${segment}/${name}`, undefined]);
    requests.push(['PUT', `${path}/${segment}/${name}`, {}]);
    requests.push(['DELETE', `${path}/${segment}/${name}`, undefined]);
  }
  if (kind === 'port') {
    requests.push(['GET', `${path}/link`, undefined]);
    requests.push(['PUT', `${path}/link`, { peerId: randomUUID() }]);
    requests.push(['DELETE', `${path}/link`, undefined]);
  }
  if (kind === 'host') requests.push(['GET', `${path}/status`, undefined]);
  return requests;
}

test('what belongs to another tenant is as if it were not there, on every route', async (t) => {
  const client = api!.as(green);
  for (const kind of KINDS) {
    const { id } = EXAMPLES[kind];
    const absent = randomUUID();
    const alike = requestsFor(kind, absent);
    for (const [i, [method, path, body]] of requestsFor(kind, id).entries()) {
      const foreign = await client.send(method, path, body);
      const none = await client.send(method, alike[i][1], body);
      const what = `${method} ${path} ${JSON.stringify(foreign.body)}`;
      t.is(foreign.status, none.status, what);
      t.true(foreign.status === 404 || (method === 'DELETE' && foreign.status === 204), what);
      t.is(JSON.stringify(foreign.body)?.replaceAll(id, absent), JSON.stringify(none.body), what);
    }
    const replaced = await client.put(`/v1/${segmentOf(kind)}/${id}`, { ...EXAMPLES[kind], tenantId: undefined });
    t.is(replaced.status, 404, kind);
    t.deepEqual(itemsOf(await client.get(`/v1/${segmentOf(kind)}`)), [], kind);
    t.is((await api!.admin.get(`/v1/${segmentOf(kind)}/${id}`)).status, 200, 'it is still there');
  }
});

test('a batch may not touch what belongs to another tenant', async (t) => {
  const client = api!.as(green);
  for (const kind of KINDS) {
    const { id } = EXAMPLES[kind];
    for (const op of ['patch', 'replace']) {
      const body = op === 'patch' ? { name: 'stolen' } : { ...EXAMPLES[kind], tenantId: undefined };
      const answer = await client.post('/v1/batch', { operations: [{ op, kind, id, body }] });
      t.like(answer, { status: 400, body: { code: 'MN_NOT_FOUND', field: 'operations[0].id' } }, `${op} ${kind}`);
    }
    const { body } = await client.post('/v1/batch', { operations: [{ op: 'delete', kind, id }] });
    t.deepEqual(body, { results: [{ kind, id, result: 'deleted' }] }, 'as if there were none');
    t.is((await api!.admin.get(`/v1/${segmentOf(kind)}/${id}`)).status, 200);
  }
});

test('a tenant finds each of its objects in the collection of its kind', async (t) => {
  const client = api!.as(tenantReader('blue'));
  for (const kind of KINDS) {
    const isListed = await lists(client, kind, EXAMPLES[kind].id);
    t.is(isListed, !ADMIN_KINDS.has(kind), kind);
  }
});

/** Whether the object is on one of the pages, of one object each. */
async function lists(client: Client, kind: Kind, id: string): Promise<boolean> {
  let next: string | undefined = '';
  while (next !== undefined) {
    const page = await client.get(`/v1/${segmentOf(kind)}?limit=1${next && `&after=${next}`}`);
    if (itemsOf(page).some((item) => item.id === id)) return true;
    ({ next } = page.body as { next?: string });
  }
  return false;
}

test('a field may not lead to what belongs to another tenant, and the error is that of a field that leads nowhere', async (t) => {
  const client = api!.as(red);
  const bridge = { id: randomUUID(), name: 'mine' };
  t.like(await client.post('/v1/bridges', bridge), { status: 201, body: { tenantId: 'red' } });
  const attempts: [Kind, string, Record<string, unknown>][] = [
    ['port', 'bridgeId', { bridgeId: EXAMPLES.bridge.id }],
    ['port', 'portGroupIds[0]', { bridgeId: bridge.id, portGroupIds: [EXAMPLES['port-group'].id] }],
    ['port', 'inboundFilterId', { bridgeId: bridge.id, inboundFilterId: EXAMPLES.chain.id }],
    ['port', 'peerId', { bridgeId: bridge.id, peerId: EXAMPLES.port.id }],
    ['rule', 'chainId', { chainId: EXAMPLES.chain.id, type: 'accept' }],
    ['router', 'loadBalancerId', { name: 'r', loadBalancerId: EXAMPLES['load-balancer'].id }],
    ['bridge', 'qosPolicyId', { name: 'b', qosPolicyId: EXAMPLES['qos-policy'].id }],
    ['mirror', 'toPortId', { toPortId: EXAMPLES.port.id }],
  ];
  for (const [kind, field, body] of attempts) {
    const { status, body: foreign } = await client.post(`/v1/${segmentOf(kind)}`, body);
    t.is(status, 400, JSON.stringify(foreign));
    t.like(foreign, { code: 'MN_NOT_FOUND', field });
    const text = JSON.stringify(body);
    const own = text.replaceAll(problemIn({ body: foreign } as never).value as string, randomUUID());
    const nowhere = await client.post(`/v1/${segmentOf(kind)}`, own);
    t.like(nowhere, { status: 400, body: { code: 'MN_NOT_FOUND', field } });
  }
  await client.delete(`/v1/bridges/${bridge.id}`);
});

test('an id that another tenant has used is taken, and no more is told of it', async (t) => {
  const answer = await api!.as(red).post('/v1/bridges', { ...EXAMPLES.bridge, tenantId: undefined });
  t.like(answer, { status: 409, body: { code: 'MN_ALREADY_EXISTS', field: 'id' } });
});

test('nobody but an admin sets what is about machines', async (t) => {
  const client = api!.as(blue);
  const path = `/v1/ports/${EXAMPLES.port.id}`;
  const binding = { hostId: EXAMPLES.host.id, interfaceName: 'eth1' };
  t.like(await client.patch(path, { binding }), { status: 403, body: { code: 'MN_FORBIDDEN', field: 'binding' } });
  t.like(await client.patch(`/v1/bridges/${EXAMPLES.bridge.id}`, { vni: 7 }), { status: 403, body: { field: 'vni' } });
  t.is((await client.post('/v1/hosts', { name: 'mine' })).status, 403);
  t.is((await client.post('/v1/tunnel-zones', { name: 'mine', type: 'gre' })).status, 403);
  t.is((await client.post('/v1/qos-policies', { name: 'all', shared: true })).status, 403);

  const id = randomUUID();
  const port = { id, bridgeId: EXAMPLES.bridge.id };
  t.is((await api!.admin.post('/v1/ports', { ...port, binding })).status, 201);
  t.like(await client.put(`/v1/ports/${id}`, { ...port, adminStateUp: false }), {
    status: 200,
    body: { adminStateUp: false, binding },
  });
  t.is((await client.patch(`/v1/ports/${id}`, { binding: null })).status, 403);
  t.is((await client.delete(`/v1/ports/${id}`)).status, 204);
});

test('an object stays with its tenant', async (t) => {
  const path = `/v1/bridges/${EXAMPLES.bridge.id}`;
  for (const client of [api!.admin, api!.as(blue)]) {
    t.like(await client.patch(path, { tenantId: 'red' }), { status: 400, body: { field: 'tenantId', value: 'red' } });
    t.like(await client.patch(path, { tenantId: null }), { status: 400, body: { field: 'tenantId' } });
  }
  t.like(await api!.as(red).post('/v1/bridges', { name: 'b', tenantId: 'blue' }), {
    status: 403,
    body: { field: 'tenantId' },
  });
});

test('a reader sees what the tenant has and changes none of it', async (t) => {
  const client = api!.as(tenantReader('blue'));
  for (const kind of KINDS) {
    if (ADMIN_KINDS.has(kind)) continue;
    const path = `/v1/${segmentOf(kind)}/${EXAMPLES[kind].id}`;
    t.is((await client.get(path)).status, 200, kind);
    t.is((await client.patch(path, {})).status, 403, kind);
    t.is((await client.put(path, EXAMPLES[kind])).status, 403, kind);
    t.is((await client.delete(path)).status, 403, kind);
    t.is((await client.post(`/v1/${segmentOf(kind)}`, { ...EXAMPLES[kind], id: randomUUID() })).status, 403, kind);
  }
  t.is((await client.post('/v1/batch', { operations: [] })).status, 403);
});

test('a tenant finds all that it has, a page at a time, and nothing else', async (t) => {
  const admin = api!.admin;
  const tenants = [`a-${randomUUID()}`, `b-${randomUUID()}`];
  const ports = new Map<string, Set<string>>();
  for (const tenantId of tenants) {
    const own = new Set<string>();
    for (let i = 0; i < 3; i++) {
      const bridgeId = randomUUID();
      await admin.post('/v1/bridges', { id: bridgeId, name: `bridge-${i}`, tenantId });
      for (let j = 0; j < i * 2; j++) {
        const { body } = await admin.post('/v1/ports', { bridgeId });
        own.add((body as { id: string }).id);
      }
    }
    const { body: router } = await admin.post('/v1/routers', { name: 'router', tenantId });
    const { body } = await admin.post('/v1/ports', { routerId: (router as { id: string }).id });
    own.add((body as { id: string }).id);
    ports.set(tenantId, own);
  }
  for (const tenantId of tenants) {
    const client = api!.as(tenantAdmin(tenantId));
    for (const limit of [1, 2, 3, 100]) {
      const found: string[] = [];
      let next: string | undefined = '';
      while (next !== undefined) {
        const page = await client.get(`/v1/ports?limit=${limit}${next && `&after=${next}`}`);
        t.is(page.status, 200, JSON.stringify(page.body));
        found.push(...itemsOf(page).map(({ id }) => String(id)));
        ({ next } = page.body as { next?: string });
      }
      t.deepEqual(found.toSorted(), [...ports.get(tenantId)!].toSorted());
    }
    t.is(itemsOf(await client.get('/v1/bridges?name=bridge-1')).length, 1);
    t.deepEqual((await client.get('/v1/tenants')).body, { items: [{ id: tenantId }] });
  }
});

test('a list goes on behind objects that none goes with', async (t) => {
  const { admin } = api!;
  const client = api!.as(tenantAdmin('yellow'));
  const make = async (path: string, body: object) => ((await admin.post(path, body)).body as { id: string }).id;
  const loadBalancerId = await make('/v1/load-balancers', { tenantId: 'yellow' });
  const poolId = await make('/v1/pools', { loadBalancerId });
  const vipId = await make('/v1/vips', { poolId, address: '10.0.0.1', protocolPort: 80 });
  // The `next` of a page that ended at a load balancer: behind it, but before the first of its pools.
  const page = await client.get(`/v1/vips?after=1.1.0.${loadBalancerId}..`);
  t.like(page, { status: 200, body: { items: [{ id: vipId }] } });
});

test("policies that are shared are everybody's to read and to name, but not to change", async (t) => {
  const id = randomUUID();
  await api!.admin.post('/v1/qos-policies', { id, name: 'common', shared: true, tenantId: 'blue' });
  const client = api!.as(red);
  t.is((await client.get(`/v1/qos-policies/${id}`)).status, 200);
  t.true(itemsOf(await client.get('/v1/qos-policies')).some((policy) => policy.id === id));
  t.is((await client.post('/v1/bridges', { name: 'limited', qosPolicyId: id })).status, 201);
  t.is((await client.patch(`/v1/qos-policies/${id}`, { name: 'mine' })).status, 403);
  t.is((await client.delete(`/v1/qos-policies/${id}`)).status, 403);
  await api!.admin.delete(`/v1/qos-policies/${id}`);
});

test('a page of policies costs what is on it, whatever policies others keep to themselves', async (t) => {
  const { admin } = api!;
  const policies = '/v1/qos-policies';
  const make = async (body: object) =>
    ((await admin.post(policies, { name: 'policy', ...body })).body as { id: string }).id;
  const shared: string[] = [];
  const own: string[] = [];
  const others: string[] = [];
  for (let i = 0; i < 5; i++) {
    shared.push(await make({ tenantId: 'blue', shared: true }));
    own.push(await make({ tenantId: 'grey', shared: i === 0 }));
    for (let j = 0; j < 6; j++) others.push(await make({ tenantId: 'blue' }));
  }
  t.teardown(() => Promise.all([...shared, ...own, ...others].map((id) => admin.delete(`${policies}/${id}`))));

  const store = nsdb!.store();
  const get = store.get.bind(store);
  const read: string[] = [];
  store.get = (path, options) => {
    read.push(path);
    return get(path, options);
  };
  const counting = await TestApi.start(store);
  t.teardown(() => counting.close());
  const client = counting.as(tenantAdmin('grey'));
  for (const limit of [1, 2, 5, 100]) {
    const found: string[] = [];
    let next: string | undefined = '';
    while (next !== undefined) {
      const page = await client.get(`${policies}?limit=${limit}${next && `&after=${next}`}`);
      t.true(itemsOf(page).length <= limit);
      found.push(...itemsOf(page).map(({ id }) => String(id)));
      ({ next } = page.body as { next?: string });
    }
    t.is(new Set(found).size, found.length);
    t.deepEqual(found.slice(0, own.length).toSorted(), own.toSorted());
    t.deepEqual(
      shared.filter((id) => !found.includes(id)),
      [],
    );
  }
  t.deepEqual(
    read.filter((path) => others.some((id) => path.endsWith(id))),
    [],
  );

  await admin.patch(`${policies}/${shared[0]}`, { shared: false });
  t.false(itemsOf(await client.get(policies)).some(({ id }) => id === shared[0]));
});
