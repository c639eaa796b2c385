import test from 'ava';
import { Cell, type CellOptions } from '../../../src/agent/facts/cell.js';

function setUp(options: Partial<CellOptions<number>> = {}) {
  const seen: (number | null | undefined)[] = [];
  const watches: { closed: boolean }[] = [];
  const forgotten: Cell<number>[] = [];
  const cell = new Cell<number>('fact', {
    onChange: (changed) => seen.push((changed as Cell<number>).value),
    subscribe: () => {
      const watch = {
        closed: false,
        ready: Promise.resolve(),
        close: () => {
          watch.closed = true;
        },
      };
      watches.push(watch);
      return watch;
    },
    forget: (self) => void forgotten.push(self),
    ...options,
  });
  return { cell, seen, watches, forgotten };
}

test('tells of each change of its value, and of nothing else', (t) => {
  const { cell, seen } = setUp();
  t.is(cell.value, undefined);
  cell.set(1);
  cell.set(1);
  cell.set(null);
  cell.set(null);
  cell.set(2);
  t.deepEqual(seen, [1, null, 2]);
  cell.touch();
  t.deepEqual(seen, [1, null, 2, 2]);
});

test('values that mean the same are no change, but the newest counts', (t) => {
  const { cell, seen } = setUp({ same: (a, b) => Math.floor(a) === Math.floor(b) });
  cell.set(1.2);
  cell.set(1.7);
  t.is(cell.value, 1.7);
  cell.set(2);
  t.deepEqual(seen, [1.2, 2]);
});

test('what is known here hides what the source says, and gives way to it', (t) => {
  const { cell, seen, watches } = setUp();
  cell.setLocal(7);
  cell.start();
  cell.start();
  t.is(watches.length, 1);
  cell.set(null);
  cell.set(5);
  t.is(cell.value, 7);
  t.deepEqual(seen, [7]);
  cell.setLocal(undefined);
  t.is(cell.value, 5);
  t.deepEqual(seen, [7, 5]);
  t.false(cell.isLocal);
});

test('without a source behind it, it is not in hand when it is not known here any more', (t) => {
  const { cell, seen, watches } = setUp();
  cell.setLocal(7);
  cell.flows.add(1);
  cell.setLocal(undefined);
  t.deepEqual(seen, [7, undefined]);
  // The flow that carries it is revisited, and that loads it.
  t.is(watches.length, 0);
});

test('stopped, it forgets what the source said and is forgotten, unless it is known here', (t) => {
  const { cell, watches, forgotten } = setUp();
  cell.start();
  cell.set(3);
  cell.stop();
  t.true(watches[0].closed);
  t.is(cell.value, undefined);
  t.deepEqual(forgotten, [cell]);
  cell.start();
  t.is(watches.length, 2);
  cell.setLocal(8);
  cell.stop();
  t.is(cell.value, 8);
  t.is(forgotten.length, 1);
});

test('what only a packet has named is not kept when nobody waits for it', (t) => {
  const { cell, forgotten } = setUp({ namedByPackets: true });
  cell.flows.add(1);
  cell.discard();
  cell.flows.delete(1);
  cell.setLocal(7);
  cell.discard();
  cell.setLocal(undefined);
  cell.start();
  cell.discard();
  t.deepEqual(forgotten, []);
  cell.stop();
  forgotten.length = 0;
  cell.discard();
  t.deepEqual(forgotten, [cell]);
  const other = setUp();
  other.cell.discard();
  t.deepEqual(other.forgotten, [], 'other facts lead to it, so it is found by them');
});
