import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { NatLeases } from '../../../src/agent/numbers/nat-leases.js';
import { hostLeasesPath, natBlocksPath, natSpaceId } from '../../../src/nsdb/layout.js';
import { NatBlocks, type PortRange } from '../../../src/nsdb/leases/nat-blocks.js';
import { joinPath } from '../../../src/nsdb/path.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { allPaths, EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';
import { MortalStore } from '../../nsdb/leases/mortal-store.js';
import { until } from '../until.js';

const ADDRESS = '10.0.0.1';
const ALL: PortRange = { first: 1024, last: 65535 };

async function setUp(t: ExecutionContext) {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const repository = new TopologyRepository(nsdb.store());
  const store = new MortalStore(nsdb.store());
  await repository.initialize();
  const deviceId = (await repository.create('router', { id: randomUUID(), name: 'edge' })).id;
  const clock = { now: 1_000_000 };
  /** Under which others send replies. */
  const key = { now: 7 };
  const nothingLeft: string[] = [];
  const newHost = async () => (await repository.create('host', { id: randomUUID(), name: randomUUID() })).id;
  /** Blocks in this set are used by connections. */
  const busy = new Set<number>();
  const open = (hostId: string) => {
    const leases = new NatLeases({
      store,
      hostId,
      tunnelKey: () => key.now,
      inUse: async (blocks) => new Set(blocks.filter(({ first }) => busy.has(first))),
      onLoaded: () => {},
      onNothingLeft: (id) => nothingLeft.push(id),
      clock: () => clock.now,
      log: pino({ level: 'silent' }),
    });
    t.teardown(() => leases.close());
    leases.start();
    return leases;
  };
  /** First ports of the blocks that anybody has leased. */
  const taken = async () => ((await store.children(natBlocksPath(deviceId, ADDRESS))) ?? []).map(Number);
  return { store, repository, deviceId, clock, key, nothingLeft, newHost, open, busy, taken };
}

/** Holds ports and remembers what it was told last. */
function hold(leases: NatLeases, deviceId: string, range = ALL) {
  const told: { ranges: readonly PortRange[] | null | undefined } = { ranges: undefined };
  const held = leases.hold(deviceId, ADDRESS, range, (ranges) => {
    told.ranges = ranges;
  });
  return { told, close: () => held.close() };
}

function count(ranges: readonly PortRange[] | null | undefined): number {
  return (ranges ?? []).reduce((sum, { first, last }) => sum + last - first + 1, 0);
}

test('two hosts get ports side by side, a thousand each, and none in common', async (t) => {
  const { deviceId, newHost, open } = await setUp(t);
  const [a, b] = [hold(open(await newHost()), deviceId), hold(open(await newHost()), deviceId)];
  for (const { told } of [a, b]) await until('all are leased', () => count(told.ranges) === 1024);
  for (const x of a.told.ranges!) for (const y of b.told.ranges!) t.true(x.last < y.first || y.last < x.first);
});

test('as few ports as a rule asks for are not exceeded, and when others have them there are none until one is free', async (t) => {
  const { deviceId, newHost, open, store } = await setUp(t);
  const range = { first: 2000, last: 2050 };
  const theirs = new NatBlocks({ store, hostId: await newHost(), onLost: () => {} });
  const one = await theirs.take(deviceId, ADDRESS, { range: { first: 2000, last: 2000 } });
  const two = await theirs.take(deviceId, ADDRESS, { range: { first: 2050, last: 2050 } });
  const leases = open(await newHost());
  const { told } = hold(leases, deviceId, range);
  await until('it is told that there are none', () => told.ranges === null);
  await theirs.release(two);
  const other = hold(leases, deviceId, { first: two.first, last: 2050 });
  await until('the block that is free is leased', () => count(other.told.ranges) > 0);
  t.deepEqual(other.told.ranges, [{ first: two.first, last: 2050 }]);
  await until('the other learns of it', () => told.ranges !== null);
  t.deepEqual(told.ranges, [{ first: two.first, last: 2050 }]);
  t.true(one.last < two.first);
});

test('what nobody needs is given back after five minutes, but for what connections use', async (t) => {
  const { deviceId, newHost, open, taken, clock, busy, nothingLeft } = await setUp(t);
  const leases = open(await newHost());
  const { told, close } = hold(leases, deviceId);
  await until('all are leased', () => count(told.ranges) === 1024);
  const [{ first }] = told.ranges!;
  close();
  clock.now += 299_000;
  leases.tick();
  t.is(leases.size, 16);
  busy.add(first + 64);
  clock.now += 1000;
  leases.tick();
  await until('the others are free', () => leases.size === 1);
  t.deepEqual(await taken(), [first + 64]);
  t.deepEqual(nothingLeft, []);
  busy.clear();
  await until('nothing is left', () => {
    clock.now += 300_000;
    leases.tick();
    return nothingLeft.length > 0;
  });
  t.deepEqual([nothingLeft, leases.size, leases.has(deviceId), await taken()], [[deviceId], 0, false, []]);
});

