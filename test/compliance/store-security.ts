/**
 * What the store must do about credentials, access lists and encryption, on every server. Test files call
 * {@link storeSecurityCompliance} with how to start theirs.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext, TestFn } from 'ava';
import { digestIdentity } from '../../src/nsdb/embedded/access.js';
import { CREATOR_ACL, Err, OPEN_ACL, Permission } from '../../src/nsdb/protocol/records.js';
import { QuotaExceededError, StoreAuthError, type Tls } from '../../src/nsdb/store.js';
import { ZookeeperStore, type ZookeeperStoreOptions } from '../../src/nsdb/zookeeper/client.js';
import { Authority } from '../nsdb/certificates.js';
import { CutProxy } from '../nsdb/cut-proxy.js';
import { WireClient } from '../nsdb/wire-client.js';
import { bytes, type StoreServer, text, until } from './store.js';

export interface ServerSettings {
  /** Take only clients that authenticate by the scheme digest. */
  readonly credentials?: { readonly user: string; readonly password: string };
  /** Speak TLS at the address, with clients that have a certificate. */
  readonly tls?: { readonly authority: Authority; readonly server: Required<Tls> };
}

const NONE = new Uint8Array();
const ann = { user: 'ann', password: 'se:cret' };
const bob = { user: 'bob', password: 'other' };

