import test from 'ava';
import fc from 'fast-check';
import { ownPositionBetween, positionBetween, positionSchema, positionsAfter } from '../../src/topology/position.js';

test('property: wherever elements are put, places sort as the elements stand', (t) => {
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 300, size: 'max' }), (spots) => {
      const places: string[] = [];
      for (const spot of spots) {
        const index = Math.round(spot * places.length);
        const place = positionBetween(places[index - 1], places[index]);
        if (!positionSchema.safeParse(place).success) return false;
        places.splice(index, 0, place);
      }
      return places.every((place, i) => i === 0 || places[i - 1] < place);
    }),
  );
  t.pass();
});

test('property: of two elements that are put at one spot each has a place of its own there', (t) => {
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 200, size: 'max' }), (spots) => {
      const places: string[] = [];
      for (const spot of spots) {
        const index = Math.round(spot * places.length);
        const [before, after] = [places[index - 1], places[index]];
        const both = [ownPositionBetween(before, after), ownPositionBetween(before, after)].sort();
        if (!both.every((place) => positionSchema.safeParse(place).success)) return false;
        places.splice(index, 0, ...both);
      }
      return places.every((place, i) => i === 0 || places[i - 1] < place);
    }),
  );
  let [first, last] = [ownPositionBetween(undefined, undefined), ownPositionBetween(undefined, undefined)];
  for (let i = 0; i < 1000; i++) {
    [first, last] = [ownPositionBetween(undefined, first), ownPositionBetween(last, undefined)];
  }
  t.deepEqual([first.length, last.length], [16, 16], 'at the ends they stay short');
});

test('places at the ends stay short, those at one spot grow by a digit for every five', (t) => {
  let first = positionBetween(undefined, undefined);
  const last = positionsAfter(first, 10_000).at(-1)!;
  for (let i = 0; i < 10_000; i++) first = positionBetween(undefined, first);
  t.is(first.length, 8);
  t.is(last.length, 8);
  let [before, after] = [first, last];
  for (let i = 0; i < 1000; i++) {
    const place = positionBetween(before, after);
    if (i % 2 === 0) before = place;
    else after = place;
  }
  t.true(before.length < 8 + 1000 / 4, `${before.length} characters`);
});

test('there is no place between what is not in order, nor without end', (t) => {
  const place = positionBetween(undefined, undefined);
  for (const [before, after] of [
    [place, place],
    [positionBetween(place, undefined), place],
  ]) {
    t.throws(() => positionBetween(before, after), { message: /expected a place in front of/ });
  }
  t.throws(
    () => {
      let after = positionBetween(place, undefined);
      for (;;) after = positionBetween(place, after);
    },
    { message: /expected room/ },
  );
  t.throws(() => positionBetween(undefined, '00000000'), { message: /expected room/ });
  t.throws(() => positionBetween('zzzzzzzz', undefined), { message: /expected room/ });
  for (const wrong of ['', 'i', 'i00000000', 'I0000000', 'i0000000-']) t.false(positionSchema.safeParse(wrong).success);
});
