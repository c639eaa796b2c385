import { once } from 'node:events';
import { rename, stat } from 'node:fs/promises';
import { request } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { ExecutionContext } from 'ava';
import { pino } from 'pino';
import { SOCKET_LIMITS, type SocketLimits } from '../../src/api/protection/socket-limits.js';
import { ApiServer } from '../../src/api/server.js';
import { type Context, test } from '../nsdb/repository/repository-test.js';

const log = pino({ level: 'silent' });
const loopback = { host: '127.0.0.1', port: 0 };

async function serve(t: ExecutionContext<Context>, limits: Partial<SocketLimits> = {}): Promise<ApiServer> {
  const { repository } = t.context;
  const server = await ApiServer.listen({
    listen: loopback,
    repository,
    log,
    socketLimits: { ...SOCKET_LIMITS, ...limits },
  });
  t.teardown(() => server.close());
  return server;
}

/** Settles when the connection is closed, be it by a reset, which `once` would take for a failure. */
function closing(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.once('close', () => resolve()));
}

/** What the server sends on a connection that sends `text`, until it closes the connection. */
async function conversation(server: ApiServer, text: string): Promise<string> {
  const socket = connect(server.port, '127.0.0.1');
  let answer = '';
  socket.setEncoding('utf8').on('data', (part: string) => {
    answer += part;
  });
  socket.on('error', () => undefined);
  socket.write(text);
  await closing(socket);
  return answer;
}

test.serial('objects are served over TCP', async (t) => {
  const server = await serve(t);
  const answer = await fetch(`http://127.0.0.1:${server.port}/v1/bridges`);
  t.is(answer.status, 200);
  t.deepEqual(await answer.json(), { items: [] });
});

test.serial('objects are served on a Unix socket', async (t) => {
  const { repository, nsdb } = t.context;
  const path = join(nsdb.folder, 'api.sock');
  const server = await ApiServer.listen({ listen: { path }, repository, log });
  const status = await new Promise((resolve, reject) => {
    request({ socketPath: path, path: '/v1/bridges' }, (response) => {
      response.resume();
      resolve(response.statusCode);
    })
      .on('error', reject)
      .end();
  });
  t.is(status, 200);
  t.is((await stat(path)).mode & 0o777, 0o600);
  await server.close();
});

test.serial('a Unix socket that a dead server has left is taken over', async (t) => {
  const { repository, nsdb } = t.context;
  const path = join(nsdb.folder, 'dead.sock');
  const dead = createServer().listen(path);
  await once(dead, 'listening');
  // Closing it would remove the socket.
  await rename(path, `${path}.kept`);
  dead.close();
  await rename(`${path}.kept`, path);
  const server = await ApiServer.listen({ listen: { path }, repository, log });
  await t.throwsAsync(ApiServer.listen({ listen: { path }, repository, log }), { code: 'EADDRINUSE' });
  await server.close();
});

test.serial('headers that come a byte at a time are waited for no longer than the limit', async (t) => {
  const server = await serve(t, { headersTimeout: 200 });
  const socket = connect(server.port, '127.0.0.1');
  socket.on('error', () => undefined);
  const closed = closing(socket.resume());
  const text = `GET /v1/bridges HTTP/1.1\r\nHost: a\r\nX-Slow: ${'a'.repeat(10_000)}`;
  let sent = 0;
  const timer = setInterval(() => socket.write(text[sent++]), 20);
  await closed;
  clearInterval(timer);
  t.true(sent < text.length);
});

test.serial('a body that does not come is waited for no longer than the limit', async (t) => {
  const server = await serve(t, { headersTimeout: 200, requestTimeout: 400 });
  const head = 'POST /v1/bridges HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{';
  t.regex(await conversation(server, head), /^(HTTP\/1\.1 408 |$)/);
});

test.serial('a connection on which nothing is said is closed', async (t) => {
  const server = await serve(t, { idleTimeout: 200 });
  t.is(await conversation(server, ''), '');
});

