import test from 'ava';
import { AvaOutput, countLine, sum } from '#setup/ava-output.mjs';

/** What ava 7.0 prints, without the details of errors, for one of each kind of trouble. */
const ALL_KINDS = `
  Uncaught exception in build/test/b.test.js

  Error [ERR_MODULE_NOT_FOUND]: Cannot find package 'nope' imported from /x/build/test/b.test.js

  ✘ build/test/b.test.js exited with a non-zero exit code: 1
  - [skip] a › sk
  - [todo] a › later
  ✔ a › good (101ms)
    ℹ hello
  ✘ [fail]: a › bad
  ✘ No tests found in build/test/c.test.js, make sure to import "ava" at the top of your test file
  ✘ Exiting due to process.exit() when running build/test/d.test.js
  ✘ build/test/d.test.js exited with a non-zero exit code: 3
  ✘ [fail]: e › before hook Error thrown in test
  ✘ 2 tests remaining in build/test/e.test.js
  ✔ [expected fail] g › known bad

  Unhandled rejection in build/test/h.test.js

  ✘ Timed out while running tests

  Failed to exit when running build/test/i.test.js

  3 tests were pending in build/test/f.test.js

  ◌ f › never
  ◌ f › ever
  ◌ f › stops

  ─

  1 hook failed
  1 test failed
  1 known failure
  1 test skipped
  1 test todo
`;

const GOOD = '\n  ✔ one\n  ✔ two\n  - [skip] three\n  ─\n\n  2 tests passed\n  1 test skipped\n';

function count(text: string, status: number) {
  const output = new AvaOutput();
  output.push(text);
  return output.end(status);
}

test('a good run', (t) => {
  t.deepEqual(count(GOOD, 0), { passed: 2, failed: 0, skipped: 1, failures: [] });
});

test('each kind of trouble counts once', (t) => {
  const { failures, ...numbers } = count(ALL_KINDS, 1);
  // bad, the hook, 2 that did not run, 3 that never ended; the files b, c, d, h and i.
  t.deepEqual(numbers, { passed: 2, failed: 12, skipped: 2 });
  t.is(failures.length, 9, 'a line for each, or for several of one file');
  t.true(failures.includes('✘ [fail]: a › bad'), failures.join('\n'));
});

test('pieces of any size, even with characters cut in two, give the same count', (t) => {
  const bytes = Buffer.from(ALL_KINDS);
  for (const size of [1, 2, 3, 7, 50]) {
    const output = new AvaOutput();
    for (let at = 0; at < bytes.length; at += size) output.push(bytes.subarray(at, at + size));
    t.deepEqual(output.end(1), count(ALL_KINDS, 1), `pieces of ${size}`);
  }
});

test('colours do not matter', (t) => {
  t.is(count('  \u001b[32m✔\u001b[39m one\n  \u001b[31m✘ [fail]:\u001b[39m two\n', 1).failed, 1);
});

test('an exit status other than 0 is a failure, and so is a run without a summary', (t) => {
  t.is(count(GOOD, 1).failed, 1);
  t.is(count('  ✔ one\n', 0).failed, 1);
  t.is(count('', 0).failed, 1);
});

test('sums and the last line', (t) => {
  const total = sum([count(GOOD, 0), { passed: 3, failed: 1, skipped: 0, failures: ['✘ one'] }]);
  t.deepEqual(total.failures, ['✘ one']);
  t.is(countLine(total), '5 passed, 1 failed, 1 skipped');
  t.is(countLine({ passed: 3, failed: 0, skipped: 0, failures: [] }), '3 passed, 0 failed');
});
