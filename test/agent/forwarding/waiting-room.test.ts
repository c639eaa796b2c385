import test from 'ava';
import { Cell } from '../../../src/agent/facts/cell.js';
import { WaitingRoom } from '../../../src/agent/forwarding/waiting-room.js';
import type { Upcall } from '../../../src/datapath/datapath.js';
import { FlowKey } from '../../../src/flow/key.js';
import type { Fact, PortFact } from '../../../src/simulation/fact.js';

function cell(tag = 'fact'): Cell<unknown> {
  return new Cell<unknown>(tag, { onChange: () => {} });
}

function upcall(port: number, text = 'packet', complete = true): Upcall {
  const key = new FlowKey();
  key.inPort = port;
  return { reason: 'miss', key, packet: Buffer.from(text), userdata: undefined, complete };
}

function setUp() {
  const clock = { now: 0 };
  return { clock, room: new WaitingRoom(() => clock.now) };
}

test('packets wait until all their facts are there, those of one key together and in order', (t) => {
  const { room } = setUp();
  const [a, b] = [cell('a'), cell('b')];
  const first = upcall(1, 'first');
  t.is(room.join(first), 'alone');
  t.true(room.park([a, b], first));
  // The datapath's buffer is not valid any more.
  first.packet.fill(0);
  first.key.inPort = 9;
  t.is(room.join(upcall(1, 'second')), 'joined');
  t.is(room.join(upcall(2)), 'alone');
  t.true(room.park([b], upcall(2, 'other')));
  t.is(room.size, 3);
  a.set(null);
  t.deepEqual(room.factChanged(a), []);
  b.set(1);
  const ready = room.factChanged(b);
  t.deepEqual(
    ready.map((parked) => parked.packets.map(({ bytes }) => Buffer.from(bytes).toString())),
    [['first', 'second'], ['other']],
  );
  t.is(ready[0].key.inPort, 1);
  t.is(room.size, 0);
  t.deepEqual(room.factChanged(b), []);
  t.is(room.join(upcall(1)), 'alone');
});

test('who needs yet another fact goes on waiting, for what is left of the time', (t) => {
  const { room, clock } = setUp();
  const [a, b] = [cell('a'), cell('b')];
  room.park([a], upcall(1));
  clock.now = 3000;
  a.set(1);
  const [parked] = room.factChanged(a);
  room.parkAgain(parked, [b]);
  t.is(room.size, 1);
  t.is(room.join(upcall(1)), 'joined');
  clock.now = 4999;
  t.deepEqual(room.expire(), []);
  clock.now = 5000;
  t.deepEqual(room.expire(), [parked]);
  t.is(room.size, 0);
  b.set(1);
  t.deepEqual(room.factChanged(b), []);
});

test('of one key 16 packets wait, of all 1024', (t) => {
  const { room } = setUp();
  const a = cell();
  room.park([a], upcall(1));
  for (let i = 1; i < 16; i++) t.is(room.join(upcall(1)), 'joined');
  t.is(room.join(upcall(1)), 'full');
  for (let i = 16; i < 1024; i++) t.true(room.park([a], upcall(i + 1)));
  t.false(room.park([a], upcall(5000)));
  t.is(room.join(upcall(20)), 'full');
  t.is(room.size, 1024);
  a.set(1);
  t.is(room.factChanged(a).length, 1 + 1024 - 16);
  t.true(room.park([a], upcall(1)));
});

test('64 kinds of packets wait from one datapath port, and as many of each port of a router', (t) => {
  const { room } = setUp();
  const facts = [cell()];
  const [up, down] = [cell('up'), cell('down')] as unknown as Fact<PortFact>[];
  const packet = (i: number, port: number, sender?: Fact<PortFact>) => {
    const waiting = { ...upcall(port), sender };
    waiting.key.tpDst = i;
    return waiting;
  };
  const places: [number, Fact<PortFact>?][] = [[0], [7], [0, up], [0, down]];
  for (const [port, sender] of places) {
    for (let i = 0; i < 64; i++) t.true(room.park(facts, packet(i, port, sender)));
    t.false(room.hasRoom(packet(64, port, sender)));
    t.false(room.park(facts, packet(64, port, sender)));
  }
});
