/**
 * The whole embedded server, with its clients, on a simulated disk (power-loss-disk.ts) that fails, fills up and loses power;
 * and on a real one that is full.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { EmbeddedServer, type EmbeddedServerOptions } from '../../../src/nsdb/embedded/server.js';
import { makeSnapshot } from '../../../src/nsdb/embedded/storage.js';
import { freeze, unfreeze } from '../../../src/nsdb/freeze.js';
import { StoreFrozenError, StoreFullError } from '../../../src/nsdb/store.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { bytes, text, until } from '../../compliance/store.js';
import { Dice } from '../../dice.js';
import { Counters, ownNodes } from '../counters.js';
import { PowerLossDisk } from './power-loss-disk.js';

async function socketPath(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  t.teardown(() => rm(folder, { recursive: true }));
  return join(folder, 'socket');
}

function start(path: string, disk: PowerLossDisk, options: Partial<EmbeddedServerOptions> = {}) {
  disk.run();
  return EmbeddedServer.start({
    listen: { path },
    dataDir: '/var/lib/nsdb',
    minSessionTimeout: 200,
    snapshotAfter: 8000,
    diskReserve: 0,
    disk,
    snapshotMaker: (job, signal) => makeSnapshot(disk, job, signal),
    ...options,
  });
}

/** A server lives on the disk until it ends; returns how its clients' calls ended. */
async function life(
  t: ExecutionContext,
  path: string,
  disk: PowerLossDisk,
  counters: Counters,
  end: (failed: Promise<Error>) => Promise<unknown>,
): Promise<Error[]> {
  let fail = (_: Error) => {};
  const failed = new Promise<Error>((resolve) => {
    fail = resolve;
  });
  const server = await start(path, disk, { onFailure: fail });
  const stores = [1, 2, 3].map(() => new ZookeeperStore({ connect: `unix:${path}`, operationTimeout: 20_000 }));
  await counters.check(t, stores[0]);
  const counting = stores.map((store, i) => counters.count(store, `/counter-${i}`));
  await end(failed);
  await Promise.all(stores.map((store) => store.close()));
  const errors = await Promise.all(counting);
  await server.close();
  return errors;
}

test('what a client was told survives a loss of power', async (t) => {
  t.timeout(110_000);
  const path = await socketPath(t);
  const counters = new Counters();
  const dice = new Dice(1 + Math.floor(Math.random() * 1e9));
  let disk = new PowerLossDisk(dice);
  const CUTS = 120;
  for (let cut = 0; cut < CUTS; cut++) {
    await life(t, path, disk, counters, async () => {
      const target = counters.writes + dice.below(20);
      await until('there was load', () => counters.writes >= target);
      await delay(dice.below(4));
      disk = dice.chance(80) ? disk.cutPower() : disk.kill();
    });
  }
  await life(t, path, disk, counters, async () => {});
  t.log(`${CUTS} crashes, ${counters.writes} writes`);
  t.true(counters.writes > CUTS * 4);
});

for (const [operation, file] of [
  ['writev', 'log-'],
  ['datasync', 'log-'],
  ['create', 'log-'],
  ['sync', 'log-'],
  ['syncFolder', ''],
]) {
  test(`when ${operation} of ${file || 'the folder'} fails the server stops, and nothing it said is lost`, async (t) => {
    const path = await socketPath(t);
    const counters = new Counters();
    let disk = new PowerLossDisk(new Dice(1 + Math.floor(Math.random() * 1e9)));
    for (let round = 0; round < 5; round++) {
      await life(t, path, disk, counters, async (failed) => {
        await delay(20);
        disk.fault = (name, at) =>
          name === operation && at.includes(file) ? Object.assign(new Error('EIO'), { code: 'EIO' }) : undefined;
        t.is((await failed).message, 'EIO');
      });
      disk = disk.cutPower();
    }
    await life(t, path, disk, counters, async () => {});
  });
}

for (const [folder, operations] of [
  ['new', ['makeFolder', 'lock', 'syncFolder', 'create', 'writev', 'sync']],
  ['used', ['makeFolder', 'lock', 'open', 'truncate', 'sync', 'syncFolder']],
] as const) {
  test(`a start in a ${folder} folder that the disk makes fail leaves it to the next one`, async (t) => {
    const path = await socketPath(t);
    for (const operation of operations) {
      const disk = new PowerLossDisk(new Dice(7));
      if (folder === 'used') await (await start(path, disk)).close();
      disk.fault = (name) => (name === operation ? new Error(`${name} fails`) : undefined);
      await t.throwsAsync(start(path, disk), { message: `${operation} fails` });
      disk.fault = () => undefined;
      await (await start(path, disk)).close();
    }
  });
}

test('a snapshot that cannot be written costs nothing', async (t) => {
  const path = await socketPath(t);
  const counters = new Counters();
  const disk = new PowerLossDisk(new Dice(7));
  const notices: string[] = [];
  disk.fault = (_, at) => (at.endsWith('.tmp') ? new Error('EIO') : undefined);
  const server = await start(path, disk, { onNotice: (_, message) => notices.push(message) });
  const store = new ZookeeperStore({ connect: `unix:${path}` });
  const counting = counters.count(store, '/a');
  await until('some have failed', () => notices.filter((text) => text === 'could not make a snapshot').length > 3);
  disk.fault = () => undefined;
  await until('one succeeds', () => notices.includes('made a snapshot'));
  await store.close();
  await counting;
  await server.close();
  const names = disk.list('/var/lib/nsdb');
  t.true(names.length <= 4, `${names}`);
  await life(t, path, disk.cutPower(), counters, async () => {});
});

