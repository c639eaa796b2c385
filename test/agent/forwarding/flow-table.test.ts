import test from 'ava';
import fc from 'fast-check';
import { Cell } from '../../../src/agent/facts/cell.js';
import { type FlowRecord, FlowTable } from '../../../src/agent/forwarding/flow-table.js';
import type { Action } from '../../../src/flow/action.js';
import { FlowKey } from '../../../src/flow/key.js';
import { FlowMask } from '../../../src/flow/mask.js';

function cell(tag: string): Cell<unknown> {
  return new Cell<unknown>(tag, { onChange: () => {} });
}

function keyFor(port: number, mac = 0): FlowKey {
  const key = new FlowKey();
  key.inPort = port;
  key.ethSrc = mac;
  return key;
}

function record(table: FlowTable, port: number, options: Partial<FlowRecord> = {}): FlowRecord {
  const mask = new FlowMask();
  mask.seeInPort();
  return {
    id: table.newId(),
    key: keyFor(port),
    mask,
    actions: [],
    tags: [],
    learned: [],
    pinned: false,
    putAt: 0,
    checkAt: 10,
    ...options,
  };
}

test('finds a flow by packet, by mask and by id, until it is removed', (t) => {
  const table = new FlowTable();
  const one = record(table, 1);
  const mask = new FlowMask();
  mask.seeInPort();
  mask.seeEthSrc();
  const two = record(table, 2, { key: keyFor(2, 5), mask });
  table.add(one);
  table.add(two);
  t.is(table.lookup(keyFor(1, 77)), one);
  t.is(table.lookup(keyFor(2, 5)), two);
  t.is(table.lookup(keyFor(2, 6)), undefined);
  t.is(table.find(keyFor(1), one.mask), one);
  t.is(table.find(keyFor(1), mask), undefined);
  t.is(table.get(two.id), two);
  t.deepEqual([table.size, table.masks], [2, 2]);
  table.remove(two, 0);
  table.remove(two, 0);
  t.is(table.lookup(keyFor(2, 5)), undefined);
  t.deepEqual([table.size, table.masks], [1, 1]);
});

test('never gives an id twice, nor one that an adopted flow has', (t) => {
  const table = new FlowTable();
  const first = table.newId();
  table.add(record(table, 1, { id: 500 }));
  const ids = [first, table.newId(), table.newId()];
  t.deepEqual(ids, [1, 501, 502]);
});

test('flows that send to a port are found by it, in copies too, as long as they do', (t) => {
  const table = new FlowTable();
  const output = (port: number): Action => ({ type: 'output', port });
  const flow = record(table, 1, {
    actions: [output(2), { type: 'clone', actions: [{ type: 'clone', actions: [output(3)] }] }],
  });
  table.add(flow);
  for (const port of [1, 2, 3]) t.deepEqual(table.touching(port), [flow], `port ${port}`);
  table.setActions(flow, [output(4)]);
  t.deepEqual(
    [1, 2, 3, 4].map((port) => table.touching(port).length),
    [1, 0, 0, 1],
  );
  table.remove(flow, 0);
  t.deepEqual([...table.touching(1), ...table.touching(4)], []);
});

test('it is known whether packets come back by an identifier, and told when none does any more', (t) => {
  const unused: number[] = [];
  const table = new FlowTable((id) => unused.push(id));
  const recirc = (id: number): Action => ({ type: 'recirc', id });
  const one = record(table, 1, { actions: [{ type: 'clone', actions: [recirc(7)] }, recirc(8)] });
  const two = record(table, 2, { actions: [recirc(7)] });
  table.add(one);
  table.add(two);
  t.deepEqual(
    [7, 8, 9].map((id) => table.recirculates(id)),
    [true, true, false],
  );
  table.setActions(one, [recirc(9)]);
  t.deepEqual(
    [7, 8, 9].map((id) => table.recirculates(id)),
    [true, false, true],
  );
  table.remove(two, 0);
  t.deepEqual(unused, [8, 7]);
  t.false(table.recirculates(7));
});

