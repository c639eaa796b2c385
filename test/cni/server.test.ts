import { lstat, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { type CniReply, type CniRequest, encodeRequest } from '../../cni/frame.js';
import { type CniHandler, CniServer } from '../../cni/server.js';
import { runProgram } from './program.js';

const OK: CniReply = { status: 0, stdout: 'done', stderr: '' };

async function setup(t: ExecutionContext, handler: CniHandler = async () => OK, arrivalMs = 30_000) {
  const folder = await mkdtemp(join(tmpdir(), 'mn-cni-'));
  const path = join(folder, 'run', 'cni.sock');
  const warnings: string[] = [];
  const listen = () => CniServer.listen({ path, handler, arrivalMs, warn: (message) => warnings.push(message) });
  const server = await listen();
  t.teardown(async () => {
    await server.close();
    await rm(folder, { recursive: true, force: true });
  });
  return { folder, path, server, warnings, listen };
}

/** Sends bytes and returns all that comes back until the connection closes. */
function exchange(path: string, bytes: Buffer, then?: (socket: Socket) => void): Promise<Buffer> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const socket = connect(path, () => {
      socket.write(bytes);
      then?.(socket);
    });
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(Buffer.concat(chunks)));
  });
}

const GOOD = encodeRequest({ pid: 7, environment: new Map([['CNI_COMMAND', 'ADD']]), stdin: '{"a":1}' });

test('a request reaches the handler and its answer the program; the socket is for root only', async (t) => {
  const requests: CniRequest[] = [];
  const { path, server } = await setup(t, async (request) => {
    requests.push(request);
    return { status: 3, stdout: 'out', stderr: 'err' };
  });
  t.is((await lstat(path)).mode & 0o777, 0o600);
  const reply = await exchange(path, GOOD);
  t.is(reply.toString('latin1'), 'MNR1\0\0\0\x03\0\0\0\x03\0\0\0\x03outerr');
  t.deepEqual(requests, [{ pid: 7, environment: new Map([['CNI_COMMAND', 'ADD']]), stdin: '{"a":1}' }]);
  t.is(server.counters.calls, 1);
});

test('garbage closes the connection, is counted, and the next call is served', async (t) => {
  const { path, server, warnings } = await setup(t);
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 4, maxLength: 100, size: 'max' }), async (bytes) => {
      const before = server.counters.garbage;
      const reply = await exchange(path, Buffer.from([0x4d, 0x4e, 0x43, 0x32, ...bytes]));
      return reply.length === 0 && server.counters.garbage === before + 1;
    }),
    { numRuns: 40 },
  );
  t.true(warnings.every((warning) => warning.includes('MNC1')));
  t.true((await exchange(path, GOOD)).includes('done'));
});

test('half a request that ends, and more than a request, are garbage', async (t) => {
  const { path, server } = await setup(t, async (_request, signal) => {
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    return OK;
  });
  for (const length of [1, 3, 4, 15, 16, GOOD.length - 1]) {
    t.is((await exchange(path, GOOD.subarray(0, length), (socket) => socket.end())).length, 0);
  }
  t.is(server.counters.garbage, 6);
  t.is(server.counters.calls, 0);
  t.is((await exchange(path, GOOD, (socket) => setTimeout(() => socket.write('more'), 10))).length, 0);
  t.is(server.counters.garbage, 7);
});

test('a silent program is given up', async (t) => {
  const { path, server, warnings } = await setup(t, undefined, 300);
  t.is((await exchange(path, GOOD.subarray(0, 20))).length, 0);
  t.is((await exchange(path, Buffer.alloc(0))).length, 0);
  t.is(server.counters.tooSlow, 2);
  t.true(warnings.every((warning) => warning.includes('300 ms')));
  t.is(server.counters.calls, 0);
});

test('a slow writer is served as long as it is in time', async (t) => {
  const { path } = await setup(t);
  const reply = await exchange(path, GOOD.subarray(0, 2), (socket) => {
    let at = 2;
    const timer = setInterval(() => {
      socket.write(GOOD.subarray(at, at + 10));
      at += 10;
      if (at >= GOOD.length) clearInterval(timer);
    }, 5);
  });
  t.true(reply.includes('done'));
});

