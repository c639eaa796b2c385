import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type ConnectionFlags, connect } from '../../../src/cli/terminal/connection.js';

/** A server that answers every request with an empty page, and keeps them. */
async function serve(t: ExecutionContext): Promise<{ address: string; requests: IncomingMessage[] }> {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    requests.push(request);
    response.setHeader('content-type', 'application/json').end('{"items":[]}');
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests };
}

/** A home with what client.yaml says. */
async function home(t: ExecutionContext, settings: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'midonet-home-'));
  t.teardown(() => rm(folder, { recursive: true }));
  await mkdir(join(folder, '.config/midonet'), { recursive: true });
  await writeFile(join(folder, '.config/midonet/client.yaml'), settings);
  return folder;
}

async function ask(flags: ConnectionFlags, env: Record<string, string>): Promise<void> {
  const client = await connect(flags, { env });
  try {
    await client.request('GET', '/v1/bridges');
  } finally {
    client.close();
  }
}

test('the server is that of the option, else of the environment, else of the file', async (t) => {
  const [a, b, c] = [await serve(t), await serve(t), await serve(t)];
  const HOME = await home(t, `server: ${c.address}\ntoken: of-file\n`);
  await ask({ server: a.address }, { MIDONET_API: b.address, HOME });
  await ask({}, { MIDONET_API: b.address, MIDONET_TOKEN: 'of-environment', HOME });
  await ask({}, { HOME });
  const shown = [a, b, c].map(({ requests }) => requests.map(({ headers }) => headers.authorization));
  // What is kept for one server is shown to no other.
  t.deepEqual(shown, [[undefined], ['Bearer of-environment'], ['Bearer of-file']]);
});

test('a token is read from a file', async (t) => {
  const { address, requests } = await serve(t);
  const HOME = await home(t, '{}');
  const tokenFile = join(HOME, 'token');
  await writeFile(tokenFile, 'secret\n');
  await ask({ server: address, tokenFile }, { HOME });
  t.is(requests[0].headers.authorization, 'Bearer secret');
  await t.throwsAsync(ask({ server: address, tokenFile: `${tokenFile}.not` }, { HOME }), {
    message: /^file: expected one that is there/,
  });
});

test('a token is not shown where it could be read on the way', async (t) => {
  for (const server of ['http://192.0.2.1:8181', 'http://api.example.org']) {
    await t.throwsAsync(ask({ server }, { MIDONET_TOKEN: 'secret' }), { code: 'MN_INVALID_INPUT', message: /https/ });
  }
});

test('a file that says something else is refused with its name', async (t) => {
  const HOME = await home(t, 'serve: http://127.0.0.1:1\n');
  await t.throwsAsync(ask({}, { HOME }), { code: 'MN_INVALID_INPUT', message: /client\.yaml\.serve: unknown field/ });
  const broken = await home(t, 'server: [\n');
  await t.throwsAsync(ask({}, { HOME: broken }), { code: 'MN_INVALID_INPUT', message: /client\.yaml: / });
});