test.serial('headers that are too long are refused', async (t) => {
  const server = await serve(t);
  const answer = await conversation(server, `GET / HTTP/1.1\r\nHost: a\r\nX-Long: ${'a'.repeat(20_000)}\r\n\r\n`);
  t.regex(answer, /^HTTP\/1\.1 431 /);
});

test.serial('an address has only so many connections, and may have others when those are closed', async (t) => {
  const server = await serve(t, { connectionsPerAddress: 3 });
  const sockets = Array.from({ length: 3 }, () => connect(server.port, '127.0.0.1'));
  await Promise.all(sockets.map((socket) => once(socket, 'connect')));
  t.is(await conversation(server, ''), '');
  t.is(server.refusedConnections, 1);
  t.is(server.connections, 3);
  for (const socket of sockets) socket.destroy();
  while (server.connections > 0) await delay(5);
  t.is((await fetch(`http://127.0.0.1:${server.port}/v1/bridges`)).status, 200);
});

test.serial('the server has only so many connections in all', async (t) => {
  const server = await serve(t, { connections: 2 });
  const sockets = [connect(server.port, '127.0.0.1'), connect(server.port, '127.0.0.1')];
  await Promise.all(sockets.map((socket) => once(socket, 'connect')));
  t.is(await conversation(server, ''), '');
  t.is(server.refusedConnections, 1);
  for (const socket of sockets) socket.destroy();
});

test.serial('closing does not wait for connections on which nothing is asked', async (t) => {
  const server = await serve(t);
  await (await fetch(`http://127.0.0.1:${server.port}/v1/bridges`)).text();
  await server.close();
  await t.throwsAsync(fetch(`http://127.0.0.1:${server.port}/v1/bridges`));
});

test.serial('many slow connections keep nobody else from being served, and are closed in the end', async (t) => {
  const server = await serve(t, { headersTimeout: 500 });
  const sockets = Array.from({ length: 200 }, () => connect(server.port, '127.0.0.1'));
  for (const socket of sockets) {
    socket.on('error', () => undefined);
    socket.resume().write('GET /v1/bridges HTTP/1.1\r\nHost: a\r\n');
  }
  const closed = Promise.all(sockets.map(closing));
  t.is((await fetch(`http://127.0.0.1:${server.port}/v1/bridges`)).status, 200);
  await closed;
  t.is((await fetch(`http://127.0.0.1:${server.port}/v1/bridges`)).status, 200);
});

test.serial('some requests on one connection are answered in order', async (t) => {
  const server = await serve(t);
  const get = (path: string, more = '') => `GET ${path} HTTP/1.1\r\nHost: a\r\n${more}\r\n`;
  const answers = await conversation(
    server,
    get('/v1/bridges') + get('/v1/nothing') + get('/v1/routers', 'Connection: close\r\n'),
  );
  t.deepEqual(answers.match(/HTTP\/1\.1 \d+/g), ['HTTP/1.1 200', 'HTTP/1.1 404', 'HTTP/1.1 200']);
});

test.serial('a client that sends many requests without waiting for answers is cut off', async (t) => {
  const server = await serve(t);
  await conversation(server, 'GET /v1/bridges HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(1000));
  await server.close();
  const counts = [...server.requests.byStatus.get('GET')!.values()];
  t.deepEqual(counts, [1]);
  t.is(server.requests.underWay, 0);
});

test.serial('a request that comes behind a stream on the same connection is not worked on', async (t) => {
  const server = await serve(t);
  const socket = connect(server.port, '127.0.0.1');
  socket.write('GET /v1/watch?kinds=bridge HTTP/1.1\r\nHost: a\r\n\r\n');
  socket.write('PUT /v1/bridges/2c1f0e52-8a4e-4c53-9f43-2b1b0a6f3c11 HTTP/1.1\r\nHost: a\r\n');
  socket.write('Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}');
  let told = '';
  for await (const part of socket) {
    told += part;
    if (told.includes('event: current')) break;
  }
  const page = await t.context.repository.page({ kind: 'bridge', limit: 10 });
  t.deepEqual(page.items, []);
});
