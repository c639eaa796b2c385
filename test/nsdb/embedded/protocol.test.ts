import { once } from 'node:events';
import promises, { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { InvalidInputError } from '../../../src/errors.js';
import { nodeDisk } from '../../../src/nsdb/embedded/disk.js';
import { MAX_BATCH_BODY, readRecordFile } from '../../../src/nsdb/embedded/record-file.js';
import { EmbeddedServer } from '../../../src/nsdb/embedded/server.js';
import { WriteAheadLog } from '../../../src/nsdb/embedded/write-ahead-log.js';
import {
  FrameSplitter,
  JuteReader,
  JuteWriter,
  NO_SESSION,
  WireProtocolError,
} from '../../../src/nsdb/protocol/jute.js';
import {
  Err,
  Op,
  readConnectResponse,
  readMultiHeader,
  readStat,
  writeConnectRequest,
  writeMultiHeader,
} from '../../../src/nsdb/protocol/records.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { bytes, text, until } from '../../compliance/store.js';

async function serve(t: ExecutionContext, path?: string): Promise<EmbeddedServer> {
  const dataDir = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  const listen = path === undefined ? { port: 0 } : { path: join(dataDir, path) };
  const server = await EmbeddedServer.start({ listen, dataDir, minSessionTimeout: 200, fsync: false });
  t.teardown(async () => {
    await server.close();
    await rm(dataDir, { recursive: true });
  });
  return server;
}

function portOf(server: EmbeddedServer): number {
  return Number(server.address.slice(server.address.lastIndexOf(':') + 1));
}

function hello(): Buffer {
  const w = new JuteWriter();
  const password = new Uint8Array(16);
  writeConnectRequest(w, { lastZxidSeen: 0, timeout: 1000, sessionId: NO_SESSION, password, readOnly: false });
  return w.frame();
}

/** Sends bytes, in the pieces given, ends, and waits until the connection is closed. */
async function throwAt(server: EmbeddedServer, pieces: readonly Uint8Array[]): Promise<void> {
  const socket = connect(portOf(server), '127.0.0.1');
  socket.on('error', () => {});
  socket.resume();
  await once(socket, 'connect');
  for (const piece of pieces) socket.write(piece);
  socket.end();
  if (!socket.closed) await once(socket, 'close');
}

test('garbage closes the connection it came on, never the server', async (t) => {
  const server = await serve(t);
  const store = new ZookeeperStore({ connect: server.address });
  await store.create('/a', bytes('x'));
  const piece = fc.uint8Array({ minLength: 1, maxLength: 200, size: 'max' });
  const framed = piece.map((body) => new JuteWriter().int(1).bytes(body).frame());
  const request = fc
    .tuple(fc.constantFrom(...Object.values(Op), 77), fc.uint8Array({ maxLength: 60, size: 'max' }))
    .map(([op, body]) => {
      const head = new JuteWriter().int(5).int(op).body();
      const frame = Buffer.alloc(4 + head.length + body.length);
      frame.writeInt32BE(head.length + body.length);
      frame.set(head, 4);
      frame.set(body, 4 + head.length);
      return frame;
    });
  await fc.assert(
    fc.asyncProperty(
      fc.boolean(),
      fc.array(fc.oneof(piece, framed, request), { maxLength: 5 }),
      async (greet, pieces) => {
        await throwAt(server, greet ? [hello(), ...pieces] : pieces);
        return text(await store.get('/a')) === 'x';
      },
    ),
    { numRuns: 300 },
  );
  t.true(server.metrics.protocolErrors > 20);
  t.is(store.metrics.disconnects, 0);
  await store.close();
  await until('every connection is gone', () => server.metrics.connections === 0);
});

test('a length out of bounds is refused at once, a message in pieces is not', async (t) => {
  const server = await serve(t);
  await throwAt(server, [Buffer.from([0x7f, 0xff, 0xff, 0xff])]);
  await throwAt(server, [Buffer.from([0xff, 0xff, 0xff, 0xff])]);
  t.is(server.metrics.protocolErrors, 2);
  const socket = connect(portOf(server), '127.0.0.1');
  const answer = new FrameSplitter(1000);
  socket.on('data', (chunk) => answer.push(chunk));
  for (const byte of hello()) {
    socket.write(Buffer.from([byte]));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await until('there is an answer', () => answer.pending > 40);
  t.is(readConnectResponse(new JuteReader(answer.next()!)).timeout, 1000);
  socket.destroy();
});

test('a session is not given to a client with another password', async (t) => {
  const server = await serve(t);
  const store = new ZookeeperStore({ connect: server.address });
  await store.create('/e', bytes(''), { ephemeral: true });
  const w = new JuteWriter();
  const password = new Uint8Array(16);
  writeConnectRequest(w, { lastZxidSeen: 0, timeout: 1000, sessionId: store.sessionId!, password, readOnly: false });
  const socket = connect(portOf(server), '127.0.0.1');
  socket.write(w.frame());
  const answer = new FrameSplitter(1000);
  socket.on('data', (chunk) => answer.push(chunk));
  await once(socket, 'close');
  const response = readConnectResponse(new JuteReader(answer.next()!));
  t.is(response.timeout, 0);
  t.is(response.sessionId, NO_SESSION);
  t.not(await store.exists('/e'), undefined);
  t.is(store.metrics.disconnects, 0);
  await store.close();
});

test('the administrative words are answered', async (t) => {
  const server = await serve(t);
  for (const [word, pattern] of [
    ['ruok', /^imok$/],
    ['srvr', /Mode: standalone/],
    ['mntr', /zk_znode_count\t4\n/],
    ['stat', /Clients:/],
  ] as const) {
    const socket = connect(portOf(server), '127.0.0.1');
    let answer = '';
    socket.on('data', (chunk) => {
      answer += chunk.toString();
    });
    socket.write(word);
    await once(socket, 'close');
    t.regex(answer, pattern);
  }
});

test('a client that was answered for the last time is let go, though it keeps its half open', async (t) => {
  const server = await serve(t);
  const socket = connect({ port: portOf(server), host: '127.0.0.1', allowHalfOpen: true });
  t.teardown(() => socket.destroy());
  let answer = '';
  socket.on('data', (chunk) => {
    answer += chunk.toString();
  });
  socket.write('ruok');
  await once(socket, 'end');
  t.is(answer, 'imok');
  socket.on('error', () => {});
  socket.write(hello());
  await until('the connection is gone', () => server.metrics.connections === 0);
  t.is(server.metrics.sessions, 0);
});

test('nothing behind a refused connect is carried out', async (t) => {
  const server = await serve(t);
  const { transactions } = server.metrics;
  const w = new JuteWriter();
  const password = new Uint8Array(16);
  writeConnectRequest(w, { lastZxidSeen: 0, timeout: 1000, sessionId: '01'.repeat(8), password, readOnly: false });
  await throwAt(server, [Buffer.concat([w.frame(), hello()])]);
  t.is(server.metrics.sessions, 0);
  t.is(server.metrics.transactions, transactions);
  t.is(server.metrics.protocolErrors, 0);
});

test('the end of a session with very many nodes is several transactions', async (t) => {
  const server = await serve(t);
  const [store, other] = [
    new ZookeeperStore({ connect: server.address }),
    new ZookeeperStore({ connect: server.address }),
  ];
  await store.sync();
  const { nodes } = server.metrics;
  const path = (i: number) => `/${String(i).padStart(200, 'x')}`;
  for (let i = 0; i < 10_000; i += 2000) {
    const paths = Array.from({ length: 2000 }, (_, j) => path(i + j));
    await store.multi(paths.map((path) => ({ type: 'create', path, data: bytes(''), ephemeral: true })));
  }
  await other.sync();
  const before = server.metrics.zxid;
  await store.close();
  await until('the session has ended', () => server.metrics.sessions === 1);
  t.is(server.metrics.zxid - before, 2);
  t.is(server.metrics.nodes, nodes);
  await other.close();
});

test('a record that no batch can hold is a failure, not damage found later', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const file = join(folder, 'log-0000000000000001');
  const failures: string[] = [];
  const log = await WriteAheadLog.begin(
    nodeDisk,
    file,
    { fsync: false, fullSize: 1e9 },
    { onDurable: () => {}, onFailure: (error) => failures.push(error.message), onFull: () => {} },
  );
  log.append(Buffer.from('one'));
  log.append(Buffer.alloc(MAX_BATCH_BODY - 3));
  log.append(Buffer.from('three'));
  await log.close();
  t.deepEqual(failures, [`a record of ${MAX_BATCH_BODY - 3} bytes does not fit into the log`]);
  const records: string[] = [];
  t.is(readRecordFile(nodeDisk, file, 'log', (record) => records.push(record.toString())).torn, 0);
  t.deepEqual(records, ['one']);
  await t.throwsAsync(EmbeddedServer.start({ listen: { port: 0 }, dataDir: folder, maxRequest: MAX_BATCH_BODY }), {
    instanceOf: InvalidInputError,
  });
});

test('what is no socket is not removed to listen there', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const dataDir = join(folder, 'data');
  const path = join(folder, 'notes');
  await writeFile(path, 'keep me');
  await t.throwsAsync(EmbeddedServer.start({ listen: { path }, dataDir }), {
    instanceOf: InvalidInputError,
    message: /something that is not a socket/,
  });
  t.is(await readFile(path, 'utf8'), 'keep me');
  const long = join(folder, 'x'.repeat(100));
  await t.throwsAsync(EmbeddedServer.start({ listen: { path: long }, dataDir }), { message: /at most 107 bytes/ });
  // Neither attempt keeps the folder locked.
  await (await EmbeddedServer.start({ listen: { port: 0 }, dataDir })).close();
});

