import test from 'ava';
import fc from 'fast-check';
import { FlowKey, Word } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { parseIpv4, parseIpv4Cidr, parseIpv6, parseIpv6Cidr } from '../../src/packet/address.js';
import { EtherType } from '../../src/packet/ethernet.js';
import { type Route, type RoutePrefix, RouteTable } from '../../src/simulation/route-table.js';

const ADDRESS_WORDS = [0, 1, 2, 3].flatMap((i) => [Word.NW_SRC + i, Word.NW_DST + i]);
const FAMILIES = [4, 6] as const;
type Family = (typeof FAMILIES)[number];

/** Addresses that differ from a few in at most two bits, so that prefixes enclose and just miss each other. */
function addresses(family: Family): fc.Arbitrary<number[]> {
  const count = family === 4 ? 1 : 4;
  const bit = fc.integer({ min: 0, max: 32 * count - 1 });
  return fc.tuple(fc.constantFrom(0, 0xa5a5_a5a5), fc.array(bit, { maxLength: 2 })).map(([base, flips]) => {
    const words = new Uint32Array(count).fill(base);
    for (const flip of flips) words[flip >>> 5] ^= 0x8000_0000 >>> (flip & 31);
    return [...words];
  });
}

function prefixes(family: Family): fc.Arbitrary<RoutePrefix> {
  const max = family === 4 ? 32 : 128;
  const length = fc.oneof(fc.integer({ min: 0, max }), fc.constantFrom(0, 1, max));
  return fc.record({ words: addresses(family), length });
}

function routesOf(family: Family): fc.Arbitrary<Route> {
  return fc.record({
    id: fc.constantFrom(...'abcdefghijklmnop'),
    type: fc.constantFrom('normal' as const, 'blackhole' as const),
    family: fc.constant(family),
    destination: prefixes(family),
    source: fc.oneof(fc.constant({ words: family === 4 ? [0] : [0, 0, 0, 0], length: 0 }), prefixes(family)),
    weight: fc.constantFrom(0, 100, 0x7fff_ffff),
  });
}

function packetOf(family: Family, source: readonly number[], destination: readonly number[]): FlowKey {
  const key = new FlowKey();
  key.ethType = family === 4 ? EtherType.IPV4 : EtherType.IPV6;
  key.words.set(source, Word.NW_SRC);
  key.words.set(destination, Word.NW_DST);
  return key;
}

function packetsOf(family: Family): fc.Arbitrary<FlowKey> {
  return fc
    .tuple(addresses(family), addresses(family))
    .map(([source, destination]) => packetOf(family, source, destination));
}

const anyFamily = fc.constantFrom(...FAMILIES);
const someRoute = anyFamily.chain(routesOf);
const somePacket = anyFamily.chain(packetsOf);
const distinctRoutes = fc.uniqueArray(someRoute, { selector: (route) => route.id, maxLength: 16, size: 'max' });

function tableOf(routes: Iterable<Route>): RouteTable<Route> {
  const table = new RouteTable();
  for (const route of routes) table.insert(route);
  return table;
}

function hasPrefix(words: Uint32Array, offset: number, prefix: RoutePrefix): boolean {
  const bits = (from: Iterable<number>) => [...from].map((word) => word.toString(2).padStart(32, '0')).join('');
  return bits(words.slice(offset, offset + 4)).startsWith(bits(prefix.words).slice(0, prefix.length));
}

function linearSearch(routes: readonly Route[], packet: FlowKey): Route[] {
  const family = packet.ethType === EtherType.IPV4 ? 4 : 6;
  const matching = routes.filter(
    (route) =>
      route.family === family &&
      hasPrefix(packet.words, Word.NW_DST, route.destination) &&
      hasPrefix(packet.words, Word.NW_SRC, route.source),
  );
  const longest = Math.max(...matching.map((route) => route.destination.length));
  const candidates = matching.filter((route) => route.destination.length === longest);
  const least = Math.min(...candidates.map((route) => route.weight));
  return candidates.filter((route) => route.weight === least).sort((a, b) => (a.id < b.id ? -1 : 1));
}

test('finds what a linear search finds', (t) => {
  fc.assert(
    fc.property(distinctRoutes, fc.array(somePacket), (routes, packets) => {
      const table = tableOf(routes);
      t.is(table.size, routes.length);
      for (const packet of packets) {
        t.deepEqual(table.lookup(packet, new FlowMask()), linearSearch(routes, packet));
      }
    }),
  );
});

test('finds the same for every packet that agrees in the bits it saw', (t) => {
  const packets = anyFamily.chain((family) => fc.tuple(packetsOf(family), packetsOf(family)));
  fc.assert(
    fc.property(distinctRoutes, packets, (routes, [packet, other]) => {
      const table = tableOf(routes);
      const mask = new FlowMask();
      const found = table.lookup(packet, mask);
      const isSame = (like: FlowKey) => {
        const likeMask = new FlowMask();
        t.deepEqual(table.lookup(like, likeMask), found);
        t.true(likeMask.equals(mask));
      };
      const mixed = packet.clone();
      for (const i of ADDRESS_WORDS) {
        mixed.words[i] = (packet.words[i] & mask.words[i]) | (other.words[i] & ~mask.words[i]);
        for (let bit = 1; bit < 2 ** 32; bit *= 2) {
          if ((mask.words[i] & bit) !== 0) continue;
          const flipped = packet.clone();
          flipped.words[i] ^= bit;
          isSame(flipped);
        }
      }
      isSame(mixed);
    }),
  );
});

