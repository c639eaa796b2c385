import test from 'ava';
import fc from 'fast-check';
import { Database } from '../../../src/nsdb/embedded/database.js';
import { prepare, type WriteRequest } from '../../../src/nsdb/embedded/prepare.js';
import { parseUsage } from '../../../src/nsdb/embedded/quotas.js';
import { OPEN_ACL, Op } from '../../../src/nsdb/protocol/records.js';

const path = fc.constantFrom('/q', '/q/a', '/q/a/b', '/q/c', '/other', '/other/a');
const data = fc.uint8Array({ maxLength: 5 }).map((bytes) => Buffer.from(bytes));
const request = fc.oneof(
  fc.record({ op: fc.constant(Op.create), path, data, acls: fc.constant([OPEN_ACL]), flags: fc.constantFrom(0, 2) }),
  fc.record({ op: fc.constant(Op.setData), path, data, version: fc.constant(-1) }),
  fc.record({ op: fc.constant(Op.delete), path, version: fc.constant(-1) }),
);
const LIMIT = { count: 4, bytes: 9 };

function apply(database: Database, what: WriteRequest, undo?: (() => void)[]): boolean {
  const change = prepare(database, { sessionId: '01', identities: [] }, what);
  if (typeof change !== 'object') return false;
  database.applyChange(change, 1, 1, undo);
  return true;
}

function counted(database: Database): { count: number; bytes: number } {
  let [count, bytes] = [0, 0];
  const visit = (at: string) => {
    const node = database.find(at);
    if (node === undefined) return;
    count++;
    bytes += node.data.length;
    for (const name of node.children?.keys() ?? []) visit(`${at}/${name}`);
  };
  visit('/q');
  return { count, bytes };
}

test('a quota tells what is there, and never more than it allows, whatever is done and taken back', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.boolean(), fc.array(request, { maxLength: 4 })), { maxLength: 30, size: 'max' }),
      (rounds) => {
        const database = new Database();
        database.applyChange({ type: 'system-nodes' }, 0, 0);
        const limits = `count=-1,bytes=-1=;byteHardLimit=${LIMIT.bytes};countHardLimit=${LIMIT.count}`;
        for (const [at, text] of [
          ['', ''],
          ['/zookeeper_limits', limits],
          ['/zookeeper_stats', ''],
        ]) {
          database.applyChange(
            { type: 'create', path: `/zookeeper/quota/q${at}`, data: Buffer.from(text), owner: undefined },
            1,
            1,
          );
        }
        for (const [keep, requests] of rounds) {
          const { dataBytes, nodeCount } = database;
          const undo: (() => void)[] = [];
          for (const one of requests) apply(database, one, undo);
          if (!keep) {
            for (const back of undo.reverse()) back();
            t.deepEqual([database.dataBytes, database.nodeCount], [dataBytes, nodeCount]);
          }
          const usage = parseUsage(database.find('/zookeeper/quota/q/zookeeper_stats')!.data);
          t.deepEqual(usage, counted(database));
          t.true(usage.count <= LIMIT.count && usage.bytes <= LIMIT.bytes);
        }
      },
    ),
    { numRuns: 300 },
  );
});
