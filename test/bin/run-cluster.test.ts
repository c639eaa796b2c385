import { chmod, readFile, writeFile } from 'node:fs/promises';
import { request } from 'node:https';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { pino } from 'pino';
import { loadConfig } from '../../src/bin/config.js';
import { runCluster } from '../../src/bin/run-cluster.js';
import { Authority } from '../nsdb/certificates.js';
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
  const lines: string[] = [];
  const errorsOnly = pino({ level: 'error' }, { write: (line) => lines.push(line) });
  const service = await runCluster(await loadConfig(file, {}), errorsOnly, new AbortController().signal);
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
    // Without a file of their own changes are recorded in the log, whatever else that takes.
    await fetch(bridges, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"name":"web"}' });
    const audit = { caller: 'local', method: 'POST', path: '/v1/bridges', status: 201 };
    t.like(JSON.parse(lines.at(-1) ?? '{}'), { audit });
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

test('midonet cluster takes those only who show who they are, where it is told how, and records what they do', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const { folder } = nsdb;
  const secret = async (name: string, text: string) => {
    await writeFile(join(folder, name), text);
    await chmod(join(folder, name), 0o600);
    return join(folder, name);
  };
  const authority = await Authority.make(folder, 'authority');
  const server = await authority.issue('server', 'IP:127.0.0.1');
  const ops = await authority.issue('ops', 'DNS:ops');
  const port = await freePort();
  const token = 'a-token-of-thirty-two-characters';
  const auditFile = join(folder, 'audit.jsonl');
  const api = {
    listen: `127.0.0.1:${port}`,
    tls: {
      certificate: await secret('server-cert', server.certificate),
      key: await secret('server-key', server.key),
      clientCa: authority.certificateFile,
    },
    adminTokenFile: await secret('token', token),
    roles: [{ certificate: { commonName: 'ops' }, role: 'tenant-reader', tenantId: 'blue' }],
    auditFile,
    http: { port: 0 },
  };
  const file = await secret(
    'midonet.json',
    JSON.stringify({ nsdb: { connect: `unix:${join(folder, 'socket')}` }, api }),
  );
  const service = await runCluster(await loadConfig(file, {}), log, new AbortController().signal);
  try {
    const status = (method: string, options: object) =>
      new Promise<number | undefined>((resolve, reject) => {
        const all = { host: '127.0.0.1', port, path: '/v1/bridges', method, ca: server.ca, agent: false, ...options };
        request(all, (response) => {
          response.resume();
          resolve(response.statusCode);
        })
          .on('error', reject)
          .end(method === 'POST' ? '{"name":"a"}' : undefined);
      });
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
    t.is(await status('GET', {}), 401);
    while ((await status('GET', { headers })) === 404) await delay(20);
    t.is(await status('POST', { headers }), 201);
    const certificate = { cert: ops.certificate, key: ops.key };
    t.is(await status('GET', certificate), 200);
    t.is(await status('POST', { ...certificate, headers: { 'content-type': 'application/json' } }), 403);
    const lines = (await readFile(auditFile, 'utf8')).trim().split('\n');
    t.deepEqual(
      lines.map((line) => JSON.parse(line)).map(({ caller, status }) => [caller, status]),
      [
        [undefined, 401],
        ['admin-token', 201],
        ['certificate:ops', 403],
      ],
    );
  } finally {
    await service.close();
  }
});
