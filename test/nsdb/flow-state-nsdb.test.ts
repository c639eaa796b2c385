import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import test from 'ava';
import { NsdbFlowStateArchive } from '../../src/nsdb/flow-state/nsdb-archive.js';
import { openFlowStateArchive } from '../../src/nsdb/flow-state/open.js';
import { flowStatePath } from '../../src/nsdb/layout.js';
import type { Store } from '../../src/nsdb/store.js';
import { archiveCompliance, CALL_MS } from '../compliance/flow-state-archive.js';
import { EmbeddedNsdb } from './embedded-nsdb.js';

const warn = (message: string, error: unknown) => {
  throw new Error(message, { cause: error });
};

archiveCompliance(test, async () => {
  const nsdb = await EmbeddedNsdb.start();
  const open = () => new NsdbFlowStateArchive({ store: nsdb.store({ operationTimeout: CALL_MS / 10 }), warn });
  return { open, stop: () => nsdb.stop(), resume: () => nsdb.resume(), close: () => nsdb.close() };
});

test('who archives in the NSDB does not load the driver of Cassandra', async (t) => {
  const loaded = () => Object.keys(createRequire(import.meta.url).cache).some((path) => /cassandra-driver/.test(path));
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const archive = await openFlowStateArchive({ archive: 'nsdb' }, { store: nsdb.store(), warn });
  t.true(archive instanceof NsdbFlowStateArchive);
  await archive.close();
  t.false(loaded());
  const cassandra = {
    contactPoints: ['127.0.0.1:1'],
    localDataCenter: 'dc1',
    keyspace: 'k',
    replication: 1,
    consistency: 'one',
    operationTimeout: 1000,
  } as const;
  const other = await openFlowStateArchive({ archive: 'cassandra', cassandra }, { store: nsdb.store(), warn });
  t.true(loaded());
  await t.throwsAsync(other.remove(randomUUID()), { code: 'MN_ARCHIVE_UNAVAILABLE', message: /127\.0\.0\.1:1/ });
  await other.close();
  await t.throwsAsync(other.remove(randomUUID()), { code: 'MN_CLOSED' });
});

async function calls(store: Store, work: () => Promise<void>): Promise<number> {
  let count = 0;
  const names = ['get', 'children', 'create', 'delete', 'ensure'] as const;
  const kept = names.map((name) => store[name]);
  for (const [i, name] of names.entries()) {
    const method = kept[i] as (...parameters: unknown[]) => unknown;
    Object.assign(store, {
      [name]: (...parameters: unknown[]) => {
        count += 1;
        return method.apply(store, parameters);
      },
    });
  }
  await work();
  for (const [i, name] of names.entries()) Object.assign(store, { [name]: kept[i] });
  return count;
}

test('in the NSDB a port has at most 64 batches, and storing costs two messages; what is past its time is deleted', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const store = nsdb.store();
  let now = 1_000_000;
  const archive = new NsdbFlowStateArchive({ store, warn, now: () => now });
  t.teardown(() => archive.close());
  const [port, other] = [randomUUID(), randomUUID()];
  const storeOne = (portId: string, time: number) =>
    archive.store(portId, [{ time, record: new Uint8Array(10) }], { ttl: 60 });
  for (let i = 0; i < 100; i++) await storeOne(port, i);
  t.is((await store.children(flowStatePath(port)))?.length, 64);
  t.is(await calls(store, () => storeOne(port, 100)), 2);
  const times: number[] = [];
  for await (const { time } of archive.lookup(port)) times.push(time);
  t.deepEqual(
    times,
    Array.from({ length: 64 }, (_, i) => i + 37),
  );

  now += 59_000;
  await storeOne(other, 1);
  await archive.sweep();
  t.is((await store.children(flowStatePath(port)))?.length, 64);
  now += 2000;
  await archive.sweep();
  t.is(await store.children(flowStatePath(port)), undefined);
  t.is((await store.children(flowStatePath(other)))?.length, 1);
  now += 60_000;
  const another = new NsdbFlowStateArchive({ store, warn, now: () => now });
  t.teardown(() => another.close());
  t.true((await another.lookup(other).next()).done, 'stored by a host that has crashed');
  t.deepEqual(await store.children(flowStatePath(other)), []);
});
