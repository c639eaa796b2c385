import { EventEmitter, once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import test from 'ava';
import { endOf, within } from '../src/deadline.js';

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const answer = () => new EventEmitter() as ServerResponse;
const other = new AbortController();

test('a deadline comes though garbage is collected before it does', async (t) => {
  const signals = [within(300, other.signal), AbortSignal.any([within(300, other.signal)]), endOf(answer(), 300)];
  const ended = Promise.all(signals.map((signal) => once(signal, 'abort')));
  for (let i = 0; i < 5; i++) {
    collectGarbage();
    await sleep(20);
  }
  // The timers keep no process from its end.
  const awake = setInterval(() => {}, 1000);
  await ended;
  clearInterval(awake);
  for (const { reason } of signals) t.is((reason as Error).name, 'TimeoutError');
});

test('a deadline ends with what it is about', (t) => {
  const first = new AbortController();
  const signal = within(60_000, first.signal);
  first.abort();
  t.true(signal.aborted);
  const response = answer();
  const end = endOf(response, 60_000);
  t.false(end.aborted);
  response.emit('close');
  t.is((end.reason as Error).name, 'AbortError');
});
