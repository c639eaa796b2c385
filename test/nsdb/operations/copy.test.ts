import test, { type ExecutionContext } from 'ava';
import { UnsupportedError } from '../../../src/errors.js';
import { freeze, frozenFor } from '../../../src/nsdb/freeze.js';
import { hostAlivePath } from '../../../src/nsdb/layout.js';
import { copy, SameNsdbError, undoMove } from '../../../src/nsdb/operations/copy.js';
import { compareImages, readTree } from '../../../src/nsdb/operations/image.js';
import { AgentsAliveError, NsdbNotEmptyError } from '../../../src/nsdb/operations/restore.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { StoreFrozenError } from '../../../src/nsdb/store.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { until } from '../../agent/until.js';
import { brokenPairs, PairWriters } from './pair-writers.js';
import { apache, apacheTest, embedded, type TestServer } from './servers.js';

const keep = { replace: false, force: false };
const timeout = 60_000;
const SAME = { created: 0, changed: 0, deleted: 0, example: undefined };
const HOST = '11111111-2222-4333-8444-555555555555';

async function movesUnderLoad(t: ExecutionContext, from: TestServer, to: TestServer): Promise<void> {
  const [source, destination] = [from.store(), to.store()];
  const writers = await PairWriters.start([from.store(), from.store(), from.store()], 1);
  const report = await copy({
    source,
    destination,
    move: { server: source, movedTo: to.connect },
    ...keep,
    timeout,
  });
  const changesBefore = writers.changes;
  await writers.stop();
  t.is(writers.frozen, 3, 'every writer was refused');
  t.is(writers.changes, changesBefore, 'nothing was acknowledged after the copy was whole');
  t.log(report);
  const { image } = await readTree(destination);
  t.deepEqual(brokenPairs(image), []);
  for (const [pair, number] of writers.acknowledged) {
    for (const path of [`/left/${pair}`, `/right/deep/down/${pair}`]) {
      const data = image.get(path);
      t.is(data && Buffer.from(data).toString(), number?.toString(), `${pair}: what was acknowledged is there`);
    }
  }
  t.deepEqual(compareImages((await readTree(source)).image, image), SAME);
  t.is(await frozenFor(source), to.connect);
}

test('a server that is being written to is moved to another embedded one, and nothing acknowledged is lost', async (t) => {
  await movesUnderLoad(t, await embedded(t), await embedded(t));
});

apacheTest(
  'a server that is being written to is moved to Apache ZooKeeper, and nothing acknowledged is lost',
  async (t) => {
    await movesUnderLoad(t, await embedded(t), await apache(t));
  },
);

test('a server is not copied to itself, by whatever name, and is not frozen for it', async (t) => {
  const server = await embedded(t);
  const [source, destination] = [server.store(), server.store()];
  await source.create('/a', Buffer.from('x'));
  const before = await source.children('/');
  const move = { server: source, movedTo: 'another-name:2181' };
  const options = { source, destination, move, replace: true, force: true, timeout };
  await t.throwsAsync(copy(options), { instanceOf: SameNsdbError });
  t.is(await frozenFor(source), undefined);
  t.deepEqual(await source.children('/'), before);
});

test('a copy is of one point in time and leaves the source alone', async (t) => {
  const [from, to] = [await embedded(t), await embedded(t)];
  const writers = await PairWriters.start([from.store(), from.store()], 1);
  await copy({ source: from.store(), destination: to.store(), ...keep, timeout });
  const before = writers.changes;
  t.deepEqual(brokenPairs((await readTree(to.store())).image), []);
  t.is(await frozenFor(from.store()), undefined);
  await until('nodes have been changed and deleted', () => writers.changes > before + 200, 30_000);
  await t.throwsAsync(copy({ source: from.store(), destination: to.store(), ...keep, timeout }), {
    instanceOf: NsdbNotEmptyError,
  });
  await copy({ source: from.store(), destination: to.store(), ...keep, replace: true, timeout });
  t.true(writers.changes > before, 'writers went on');
  t.is(writers.frozen, 0);
  await writers.stop();
  t.deepEqual(brokenPairs((await readTree(to.store())).image), []);
});

