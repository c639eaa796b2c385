import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { digestIdentity } from '../../src/nsdb/embedded/access.js';
import { EmbeddedServer } from '../../src/nsdb/embedded/server.js';
import type { JuteReader } from '../../src/nsdb/protocol/jute.js';
import {
  type Acl,
  OPEN_ACL,
  Op,
  readMultiHeader,
  readStat,
  writeMultiHeader,
} from '../../src/nsdb/protocol/records.js';
import { ApacheZookeeper } from './apache-zookeeper.js';
import { WireClient } from './wire-client.js';

/** Whom the clients have shown to be; all of them come from 127.0.0.1. */
const SECRETS: readonly (readonly string[])[] = [[], ['ann:secret'], ['ann:secret', 'bob:other'], ['bob:other']];

const digest = (secret: string) => digestIdentity(Buffer.from(secret)).id;
const subject = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.constantFrom(
      { scheme: 'world', id: 'anyone' },
      { scheme: 'auth', id: '' },
      { scheme: 'digest', id: digest('ann:secret') },
      { scheme: 'digest', id: digest('bob:other') },
      { scheme: 'ip', id: '127.0.0.1' },
      { scheme: 'ip', id: '127.0.0.0/8' },
      { scheme: 'ip', id: '10.0.0.0/8' },
    ),
  },
  fc.constantFrom(
    { scheme: 'world', id: 'nobody' },
    { scheme: 'digest', id: 'ann' },
    { scheme: 'digest', id: 'a:b:c' },
    { scheme: 'digest', id: 'a:b:' },
    { scheme: 'ip', id: '127.0.0' },
    { scheme: 'ip', id: '127.0.0.1/33' },
    { scheme: 'ip', id: '127.0.0.256' },
    { scheme: 'ip', id: '0.0.0.0/0' },
    { scheme: 'super', id: '' },
    { scheme: 'kerberos', id: 'ann' },
  ),
);
const acl: fc.Arbitrary<Acl> = fc
  .tuple(fc.nat({ max: 31 }), subject)
  .map(([permissions, who]) => ({ permissions, ...who }));
