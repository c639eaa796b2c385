import test from 'ava';
import fc from 'fast-check';
import { defaultBlockSize, PoolLayout, SHARD_BLOCKS } from '../../src/ipam/pool-layout.js';
import { formatIp, parseCidr, parseIp } from '../../src/packet/ip.js';
import { idFromName } from '../../src/topology/id.js';
import type { AddressPool } from '../../src/topology/types.js';

const bridgeId = idFromName('bridge', 'test');
const pool = (cidr: string, blockSize: number, gateway?: string): AddressPool => ({
  id: idFromName('pool', bridgeId, cidr),
  bridgeId,
  cidr,
  blockSize,
  gateway,
});

test('a pool divides into blocks named by their first address', (t) => {
  const layout = new PoolLayout(pool('10.0.0.0/24', 26, '10.0.0.1'));
  t.is(layout.blockCount, 4);
  t.is(layout.blockCapacity, 64);
  t.deepEqual(
    [0, 1, 2, 3].map((n) => layout.nth(n)),
    ['0a000000', '0a000040', '0a000080', '0a0000c0'],
  );
  t.is(layout.blockOf(parseIp('10.0.0.127')!), '0a000040');
  t.is(layout.describe('0a000040'), '10.0.0.64/26');
  const first = layout.addresses('0a000000');
  t.is(first.length, 62);
  t.is(first[0], '10.0.0.2');
  const last = layout.addresses('0a0000c0');
  t.is(last.length, 63);
  t.is(last.at(-1), '10.0.0.254');
});

test('reserved addresses are named', (t) => {
  const v4 = new PoolLayout(pool('10.0.0.0/24', 26, '10.0.0.1'));
  t.regex(v4.reservedAs('10.0.0.0')!, /network/);
  t.regex(v4.reservedAs('10.0.0.255')!, /broadcast/);
  t.regex(v4.reservedAs('10.0.0.1')!, /gateway/);
  t.is(v4.reservedAs('10.0.0.63'), undefined);
  const v6 = new PoolLayout(pool('fd00::/64', 122, 'fd00::1'));
  t.regex(v6.reservedAs('fd00::')!, /anycast/);
  t.is(v6.reservedAs('fd00::ffff:ffff:ffff:ffff'), undefined);
  const pointToPoint = new PoolLayout(pool('10.0.0.0/31', 31));
  t.deepEqual(pointToPoint.addresses('0a000000'), ['10.0.0.0', '10.0.0.1']);
});

test('a large IPv6 pool: blocks far apart, all in 4096 folders', (t) => {
  const layout = new PoolLayout(pool('fd00:0:0:1::/64', 122));
  t.is(layout.blockCount, 2 ** 24);
  t.is(layout.shardCount, 4096);
  t.is(layout.describe(layout.nth(2 ** 24 - 1)), 'fd00::1:0:0:3fff:ffc0/122');
  t.is(layout.shardOf(layout.nth(2 ** 24 - 1)), 'fff');
  const far = layout.blockOf(parseIp('fd00:0:0:1:dead:beef:0:1')!);
  t.true(layout.isBlock(far));
  t.regex(layout.shardOf(far), /^[0-9a-f]{3}$/);
});

test('default block sizes', (t) => {
  const size = (cidr: string) => defaultBlockSize(parseCidr(cidr)!);
  t.is(size('10.0.0.0/8'), 26);
  t.is(size('10.0.0.0/22'), 26);
  t.is(size('10.0.0.0/24'), 28);
  t.is(size('10.0.0.0/30'), 30);
  t.is(size('10.0.0.0/32'), 32);
  t.is(size('fd00::/64'), 122);
  t.is(size('fd00::/120'), 124);
});

test('block size and gateway outside the pool are refused by name', (t) => {
  t.throws(() => new PoolLayout(pool('10.0.0.0/24', 23)), { message: /pool\.blockSize.*23/ });
  t.throws(() => new PoolLayout(pool('10.0.0.0/8', 15)), { message: /pool\.blockSize.*15/ });
  t.throws(() => new PoolLayout(pool('fd00::/64', 111)), { message: /pool\.blockSize.*111/ });
  t.throws(() => new PoolLayout(pool('10.0.0.0/24', 26, '10.0.1.1')), { message: /pool\.gateway.*10\.0\.1\.1/ });
});

test('property: every address of a block lies in it, and blocks are told apart', (t) => {
  const v4 = fc
    .tuple(fc.integer({ min: 0, max: 0xffffffff }), fc.integer({ min: 8, max: 32 }))
    .chain(([word, prefix]) =>
      fc.record({
        cidr: fc.constant(`${formatIp({ family: 4, words: [word] })}/${prefix}`),
        blockSize: fc.integer({ min: Math.max(prefix, 22), max: 32 }),
        n: fc.nat(),
      }),
    );
  const v6 = fc
    .tuple(
      fc.array(fc.integer({ min: 0, max: 0xffffffff }), { minLength: 4, maxLength: 4 }),
      fc.integer({ min: 32, max: 128 }),
    )
    .chain(([words, prefix]) =>
      fc.record({
        cidr: fc.constant(`${formatIp({ family: 6, words })}/${prefix}`),
        blockSize: fc.integer({ min: Math.max(prefix, 118), max: 128 }),
        n: fc.nat(),
      }),
    );
  fc.assert(
    fc.property(fc.oneof(v4, v6), ({ cidr, blockSize, n }) => {
      const layout = new PoolLayout(pool(cidr, blockSize));
      const name = layout.nth(n % layout.blockCount);
      if (!layout.isBlock(name)) return false;
      if (Number.parseInt(layout.shardOf(name), 16) !== Math.floor((n % layout.blockCount) / SHARD_BLOCKS))
        return false;
      return layout.addresses(name).every((address) => layout.blockOf(parseIp(address)!) === name);
    }),
  );
  t.pass();
});
