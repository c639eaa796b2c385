import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type DamagedFile, readStateFolder, writeDurableStateFile, writeStateFile } from '../src/state-file.js';

interface Numbered {
  readonly n: number;
}

function parse(value: unknown): Numbered {
  const n = (value as Partial<Numbered> | null)?.n;
  if (typeof n !== 'number') throw new Error('n is not a number');
  return { n };
}

const inFolder = test.macro<[(t: ExecutionContext, folder: string) => Promise<void>]>(async (t, body) => {
  const folder = await mkdtemp(join(tmpdir(), 'state-file-'));
  try {
    await body(t, folder);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('what was written is read back, and nothing else is left', inFolder, async (t, folder) => {
  writeStateFile(join(folder, 'a.json'), { n: 1 });
  writeStateFile(join(folder, 'a.json'), { n: 2 });
  await writeDurableStateFile(join(folder, 'b.json'), { n: 3 });
  t.deepEqual(Object.fromEntries(await readStateFolder(folder, parse, () => t.fail())), { a: { n: 2 }, b: { n: 3 } });
  t.deepEqual((await readdir(folder)).sort(), ['a.json', 'b.json']);
});

test('a folder: it is made, damaged files go aside, remains of a write are removed', inFolder, async (t, parent) => {
  const folder = join(parent, 'state');
  const damaged: DamagedFile[] = [];
  t.is((await readStateFolder(folder, parse, (file) => damaged.push(file))).size, 0);
  writeStateFile(join(folder, 'good.json'), { n: 1 });
  await writeFile(join(folder, 'cut.json'), '{"n":');
  await writeFile(join(folder, 'other.json'), '{"m":1}');
  await writeFile(join(folder, 'good.json.7.1.tmp'), '{');
  const found = await readStateFolder(folder, parse, (file) => damaged.push(file));
  t.deepEqual([...found], [['good', { n: 1 }]]);
  t.deepEqual((await readdir(folder)).sort(), ['cut.json.damaged', 'good.json', 'other.json.damaged']);
  t.deepEqual(
    damaged.map(({ path }) => path),
    [join(folder, 'cut.json'), join(folder, 'other.json')],
  );
  t.true(damaged[0].error instanceof SyntaxError);
  t.is(await readFile(damaged[0].movedTo, 'utf8'), '{"n":');
});

test('a file that cannot be read is not taken for a damaged one', inFolder, async (t, folder) => {
  writeStateFile(join(folder, 'b.json'), { n: 1 });
  // Root may read everything; a link to itself fails for everybody.
  await symlink('a.json', join(folder, 'a.json'));
  await t.throwsAsync(
    readStateFolder(folder, parse, () => t.fail()),
    { code: 'ELOOP' },
  );
  await rm(join(folder, 'a.json'));
  await mkdir(join(folder, 'a.json'));
  await t.throwsAsync(
    readStateFolder(folder, parse, () => t.fail()),
    { code: 'EISDIR' },
  );
  t.deepEqual((await readdir(folder)).sort(), ['a.json', 'b.json']);
});
