/** Damage that a disk does to the files of the embedded server: what start-up makes of it. */
import { deepStrictEqual } from 'node:assert';
import test, { type ExecutionContext } from 'ava';
import { Database } from '../../../src/nsdb/embedded/database.js';
import { StoreCorruptError } from '../../../src/nsdb/embedded/record-file.js';
import { type Loaded, load } from '../../../src/nsdb/embedded/storage.js';
import { Dice } from '../../dice.js';
import { FOLDER, History } from './storage-history.js';

const replay = process.env.MIDONET_SEED;
const seed = Number(replay ?? 1 + Math.floor(Math.random() * 1e9));

/** A folder with a snapshot and one or more logs, and what it holds. */
async function folder(own: number, stopped: boolean): Promise<History> {
  const history = new History(own);
  let steps = 0;
  do await history.life(400, stopped, () => steps++);
  while (!history.disk.list(FOLDER).some((name) => name.startsWith('snapshot-')));
  return history;
}

/** What the first so many transactions make. */
function databaseAt(history: History, zxid: number): Database {
  const database = new Database();
  for (const transaction of history.sent.slice(0, zxid)) database.apply(transaction);
  return database;
}

interface Damage {
  readonly file: string;
  readonly offset: number;
}

/** Start-up after damage: a database that is a prefix of what there was, or a refusal that says where. */
function loadDamaged(t: ExecutionContext, history: History, damage: readonly Damage[]): Loaded | undefined {
  try {
    const loaded = load(history.disk, FOLDER, Number.POSITIVE_INFINITY);
    deepStrictEqual(loaded.database, databaseAt(history, loaded.database.zxid));
    return loaded;
  } catch (error) {
    if (!(error instanceof StoreCorruptError)) throw error;
    t.true(
      damage.some(({ file, offset }) => error.file === file && error.offset <= offset),
      `${error.message}, for damage at ${JSON.stringify(damage)}`,
    );
    return undefined;
  }
}

function anyFile(history: History, dice: Dice): string {
  return dice.pick([...history.disk.sizes()].filter(([, size]) => size > 0).map(([path]) => path))!;
}

/** Where the last batch before the end begins. The form is that of record-file.ts. */
function lastBatch(contents: Buffer, end: number): number {
  let last = 20;
  for (let at = last; at < end; at += 16 + contents.readUInt32BE(at + 8)) last = at;
  return last;
}

for (const [how, stopped] of [
  ['a server that was stopped', true],
  ['a server that crashed', false],
] as const) {
  test(`no flipped bit in the files of ${how} goes unnoticed`, async (t) => {
    const outcomes = { refused: 0, cut: 0, harmless: 0 };
    for (let own = seed; own < seed + 10; own++) {
      const history = await folder(own, stopped);
      const dice = new Dice(own);
      const sound = load(history.disk, FOLDER, Number.POSITIVE_INFINITY);
      for (let round = 0; round < 200; round++) {
        const file = anyFile(history, dice);
        const contents = history.disk.contents(file);
        const whole = Buffer.from(contents);
        const offset = dice.below(contents.length);
        contents[offset] ^= 1 << dice.below(8);
        const loaded = loadDamaged(t, history, [{ file, offset }]);
        if (loaded === undefined) outcomes.refused++;
        else if (loaded.database.zxid === sound.database.zxid) outcomes.harmless++;
        else {
          // The last batch, which nothing follows, may as well have been torn by the crash.
          outcomes.cut++;
          const [before, after] = [sound.last!, loaded.last!];
          const cut = after.file === file && before.file === file && after.end === lastBatch(whole, before.end);
          if (stopped || !cut || after.torn === 0) {
            t.fail(`MIDONET_SEED=${own}: lost what is behind ${loaded.database.zxid}, damage at ${offset} of ${file}`);
          }
        }
        whole.copy(contents);
      }
    }
    t.log(JSON.stringify(outcomes));
    t.true(outcomes.refused > 200);
  });
}

test('whatever becomes of the files, the server finds a state there was, or refuses and says where', async (t) => {
  const outcomes = { refused: 0, taken: 0 };
  for (let own = seed; own < seed + 10; own++) {
    const history = await folder(own, false);
    const dice = new Dice(own);
    for (let round = 0; round < 100; round++) {
      const files = new Map(
        [...history.disk.sizes().keys()].map((file) => [file, Buffer.from(history.disk.contents(file))]),
      );
      const damages: Damage[] = [];
      for (let count = 1 + dice.below(10); count > 0; count--) {
        const file = anyFile(history, dice);
        const contents = history.disk.contents(file);
        const offset = dice.below(contents.length);
        const end = Math.min(contents.length, offset + dice.pick([1, 4, 16, 600, 5000])!);
        // As lengths, these are none, the largest, a negative one and a large one.
        const before = Buffer.from(contents);
        contents.fill(dice.pick([0, 0xff, 0x80, 0x03])!, offset, end);
        const changed = contents.findIndex((byte, i) => byte !== before[i]);
        if (changed >= 0) damages.push({ file, offset: changed });
      }
      if (loadDamaged(t, history, damages) === undefined) outcomes.refused++;
      else outcomes.taken++;
      for (const [file, whole] of files) whole.copy(history.disk.contents(file));
    }
  }
  t.log(JSON.stringify(outcomes));
  t.true(outcomes.refused > 100);
});
