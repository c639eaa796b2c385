import { setImmediate } from 'node:timers/promises';
import test from 'ava';
import { readAhead } from '../../src/nsdb/read-ahead.js';

test('reads that listen to the signal several times each are no reason for a warning', async (t) => {
  const warnings: Error[] = [];
  const warn = (warning: Error) => warnings.push(warning);
  process.on('warning', warn);
  t.teardown(() => process.off('warning', warn));
  const values = Array.from({ length: 200 }, (_, i) => i);
  const results = await readAhead(values, new AbortController().signal, async (value, signal) => {
    for (let i = 0; i < 3; i++) signal?.addEventListener('abort', () => t.fail());
    await setImmediate();
    return value;
  });
  t.deepEqual(results, values);
  t.deepEqual(warnings, []);
});
