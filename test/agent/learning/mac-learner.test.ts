import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { MacLearner } from '../../../src/agent/learning/mac-learner.js';
import { macPath } from '../../../src/nsdb/layout.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../../src/nsdb/store.js';
import { SharedTable } from '../../../src/nsdb/tables/shared-table.js';
import { macTable } from '../../../src/nsdb/tables/tables.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';
import { until } from '../until.js';

const MAC = 0x0200_0000_0001;

async function setUp(t: ExecutionContext) {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const repository = new TopologyRepository(nsdb.store());
  await repository.initialize();
  const bridgeId = (await repository.create('bridge', { id: randomUUID(), name: 'b' })).id;
  const path = macPath(bridgeId, '02:00:00:00:00:01');
  const clock = { now: 0 };
  const warnings: string[] = [];
  const log = pino({ level: 'warn' }, { write: (line: string) => warnings.push(line) });
  const learner = (store: Store = nsdb.store(), maxPerPort = 4) =>
    new MacLearner(store, maxPerPort, () => clock.now, log);
  const portAt = async () => {
    const node = await repository.store.get(path);
    return node && (JSON.parse(Buffer.from(node.data).toString()) as { portId: string }).portId;
  };
  return { nsdb, repository, bridgeId, path, clock, warnings, learner, portAt };
}

test('an address is written with its port, moves, and goes 15 s after the last flow', async (t) => {
  const { bridgeId, path, clock, learner, portAt, repository } = await setUp(t);
  const [p, q] = [randomUUID(), randomUUID()];
  const one = learner();
  const learned = one.learn(bridgeId, 0, MAC, p)!;
  one.use(learned);
  one.use(learned);
  await until('it is learned', async () => (await portAt()) === p);
  t.truthy((await repository.store.get(path))?.stat.ephemeralOwner);
  t.is(one.learn(bridgeId, 0, MAC, q), learned);
  await until('it has moved', async () => (await portAt()) === q);
  one.release(learned);
  clock.now = 100_000;
  one.expire();
  t.is(await portAt(), q);
  one.release(learned);
  clock.now += 14_999;
  one.expire();
  t.is(await portAt(), q);
  clock.now += 1;
  one.expire();
  await until('it is gone', async () => (await portAt()) === undefined);
});

test('an address is learned in each VLAN by itself', async (t) => {
  const { repository, bridgeId, clock, learner, portAt } = await setUp(t);
  const [p, q] = [randomUUID(), randomUUID()];
  const one = learner();
  one.use(one.learn(bridgeId, 0, MAC, p)!);
  one.learn(bridgeId, 10, MAC, q);
  const inVlan = () => new SharedTable(repository.store, macTable(10), bridgeId).get(MAC);
  await until('both are learned', async () => (await portAt()) === p && (await inVlan())?.value.portId === q);
  clock.now = 15_000;
  one.expire();
  await until('that of the VLAN is gone', async () => (await inVlan()) === undefined);
  t.is(await portAt(), p);
});

test('packets that leave no flow keep an address learned, too', async (t) => {
  const { bridgeId, clock, learner, portAt } = await setUp(t);
  const p = randomUUID();
  const one = learner();
  one.learn(bridgeId, 0, MAC, p);
  await until('it is learned', async () => (await portAt()) === p);
  for (let i = 0; i < 5; i++) {
    clock.now += 10_000;
    one.learn(bridgeId, 0, MAC, p);
    one.expire();
  }
  await delay(20);
  t.is(await portAt(), p);
});

test('of two hosts the one that saw the address last has it, and the other leaves it alone', async (t) => {
  const { bridgeId, path, learner, portAt, repository } = await setUp(t);
  const [p, q] = [randomUUID(), randomUUID()];
  const [one, two] = [learner(), learner()];
  const first = one.learn(bridgeId, 0, MAC, p)!;
  one.use(first);
  await until('one has it', async () => (await portAt()) === p);
  two.use(two.learn(bridgeId, 0, MAC, q)!);
  await until('two has it', async () => (await portAt()) === q);
  const created = (await repository.store.get(path))?.stat.czxid;
  await delay(100);
  t.is((await repository.store.get(path))?.stat.czxid, created);
  t.is(await portAt(), q);
  // A flow of the first host that ends does not take away what the second wrote.
  one.release(first);
  one.expire();
  t.is(await portAt(), q);
  one.learn(bridgeId, 0, MAC, p);
  await until('one saw it again', async () => (await portAt()) === p);
});

