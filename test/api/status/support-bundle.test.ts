import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { masked } from '../../../src/api/status/support-bundle.js';
import { saveSupportBundle } from '../../../src/cli/explain/support-bundle.js';
import type { Terminal } from '../../../src/cli/terminal/terminal.js';
import { clusterTest } from '../../agent/cluster-test.js';
import { ExplainingApi } from '../explain/explaining-api.js';

const run = promisify(execFile);

clusterTest('a support bundle holds all that can be got, and says what could not', { hosts: 2 }, async (t, c) => {
  const { repository } = c;
  const bridgeId = await c.createBridge();
  const [a] = await c.populate(bridgeId, 1);
  const { id: routerId } = await repository.create('router', { id: randomUUID(), name: 'edge', asNumber: 64512 });
  const peer = { id: randomUUID(), routerId, address: '192.0.2.1', asNumber: 64513, password: 'hunter2' };
  await repository.create('bgp-peer', peer);
  const api = await ExplainingApi.serve(c, [c.hosts[0]]);
  const folder = await mkdtemp(join(tmpdir(), 'midonet-bundle-'));
  try {
    const file = join(folder, 'bundle.tar.gz');
    const printed: string[] = [];
    const { signal } = new AbortController();
    const terminal = { env: {}, signal, print: (text: string) => printed.push(text) } as unknown as Terminal;
    await saveSupportBundle(file, { server: api.server }, terminal);
    t.is((await stat(file)).mode & 0o777, 0o600);
    await t.throwsAsync(saveSupportBundle(file, { server: api.server }, terminal), {
      code: 'MN_INVALID_INPUT',
      message: /not there yet/,
    });
    await run('tar', ['-xzf', file, '-C', folder, '--strip-components=1']);
    const manifest = JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8')) as {
      files: { name: string; bytes: number }[];
      missing: { what: string; why: string }[];
    };
    for (const { name, bytes } of manifest.files) t.is((await stat(join(folder, name))).size, bytes, name);
    const host = `hosts/host-1-${c.hosts[0].id.slice(0, 8)}`;
    const names = manifest.files.map(({ name }) => name);
    for (const name of ['status.json', 'topology/port.jsonl', `${host}/summary.json`, `${host}/flows.json`]) {
      t.true(names.includes(name), `${name} in ${names}`);
    }
    t.true((await readFile(join(folder, 'topology/port.jsonl'), 'utf8')).includes(a.id));
    const peers = await readFile(join(folder, 'topology/bgp-peer.jsonl'), 'utf8');
    t.true(peers.includes('192.0.2.1'));
    t.false(peers.includes('hunter2'));
    t.true(
      manifest.missing.some(({ what, why }) => what.startsWith('hosts/host-2-') && why.includes('cannot be asked')),
    );
    t.deepEqual((await readdir(join(folder, 'hosts'))).length, 1);
    api.caller = { name: 'tenant', role: 'tenant-admin', tenantId: 'a' };
    await t.throwsAsync(api.client.request('GET', '/v1/support-bundle'), { code: 'MN_FORBIDDEN' });
  } finally {
    await api.close();
    await rm(folder, { recursive: true });
  }
});

test('secrets are masked wherever they are, and names of files are not', (t) => {
  t.deepEqual(
    masked({ nsdb: { password: 'a', passwordFile: '/b' }, list: [{ adminToken: 'c', tokens: 3 }], key: 7, none: null }),
    { nsdb: { password: '***', passwordFile: '/b' }, list: [{ adminToken: '***', tokens: 3 }], key: 7, none: null },
  );
});
