import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import test from 'ava';
import fc from 'fast-check';
import { StoreUnavailableError } from '../../../src/nsdb/store.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { Fifo } from '../../../src/nsdb/zookeeper/fifo.js';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

/** Memory outside of the heap is given back some time after its objects; a WeakRef holds on until the turn is over. */
async function collectGarbage(): Promise<void> {
  for (let i = 0; i < 3; i++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    gc();
  }
}

test('a call that timed out without a server leaves nothing in memory', async (t) => {
  const store = new ZookeeperStore({ connect: 'unix:/nonexistent/socket', operationTimeout: 20 });
  await collectGarbage();
  const before = process.memoryUsage().arrayBuffers;
  const data = new Uint8Array(500_000);
  for (let round = 0; round < 10; round++) {
    const calls = Array.from({ length: 10 }, () => store.create('/a', data));
    for (const call of await Promise.allSettled(calls)) {
      t.true(call.status === 'rejected' && call.reason instanceof StoreUnavailableError);
    }
  }
  await collectGarbage();
  const kept = process.memoryUsage().arrayBuffers - before;
  await store.close();
  // Of 100 MB, all but perhaps what the last round's promises still refer to.
  t.true(kept < 20_000_000, `${kept} bytes`);
});

test('a queue gives what was put in, in order', (t) => {
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 5000, size: 'max' }), (puts) => {
      const queue = new Fifo<number>();
      const model: number[] = [];
      puts.forEach((put, n) => {
        if (put) {
          queue.push(n);
          model.push(n);
        } else t.is(queue.shift(), model.shift());
      });
      t.is(queue.size, model.length);
      t.is(queue.peek(), model[0]);
      t.deepEqual(queue.takeAll(), model);
      t.is(queue.shift(), undefined);
    }),
    { numRuns: 20 },
  );
});

test('what was taken out of a queue can be collected', async (t) => {
  const queue = new Fifo<object>();
  let item: object | undefined = {};
  const taken = new WeakRef(item);
  queue.push(item);
  queue.push({});
  item = undefined;
  queue.shift();
  await collectGarbage();
  t.is(taken.deref(), undefined);
  t.is(queue.size, 1);
});
