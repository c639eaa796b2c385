import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { pino } from 'pino';
import { Publisher } from '../../../src/agent/host/publisher.js';
import { type Store, type StoreEvent, StoreUnavailableError } from '../../../src/nsdb/store.js';
import { until } from '../until.js';

/** A store of which only the state is used. */
function setUp() {
  const listeners = new Set<(event: StoreEvent) => void>();
  const store: Pick<Store, 'onState'> = {
    onState: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  const lines: string[] = [];
  const publisher = new Publisher(
    store as Store,
    pino({ level: 'warn' }, { write: (line: string) => lines.push(line) }),
  );
  const connected = () => {
    for (const listener of listeners) listener('connected');
  };
  return { publisher, connected, lines, listeners };
}

function unavailable(): StoreUnavailableError {
  return new StoreUnavailableError('set', '/x', false, 'no server');
}

test('what succeeds runs once', async (t) => {
  const { publisher } = setUp();
  let runs = 0;
  publisher.publish('a', async () => void runs++);
  t.is(publisher.backlog, 1);
  t.true(await publisher.drain(1000));
  await delay(10);
  t.is(runs, 1);
  t.is(publisher.backlog, 0);
});

test('what fails for want of the store is tried again as soon as it is back, without a warning', async (t) => {
  const { publisher, connected, lines } = setUp();
  let up = false;
  let runs = 0;
  for (const name of ['a', 'b']) {
    publisher.publish(name, async () => {
      runs++;
      if (!up) throw unavailable();
    });
  }
  await until('both have failed', () => runs === 2);
  await delay(1);
  up = true;
  connected();
  await until('both are done', () => publisher.backlog === 0, 100);
  t.is(runs, 4);
  t.deepEqual(lines, []);
});

test('how long the store was away does not count: what fails right after its return is tried again soon', async (t) => {
  const { publisher, connected } = setUp();
  let runs = 0;
  publisher.publish('a', async () => {
    if (++runs < 8) throw unavailable();
  });
  for (let failures = 1; failures < 7; failures++) {
    await until('it has failed', () => runs >= failures);
    await delay(1);
    connected();
  }
  // Seven failures in a row would make it wait for 13 s.
  await until('it is done', () => publisher.backlog === 0);
  t.is(runs, 8);
});

test('what fails otherwise is tried again later, and later still, with a warning', async (t) => {
  const { publisher, lines } = setUp();
  const times: number[] = [];
  publisher.publish('a', async () => {
    times.push(performance.now());
    if (times.length < 3) throw new Error('refused');
  });
  await until('it is done', () => publisher.backlog === 0);
  t.true(times[1] - times[0] >= 190);
  t.true(times[2] - times[1] >= 390);
  t.is(lines.length, 2);
  t.true(lines[0].includes('refused'));
});

test('of several under one name the newest counts: one that runs is aborted, one that waits is dropped', async (t) => {
  const { publisher } = setUp();
  const done: string[] = [];
  let started = false;
  let aborted = false;
  publisher.publish(
    'a',
    (signal) =>
      new Promise((_, reject) => {
        started = true;
        signal.addEventListener('abort', () => {
          aborted = true;
          setTimeout(() => reject(signal.reason), 20);
        });
      }),
  );
  await until('it runs', () => started, 1000);
  publisher.publish('a', async () => void done.push('second'));
  publisher.publish('a', async () => void done.push('third'));
  t.true(aborted);
  t.deepEqual(done, []);
  t.true(await publisher.drain(1000));
  t.deepEqual(done, ['third']);

  publisher.publish('a', async () => {
    throw unavailable();
  });
  await delay(5);
  publisher.publish('a', async () => void done.push('at once'));
  await until('the new one does not wait for the delay of the old', () => publisher.backlog === 0, 100);
  t.deepEqual(done, ['third', 'at once']);
});

test('no more than 16 run at once, and all do', async (t) => {
  const { publisher } = setUp();
  let running = 0;
  let most = 0;
  let done = 0;
  for (let i = 0; i < 100; i++) {
    publisher.publish(`n${i}`, async () => {
      most = Math.max(most, ++running);
      await delay(1);
      running--;
      done++;
    });
  }
  t.true(await publisher.drain(5000));
  t.deepEqual([most, done], [16, 100]);
});

test('closed, it gives up what is pending and takes nothing more', async (t) => {
  const { publisher, listeners, lines } = setUp();
  let runs = 0;
  let aborted = false;
  publisher.publish('fails', async () => {
    runs++;
    throw new Error('refused');
  });
  publisher.publish('hangs', (signal) => {
    signal.addEventListener('abort', () => {
      aborted = true;
    });
    return new Promise(() => {});
  });
  await delay(5);
  t.false(await publisher.drain(30));
  publisher.close();
  t.true(aborted);
  t.is(listeners.size, 0);
  publisher.publish('late', async () => void runs++);
  await delay(300);
  t.is(runs, 1);
  t.is(publisher.backlog, 0);
  t.is(lines.length, 1);
});

test('nothing is written while it is paused, not even what is tried again', async (t) => {
  const { publisher, connected } = setUp();
  let runs = 0;
  publisher.pause();
  publisher.publish('a', async () => void runs++);
  await delay(10);
  connected();
  await delay(10);
  t.is(runs, 0);
  publisher.resume();
  t.true(await publisher.drain(1000));
  t.is(runs, 1);
});
