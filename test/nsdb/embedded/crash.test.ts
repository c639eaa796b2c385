import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { FolderLockedError } from '../../../src/folder-lock.js';
import { Database, emptyNode, SYSTEM_NODES } from '../../../src/nsdb/embedded/database.js';
import { nodeDisk } from '../../../src/nsdb/embedded/disk.js';
import { FILE_HEADER_LENGTH, StoreCorruptError } from '../../../src/nsdb/embedded/record-file.js';
import { EmbeddedServer } from '../../../src/nsdb/embedded/server.js';
import { writeSnapshot } from '../../../src/nsdb/embedded/storage.js';
import { StoreUnavailableError } from '../../../src/nsdb/store.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { bytes, text, until } from '../../compliance/store.js';
import { freePort } from '../apache-zookeeper.js';

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

interface Notice {
  level: string;
  message: string;
  fields: object;
}

function start(dataDir: string, notices: Notice[] = [], snapshotAfter?: number): Promise<EmbeddedServer> {
  return EmbeddedServer.start({
    listen: { port: 0 },
    dataDir,
    minSessionTimeout: 200,
    snapshotAfter,
    onNotice: (level, message, fields) => notices.push({ level, message, fields }),
  });
}

async function spawnServer(dataDir: string, port: number): Promise<ChildProcess> {
  const script = fileURLToPath(new URL('./crash-child.js', import.meta.url));
  const child = spawn(process.execPath, [script, dataDir, String(port)], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout!, 'data');
  return child;
}

test('clients get over the server being killed, and their sessions with them', async (t) => {
  const [dataDir, port] = [await folder(t), await freePort()];
  const store = new ZookeeperStore({ connect: `127.0.0.1:${port}`, sessionTimeout: 20_000, operationTimeout: 20_000 });
  /** Last acknowledged value of each node, and the one that may have been written when the server died. */
  const acknowledged = new Map<string, number>();
  const attempted = new Map<string, number>();
  let kills = 0;
  let writing = true;
  const write = async (path: string) => {
    for (let value = 0; writing; ) {
      attempted.set(path, value);
      try {
        if (value === 0) await store.create(path, bytes('0'.padEnd(300)));
        else await store.set(path, bytes(String(value).padEnd(300)));
      } catch (error) {
        if (!(error instanceof StoreUnavailableError)) throw error;
        if (writing && error.outcomeUnknown) {
          const node = await store.get(path);
          const found = node === undefined ? -1 : Number(text(node));
          t.true(found === value || found === (acknowledged.get(path) ?? -1), `${path}: ${found}, wrote ${value}`);
          if (found !== value) continue;
        } else continue;
      }
      acknowledged.set(path, value);
      value++;
    }
  };
  const writers = Array.from({ length: 8 }, (_, i) => write(`/w${i}`));
  let child = await spawnServer(dataDir, port);
  try {
    await store.create('/mine', bytes('x'), { ephemeral: true });
    const session = store.sessionId;
    for (; kills < 8; kills++) {
      await delay(20 + Math.random() * 60);
      child.kill('SIGKILL');
      await once(child, 'exit');
      child = await spawnServer(dataDir, port);
      for (const [path, value] of new Map(acknowledged)) {
        const found = Number(text(await store.get(path)));
        t.true(found >= value, `${path} is ${found} after kill ${kills}, ${value} was acknowledged`);
        t.true(found <= attempted.get(path)!);
      }
    }
    writing = false;
    await Promise.all(writers);
    t.is(store.sessionId, session, 'the session outlives the server');
    t.is((await store.exists('/mine'))?.ephemeralOwner, session);
    t.true(store.metrics.requests > 200, 'there was load');
  } finally {
    writing = false;
    child.kill('SIGKILL');
    await store.close();
  }
});

/** Nodes but those that every server has. */
function nodesOf(server: EmbeddedServer): number {
  return server.metrics.nodes - SYSTEM_NODES.length;
}

/** A folder whose log holds nodes /n0 … /n49, one batch each. Returns the log file. */
async function filled(dataDir: string): Promise<string> {
  const server = await start(dataDir);
  const store = new ZookeeperStore({ connect: server.address });
  for (let i = 0; i < 50; i++) await store.create(`/n${i}`, bytes(`value ${i}`));
  await store.close();
  await server.close();
  const names = (await readdir(dataDir)).filter((name) => name.startsWith('log-'));
  if (names.length !== 1) throw new Error(`expected one log file, found ${names}`);
  return join(dataDir, names[0]);
}