test('an entry that the topology seeded is never replaced', async (t) => {
  const { bridgeId, path, learner, portAt, repository } = await setUp(t);
  const port = await repository.create('port', { id: randomUUID(), bridgeId, mac: '02:00:00:00:00:01' });
  const one = learner();
  one.use(one.learn(bridgeId, 0, MAC, randomUUID())!);
  await delay(50);
  t.is(await portAt(), port.id);
  t.is((await repository.store.get(path))?.stat.version, 0);
});

test('what cannot be learned now is learned when the NSDB is back; a bridge that is gone does not come back', async (t) => {
  const { nsdb, bridgeId, learner, warnings, portAt, repository } = await setUp(t);
  const store = nsdb.store({ operationTimeout: 1000 });
  await store.sync();
  const one = learner(store);
  await nsdb.stop();
  await until('it has noticed', () => store.state !== 'connected');
  const [p, q] = [randomUUID(), randomUUID()];
  const learned = one.learn(bridgeId, 0, MAC, p)!;
  t.is(one.learn(bridgeId, 0, MAC, q), learned);
  await nsdb.resume();
  await until('it is learned', async () => (await portAt()) === q);
  t.deepEqual(warnings, []);
  const gone = randomUUID();
  const lost = one.learn(gone, 0, MAC, p)!;
  await until('that is said', () => warnings.length === 1);
  t.not(one.learn(gone, 0, MAC, p), lost);
  t.deepEqual(await repository.store.children('/bridges'), [bridgeId]);
});

test('what was unused while the NSDB was away is taken back when it returns', async (t) => {
  const { nsdb, bridgeId, clock, learner, portAt } = await setUp(t);
  const store = nsdb.store({ operationTimeout: 100 });
  const one = learner(store);
  one.learn(bridgeId, 0, MAC, randomUUID());
  await until('it is learned', async () => (await portAt()) !== undefined);
  const session = store.sessionId;
  await nsdb.stop();
  await until('it has noticed', () => store.state !== 'connected');
  clock.now = 20_000;
  one.expire();
  await delay(300);
  await nsdb.resume();
  await until('it is gone', async () => (await portAt()) === undefined);
  t.is(store.sessionId, session);
});

test('a port with too many addresses has none learned in place of those that flows need, and others are not concerned', async (t) => {
  const { bridgeId, clock, warnings, learner, repository } = await setUp(t);
  const [p, q] = [randomUUID(), randomUUID()];
  const one = learner();
  const learn = (i: number, port: string) => one.learn(bridgeId, 0, MAC + i, port);
  const all = [0, 1, 2, 3].map((i) => learn(i, p)!);
  for (const learned of all) one.use(learned);
  t.is(learn(4, p), undefined);
  t.is(learn(5, p), undefined);
  t.is(one.refused, 2);
  t.is(warnings.filter((line) => line.includes(p)).length, 1);
  for (const i of [4, 5]) t.truthy(learn(i, q), 'at another port');

  clock.now = 1000;
  one.release(all[2]);
  one.release(all[1]);
  const sixth = learn(6, p)!;
  const has = async (i: number) =>
    (await repository.store.get(macPath(bridgeId, `02:00:00:00:00:0${i + 1}`))) !== undefined;
  await until('it took the place of what was unused for longest', async () => (await has(6)) && !(await has(2)));
  t.true(await has(1));
  one.use(all[1]);
  one.use(sixth);
  t.is(learn(4, p), undefined, 'it does not come from another port, either');
  one.release(sixth);
  t.truthy(learn(7, p));
  await until('what was unused went', async () => (await has(7)) && !(await has(6)));
  one.use(all[2]);
  one.release(all[2]);
  t.truthy(learn(2, p), 'what had been given up is learned anew');
  await until('in place of another', async () => (await has(2)) && !(await has(7)));
  t.true((await has(0)) && (await has(1)));
});
