import test from 'ava';
import { pino } from 'pino';
import { Cell } from '../../../src/agent/facts/cell.js';
import { Meters } from '../../../src/agent/facts/meters.js';
import { MemoryNetwork } from '../../../src/datapath/memory/network.js';
import { until } from '../until.js';

const LIMIT = { rate: 1000, burst: 800 };

function setUp(count: number) {
  const network = new MemoryNetwork({ now: () => 0, features: { meters: count } });
  const datapath = network.node(1).datapath('dp');
  const warnings: string[] = [];
  const log = pino({ level: 'warn' }, { write: (line: string) => warnings.push(line) });
  const source = { cell: <T>(tag: string, options: object) => new Cell<T>(tag, { ...options, onChange: () => {} }) };
  const meters = new Meters(source, datapath, log);
  const loaded = async (cell: Cell<number>) => {
    cell.start();
    await until('the meter is there', () => cell.value !== undefined);
    return cell.value;
  };
  return { datapath, meters, loaded, warnings };
}

test('a meter is there before it is known, and its number is free again when it is gone', async (t) => {
  const { datapath, meters, loaded } = setUp(10);
  const first = meters.meter('a', LIMIT);
  t.is(meters.meter('a', LIMIT), first);
  t.is(await loaded(first), 0);
  t.not(await datapath.meter(0), undefined);
  t.is(await loaded(meters.meter('b', LIMIT)), 1);
  first.stop();
  await until('the first is gone', () => meters.size === 1);
  t.is(await datapath.meter(0), undefined);
  t.is(await loaded(meters.meter('a', { rate: 2000, burst: 800 })), 0);
});

test('where the datapath has no meter left a rate is not limited, which is told once', async (t) => {
  const { meters, loaded, warnings } = setUp(1);
  t.is(await loaded(meters.meter('a', LIMIT)), 0);
  t.is(await loaded(meters.meter('b', LIMIT)), null);
  t.is(await loaded(meters.meter('c', LIMIT)), null);
  t.is(warnings.length, 1);
  t.regex(warnings[0], /not limited/);
});

test('meters of an earlier run go, but for those that flows use', async (t) => {
  const { datapath, meters, loaded } = setUp(1000);
  for (const id of [0, 1, 2, 30, 31]) await datapath.putMeter(id, { unit: 'kilobits', rate: 1, burst: 1 });
  t.is(await loaded(meters.meter('a', LIMIT)), 0);
  await meters.removeLeftOvers((id) => id === 2 || id === 30);
  const left = await Promise.all([0, 1, 2, 30, 31].map(async (id) => (await datapath.meter(id)) !== undefined));
  t.deepEqual(left, [true, false, true, true, false]);
});

test('a refused meter is told, and its port has no limit', async (t) => {
  const { datapath, meters, loaded, warnings } = setUp(1);
  await datapath.close();
  t.is(await loaded(meters.meter('a', LIMIT)), null);
  t.is(warnings.length, 1);
});

test('meters stay in the datapath when the agent stops', async (t) => {
  const { datapath, meters, loaded } = setUp(1);
  const cell = meters.meter('a', LIMIT);
  await loaded(cell);
  meters.close();
  cell.stop();
  await new Promise((resolve) => setImmediate(resolve));
  t.not(await datapath.meter(0), undefined);
});
