import test from 'ava';
import type { Cell } from '../../../src/agent/facts/cell.js';
import { RecirculationTable } from '../../../src/agent/forwarding/recirculation-table.js';
import { NO_RECIRCULATION, type Recirculation, recirculationHash } from '../../../src/simulation/connection.js';

const ASKED: Recirculation = { ...NO_RECIRCULATION, direction: 'key' };
const HASHED: Recirculation = { ...ASKED, isHashed: true };

function newTable() {
  const clock = { now: 1_000_000 };
  const used = new Set<number>();
  const changed: Cell<unknown>[] = [];
  const table = new RecirculationTable(
    (id) => used.has(id),
    (cell) => changed.push(cell),
    () => clock.now,
  );
  const pass = (milliseconds: number) => {
    clock.now += milliseconds;
    table.tick();
  };
  return { table, used, changed, pass };
}

test('what was learnt is found by its identifier, the same for the same content', (t) => {
  const { table } = newTable();
  const id = table.idOf(ASKED);
  t.is(id, recirculationHash(ASKED));
  table.learn([{ id, recirculation: ASKED }]);
  t.deepEqual(table.get(id).value, ASKED);
  t.is(table.idOf({ ...ASKED }), id);
  t.not(table.idOf(HASHED), id);
});

test('two contents with one hash get numbers of their own', (t) => {
  const { table } = newTable();
  const id = recirculationHash(ASKED);
  table.learn([{ id, recirculation: HASHED }]);
  t.is(table.idOf(ASKED), id + 1);
  table.learn([{ id: id + 1, recirculation: ASKED }]);
  t.is(table.idOf(ASKED), id + 1);
});

test('one that flows send to is kept, and given up a while after the last of them', (t) => {
  const { table, used, pass } = newTable();
  const id = table.idOf(ASKED);
  table.learn([{ id, recirculation: ASKED }]);
  used.add(id);
  pass(60_000);
  pass(60_000);
  t.deepEqual(table.get(id).value, ASKED);
  used.delete(id);
  table.released(id);
  pass(5000);
  t.deepEqual(table.get(id).value, ASKED);
  pass(5000);
  t.is(table.size, 0);
});

test('a flow that takes packets of one that was given up is told, and the identifier may be used again', (t) => {
  const { table, changed, pass } = newTable();
  const id = table.idOf(ASKED);
  table.learn([{ id, recirculation: ASKED }]);
  const cell = table.get(id);
  cell.flows.add(1);
  changed.length = 0;
  pass(10_000);
  t.deepEqual(changed, [cell]);
  t.is(cell.value, null);
  table.learn([{ id, recirculation: ASKED }]);
  t.deepEqual(changed, [cell, cell]);
  t.is(table.get(id), cell);
  cell.flows.clear();
  pass(10_000);
  t.is(table.size, 0);
});

test('one that only flows of the last run use is unknown until they are simulated, or none of them sends to it', (t) => {
  const { table, used, changed, pass } = newTable();
  const id = recirculationHash(ASKED);
  const cell = table.get(id);
  used.add(id);
  pass(60_000);
  t.is(cell.value, undefined);
  t.is(table.idOf(ASKED), id);
  table.learn([{ id, recirculation: ASKED }]);
  t.deepEqual(changed, [cell]);

  const other = table.get(id + 1);
  pass(10_000);
  t.deepEqual(changed, [cell, other]);
  t.is(table.size, 1);
});

test('one that is learnt again and again does not keep others from being given up', (t) => {
  const { table, pass } = newTable();
  const id = table.idOf(ASKED);
  table.learn([{ id, recirculation: ASKED }]);
  table.get(12345);
  for (let i = 0; i < 10; i++) {
    table.learn([{ id, recirculation: ASKED }]);
    pass(1000);
  }
  t.is(table.size, 1);
});
