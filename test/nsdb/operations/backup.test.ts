import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { TimeoutError } from '../../../src/errors.js';
import { hostAlivePath } from '../../../src/nsdb/layout.js';
import { backup } from '../../../src/nsdb/operations/backup.js';
import { BackupDamagedError, readBackup } from '../../../src/nsdb/operations/backup-file.js';
import { compareImages, readTree } from '../../../src/nsdb/operations/image.js';
import { AgentsAliveError, NsdbNotEmptyError, restore } from '../../../src/nsdb/operations/restore.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import type { Store, StoreOperation } from '../../../src/nsdb/store.js';
import { brokenPairs, PairWriters } from './pair-writers.js';
import { apache, apacheTest, embedded, type TestServer } from './servers.js';

async function newFolder(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'nsdb-backup-'));
  t.teardown(() => rm(folder, { recursive: true }));
  return folder;
}

const keep = { replace: false, force: false };
const timeout = 60_000;
const SAME = { created: 0, changed: 0, deleted: 0, example: undefined };

/** Many nodes, so that reading them takes a while. */
async function fill(store: Store, folders: number, perFolder: number): Promise<void> {
  const work: Promise<unknown>[] = [];
  for (let i = 0; i < folders; i++) {
    const operations: StoreOperation[] = [{ type: 'create', path: `/folder${i}`, data: Buffer.from([0xff, i]) }];
    for (let j = 0; j < perFolder; j++) {
      operations.push({ type: 'create', path: `/folder${i}/${j}`, data: Buffer.from(`{"i":${i},"j":${j}}`) });
    }
    work.push(store.multi(operations));
  }
  await Promise.all(work);
}

async function backsUpUnderLoad(t: ExecutionContext, server: TestServer): Promise<void> {
  const folder = await newFolder(t);
  const store = server.store();
  await fill(store, 20, 100);
  await store.create('/mine', Buffer.from('x'), { ephemeral: true });
  const writers = await PairWriters.start([server.store(), server.store(), server.store()], 1);
  for (let i = 0; i < 5; i++) {
    const before = writers.changes;
    const file = join(folder, `${i}.gz`);
    const report = await backup({ store: server.store(), file, source: 'here', timeout });
    const { image, ephemerals, header } = await readBackup(file);
    t.deepEqual(brokenPairs(image), [], 'a pair was changed by one multi');
    t.true(image.size >= 20 * 101);
    t.is(report.nodes, image.size);
    t.is(ephemerals, 1);
    t.is(header.zxid, report.zxid);
    t.false([...image.keys()].some((path) => path === '/mine' || path.startsWith('/zookeeper')));
    t.log(`${writers.changes - before} changes during backup ${i}`);
  }
  await writers.stop();
  t.true(writers.changes > 0);
}

test('a backup of the embedded server under load is of one point in time', async (t) => {
  await backsUpUnderLoad(t, await embedded(t));
});

apacheTest('a backup of Apache ZooKeeper under load is of one point in time', async (t) => {
  await backsUpUnderLoad(t, await apache(t));
});

test('a backup gives up when it has no moment to take, and leaves no file', async (t) => {
  const folder = await newFolder(t);
  const server = await embedded(t);
  const store = server.store();
  await fill(store, 5, 100);
  const file = join(folder, 'x.gz');
  await t.throwsAsync(backup({ store, file, source: 'here', timeout: 0 }), { instanceOf: TimeoutError });
  await t.throwsAsync(
    backup({ store, file, source: 'here', timeout, signal: AbortSignal.abort(new Error('enough')) }),
    {
      message: 'enough',
    },
  );
  t.deepEqual(await readdir(folder), []);
});

for (const [from, to] of [
  ['embedded', 'apache'],
  ['apache', 'embedded'],
] as const) {
  const servers = { embedded, apache };
  apacheTest(`a backup of ${from} is restored in ${to}`, async (t) => {
    const file = join(await newFolder(t), 'x.gz');
    const source = (await servers[from](t)).store();
    await fill(source, 10, 300);
    await new TopologyRepository(source).initialize();
    await backup({ store: source, file, source: 'here', timeout });
    const destination = (await servers[to](t)).store();
    const report = await restore({ store: destination, file, ...keep });
    t.deepEqual(compareImages((await readTree(destination)).image, (await readTree(source)).image), SAME);
    t.is(
      report.nodes,
      10 * 301 + (await source.children('/'))!.length - 10 - ((await source.exists('/zookeeper')) ? 1 : 0),
    );
    const again = await restore({ store: destination, file, ...keep });
    t.deepEqual(again.differences, SAME);
  });
}

