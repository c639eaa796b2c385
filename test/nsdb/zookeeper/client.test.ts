import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { EmbeddedServer } from '../../../src/nsdb/embedded/server.js';
import { type StoreEvent, StoreUnavailableError } from '../../../src/nsdb/store.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { Fifo } from '../../../src/nsdb/zookeeper/fifo.js';
import { bytes, text, until } from '../../compliance/store.js';
import { CutProxy } from '../cut-proxy.js';
import { EmbeddedNsdb } from '../embedded-nsdb.js';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

/** Memory outside of the heap is given back some time after its objects; a WeakRef holds on until the turn is over. */
async function collectGarbage(): Promise<void> {
  for (let i = 0; i < 3; i++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    gc();
  }
}

test('a call that timed out without a server leaves nothing in memory', async (t) => {
  const store = new ZookeeperStore({ connect: 'unix:/nonexistent/socket', operationTimeout: 20 });
  await collectGarbage();
  const before = process.memoryUsage().arrayBuffers;
  const data = new Uint8Array(500_000);
  for (let round = 0; round < 10; round++) {
    const calls = Array.from({ length: 10 }, () => store.create('/a', data));
    for (const call of await Promise.allSettled(calls)) {
      t.true(call.status === 'rejected' && call.reason instanceof StoreUnavailableError);
    }
  }
  await collectGarbage();
  const kept = process.memoryUsage().arrayBuffers - before;
  await store.close();
  // Of 100 MB, all but perhaps what the last round's promises still refer to.
  t.true(kept < 20_000_000, `${kept} bytes`);
});

test('a queue gives what was put in, in order', (t) => {
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 5000, size: 'max' }), (puts) => {
      const queue = new Fifo<number>();
      const model: number[] = [];
      puts.forEach((put, n) => {
        if (put) {
          queue.push(n);
          model.push(n);
        } else t.is(queue.shift(), model.shift());
      });
      t.is(queue.size, model.length);
      t.is(queue.peek(), model[0]);
      t.deepEqual(queue.takeAll(), model);
      t.is(queue.shift(), undefined);
    }),
    { numRuns: 20 },
  );
});

test('what was taken out of a queue can be collected', async (t) => {
  const queue = new Fifo<object>();
  let item: object | undefined = {};
  const taken = new WeakRef(item);
  queue.push(item);
  queue.push({});
  item = undefined;
  queue.shift();
  await collectGarbage();
  t.is(taken.deref(), undefined);
  t.is(queue.size, 1);
});

/** A client whose connection can be cut and held. */
async function proxied(t: ExecutionContext): Promise<{ store: ZookeeperStore; proxy: CutProxy }> {
  const folder = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  const server = await EmbeddedServer.start({ listen: { port: 0 }, dataDir: folder, fsync: false });
  const proxy = await CutProxy.to(server.address);
  const store = new ZookeeperStore({ connect: proxy.address });
  t.teardown(async () => {
    await store.close();
    await proxy.close();
    await server.close();
    await rm(folder, { recursive: true });
  });
  return { store, proxy };
}

test('a connection that is lost again and again is not made again and again without a pause', async (t) => {
  const { store, proxy } = await proxied(t);
  await store.sync();
  const session = store.sessionId;
  const before = proxy.accepted;
  const dropping = setInterval(() => proxy.drop(), 5);
  await delay(3000);
  clearInterval(dropping);
  const attempts = proxy.accepted - before;
  t.true(attempts >= 3 && attempts <= 30, `${attempts} connections in 3 s`);
  await store.sync();
  t.is(store.sessionId, session);
});

test('what an answer does not belong to is asked again on the next connection', async (t) => {
  const { store, proxy } = await proxied(t);
  await store.create('/a', bytes('a'));
  proxy.hold();
  let children: readonly string[] | undefined;
  const watch = store.watchChildren('/a', (names) => {
    children = names;
  });
  const read = store.get('/a');
  await until('both answers are on their way', () => proxy.heldFrames >= 2);
  proxy.release((frames) => frames.writeInt32BE(0x7000_0000, 4));
  t.is(text(await read), 'a');
  await watch.ready;
  t.deepEqual(children, []);
});

