import { mkdtemp, rm, stat } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { SUPPORTED_VERSIONS } from '../../cni/versions.js';
import { PROGRAM, runProgram } from './program.js';

const add = (extra: Record<string, string> = {}) => ({ CNI_COMMAND: 'ADD', ...extra });

/** A server that does what an agent never should. */
async function fakeAgent(t: ExecutionContext, serve: (socket: Socket) => void): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'mn-fake-'));
  const path = join(folder, 's.sock');
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    serve(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.teardown(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
    await rm(folder, { recursive: true, force: true });
  });
  return path;
}

const config = (socket: string, cniVersion = '1.0.0') => JSON.stringify({ cniVersion, name: 'net', socket });

function reply(status: number, stdout: number, stderr: number, body = ''): Buffer {
  const header = Buffer.alloc(16);
  header.write('MNR1');
  header.writeUInt32BE(status, 4);
  header.writeUInt32BE(stdout, 8);
  header.writeUInt32BE(stderr, 12);
  return Buffer.concat([header, Buffer.from(body)]);
}

test.serial('the program is one static file below 1 MB', async (t) => {
  t.true((await stat(PROGRAM)).size < 1_000_000);
});

test.serial('without a command to carry out it says what it is', async (t) => {
  const { status, stdout, stderr } = await runProgram({}, undefined);
  t.is(status, 0);
  t.is(stdout, '');
  t.regex(stderr, /CNI protocol versions supported/);
});

test.serial('VERSION needs no agent and lists what the TypeScript side supports', async (t) => {
  for (const [stdin, version] of [
    ['{"cniVersion":"0.4.0"}', '0.4.0'],
    ['', '1.1.0'],
    ['nonsense', '1.1.0'],
    ['{"cniVersion":5}', '1.1.0'],
  ]) {
    const result = await runProgram({ CNI_COMMAND: 'VERSION' }, stdin);
    t.is(result.status, 0);
    t.deepEqual(JSON.parse(result.stdout), { cniVersion: version, supportedVersions: [...SUPPORTED_VERSIONS] });
  }
  const silent = await runProgram({ CNI_COMMAND: 'VERSION' }, undefined);
  t.is(silent.status, 0);
  t.true(silent.milliseconds < 2000);
});

test.serial('without CNI_COMMAND it says what it is', async (t) => {
  for (const environment of [{}, { CNI_COMMAND: '' }] as Record<string, string>[]) {
    const result = await runProgram(environment, '');
    t.is(result.status, 0);
    t.is(result.stdout, '');
    for (const version of SUPPORTED_VERSIONS) t.true(result.stderr.includes(version));
  }
});

test.serial('an agent that is down: an error within 2 s, code 11, for STATUS 50 at once', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'mn-fake-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  for (const cniVersion of SUPPORTED_VERSIONS) {
    const result = await runProgram({ CNI_COMMAND: 'STATUS' }, config(join(folder, 'none.sock'), cniVersion));
    t.is(result.status, 1);
    t.true(result.milliseconds < 1000);
    t.like(JSON.parse(result.stdout), { cniVersion, code: 50 });
  }
  const results = await Promise.all(
    ['ADD', 'DEL', 'CHECK', 'GC'].map((command) =>
      runProgram({ CNI_COMMAND: command }, config(join(folder, 'none.sock'))),
    ),
  );
  for (const result of results) {
    t.is(result.status, 1);
    t.true(result.milliseconds < 2000);
    const error = JSON.parse(result.stdout) as { code: number; msg: string };
    t.is(error.code, 11);
    t.true(error.msg.includes('none.sock'));
  }
});

test.serial('an agent that starts meanwhile is waited for', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'mn-fake-'));
  const path = join(folder, 's.sock');
  const running = runProgram(add(), config(path));
  await new Promise((resolve) => setTimeout(resolve, 300));
  const server = createServer((socket) => socket.resume().end(reply(0, 2, 0, 'ok')));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.like(await running, { status: 0, stdout: 'ok' });
  await new Promise((resolve) => server.close(resolve));
  await rm(folder, { recursive: true, force: true });
});