test('a damaged file is refused before anything is written', async (t) => {
  const folder = await newFolder(t);
  const source = (await embedded(t)).store();
  await fill(source, 5, 300);
  const file = join(folder, 'x.gz');
  await backup({ store: source, file, source: 'here', timeout });
  const store = (await embedded(t)).store();
  const bytes = await readFile(file);
  for (const damaged of [
    bytes.subarray(0, bytes.length - 20),
    Buffer.concat([bytes.subarray(0, 99), bytes.subarray(98)]),
  ]) {
    await writeFile(file, damaged);
    await t.throwsAsync(restore({ store, file, ...keep }), { instanceOf: BackupDamagedError });
    t.is((await readTree(store)).image.size, 0);
  }
});

test('a restore that was interrupted anywhere is run again and ends right', async (t) => {
  const folder = await newFolder(t);
  const source = (await embedded(t)).store();
  await fill(source, 60, 300);
  const file = join(folder, 'x.gz');
  await backup({ store: source, file, source: 'here', timeout });
  const { image } = await readBackup(file);
  const server = await embedded(t);
  const store = server.store();
  let partial = 0;
  for (const limit of [1, 1, 2000]) {
    const stop = new AbortController();
    await t.throwsAsync(
      restore({
        store,
        file,
        ...keep,
        signal: stop.signal,
        onProgress: (phase, done) => {
          if (phase === 'restoring nodes' && done >= limit) stop.abort(new Error('interrupted'));
        },
      }),
      { message: 'interrupted' },
    );
    const { size } = (await readTree(store)).image;
    if (size > 0 && size < image.size) partial++;
  }
  t.true(partial > 0, 'at least one was interrupted in the middle');
  await restore({ store, file, ...keep });
  t.deepEqual(compareImages((await readTree(store)).image, image), SAME);
});

test('what is in the NSDB is only overwritten when that is asked for', async (t) => {
  const folder = await newFolder(t);
  const server = await embedded(t);
  const store = server.store();
  await fill(store, 3, 5);
  const file = join(folder, 'x.gz');
  await backup({ store, file, source: 'here', timeout });
  const { image } = await readBackup(file);
  await store.set('/folder1/2', Buffer.from('other'));
  await store.delete('/folder0/1');
  await store.ensure('/more/of/it');
  const before = await readTree(store);
  const error = await t.throwsAsync(restore({ store, file, ...keep }), { instanceOf: NsdbNotEmptyError });
  t.regex(error.message, /3 nodes would be deleted and 1 changed, such as \/(more|folder1\/2)/);
  t.deepEqual(compareImages((await readTree(store)).image, before.image), SAME);
  const { differences } = await restore({ store, file, ...keep, replace: true });
  t.like(differences, { created: 1, changed: 1, deleted: 3 });
  t.deepEqual(compareImages((await readTree(store)).image, image), SAME);
});

test('agents that run are named, and only force goes on', async (t) => {
  const folder = await newFolder(t);
  const server = await embedded(t);
  const store = server.store();
  const repository = new TopologyRepository(store);
  await repository.initialize();
  const file = join(folder, 'x.gz');
  await backup({ store, file, source: 'here', timeout });
  const id = '11111111-2222-4333-8444-555555555555';
  await repository.create('host', { id, name: 'node-1' });
  const agent = server.store();
  await agent.create(hostAlivePath(id), Buffer.from('{}'), { ephemeral: true });
  const error = await t.throwsAsync(restore({ store, file, replace: true, force: false }), {
    instanceOf: AgentsAliveError,
  });
  t.regex(error.message, /agents are running on node-1; stop them first, or use --force/);
  t.not(await repository.get('host', id), undefined);
  await restore({ store, file, replace: true, force: true });
  t.is(await repository.get('host', id), undefined, 'with the ephemeral node that was in the way');
});