test('answers and what watches show are told in the order in which the server sent them, also in one piece', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  const server = await EmbeddedServer.start({ listen: { port: 0 }, dataDir: folder, fsync: false });
  const proxy = await CutProxy.to(server.address);
  const store = new ZookeeperStore({ connect: proxy.address });
  const writer = new ZookeeperStore({ connect: server.address });
  t.teardown(async () => {
    await store.close();
    await writer.close();
    await proxy.close();
    await server.close();
    await rm(folder, { recursive: true });
  });
  for (const path of ['/tree', '/tree/gone', '/data', '/parent']) await writer.create(path, bytes('old'));
  const told: string[] = [];
  await store.watchTree('/tree', (path, node) => told.push(`tree ${path} ${text(node)}`)).ready;
  told.length = 0;
  /** Callers go on a while after the answer. */
  const read = async (path: string, depth = 10): Promise<string | undefined> =>
    depth === 0 ? text(await store.get(path)) : read(path, depth - 1);
  const tell = async (path: string) => void told.push(`read ${path} ${await read(path)}`);
  const answered = (frames: number) => until('the answers are kept back', () => proxy.heldFrames === frames);
  proxy.hold();
  const reading = [tell('/tree/gone'), tell('/data')];
  store.watchData('/data', (node) => told.push(`data ${text(node)}`));
  await answered(3);
  await writer.delete('/tree/gone');
  await writer.set('/data', bytes('new'));
  await answered(5);
  store.watchChildren('/parent', (names) => told.push(`children ${names}`));
  reading.push(tell('/data'), tell('/tree/gone'));
  await answered(8);
  proxy.release();
  await Promise.all(reading);
  await until('the change is told', () => told.length === 8);
  t.deepEqual(told, [
    'read /tree/gone old',
    'read /data old',
    'data old',
    'tree /tree/gone undefined',
    'children ',
    'read /data new',
    'read /tree/gone undefined',
    'data new',
  ]);
});

test('a server that cannot be reached is told of once, and how often it was tried when it is back', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  await nsdb.stop();
  const notices: { message: string; fields: object }[] = [];
  const store = nsdb.store({ onNotice: (_level, message, fields) => notices.push({ message, fields }) });
  await until('it was tried a few times', () => store.metrics.failedConnects >= 4);
  t.deepEqual(
    notices.map(({ message }) => message),
    ['cannot connect'],
  );
  await nsdb.resume();
  await store.sync();
  t.is(notices[1].message, 'connected');
  t.is((notices[1].fields as { failedAttempts: number }).failedAttempts, store.metrics.failedConnects);
});

test('a tree is not current while a node of it may not be read, which is told once', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const owner = nsdb.store({ credentials: { user: 'owner', password: 'secret' } });
  await owner.create('/secret', bytes('x'));
  const notices: string[] = [];
  const store = nsdb.store({ onNotice: (level, message) => level === 'warn' && notices.push(message) });
  let current = false;
  const told: string[] = [];
  const onCurrent = () => {
    current = true;
  };
  const watch = store.watchTree('/secret', (path, node) => told.push(`${path} ${text(node)}`), { onCurrent });
  await until('it was tried twice', () => store.metrics.watchReads >= 2);
  await delay(50);
  t.false(current);
  t.deepEqual(told, []);
  t.deepEqual(notices, ['could not read a watched tree']);
  await owner.delete('/secret');
  await watch.ready;
  t.true(current);
});

test('a client whose server was put back to a backup comes as a new one and reads everything again', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const store = nsdb.store({ sessionTimeout: 2000 });
  const events: StoreEvent[] = [];
  store.onState((event) => events.push(event));
  await store.create('/a', bytes('in the backup'));
  const [data, backup] = [join(nsdb.folder, 'data'), join(nsdb.folder, 'backup')];
  await nsdb.stop();
  await cp(data, backup, { recursive: true, filter: (source) => !source.endsWith('/lock') });
  await nsdb.resume();
  // More changes than servers make by themselves, which would hide that some are missing.
  for (let i = 0; i < 50; i++) await store.set('/a', bytes('later'));
  const seen: (string | undefined)[] = [];
  const watch = store.watchData('/a', (node) => seen.push(text(node)));
  await watch.ready;
  await nsdb.stop();
  await rm(data, { recursive: true });
  await cp(backup, data, { recursive: true });
  await nsdb.resume();
  await until('the watch shows what was put back', () => seen.length === 2);
  t.deepEqual(seen, ['later', 'in the backup']);
  t.is(events.filter((event) => event === 'session-lost').length, 1);
});
