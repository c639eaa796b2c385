import { randomUUID } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import test from 'ava';
import fc from 'fast-check';
import { decodeMessage, type StateEntry, type StateSection } from '../../../src/agent/flow-state/message.js';
import { type GroupEntry, LinkCounters, PeerLink } from '../../../src/agent/flow-state/peer-link.js';

const GROUP = randomUUID();

/** Connections are numbers here: source ports. */
function entry(type: StateEntry['type'], srcPort: number): StateEntry {
  const original = { src: [1], dst: [2], srcPort: srcPort & 0xffff, dstPort: srcPort >>> 16 };
  const name = { family: 4, protocol: 17, original } as const;
  if (type !== 'present') return { type, connection: name };
  return { type, connection: { ...name, reply: original, answered: false, mark: 0, timeoutMs: 1000 } };
}

/** Two hosts, one of which has connections that the other is to know, and what lies between them. */
class World {
  now = 0;
  readonly has = new Set<number>();
  readonly knows = new Set<number>();
  readonly wire: { to: 'teller' | 'listener'; bytes: Uint8Array }[] = [];
  readonly counters = new LinkCounters();
  /** Messages that do not take effect: the next ones. */
  failures = 0;
  failed = 0;
  /** How often what the teller has cannot be read. */
  unreadable = 0;
  /** How often what a host has is being read, now and at most. */
  reading = 0;
  mostReading = 0;
  teller = this.link('teller');
  listener = this.link('listener');

  begin(): void {
    this.teller.begin(true);
    this.listener.begin(true);
  }

  set(port: number, isThere: boolean): void {
    if (isThere) this.has.add(port);
    else this.has.delete(port);
    this.teller.offer(GROUP, entry(isThere ? 'present' : 'gone', port));
    this.teller.flush();
  }

  /** The listener has forgotten all, as after a restart of its machine. */
  restartListener(): void {
    this.listener.close();
    this.knows.clear();
    this.listener = this.link('listener');
    this.listener.begin(true);
  }

  /** One datagram arrives, gets lost or comes twice. */
  async step(fate: 'arrives' | 'lost' | 'twice' | 'later'): Promise<void> {
    const next = this.wire.shift();
    if (next !== undefined) {
      if (fate === 'later') this.wire.push(next);
      else if (fate !== 'lost') {
        for (let i = fate === 'twice' ? 2 : 1; i > 0; i--) {
          this[next.to].receive(decodeMessage(next.bytes));
        }
      }
    }
    await nextTurn();
  }

  /** Nothing more is lost: both come to rest. */
  async settle(): Promise<void> {
    for (let round = 0; round < 200; round++) {
      while (this.wire.length > 0) await this.step('arrives');
      await nextTurn();
      if (this.teller.isSettled && this.listener.isSettled) return;
      this.now += 250;
      this.teller.tick();
      this.listener.tick();
    }
    throw new Error('the two do not come to rest');
  }

  private link(self: 'teller' | 'listener'): PeerLink {
    return new PeerLink({
      hostId: randomUUID(),
      send: (bytes) => this.wire.push({ to: self === 'teller' ? 'listener' : 'teller', bytes }),
      list: async () => {
        this.mostReading = Math.max(this.mostReading, ++this.reading);
        await nextTurn();
        this.reading--;
        if (self === 'teller' && this.unreadable > 0) {
          this.unreadable--;
          throw new Error('the datapath does not answer');
        }
        const all = self === 'teller' ? [...this.has] : [];
        return all.map((port): GroupEntry => ({ groupId: GROUP, entry: entry('present', port) }));
      },
      apply: async (sections) => {
        await nextTurn();
        if (this.failures > 0) {
          this.failures--;
          throw new Error('the datapath does not answer');
        }
        this.learn(sections);
      },
      counters: this.counters,
      clock: () => this.now,
      failed: () => {
        this.failed++;
      },
    });
  }

  private learn(sections: readonly StateSection[]): void {
    for (const { entries } of sections) {
      for (const { type, connection } of entries) {
        const port = connection.original.srcPort + connection.original.dstPort * 0x1_0000;
        if (type === 'present') this.knows.add(port);
        else this.knows.delete(port);
      }
    }
  }
}

function sorted(set: ReadonlySet<number>): number[] {
  return [...set].sort((a, b) => a - b);
}