test.serial('a server that cannot protect its socket does not go on listening', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const options = { listen: { path: join(folder, 'socket') }, dataDir: join(folder, 'data') };
  const { chmod } = promises;
  promises.chmod = () => Promise.reject(new Error('no'));
  syncBuiltinESMExports();
  try {
    await t.throwsAsync(EmbeddedServer.start(options), { message: 'no' });
  } finally {
    promises.chmod = chmod;
    syncBuiltinESMExports();
  }
  await t.throwsAsync(once(connect(options.listen.path), 'connect'), { code: 'ENOENT' });
  await (await EmbeddedServer.start(options)).close();
});

test('a Unix socket serves as well', async (t) => {
  const server = await serve(t, 'nsdb.sock');
  t.regex(server.address, /^unix:\//);
  const store = new ZookeeperStore({ connect: server.address });
  await store.create('/a', bytes('x'));
  t.is(text(await store.get('/a')), 'x');
  await store.close();
});

test('jute: what is written is read, and no length is believed', (t) => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          int: fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
          long: fc.maxSafeInteger(),
          text: fc.string({ unit: 'grapheme' }),
          bytes: fc.uint8Array(),
          bool: fc.boolean(),
          id: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((n) => n.toString(16).padStart(16, '0')),
          list: fc.array(fc.string()),
        }),
      ),
      (records) => {
        const w = new JuteWriter(4);
        for (const { int, long, text, bytes, bool, id, list } of records) {
          w.int(int).long(long).string(text).bytes(bytes).bool(bool).sessionId(id).strings(list);
        }
        const r = new JuteReader(w.body());
        for (const { int, long, text, bytes, bool, id, list } of records) {
          t.is(r.int(), int);
          t.is(r.long(), long);
          t.is(r.string(), text);
          t.deepEqual(new Uint8Array(r.bytes()), bytes);
          t.is(r.bool(), bool);
          t.is(r.sessionId(), id);
          t.deepEqual(r.strings(), list);
        }
        t.is(r.remaining, 0);
      },
    ),
    { numRuns: 300 },
  );
  const lie = new JuteReader(new JuteWriter().int(0x7fffffff).body());
  t.throws(() => lie.strings(), { instanceOf: WireProtocolError });
});

