import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { digestIdentity } from '../../src/nsdb/embedded/access.js';
import { EmbeddedServer } from '../../src/nsdb/embedded/server.js';
import type { JuteWriter } from '../../src/nsdb/protocol/jute.js';
import { AddWatchMode, OPEN_ACL, Op, WatcherType, writeMultiHeader, Xid } from '../../src/nsdb/protocol/records.js';
import { ApacheZookeeper } from './apache-zookeeper.js';
import { WireClient } from './wire-client.js';

const PATHS = ['/a', '/a/b', '/a/b/c', '/a/d'] as const;
const MODES = ['one-shot', 'persistent', 'recursive'] as const;
/** Before 3.9 Apache ZooKeeper keeps one mode for all watches of a client on a path, so a round has one for each path. */
type Modes = Readonly<Record<string, (typeof MODES)[number]>>;

const SECRET = 'owner:secret';
const PRIVATE_ACL = { permissions: 31, scheme: 'digest', id: digestIdentity(Buffer.from(SECRET)).id };

const path = fc.constantFrom(...PATHS);
const kind = fc.constantFrom('get', 'exists', 'children');
const type = fc.constantFrom(...Object.values(WatcherType));
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('watch' as const), path, kind }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('check' as const, 'unwatch' as const), path, type }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('create' as const), path, hidden: fc.nat({ max: 3 }) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constantFrom('set' as const, 'delete' as const), path }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('replace' as const), path }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

async function carryOut(
  [watcher, writer]: readonly WireClient[],
  root: string,
  modes: Modes,
  one: Step,
): Promise<unknown> {
  const at = root + one.path;
  const mode = modes[one.path];
  switch (one.do) {
    case 'watch':
      if (mode === 'one-shot') {
        const op = { get: Op.getData, exists: Op.exists, children: Op.getChildren }[one.kind] as number;
        return (await watcher.request(op, (w) => w.string(at).bool(true))).err;
      }
      return addWatch(watcher, at, mode);
    case 'check':
    case 'unwatch': {
      const type = mode === 'one-shot' ? one.type : WatcherType.any;
      const op = one.do === 'check' ? Op.checkWatches : Op.removeWatches;
      return (await watcher.request(op, (w) => w.string(at).int(type))).err;
    }
    case 'create':
      return writer.create(at, [one.hidden === 0 ? PRIVATE_ACL : OPEN_ACL]);
    case 'set':
      return (await writer.request(Op.setData, (w) => w.string(at).bytes(Buffer.from('x')).int(-1))).err;
    case 'delete':
      return (await writer.request(Op.delete, (w) => w.string(at).int(-1))).err;
    case 'replace':
      return (await writer.request(Op.multi, (w) => writeReplacement(w, at))).err;
  }
}

async function addWatch(client: WireClient, at: string, mode: 'persistent' | 'recursive'): Promise<unknown> {
  const number = mode === 'persistent' ? AddWatchMode.persistent : AddWatchMode.persistentRecursive;
  const { err, body } = await client.request(Op.addWatch, (w) => w.string(at).int(number));
  return [err, body.int(), body.remaining];
}

function writeReplacement(w: JuteWriter, at: string): void {
  writeMultiHeader(w, Op.delete, false, -1);
  w.string(at).int(-1);
  writeMultiHeader(w, Op.create, false, -1);
  w.string(at).bytes(new Uint8Array()).int(1).int(31).string('world').string('anyone').int(0);
  writeMultiHeader(w, Op.error, true, -1);
}

/** The watcher knows nobody's secret; the writer may do everything. */
async function clients(address: string): Promise<WireClient[]> {
  const [watcher, writer] = [await WireClient.open(address), await WireClient.open(address)];
  await writer.authenticate('digest', SECRET);
  return [watcher, writer];
}

const run = process.env.MIDONET_SKIP_ZOOKEEPER === '1' ? test.skip : test.serial;

