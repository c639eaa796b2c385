import test from 'ava';
import { Scenario } from './scenario.js';

test('a datapath that does not do as it is told is found out', async (t) => {
  const removes = new Scenario(3, ({ type }) => type === 'delete');
  await t.throwsAsync(removes.run(), { message: /flows/ });
  const changed = new Set<number>();
  const changes = new Scenario(3, (operation) => {
    if (operation.type !== 'put') return false;
    const isChange = changed.has(operation.id);
    changed.add(operation.id);
    return isChange;
  });
  await t.throwsAsync(changes.run(), { message: /packet|flows/ });
});
