import test from 'ava';
import type { Ignores } from './datapath.js';
import { Scenario } from './scenario.js';

/** What is said of the first of a few seeds that does not come through. */
async function fault(ignores: () => Ignores): Promise<string | undefined> {
  for (let seed = 1; seed <= 6; seed++) {
    try {
      await new Scenario(seed, ignores()).run();
    } catch (error) {
      return (error as Error).message;
    }
  }
  return undefined;
}

test('a datapath that does not remove flows is found out', async (t) => {
  t.regex(
    (await fault(
      () =>
        ({ type }) =>
          type === 'delete',
    )) ?? 'nothing',
    /flows|came/,
  );
});

test('a datapath that does not change flows is found out', async (t) => {
  const ignoresChanges = () => {
    const known = new Set<number>();
    return (operation: Parameters<Ignores>[0]) => {
      if (operation.type !== 'put') return false;
      const isChange = known.has(operation.id);
      known.add(operation.id);
      return isChange;
    };
  };
  t.regex((await fault(ignoresChanges)) ?? 'nothing', /flows|came/);
});
