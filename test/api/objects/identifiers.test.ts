import { randomUUID } from 'node:crypto';
import test from 'ava';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';
import { itemsOf, TestApi } from '../api-test.js';

test('an identifier names the same object in upper-case letters and in lower-case ones, wherever it comes in', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  const api = await TestApi.start(nsdb.store());
  try {
    const { admin } = api;
    const [bridge, port, peer, batched] = Array.from({ length: 4 }, () => `abcdef${randomUUID().slice(6)}`);
    const upper = (id: string) => id.toUpperCase();
    const made = await admin.post('/v1/bridges', { id: upper(bridge), name: 'web' });
    t.is(made.status, 201);
    t.like(made.body, { id: bridge });
    t.is(made.headers.get('location'), `/v1/bridges/${bridge}`);
    t.is((await admin.post('/v1/bridges', { id: bridge, name: 'web' })).status, 200);
    t.like((await admin.get(`/v1/bridges/${upper(bridge)}`)).body, { id: bridge });
    t.is((await admin.put(`/v1/bridges/${bridge}`, { id: upper(bridge), name: 'web' })).status, 200);
    const below = await admin.post(`/v1/bridges/${upper(bridge)}/ports`, { id: upper(port), bridgeId: upper(bridge) });
    t.like(below.body, { id: port, bridgeId: bridge });
    t.is((await admin.post('/v1/ports', { id: upper(peer), bridgeId: upper(bridge) })).status, 201);
    t.is(itemsOf(await admin.get(`/v1/ports?bridgeId=${upper(bridge)}`)).length, 2);
    t.is(itemsOf(await admin.get(`/v1/ports?id=${upper(port)}`)).length, 1);
    const mac = `/v1/bridges/${bridge}/mac-table/02:00:00:00:00:01`;
    t.is((await admin.put(mac, { portId: upper(port) })).status, 201);
    t.like((await admin.get(mac)).body, { portId: port });
    const operations = [
      { op: 'create', kind: 'port', id: upper(batched), body: { id: batched, bridgeId: upper(bridge) } },
      { op: 'delete', kind: 'port', id: upper(peer) },
    ];
    t.is((await admin.post('/v1/batch', { operations })).status, 200);
    t.is((await admin.get(`/v1/ports/${peer}`)).status, 404);
    t.is((await admin.delete(`/v1/bridges/${upper(bridge)}`)).status, 204);
    t.is((await admin.get(`/v1/ports/${batched}`)).status, 404);
  } finally {
    await api.close();
    await nsdb.close();
  }
});
