import { randomUUID } from 'node:crypto';
import test from 'ava';
import type { Store } from '../../../src/nsdb/store.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { ApacheZookeeper } from '../../nsdb/apache-zookeeper.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';
import { etagIn, TestApi } from '../api-test.js';

const ROUNDS = 10;

type Server = { store(): Store; close(): Promise<void> };

const SERVERS: Readonly<Record<string, () => Promise<Server>>> = {
  'embedded server': () => EmbeddedNsdb.start(),
  'Apache ZooKeeper': async () => {
    const server = await ApacheZookeeper.start();
    const stores: Store[] = [];
    const close = async () => {
      for (const store of stores) await store.close();
      await server.close();
    };
    const store = () => {
      stores.push(new ZookeeperStore({ connect: server.address, sessionTimeout: 10_000 }));
      return stores.at(-1)!;
    };
    return { store, close };
  },
};

for (const [where, start] of Object.entries(SERVERS)) {
  let nsdb: Server | undefined;
  let apis: TestApi[] = [];

  /** Two servers of the API side by side, each with a session of its own. */
  test.before(async () => {
    nsdb = await start();
    apis = [await TestApi.start(nsdb.store()), await TestApi.start(nsdb.store())];
  });
  test.after.always(async () => {
    for (const api of apis) await api.close();
    await nsdb?.close();
  });

  test(`${where}: a deletion of one version never takes a change with it that was made to that version meanwhile`, async (t) => {
    const [one, other] = apis.map(({ admin }) => admin);
    for (let round = 0; round < ROUNDS; round++) {
      const id = randomUUID();
      const path = `/v1/chains/${id}`;
      const created = await one.post('/v1/chains', { id, name: 'contended' });
      const version = { 'if-match': etagIn(created) };
      const [deleted, changed] = await Promise.all([one.delete(path, version), other.patch(path, { name: 'kept' })]);
      if (deleted.status === 204) {
        t.is(changed.status, 404, 'the change came too late');
      } else {
        t.is(deleted.status, 412);
        t.is(changed.status, 200);
        t.like((await one.get(path)).body, { name: 'kept' });
      }
    }
  });

  test(`${where}: of two who change the same version one is told that it is another`, async (t) => {
    const id = randomUUID();
    const path = `/v1/chains/${id}`;
    await apis[0].admin.post('/v1/chains', { id, name: 'counter', metadata: { count: '0' } });
    let done = 0;
    const count = async ({ admin }: TestApi) => {
      for (let i = 0; i < ROUNDS; ) {
        const read = await admin.get(path);
        const { metadata } = read.body as { metadata: { count: string } };
        const next = { metadata: { count: String(Number(metadata.count) + 1) } };
        const { status } = await admin.patch(path, next, { 'if-match': etagIn(read) });
        if (status === 412) continue;
        t.is(status, 200);
        done++;
        i++;
      }
    };
    await Promise.all([...apis, ...apis].map(count));
    t.like((await apis[1].admin.get(path)).body, { metadata: { count: String(done) } });
  });

  test(`${where}: of several who make the same object one does, whatever the others are told`, async (t) => {
    const clients = [...apis, ...apis].map(({ admin }) => admin);
    const statuses = async (replies: Promise<{ status: number }>[]) =>
      (await Promise.all(replies)).map(({ status }) => status).sort();
    for (let round = 0; round < ROUNDS; round++) {
      const chain = { id: randomUUID(), name: 'same' };
      t.deepEqual(await statuses(clients.map((client) => client.post('/v1/chains', chain))), [200, 200, 200, 201]);
      const id = randomUUID();
      const different = clients.map((client, i) => client.post('/v1/chains', { id, name: `of-${i}` }));
      t.deepEqual(await statuses(different), [201, 409, 409, 409]);
      const path = `/v1/chains/${randomUUID()}`;
      const onlyNew = clients.map((client, i) => client.put(path, { name: `of-${i}` }, { 'if-none-match': '*' }));
      t.deepEqual(await statuses(onlyNew), [201, 412, 412, 412]);
    }
  });

  test(`${where}: batches of several at once are carried out one after the other, or told that they were not`, async (t) => {
    const [left, right] = [randomUUID(), randomUUID()];
    for (const id of [left, right])
      await apis[0].admin.post('/v1/chains', { id, name: 'half', metadata: { count: '0' } });
    let done = 0;
    const count = async ({ admin }: TestApi) => {
      for (let i = 0; i < ROUNDS; ) {
        const [one, other] = await Promise.all([left, right].map((id) => admin.get(`/v1/chains/${id}`)));
        const operations = [one, other].map((read) => {
          const { id, metadata } = read.body as { id: string; metadata: { count: string } };
          const body = { metadata: { count: String(Number(metadata.count) + 1) } };
          return { op: 'patch', kind: 'chain', id, ifMatch: etagIn(read), body };
        });
        const { status } = await admin.post('/v1/batch', { operations });
        if (status === 412) continue;
        t.is(status, 200);
        done++;
        i++;
      }
    };
    await Promise.all(apis.map(count));
    for (const id of [left, right]) {
      t.like((await apis[1].admin.get(`/v1/chains/${id}`)).body, { metadata: { count: String(done) } });
    }
  });
}