test('the end of the log may be cut anywhere: all before it is kept, and it is reported', async (t) => {
  const dataDir = await folder(t);
  const log = await filled(dataDir);
  const whole = await readFile(log);
  let last = 51;
  for (let size = whole.length; size > 0; size -= 1 + Math.floor(Math.random() * 150)) {
    const copy = await folder(t);
    await copyFile(log, join(copy, 'log-0000000000000001'));
    const handle = await open(join(copy, 'log-0000000000000001'), 'r+');
    await handle.truncate(size);
    await handle.close();
    const notices: Notice[] = [];
    const server = await start(copy, notices);
    const nodes = nodesOf(server);
    t.true(nodes <= last, `${nodes} of ${size} bytes`);
    last = nodes;
    const store = new ZookeeperStore({ connect: server.address });
    for (let i = 0; i < nodes - 1; i++) t.is(text(await store.get(`/n${i}`)), `value ${i}`);
    t.is(await store.get(`/n${nodes - 1}`), undefined);
    await store.create('/after', bytes('x'));
    await store.close();
    await server.close();
    const again = await start(copy);
    t.is(nodesOf(again), nodes + 1, 'what was written after the cut is there');
    await again.close();
    const kept = notices.find(({ message }) => message.includes('incomplete'));
    if (size < whole.length && kept !== undefined) t.is(kept.level, 'warn');
  }
  t.true(last < 5);
});

test('garbage or zeros at the end count as a write cut short', async (t) => {
  for (const tail of [Buffer.alloc(5000), Buffer.from(Array.from({ length: 777 }, () => Math.random() * 256))]) {
    const dataDir = await folder(t);
    const log = await filled(dataDir);
    await writeFile(log, tail, { flag: 'a' });
    const notices: Notice[] = [];
    const server = await start(dataDir, notices);
    t.is(nodesOf(server), 51);
    await server.close();
    t.like(notices[0], { level: 'warn', fields: { file: log, bytes: tail.length } });
  }
});

test('damage with sound data behind it is refused, with file and offset, and nothing is changed', async (t) => {
  const dataDir = await folder(t);
  const log = await filled(dataDir);
  const whole = await readFile(log);
  for (let round = 0; round < 20; round++) {
    const damaged = Buffer.from(whole);
    const at = FILE_HEADER_LENGTH + Math.floor(Math.random() * (whole.length - 400));
    damaged[at] ^= 1 << Math.floor(Math.random() * 8);
    await writeFile(log, damaged);
    const error = await t.throwsAsync<StoreCorruptError>(start(dataDir), { instanceOf: StoreCorruptError });
    t.is(error.code, 'MN_STORE_CORRUPT');
    t.is(error.file, log);
    t.true(error.offset <= at && error.offset > at - 200, `${error.offset} for damage at ${at}`);
    t.deepEqual(await readFile(log), damaged);
  }
  await writeFile(log, whole);
  const server = await start(dataDir);
  t.is(nodesOf(server), 51);
  await server.close();
});

test('files of another version of the server are refused as such', async (t) => {
  const dataDir = await folder(t);
  await writeFile(join(dataDir, 'log-0000000000000001'), `MNNSDBL1${'x'.repeat(100)}`);
  await t.throwsAsync(start(dataDir), { instanceOf: StoreCorruptError, message: /of another version of this server/ });
});

test('a snapshot replaces the log, and damage to it is refused', async (t) => {
  const dataDir = await folder(t);
  const server = await start(dataDir, [], 20_000);
  const store = new ZookeeperStore({ connect: server.address });
  await store.create('/d', bytes(''));
  for (let round = 0; round < 10; round++) {
    await Promise.all(Array.from({ length: 100 }, (_, i) => store.create(`/d/${round}-${i}`, bytes('x'.repeat(100)))));
    await store.delete(`/d/${round}-7`);
    await store.set('/d', bytes(String(round)));
  }
  await until('there is a snapshot', async () => (await readdir(dataDir)).some((name) => name.startsWith('snapshot-')));
  await until('it is finished', async () => !(await readdir(dataDir)).some((name) => name.endsWith('.tmp')));
  const before = await store.get('/d');
  const children = await store.children('/d');
  await store.close();
  await server.close();
  const again = await start(dataDir);
  const reader = new ZookeeperStore({ connect: again.address });
  t.deepEqual(await reader.get('/d'), before);
  t.deepEqual(await reader.children('/d'), children);
  t.is(await reader.create('/d/s', bytes(''), { sequential: true }), '/d/s0000001000');
  await reader.close();
  await again.close();
  const snapshot = (await readdir(dataDir)).find((name) => name.startsWith('snapshot-'))!;
  const file = join(dataDir, snapshot);
  const handle = await open(file, 'r+');
  const { size } = await stat(file);
  await handle.write(Buffer.from([0xff, 0xfe]), 0, 2, Math.floor(size / 2));
  await handle.close();
  await t.throwsAsync(start(dataDir), { instanceOf: StoreCorruptError, message: new RegExp(snapshot) });
});

