import { randomUUID } from 'node:crypto';
import test from 'ava';
import { EmbeddedNsdb } from '../nsdb/embedded-nsdb.js';
import { etagIn, TestApi } from './api-test.js';

const ROUNDS = 10;

let nsdb: EmbeddedNsdb | undefined;
let apis: TestApi[] = [];

/** Two servers side by side, each with a session of its own. */
test.before(async () => {
  nsdb = await EmbeddedNsdb.start();
  apis = [await TestApi.start(nsdb.store()), await TestApi.start(nsdb.store())];
});
test.after.always(async () => {
  for (const api of apis) await api.close();
  await nsdb?.close();
});

test('a deletion of one version never takes a change with it that was made to that version meanwhile', async (t) => {
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

test('of two who change the same version one is told that it is another', async (t) => {
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
