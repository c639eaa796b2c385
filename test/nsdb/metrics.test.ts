import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { Registry } from 'prom-client';
import { listenHttp } from '../../src/nsdb/embedded/http.js';
import { EmbeddedServer } from '../../src/nsdb/embedded/server.js';
import { freeze } from '../../src/nsdb/freeze.js';
import { askWord, readFacts } from '../../src/nsdb/operations/words.js';
import { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { registerClientMetrics } from '../../src/nsdb/zookeeper/client-metrics.js';
import { until } from '../agent/until.js';

/** Values by name with labels. */
function parse(text: string): Map<string, number> {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))]),
  );
}

test('the embedded server and its client tell what they do', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'nsdb-metrics-'));
  const path = join(folder, 'socket');
  const dataDir = join(folder, 'data');
  const server = await EmbeddedServer.start({ listen: { path }, dataDir, snapshotAfter: 64 * 1024 });
  const http = await listenHttp(server, { host: '127.0.0.1', port: 0 });
  const store = new ZookeeperStore({ connect: `unix:${path}` });
  t.teardown(async () => {
    await store.close();
    await http.close();
    await server.close();
    await rm(folder, { recursive: true });
  });
  const ask = async (where: string) => {
    const response = await fetch(`http://127.0.0.1:${http.port}${where}`);
    return { status: response.status, text: await response.text() };
  };
  await store.create('/a', Buffer.alloc(1000));
  const watch = store.watchData('/a', () => {});
  await watch.ready;
  for (let i = 0; i < 5; i++) await store.get('/a');
  for (let i = 0; i < 100; i++) await store.set('/a', Buffer.alloc(1000));
  await store.multi([{ type: 'create', path: '/b', data: Buffer.alloc(0) }]);
  await until('a snapshot was made', () => server.metrics.snapshots > 0);
  const values = parse((await ask('/metrics')).text);
  const server_ = (name: string) => values.get(`midonet_nsdb_server_${name}`);
  t.is(server_('request_duration_seconds_count{kind="write"}'), 101);
  t.is(server_('request_duration_seconds_count{kind="multi"}'), 1);
  t.true(server_('request_duration_seconds_count{kind="read"}')! >= 6);
  t.true(server_('request_duration_seconds_sum{kind="write"}')! > 0);
  t.true(server_('fsync_duration_seconds_count')! > 0);
  t.true(server_('snapshot_duration_seconds_count')! >= 1);
  for (const name of ['connections', 'sessions', 'watches', 'log_batches_total', 'log_bytes', 'snapshot_bytes']) {
    t.true(server_(name)! > 0, name);
  }
  for (const name of ['watch_events_total', 'free_disk_bytes', 'zxid', 'transactions_total', 'snapshot_files']) {
    t.true(server_(name)! > 0, name);
  }
  t.is(server_('data_bytes')! >= 1000, true);
  t.deepEqual(await ask('/readyz'), { status: 200, text: 'ok\n' });
  const facts = readFacts('', await askWord({ path }, 'mntr', 5000));
  t.true(facts.logBytes! > 0 && facts.snapshotBytes! > 0 && facts.freeDiskBytes! > 0);
  await freeze(store, 'elsewhere');
  t.deepEqual(await ask('/readyz'), { status: 503, text: 'frozen: the data are moved elsewhere\n' });
  t.is(parse((await ask('/metrics')).text).get('midonet_nsdb_server_frozen'), 1);

  const registry = new Registry();
  registerClientMetrics(registry, store);
  const client = parse(await registry.metrics());
  t.is(client.get('midonet_nsdb_client_request_duration_seconds_count{kind="read"}')! >= 5, true);
  t.true(client.get('midonet_nsdb_client_request_duration_seconds_count{kind="write"}')! >= 102);
  t.is(client.get('midonet_nsdb_client_connects_total'), 1);
  t.is(client.get('midonet_nsdb_client_watches'), 1);
  t.is(client.get('midonet_nsdb_client_sessions_lost_total'), 0);
});