test('a full disk stops the changes that need room, and nothing else, until there is room again', async (t) => {
  const path = await socketPath(t);
  const disk = new PowerLossDisk(new Dice(7));
  disk.capacity = 200_000;
  const options = { diskReserve: 50_000, snapshotAfter: 20_000 };
  const server = await start(path, disk, options);
  const store = new ZookeeperStore({ connect: `unix:${path}` });
  const written: string[] = [];
  const full = await t.throwsAsync<StoreFullError>(
    async () => {
      for (let i = 0; i < 1000; i++) {
        await store.create(`/n${i}`, bytes('x'.repeat(1000)));
        written.push(`n${i}`);
      }
    },
    { instanceOf: StoreFullError },
  );
  t.like(full, { code: 'MN_STORE_FULL', path: `/n${written.length}` });
  t.is(server.metrics.diskFull, 1);
  t.true(written.length > 50, `${written.length} nodes fit`);
  await t.throwsAsync(store.set('/n0', bytes('y')), { instanceOf: StoreFullError });
  const multi = await t.throwsAsync<StoreFullError>(
    store.multi([
      { type: 'delete', path: '/n1' },
      { type: 'create', path: '/other', data: bytes('') },
    ]),
    { instanceOf: StoreFullError },
  );
  t.is(multi.operationIndex, 1);
  // Faults of the request itself come first.
  await t.throwsAsync(store.create('/n0', bytes('')), { code: 'MN_ALREADY_EXISTS' });
  t.is(text(await store.get('/n1')), 'x'.repeat(1000));
  t.deepEqual(await ownNodes(store), [...written].sort());
  // Whoever comes and goes is served.
  const other = new ZookeeperStore({ connect: `unix:${path}` });
  await other.delete(`/${written.pop()}`);
  await other.close();
  t.true((await disk.free('/')) > 25_000, 'the reserve is there');
  disk.capacity += 200_000;
  await until('changes are taken again', async () => {
    const outcome = await store.set('/n0', bytes('z')).catch((error: unknown) => error);
    if (outcome instanceof Error && !(outcome instanceof StoreFullError)) throw outcome;
    return !(outcome instanceof Error);
  });
  await store.create('/after', bytes(''));
  await store.close();
  await server.close();
  const again = await start(path, disk.cutPower(), options);
  const reader = new ZookeeperStore({ connect: `unix:${path}` });
  t.deepEqual(await ownNodes(reader), [...written, 'after'].sort());
  t.is(text(await reader.get('/n0')), 'z');
  await reader.close();
  await again.close();
});

test('clients of others are told of a full disk by a code they know, and the data can be moved away', async (t) => {
  const disk = new PowerLossDisk(new Dice(7));
  disk.capacity = 100_000;
  const server = await start('', disk, { listen: { port: 0 }, diskReserve: 200_000 });
  const foreign = createRequire(import.meta.url)('node-zookeeper-client') as {
    createClient(address: string): {
      once(event: 'connected', listener: () => void): void;
      connect(): void;
      create(path: string, data: Buffer, done: (error: { code: number; name: string } | null) => void): void;
      close(): void;
    };
    Exception: Record<string, number>;
  };
  const client = foreign.createClient(server.address);
  client.connect();
  await new Promise<void>((resolve) => client.once('connected', resolve));
  const error = await new Promise<{ code: number } | null>((resolve) => client.create('/a', Buffer.from(''), resolve));
  t.is(error?.code, foreign.Exception.SYSTEM_ERROR);
  client.close();
  const store = new ZookeeperStore({ connect: server.address });
  await freeze(store, 'elsewhere:2181');
  await t.throwsAsync(store.create('/a', bytes('')), { instanceOf: StoreFrozenError });
  await unfreeze(store);
  await t.throwsAsync(store.create('/a', bytes('')), { instanceOf: StoreFullError });
  await store.close();
  await server.close();
});

test('a full disk that a snapshot can relieve is relieved', async (t) => {
  const path = await socketPath(t);
  const disk = new PowerLossDisk(new Dice(7));
  disk.capacity = 120_000;
  // The log alone would fill the disk long before a snapshot is due.
  const server = await start(path, disk, { diskReserve: 50_000, snapshotAfter: 1_000_000 });
  const store = new ZookeeperStore({ connect: `unix:${path}` });
  await store.create('/a', bytes(''));
  let refused = 0;
  for (let i = 1; i <= 500; ) {
    try {
      await store.set('/a', bytes(String(i).padEnd(1000)));
      i++;
    } catch (error) {
      if (!(error instanceof StoreFullError)) throw error;
      refused++;
      await delay(1);
    }
  }
  t.true(server.metrics.snapshots > 3);
  t.log(`${server.metrics.snapshots} snapshots, ${refused} writes refused`);
  await store.close();
  await server.close();
});

test('a disk that is full in spite of the reserve stops the server, and nothing it said is lost', async (t) => {
  const path = await socketPath(t);
  const counters = new Counters();
  let disk = new PowerLossDisk(new Dice(1 + Math.floor(Math.random() * 1e9)));
  for (let round = 0; round < 10; round++) {
    await life(t, path, disk, counters, async (failed) => {
      await delay(5);
      disk.capacity = disk.used + 500;
      t.like(await failed, { code: 'ENOSPC' });
    });
    disk.capacity = Number.POSITIVE_INFINITY;
    disk = round % 2 === 0 ? disk.cutPower() : disk.kill();
  }
  await life(t, path, disk, counters, async () => {});
});
