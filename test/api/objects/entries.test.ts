import { randomUUID } from 'node:crypto';
import test from 'ava';
import { hostAlivePath } from '../../../src/nsdb/layout.js';
import { SharedTable } from '../../../src/nsdb/tables/shared-table.js';
import { LEARNED_ROUTE_TABLE, MAC_TABLE } from '../../../src/nsdb/tables/tables.js';
import { requireMac } from '../../../src/packet/address.js';
import { type Client, itemsOf, problemIn } from '../api-test.js';
import { sharedApi } from '../shared-api.js';

/** Members of objects, entries of tables, links: what is below an object and is no object itself. */

const shared = sharedApi();

async function make(client: Client, path: string, body: object): Promise<string> {
  const answer = await client.post(path, body);
  if (answer.status !== 201) throw new Error(JSON.stringify(answer.body));
  return (answer.body as { id: string }).id;
}

test('addresses join a group and leave it, in canonical text', async (t) => {
  const { admin } = shared.api;
  const id = await make(admin, '/v1/ip-address-groups', { name: 'offices' });
  const path = `/v1/ip-address-groups/${id}/addresses`;
  t.like(await admin.put(`${path}/FD00::0:1`, undefined), { status: 201, body: { address: 'fd00::1' } });
  t.is((await admin.put(`${path}/fd00::1`, {})).status, 200);
  t.is((await admin.put(`${path}/FD00::0:1`, { address: 'FD00:0::1' })).status, 200);
  t.like(await admin.put(`${path}/fd00::1`, { address: 'fd00::2' }), { status: 400, body: { field: 'address' } });
  for (let i = 0; i < 9; i++) await admin.put(`${path}/10.0.0.${i}`, undefined);
  const found: unknown[] = [];
  let next: string | undefined = '';
  while (next !== undefined) {
    const page = await admin.get(`${path}?limit=3${next && `&after=${next}`}`);
    found.push(...itemsOf(page).map(({ address }) => address));
    ({ next } = page.body as { next?: string });
  }
  t.deepEqual(found.toSorted(), [...Array.from({ length: 9 }, (_, i) => `10.0.0.${i}`), 'fd00::1']);
  t.is((await admin.get(`${path}/10.0.0.3`)).status, 200);
  t.is((await admin.delete(`${path}/10.0.0.3`)).status, 204);
  t.is((await admin.get(`${path}/10.0.0.3`)).status, 404);
  t.like(await admin.put(`${path}/10.0.0`, undefined), { status: 400, body: { field: 'address', value: '10.0.0' } });
  t.like(await admin.put(`${path}/10.0.0.9`, { colour: 1 }), { status: 400, body: { field: 'colour' } });
  t.is((await admin.put(`/v1/ip-address-groups/${randomUUID()}/addresses/10.0.0.1`, undefined)).status, 404);
});

test('machines of DHCP subnets are kept by MAC address and by client identifier', async (t) => {
  const { admin } = shared.api;
  const bridgeId = await make(admin, '/v1/bridges', { name: 'lan' });
  const v4 = await make(admin, '/v1/dhcp-subnets', { bridgeId, cidr: '10.0.0.0/24' });
  const host = { mac: '02:00:00:00:00:0a', address: '10.0.0.5', name: 'printer' };
  const path = `/v1/dhcp-subnets/${v4}/hosts/02:00:00:00:00:0A`;
  t.like(await admin.put(path, host), { status: 201, body: host });
  t.deepEqual((await admin.get(path)).body, host);
  t.deepEqual(itemsOf(await admin.get(`/v1/dhcp-subnets/${v4}/hosts`)), [host]);
  t.like(await admin.put(path, { ...host, address: 'x' }), { status: 400, body: { field: 'address' } });
  t.like(await admin.put(path, { ...host, mac: '02:00:00:00:00:0b' }), { status: 400, body: { field: 'mac' } });
  const v6 = await make(admin, '/v1/dhcp-v6-subnets', { bridgeId, prefix: 'fd00::/64' });
  t.is((await admin.put(`/v1/dhcp-v6-subnets/${v6}/hosts/00010203`, { address: 'fd00::5' })).status, 201);
  t.deepEqual(itemsOf(await admin.get(`/v1/dhcp-v6-subnets/${v6}/hosts`)), [
    { clientId: '00010203', address: 'fd00::5' },
  ]);
});

test('entries of a bridge are seen, put and deleted, but for those of its ports and those that hosts learned', async (t) => {
  const { admin, store } = shared.api;
  const bridgeId = await make(admin, '/v1/bridges', { name: 'lan' });
  const own = await make(admin, '/v1/ports', { bridgeId, mac: '02:00:00:00:00:01', addresses: ['10.0.0.1'] });
  const portId = await make(admin, '/v1/ports', { bridgeId });
  const learned = '02:00:00:00:00:02';
  const table = new SharedTable(store, MAC_TABLE, bridgeId);
  await table.learn(requireMac(learned, 'mac'), { portId });
  t.teardown(() => table.close());
  const macs = `/v1/bridges/${bridgeId}/mac-table`;
  const seeded = '02:00:00:00:00:03';
  t.is((await admin.put(`${macs}/${seeded}`, { portId })).status, 201);
  t.deepEqual(
    itemsOf(await admin.get(macs)).toSorted((a, b) => (String(a.mac) < String(b.mac) ? -1 : 1)),
    [
      { mac: '02:00:00:00:00:01', portId: own, learned: false },
      { mac: learned, portId, learned: true },
      { mac: seeded, portId, learned: false },
    ],
  );
  for (const method of ['PUT', 'DELETE']) {
    const body = method === 'PUT' ? { portId } : undefined;
    t.like(await admin.send(method, `${macs}/02:00:00:00:00:01`, body), { status: 409, body: { code: 'MN_CONFLICT' } });
  }
  t.is((await admin.delete(`${macs}/${learned}`)).status, 409);
  t.is((await admin.delete(`${macs}/${seeded}`)).status, 204);
  t.is((await admin.get(`${macs}/${seeded}`)).status, 404);
  t.like(await admin.put(`${macs}/${seeded}`, { portId: randomUUID() }), { status: 400, body: { field: 'portId' } });

  t.is((await admin.put(`${macs}/${seeded}?vlan=7`, { portId })).status, 201);
  t.is(itemsOf(await admin.get(`${macs}?vlan=7`)).length, 1);
  t.like(await admin.get(`${macs}?vlan=9999`), { status: 400, body: { field: 'vlan' } });

  const ips = `/v1/bridges/${bridgeId}/ip-table`;
  t.is((await admin.put(`${ips}/10.0.0.9`, { mac: '02:00:00:00:00:09' })).status, 201);
  t.is((await admin.delete(`${ips}/10.0.0.1`)).status, 409, 'it follows from a port');
  t.is((await admin.delete(`${ips}/10.0.0.9`)).status, 204);
  t.is(itemsOf(await admin.get(ips)).length, 1);
});