const acls = fc.oneof(
  { weight: 1, arbitrary: fc.constant([OPEN_ACL]) },
  { weight: 4, arbitrary: fc.array(acl, { maxLength: 3 }) },
);
const path = fc.constantFrom('/a', '/a/b', '/a/b/c');
const version = fc.constantFrom(-1, -1, 0, 1);
const kind = fc.constantFrom('set', 'delete', 'get', 'exists', 'children', 'getAcl', 'multi');
const who = fc.nat({ max: SECRETS.length - 1 });
const step = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('create'), who, path, acls, version }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('setAcl'), who, path, acls, version }) },
  { weight: 6, arbitrary: fc.record({ kind, who, path, acls, version }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

const NOBODY: Acl = { permissions: 31, scheme: 'world', id: 'nobody' };
const ANN: Acl = { permissions: 31, scheme: 'digest', id: digest('ann:secret') };
/** Reaches every outcome that this is about, whatever the random steps reach: 1 is Ann, 3 is Bob. */
const CERTAIN: Step[] = [
  { kind: 'create', who: 1, path: '/a', acls: [ANN], version: -1 },
  { kind: 'create', who: 1, path: '/a/b', acls: [NOBODY], version: -1 },
  { kind: 'create', who: 3, path: '/a/b', acls: [OPEN_ACL], version: -1 },
  { kind: 'get', who: 3, path: '/a', acls: [], version: -1 },
  { kind: 'getAcl', who: 3, path: '/a', acls: [], version: -1 },
  { kind: 'setAcl', who: 3, path: '/a', acls: [OPEN_ACL], version: -1 },
  { kind: 'setAcl', who: 1, path: '/a', acls: [OPEN_ACL], version: 1 },
  { kind: 'create', who: 1, path: '/a/b', acls: [OPEN_ACL], version: -1 },
  { kind: 'delete', who: 3, path: '/a/b', acls: [], version: -1 },
];

/** Identities come in no certain order from Apache ZooKeeper. */
function sorted(list: readonly Acl[]): string[] {
  return list.map((entry) => `${entry.scheme} ${entry.id} ${entry.permissions}`).sort();
}

function multiCodes(body: JuteReader): number[] {
  const codes: number[] = [];
  for (;;) {
    const { type, done } = readMultiHeader(body);
    if (done) return codes;
    if (type === Op.error) codes.push(body.int());
    if (type === Op.setData) readStat(body);
  }
}

/** What the server answers, as far as it must be the same on every server. */
async function carryOut(client: WireClient, root: string, { kind, path, acls, version }: Step): Promise<unknown> {
  const at = root + path;
  switch (kind) {
    case 'create':
      return client.create(at, acls);
    case 'setAcl':
      return client.setAcls(at, acls, version);
    case 'getAcl': {
      const found = await client.getAcls(at);
      return typeof found === 'number' ? found : [sorted(found.acls), found.stat.aversion];
    }
    case 'set':
      return (await client.request(Op.setData, (w) => w.string(at).bytes(Buffer.from('x')).int(version))).err;
    case 'delete':
      return (await client.request(Op.delete, (w) => w.string(at).int(version))).err;
    case 'get':
      return (await client.request(Op.getData, (w) => w.string(at).bool(false))).err;
    case 'exists': {
      const { err, body } = await client.request(Op.exists, (w) => w.string(at).bool(false));
      return err === 0 ? readStat(body).aversion : err;
    }
    case 'children':
      return (await client.request(Op.getChildren, (w) => w.string(at).bool(false))).err;
    default: {
      const { err, body } = await client.request(Op.multi, (w) => {
        writeMultiHeader(w, Op.check, false, -1);
        w.string(at).int(version);
        writeMultiHeader(w, Op.setData, false, -1);
        w.string(at).bytes(Buffer.from('y')).int(-1);
        writeMultiHeader(w, Op.error, true, -1);
      });
      return [err, multiCodes(body)];
    }
  }
}

async function clients(address: string): Promise<WireClient[]> {
  const all: WireClient[] = [];
  for (const secrets of SECRETS) {
    const client = await WireClient.open(address);
    for (const secret of secrets) await client.authenticate('digest', secret);
    all.push(client);
  }
  return all;
}

const run = process.env.MIDONET_SKIP_ZOOKEEPER === '1' ? test.skip : test;

run('the embedded server allows and forbids what Apache ZooKeeper does', async (t) => {
  t.timeout(150_000);
  const dataDir = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  const apache = await ApacheZookeeper.start();
  const embedded = await EmbeddedServer.start({ listen: { port: 0 }, dataDir, fsync: false });
  const theirs: WireClient[] = [];
  const ours: WireClient[] = [];
  const seen = new Map<string, number>();
  let round = 0;
  try {
    theirs.push(...(await clients(apache.address)));
    ours.push(...(await clients(embedded.address)));
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 40, size: 'max' }), async (steps) => {
        const root = `/round-${round++}`;
        for (const [client] of [theirs, ours]) t.is(await client.create(root, [OPEN_ACL]), 0);
        for (const one of steps) {
          const [expected, actual] = await Promise.all([theirs, ours].map((all) => carryOut(all[one.who], root, one)));
          t.deepEqual(actual, expected, JSON.stringify(one));
          const outcome = `${one.kind} ${Array.isArray(expected) ? 'result' : expected}`;
          seen.set(outcome, (seen.get(outcome) ?? 0) + 1);
        }
      }),
      {
        examples: [[CERTAIN]],
        numRuns: 40,
        interruptAfterTimeLimit: 40_000,
        markInterruptAsFailure: true,
        endOnFailure: true,
      },
    );
    // The steps must reach what this is about.
    for (const outcome of [
      'create -102',
      'create -114',
      'setAcl -102',
      'setAcl -103',
      'delete -102',
      'get -102',
      'getAcl -102',
    ]) {
      t.true((seen.get(outcome) ?? 0) > 0, outcome);
    }
  } finally {
    for (const client of [...theirs, ...ours]) client.close();
    await apache.close();
    await embedded.close();
    await rm(dataDir, { recursive: true });
  }
});
