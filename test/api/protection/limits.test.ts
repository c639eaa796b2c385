import { once } from 'node:events';
import { connect } from 'node:net';
import { gzipSync } from 'node:zlib';
import { test } from '../../nsdb/repository/repository-test.js';
import { ADMIN_TOKEN, ask, makeToken, serveApi } from '../api-server.js';

const MEGABYTE = 1024 * 1024;
const admin = { authorization: `Bearer ${ADMIN_TOKEN}`, 'content-type': 'application/json' };

test.serial('a body that is too large is refused, however it is sent', async (t) => {
  const server = await serveApi(t);
  const url = `http://127.0.0.1:${server.port}/v1/bridges`;
  const text = JSON.stringify({ name: 'a'.repeat(2 * MEGABYTE) });
  const whole = await fetch(url, { method: 'POST', headers: admin, body: text });
  t.is(whole.status, 413);
  t.is(((await whole.json()) as { code: string }).code, 'MN_TOO_LARGE');
  const parts = new ReadableStream({
    start(controller) {
      for (let i = 0; i < text.length; i += 65_536) controller.enqueue(Buffer.from(text.slice(i, i + 65_536)));
      controller.close();
    },
  });
  const chunked = await fetch(url, { method: 'POST', headers: admin, body: parts, duplex: 'half' });
  t.is(chunked.status, 413);
  await chunked.text();
  const packed = gzipSync(text);
  t.true(packed.length < MEGABYTE / 100);
  const headers = { ...admin, 'content-encoding': 'gzip' };
  const inflated = await fetch(url, { method: 'POST', headers, body: packed });
  t.is(inflated.status, 413);
  await inflated.text();
  t.is((await ask(server, ADMIN_TOKEN, 'GET', '/v1/bridges')).body.items.length, 0);
});

test.serial('the body of somebody unknown is not read', async (t) => {
  const server = await serveApi(t);
  const socket = connect(server.port, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.write(
    'POST /v1/bridges HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n' +
      `Content-Length: ${500 * MEGABYTE}\r\n\r\n{"name": "`,
  );
  const [answer] = await once(socket.setEncoding('utf8'), 'data');
  t.regex(answer, /^HTTP\/1\.1 401 /);
  socket.destroy();
});

test.serial('a flood of requests on many connections is held up for its caller alone', async (t) => {
  const server = await serveApi(t, { requestsPerSecond: 10 });
  const { token } = await makeToken(server, { role: 'tenant-reader', tenantId: 'blue' });
  const statuses = await Promise.all(
    Array.from({ length: 300 }, async () => (await ask(server, token, 'GET', '/v1/bridges')).status),
  );
  const served = statuses.filter((status) => status === 200).length;
  // More than once as many only where the machine is so slow that they take longer than the ten seconds that are counted.
  t.true(served >= 100 && served < 300, String(served));
  t.true(statuses.every((status) => status === 200 || status === 429));
  t.is((await ask(server, ADMIN_TOKEN, 'GET', '/v1/bridges')).status, 200);
});

test.serial('a stream is cut within seconds when its token is deleted, and not before', async (t) => {
  const server = await serveApi(t);
  const { token, id } = await makeToken(server, { role: 'admin' });
  const headers = { authorization: `Bearer ${token}`, accept: 'text/event-stream' };
  const stream = await fetch(`http://127.0.0.1:${server.port}/v1/bridges`, { headers });
  t.is(stream.status, 200);
  let isOver = false;
  const over = (async () => {
    for await (const _ of stream.body!);
  })().then(
    () => 'ended',
    () => 'cut',
  );
  void over.finally(() => {
    isOver = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 2000));
  t.false(isOver);
  await ask(server, ADMIN_TOKEN, 'DELETE', `/v1/access-tokens/${id}`);
  t.is(await over, 'cut');
});

test.serial('a server that closes ends its streams at once', async (t) => {
  const server = await serveApi(t);
  const headers = { authorization: `Bearer ${ADMIN_TOKEN}`, accept: 'text/event-stream' };
  const stream = await fetch(`http://127.0.0.1:${server.port}/v1/bridges`, { headers });
  const over = stream.text();
  await server.close();
  t.regex(await over, /event: current/);
});
