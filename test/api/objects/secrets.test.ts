import { randomUUID } from 'node:crypto';
import test from 'ava';
import { problemIn, tenantReader } from '../api-test.js';
import { sharedApi } from '../shared-api.js';

const shared = sharedApi();

const password = 'hunter2';

/** A router of tenant acme, and a neighbour that has a password. */
async function makePeer(): Promise<{ id: string; routerId: string; address: string; asNumber: number }> {
  const routerId = randomUUID();
  await shared.api.repository.create('router', { id: routerId, name: 'edge', tenantId: 'acme', asNumber: 64_512 });
  const peer = { id: randomUUID(), routerId, address: '192.0.2.1', asNumber: 64_513 };
  await shared.api.repository.create('bgp-peer', { ...peer, password });
  return peer;
}

async function passwordOf(id: string): Promise<string | undefined> {
  return (await shared.api.repository.get('bgp-peer', id))?.object.password;
}

/** What a stream tells until it has told all that there is. */
async function watched(path: string): Promise<string> {
  const end = new AbortController();
  const { body } = await fetch(`${shared.api.address}${path}`, {
    headers: { accept: 'text/event-stream' },
    signal: end.signal,
  });
  let text = '';
  for await (const part of body!.pipeThrough(new TextDecoderStream())) {
    text += part;
    if (text.includes('event: current')) break;
  }
  end.abort();
  return text;
}

test('the password of a BGP peer is told to nobody', async (t) => {
  const { id, routerId } = await makePeer();
  const path = `/v1/bgp-peers/${id}`;
  for (const client of [shared.api.admin, shared.api.as(tenantReader('acme'))]) {
    const object = await client.get(path);
    t.like(object.body, { id, password: '***' });
    const lists = [await client.get('/v1/bgp-peers'), await client.get(`/v1/routers/${routerId}/bgp-peers`)];
    for (const { body } of [object, ...lists]) t.false(JSON.stringify(body).includes(password));
  }
  const patch = { op: 'patch', kind: 'bgp-peer', id, body: { name: 'upstream' } };
  const changes = [
    await shared.api.admin.patch(path, { keepAlive: 30 }),
    await shared.api.admin.patch(path, { password }),
    await shared.api.admin.post('/v1/batch', { operations: [patch] }),
  ];
  for (const { status, body } of changes) {
    t.is(status, 200, JSON.stringify(body));
    t.true(JSON.stringify(body).includes('"password":"***"'));
    t.false(JSON.stringify(body).includes(password));
  }
  for (const stream of [path, '/v1/watch?kinds=bgp-peer']) {
    const text = await watched(stream);
    t.true(text.includes('"password":"***"'));
    t.false(text.includes(password));
  }
});

test('nobody can guess at a password by asking for those who have it', async (t) => {
  const { status, body } = await shared.api.admin.get(`/v1/bgp-peers?password=${password}`);
  t.is(status, 400);
  t.is(problemIn({ body } as never).field, 'password');
});

test('a password is as it was when what was told in its place is sent back, and as another is sent', async (t) => {
  const { id, ...peer } = await makePeer();
  const path = `/v1/bgp-peers/${id}`;
  const { body } = await shared.api.admin.get(path);
  t.is((await shared.api.admin.put(path, { ...(body as object), holdTime: 90 })).status, 200);
  t.is(await passwordOf(id), password);
  t.is((await shared.api.admin.patch(path, { password: '***', holdTime: 60 })).status, 200);
  t.is(await passwordOf(id), password);
  t.is((await shared.api.admin.post('/v1/bgp-peers', { ...(body as object), holdTime: 60 })).status, 200);
  t.is((await shared.api.admin.patch(path, { password: 'swordfish' })).status, 200);
  t.is(await passwordOf(id), 'swordfish');
  t.is((await shared.api.admin.put(path, peer)).status, 200);
  t.is(await passwordOf(id), undefined);
});

test('what is told in the place of a password is not taken for one', async (t) => {
  const { id, ...peer } = await makePeer();
  const another = await shared.api.admin.post('/v1/bgp-peers', { ...peer, address: '192.0.2.2', password: '***' });
  t.is(another.status, 400);
  t.is(problemIn(another).field, 'password');
  await shared.api.admin.patch(`/v1/bgp-peers/${id}`, { password: null });
  t.is((await shared.api.admin.patch(`/v1/bgp-peers/${id}`, { password: '***' })).status, 400);
});
