import test from 'ava';
import fc from 'fast-check';
import { FlowKey, Word } from '../../src/flow/key.js';
import { FlowMask } from '../../src/flow/mask.js';
import { fnv1a } from '../../src/nsdb/fnv.js';
import { EtherType } from '../../src/packet/ethernet.js';
import { chooseRoute } from '../../src/simulation/ecmp.js';
import type { Route } from '../../src/simulation/route-table.js';
import { Dice } from '../dice.js';

const ANY = { words: [0], length: 0 };

function routesOf(ids: readonly string[]): Route[] {
  return ids.map((id) => ({ id, family: 4, destination: ANY, source: ANY, weight: 100 }));
}

/** From one address to the other, each of one word (IPv4) or four (IPv6). */
function packetOf(source: readonly number[], destination: readonly number[]): FlowKey {
  const key = new FlowKey();
  key.ethType = source.length === 1 ? EtherType.IPV4 : EtherType.IPV6;
  key.words.set(source, Word.NW_SRC);
  key.words.set(destination, Word.NW_DST);
  return key;
}

const word = fc.integer({ min: 0, max: 0xffff_ffff });
const pair = fc.constantFrom(1, 4).chain((count) => {
  const address = fc.array(word, { minLength: count, maxLength: count });
  return fc.tuple(address, address);
});
const severalRoutes = fc.uniqueArray(fc.uuid(), { minLength: 2, maxLength: 8 }).map(routesOf);

test('chooses alike in both directions and from any order of the routes', (t) => {
  fc.assert(
    fc.property(severalRoutes, pair, (routes, [here, there]) => {
      const chosen = chooseRoute(routes, packetOf(here, there), new FlowMask());
      t.true(routes.includes(chosen));
      t.is(chooseRoute(routes.toReversed(), packetOf(there, here), new FlowMask()), chosen);
    }),
  );
});

test('keeps the choice when another route is lost', (t) => {
  fc.assert(
    fc.property(severalRoutes, pair, (routes, [here, there]) => {
      const packet = packetOf(here, there);
      const chosen = chooseRoute(routes, packet, new FlowMask());
      for (const lost of routes) {
        if (lost === chosen) continue;
        const left = routes.filter((route) => route !== lost);
        t.is(chooseRoute(left, packet, new FlowMask()), chosen);
      }
    }),
  );
});

test('sees both addresses, and nothing of a packet with one way to go', (t) => {
  fc.assert(
    fc.property(severalRoutes, pair, (routes, [here, there]) => {
      const packet = packetOf(here, there);
      const mask = new FlowMask();
      t.is(chooseRoute([routes[0]], packet, mask), routes[0]);
      t.true(mask.equals(new FlowMask()));

      const chosen = chooseRoute(routes, packet, mask);
      const expected = new FlowMask();
      expected.seeEthType();
      expected.words.fill(0xffff_ffff, Word.NW_SRC, Word.NW_SRC + here.length);
      expected.words.fill(0xffff_ffff, Word.NW_DST, Word.NW_DST + here.length);
      t.true(mask.equals(expected));
      t.is(chooseRoute(routes, packet.masked(mask), new FlowMask()), chosen);
    }),
  );
});

test('chooses alike from any order of routes whose ids have the same hash', (t) => {
  const routes = routesOf(['costarring', 'liquid']);
  t.is(fnv1a(routes[0].id), fnv1a(routes[1].id));
  const packet = packetOf([1], [2]);
  t.is(chooseRoute(routes, packet, new FlowMask()), chooseRoute(routes.toReversed(), packet, new FlowMask()));
});

for (const [family, network] of [
  ['IPv4', []],
  ['IPv6', [0xfd00_0000, 0, 0]],
] as const) {
  test(`gives each of four routes about a quarter of the ${family} pairs, and shares those of a lost one`, (t) => {
    const routes = routesOf(['1', '2', '3', '4'].map((n) => `00000000-0000-4000-8000-00000000000${n}`));
    const dice = new Dice(4);
    const before = new Map<string, number>();
    const moved = new Map<string, number>();
    const count = (counts: Map<string, number>, { id }: Route) => counts.set(id, (counts.get(id) ?? 0) + 1);
    for (let i = 0; i < 8000; i++) {
      // Neighbours in two networks, as real addresses are.
      const packet = packetOf([...network, 0x0a00_0000 + dice.below(4096)], [...network, 0xc0a8_0000 + (i % 256)]);
      const chosen = chooseRoute(routes, packet, new FlowMask());
      count(before, chosen);
      if (chosen === routes[0]) count(moved, chooseRoute(routes.slice(1), packet, new FlowMask()));
    }
    for (const { id } of routes) t.true(Math.abs(before.get(id)! - 2000) < 200, `${id}: ${before.get(id)}`);
    const share = before.get(routes[0].id)! / 3;
    for (const { id } of routes.slice(1)) t.true(Math.abs(moved.get(id)! - share) < 150, `${id}: ${moved.get(id)}`);
  });
}
