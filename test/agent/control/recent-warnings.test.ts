import test from 'ava';
import { pino } from 'pino';
import { RecentWarnings } from '../../../src/agent/control/recent-warnings.js';

test('the last warnings and errors of a log are kept, of its children too, and the log has them all the same', (t) => {
  const lines: string[] = [];
  const warnings = new RecentWarnings();
  const log = pino({ level: 'info', base: null, hooks: warnings.hooks }, { write: (line) => lines.push(line) });
  log.info('all is well');
  log.warn({ port: 7, error: new Error('broken'), list: [1, 2] }, 'something is odd');
  log.child({ part: 'x' }).error('worse');
  t.is(lines.length, 3);
  t.like(warnings.list(), {
    length: 2,
    0: { level: 'warn', message: 'something is odd', context: { port: 7, error: 'broken', list: '[ 1, 2 ]' } },
    1: { level: 'error', message: 'worse', context: {} },
  });
  const circle: Record<string, unknown> = { size: 1n };
  circle.self = circle;
  log.warn({ circle, text: 'x'.repeat(10_000) }, 'not what JSON takes');
  t.regex(String(warnings.list().at(-1)?.context.circle), /size: 1n, self: \[Circular/);
  t.is(String(warnings.list().at(-1)?.context.text).length, 500);
  for (let i = 0; i < 200; i++) log.warn(`again ${i}`);
  t.is(warnings.list().length, 100);
  t.is(warnings.list().at(-1)?.message, 'again 199');
});
