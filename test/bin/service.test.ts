import test from 'ava';
import { pino } from 'pino';
import { DatapathWatch } from '../../src/bin/datapath-watch.js';
import { Closers, type Service, serve } from '../../src/bin/service.js';
import { DatapathError } from '../../src/datapath/errors.js';

const log = pino({ level: 'silent' });
const never = new Promise<never>(() => undefined);

test('one closer that throws does not keep the rest from being closed', async (t) => {
  const closed: string[] = [];
  const closers = new Closers(log);
  closers.add(() => void closed.push('first'));
  closers.add(() => Promise.reject(new Error('busy')));
  closers.add(() => void closed.push('last'));
  await closers.close();
  await closers.close();
  t.deepEqual(closed, ['last', 'first']);
});

test('a stop while starting is no error, whatever the start fails with', async (t) => {
  const stop = new AbortController();
  const start = async () => {
    stop.abort();
    throw new TypeError('socket closed');
  };
  await t.notThrowsAsync(serve(start, log, stop.signal));
});

test('what has started when it is to stop is closed', async (t) => {
  const stop = new AbortController();
  let closed = 0;
  const service: Service = {
    failed: never,
    close: async () => {
      closed += 1;
    },
  };
  await serve(
    async () => {
      stop.abort();
      return service;
    },
    log,
    stop.signal,
  );
  t.is(closed, 1);
});

test('it is said to be ready when it can do its work, and not before', async (t) => {
  const stop = new AbortController();
  const told: string[] = [];
  const telling = { info: (text: string) => told.push(text), warn: () => {}, error: () => {} } as unknown as typeof log;
  let work = () => {};
  const ready = new Promise<void>((resolve) => {
    work = resolve;
  });
  const serving = serve(async () => ({ ready, failed: never, close: async () => {} }), telling, stop.signal);
  await new Promise(setImmediate);
  t.deepEqual(told, []);
  work();
  await new Promise(setImmediate);
  t.deepEqual(told, ['ready']);
  stop.abort();
  await serving;
});

test('a start that fails is an error', async (t) => {
  const start = () => Promise.reject(new Error('no'));
  await t.throwsAsync(serve(start, log, new AbortController().signal), { message: 'no' });
});

test('a service that fails is closed, and what it failed with is the error', async (t) => {
  let closed = 0;
  const failed = Promise.reject(new Error('gone'));
  failed.catch(() => undefined);
  const service: Service = {
    failed,
    close: () => {
      closed += 1;
      return Promise.reject(new Error('cannot close either'));
    },
  };
  await t.throwsAsync(
    serve(async () => service, log, new AbortController().signal),
    { message: 'gone' },
  );
  t.is(closed, 1);
});

test('a datapath that is gone is told, other errors pass', async (t) => {
  const answers = [undefined, new Error('ENOMEM'), undefined, new DatapathError('not-found', 'ENODEV')];
  const ports = async () => {
    const error = answers.shift();
    if (error !== undefined) throw error;
    return [];
  };
  const watch = new DatapathWatch({ ports }, 'one', 1);
  await t.throwsAsync(watch.failed, { instanceOf: DatapathError, message: /datapath "one" is gone.*ENODEV/ });
  t.is(answers.length, 0);
  watch.close();
});
