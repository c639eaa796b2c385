import test from 'ava';
import fc from 'fast-check';
import { OpenTransaction } from '../../../src/nsdb/embedded/changes.js';
import { Database, type TreeNode } from '../../../src/nsdb/embedded/database.js';
import { prepare, type WriteRequest } from '../../../src/nsdb/embedded/prepare.js';
import { joinPath } from '../../../src/nsdb/path.js';
import { type Acl, CreateFlag, OPEN_ACL, Op } from '../../../src/nsdb/protocol/records.js';

const SESSION = '01'.repeat(8);
const READ_ONLY: Acl = { ...OPEN_ACL, permissions: 1 };
const LOCAL: Acl = { permissions: 31, scheme: 'ip', id: '127.0.0.1' };
const LIMITS = '/zookeeper/quota/a/zookeeper_limits';
const STATS = '/zookeeper/quota/a/zookeeper_stats';

const path = fc.constantFrom('/a', '/a/b', '/a/b/c', '/d', '/d/s', '/zookeeper/quota/a', LIMITS, STATS);
const data = fc.constantFrom('', 'x', 'count=3,bytes=9', 'countHardLimit=3').map((text) => Buffer.from(text));
const request: fc.Arbitrary<WriteRequest> = fc.oneof(
  fc.record({
    op: fc.constant(Op.create),
    path,
    data,
    acls: fc.constantFrom([OPEN_ACL], [LOCAL], [OPEN_ACL, READ_ONLY]),
    flags: fc.constantFrom(0, 0, 0, CreateFlag.ephemeral, CreateFlag.sequential),
  }),
  fc.record({ op: fc.constant(Op.setData), path, data, version: fc.constant(-1) }),
  fc.record({ op: fc.constant(Op.delete), path, version: fc.constant(-1) }),
);

/** All that a database holds, as text; the order of children means nothing. */
function contents(database: Database): string {
  const nodes: string[] = [];
  const visit = (at: string, { children, acl, ...rest }: TreeNode) => {
    nodes.push(JSON.stringify([at, acl.key, rest]));
    for (const [name, child] of children ?? []) visit(joinPath(at, name), child);
  };
  visit('/', database.root);
  const { zxid, nodeCount, dataBytes, accessLists } = database;
  const ephemerals = [...database.sessions.get(SESSION)!.ephemerals].sort();
  // Whether the quota counts is no part of the tree.
  const isCounted = database.quotas.statsFor(database, '/a') !== undefined;
  return JSON.stringify([nodes.sort(), zxid, nodeCount, dataBytes, accessLists.size, ephemerals, isCounted]);
}

function make(database: Database, requests: readonly WriteRequest[], undo?: (() => void)[]): OpenTransaction {
  const transaction = new OpenTransaction(database, undo);
  for (const one of requests) {
    const change = prepare(database, { sessionId: SESSION, identities: [{ scheme: 'ip', id: '127.0.0.1' }] }, one);
    if (typeof change === 'object') transaction.make(change);
  }
  return transaction;
}

test('what is taken back leaves nothing, in the tree, of sessions, access lists and quotas', (t) => {
  let taken = 0;
  const requests = fc.array(request, { maxLength: 12 });
  fc.assert(
    fc.property(fc.array(fc.tuple(requests, requests), { maxLength: 6 }), (rounds) => {
      const database = new Database();
      database.applyChange({ type: 'system-nodes' }, 1, 1);
      database.applyChange({ type: 'open-session', id: SESSION, timeout: 1, password: Buffer.alloc(16) }, 1, 1);
      for (const [kept, refused] of rounds) {
        database.zxid = make(database, kept).zxid;
        const before = contents(database);
        const transaction = make(database, refused, []);
        taken += transaction.changes.length;
        transaction.takeBack();
        t.is(contents(database), before);
      }
    }),
    { numRuns: 300 },
  );
  t.true(taken > 200);
});
