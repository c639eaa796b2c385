import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import test, { type ExecutionContext } from 'ava';
import type { AnyObject } from '../../../src/cli/objects/names.js';
import { until } from '../../agent/until.js';
import { runMidonet, TestCli } from '../cli-test.js';

async function start(t: ExecutionContext): Promise<TestCli> {
  t.timeout(120_000);
  const cli = await TestCli.start();
  t.teardown(() => cli.close());
  return cli;
}

/** `midonet get … --watch` while `work` goes on; `work` may wait for lines. */
async function watch(
  cli: TestCli,
  words: string[],
  work: (printed: (line: RegExp) => Promise<void>) => Promise<void>,
): Promise<string[]> {
  const stop = new AbortController();
  const lines: string[] = [];
  const running = cli.run(['get', ...words, '--watch'], { signal: stop.signal, onLine: (line) => lines.push(line) });
  try {
    await work((line) => until(`the line ${line}`, async () => lines.some((one) => line.test(one)), 60_000));
  } finally {
    stop.abort();
    await running;
  }
  return lines;
}

test('what there is and each change of it is printed, a line each', async (t) => {
  const cli = await start(t);
  await cli.midonet('bridge', 'create', 'web', '--tenant', 'blue');
  const lines = await watch(cli, ['bridges'], async (printed) => {
    await printed(/web/);
    await cli.midonet('bridge', 'create', 'database');
    await printed(/changed +[0-9a-f]{8} +database/);
    await cli.midonet('bridge', 'update', 'web', '--admin-state-up', 'false');
    await printed(/changed .* web .*false/);
    await cli.midonet('bridge', 'delete', 'web');
    await printed(/deleted .* web /);
  });
  t.regex(lines[0], /^ +ID +NAME +TENANT +UP/);
  t.regex(lines[1], /^ +[0-9a-f]{8} +web +blue +true/);
  t.is(lines.length, 5);
});

test('one object is watched, or those with a value, for programs to read', async (t) => {
  const cli = await start(t);
  const told = (line: string) => {
    const { told, object } = JSON.parse(line) as { told: string; object: AnyObject };
    return `${told} ${object.name}`;
  };
  await cli.midonet('chain', 'create', 'fw');
  await cli.midonet('chain', 'create', 'nat');
  const one = await watch(cli, ['chain', 'fw', '--json'], async (printed) => {
    await printed(/"there".*"fw"/);
    await cli.midonet('chain', 'update', 'nat', '--set', 'metadata=a=b');
    await cli.midonet('chain', 'delete', 'fw');
    await printed(/"deleted".*"fw"/);
  });
  t.deepEqual(one.map(told), ['there fw', 'deleted fw']);

  await cli.midonet('chain', 'create', 'fw');
  const some = await watch(cli, ['rules', '--where', 'chain=fw', '--json'], async (printed) => {
    await cli.midonet('rule', 'create', 'other', '--chain', 'nat', '--type', 'drop');
    await cli.midonet('rule', 'create', 'mine', '--chain', 'fw', '--type', 'drop');
    await printed(/"mine"/);
  });
  t.deepEqual(
    some.map((line) => told(line).split(' ')[1]),
    ['mine'],
  );
});

test('a server that cannot be reached is told of, once, while it is tried again', async (t) => {
  t.timeout(120_000);
  const stop = new AbortController();
  let asked = 0;
  const server = createServer((request) => {
    if (++asked === 3) stop.abort();
    request.socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const { notes, error } = await runMidonet(['get', 'ports', '--watch'], { server: address, signal: stop.signal });
  t.is(error, undefined);
  t.regex(notes, /^no changes can be told, trying again: http:.* socket hang up\n.*https[^\n]*$/);
});

test('a stream that the server ends is told of each time', async (t) => {
  t.timeout(120_000);
  const stop = new AbortController();
  const server = createServer((_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).end('event: current\ndata: {}\n\n');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const notes: string[] = [];
  const onNote = (line: string) => {
    if (notes.push(line) === 2) stop.abort();
  };
  const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await runMidonet(['get', 'ports', '--watch'], { server: address, signal: stop.signal, onNote });
  const note = 'no changes can be told, trying again: the server has ended the stream';
  t.deepEqual(notes, [note, note]);
});
