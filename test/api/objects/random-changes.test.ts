import { randomUUID } from 'node:crypto';
import test from 'ava';
import { EXAMPLES, exampleOf } from '../../../src/api/description/examples.js';
import { segmentOf } from '../../../src/api/description/resources.js';
import { fsck } from '../../../src/nsdb/operations/fsck.js';
import { KINDS } from '../../../src/topology/types.js';
import { Dice } from '../../dice.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';
import { type Client, TestApi, tenantAdmin } from '../api-test.js';

const SERVICE_PORT = EXAMPLES['l2-insertion'].servicePortId;
const REQUESTS = 300;
const AT_ONCE = 6;

test('whatever clients change at two servers at once, no request fails by itself and the NSDB is sound', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const apis = [await TestApi.start(nsdb.store()), await TestApi.start(nsdb.store())];
  t.teardown(async () => {
    for (const api of apis) await api.close();
  });
  const dice = new Dice(Number(process.env.MIDONET_SEED ?? 1));
  const clients = apis.flatMap((api) => [api.admin, api.as(tenantAdmin('blue'))]);
  const paths = KINDS.map((kind) => `/v1/${segmentOf(kind)}/${EXAMPLES[kind].id}`);

  const change = async (client: Client) => {
    const kind = dice.pick(KINDS)!;
    const path = `/v1/${segmentOf(kind)}/${EXAMPLES[kind].id}`;
    switch (dice.below(6)) {
      case 0:
        return client.post(`/v1/${segmentOf(kind)}`, { ...EXAMPLES[kind], id: randomUUID(), position: undefined });
      case 1:
        return client.patch(path, { name: `name-${dice.below(100)}` });
      case 2:
        return client.delete(dice.pick(paths)!);
      case 3:
        return client.put(`/v1/ports/${EXAMPLES.port.id}/link`, { peerId: SERVICE_PORT });
      case 4:
        return client.put(path, EXAMPLES[kind]);
      default: {
        const operations = exampleOf(kind).map(({ kind, object }) => ({
          op: 'replace',
          kind,
          id: object.id,
          body: object,
        }));
        return client.post('/v1/batch', { operations });
      }
    }
  };
  const statuses = new Map<number, number>();
  for (let i = 0; i < REQUESTS; i += AT_ONCE) {
    const answers = await Promise.all(Array.from({ length: AT_ONCE }, () => change(dice.pick(clients)!)));
    for (const { status, body } of answers) {
      t.true(status < 500, JSON.stringify(body));
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
    }
  }
  for (const status of [200, 201, 204]) t.true((statuses.get(status) ?? 0) > 5, `${status}: ${[...statuses]}`);
  const { left } = await fsck({ store: nsdb.store(), repair: false });
  t.deepEqual(left, []);
});
