import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { TestCli } from '../cli-test.js';

const run = promisify(execFile);

async function start(t: ExecutionContext): Promise<TestCli> {
  t.timeout(120_000);
  const cli = await TestCli.start();
  t.teardown(() => cli.close());
  return cli;
}

test('commands, options, values and names are completed', async (t) => {
  const cli = await start(t);
  await cli.midonet('bridge', 'create', 'web');
  await cli.midonet('bridge', 'create', 'world');
  await cli.midonet('port', 'create', 'vm', '--bridge', 'web');
  const complete = async (...words: string[]) => (await cli.midonet('complete', '--', ...words)).split('\n');
  t.deepEqual(await complete('brid'), ['bridge']);
  t.deepEqual(await complete('bridge', 'l'), ['list']);
  t.deepEqual(await complete('bridge', 'create', 'x', '--admin'), ['--admin-state-up']);
  t.deepEqual(await complete('bridge', 'create', 'x', '--admin-state-up', ''), ['true', 'false']);
  t.deepEqual(await complete('bridge', 'show', 'we'), ['web']);
  t.deepEqual((await complete('port', 'create', '--bridge', 'w')).sort(), ['web', 'world']);
  t.deepEqual(await complete('port', 'show', ''), ['web/vm']);
  t.deepEqual(await complete('port', 'link', 'web'), ['web/vm']);
  t.deepEqual(await complete('rule', 'create', '--type', 'acc'), ['accept']);
  t.deepEqual(await complete('rule', 'create', '--in-ports', 'web/vm,'), ['web/vm,web/vm']);
  t.deepEqual(await complete('get', 'rou'), ['router', 'route']);
  t.deepEqual(await complete('get', 'bridge', 'wo'), ['world']);
  t.deepEqual(await complete('get', '--limit', '5', '-w', 'bridges', 'wo'), ['world']);
  t.deepEqual(await complete('port', 'link', 'web/vm', ''), ['web/vm']);
  t.deepEqual(await complete('port', 'unlink', 'web/vm', ''), ['']);
  t.deepEqual(await complete('bridge', 'create', 'w'), ['']);
  t.deepEqual(await complete('trace', '--from', ''), ['web/vm']);
  t.deepEqual(await complete('capture', 'web'), ['web/vm']);
  t.deepEqual(await complete('bridge', 'list', '-o', 'w'), ['wide']);
});

test('nothing is offered when the server cannot be asked', async (t) => {
  const cli = await start(t);
  const { out } = await cli.run(['complete', '--', 'bridge', 'show', ''], { server: 'http://127.0.0.1:1' });
  t.is(out, '');
});

test('the script for bash is one that bash takes', async (t) => {
  const cli = await start(t);
  const script = await cli.midonet('completion', 'bash');
  const ask = `${script}
midonet() { [ "$1 $2 $3 $4" = "complete -- bridge sh" ] && echo show; }
COMP_WORDS=(midonet bridge sh); COMP_CWORD=2; _midonet; echo "\${COMPREPLY[@]}"`;
  t.is((await run('bash', ['-c', ask])).stdout.trim(), 'show');
  t.regex(await cli.midonet('completion', 'zsh'), /^#compdef midonet/);
  t.regex(await cli.midonet('completion', 'fish'), /^complete -c midonet/);
  for (const other of ['csh', 'constructor']) {
    t.regex((await cli.run(['completion', other])).error!, /expected one of bash, zsh, fish/);
  }
});
