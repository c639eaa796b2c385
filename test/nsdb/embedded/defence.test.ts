import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Database } from '../../../src/nsdb/embedded/database.js';
import { EmbeddedServer, type EmbeddedServerOptions } from '../../../src/nsdb/embedded/server.js';
import { MAX_PATH_LENGTH } from '../../../src/nsdb/path.js';
import { JuteWriter, NO_SESSION } from '../../../src/nsdb/protocol/jute.js';
import {
  AddWatchMode,
  CreateFlag,
  Err,
  OPEN_ACL,
  Op,
  readMultiHeader,
  writeConnectRequest,
  writeMultiHeader,
} from '../../../src/nsdb/protocol/records.js';
import { StoreUnavailableError } from '../../../src/nsdb/store.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { bytes, text, until } from '../../compliance/store.js';
import { WireClient } from '../wire-client.js';

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

async function serve(
  t: ExecutionContext,
  dataDir: string,
  options: Partial<EmbeddedServerOptions> = {},
): Promise<EmbeddedServer> {
  const server = await EmbeddedServer.start({ listen: { port: 0 }, dataDir, fsync: false, ...options });
  t.teardown(() => server.close());
  return server;
}

function portOf(server: EmbeddedServer): number {
  return Number(server.address.slice(server.address.lastIndexOf(':') + 1));
}

test('whoever does not authenticate has no more sessions than connections', async (t) => {
  const credentials = { user: 'midonet', password: 'secret' };
  const server = await serve(t, await folder(t), { credentials });
  const strangers = await Promise.all(Array.from({ length: 20 }, () => WireClient.open(server.address)));
  t.is(server.metrics.sessions, 20);
  for (const stranger of strangers) stranger.close();
  await until('their sessions have ended', () => server.metrics.sessions === 0);
  t.is(server.metrics.sessionsExpired, 0);
  const known = await WireClient.open(server.address);
  t.is(await known.authenticate('digest', 'midonet:secret'), Err.ok);
  known.close();
  await until('the connection is gone', () => server.metrics.connections === 0);
  t.is(server.metrics.sessions, 1, 'the session of one who authenticated waits for its client');
});

test('a stranger who takes up a stranger’s session does not make it last', async (t) => {
  const server = await serve(t, await folder(t), { credentials: { user: 'midonet', password: 'secret' } });
  const first = await WireClient.open(server.address);
  const second = await WireClient.open(server.address, first);
  await first.closed;
  t.is(second.sessionId, first.sessionId);
  t.is(server.metrics.sessions, 1);
  second.close();
  await until('the session has ended', () => server.metrics.sessions === 0);
});

test('whoever may only authenticate may not make the server wait for large requests', async (t) => {
  const server = await serve(t, await folder(t), { credentials: { user: 'midonet', password: 'secret' } });
  const stranger = await WireClient.open(server.address);
  await t.throwsAsync(stranger.authenticate('digest', 'x'.repeat(5000)), { message: 'the connection is closed' });
  t.is(server.metrics.protocolErrors, 1);
  const known = await WireClient.open(server.address);
  t.teardown(() => known.close());
  await known.authenticate('digest', 'midonet:secret');
  t.is(await known.create('/a', [OPEN_ACL], new Uint8Array(100_000)), Err.ok);
});

test('clients beyond the number of connections are refused, which is told', async (t) => {
  const notices: string[] = [];
  const server = await serve(t, await folder(t), {
    maxConnections: 1,
    onNotice: (_, message) => notices.push(message),
  });
  const client = await WireClient.open(server.address);
  t.teardown(() => client.close());
  const socket = connect(portOf(server), '127.0.0.1');
  socket.on('error', () => {});
  await once(socket, 'close');
  t.true(notices.includes('refused a client: there are too many connections'));
  t.is(server.metrics.connections, 1);
});

