import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { TestCli } from './cli-test.js';

const PROGRAM = fileURLToPath(new URL('../../src/bin/midonet.js', import.meta.url));

async function start(t: ExecutionContext): Promise<TestCli> {
  t.timeout(120_000);
  const cli = await TestCli.start();
  t.teardown(() => cli.close());
  return cli;
}

interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

function midonet(cli: TestCli, ...words: string[]): Promise<Outcome> {
  return runProgram({ MIDONET_API: cli.api.address }, ...words);
}

function runProgram(settings: Record<string, string>, ...words: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    const env = { PATH: process.env.PATH, ...settings };
    execFile(process.execPath, [PROGRAM, ...words], { env }, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

test('the program says what it did, or in a line what was wrong', async (t) => {
  const cli = await start(t);
  const made = await midonet(cli, 'bridge', 'create', 'web', '--tenant', 'blue');
  t.regex(made.stdout, /^created bridge web \([0-9a-f-]{36}\)\n$/);
  t.deepEqual([made.status, made.stderr], [0, '']);
  const listed = await midonet(cli, 'get', 'bridges', '--yaml');
  t.regex(listed.stdout, /^- id: [0-9a-f-]{36}\n {2}name: web\n {2}tenantId: blue\n {2}adminStateUp: true\n$/);
  const wrong = await midonet(cli, 'bridge', 'show', 'wbe');
  t.deepEqual(wrong, {
    status: 1,
    stdout: '',
    stderr: 'midonet: there is no bridge called wbe; did you mean web? (MN_NOT_FOUND)\n',
  });
  const away = await midonet(cli, 'bridge', 'list', '--server', 'http://127.0.0.1:1');
  t.is(away.status, 1);
  t.regex(away.stderr, /^midonet: http:\/\/127\.0\.0\.1:1: .*\(MN_API_UNAVAILABLE\)\n {2}→ .*--server.*\n$/);
  const misspelled = await midonet(cli, 'port', 'unlink', 'vm', '--tenannt', 'blue');
  t.is(
    misspelled.stderr,
    "midonet: unknown option '--tenannt' (Did you mean --tenant?)\n" +
      'Usage: midonet port unlink [options] <port>\n  → `midonet port unlink --help` tells more\n',
  );
  // Nobody is there to be asked.
  t.is((await midonet(cli, 'bridge', 'delete', 'web')).status, 0);
});

test('what tenants have written does not command the terminal of whoever reads it', async (t) => {
  const cli = await start(t);
  const metadata = { note: '\u001b[2J\u009b1mgone\u0007' };
  await cli.api.admin.send('POST', '/v1/chains', { name: 'firewall', tenantId: 'blue', metadata });
  const shown = await midonet(cli, 'chain', 'show', 'firewall');
  t.regex(shown.stdout, /note=\\u001b\[2J\\u009b1mgone\\u0007$/m);
  t.like(JSON.parse((await midonet(cli, 'chain', 'show', 'firewall', '--json')).stdout), { metadata });
});

test('an answer that is cut short is no success, and leaves no file', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'midonet-cut-'));
  const cut = createServer((_request, response) => {
    response.write('begun');
    setImmediate(() => response.destroy());
  });
  await once(cut.listen(0, '127.0.0.1'), 'listening');
  t.teardown(() => cut.close());
  const server = `http://127.0.0.1:${(cut.address() as AddressInfo).port}`;
  const file = join(folder, 'bundle.tar.gz');
  for (const words of [
    ['support-bundle', file],
    ['capture', '7c1f0e52-8a4e-4c53-9f43-2b1b0a6f3c11', '-w', '-'],
  ]) {
    const { status, stderr } = await runProgram({ MIDONET_API: server }, ...words);
    t.is(status, 1);
    t.regex(stderr, /^midonet: the answer was cut short: .* \(MN_API_UNAVAILABLE\)\n$/m);
    t.notRegex(stderr, /^ +at /m);
  }
  t.deepEqual(await readdir(folder), []);
  await rm(folder, { recursive: true });
});

test('help has an example for every command', async (t) => {
  const cli = await start(t);
  const help = (await midonet(cli, '--help')).stdout;
  // What is not there is not promised.
  t.notRegex(help, /Kubernetes|Docker/);
  for (const word of ['apply', 'get <kind>', 'bridge', 'completion <shell>']) t.true(help.includes(word), word);
  t.false(help.includes('complete ['));
  t.is((await midonet(cli, 'help', 'port', 'bind')).stdout, (await midonet(cli, 'port', 'bind', '--help')).stdout);
  t.is((await midonet(cli, 'help')).stdout, help);
  t.regex(
    (await midonet(cli, 'rule', 'create', '--help')).stdout,
    /--protocol <number>(.|\n)*Example:\n {2}\$ midonet rule/,
  );
  const apply = (await midonet(cli, 'apply', '--help')).stdout;
  t.regex(apply, /--dry-run(.|\n)*Example:\n {2}\$ midonet apply -f/);
  t.regex(apply, /where nobody can answer, .* applied right away/s);
  t.regex((await midonet(cli, 'bridge', 'delete', '--help')).stdout, /asks first, but not where nobody/);
});

test('whoever has read enough may go, and a watch ends when it is interrupted', async (t) => {
  const cli = await start(t);
  await cli.midonet('bridge', 'create', 'web');
  const env = { PATH: process.env.PATH, MIDONET_API: cli.api.address };
  const watching = spawn(process.execPath, [PROGRAM, 'get', 'bridges', '--watch'], { env });
  const errors = text(watching.stderr);
  const [first] = (await once(watching.stdout, 'data')) as [Buffer];
  t.regex(first.toString(), /ID +NAME/);
  watching.stdout.destroy();
  const gone = once(watching, 'exit');
  for (let i = 0; watching.exitCode === null && i < 100; i++) {
    await cli.midonet('bridge', 'update', 'web', '--admin-state-up', String(i % 2 === 0));
  }
  t.deepEqual(await gone, [0, null]);
  t.is(await errors, '');

  const other = spawn(process.execPath, [PROGRAM, 'get', 'bridges', '--watch'], { env });
  await once(other.stdout, 'data');
  other.kill('SIGINT');
  t.deepEqual(await once(other, 'exit'), [null, 'SIGINT']);
});
