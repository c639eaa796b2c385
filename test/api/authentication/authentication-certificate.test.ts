import { mkdtemp, rm } from 'node:fs/promises';
import { type RequestOptions, request } from 'node:https';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SOCKET_LIMITS } from '../../../src/api/protection/socket-limits.js';
import type { ApiServer } from '../../../src/api/server.js';
import type { Tls } from '../../../src/nsdb/store.js';
import { Authority } from '../../nsdb/certificates.js';
import { test } from '../../nsdb/repository/repository-test.js';
import { ADMIN_TOKEN, serveApi } from '../api-server.js';

let folder: string;
let server: Required<Tls>;
let ops: Required<Tls>;
let blue: Required<Tls>;
let nobody: Required<Tls>;
let impostor: Required<Tls>;

test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'midonet-api-'));
  const authority = await Authority.make(folder, 'authority');
  const other = await Authority.make(folder, 'other');
  server = await authority.issue('server', 'IP:127.0.0.1');
  ops = await authority.issue('ops', 'DNS:ops');
  blue = await authority.issue('someone', 'DNS:someone', 'blue');
  nobody = await authority.issue('nobody', 'DNS:nobody');
  impostor = await other.issue('impostor', 'DNS:ops', 'blue');
});
test.after.always(() => rm(folder, { recursive: true }));

const roles = [
  { certificate: { commonName: 'ops' }, role: 'admin' },
  { certificate: { organization: 'blue' }, role: 'tenant-admin', tenantId: 'blue' },
] as const;

const tls = () => ({ certificate: server.certificate, key: server.key, clientCa: server.ca });

interface Answer {
  readonly status: number | undefined;
  readonly headers: Record<string, unknown>;
  readonly text: string;
}

function get({ port }: ApiServer, client: Partial<Tls> | undefined, more: RequestOptions = {}): Promise<Answer> {
  const own = { cert: client?.certificate, key: client?.key, ca: server.ca, agent: false } as const;
  return new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', port, path: '/v1/access-tokens', ...own, ...more }, async (response) => {
      let text = '';
      for await (const part of response.setEncoding('utf8')) text += part;
      resolve({ status: response.statusCode, headers: response.headers, text });
    })
      .on('error', reject)
      .end();
  });
}

test.serial('a certificate has the role of the first rule about its subject', async (t) => {
  const api = await serveApi(t, { tls: tls(), roles });
  t.is((await get(api, ops)).status, 200);
  t.regex((await get(api, blue)).text, /only an admin may/);
  const unknown = await get(api, nobody);
  t.is(unknown.status, 403);
  t.regex(unknown.text, /certificate:nobody has no role here/);
});

test.serial('without a certificate a token will do, and comes first where there are both', async (t) => {
  const api = await serveApi(t, { tls: tls(), roles });
  t.is((await get(api, undefined)).status, 401);
  const headers = { authorization: `Bearer ${ADMIN_TOKEN}` };
  t.is((await get(api, undefined, { headers })).status, 200);
  t.is((await get(api, blue, { headers })).status, 200);
  t.is((await get(api, ops, { headers: { authorization: 'Bearer wrong' } })).status, 401);
});

test.serial('a certificate of another authority is refused with a reason', async (t) => {
  const api = await serveApi(t, { tls: tls(), roles });
  const { status, text } = await get(api, impostor);
  t.is(status, 401);
  t.regex(text, /the client certificate is not accepted/);
});

test.serial('a certificate that expires while its connection is open is refused from then on', async (t) => {
  let now = Date.now();
  const api = await serveApi(t, { tls: tls(), roles, clock: () => now });
  t.is((await get(api, ops)).status, 200);
  now += 3 * 24 * 3600 * 1000;
  const { status, text } = await get(api, ops);
  t.is(status, 401);
  t.regex(text, /has expired/);
});

test.serial('a server that does not ask for certificates is not shown any', async (t) => {
  const { certificate, key } = server;
  const api = await serveApi(t, { tls: { certificate, key }, roles });
  t.is((await get(api, ops)).status, 401);
});

test.serial('browsers are told to come over TLS only, and old versions of it are refused', async (t) => {
  const api = await serveApi(t, { tls: tls(), roles });
  t.regex(String((await get(api, ops)).headers['strict-transport-security']), /max-age=\d+/);
  await t.throwsAsync(get(api, ops, { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }));
});

test.serial('a client that does not go on with the handshake is waited for no longer than the limit', async (t) => {
  const api = await serveApi(t, { tls: tls(), socketLimits: { ...SOCKET_LIMITS, headersTimeout: 200 } });
  const socket = connect(api.port, '127.0.0.1');
  socket.on('error', () => undefined);
  await new Promise((resolve) => socket.resume().once('close', resolve));
  t.is((await get(api, undefined)).status, 401);
});

test.serial('what is no TLS is not answered', async (t) => {
  const api = await serveApi(t, { tls: tls(), anonymous: undefined });
  await t.throwsAsync(fetch(`http://127.0.0.1:${api.port}/v1/bridges`));
});