test('a snapshot that fails leaves nothing behind', async (t) => {
  const dataDir = await folder(t);
  const database = new Database();
  database.zxid = 7;
  await writeSnapshot(nodeDisk, dataDir, database);
  t.deepEqual(await readdir(dataDir), ['snapshot-0000000000000007']);
  database.zxid = 8;
  const failing = { ...emptyNode() };
  Object.defineProperty(failing, 'data', {
    get: () => {
      throw new Error('the disk is full');
    },
  });
  database.root.children = new Map([['a', failing]]);
  await t.throwsAsync(writeSnapshot(nodeDisk, dataDir, database), { message: 'the disk is full' });
  t.deepEqual(await readdir(dataDir), ['snapshot-0000000000000007']);
});

test('a server that is closed while a snapshot is made leaves no part of it', async (t) => {
  const dataDir = join(await folder(t), 'made', 'by', 'the server');
  const server = await start(dataDir, [], 2_000_000);
  const store = new ZookeeperStore({ connect: server.address });
  const parts = async () => (await readdir(dataDir)).filter((name) => name.endsWith('.tmp'));
  let written = 0;
  while ((await parts()).length === 0 && written < 60) {
    await store.create(`/n${written++}`, bytes('x'.repeat(200_000)));
  }
  await server.close();
  t.deepEqual(await parts(), []);
  await store.close();
});

test('two servers never share a folder, and a dead one leaves it free', async (t) => {
  const dataDir = await folder(t);
  const server = await start(dataDir);
  const error = await t.throwsAsync(start(dataDir), { instanceOf: FolderLockedError });
  t.regex(error.message, new RegExp(`process ${process.pid}`));
  await server.close();
  const child = await spawnServer(dataDir, await freePort());
  await t.throwsAsync(start(dataDir), { instanceOf: FolderLockedError, message: new RegExp(`process ${child.pid}`) });
  child.kill('SIGKILL');
  await once(child, 'exit');
  const results = await Promise.allSettled(Array.from({ length: 8 }, () => start(dataDir)));
  const winners = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  t.is(winners.length, 1);
  await winners[0].close();
  const after = await start(dataDir);
  await after.close();
});

test('sessions outlive a restart, and end when nobody takes them up', async (t) => {
  const dataDir = await folder(t);
  const port = await freePort();
  const options = { listen: { host: '127.0.0.1', port }, dataDir, minSessionTimeout: 200 };
  const first = await EmbeddedServer.start(options);
  const connect = `127.0.0.1:${port}`;
  const lasting = new ZookeeperStore({ connect, sessionTimeout: 10_000 });
  await lasting.create('/lasting', bytes('x'), { ephemeral: true });
  const session = lasting.sessionId;
  const gone = new ZookeeperStore({ connect, sessionTimeout: 600 });
  await gone.create('/gone', bytes('x'), { ephemeral: true });
  const seen: (string | undefined)[] = [];
  const watch = lasting.watchData('/gone', (node) => seen.push(text(node)));
  await watch.ready;
  await first.close();
  // With the server gone nobody hears it say goodbye.
  await gone.close();
  const second = await EmbeddedServer.start(options);
  // On a busy machine a client may have given up on an answer and opened another session, which ends by itself too.
  const { sessions } = second.metrics;
  t.true(sessions >= 2);
  t.is((await lasting.exists('/lasting'))!.ephemeralOwner, session);
  t.is(lasting.sessionId, session);
  await until('the other session is over', () => seen.length === 2);
  t.deepEqual(seen, ['x', undefined]);
  await until('only one session is left', async () => second.metrics.sessions === 1);
  t.is(second.metrics.sessionsExpired, sessions - 1);
  await lasting.close();
  await second.close();
});
