import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import test, { type ExecutionContext } from 'ava';
import { ApiError, connectApi, type WatchEvent } from '../../../src/api/client/client.js';
import { Authority } from '../../nsdb/certificates.js';

/** What answers in these tests is written in them: faults that the real server has no reason to show. */
async function serve(t: ExecutionContext, answer: RequestListener, path?: string): Promise<Server> {
  const server = createServer(answer);
  await new Promise<void>((resolve) =>
    path === undefined ? server.listen(0, '127.0.0.1', resolve) : server.listen(path, resolve),
  );
  t.teardown(() => stop(server));
  return server;
}

function stop(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => server.close(() => resolve()));
}

function client(t: ExecutionContext, server: string, options: { timeoutMs?: number; token?: string } = {}) {
  const api = connectApi({ server, ...options });
  t.teardown(() => api.close());
  return api;
}

const at = (server: Server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'midonet-client-'));
  t.teardown(() => rm(path, { recursive: true }));
  return path;
}

test('a server behind a path and on a socket is asked for what the caller wants, with the token', async (t) => {
  const asked: unknown[] = [];
  const answer: RequestListener = (request, response) => {
    asked.push([request.method, request.url, request.headers.authorization]);
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ items: [] }));
  };
  const path = join(await folder(t), 'api');
  await serve(t, answer, path);
  const tcp = await serve(t, answer);
  const servers = [`unix:${path}`, `${at(tcp)}/behind/`];
  for (const server of servers) {
    for await (const port of client(t, server, { token: 'secret' }).ports.list({ name: 'ä b', adminStateUp: true }))
      t.fail(port.id);
  }
  t.deepEqual(asked, [
    ['GET', '/v1/ports?name=%C3%A4+b&adminStateUp=true&limit=1000', 'Bearer secret'],
    ['GET', '/behind/v1/ports?name=%C3%A4+b&adminStateUp=true&limit=1000', 'Bearer secret'],
  ]);
});

test('both ends show certificates', async (t) => {
  const pem = await folder(t);
  const authority = await Authority.make(pem, 'authority');
  const [own, callers] = [
    await authority.issue('server', 'IP:127.0.0.1'),
    await authority.issue('caller', 'DNS:caller'),
  ];
  const server = createTlsServer(
    { ...own, cert: own.certificate, requestCert: true, rejectUnauthorized: true },
    (request, response) => {
      const { subject } = (request.socket as TLSSocket).getPeerCertificate();
      response.end(subject.CN);
    },
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => stop(server));
  const url = at(server).replace('http:', 'https:');
  const api = connectApi({ server: url, tls: callers });
  t.teardown(() => api.close());
  t.is((await api.request('GET', '/v1')).body, 'caller');
  const stranger = connectApi({ server: url });
  t.teardown(() => stranger.close());
  await t.throwsAsync(stranger.request('GET', '/v1'), { code: 'MN_API_UNAVAILABLE', message: /certificate/ });
});

test('problem documents become errors with their code, field and value; anything else is a fault of the server', async (t) => {
  const server = await serve(t, (request, response) => {
    if (request.url === '/v1/html') return response.writeHead(404, { 'content-type': 'text/html' }).end('<p>no');
    if (request.url === '/v1/proxy') return response.writeHead(502, { 'content-type': 'text/html' }).end('<p>gone');
    if (request.url === '/v1/cut') return response.writeHead(200, { 'content-type': 'application/json' }).end('{"a":');
    const problem = { status: 429, code: 'MN_TOO_MANY_REQUESTS', detail: 'mac: slower', field: 'mac', value: 'x' };
    response.writeHead(429, { 'content-type': 'application/problem+json; charset=utf-8', 'retry-after': '60' });
    return response.end(JSON.stringify(problem));
  });
  const api = client(t, at(server));
  const error = await t.throwsAsync(api.request('GET', '/v1/bridges'), {
    instanceOf: ApiError,
    message: 'mac: slower',
  });
  t.like(error, { code: 'MN_TOO_MANY_REQUESTS', status: 429, field: 'mac', value: 'x', retryAfter: 60 });
  await t.throwsAsync(api.request('GET', '/v1/html'), { code: 'MN_PROTOCOL', message: /status 404: <p>no/ });
  await t.throwsAsync(api.request('GET', '/v1/proxy'), { code: 'MN_API_UNAVAILABLE', message: /status 502/ });
  await t.throwsAsync(api.request('GET', '/v1/cut'), { code: 'MN_PROTOCOL', message: /expected JSON/ });
  t.throws(() => connectApi({ server: 'node1:8181' }), { code: 'MN_INVALID_INPUT', message: /^server: / });
});