/** The part of node-zookeeper-client used here; it brings no types. */
interface ForeignClient {
  connect(): void;
  close(): void;
  once(event: string, listener: () => void): void;
  on(event: string, listener: () => void): void;
  create(path: string, data: Buffer, mode: number, done: (error: ForeignError | null, path: string) => void): void;
  getData(
    path: string,
    watcher: (event: { getName(): string; getPath(): string }) => void,
    done: (error: ForeignError | null, data: Buffer, stat: { version: number }) => void,
  ): void;
  getChildren(path: string, done: (error: ForeignError | null, names: string[]) => void): void;
  setData(path: string, data: Buffer, done: (error: ForeignError | null, stat: { version: number }) => void): void;
  remove(path: string, done: (error: ForeignError | null) => void): void;
  transaction(): {
    create(path: string, data: Buffer): ReturnType<ForeignClient['transaction']>;
    remove(path: string): ReturnType<ForeignClient['transaction']>;
    commit(done: (error: ForeignError | null, results: unknown[]) => void): void;
  };
}

interface ForeignError {
  getName(): string;
}

/** A callback's error and result as a promise of the result; the error's name is the message. */
function promised<T>(call: (done: (error: ForeignError | null, value: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    call((error, value) => (error === null ? resolve(value) : reject(new Error(error.getName()))));
  });
}

