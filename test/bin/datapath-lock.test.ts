import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { DatapathInUseError, lockDatapath } from '../../src/bin/datapath-lock.js';

async function newFolder(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'datapath-lock-'));
  t.teardown(() => rm(folder, { recursive: true }));
  return join(folder, 'midonet', 'datapaths');
}

test('one agent a datapath; the lock goes with its release and leaves nothing', async (t) => {
  const folder = await newFolder(t);
  const lock = await lockDatapath('one', folder);
  t.is((await stat(folder)).mode & 0o777, 0o700, 'nobody but its owner can take a lock in there');
  await t.throwsAsync(lockDatapath('one', folder), {
    instanceOf: DatapathInUseError,
    message: 'config.datapath.name: another agent runs on datapath "one"',
  });
  const other = await lockDatapath('one.1', folder);
  await lock.release();
  await (await lockDatapath('one', folder)).release();
  await other.release();
  t.deepEqual(await readdir(folder), []);
});

test('who has no right to the folder cannot keep the agent from its datapath', async (t) => {
  // An abstract socket (unix(7)) is anybody's to take.
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen('\0midonet/datapath/squatted', resolve);
  });
  t.teardown(() => server.close());
  const folder = await newFolder(t);
  const lock = await lockDatapath('squatted', folder);
  t.is((await readdir(folder)).length, 1);
  await lock.release();
});

test('a folder that cannot be made is a clear error', async (t) => {
  await t.throwsAsync(lockDatapath('one', '/dev/null/midonet/datapaths'), {
    code: 'MN_DATAPATH',
    message: /cannot lock datapath "one" in \/dev\/null\/midonet\/datapaths \(ENOTDIR\)/,
  });
});