test('ports that are leased before the NSDB goes away can be used, and the others follow when it is back', async (t) => {
  const { store, deviceId, newHost, open } = await setUp(t);
  const leases = open(await newHost());
  // The first block is made out of a few calls; another one takes two.
  const others = hold(leases, deviceId, { first: 30_000, last: 30_000 });
  await until('something is leased', () => count(others.told.ranges) === 1);
  let left = 8;
  store.fate = () => (left-- > 0 ? 'live' : 'lost');
  const { told } = hold(leases, deviceId);
  await until(
    'what could be leased is told',
    () => left < 0 && leases.size > 2 && count(told.ranges) === 64 * leases.size,
  );
  t.true(leases.size < 16);
  store.fate = () => 'live';
  await until('all are leased', () => count(told.ranges) === 1024);
});

test('after a restart the same ports are translated to', async (t) => {
  const { deviceId, newHost, open } = await setUp(t);
  const hostId = await newHost();
  const before = open(hostId);
  const { told } = hold(before, deviceId);
  await until('all are leased', () => count(told.ranges) === 1024);
  before.close();
  const again = hold(open(hostId), deviceId);
  await until('it is told', () => again.told.ranges !== undefined);
  t.deepEqual(again.told.ranges, told.ranges);
});

test('what the NSDB did not take back is given back later', async (t) => {
  const { store, deviceId, newHost, open, taken, clock, nothingLeft } = await setUp(t);
  const leases = open(await newHost());
  const { told, close } = hold(leases, deviceId);
  await until('all are leased', () => count(told.ranges) === 1024);
  close();
  clock.now += 300_000;
  store.fate = () => 'lost';
  for (const calls = store.calls; store.calls < calls + 3; ) {
    leases.tick();
    await new Promise(setImmediate);
  }
  t.deepEqual(nothingLeft, []);
  store.fate = () => 'live';
  await until('nothing is left, once no change can be on its way any more', () => {
    clock.now += 300_000;
    leases.tick();
    return nothingLeft.length > 0;
  });
  t.deepEqual([nothingLeft, leases.size, await taken()], [[deviceId], 0, []]);
});

test('others are told the key that holds now, also when a lost session has blocks claimed again', async (t) => {
  const { store, deviceId, newHost, open, clock, key, nothingLeft } = await setUp(t);
  const leases = open(await newHost());
  const first = hold(leases, deviceId);
  await until('all are leased', () => count(first.told.ranges) === 1024);
  first.close();
  await until('nothing is left', () => {
    clock.now += 300_000;
    leases.tick();
    return nothingLeft.length > 0;
  });
  key.now = 8;
  const { told } = hold(leases, deviceId);
  await until('all are leased again', () => count(told.ranges) === 1024);
  const path = joinPath(natBlocksPath(deviceId, ADDRESS), String(told.ranges![0].first).padStart(5, '0'));
  const { version } = (await store.exists(path))!;
  let failures = 0;
  store.fate = () => (failures++ === 0 ? 'lost' : 'live');
  leases.reconcile();
  await until('the NSDB was asked, to no avail', () => failures > 0);
  await until('it was claimed again', async () => (await store.exists(path))!.version > version);
  t.is(JSON.parse(Buffer.from((await store.get(path))!.data).toString()).tunnelKey, 8);
});

test('of a device that was deleted nothing is left in the NSDB, nor of leases that a crash has half given back', async (t) => {
  const { store, repository, deviceId, newHost, open, clock, nothingLeft } = await setUp(t);
  const hostId = await newHost();
  const before = await allPaths(repository.store);
  const leases = open(hostId);
  const { told, close } = hold(leases, deviceId);
  await until('all are leased', () => count(told.ranges) === 1024);
  await repository.delete('router', deviceId);
  close();
  const allGivenBack = (which: NatLeases) =>
    until('nothing is left', () => {
      clock.now += 300_000;
      which.tick();
      return nothingLeft.length > 0;
    });
  await allGivenBack(leases);
  const ofDevice = (path: string) => path.includes(deviceId);
  t.deepEqual((await allPaths(repository.store)).filter(ofDevice), []);
  leases.close();

  await store.ensure(natBlocksPath(deviceId, ADDRESS));
  await store.ensure(joinPath(hostLeasesPath(hostId), natSpaceId(deviceId, ADDRESS)));
  nothingLeft.length = 0;
  await allGivenBack(open(hostId));
  t.deepEqual((await allPaths(repository.store)).filter(ofDevice), []);
  t.deepEqual(
    (await allPaths(repository.store)).filter((path) => !before.includes(path)),
    [],
  );
});