test('neighbors of a router are put and deleted, and routes that it was told are seen', async (t) => {
  const { admin, store } = shared.api;
  const routerId = await make(admin, '/v1/routers', { name: 'router' });
  const portId = await make(admin, '/v1/ports', { routerId, subnets: ['10.0.0.1/24'] });
  const neighbors = `/v1/ports/${portId}/neighbors`;
  t.is((await admin.put(`${neighbors}/10.0.0.2`, { mac: '02:00:00:00:00:02' })).status, 201);
  t.like(await admin.get(neighbors), { status: 200, body: { items: [{ address: '10.0.0.2', learned: false }] } });
  t.is((await admin.delete(`${neighbors}/10.0.0.2`)).status, 204);

  const routes = new SharedTable(store, LEARNED_ROUTE_TABLE, routerId);
  await routes.learn({ destination: '10.9.0.0/16', nextHop: '10.0.0.2', portId }, { weight: 20 });
  t.teardown(() => routes.close());
  const [route] = itemsOf(await admin.get(`/v1/routers/${routerId}/learned-routes`));
  t.like(route, { destination: '10.9.0.0/16', nextHop: '10.0.0.2', portId, weight: 20, learned: true });
  t.deepEqual((await admin.get(`/v1/routers/${routerId}/learned-routes/${route.id}`)).body, route);
  t.is((await admin.delete(`/v1/routers/${routerId}/learned-routes/${route.id}`)).status, 405);
});

test('ports are linked and unlinked from either end', async (t) => {
  const { admin } = shared.api;
  const bridgeId = await make(admin, '/v1/bridges', { name: 'lan' });
  const [one, other, third] = await Promise.all([1, 2, 3].map(() => make(admin, '/v1/ports', { bridgeId })));
  t.is((await admin.get(`/v1/ports/${one}/link`)).status, 404);
  t.like(await admin.put(`/v1/ports/${one}/link`, { peerId: other }), {
    status: 200,
    body: { portId: one, peerId: other },
  });
  t.like((await admin.get(`/v1/ports/${other}/link`)).body, { peerId: one });
  t.like(await admin.put(`/v1/ports/${third}/link`, { peerId: one }), { status: 409, body: { field: 'peerId' } });
  const moved = await admin.put(`/v1/ports/${one}/link`, { peerId: third });
  t.is(moved.status, 409);
  t.true(problemIn(moved).detail.includes(`is linked to port ${other}`), problemIn(moved).detail);
  t.like((await admin.get(`/v1/ports/${other}/link`)).body, { peerId: one });
  t.is((await admin.put(`/v1/ports/${other}/link`, { peerId: one })).status, 200);
  t.is((await admin.delete(`/v1/ports/${other}/link`)).status, 204);
  t.is((await admin.get(`/v1/ports/${one}/link`)).status, 404);
});

test('a host is alive while its agent runs, and tenants are those that have something', async (t) => {
  const { admin, store } = shared.api;
  const hostId = await make(admin, '/v1/hosts', { name: 'node-1' });
  t.deepEqual((await admin.get(`/v1/hosts/${hostId}/status`)).body, { id: hostId, alive: false });
  const other = await make(admin, '/v1/hosts', { name: 'node-2' });
  await store.create(hostAlivePath(other), new Uint8Array(), { ephemeral: true });
  const statuses = itemsOf(await admin.get('/v1/host-status'));
  t.deepEqual(
    statuses.filter(({ id }) => id === hostId || id === other).sort((a) => (a.id === hostId ? -1 : 1)),
    [
      { id: hostId, alive: false },
      { id: other, alive: true },
    ],
  );
  await make(admin, '/v1/chains', { name: 'chain', tenantId: 'some tenant/1' });
  t.true(itemsOf(await admin.get('/v1/tenants')).some(({ id }) => id === 'some tenant/1'));
  for (const tenantId of ['c', 'a', 'b']) await make(admin, '/v1/chains', { name: 'chain', tenantId });
  const first = await admin.get('/v1/tenants?limit=2');
  t.deepEqual(first.body, { items: [{ id: 'a' }, { id: 'b' }], next: 'b' });
  t.is(first.headers.get('link'), '</v1/tenants?limit=2&after=b>; rel="next"');
  t.like((await admin.get('/v1/tenants?limit=1&after=b')).body, { items: [{ id: 'c' }], next: 'c' });
  t.like((await admin.get('/v1')).body, { collections: { bridges: '/v1/bridges' } });
});