test('a sequential node never gets a path that cannot be asked for', async (t) => {
  const server = await serve(t, await folder(t));
  const client = await WireClient.open(server.address);
  t.teardown(() => client.close());
  const longest = `/${'x'.repeat(MAX_PATH_LENGTH - 11)}`;
  t.is(await client.create(`${longest}x`, [OPEN_ACL], bytes(''), CreateFlag.sequential), Err.badArguments);
  t.is(await client.create(longest, [OPEN_ACL], bytes(''), CreateFlag.sequential), Err.ok);
  const path = `${longest}0000000000`;
  t.is((await client.request(Op.getData, (w) => w.string(path).bool(false))).err, Err.ok);
});

test('several readings in one request are refused when their answer would be very large', async (t) => {
  const server = await serve(t, await folder(t));
  const client = await WireClient.open(server.address);
  t.teardown(() => client.close());
  t.is(await client.create('/large', [OPEN_ACL], new Uint8Array(1_000_000)), Err.ok);
  const readings = (count: number) =>
    client.request(Op.multiRead, (w) => {
      for (let i = 0; i < count; i++) {
        writeMultiHeader(w, Op.getData, false, -1);
        w.string('/large').bool(false);
      }
      writeMultiHeader(w, Op.error, true, -1);
    });
  const { err, body } = await readings(3);
  t.is(err, Err.ok);
  t.is(readMultiHeader(body).type, Op.getData);
  t.is((await readings(10_000)).err, Err.marshalling);
});

test('a client that never reads its watch events is let go, and its watches with it', async (t) => {
  const server = await serve(t, await folder(t));
  const socket = connect(portOf(server), '127.0.0.1');
  t.teardown(() => socket.destroy());
  socket.on('error', () => {});
  await once(socket, 'connect');
  const hello = new JuteWriter();
  const password = new Uint8Array(16);
  writeConnectRequest(hello, { lastZxidSeen: 0, timeout: 40_000, sessionId: NO_SESSION, password, readOnly: false });
  socket.write(hello.frame());
  socket.write(new JuteWriter().int(1).int(Op.addWatch).string('/').int(AddWatchMode.persistentRecursive).frame());
  await until('it watches', () => server.metrics.watches === 1);
  const store = new ZookeeperStore({ connect: server.address });
  t.teardown(() => store.close());
  // An event tells the whole path, so one request of 0.8 MB makes as much of events.
  const path = `/${'x'.repeat(4000)}`;
  await store.create(path, bytes(''));
  const sets = Array.from({ length: 200 }, () => ({ type: 'set', path, data: bytes('') }) as const);
  for (let i = 0; i < 300 && server.metrics.watches === 1; i++) await store.multi(sets);
  t.is(server.metrics.watches, 0);
  t.is(server.metrics.protocolErrors, 1);
  t.is(store.metrics.disconnects, 0);
});

test.serial('a change that fails half way stops the server, and nothing of it is found by the next one', async (t) => {
  const dataDir = await folder(t);
  const failures: string[] = [];
  const server = await serve(t, dataDir, { onFailure: (error) => failures.push(error.message) });
  const store = new ZookeeperStore({ connect: server.address, operationTimeout: 1000 });
  t.teardown(() => store.close());
  await store.create('/a', bytes('kept'));
  const { applyChange } = Database.prototype;
  Database.prototype.applyChange = function (change, ...more) {
    applyChange.call(this, change, ...more);
    if (change.type === 'create' && change.path === '/b/c') throw new Error('a defect');
  };
  try {
    const made = store.multi([
      { type: 'create', path: '/b', data: bytes('') },
      { type: 'create', path: '/b/c', data: bytes('') },
    ]);
    await t.throwsAsync(made, { instanceOf: StoreUnavailableError });
    await until('the server has stopped', () => failures.length === 1);
  } finally {
    Database.prototype.applyChange = applyChange;
  }
  t.deepEqual(failures, ['a defect']);
  const next = await serve(t, dataDir);
  const reader = new ZookeeperStore({ connect: next.address });
  t.teardown(() => reader.close());
  t.is(text(await reader.get('/a')), 'kept');
  t.is(await reader.exists('/b'), undefined);
});