test('a server that is not there, does not answer or cuts its answer off is said to be so', async (t) => {
  const server = await serve(t, (request, response) => {
    if (request.url !== '/v1/half') return;
    response.writeHead(200, { 'content-length': '100' });
    response.write('half', () => response.destroy());
  });
  const api = client(t, at(server), { timeoutMs: 200 });
  await t.throwsAsync(api.request('GET', '/v1/silent'), { code: 'MN_TIMEOUT' });
  await t.throwsAsync(api.stream('GET', '/v1/silent'), { code: 'MN_TIMEOUT' });
  const patient = client(t, at(server));
  await t.throwsAsync(patient.request('GET', '/v1/half'), { code: 'MN_API_UNAVAILABLE' });
  const reason = new Error('not wanted');
  const gone = new AbortController();
  const asked = patient.request('GET', '/v1/silent', { signal: gone.signal });
  gone.abort(reason);
  t.is(await t.throwsAsync(asked), reason);
  await stop(server);
  await t.throwsAsync(patient.request('GET', '/v1'), { code: 'MN_API_UNAVAILABLE', message: /ECONNREFUSED/ });
});

test('a request waits its turn when there were too many, unless that is too long', async (t) => {
  let refusals = 0;
  const server = await serve(t, (request, response) => {
    response.setHeader('content-type', 'application/problem+json');
    const isRefused = request.method === 'GET' ? refusals++ < 2 : true;
    if (!isRefused) return response.end('{"items":[]}');
    response.writeHead(429, { 'retry-after': request.method === 'GET' ? '0' : '60' });
    return response.end(
      JSON.stringify({ code: 'MN_TOO_MANY_REQUESTS', detail: 'expected at most 1 request a second' }),
    );
  });
  const api = client(t, at(server));
  t.is((await api.request('GET', '/v1/ports')).status, 200);
  t.is(refusals, 3);
  await t.throwsAsync(api.request('POST', '/v1/ports'), { code: 'MN_TOO_MANY_REQUESTS' });
});

test('what changes nothing when it happens twice is sent again when a kept connection was closed', async (t) => {
  let requests = 0;
  const server = await serve(t, (request, response) => {
    // The second request comes over the connection of the first, which is then closed without an answer.
    if (++requests === 2) return request.socket.resetAndDestroy();
    return response.end('done');
  });
  const api = client(t, at(server));
  await api.request('GET', '/v1');
  t.is((await api.request('GET', '/v1')).body, 'done');
  t.is(requests, 3);
});

test('a watch goes on where it was when its connection breaks, and ends with its signal', async (t) => {
  const from: unknown[] = [];
  const streams = [
    'event: put\nid: 4\ndata: {"kind":"bridge","object":{"id":"1"},"etag":"\\"4\\""}\n\nevent: current\nid: 4\ndata: {}\n\n',
    ': alive\n\nevent: delete\nid: 9\ndata: {"kind":"bridge","id":"1"}\n\n',
    'event: reset\nid: 9\ndata: {}\n\n',
  ];
  const server = await serve(t, (request, response) => {
    from.push([request.url, request.headers.accept, request.headers['last-event-id']]);
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.end(streams.shift());
  });
  const gone = new AbortController();
  const events: WatchEvent[] = [];
  for await (const event of client(t, at(server)).bridges.watch({ filter: { name: 'a' }, signal: gone.signal })) {
    events.push(event);
    if (events.length === 4) gone.abort();
  }
  t.deepEqual(events, [
    { type: 'put', kind: 'bridge', object: { id: '1' }, etag: '"4"' } as never,
    { type: 'current' },
    { type: 'delete', kind: 'bridge', id: '1' },
    { type: 'reset' },
  ]);
  t.deepEqual(from, [
    ['/v1/bridges?name=a', 'text/event-stream', undefined],
    ['/v1/bridges?name=a', 'text/event-stream', '4'],
    ['/v1/bridges?name=a', 'text/event-stream', '9'],
  ]);
});

test('a watch that is refused rejects', async (t) => {
  const server = await serve(t, (_request, response) => {
    response.writeHead(403, { 'content-type': 'application/problem+json' });
    response.end(JSON.stringify({ detail: 'hosts are the admin’s', code: 'MN_FORBIDDEN' }));
  });
  await t.throwsAsync(client(t, at(server)).hosts.watch().next(), { code: 'MN_FORBIDDEN' });
});