test('agents on the destination are in the way of a copy, and of going back', async (t) => {
  const [from, to] = [await embedded(t), await embedded(t)];
  const source = from.store();
  await new TopologyRepository(source).initialize();
  const destination = to.store();
  await copy({ source, destination, move: { server: source, movedTo: to.connect }, ...keep, timeout });
  const repository = new TopologyRepository(destination);
  await repository.create('host', { id: HOST, name: 'node-1' });
  await destination.create(hostAlivePath(HOST), Buffer.from('{}'), { ephemeral: true });
  await t.throwsAsync(copy({ source, destination, ...keep, replace: true, timeout }), {
    instanceOf: AgentsAliveError,
    message: /node-1/,
  });
  await t.throwsAsync(undoMove(source, destination), { instanceOf: AgentsAliveError });
  t.is(await frozenFor(source), to.connect);
  await undoMove(source, undefined);
  await source.create('/again', Buffer.from('x'));
});

test('a move that fails, or is interrupted, lets the source take changes again', async (t) => {
  const [from, to] = [await embedded(t), await embedded(t)];
  const source = from.store();
  await source.ensure('/a/b');
  const destination = to.store();
  const stop = new AbortController();
  let frozen = false;
  const onProgress = (phase: string) => {
    if (phase === 'freezing the source') frozen = true;
    else if (frozen) stop.abort(new Error('interrupted'));
  };
  const move = { server: source, movedTo: to.connect };
  await t.throwsAsync(copy({ source, destination, move, ...keep, timeout, signal: stop.signal, onProgress }), {
    message: 'interrupted',
  });
  t.true(frozen);
  t.is(await frozenFor(source), undefined);
  await source.create('/c', Buffer.from('x'));
  await copy({ source, destination, move, ...keep, timeout });
  t.deepEqual([...(await readTree(destination)).image.keys()].sort(), ['/a', '/a/b', '/c']);
});

test('a move that was left frozen is taken up again, but not to elsewhere', async (t) => {
  const [from, to] = [await embedded(t), await embedded(t)];
  const source = from.store();
  await source.ensure('/a/b');
  await freeze(source, to.connect);
  const elsewhere = { server: source, movedTo: 'elsewhere' };
  await t.throwsAsync(copy({ source, destination: to.store(), move: elsewhere, ...keep, timeout }), {
    instanceOf: StoreFrozenError,
  });
  t.is(await frozenFor(source), to.connect);
  await copy({ source, destination: to.store(), move: { server: source, movedTo: to.connect }, ...keep, timeout });
  t.deepEqual([...(await readTree(to.store())).image.keys()].sort(), ['/a', '/a/b']);
});

apacheTest('Apache ZooKeeper is copied, and that it cannot be frozen is said', async (t) => {
  const [from, to] = [await apache(t), await embedded(t)];
  const [source, destination] = [from.store(), to.store()];
  await source.ensure('/a/b');
  const move = { server: source, movedTo: to.connect };
  await t.throwsAsync(copy({ source, destination, move, ...keep, timeout }), {
    instanceOf: UnsupportedError,
    message: /only the embedded server/,
  });
  await source.ensure('/a/c');
  await copy({ source, destination, ...keep, timeout });
  t.deepEqual(await destination.children('/a'), ['b', 'c']);
  // A root of its own is made, and what is beside it stays.
  const below = new ZookeeperStore({ connect: `${from.connect}/clusters/one` });
  t.teardown(() => below.close());
  await copy({ source: destination, destination: below, ...keep, timeout });
  t.deepEqual(await source.children('/clusters/one/a'), ['b', 'c']);
  await below.create('/a/d', Buffer.from('x'));
  await copy({ source: below, destination, ...keep, timeout });
  t.deepEqual(await destination.children('/a'), ['b', 'c', 'd']);
});
