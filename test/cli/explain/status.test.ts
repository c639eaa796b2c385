import test from 'ava';
import type { ClusterStatus } from '../../../src/api/status/status.js';
import { statusLines } from '../../../src/cli/explain/status.js';

const WELL: ClusterStatus = {
  healthy: true,
  problems: [],
  hosts: { known: 2, alive: 2 },
  ports: { bound: 3, active: 3 },
  flows: 7,
  nsdb: undefined,
  partial: [],
};

test('a status is a few numbers, and what is wrong with what to do about it', (t) => {
  const well = ['hosts   2 of 2 have an agent', 'ports   3 of 3 bound ports are active', 'flows   7', ''];
  t.deepEqual([...statusLines(WELL)], [...well, 'all is well']);
  const problem = { severity: 'error', what: 'no agent runs there', where: 'host a', advice: 'start it' } as const;
  const partial = ['only the first 500 were looked at'];
  t.deepEqual(
    [...statusLines({ ...WELL, healthy: false, problems: [problem], partial })],
    [...well, '1 problem:', '  ✘ host a: no agent runs there', '    → start it', '(only the first 500 were looked at)'],
  );
});
