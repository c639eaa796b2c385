import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'ava';
import express from 'express';
import pino from 'pino';
import { failures } from '../../../src/api/requests/failures.js';

test('an answer that fails when it is under way is cut short, and the log says why', async (t) => {
  const lines: string[] = [];
  const app = express();
  app.get('/part', async (_request, response) => {
    response.write('{"items": [');
    await new Promise((resolve) => setImmediate(resolve));
    throw new Error('the rest is not there');
  });
  app.use(failures(pino({}, { write: (line) => lines.push(line) })));
  const server = createServer(app).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());

  const answer = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/part`);
  t.is(answer.status, 200);
  await t.throwsAsync(answer.text(), undefined, 'it does not look whole');
  t.is(lines.length, 1);
  const { msg, path, error } = JSON.parse(lines[0]);
  t.deepEqual([msg, path], ['an answer was cut short', '/part']);
  t.regex(error, /the rest is not there/);
});