export function storeSecurityCompliance(test: TestFn, start: (settings: ServerSettings) => Promise<StoreServer>): void {
  let open: StoreServer;
  let demanding: StoreServer;
  let encrypted: StoreServer;
  let folder: string;
  let authority: Authority;
  let client: Required<Tls>;
  let count = 0;

  test.before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'midonet-certificates-'));
    authority = await Authority.make(folder, 'authority');
    const server = await authority.issue('server', 'IP:127.0.0.1,DNS:localhost');
    client = await authority.issue('client', 'DNS:agent');
    [open, demanding, encrypted] = await Promise.all([
      start({}),
      start({ credentials: ann }),
      start({ tls: { authority, server } }),
    ]);
  });
  test.after.always(async () => {
    await open?.close();
    await demanding?.close();
    await encrypted?.close();
    if (folder !== undefined) await rm(folder, { recursive: true });
  });

  function store(t: ExecutionContext, connect: string, options: Partial<ZookeeperStoreOptions> = {}): ZookeeperStore {
    const made = new ZookeeperStore({ operationTimeout: 20_000, ...options, connect });
    t.teardown(() => made.close());
    return made;
  }

  /** A path that no other test uses, which anyone may use. */
  async function root(t: ExecutionContext): Promise<string> {
    const path = `/security-${count++}`;
    await store(t, open.address).create(path, NONE);
    return path;
  }

  async function wire(t: ExecutionContext, address = open.address): Promise<WireClient> {
    const made = await WireClient.open(address);
    t.teardown(() => made.close());
    return made;
  }

  test('what a client with credentials makes nobody else may use', async (t) => {
    const at = await root(t);
    const own = store(t, open.address, { credentials: ann });
    await own.create(`${at}/a`, bytes('hers'));
    await own.ensure(`${at}/a/b/c`);
    await own.multi([{ type: 'create', path: `${at}/a/m`, data: NONE }]);
    for (const other of [store(t, open.address), store(t, open.address, { credentials: bob })]) {
      for (const path of [`${at}/a`, `${at}/a/b/c`, `${at}/a/m`]) {
        await t.throwsAsync(other.get(path), { instanceOf: StoreAuthError, code: 'MN_STORE_AUTH' });
      }
      await t.throwsAsync(other.set(`${at}/a`, NONE), { instanceOf: StoreAuthError });
      await t.throwsAsync(other.children(`${at}/a`), { instanceOf: StoreAuthError });
      await t.throwsAsync(other.create(`${at}/a/x`, NONE), { instanceOf: StoreAuthError });
      await t.throwsAsync(other.delete(`${at}/a/m`), { instanceOf: StoreAuthError });
      const error = await t.throwsAsync<StoreAuthError>(
        other.multi([
          { type: 'create', path: `${at}/left`, data: NONE },
          { type: 'check', path: `${at}/a` },
        ]),
        { instanceOf: StoreAuthError },
      );
      t.is(error?.operationIndex, 1);
      t.is(await other.exists(`${at}/left`), undefined);
      t.truthy(await other.exists(`${at}/a`), 'whether a node exists is no secret');
    }
    t.is(text(await store(t, open.address, { credentials: ann }).get(`${at}/a`)), 'hers');
  });

  test('who the client is the server is told again on every connection, before watches are set again', async (t) => {
    const at = await root(t);
    const proxy = await CutProxy.to(open.address);
    t.teardown(() => proxy.close());
    const own = store(t, `${proxy.address}${at}`, { credentials: ann });
    await own.create('/a', bytes('1'));
    const values: (string | undefined)[] = [];
    await own.watchData('/a', (node) => values.push(text(node))).ready;
    const writer = store(t, `${open.address}${at}`, { credentials: ann });
    for (let round = 2; round < 5; round++) {
      const { disconnects } = own.metrics;
      proxy.drop();
      await until('the loss is noticed', () => own.metrics.disconnects > disconnects);
      await writer.set('/a', bytes(`${round}`));
      await until('the value is seen', () => values.at(-1) === `${round}`);
      t.is(text(await own.get('/a')), `${round}`);
    }
    t.is(own.metrics.sessionsLost, 0);
  });

  test('lists that make no sense are refused', async (t) => {
    const at = await root(t);
    const nobody = await wire(t);
    t.is(await nobody.create(`${at}/a`, []), Err.invalidAcl);
    t.is(await nobody.create(`${at}/a`, [CREATOR_ACL]), Err.invalidAcl);
    t.is(await nobody.create(`${at}/a`, [{ ...OPEN_ACL, scheme: 'kerberos' }]), Err.invalidAcl);
    t.is(await nobody.create(`${at}/a`, [{ ...OPEN_ACL, scheme: 'digest' }]), Err.invalidAcl);
    t.is(await nobody.create(`${at}/a`, [OPEN_ACL, { ...OPEN_ACL, scheme: 'ip', id: '1.2.3' }]), Err.invalidAcl);
    t.is(await nobody.create(`${at}/a`, [OPEN_ACL]), Err.ok);
  });

  test('a list is changed by who may, at the version given, and tells digests only to those', async (t) => {
    const at = await root(t);
    const her = await wire(t);
    t.is(await her.authenticate('digest', 'ann:se:cret'), Err.ok);
    const anyone = await wire(t);
    const mine = { ...CREATOR_ACL, scheme: 'digest', id: digestIdentity(bytes('ann:se:cret')).id };
    const readable = { ...OPEN_ACL, permissions: Permission.read };
    t.is(await her.create(`${at}/a`, [CREATOR_ACL, readable]), Err.ok);
    t.like(await her.getAcls(`${at}/a`), { acls: [mine, readable], stat: { aversion: 0, version: 0 } });
    t.like(await anyone.getAcls(`${at}/a`), { acls: [{ ...mine, id: 'ann:x' }, readable] });
    t.is(await anyone.setAcls(`${at}/a`, [OPEN_ACL]), Err.noAuth);
    t.is(await her.setAcls(`${at}/a`, [mine], 1), Err.badVersion);
    t.is(await her.setAcls(`${at}/a`, [mine], 0), Err.ok);
    t.is(await anyone.getAcls(`${at}/a`), Err.noAuth);
    t.like(await her.getAcls(`${at}/a`), { acls: [mine], stat: { aversion: 1, version: 0 } });
    t.is(await her.setAcls(`${at}/none`, [mine]), Err.noNode);
  });

  test('addresses have permissions of their own', async (t) => {
    const at = await root(t);
    const anyone = await wire(t);
    const from = (id: string) => [{ ...OPEN_ACL, scheme: 'ip', id }];
    t.is(await anyone.create(`${at}/near`, from('127.0.0.0/8')), Err.ok);
    t.is(await anyone.create(`${at}/far`, from('10.0.0.0/8')), Err.ok);
    t.is(await anyone.create(`${at}/near/a`, [OPEN_ACL]), Err.ok);
    t.is(await anyone.create(`${at}/far/a`, [OPEN_ACL]), Err.noAuth);
  });

  test('a scheme that the server does not know ends the connection', async (t) => {
    const anyone = await wire(t);
    t.is(await anyone.authenticate('kerberos', 'ann'), Err.authFailed);
    await anyone.closed;
    t.pass();
  });

  test('a server that demands credentials takes only clients that have them', async (t) => {
    const stranger = await wire(t, demanding.address);
    t.is((await stranger.getAcls('/')) as number, Err.authRequired);
    await stranger.closed;
    const without = store(t, demanding.address);
    await t.throwsAsync(without.get('/'), { instanceOf: StoreAuthError });
    await t.throwsAsync(without.create('/a', NONE), { instanceOf: StoreAuthError });
    const own = store(t, demanding.address, { credentials: ann });
    await own.create('/a', bytes('hers'));
    t.is(text(await own.get('/a')), 'hers');
  });

  test('a quota bounds the nodes and the bytes of a subtree, and tells how many there are', async (t) => {
    const at = await root(t);
    const own = store(t, open.address);
    const quota = `/zookeeper/quota${at}`;
    await own.create(`${at}/there`, bytes('12345'));
    await own.ensure(quota);
    await own.create(`${quota}/zookeeper_limits`, bytes('count=-1,bytes=-1=;byteHardLimit=10;countHardLimit=4'));
    await own.create(`${quota}/zookeeper_stats`, bytes('count=0,bytes=0'));
    const stats = async () => text(await own.get(`${quota}/zookeeper_stats`));
    t.is(await stats(), 'count=2,bytes=5');
    await own.create(`${at}/there/a`, bytes('123'));
    await own.create(`${at}/b`, NONE);
    t.is(await stats(), 'count=4,bytes=8');
    const error = await t.throwsAsync(own.create(`${at}/there/c`, NONE), { instanceOf: QuotaExceededError });
    t.is(error?.path, `${at}/there/c`);
    t.is(error?.code, 'MN_QUOTA_EXCEEDED');
    await t.throwsAsync(own.set(`${at}/b`, bytes('123')), { instanceOf: QuotaExceededError });
    await own.set(`${at}/b`, bytes('12'));
    const many = own.multi([
      { type: 'set', path: `${at}/b`, data: NONE },
      { type: 'create', path: `${at}/d`, data: NONE },
    ]);
    t.is((await t.throwsAsync(many, { instanceOf: QuotaExceededError }))?.operationIndex, 1);
    t.is(await stats(), 'count=4,bytes=10');
    t.like(await own.exists(`${quota}/zookeeper_stats`), { version: 0 });
    await own.delete(`${at}/there/a`);
    t.is(await stats(), 'count=3,bytes=7');
    await own.create(`${at}/e`, bytes('1'), { ephemeral: true });
    t.is(await stats(), 'count=4,bytes=8');
    await own.delete(`${quota}/zookeeper_limits`);
    await own.create(`${at}/f`, bytes('123456789'));
    t.is(await stats(), 'count=4,bytes=8', 'without limits nobody counts');
  });

  test('both ends show certificates, by address and by name', async (t) => {
    for (const host of ['127.0.0.1', 'localhost']) {
      const own = store(t, `${host}${portOf(encrypted)}/tls`, { tls: client, credentials: ann });
      await own.ensure('/');
      const path = await own.create('/large-', new Uint8Array(500_000).fill(7), { sequential: true });
      t.deepEqual((await own.get(path))?.data, Buffer.alloc(500_000, 7));
    }
  });

  const mismatches: [what: string, options: (t: ExecutionContext) => Promise<[string, Tls | undefined, RegExp]>][] = [
    ['a client without TLS at a port with', async () => [encrypted.address, undefined, /TLS/]],
    ['a client with TLS at a port without', async () => [open.address, client, /TLS with .*without/]],
    [
      'a server of another authority',
      async () => {
        const other = await Authority.make(folder, 'stranger');
        return [encrypted.address, await other.issue('strange-client', 'DNS:agent'), /TLS with .*(certificate|verify)/];
      },
    ],
    [
      'a client without a certificate',
      async () => [
        encrypted.address,
        { ca: client.ca },
        /certificate|closed the connection|socket hang up|ECONNRESET/i,
      ],
    ],
    [
      'a server by a name that is not in its certificate',
      // A way to write 127.0.0.1 that is taken for a name.
      async () => [`127.1${portOf(encrypted)}`, client, /TLS with .*127\.1/],
    ],
  ];
  for (const [what, options] of mismatches) {
    test(`${what} is noticed at once and told`, async (t) => {
      const [address, tls, expected] = await options(t);
      const errors: string[] = [];
      const own = store(t, address, {
        tls,
        operationTimeout: 60_000,
        onNotice: (_level, _message, fields) => errors.push((fields as { error?: string }).error ?? 'none'),
      });
      // A server that has just started may not listen there yet.
      await until(`${expected} is told`, () => errors.some((error) => expected.test(error)));
      t.not(own.state, 'connected');
    });
  }
}

function portOf({ address }: StoreServer): string {
  return address.slice(address.lastIndexOf(':'));
}
