import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { MidonetError } from '../../src/errors.js';
import { EmbeddedServer } from '../../src/nsdb/embedded/server.js';
import { joinPath } from '../../src/nsdb/path.js';
import { NodeError, type Stat, type Store, type StoreOperation } from '../../src/nsdb/store.js';
import { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { text } from '../compliance/store.js';
import { ApacheZookeeper } from './apache-zookeeper.js';

const path = fc.constantFrom('/a', '/b', '/a/x', '/a/y', '/a/x/deep', '/b/x');
const data = fc.uint8Array({ maxLength: 8 });
const version = fc.option(fc.nat({ max: 3 }), { nil: undefined });
const operation: fc.Arbitrary<StoreOperation> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ type: fc.constant('create' as const), path, data, ephemeral: fc.boolean() }) },
  fc.record({
    type: fc.constant('create' as const),
    path,
    data,
    sequential: fc.constant(true),
    ephemeral: fc.boolean(),
  }),
  { weight: 2, arbitrary: fc.record({ type: fc.constant('set' as const), path, data, version }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('delete' as const), path, version }) },
  fc.record({ type: fc.constant('check' as const), path, version }),
);
const step = fc.oneof(
  { weight: 3, arbitrary: operation.map((one) => [one]) },
  fc.array(operation, { minLength: 2, maxLength: 5 }),
);

/** What must be the same on every server: not the zxids and times themselves, but which of them are the same. */
function comparable(stat: Stat): object {
  const { version, cversion, numChildren, dataLength, ephemeralOwner, czxid, mzxid, pzxid, ctime, mtime } = stat;
  const order = [czxid === mzxid, czxid === pzxid, Math.sign(mzxid - pzxid), ctime <= mtime];
  return { version, cversion, numChildren, dataLength, ephemeral: ephemeralOwner !== undefined, order };
}

async function carryOut(store: Store, operations: readonly StoreOperation[]): Promise<unknown> {
  const [only] = operations;
  try {
    if (operations.length > 1 || only.type === 'check') {
      const results = await store.multi(operations);
      return results.map((result) => ({ path: result.path, stat: result.stat && comparable(result.stat) }));
    }
    if (only.type === 'create') return await store.create(only.path, only.data, only);
    if (only.type === 'set') return comparable(await store.set(only.path, only.data, only.version));
    return await store.delete(only.path, only.version);
  } catch (error) {
    if (!(error instanceof MidonetError)) throw error;
    return { error: error.name, node: error instanceof NodeError && [error.path, error.operationIndex] };
  }
}

async function tree(store: Store, at = '/'): Promise<object> {
  const node = (await store.get(at))!;
  const children: object[] = [];
  for (const name of (await store.children(at))!) children.push(await tree(store, joinPath(at, name)));
  return { at, data: text(node), stat: comparable(node.stat), children };
}

const run = process.env.MIDONET_SKIP_ZOOKEEPER === '1' ? test.skip : test;

run('the embedded server does what Apache ZooKeeper does', async (t) => {
  t.timeout(150_000);
  const dataDir = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  const apache = await ApacheZookeeper.start();
  const embedded = await EmbeddedServer.start({ listen: { port: 0 }, dataDir, fsync: false });
  let round = 0;
  try {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25, size: 'max' }), async (steps) => {
        round++;
        const stores = [apache, embedded].map(
          ({ address }) => new ZookeeperStore({ connect: `${address}/differential/${round}` }),
        );
        try {
          for (const store of stores) await store.ensure('/');
          for (const operations of steps) {
            const [theirs, ours] = await Promise.all(stores.map((store) => carryOut(store, operations)));
            t.deepEqual(ours, theirs, JSON.stringify(operations));
          }
          const [theirs, ours] = await Promise.all(stores.map((store) => tree(store)));
          t.deepEqual(ours, theirs);
        } finally {
          await Promise.all(stores.map((store) => store.close()));
        }
      }),
      // A server that does not answer would make shrinking take for ever.
      { numRuns: 100, interruptAfterTimeLimit: 100_000, markInterruptAsFailure: true, endOnFailure: true },
    );
  } finally {
    await apache.close();
    await embedded.close();
    await rm(dataDir, { recursive: true });
  }
});
