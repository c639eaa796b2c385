import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { until } from '../../compliance/store.js';
import { Counters } from '../counters.js';

/** Servers in one process: each is killed at a moment of its own work, and starting the process is what takes time. */
const SERVERS = 10;
const KILLS = 32;
/** Milliseconds after which a slow machine may stop short of that. */
const LONG_ENOUGH = 50_000;

test('what a client was told survives the server being killed, on the real disk', async (t) => {
  t.timeout(110_000);
  const folder = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const servers = Array.from({ length: SERVERS }, (_, i) => ({
    dataDir: join(folder, `data-${i}`),
    socket: join(folder, `socket-${i}`),
    counters: new Counters(),
  }));
  const script = fileURLToPath(new URL('./crash-child.js', import.meta.url));
  const start = async () => {
    const pairs = servers.flatMap(({ dataDir, socket }) => [dataDir, socket]);
    const child = spawn(process.execPath, [script, ...pairs], { stdio: ['ignore', 'pipe', 'inherit'] });
    await Promise.race([once(child.stdout, 'data'), once(child, 'exit')]);
    t.is(child.exitCode, null, 'it starts');
    return child;
  };
  const countSnapshots = async () => {
    const names = await Promise.all(servers.map(({ dataDir }) => readdir(dataDir)));
    return names.flat().filter((name) => /^snapshot-[0-9a-f]+$/.test(name)).length;
  };
  const begun = performance.now();
  let kills = 0;
  for (; kills < KILLS && performance.now() - begun < LONG_ENOUGH; kills++) {
    const child = await start();
    const stores = servers.map(
      ({ socket }) => new ZookeeperStore({ connect: `unix:${socket}`, operationTimeout: 20_000 }),
    );
    try {
      await Promise.all(servers.map(({ counters }, i) => counters.check(t, stores[i])));
      const before = servers.map(({ counters }) => counters.writes);
      const counting = servers.map(({ counters }, i) =>
        Promise.all([counters.count(stores[i], '/a'), counters.count(stores[i], '/b')]),
      );
      await until('all are under load', () => servers.every(({ counters }, i) => counters.writes > before[i]));
      await delay(Math.random() * 150);
      // Its thread may need longer than that on a slow machine. From here on starting up reads snapshots, too.
      if (kills === 2) await until('snapshots were made', async () => (await countSnapshots()) > 0, 60_000);
      child.kill('SIGKILL');
      await once(child, 'exit');
      await Promise.all(stores.map((store) => store.close()));
      await Promise.all(counting);
    } finally {
      child.kill('SIGKILL');
      await Promise.all(stores.map((store) => store.close()));
    }
  }
  const last = await start();
  for (const { socket, counters } of servers) {
    const store = new ZookeeperStore({ connect: `unix:${socket}` });
    await counters.check(t, store);
    await store.close();
  }
  last.kill('SIGKILL');
  await once(last, 'exit');
  let writes = 0;
  for (const { counters } of servers) writes += counters.writes;
  const snapshots = await countSnapshots();
  t.log(`${SERVERS * kills} crash points, ${writes} writes, ${snapshots} of ${SERVERS} folders have a snapshot`);
  t.true(kills >= 3);
  t.true(snapshots > 0);
});
