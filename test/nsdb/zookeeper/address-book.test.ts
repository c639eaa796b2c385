import test from 'ava';
import { AddressBook } from '../../../src/nsdb/zookeeper/address-book.js';
import { nameOf, type Target } from '../../../src/nsdb/zookeeper/connect-string.js';

const { signal } = new AbortController();

function names(targets: readonly Target[]): string[] {
  return targets.map(nameOf).sort();
}

test('a name stands for all its addresses, and they are asked for anew every time', async (t) => {
  let answer = ['10.0.0.1', '10.0.0.2'];
  const book = new AddressBook({
    targets: [
      { host: 'zk', port: 2181 },
      { host: '10.0.0.9', port: 2182 },
    ],
    resolve: async () => answer,
    onError: (error) => t.fail(error.message),
  });
  const found = await book.addresses(undefined, signal);
  t.deepEqual(names(found), ['10.0.0.1:2181', '10.0.0.2:2181', '10.0.0.9:2182']);
  t.is(found.filter((target) => 'name' in target && target.name === 'zk').length, 2, 'for the certificate');
  answer = ['10.0.0.3'];
  t.deepEqual(names(await book.addresses(undefined, signal)), ['10.0.0.3:2181', '10.0.0.9:2182']);
});

test('every order is possible, but the server that was last comes last', async (t) => {
  const targets = [1, 2, 3].map((n) => ({ host: `10.0.0.${n}`, port: 2181 }));
  const book = new AddressBook({ targets, onError: () => {} });
  const firsts = new Set<string>();
  for (let i = 0; i < 200; i++) {
    const order = (await book.addresses(targets[1], signal)).map(nameOf);
    t.is(order[2], '10.0.0.2:2181');
    firsts.add(order[0]);
  }
  t.deepEqual([...firsts].sort(), ['10.0.0.1:2181', '10.0.0.3:2181']);
});

test('a name service that fails or falls silent does not hide what was found before', async (t) => {
  let asked = 0;
  let behaviour: () => Promise<string[]> = async () => ['10.0.0.1'];
  const errors: string[] = [];
  const book = new AddressBook({
    targets: [{ host: 'zk', port: 2181 }],
    resolve: () => {
      asked++;
      return behaviour();
    },
    onError: (error) => errors.push(error.message),
  });
  await book.addresses(undefined, signal);
  behaviour = async () => {
    throw new Error('no such name');
  };
  t.deepEqual(names(await book.addresses(undefined, signal)), ['10.0.0.1:2181']);
  t.deepEqual(errors, ['no such name']);
  let answer = (_addresses: string[]) => {};
  behaviour = () =>
    new Promise((resolve) => {
      answer = resolve;
    });
  t.deepEqual(names(await book.addresses(undefined, signal)), ['10.0.0.1:2181']);
  t.deepEqual(names(await book.addresses(undefined, signal)), ['10.0.0.1:2181']);
  t.is(asked, 3, 'one question at a time');
  answer(['10.0.0.2']);
  behaviour = async () => ['10.0.0.2'];
  t.deepEqual(names(await book.addresses(undefined, signal)), ['10.0.0.2:2181']);
});

test('waiting for a name that does not come ends with the signal', async (t) => {
  const abort = new AbortController();
  const book = new AddressBook({
    targets: [{ host: 'zk', port: 2181 }],
    resolve: () => new Promise(() => {}),
    onError: () => {},
  });
  const waiting = book.addresses(undefined, abort.signal);
  abort.abort();
  t.deepEqual(await waiting, []);
});