test('answers after inserts and removes as a table made at once, from the same bits', (t) => {
  const steps = fc.array(fc.record({ isInsert: fc.boolean(), route: someRoute }), { maxLength: 80, size: 'max' });
  fc.assert(
    fc.property(steps, (steps) => {
      const table = new RouteTable();
      const routes = new Map<string, Route>();
      for (const { isInsert, route } of steps) {
        if (isInsert) {
          table.insert(route);
          routes.set(route.id, route);
        } else {
          t.is(table.remove(route), routes.delete(route.id));
        }
      }
      t.is(table.size, routes.size);
      const fresh = tableOf(routes.values());
      for (const { route } of steps) {
        const packet = packetOf(route.family, route.source.words, route.destination.words);
        const mask = new FlowMask();
        const freshMask = new FlowMask();
        t.deepEqual(table.lookup(packet, mask), fresh.lookup(packet, freshMask));
        t.true(mask.equals(freshMask));
      }
    }),
  );
});

function prefix4(text: string): RoutePrefix {
  const { address, prefix } = parseIpv4Cidr(text)!;
  return { words: [address], length: prefix };
}

function route4(id: string, destination: string, source = '0.0.0.0/0', weight = 100): Route {
  return { id, family: 4, destination: prefix4(destination), source: prefix4(source), weight };
}

/** Looks up 192.0.2.1 → `destination`: the ids found, and the bits seen of source and destination. */
function look4(table: RouteTable<Route>, destination: string, source = '192.0.2.1'): [string, number, number] {
  const packet = new FlowKey();
  packet.ethType = EtherType.IPV4;
  packet.ipv4Src = parseIpv4(source)!;
  packet.ipv4Dst = parseIpv4(destination)!;
  const mask = new FlowMask();
  const ids = table.lookup(packet, mask).map((route) => route.id);
  return [ids.join(), mask.ipv4Src, mask.ipv4Dst];
}

test('sees no more of the destination than told its routes from others', (t) => {
  const table = tableOf([route4('default', '0.0.0.0/0')]);
  t.deepEqual(look4(table, '10.0.0.1'), ['default', 0, 0]);
  table.insert(route4('ten', '10.0.0.0/8'));
  t.deepEqual(look4(table, '200.0.0.1'), ['default', 0, 0x8000_0000]);
  t.deepEqual(look4(table, '11.0.0.1'), ['default', 0, 0xff00_0000]);
  t.deepEqual(look4(table, '10.0.0.1'), ['ten', 0, 0xff00_0000]);
  table.insert(route4('host', '10.0.0.1/32'));
  t.deepEqual(look4(table, '10.0.0.1'), ['host', 0, 0xffff_ffff]);
  t.deepEqual(look4(table, '10.128.0.1'), ['ten', 0, 0xff80_0000]);
});

test('sees the source only where a route with a source is compared', (t) => {
  const table = tableOf([
    route4('default', '0.0.0.0/0'),
    route4('plain', '10.0.0.0/8'),
    route4('chosen', '10.0.0.0/8', '192.0.0.0/16', 50),
    route4('heavy', '10.0.0.0/8', '192.0.2.0/24', 200),
    route4('narrow', '10.1.0.0/16', '192.0.2.0/24', 200),
  ]);
  t.deepEqual(look4(table, '200.0.0.1'), ['default', 0, 0x8000_0000]);
  t.deepEqual(look4(table, '10.128.0.1'), ['chosen', 0xffff_0000, 0xff80_0000]);
  t.deepEqual(look4(table, '10.128.0.1', '0.0.2.1'), ['plain', 0x8000_0000, 0xff80_0000]);
  t.deepEqual(look4(table, '10.1.0.1'), ['narrow', 0xffff_ff00, 0xffff_0000]);
  t.deepEqual(look4(table, '10.1.0.1', '192.0.3.1'), ['chosen', 0xffff_ff00, 0xffff_0000]);
});

test('finds IPv6 routes, equal ones by id, and none for what is not IP', (t) => {
  const { address, prefix } = parseIpv6Cidr('fd00:0:0:1::/64')!;
  const destination = { words: address, length: prefix };
  const any = { words: [0, 0, 0, 0], length: 0 };
  const route = { family: 6, destination, source: any, weight: 100 } as const;
  const table = tableOf([
    { ...route, id: 'b' },
    { ...route, id: 'a' },
  ]);
  const packet = new FlowKey();
  packet.ethType = EtherType.IPV6;
  packet.words.set(parseIpv6('fd00::1:0:0:0:5')!, Word.NW_DST);
  const mask = new FlowMask();
  t.deepEqual(
    table.lookup(packet, mask).map(({ id }) => id),
    ['a', 'b'],
  );
  t.deepEqual([...mask.words.slice(Word.NW_DST, Word.NW_DST + 4)], [0xffff_ffff, 0xffff_ffff, 0, 0]);
  packet.ethType = EtherType.ARP;
  t.deepEqual(table.lookup(packet, mask), []);
});