test('property: whatever is lost, doubled or overtaken, in the end the other host knows what this one has', async (t) => {
  const happening = fc.oneof(
    { weight: 4, arbitrary: fc.record({ type: fc.constant('set' as const), port: fc.nat(5), there: fc.boolean() }) },
    {
      weight: 8,
      arbitrary: fc.record({
        type: fc.constant('step' as const),
        fate: fc.constantFrom('arrives' as const, 'lost' as const, 'twice' as const, 'later' as const),
      }),
    },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('wait' as const), ms: fc.constantFrom(250, 3000, 11_000) }) },
    { weight: 1, arbitrary: fc.constant({ type: 'restart' as const }) },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(happening, { maxLength: 60 }), async (happenings) => {
      const world = new World();
      world.begin();
      for (const one of happenings) {
        if (one.type === 'set') world.set(one.port, one.there);
        else if (one.type === 'step') await world.step(one.fate);
        else if (one.type === 'restart') world.restartListener();
        else {
          world.now += one.ms;
          world.teller.tick();
          world.listener.tick();
        }
      }
      await world.settle();
      // What ended unheard is no part of a listing: such copies end by themselves.
      for (const port of world.has) t.true(world.knows.has(port));
    }),
    { numRuns: 300 },
  );
});

test('what changes in order is known in order, also what ends', async (t) => {
  const world = new World();
  world.begin();
  await world.settle();
  for (let port = 0; port < 1000; port++) world.set(port, true);
  for (let port = 0; port < 1000; port += 2) world.set(port, false);
  await world.settle();
  t.deepEqual(sorted(world.knows), sorted(world.has));
  t.is(world.counters.sent, 1500);
  t.is(world.counters.received, 1500);
});

test('what is there at the beginning is told once, however much it is', async (t) => {
  const world = new World();
  for (let port = 0; port < 20_000; port++) world.has.add(port);
  world.begin();
  await world.settle();
  t.is(world.knows.size, 20_000);
  t.is(world.counters.received, 20_000);
});

test('a host that answers no more costs nothing, and is told all when it is back', async (t) => {
  const world = new World();
  world.begin();
  await world.settle();
  for (let round = 0; round < 60; round++) {
    for (let i = 0; i < 100; i++) world.set(100 * round + i, true);
    world.wire.length = 0;
    world.now += 250;
    world.teller.tick();
  }
  t.is(world.teller.unsent, 0, 'it is taken for gone');
  await world.settle();
  t.deepEqual(sorted(world.knows), sorted(world.has));
});

test('with too much to tell a host that is slow, what waits is given up, counted, and all is told anew', async (t) => {
  const world = new World();
  world.begin();
  await world.settle();
  for (let port = 0; port < 70_000; port++) world.set(port, true);
  t.true(world.counters.overflowed > 65_000);
  await world.settle();
  t.is(world.knows.size, 70_000);
});

test('what did not take effect is not acknowledged with what came behind it, but told again', async (t) => {
  const world = new World();
  world.begin();
  await world.settle();
  world.failures = 1;
  for (let port = 0; port < 10; port++) world.set(port, true);
  await world.settle();
  t.is(world.failed, 1);
  t.deepEqual(sorted(world.knows), sorted(world.has));
});

test('a beginning that is overtaken by the next one, whose acknowledgement is lost, does not keep the two apart', async (t) => {
  const world = new World();
  world.has.add(1);
  world.begin();
  world.teller.begin(false);
  const [first, , second] = world.wire.splice(0);
  for (const { bytes } of [second, first]) world.listener.receive(decodeMessage(bytes));
  await nextTurn();
  world.wire.length = 0;
  await world.settle();
  t.deepEqual(sorted(world.knows), [1]);
});

test('however many sessions begin, what there is to tell is read by one at a time', async (t) => {
  const world = new World();
  world.has.add(1);
  world.begin();
  await world.settle();
  for (let i = 0; i < 20; i++) {
    world.teller.begin(false);
    const messages = world.wire.splice(0);
    for (const { to, bytes } of messages) world[to].receive(decodeMessage(bytes));
    for (const { to, bytes } of world.wire.splice(0)) world[to].receive(decodeMessage(bytes));
  }
  await world.settle();
  t.is(world.mostReading, 1);
  t.deepEqual(sorted(world.knows), [1]);
});

test('what there is to tell is read again after a fault, but not at once', async (t) => {
  const world = new World();
  world.has.add(1);
  world.unreadable = 2;
  world.begin();
  await world.settle();
  t.deepEqual(sorted(world.knows), [1]);
  t.is(world.failed, 2);
  t.true(world.now >= 20_000);
});
