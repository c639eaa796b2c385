import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { TunnelKeys } from '../../../src/agent/numbers/tunnel-keys.js';
import { MAX_TUNNEL_KEY } from '../../../src/topology/types.js';

async function folder(t: ExecutionContext): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), 'midonet-keys-'));
  t.teardown(() => rm(made, { recursive: true }));
  return join(made, 'keys');
}

test('an owner has one key, no two share one, and all are the same after a restart', async (t) => {
  const path = await folder(t);
  const keys = await TunnelKeys.open(path);
  const owners = Array.from({ length: 50 }, (_, i) => `port ${i}`);
  const taken = owners.map((owner) => keys.take(owner));
  t.is(new Set(taken).size, 50);
  for (const key of taken) t.true(key >= 1 && key <= MAX_TUNNEL_KEY);
  t.deepEqual(
    owners.map((owner) => keys.take(owner)),
    taken,
  );
  const again = await TunnelKeys.open(path);
  t.deepEqual(
    owners.map((owner) => again.keyOf(owner)),
    taken,
  );
  t.deepEqual([...again.owners()].sort(), owners.sort());
});

test('a key that was given back is not reused soon, and leaves no file', async (t) => {
  const path = await folder(t);
  const keys = await TunnelKeys.open(path);
  const key = keys.take('port a');
  keys.release('port a');
  keys.release('port a');
  t.is(keys.keyOf('port a'), undefined);
  t.deepEqual(await readdir(path), []);
  t.not(keys.take('port b'), key);
  t.not(keys.take('port a'), key);
});

test('what a crash left: files that are empty or no keys are removed, the others count', async (t) => {
  const path = await folder(t);
  await (await TunnelKeys.open(path)).take('port a');
  const [name] = await readdir(path);
  await writeFile(join(path, '12'), '');
  await writeFile(join(path, '13'), 'bridge b');
  await writeFile(join(path, '0'), 'port z');
  await writeFile(join(path, String(MAX_TUNNEL_KEY + 1)), 'port z');
  await writeFile(join(path, 'notes'), 'port z');
  const keys = await TunnelKeys.open(path);
  t.deepEqual((await readdir(path)).sort(), [name, '13'].sort());
  t.is(keys.keyOf('bridge b'), 13);
  t.is(keys.keyOf('port a'), Number(name));
  t.is(keys.keyOf('port z'), undefined);
  t.is(await readFile(join(path, '13'), 'utf8'), 'bridge b');
});

test('a key that could not be written is not given', async (t) => {
  const path = await folder(t);
  const keys = await TunnelKeys.open(path);
  await rm(path, { recursive: true });
  t.throws(() => keys.take('port a'), { code: 'ENOENT' });
  t.is(keys.keyOf('port a'), undefined);
  t.deepEqual([...keys.owners()], []);
});

test("a key that could not be taken from the disk is still its owner's, and can be given back later", async (t) => {
  const path = await folder(t);
  const keys = await TunnelKeys.open(path);
  const key = keys.take('port a');
  await rm(join(path, String(key)));
  await mkdir(join(path, String(key)));
  t.throws(() => keys.release('port a'));
  t.is(keys.keyOf('port a'), key);
  await rm(join(path, String(key)), { recursive: true });
  keys.release('port a');
  t.is(keys.keyOf('port a'), undefined);
});

test('a key of which a power failure has left only the name is given to nobody in the next run', async (t) => {
  const path = await folder(t);
  const keys = await TunnelKeys.open(path);
  const lost = keys.take('port a');
  await writeFile(join(path, String(lost)), '');
  const again = await TunnelKeys.open(path);
  t.is(again.keyOf('port a'), undefined);
  t.deepEqual(await readdir(path), []);
  // Where it goes on is chosen at random; here, at the lost key.
  (again as unknown as { next: number }).next = lost;
  t.not(again.take('port a'), lost);
});
