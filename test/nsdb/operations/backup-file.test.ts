import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import test from 'ava';
import fc from 'fast-check';
import { UnsupportedError } from '../../../src/errors.js';
import { type Backup, BackupDamagedError, readBackup, writeBackup } from '../../../src/nsdb/operations/backup-file.js';
import { joinPath } from '../../../src/nsdb/path.js';

const folder = mkdtempSync(join(tmpdir(), 'backup-file-'));
test.after.always(() => rmSync(folder, { recursive: true }));

let files = 0;
const newFile = () => join(folder, `${files++}.gz`);

const HEADER = { time: '2030-01-01T00:00:00.000Z', zxid: 4711, source: '[::1]:2181/a' };

function backupOf(nodes: Record<string, string>): Backup {
  return { header: HEADER, image: new Map(Object.entries(nodes).map(([k, v]) => [k, Buffer.from(v)])), ephemerals: 3 };
}

/** Trees of nodes with any bytes: each node is a child of one before it or of the root. */
const anyImage = fc
  .array(
    fc.tuple(
      fc.nat(),
      fc.stringMatching(/^[a-z0-9\u00e4 "\\]{1,8}$/),
      fc.oneof(fc.uint8Array({ maxLength: 300, size: 'max' }), fc.string().map(Buffer.from)),
    ),
    { maxLength: 40, size: 'max' },
  )
  .map((parts) => {
    const paths = ['/'];
    const image = new Map<string, Uint8Array>();
    for (const [parent, name, data] of parts) {
      const path = joinPath(paths[parent % paths.length], name);
      if (!image.has(path)) paths.push(path);
      image.set(path, data);
    }
    return image;
  });

test('what is written is read, whatever the bytes', async (t) => {
  await fc.assert(
    fc.asyncProperty(anyImage, async (image) => {
      const file = newFile();
      const size = await writeBackup(file, { header: HEADER, image, ephemerals: 1 });
      t.is(statSync(file).size, size);
      const read = await readBackup(file);
      t.deepEqual(read.header, HEADER);
      t.is(read.ephemerals, 1);
      t.is(read.image.size, image.size);
      for (const [path, data] of image) t.is(Buffer.compare(read.image.get(path)!, data), 0);
    }),
    { numRuns: 30 },
  );
});

test('a backup is its owner’s alone, and takes the place of an older one', async (t) => {
  const file = newFile();
  await writeBackup(file, backupOf({ '/a': 'old' }));
  await writeBackup(file, backupOf({ '/a': 'new' }));
  t.is(statSync(file).mode & 0o777, 0o600);
  t.is((await readBackup(file)).image.get('/a')?.toString(), 'new');
});

test('what fails leaves the older backup and no other file', async (t) => {
  const file = newFile();
  await writeBackup(file, backupOf({ '/a': 'old' }));
  const before = readdirSync(folder).sort();
  await t.throwsAsync(writeBackup(file, backupOf({ '/a': 'new' }), AbortSignal.abort(new Error('enough'))), {
    message: 'enough',
  });
  t.deepEqual(readdirSync(folder).sort(), before);
  t.is((await readBackup(file)).image.get('/a')?.toString(), 'old');
  await t.throwsAsync(writeBackup(join(folder, 'missing', 'x'), backupOf({})), { code: 'ENOENT' });
});

test('a file cut off anywhere, or with any byte changed, is refused', async (t) => {
  const file = newFile();
  const nodes = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`/node${i}`, `data ${i * 7919}`]));
  await writeBackup(file, backupOf(nodes));
  const whole = readFileSync(file);
  const damaged = newFile();
  for (let length = 0; length < whole.length; length += 3) {
    writeFileSync(damaged, whole.subarray(0, length));
    await t.throwsAsync(readBackup(damaged), { instanceOf: BackupDamagedError }, `cut off at ${length}`);
  }
  // The first ten bytes hold a time, an operating system and flags that gzip does not check.
  for (let at = 10; at < whole.length; at += 3) {
    const bytes = Buffer.from(whole);
    bytes[at] ^= 0x10;
    writeFileSync(damaged, bytes);
    await t.throwsAsync(readBackup(damaged), { instanceOf: BackupDamagedError }, `changed at ${at}`);
  }
});

test('damage that gzip cannot tell is refused', async (t) => {
  const file = newFile();
  await writeBackup(file, backupOf({ '/a': 'one', '/a/b': 'two', '/c': 'three' }));
  const lines = gunzipSync(readFileSync(file)).toString().split('\n');
  const cases: [name: string, change: (lines: string[]) => string[], message: RegExp][] = [
    ['a node is missing', (l) => l.filter((_, i) => i !== 3), /checksum/],
    ['a node of other data', (l) => l.map((line) => line.replace('three', 'thrEe')), /checksum/],
    ['a parent is missing', (l) => l.filter((_, i) => i !== 1), /cannot be there/],
    ['a node twice', (l) => [...l.slice(0, 2), l[1], ...l.slice(2)], /cannot be there/],
    ['no last line', (l) => [...l.slice(0, 4), ''], /too early/],
    ['half of the last line', (l) => [...l.slice(0, 4), l[4].slice(0, 9)], /too early/],
    ['more behind the end', (l) => [...l.slice(0, 5), '{"path":"/z"}', ''], /behind the end/],
    ['another count', (l) => l.map((line) => line.replace('"nodes":3', '"nodes":4')), /counts/],
    ['not JSON', (l) => l.map((line, i) => (i === 2 ? 'x' : line)), /line 3 is not JSON/],
    ['another kind of file', () => ['{}', ''], /not the beginning of a backup/],
    ['nothing', () => [''], /too early/],
  ];
  for (const [name, change, message] of cases) {
    const damaged = newFile();
    writeFileSync(damaged, gzipSync(change([...lines]).join('\n')));
    await t.throwsAsync(readBackup(damaged), { instanceOf: BackupDamagedError, message }, name);
  }
  const later = newFile();
  writeFileSync(later, gzipSync(lines.join('\n').replace('"version":1', '"version":2')));
  await t.throwsAsync(readBackup(later), { instanceOf: UnsupportedError, message: /version 2/ });
  await t.throwsAsync(readBackup(join(folder, 'missing')), { code: 'ENOENT' });
});
