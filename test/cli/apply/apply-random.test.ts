import test from 'ava';
import fc from 'fast-check';
import { positionsInOrder } from '../../../src/cli/apply/rule-order.js';
import { positionSchema, positionsAfter } from '../../../src/topology/position.js';
import { TestCli } from '../cli-test.js';

test('positions rise in the order of the list, and as many stay as can', (t) => {
  const orders = fc
    .uniqueArray(fc.integer({ min: 0, max: 11 }), { maxLength: 12 })
    .chain((order) => fc.tuple(fc.constant(order), fc.array(fc.boolean(), { minLength: 12, maxLength: 12 })));
  fc.assert(
    fc.property(orders, ([order, isThere]) => {
      const places = positionsAfter(undefined, 12);
      const rules = order.map((i) => ({ id: `${i}`, position: isThere[i] ? places[i] : undefined }));
      const positions = positionsInOrder(rules);
      const sorted = [...positions].sort(([, a], [, b]) => (a < b ? -1 : 1)).map(([id]) => id);
      t.deepEqual(sorted, order.map(String));
      for (const position of positions.values()) positionSchema.parse(position);
      const stayed = rules.filter(
        ({ id, position }) => position !== undefined && positions.get(id) === position,
      ).length;
      t.is(stayed, longestRising(order.filter((i) => isThere[i])));
    }),
    { numRuns: 300 },
  );
});

/** The length of the longest rising row that is left when numbers are taken out, by trying all. */
function longestRising(numbers: readonly number[], above = -1): number {
  if (numbers.length === 0) return 0;
  const [first, ...rest] = numbers;
  const without = longestRising(rest, above);
  return first > above ? Math.max(without, 1 + longestRising(rest, first)) : without;
}

/** Some of a few names, so that files overlap. */
const some = <T>(of: (name: string) => fc.Arbitrary<T>) =>
  fc
    .subarray(['a', 'b', 'c'], { minLength: 0 })
    .chain((names) => fc.shuffledSubarray(names, { minLength: names.length }))
    .chain((names) => fc.tuple(...names.map(of)));

const optional = <T>(name: string, value: fc.Arbitrary<T>) =>
  fc.option(
    value.map((one) => ({ [name]: one })),
    { nil: {} },
  );
const merged = (...parts: fc.Arbitrary<object>[]) =>
  fc.tuple(...parts).map((all) => Object.assign({}, ...all) as object);

const bridge = (name: string) =>
  merged(
    fc.constant({ kind: 'bridge', name, tenant: 'blue' }),
    optional('adminStateUp', fc.boolean()),
    some((port) =>
      merged(
        fc.constant({ name: port }),
        optional('vlanId', fc.integer({ min: 1, max: 3 })),
        optional('adminStateUp', fc.boolean()),
      ),
    ).map((ports) => ({ ports })),
  );
const chain = (name: string) =>
  some((rule) =>
    merged(
      fc.constant({ name: rule }),
      fc.constantFrom<object>({ type: 'drop' }, { type: 'accept' }, { type: 'reverse-snat', action: 'accept' }),
      optional(
        'condition',
        fc.constantFrom<object>({ protocol: 'tcp' }, { source: '10.0.0.0/8', inverted: ['source'] }),
      ),
    ),
  ).map((rules) => ({ kind: 'chain', name, tenant: 'blue', rules }));
const group = (name: string) =>
  fc
    .subarray(['10.0.0.1', '10.0.0.2', 'fd00::1'])
    .map((addresses) => ({ kind: 'ip-address-group', name, tenant: 'blue', addresses }));
const topology = fc
  .tuple(some(bridge), some(chain), some(group))
  // The tenant is in each file, so that what is not in it is deleted.
  .map((parts) => JSON.stringify([...parts.flat(), { kind: 'bridge', name: 'always', tenant: 'blue' }]));

test('whatever was there, a file that is applied leaves nothing to change, and is what is exported', async (t) => {
  t.timeout(240_000);
  const cli = await TestCli.start();
  t.teardown(() => cli.close());
  const apply = async (input: string) => {
    const { out, error } = await cli.run(['apply', '-f', '-', '--prune'], { input });
    t.is(error, undefined, input);
    return out;
  };
  await fc.assert(
    fc.asyncProperty(topology, async (text) => {
      await apply(text);
      t.is(await apply(text), 'nothing to change', text);
      t.is(await apply(await cli.midonet('export', '--tenant', 'blue')), 'nothing to change', text);
    }),
    { numRuns: 8, endOnFailure: true },
  );
});
