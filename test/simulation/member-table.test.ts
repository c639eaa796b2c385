import test from 'ava';
import fc from 'fast-check';
import { MemberTable, type TableMember } from '../../src/simulation/member-table.js';

const CLIENTS = Array.from({ length: 2000 }, (_, i) => Uint32Array.of(0x0a00_0000 + Math.imul(i, 7919)));

function members(count: number): TableMember[] {
  return Array.from({ length: count }, (_, i) => ({ id: `member-${i}`, weight: 1, isAvailable: true }));
}

function owners(table: MemberTable<TableMember>): (string | undefined)[] {
  return Array.from({ length: 2 ** table.bits }, (_, bucket) => table.ofBucket(bucket)?.id);
}

function clients(table: MemberTable<TableMember>): (string | undefined)[] {
  return CLIENTS.map((words) => table.ofClient(words, 0, 1)?.id);
}

function countOf<T>(values: readonly T[], value: T): number {
  return values.filter((one) => one === value).length;
}

/** How many change from `before` to `after`, of those for which `before` is not `own`. */
function movedOthers(before: readonly (string | undefined)[], after: readonly (string | undefined)[], own: string) {
  return before.filter((id, i) => id !== own && id !== after[i]).length;
}

const pools = fc.uniqueArray(
  fc.record({ id: fc.uuid(), weight: fc.integer({ min: 0, max: 20 }), isAvailable: fc.boolean() }),
  { selector: (one) => one.id, maxLength: 30, size: 'max' },
);
const poolsWithOne = fc
  .tuple(pools, fc.nat())
  .filter(([pool]) => pool.length > 0)
  .map(([pool, i]) => ({ pool, own: pool[i % pool.length].id }));

test('the order in which members are named makes no difference, and only members that take connections get any', (t) => {
  fc.assert(
    fc.property(pools, (pool) => {
      const table = new MemberTable(pool);
      const mirrored = new MemberTable([...pool].reverse());
      t.deepEqual(owners(table), owners(mirrored));
      t.deepEqual(clients(table), clients(mirrored));
      const taking: (string | undefined)[] = pool
        .filter((one) => one.isAvailable && one.weight > 0)
        .map(({ id }) => id);
      if (taking.length === 0) taking.push(undefined);
      for (const id of new Set([...owners(table), ...clients(table)])) t.true(taking.includes(id));
    }),
    { numRuns: 50 },
  );
});

test('shares are as the weights say', (t) => {
  for (const count of [1, 2, 7, 20, 100, 1000]) {
    const pool = members(count).map((one, i) => ({ ...one, weight: 1 + (i % 3) }));
    const total = pool.reduce((sum, one) => sum + one.weight, 0);
    const table = new MemberTable(pool);
    const buckets = owners(table);
    const placed = clients(table);
    for (const { id, weight } of pool) {
      const share = (buckets.length * weight) / total;
      t.true(Math.abs(countOf(buckets, id) - share) <= 1, `${count} members: ${countOf(buckets, id)} of ${share}`);
      const mean = (placed.length * weight) / total;
      t.true(Math.abs(countOf(placed, id) - mean) <= 6 * Math.sqrt(mean) + 3);
    }
  }
});

test('twenty members of one weight get the same within three percent', (t) => {
  const buckets = owners(new MemberTable(members(20)));
  const counts = members(20).map(({ id }) => countOf(buckets, id));
  t.true(Math.max(...counts) / Math.min(...counts) < 1.03);
});

test('a member that is not available moves its own buckets and clients, and gets back the same', (t) => {
  fc.assert(
    fc.property(poolsWithOne, ({ pool, own }) => {
      const set = (isAvailable: boolean) =>
        new MemberTable(pool.map((one) => (one.id === own ? { ...one, isAvailable } : one)));
      const up = set(true);
      const down = set(false);
      for (const see of [owners, clients]) {
        t.is(movedOthers(see(up), see(down), own), 0);
        t.is(countOf(see(down), own), 0);
      }
    }),
    { numRuns: 50 },
  );
});

test('property: a table that takes over from another one is as if it were new', (t) => {
  fc.assert(
    fc.property(pools, pools, fc.infiniteStream(fc.boolean()), (pool, others, coin) => {
      const changed = pool.map((one) => ({ ...one, isAvailable: coin.next().value }));
      for (const now of [
        changed,
        changed.slice(1),
        changed.map((one) => ({ ...one, weight: one.weight + 1 })),
        others,
      ]) {
        const before = new MemberTable<TableMember>(pool);
        const table = new MemberTable<TableMember>(now, before);
        t.deepEqual(owners(table), owners(new MemberTable(now)));
      }
    }),
    { numRuns: 50 },
  );
});

test('members of a large pool that stop to work do not have all its buckets placed anew', (t) => {
  let looks = 0;
  const pool = members(2000).map(({ id }, i) => ({
    id,
    isAvailable: i % 2 === 0,
    get weight() {
      looks++;
      return 1;
    },
  }));
  const before = new MemberTable<TableMember>(members(2000));
  const table = new MemberTable<TableMember>(pool, before);
  for (let bucket = 0; bucket < 10; bucket++) table.ofBucket(bucket);
  t.true(looks < 20 * pool.length, `${looks} looks at members`);
});

test('the buckets of a member that is not available are spread over the others', (t) => {
  const pool = members(20).map((one, i) => ({ ...one, isAvailable: i !== 3 }));
  const buckets = owners(new MemberTable(pool));
  const counts = pool.filter((one) => one.isAvailable).map(({ id }) => countOf(buckets, id));
  t.true(Math.max(...counts) < 1.2 * (buckets.length / 19));
});

test('a client moves only if its own member is removed', (t) => {
  fc.assert(
    fc.property(poolsWithOne, ({ pool, own }) => {
      const before = clients(new MemberTable(pool));
      const after = clients(new MemberTable(pool.filter((one) => one.id !== own)));
      t.is(movedOthers(before, after, own), 0);
    }),
    { numRuns: 50 },
  );
});

test('a member that is added or removed, or whose weight changes, moves few buckets beyond its own', (t) => {
  for (const count of [5, 10, 20, 100, 500]) {
    const pool = members(count);
    const before = owners(new MemberTable(pool));
    const removed = owners(new MemberTable(pool.slice(1)));
    const doubled = owners(new MemberTable(pool.map((one, i) => ({ ...one, weight: i === 0 ? 2 : 1 }))));
    t.is(removed.length, before.length);
    const beyondRemoved = movedOthers(before, removed, pool[0].id) / before.length;
    const gained = countOf(doubled, pool[0].id) - countOf(before, pool[0].id);
    const beyondGained = (before.filter((id, i) => id !== doubled[i]).length - gained) / before.length;
    t.log(`${count} members: beyond its own ${beyondRemoved.toFixed(4)} and ${beyondGained.toFixed(4)}`);
    t.true(beyondRemoved < 0.1);
    t.true(beyondGained < 0.1);
  }
});

test('IPv6 clients are told apart by their whole address', (t) => {
  const table = new MemberTable(members(10));
  for (let word = 0; word < 4; word++) {
    const found = new Set(
      Array.from(
        { length: 200 },
        (_, i) => table.ofClient(Uint32Array.of(1, 2, 3, 4).fill(i, word, word + 1), 0, 4)?.id,
      ),
    );
    t.is(found.size, 10);
  }
});
