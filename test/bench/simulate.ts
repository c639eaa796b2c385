import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { type Figure, figure, figureAlone } from './figure.js';
import { firewall, routes, ruleSearch, type Subject, switching, twoRouters, vips } from './simulated-networks.js';

/** What one run measures, and how often. */
interface Plan {
  readonly rounds: number;
  readonly milliseconds: number;
  /** Runs in which allocations are counted. */
  readonly countings: number;
}

/** About a minute. */
const FULL: Plan = { rounds: 9, milliseconds: 400, countings: 21 };
const QUICK: Plan = { rounds: 3, milliseconds: 100, countings: 5 };

/** Between two looks at the clock. */
const BATCH = 256;
/** Few enough that what they allocate never fills the young generation, so that nothing is collected meanwhile. */
const COUNTED = 512;

interface Series {
  readonly subjects: readonly Subject[];
  /** Decisions a second that are aimed at. */
  readonly aim: number | undefined;
}

/** Decisions a second on one core, how their cost grows, and what they allocate. */
export async function benchSimulate(progress: (text: string) => void, quick: boolean): Promise<Figure[]> {
  const plan = quick ? QUICK : FULL;
  const all: Series[] = [
    { subjects: [switching(1000)], aim: 200_000 },
    { subjects: [twoRouters(1000)], aim: 100_000 },
    { subjects: [10, 1000, 10_000].map(firewall), aim: 100_000 },
    { subjects: [10, 1000, 10_000].map(ruleSearch), aim: 150_000 },
    { subjects: [10, 100, 1000, 10_000, 100_000].map(routes), aim: 100_000 },
    { subjects: [10, 100, 1000, 10_000].map(vips), aim: undefined },
  ];
  const subjects = all.flatMap((series) => series.subjects);
  const rates = measureRates(subjects, plan, progress);
  const collectGarbage = exposeGarbageCollector();
  const figures: Figure[] = [];
  for (const { subjects, aim } of all) {
    for (const subject of subjects) {
      const bench = `simulate-${subject.name}-${subject.size}`;
      const samples = rates.get(subject)!;
      figures.push(
        aim === undefined
          ? figureAlone(bench, 'decisions/s', samples)
          : figure(bench, 'decisions/s', samples, [aim], 'aim'),
        figureAlone(`${bench}-allocated`, 'bytes/decision', countBytes(subject, plan, collectGarbage)),
      );
    }
    if (subjects.length > 1) figures.push(growth(subjects, rates));
  }
  return figures;
}

/** In turn, so that whatever else the machine does hits all alike. */
function measureRates(
  subjects: readonly Subject[],
  { rounds, milliseconds }: Plan,
  progress: (text: string) => void,
): Map<Subject, number[]> {
  const rates = new Map<Subject, number[]>(subjects.map((subject) => [subject, []]));
  for (const subject of subjects) rate(subject, milliseconds);
  for (let round = 1; round <= rounds; round++) {
    for (const subject of subjects) rates.get(subject)!.push(rate(subject, milliseconds));
    progress(`simulate: ${round} of ${rounds} rounds`);
  }
  return rates;
}

/** Decisions in a second of processor time, of all threads, so that what else runs on the machine does not count. */
function rate(subject: Subject, milliseconds: number): number {
  const start = process.cpuUsage();
  let count = 0;
  let elapsed = 0;
  while (elapsed < milliseconds) {
    subject.run(BATCH);
    count += BATCH;
    const { user, system } = process.cpuUsage(start);
    elapsed = (user + system) / 1000;
  }
  return Math.round((1000 * count) / elapsed);
}

function countBytes(subject: Subject, { countings }: Plan, collectGarbage: () => void): number[] {
  const samples: number[] = [];
  for (let i = 0; i < countings; i++) {
    collectGarbage();
    const before = allocated();
    subject.run(COUNTED);
    samples.push((allocated() - before) / COUNTED);
  }
  return samples;
}

/** Bytes on the heap, and of typed arrays beside it. */
function allocated(): number {
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** Collects the young generation only: to go through the tables of all subjects takes a second each time. */
function exposeGarbageCollector(): () => void {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as (options: { type: 'minor' }) => void;
  return () => collect({ type: 'minor' });
}

/** From the smallest table to the largest, for every tenfold; against a cost that grows with the logarithm of the size. */
function growth(subjects: readonly Subject[], rates: ReadonlyMap<Subject, readonly number[]>): Figure {
  const first = subjects[0];
  const last = subjects[subjects.length - 1];
  const tenfolds = Math.log10(last.size / first.size);
  const perTenfold = (times: number) => times ** (1 / tenfolds);
  const small = rates.get(first)!;
  const ours = rates.get(last)!.map((large, round) => perTenfold(small[round] / large));
  const logarithmic = perTenfold(Math.log(last.size) / Math.log(first.size));
  return figure(
    `simulate-${first.name}-growth`,
    'times the cost for ten times the size',
    ours,
    [logarithmic],
    'logarithm',
  );
}
