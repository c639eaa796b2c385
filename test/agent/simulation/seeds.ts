import test, { type ExecutionContext } from 'ava';
import { Scenario } from './scenario.js';

/** Seeds of one test. */
const TOGETHER = 50;
/** Of so many seeds one runs twice. */
const TWICE = 25;
/** Lines of a host's warnings that are shown. */
const WARNINGS = 20;

/** Runs a seed; returns what has happened, as a number. */
async function run(t: ExecutionContext, seed: number, showTrace: boolean): Promise<number> {
  const scenario = new Scenario(seed);
  const { events } = scenario.cluster.world;
  if (showTrace) events.onTrace = (line) => t.log(line);
  try {
    await scenario.run();
  } catch (error) {
    if (!showTrace) for (const line of scenario.history) t.log(line);
    for (const { name, warnings } of scenario.cluster.hosts) {
      for (const line of warnings.slice(-WARNINGS)) t.log(name, line);
    }
    t.log(`to see it again: MIDONET_SEED=${seed} npm test -- test/agent/simulation/seeds-1.test.ts`);
    throw error;
  }
  return events.hash;
}

/** Tests with `count` seeds from `first` on; with the one in MIDONET_SEED if that is set, and what happens is shown. */
export function testSeeds(first: number, count: number): void {
  const chosen = process.env.MIDONET_SEED;
  if (chosen !== undefined) {
    test(`seed ${chosen}`, async (t) => {
      t.log(`has led to ${await run(t, Number(chosen), true)}`);
      t.pass();
    });
    return;
  }
  for (let from = first; from < first + count; from += TOGETHER) {
    test.serial(
      `clusters come through whatever happens to them (seeds ${from} to ${from + TOGETHER - 1})`,
      async (t) => {
        t.timeout(1_200_000);
        for (let seed = from; seed < from + TOGETHER; seed++) {
          const hash = await run(t, seed, false);
          if (seed % TWICE === 0) t.is(await run(t, seed, false), hash, `seed ${seed} leads to the same each time`);
        }
        t.pass();
      },
    );
  }
}