test('a client of others’ making is served', async (t) => {
  const server = await serve(t);
  const foreign = createRequire(import.meta.url)('node-zookeeper-client') as {
    createClient(address: string, options: object): ForeignClient;
    CreateMode: Record<string, number>;
  };
  const client = foreign.createClient(server.address, { sessionTimeout: 3000 });
  client.connect();
  await new Promise<void>((resolve) => client.once('connected', resolve));
  const { PERSISTENT, EPHEMERAL_SEQUENTIAL } = foreign.CreateMode;
  const create = (path: string, data: string, mode: number) =>
    promised<string>((done) => client.create(path, Buffer.from(data), mode, done));
  t.is(await create('/f', 'one', PERSISTENT), '/f');
  t.is(await create('/f/s-', '', EPHEMERAL_SEQUENTIAL), '/f/s-0000000000');
  await t.throwsAsync(create('/f', '', PERSISTENT), { message: 'NODE_EXISTS' });
  await t.throwsAsync(create('/x/y', '', PERSISTENT), { message: 'NO_NODE' });
  const events: string[] = [];
  const data = await promised<Buffer>((done) =>
    client.getData('/f', (event) => events.push(`${event.getName()} ${event.getPath()}`), done),
  );
  t.is(data.toString(), 'one');
  const ours = new ZookeeperStore({ connect: server.address });
  await ours.set('/f', bytes('two'));
  await until('the event is there', () => events.length === 1);
  t.deepEqual(events, ['NODE_DATA_CHANGED /f']);
  t.deepEqual(await promised((done) => client.getChildren('/f', done)), ['s-0000000000']);
  await t.throwsAsync(
    promised((done) => client.remove('/f', (error) => done(error, undefined))),
    { message: 'NOT_EMPTY' },
  );
  const failing = client.transaction().create('/t', Buffer.from('')).remove('/none');
  await t.throwsAsync(promised((done) => failing.commit(done)));
  t.is(await ours.exists('/t'), undefined);
  await promised((done) => client.transaction().create('/t', Buffer.from('')).remove('/t').commit(done));
  const ended = new Promise<void>((resolve) => client.once('disconnected', resolve));
  client.close();
  await ended;
  await until('its ephemeral node is gone', async () => (await ours.children('/f'))!.length === 0);
  await ours.close();
});

test('several readings in one request are of one moment, and each has its own result or error', async (t) => {
  const server = await serve(t);
  const store = new ZookeeperStore({ connect: server.address });
  await store.create('/a', bytes('one'));
  await store.create('/a/b', bytes('two'));
  const w = new JuteWriter().int(1).int(Op.multiRead);
  const parts = [
    [Op.getData, '/a/b'],
    [Op.getChildren, '/none'],
    [Op.getChildren, '/a'],
  ] as const;
  for (const [op, path] of parts) {
    writeMultiHeader(w, op, false, -1);
    w.string(path).bool(false);
  }
  writeMultiHeader(w, Op.error, true, -1);
  const socket = connect(portOf(server), '127.0.0.1');
  t.teardown(() => socket.destroy());
  const splitter = new FrameSplitter(1 << 20);
  const frames: Buffer[] = [];
  socket.on('data', (chunk) => {
    splitter.push(chunk);
    for (let frame = splitter.next(); frame !== undefined; frame = splitter.next()) frames.push(Buffer.from(frame));
  });
  socket.write(hello());
  socket.write(w.frame());
  await until('both answers are there', () => frames.length === 2);
  const r = new JuteReader(frames[1]);
  t.deepEqual([r.int(), r.long() > 0, r.int()], [1, true, Err.ok]);
  t.deepEqual(readMultiHeader(r), { type: Op.getData, done: false, err: Err.ok });
  t.is(r.bytes().toString(), 'two');
  t.is(readStat(r).version, 0);
  t.deepEqual(readMultiHeader(r), { type: Op.error, done: false, err: Err.noNode });
  t.is(r.int(), Err.noNode);
  t.deepEqual(readMultiHeader(r), { type: Op.getChildren, done: false, err: Err.ok });
  t.deepEqual(r.strings(), ['b']);
  t.true(readMultiHeader(r).done);
  await store.close();
});
