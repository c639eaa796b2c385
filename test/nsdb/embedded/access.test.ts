import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { AccessLists, addressIdentity, allows, digestIdentity } from '../../../src/nsdb/embedded/access.js';
import { encodeBatch, newFileHeader } from '../../../src/nsdb/embedded/record-file.js';
import { EmbeddedServer, type EmbeddedServerOptions } from '../../../src/nsdb/embedded/server.js';
import { JuteWriter, NO_SESSION } from '../../../src/nsdb/protocol/jute.js';
import { type Acl, CREATOR_ACL, Err, OPEN_ACL, Op, Permission } from '../../../src/nsdb/protocol/records.js';
import { StoreAuthError } from '../../../src/nsdb/store.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { bytes, text, until } from '../../compliance/store.js';
import { WireClient } from '../wire-client.js';

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  t.teardown(() => rm(path, { recursive: true }));
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

/** A transaction that makes a node as versions without access lists wrote it: type 1, path, data, no session. */
function oldCreate(zxid: number, path: string): Buffer {
  return new JuteWriter()
    .long(zxid)
    .long(1000)
    .int(1)
    .int(1)
    .string(path)
    .bytes(bytes('old'))
    .sessionId(NO_SESSION)
    .body();
}

/** A node of a snapshot as those versions wrote it. */
function oldNode(path: string, zxid: number): Buffer {
  const w = new JuteWriter()
    .int(3)
    .string(path)
    .bytes(bytes('old'))
    .long(zxid)
    .long(zxid)
    .long(zxid)
    .long(1000)
    .long(1000);
  return w.int(0).int(0).sessionId(NO_SESSION).body();
}

test('a folder of a version without access lists is taken up', async (t) => {
  const dataDir = await folder(t);
  const snapshot = newFileHeader('snapshot');
  const records = [
    new JuteWriter().int(1).long(2).body(),
    oldNode('/', 0),
    oldNode('/a', 1),
    oldNode('/b', 2),
    new JuteWriter().int(4).int(0).int(3).body(),
  ];
  const log = newFileHeader('log');
  const file = (header: Buffer, salt: Buffer, batch: Buffer[]) => Buffer.concat([header, encodeBatch(salt, batch)]);
  await writeFile(join(dataDir, 'snapshot-0000000000000002'), file(snapshot.bytes, snapshot.salt, records));
  await writeFile(
    join(dataDir, 'log-0000000000000003'),
    file(log.bytes, log.salt, [oldCreate(3, '/a/c'), oldCreate(4, '/zookeeper')]),
  );
  for (const round of ['first', 'again']) {
    const server = await serve(t, dataDir);
    const client = await WireClient.open(server.address);
    for (const path of ['/', '/a', '/b', '/a/c', '/zookeeper']) {
      t.like(await client.getAcls(path), { acls: [OPEN_ACL], stat: { aversion: 0 } }, `${round} ${path}`);
    }
    t.like(await client.getAcls('/zookeeper/config'), { acls: [{ ...OPEN_ACL, permissions: Permission.read }] });
    client.close();
    await server.close();
  }
});

test('access lists outlive the server, in the log and in snapshots, and nodes share them', async (t) => {
  const dataDir = await folder(t);
  const only: Acl[] = [{ permissions: Permission.read, scheme: 'digest', id: digestIdentity(bytes('ann:secret')).id }];
  let server = await serve(t, dataDir, { snapshotAfter: 20_000 });
  let client = await WireClient.open(server.address);
  await client.authenticate('digest', 'ann:secret');
  t.is(await client.create('/changed', [OPEN_ACL]), Err.ok);
  t.is(await client.setAcls('/changed', only), Err.ok);
  for (let i = 0; i < 500; i++) t.is(await client.create(`/n${i}`, i % 2 === 0 ? [CREATOR_ACL] : [OPEN_ACL]), Err.ok);
  await until('there is a snapshot', async () => (await readdir(dataDir)).some((name) => name.startsWith('snapshot-')));
  client.close();
  await server.close();
  server = await serve(t, dataDir);
  client = await WireClient.open(server.address);
  t.is((await client.request(Op.getData, (w) => w.string('/n0').bool(false))).err, Err.noAuth);
  t.is((await client.request(Op.getData, (w) => w.string('/n1').bool(false))).err, Err.ok);
  await client.authenticate('digest', 'ann:secret');
  t.like(await client.getAcls('/changed'), { stat: { aversion: 1 } });
  const all = { acls: [{ ...only[0], permissions: Permission.all }], stat: { aversion: 0 } };
  for (let i = 0; i < 500; i += 50) t.like(await client.getAcls(`/n${i}`), all);
  t.is(await client.setAcls('/changed', [OPEN_ACL]), Err.noAuth);
  client.close();
  await server.close();
});

test('a list is forgotten with the last node that has it', (t) => {
  const lists = new AccessLists();
  const named = (id: string): Acl[] => [{ permissions: 1, scheme: 'digest', id }];
  fc.assert(
    fc.property(fc.array(fc.nat({ max: 5 }), { maxLength: 50, size: 'max' }), (ids) => {
      const held = ids.map((id) => lists.find(named(`u:${id}`)));
      for (const list of held) lists.retain(list);
      t.is(lists.size, new Set(ids).size);
      for (const list of held) lists.release(list);
      t.is(lists.size, 0);
    }),
  );
});

