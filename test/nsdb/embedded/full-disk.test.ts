import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { EmbeddedServer } from '../../../src/nsdb/embedded/server.js';
import { StoreFullError } from '../../../src/nsdb/store.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { bytes, text, until } from '../../compliance/store.js';
import { ownNodes } from '../counters.js';

const MIB = 1024 * 1024;

/** A small file system in a mount namespace of its own, for as long as the test runs. Undefined to who may not mount. */
async function smallDisk(t: ExecutionContext, mebibytes: number): Promise<string | undefined> {
  const folder = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const mount = `mount -t tmpfs -o size=${mebibytes}m none ${folder} && echo mounted && exec cat`;
  const holder = spawn('unshare', ['--mount', 'sh', '-c', mount], { stdio: ['pipe', 'pipe', 'ignore'] });
  t.teardown(() => holder.kill('SIGKILL'));
  await Promise.race([once(holder.stdout, 'data'), once(holder, 'exit'), once(holder, 'error')]);
  if (holder.pid === undefined || holder.exitCode !== null) return undefined;
  const path = `/proc/${holder.pid}/root${folder}`;
  const { blocks, bsize } = await statfs(path);
  t.is(blocks * bsize, mebibytes * MIB);
  return path;
}

test('a real disk that is full: changes are refused, taken again when there is room, and none is lost', async (t) => {
  const disk = await smallDisk(t, 96);
  if (disk === undefined) {
    t.log('not done: it takes the right to mount; disk-faults.test.ts has the same on a simulated disk');
    t.pass();
    return;
  }
  const ballast = join(disk, 'ballast');
  const start = () => EmbeddedServer.start({ listen: { port: 0 }, dataDir: join(disk, 'data'), snapshotAfter: MIB });
  const server = await start();
  let store = new ZookeeperStore({ connect: server.address });
  await store.create('/a', bytes('before'));
  await writeFile(ballast, Buffer.alloc(28 * MIB));
  const written = ['a'];
  await t.throwsAsync(
    async () => {
      for (let i = 0; i < 100; i++) {
        await store.create(`/n${i}`, Buffer.alloc(200_000, i));
        written.push(`n${i}`);
      }
    },
    { instanceOf: StoreFullError },
  );
  t.is(server.metrics.diskFull, 1);
  t.is(text(await store.get('/a')), 'before');
  t.deepEqual(await ownNodes(store), [...written].sort());
  await store.delete(`/${written.pop()}`);
  await t.throwsAsync(store.set('/a', bytes('refused')), { instanceOf: StoreFullError });
  await rm(ballast);
  await until('changes are taken again', async () => {
    try {
      await store.set('/a', bytes('after'));
      return true;
    } catch (error) {
      if (error instanceof StoreFullError) return false;
      throw error;
    }
  });
  await store.close();
  await server.close();
  const again = await start();
  store = new ZookeeperStore({ connect: again.address });
  t.deepEqual(await ownNodes(store), [...written].sort());
  t.is(text(await store.get('/a')), 'after');
  await store.close();
  await again.close();
});

test('a real disk without any room stops the server, and what it said is there after the next start', async (t) => {
  const disk = await smallDisk(t, 8);
  if (disk === undefined) {
    t.log('not done: it takes the right to mount; disk-faults.test.ts has the same on a simulated disk');
    t.pass();
    return;
  }
  let fail = (_: Error) => {};
  const failed = new Promise<Error>((resolve) => {
    fail = resolve;
  });
  const options = { listen: { port: 0 }, dataDir: join(disk, 'data'), diskReserve: 0, snapshotAfter: MIB };
  const server = await EmbeddedServer.start({ ...options, onFailure: fail });
  const store = new ZookeeperStore({ connect: server.address, operationTimeout: 1000 });
  let written = 0;
  await t.throwsAsync(async () => {
    for (; ; written++) await store.create(`/n${written}`, Buffer.alloc(100_000, written));
  });
  t.like(await failed, { code: 'ENOSPC' });
  await store.close();
  const again = await EmbeddedServer.start(options);
  const reader = new ZookeeperStore({ connect: again.address });
  t.true(written > 10);
  for (let i = 0; i < written; i++) t.is((await reader.get(`/n${i}`))?.data[99_999], i);
  await reader.close();
  await again.close();
});