test.serial(
  'an agent that never answers, closes early or answers garbage: code 11, nothing else on standard output',
  async (t) => {
    const cases: [string, (socket: Socket) => void, RegExp][] = [
      ['silence', () => undefined, /in time/],
      ['closes at once', (socket) => socket.destroy(), /closed the connection/],
      ['closes after the request', (socket) => socket.on('data', () => socket.destroy()), /closed the connection/],
      ['half a header', (socket) => socket.end('MNR1\0\0'), /closed the connection/],
      ['half a body', (socket) => socket.end(reply(0, 100, 0, 'half')), /closed the connection/],
      ['a header and silence', (socket) => socket.write(reply(0, 100, 0, 'half')), /in time/],
      ['another magic', (socket) => socket.end(reply(0, 2, 0, 'ok').fill('X', 0, 1)), /cannot be read/],
      ['too long', (socket) => socket.end(reply(0, 0xffffffff, 0)), /cannot be read/],
      ['too long on standard error', (socket) => socket.end(reply(0, 0, 65537)), /cannot be read/],
      ['an impossible status', (socket) => socket.end(reply(256, 2, 0, 'ok')), /cannot be read/],
    ];
    for (const [name, serve, message] of cases) {
      const path = await fakeAgent(t, serve);
      const result = await runProgram(add({ MIDONET_CNI_TIMEOUT_MS: '400' }), config(path));
      t.is(result.status, 1, name);
      t.true(result.milliseconds < 2000, name);
      const error = JSON.parse(result.stdout) as { code: number; msg: string; cniVersion: string };
      t.is(error.code, 11, name);
      t.is(error.cniVersion, '1.0.0', name);
      t.regex(error.msg, message, name);
    }
  },
);

test.serial(
  'property: whatever an agent answers, the program ends with an answer of its own or the one sent',
  async (t) => {
    let bytes = Buffer.alloc(0);
    const path = await fakeAgent(t, (socket) => {
      socket.on('data', () => socket.end(bytes));
    });
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 64, size: 'max' }), fc.boolean(), async (garbage, magic) => {
        bytes = Buffer.from(magic ? [...Buffer.from('MNR1'), ...garbage] : garbage);
        const result = await runProgram(add({ MIDONET_CNI_TIMEOUT_MS: '2000' }), config(path));
        if (result.status === 1 && result.stdout.startsWith('{')) {
          return (JSON.parse(result.stdout) as { code: number }).code === 11;
        }
        return magic && result.status === bytes.readUInt32BE(4);
      }),
      { numRuns: 60 },
    );
    t.pass();
  },
);

test.serial('a slow reader gets all of a large answer', async (t) => {
  const body = 'x'.repeat(4 * 1024 * 1024);
  const path = await fakeAgent(t, (socket) => socket.end(reply(0, body.length, 0, body)));
  const result = await runProgram(add(), config(path), ['sh', '-c', `${PROGRAM} | (sleep 0.3; wc -c)`]);
  t.is(result.stdout.trim(), String(body.length));
});

test.serial('a closed standard output is no signal', async (t) => {
  const path = await fakeAgent(t, (socket) => socket.end(reply(0, 2_000_000, 0, 'x'.repeat(2_000_000))));
  const result = await runProgram(add(), config(path), ['sh', '-c', `(${PROGRAM}; echo status $? >&2) | true`]);
  t.regex(result.stderr, /status (1|141)\n/);
});

test.serial('input that is not a JSON object: code 6; too long: code 5; never ending: in bounded time', async (t) => {
  for (const stdin of [
    '',
    ' ',
    'nonsense',
    '[]',
    '"x"',
    '5',
    '{',
    '{"a"',
    '{"a":',
    '{"a":1',
    '{"a":1,}',
    '{"a":1}x',
    '{"a":[}',
    '{"a":"\\x"}',
    '{"a":"\n"}',
    '{"a":"\\u12"}',
    '{a:1}',
    '{"a":1 "b":2}',
    '\0',
    '{"a":}',
  ]) {
    const result = await runProgram(add(), stdin);
    t.is(result.status, 1, stdin);
    t.like(JSON.parse(result.stdout), { cniVersion: '1.1.0', code: 6 }, stdin);
  }
  const long = await runProgram(add(), `{"a":"${'x'.repeat(1024 * 1024)}"}`);
  t.is(long.status, 1);
  t.like(JSON.parse(long.stdout), { code: 5 });
  const silent = await runProgram(add({ MIDONET_CNI_TIMEOUT_MS: '300' }), undefined);
  t.like(JSON.parse(silent.stdout), { code: 5 });
  t.true(silent.milliseconds < 2000);
});