test('an address is within a block as its bits say', (t) => {
  const address = fc.ipV4();
  fc.assert(
    fc.property(address, address, fc.nat({ max: 32 }), (own, base, bits) => {
      const binary = (text: string) =>
        text
          .split('.')
          .map((byte) => Number(byte).toString(2).padStart(8, '0'))
          .join('');
      const list = new AccessLists().find([{ permissions: 1, scheme: 'ip', id: `${base}/${bits}` }]);
      for (const remote of [own, `::ffff:${own}`]) {
        const same = binary(own).slice(0, bits) === binary(base).slice(0, bits);
        t.is(allows(list, 1, [addressIdentity(remote)!]), same);
      }
    }),
  );
  t.is(addressIdentity('::1'), undefined);
  t.is(addressIdentity(undefined), undefined);
});

const credentials = { user: 'midonet', password: 'right:word' };

test('a server with credentials takes nobody else, and changes nothing for them', async (t) => {
  const dataDir = await folder(t);
  const server = await serve(t, dataDir, { credentials });
  const { zxid } = server.metrics;
  const requests: [op: number, write?: Parameters<WireClient['request']>[1]][] = [
    [Op.ping],
    [Op.getData, (w) => w.string('/').bool(false)],
    [Op.delete, (w) => w.string('/a').int(-1)],
    [Op.setWatches, (w) => w.long(0).strings([]).strings([]).strings([])],
    [77],
  ];
  for (const [op, write] of requests) {
    const client = await WireClient.open(server.address);
    t.is((await client.request(op, write)).err, Err.authRequired);
    await client.closed;
  }
  for (const [scheme, secret] of [
    ['digest', 'midonet:wrong'],
    ['digest', 'other:right:word'],
    ['digest', ''],
    ['kerberos', 'midonet:right:word'],
  ]) {
    const client = await WireClient.open(server.address);
    t.is(await client.authenticate(scheme, secret), Err.authFailed);
    await client.closed;
  }
  t.is(server.metrics.authenticationFailures, 9);
  t.is(server.metrics.sessions, 0, 'their sessions are gone with them');
  t.is(server.metrics.zxid, zxid + 18);
  const store = new ZookeeperStore({ connect: server.address, credentials });
  await store.create('/a', bytes('x'));
  t.is(text(await store.get('/a')), 'x');
  await store.close();
  await server.close();
});

test('whoever has the credentials may do everything, also after the password was changed', async (t) => {
  const dataDir = await folder(t);
  const before = await serve(t, dataDir, { credentials });
  const old = new ZookeeperStore({ connect: before.address, credentials });
  await old.create('/a', bytes('x'));
  await old.close();
  await before.close();
  const changed = { user: 'midonet', password: 'another' };
  const after = await serve(t, dataDir, { credentials: changed });
  const store = new ZookeeperStore({ connect: after.address, credentials: changed });
  await store.set('/a', bytes('y'));
  await store.create('/a/b', bytes(''));
  t.is(text(await store.get('/a')), 'y');
  await store.close();
  await after.close();
});

for (const [what, own] of [
  ['without credentials', undefined],
  ['with a wrong password', { user: 'midonet', password: 'wrong' }],
] as const) {
  test(`a client ${what} fails at once, says so once, and is in when it is taken`, async (t) => {
    const dataDir = await folder(t);
    const socket = join(dataDir, 'socket');
    const listen = { path: socket };
    let server = await serve(t, dataDir, { credentials, listen });
    const notices: string[] = [];
    const store = new ZookeeperStore({
      connect: `unix:${socket}`,
      credentials: own,
      operationTimeout: 60_000,
      onNotice: (_level, message) => notices.push(message),
    });
    const events: string[] = [];
    store.onState((event) => events.push(event));
    const error = await t.throwsAsync(store.get('/'), { instanceOf: StoreAuthError });
    t.is(error.code, 'MN_STORE_AUTH');
    await until('it has tried several times', () => server.metrics.authenticationFailures >= 4);
    await t.throwsAsync(store.create('/a', bytes('')), { instanceOf: StoreAuthError });
    t.deepEqual(notices, ['cannot authenticate']);
    t.deepEqual(events, []);
    await server.close();
    server = await serve(t, dataDir, { credentials: own, listen });
    await until('it is connected', () => store.state === 'connected', 30_000);
    t.is(await store.create('/a', bytes('')), '/a');
    await store.close();
    await server.close();
  });
}

test('a request for very many access lists is refused before it costs memory', async (t) => {
  const dataDir = await folder(t);
  const server = await serve(t, dataDir);
  const client = await WireClient.open(server.address);
  const name = 'x'.repeat(1000);
  for (let i = 0; i < 14; i++) t.is(await client.authenticate('digest', `${name}:${i}`), Err.ok);
  t.is(await client.create('/a', [CREATOR_ACL]), Err.ok);
  const many = Array.from({ length: 32 }, (_, permissions) => ({ ...CREATOR_ACL, permissions }));
  t.is(await client.create('/b', many), Err.invalidAcl);
  t.is(await client.authenticate('digest', `${name}:more`), Err.ok);
  t.is(await client.authenticate('digest', 'one:more'), Err.authFailed);
  await client.closed;
  await server.close();
});