test('a fact knows the flows that carry it, and since when there are none', (t) => {
  const table = new FlowTable();
  const [a, b, c] = ['a', 'b', 'c'].map(cell);
  const one = record(table, 1, { tags: [a, b] });
  const two = record(table, 2, { tags: [b] });
  table.add(one);
  table.add(two);
  t.deepEqual([...b.flows], [1, 2]);
  table.retag(one, [b, c], 100);
  t.deepEqual([...a.flows], []);
  t.is(a.idleSince, 100);
  t.deepEqual([...c.flows], [1]);
  table.remove(two, 200);
  t.is(b.idleSince, undefined);
  table.remove(one, 300);
  t.deepEqual([b.idleSince, c.idleSince], [300, 300]);
  table.add(record(table, 3, { tags: [b] }));
  t.is(b.idleSince, undefined);
});

test('flows are due in the second they were told, used ones later, pinned ones never', (t) => {
  const table = new FlowTable();
  const [one, two, three] = [10, 11, 10].map((checkAt, i) => record(table, i, { checkAt, pinned: i === 2 }));
  for (const flow of [one, two, three]) table.add(flow);
  t.deepEqual(table.takeDue(9), []);
  t.deepEqual(table.takeDue(10), [one]);
  t.deepEqual(table.takeDue(10), []);
  table.used(one, 20);
  table.pin(two);
  t.deepEqual(table.takeDue(19), []);
  t.deepEqual(table.takeDue(25), [one]);
  table.remove(one, 0);
  table.used(one, 30);
  t.deepEqual(table.takeDue(100), []);
});

test('the flow that was not used for longest is given up first, pinned ones never', (t) => {
  const table = new FlowTable();
  const flows = [1, 2, 3].map((port) => record(table, port));
  for (const flow of flows) table.add(flow);
  t.is(table.leastRecentlyUsed(), flows[0]);
  table.used(flows[0], 12);
  t.is(table.leastRecentlyUsed(), flows[1]);
  table.pin(flows[1]);
  t.is(table.leastRecentlyUsed(), flows[2]);
  table.remove(flows[2], 0);
  table.remove(flows[0], 0);
  t.is(table.leastRecentlyUsed(), undefined);
});

test('property: the flow to give up is the first in order of use, whatever was pinned, used, added and removed', (t) => {
  const step = fc.tuple(fc.constantFrom('add', 'add pinned', 'use', 'pin', 'remove', 'evict'), fc.nat());
  const property = fc.property(fc.array(step, { maxLength: 200, size: 'max' }), (steps) => {
    const table = new FlowTable();
    const all: FlowRecord[] = [];
    let order: FlowRecord[] = [];
    for (const [what, which] of steps) {
      if (what === 'add' || what === 'add pinned') {
        const added = record(table, all.length + 1, { pinned: what === 'add pinned' });
        table.add(added);
        all.push(added);
        if (what === 'add') order.push(added);
      } else if (what === 'evict') {
        const victim = table.leastRecentlyUsed();
        if (victim !== order[0]) return false;
        if (victim !== undefined) table.remove(victim, 0);
        order = order.slice(1);
      } else if (all.length > 0) {
        const flow = all[which % all.length];
        const before = order.length;
        const others = order.filter((other) => other !== flow);
        if (what === 'use') table.used(flow, 10);
        else if (what === 'pin') table.pin(flow);
        else table.remove(flow, 0);
        order = what === 'use' && others.length < before ? [...others, flow] : others;
      }
    }
    return table.leastRecentlyUsed() === order[0];
  });
  t.notThrows(() => fc.assert(property));
});

test('to give a flow up takes as long with many pinned and many that are gone as with none', (t) => {
  const evictAll = (pinned: number): number => {
    const table = new FlowTable();
    for (let i = 0; i < pinned; i++) table.add(record(table, 100_000 + i, { pinned: true }));
    for (let i = 0; i < 4000; i++) table.add(record(table, i));
    const start = performance.now();
    for (let i = 0; i < 4000; i++) table.remove(table.leastRecentlyUsed()!, 0);
    return performance.now() - start;
  };
  evictAll(0);
  const without = Math.min(evictAll(0), evictAll(0), evictAll(0));
  const withMany = Math.min(evictAll(20_000), evictAll(20_000), evictAll(20_000));
  t.true(withMany < 20 * without + 20, `${withMany} ms, without pinned flows ${without} ms`);
});