run('watches of the embedded server fire as those of Apache ZooKeeper', async (t) => {
  t.timeout(150_000);
  const dataDir = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  const apache = await ApacheZookeeper.start();
  const embedded = await EmbeddedServer.start({ listen: { port: 0 }, dataDir, fsync: false });
  const open: WireClient[] = [];
  let round = 0;
  let events = 0;
  try {
    const modes = fc.record(Object.fromEntries(PATHS.map((one) => [one, fc.constantFrom(...MODES)])));
    const again = fc.boolean();
    await fc.assert(
      fc.asyncProperty(
        modes,
        fc.array(step, { minLength: 10, maxLength: 60, size: 'max' }),
        again,
        async (modes, steps, again) => {
          const root = `/round-${round++}`;
          const pairs = await Promise.all([apache, embedded].map(({ address }) => clients(address)));
          open.push(...pairs.flat());
          for (const [, writer] of pairs) t.is(await writer.create(root, [OPEN_ACL]), 0);
          const told = async (after: number) => {
            // Events come before the answer to what is asked after the change.
            await Promise.all(pairs.map(([watcher]) => watcher.request(Op.exists, (w) => w.string(root).bool(false))));
            const [theirs, ours] = pairs.map(([watcher]) => watcher.events.splice(0));
            t.deepEqual(ours, theirs, JSON.stringify([modes, again, steps.slice(0, after)]));
            events += ours.length;
          };
          if (again) {
            // As a client that comes back does.
            for (const [watcher] of pairs) {
              const of = (mode: string) => PATHS.filter((one) => modes[one] === mode).map((one) => root + one);
              const write = (w: JuteWriter) =>
                w
                  .long(0)
                  .strings([])
                  .strings(of('one-shot'))
                  .strings([])
                  .strings(of('persistent'))
                  .strings(of('recursive'));
              t.is((await watcher.request(Op.setWatches2, write, Xid.setWatches)).err, 0);
            }
          }
          for (const [i, one] of steps.entries()) {
            const [theirs, ours] = await Promise.all(pairs.map((pair) => carryOut(pair, root, modes, one)));
            t.deepEqual(ours, theirs, JSON.stringify([modes, one]));
            await told(i + 1);
          }
          for (const client of open.splice(0)) client.close();
        },
      ),
      { numRuns: 40, interruptAfterTimeLimit: 40_000, markInterruptAsFailure: true, endOnFailure: true },
    );
    t.true(events > 20, `${events} events`);
  } finally {
    for (const client of open) client.close();
    await apache.close();
    await embedded.close();
    await rm(dataDir, { recursive: true });
  }
});

test.serial('kinds of watches on one path do not disturb each other', async (t) => {
  const dataDir = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  const server = await EmbeddedServer.start({ listen: { port: 0 }, dataDir, fsync: false });
  const [watcher, writer] = await clients(server.address);
  t.teardown(async () => {
    watcher.close();
    writer.close();
    await server.close();
    await rm(dataDir, { recursive: true });
  });
  const change = async (one: 'create' | 'set' | 'delete', at = '/a') => {
    t.is(await carryOut([watcher, writer], '', {}, { do: one, path: at as '/a', hidden: 1 }), 0);
    await watcher.request(Op.exists, (w) => w.string('/').bool(false));
    return watcher.events.splice(0);
  };
  await change('create');
  await addWatch(watcher, '/a', 'recursive');
  await addWatch(watcher, '/a', 'persistent');
  await watcher.request(Op.getData, (w) => w.string('/a').bool(true));
  await watcher.request(Op.getChildren, (w) => w.string('/a').bool(true));
  t.is(server.metrics.watches, 4);
  t.deepEqual(await change('set'), [[3, '/a']]);
  t.is(server.metrics.watches, 3);
  t.deepEqual(await change('create', '/a/b'), [
    [1, '/a/b'],
    [4, '/a'],
  ]);
  t.is(server.metrics.watches, 2);
  t.deepEqual(await change('set', '/a/b'), [[3, '/a/b']]);
  await watcher.request(Op.getData, (w) => w.string('/a').bool(true));
  const remove = async (type: number) => (await watcher.request(Op.removeWatches, (w) => w.string('/a').int(type))).err;
  t.is(await remove(WatcherType.data), 0);
  t.is(await remove(WatcherType.data), -121);
  t.is(await remove(WatcherType.children), -121);
  t.is(await remove(7), -8);
  t.deepEqual(await change('delete', '/a/b'), [
    [2, '/a/b'],
    [4, '/a'],
  ]);
  t.is(await remove(WatcherType.any), 0);
  t.is(server.metrics.watches, 0);
  t.deepEqual(await change('set'), []);
  t.is((await watcher.request(Op.addWatch, (w) => w.string('/a').int(2))).err, -8);
  t.is((await watcher.request(Op.addWatch, (w) => w.string('a').int(0))).err, -8);
});