test('the program going away ends the call', async (t) => {
  let reason: unknown;
  const { path, server } = await setup(t, async (_request, signal) => {
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    reason = signal.reason;
    return OK;
  });
  const socket = connect(path, () => socket.write(GOOD, () => setTimeout(() => socket.destroy(), 20)));
  while (reason === undefined) await new Promise((resolve) => setTimeout(resolve, 5));
  t.like(reason, { code: 'MN_CLOSED' });
  t.is(server.counters.abandoned, 1);
});

test('closing ends the calls, which still answer, and removes the socket', async (t) => {
  const { path, server } = await setup(t, async (_request, signal) => {
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    return { status: 1, stdout: 'ended', stderr: '' };
  });
  const reply = exchange(path, GOOD);
  while (server.counters.calls === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await server.close();
  t.true((await reply).includes('ended'));
  await t.throwsAsync(lstat(path), { code: 'ENOENT' });
});

test('a handler that fails closes the connection and is reported', async (t) => {
  const { path, warnings } = await setup(t, () => Promise.reject(new Error('broken')));
  t.is((await exchange(path, GOOD)).length, 0);
  t.deepEqual(warnings, ['CNI call failed without an answer']);
});

test('a socket left behind is replaced; one that answers, and a file, are not', async (t) => {
  const { path, server, listen } = await setup(t);
  await t.throwsAsync(listen(), { code: 'MN_ALREADY_EXISTS', message: /another process/ });
  t.true((await exchange(path, GOOD)).includes('done'));
  await server.close();

  // A process that died without unlinking: Node unlinks on close, so the path is moved away and back.
  const stale = createServer();
  await new Promise<void>((resolve) => stale.listen(`${path}.tmp`, resolve));
  const { rename } = await import('node:fs/promises');
  await rename(`${path}.tmp`, path);
  await new Promise((resolve) => stale.close(resolve));
  t.true((await lstat(path)).isSocket());
  const next = await listen();
  t.true((await exchange(path, GOOD)).includes('done'));
  await next.close();

  await writeFile(path, 'something');
  await t.throwsAsync(listen(), { code: 'MN_ALREADY_EXISTS', message: /something else/ });
  await rm(path);
});

test('many calls at once', async (t) => {
  const { path } = await setup(t, async (request) => ({ status: 0, stdout: request.stdin, stderr: '' }));
  const replies = await Promise.all(
    Array.from({ length: 200 }, (_, i) =>
      exchange(path, encodeRequest({ pid: i, environment: new Map(), stdin: `call ${i};` })),
    ),
  );
  t.true(replies.every((reply, i) => reply.includes(`call ${i};`)));
});

test('the C program and the server understand each other', async (t) => {
  const requests: CniRequest[] = [];
  const { path } = await setup(t, async (request) => {
    requests.push(request);
    return { status: 9, stdout: 'ä€😀'.repeat(100_000), stderr: 'log\n' };
  });
  const stdin = JSON.stringify({ cniVersion: '1.0.0', name: 'net', socket: path, filler: 'ä'.repeat(500_000) });
  const result = await runProgram(
    {
      CNI_COMMAND: 'ADD',
      CNI_ARGS: 'a=ä',
      TRACEPARENT: 'tp',
      TRACESTATE: 'ts',
      BAGGAGE: 'b',
      HOME: '/root',
      XCNI_NO: '1',
    },
    stdin,
  );
  t.is(result.status, 9);
  t.is(result.stdout, 'ä€😀'.repeat(100_000));
  t.is(result.stderr, 'log\n');
  t.is(requests.length, 1);
  t.is(requests[0].stdin, stdin);
  t.true(requests[0].pid > 1);
  t.deepEqual([...requests[0].environment].sort(), [
    ['BAGGAGE', 'b'],
    ['CNI_ARGS', 'a=ä'],
    ['CNI_COMMAND', 'ADD'],
    ['TRACEPARENT', 'tp'],
    ['TRACESTATE', 'ts'],
  ]);
});