test.serial('the socket is the top-level string of that name, wherever it is and however it is written', async (t) => {
  const path = await fakeAgent(t, (socket) => socket.end(reply(0, 2, 0, 'ok')));
  const escaped = [...path].map((c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`).join('');
  for (const stdin of [
    `{"socket":"${path}"}`,
    ` {\t"x" : {"socket":"/nested","y":[{"socket":"/deep"}]} ,\r\n"socket" : "${path}" , "z":[1,-2.5e3,true,null,"]}"]}\n`,
    `{"socket":"/first","socket":"${path}"}`,
    `{"socket":"${path.replaceAll('/', '\\/')}"}`,
    `{"\\u0073ocket":"${escaped}"}`,
    `{"a":"\\"socket\\":\\"/x\\"","b":"\\\\","socket":"${path}"}`,
  ]) {
    t.like(await runProgram(add(), stdin), { status: 0, stdout: 'ok' }, stdin);
  }
});

test.serial('a socket that cannot be one is named: code 7', async (t) => {
  for (const socket of ['relative', '', `/${'x'.repeat(107)}`, '/a\0b', 5, null, ['/x'], { socket: '/x' }]) {
    const result = await runProgram(add(), JSON.stringify({ cniVersion: '0.4.0', socket }));
    t.is(result.status, 1);
    const error = JSON.parse(result.stdout) as { code: number; msg: string; cniVersion: string };
    t.is(error.code, 7, JSON.stringify(socket));
    t.regex(error.msg, /^socket: /);
    t.is(error.cniVersion, '0.4.0');
  }
});

test.serial('property: any configuration text gives well-formed output', async (t) => {
  const json = fc.json().map((text) => `{"cniVersion":${text.replaceAll(/[{}]/g, '')},"a":${text}}`);
  await fc.assert(
    fc.asyncProperty(fc.oneof(fc.string({ unit: 'binary' }), json), async (stdin) => {
      const result = await runProgram({ CNI_COMMAND: 'STATUS', MIDONET_CNI_TIMEOUT_MS: '500' }, stdin);
      if (result.status !== 1) return false;
      const { code, cniVersion } = JSON.parse(result.stdout) as { code: number; cniVersion: string };
      let valid = true;
      try {
        JSON.parse(stdin);
      } catch {
        valid = false;
      }
      return typeof cniVersion === 'string' && [6, 7, 50].includes(code) && (!valid || code !== 6 || !isObject(stdin));
    }),
    { numRuns: 60 },
  );
  t.pass();
});

function isObject(text: string): boolean {
  const value: unknown = JSON.parse(text);
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

test.serial('the version in errors is the one of the configuration, escaped', async (t) => {
  for (const cniVersion of ['1.0.0', 'a"b\\c', '\u0001\n', 'ä']) {
    const result = await runProgram({ CNI_COMMAND: 'STATUS' }, config('/nowhere/at/all.sock', cniVersion));
    const error = JSON.parse(result.stdout) as { cniVersion: string };
    t.is(error.cniVersion, cniVersion === 'ä' ? '??' : cniVersion);
  }
});

test.serial('an environment that is too large: code 4, naming the variable', async (t) => {
  const result = await runProgram(add({ CNI_ARGS: 'x'.repeat(70_000) }), config('/nowhere.sock'));
  t.is(result.status, 1);
  const error = JSON.parse(result.stdout) as { code: number; msg: string };
  t.is(error.code, 4);
  t.regex(error.msg, /CNI_ARGS/);
});
