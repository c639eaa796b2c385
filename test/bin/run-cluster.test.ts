import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { pino } from 'pino';
import { loadConfig } from '../../src/bin/config.js';
import { runCluster } from '../../src/bin/run-cluster.js';
import { EmbeddedNsdb } from '../nsdb/embedded-nsdb.js';

const log = pino({ level: 'silent' });

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}

test('midonet cluster serves the API, metrics and health, also when the NSDB comes later than it', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  await nsdb.stop();
  const [port, httpPort] = [await freePort(), await freePort()];
  const file = join(nsdb.folder, 'midonet.yaml');
  await writeFile(
    file,
    JSON.stringify({
      nsdb: { connect: `unix:${join(nsdb.folder, 'socket')}` },
      api: { listen: `127.0.0.1:${port}`, http: { port: httpPort } },
    }),
  );
  const service = await runCluster(await loadConfig(file, {}), log, new AbortController().signal);
  try {
    const page = async (path: string) => {
      const answer = await fetch(`http://127.0.0.1:${httpPort}${path}`);
      return { status: answer.status, text: await answer.text() };
    };
    t.is((await page('/healthz')).status, 200);
    t.deepEqual(await page('/readyz'), { status: 503, text: 'NSDB connecting\n' });
    await nsdb.resume();
    while ((await page('/readyz')).status !== 200) await delay(20);
    const bridges = `http://127.0.0.1:${port}/v1/bridges`;
    let answer = await fetch(bridges);
    for (; answer.status !== 200; answer = await fetch(bridges)) await delay(20);
    t.deepEqual(await answer.json(), { items: [] });
    t.regex((await page('/metrics')).text, /^midonet_nsdb_connected 1$/m);
  } finally {
    await service.close();
  }
});

test('an address that another program has is refused by name, and nothing stays open', async (t) => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  const { port } = other.address() as { port: number };
  const config = await loadConfig(undefined, {
    MIDONET_CONFIG: '/dev/null',
    MIDONET_API_LISTEN: `127.0.0.1:${port}`,
    MIDONET_API_HTTP_PORT: '0',
  });
  await t.throwsAsync(runCluster(config, log, new AbortController().signal), {
    message: /^config\.api\.listen: expected an address that nobody else listens on/,
  });
  await new Promise<void>((resolve) => other.close(() => resolve()));
});
