/**
 * The embedded server's storage on a simulated disk (power-loss-disk.ts) whose power is cut between any two operations.
 * Everything follows from a seed: `MIDONET_SEED=… node node_modules/ava/entrypoints/cli.mjs build/test/nsdb/embedded/power-loss.test.js`
 * does again what a failure names.
 */
import test from 'ava';
import { Dice } from '../../dice.js';
import { FOLDER, History, SNAPSHOT_AFTER } from './storage-history.js';

const LIVES = 20;

/** Histories from one seed; what fails names the seed with which it alone fails again. */
async function histories(count: number, seed: number, make: (seed: number) => History): Promise<Map<string, number>> {
  const crashes = new Map<string, number>();
  for (let i = 0; i < count; i++) {
    const history = make(seed + i);
    const dice = new Dice(seed + i);
    try {
      for (let life = 0; life < LIVES; life++) await history.life(dice.below(dice.chance(30) ? 15 : 150));
    } catch (error) {
      throw new Error(`MIDONET_SEED=${seed + i}: ${(error as Error).message}`, { cause: error });
    }
    for (const [label, times] of history.crashes) crashes.set(label, (crashes.get(label) ?? 0) + times);
  }
  return crashes;
}

const replay = process.env.MIDONET_SEED;
const seed = Number(replay ?? 1 + Math.floor(Math.random() * 1e9));

test('what was acknowledged survives a loss of power at any moment, and nothing else appears', async (t) => {
  const count = replay === undefined ? 100 : 1;
  const crashes = await histories(count, seed, (own) => new History(own));
  t.log(`${count * LIVES} crashes; under way were`);
  for (const [label, times] of [...crashes].sort()) t.log(`${String(times).padStart(5)} ${label}`);
  const expected = [
    'starting: makeFolder folder',
    'starting: create log',
    'starting: truncate log',
    'writev log',
    'datasync log',
    'create log',
    'writev part of a snapshot',
    'rename snapshot',
    'remove log',
  ];
  // A single history does not come by all of these.
  for (const label of expected) t.true(crashes.has(label) || replay !== undefined, label);
});

for (const [what, omits] of [
  ['the fsync of a batch', (operation: string) => operation === 'datasync'],
  ['the fsync of a new file', (operation: string) => operation === 'sync'],
  ['the fsync of a folder', (operation: string) => operation === 'syncFolder'],
  [
    'the fsync of the folders above',
    (operation: string, path: string) => operation === 'syncFolder' && path !== FOLDER,
  ],
  ['the fsync of a snapshot', (operation: string, path: string) => operation === 'sync' && path.endsWith('.tmp')],
] as const) {
  test(`without ${what} it does not`, async (t) => {
    const error = await t.throwsAsync(histories(30, seed, (own) => new History(own, omits)));
    t.log(error.message.split('\n')[0]);
  });
}

test('without any fsync it does not', async (t) => {
  const error = await t.throwsAsync(histories(30, seed, (own) => new History(own, undefined, false)));
  t.log(error.message.split('\n')[0]);
});

test('however much is overwritten, the folder stays within a bound', async (t) => {
  const history = new History(seed);
  /** Largest snapshot, batch, and log written while a snapshot was made. */
  let [snapshot, batch, meanwhile] = [0, 0, 0];
  let logged = 0;
  let logsBefore = 0;
  let most = 0;
  await history.life(10_000, true, (storage) => {
    const sizes = [...history.disk.sizes()].sort();
    const logs = sizes.filter(([file]) => file.includes('/log-')).map(([, size]) => size);
    for (const [file, size] of sizes) if (file.includes('/snapshot-')) snapshot = Math.max(snapshot, size);
    if (logs.length > 1) meanwhile = Math.max(meanwhile, logs.at(-1)!);
    // A batch counts as logged when it is synced, and is on the disk before.
    const inLogs = logs.reduce((sum, size) => sum + size, 0);
    batch = Math.max(batch, storage.metrics.bytes - logged, inLogs - logsBefore);
    logsBefore = inLogs;
    logged = storage.metrics.bytes;
    most = Math.max(most, history.disk.used);
  });
  // The last snapshot and the next; the full log; what is written while they are made one from the other.
  const bound = 2 * snapshot + Math.max(SNAPSHOT_AFTER, snapshot, meanwhile) + batch + meanwhile;
  t.true(most <= bound, `MIDONET_SEED=${seed}: ${most} bytes, bound ${bound}`);
  t.log(`${logged} bytes were logged; the folder never had more than ${most}; snapshot ${snapshot}, batch ${batch}`);
  t.true(logged > 10 * most);
});
