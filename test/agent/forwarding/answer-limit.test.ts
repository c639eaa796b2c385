import test from 'ava';
import { AnswerLimit } from '../../../src/agent/forwarding/answer-limit.js';

test('at each port so many answers at once, and more as time goes by', (t) => {
  let now = 0;
  const limit = new AnswerLimit(() => now);
  const take = (port: number, times: number) =>
    Array.from({ length: times }, () => limit.take(port)).filter(Boolean).length;
  t.is(take(1, 150), 100);
  t.is(take(2, 150), 100);
  now += 100;
  t.is(take(1, 150), 10);
  now += 100;
  limit.forgetFull();
  t.is(take(1, 150), 10, 'what was taken counts');
  now += 5000;
  limit.forgetFull();
  t.is(take(1, 150), 100);
});
