import { execFileSync } from 'node:child_process';
import test from 'ava';
import fc from 'fast-check';
import { commandScript, quote } from '#setup/job.mjs';

test('a shell reads a quoted word as it was', (t) => {
  fc.assert(
    fc.property(
      fc.array(
        fc.string({ unit: 'binary' }).filter((word) => !word.includes('\0')),
        { minLength: 1 },
      ),
      (words) => {
        const script = `printf '%s\\0' ${words.map(quote).join(' ')}`;
        const out = execFileSync('sh', ['-c', script], { encoding: 'utf8' });
        t.deepEqual(
          out.split('\0').slice(0, -1),
          words.map((word) => Buffer.from(word).toString()),
        );
      },
    ),
    { numRuns: 30 },
  );
});

test('the command runs in the folder and environment of the caller, without what belongs to the host', (t) => {
  const environment = { PATH: process.env.PATH, GREETING: "it's", npm_config_x: '1', 'not-a-name': '1', TMPDIR: '/x' };
  const script = commandScript(['sh', '-c', 'pwd; env'], { folder: '/usr' }, environment);
  const lines = execFileSync('sh', ['-c', script], { encoding: 'utf8', env: {} }).split('\n');
  t.is(lines[0], '/usr');
  t.true(lines.includes("GREETING=it's"));
  t.true(lines.includes('MIDONET_IN_VM=1'));
  t.true(lines.includes('TERM=dumb'));
  t.false(lines.some((line) => /^(npm_|not-a-name|TMPDIR)/.test(line)));
});

test('a folder that is not there ends the job with status 125', (t) => {
  const script = commandScript(['true'], { folder: '/no/such/folder' }, {});
  const error = t.throws<Error & { status: number }>(() => execFileSync('sh', ['-c', script], { stdio: 'ignore' }));
  t.is(error.status, 125);
});
