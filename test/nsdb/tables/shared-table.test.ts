import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { InvalidInputError } from '../../../src/errors.js';
import { EmbeddedServer } from '../../../src/nsdb/embedded/server.js';
import { bridgeMacsPath, macPath, objectPath } from '../../../src/nsdb/layout.js';
import { NodeNotFoundError, type Store } from '../../../src/nsdb/store.js';
import { SharedTable } from '../../../src/nsdb/tables/shared-table.js';
import {
  ADDRESS_TABLE,
  IP_TABLE,
  LEARNED_ROUTE_TABLE,
  type LearnedRouteKey,
  MAC_TABLE,
  type MacEntry,
  NEIGHBOR_TABLE,
} from '../../../src/nsdb/tables/tables.js';
import { ZookeeperStore, type ZookeeperStoreOptions } from '../../../src/nsdb/zookeeper/client.js';
import { formatMac } from '../../../src/packet/address.js';
import { bytes, type StoreServer, until } from '../../compliance/store.js';
import { ApacheZookeeper } from '../apache-zookeeper.js';
import { CutProxy } from '../cut-proxy.js';

async function embedded(): Promise<StoreServer> {
  const dataDir = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  const server = await EmbeddedServer.start({
    listen: { port: 0 },
    dataDir,
    minSessionTimeout: 200,
    maxSessionTimeout: 60_000,
    fsync: false,
  });
  return {
    address: server.address,
    close: async () => {
      await server.close();
      await rm(dataDir, { recursive: true });
    },
  };
}

/** A bridge's MAC table in an NSDB that has nothing else, and clients of it. */
class Bench {
  readonly bridgeId = randomUUID();
  private readonly closers: (() => Promise<void>)[] = [];

  private constructor(private readonly server: StoreServer) {
    this.closers.push(() => server.close());
  }

  static async start(t: ExecutionContext, start: () => Promise<StoreServer> = embedded): Promise<Bench> {
    const bench = new Bench(await start());
    t.teardown(async () => {
      for (const close of bench.closers.reverse()) await close();
    });
    const store = bench.store();
    await store.ensure(objectPath('bridge', bench.bridgeId));
    return bench;
  }

  store(options: Partial<ZookeeperStoreOptions> = {}): ZookeeperStore {
    const store = new ZookeeperStore({
      connect: this.server.address,
      sessionTimeout: 20_000,
      operationTimeout: 20_000,
      ...options,
    });
    this.closers.push(() => store.close());
    return store;
  }

  /** A client whose connection can be cut. */
  async cuttable(sessionTimeout = 20_000): Promise<{ proxy: CutProxy; store: ZookeeperStore }> {
    const proxy = await CutProxy.to(this.server.address);
    this.closers.push(() => proxy.close());
    return { proxy, store: this.store({ connect: proxy.address, sessionTimeout }) };
  }

  /** `lost` collects what the table is told to have lost. */
  table(store: Store = this.store(), lost: string[] = []): SharedTable<number, MacEntry> {
    const onLost = (mac: number, reason: string) => lost.push(`${formatMac(mac)} ${reason}`);
    return new SharedTable(store, MAC_TABLE, this.bridgeId, { onLost });
  }
}

/** Follows a table; `changes` counts what it was told. */
function follow(table: SharedTable<number, MacEntry>) {
  const content = new Map<number, string>();
  const state = { content, changes: 0, loads: 0, invalid: [] as string[] };
  const watch = table.watchTable(
    (mac, value) => {
      state.changes++;
      if (value === undefined) content.delete(mac);
      else content.set(mac, value.portId);
    },
    (error) => state.invalid.push(error.message),
    { onCurrent: () => state.loads++ },
  );
  return Object.assign(state, { watch });
}

const [P, Q, R] = [randomUUID(), randomUUID(), randomUUID()];
const MAC = 0x0200_0000_0001;

function tableTests(
  title: string,
  start: () => Promise<StoreServer>,
  run: typeof test.serial | typeof test.skip,
): void {
  run(`${title}: what was put stays, and is never replaced by what is learned`, async (t) => {
    const bench = await Bench.start(t, start);
    const lost: string[] = [];
    const learner = bench.table(bench.store(), lost);
    const api = bench.table();
    void learner.learn(MAC, { portId: P });
    await until('it is learned', async () => (await api.get(MAC)) !== undefined);
    t.deepEqual(await api.get(MAC), { value: { portId: P }, isLearned: true });
    t.false(await api.remove(MAC), 'what is learned is its owner’s');
    await api.put(MAC, { portId: Q });
    await until('the learner knows', () => lost.length === 1);
    t.deepEqual(lost, [`${formatMac(MAC)} replaced`]);
    t.is(learner.learnedCount, 0);
    void learner.learn(MAC, { portId: P });
    await until('it knows again', () => lost.length === 2);
    t.deepEqual(await api.get(MAC), { value: { portId: Q }, isLearned: false });
    await api.put(MAC, { portId: R });
    t.deepEqual(await api.get(MAC), { value: { portId: R }, isLearned: false });
    t.true(await api.remove(MAC));
    t.true(await api.remove(MAC));
    t.is(await api.get(MAC), undefined);
    void learner.learn(MAC, { portId: P });
    await until('it is learned after all', async () => (await api.get(MAC))?.isLearned === true);
    await learner.forget(MAC);
    t.is(await api.get(MAC), undefined);
    await learner.forget(MAC);
  });

  run(`${title}: of two who learn a key the later one has it, and the other is told`, async (t) => {
    const bench = await Bench.start(t, start);
    const [lostByOne, lostByTwo]: string[][] = [[], []];
    const [one, two] = [bench.table(bench.store(), lostByOne), bench.table(bench.store(), lostByTwo)];
    const portAt = async () => (await one.get(MAC))?.value.portId;
    void one.learn(MAC, { portId: P });
    await until('one has it', async () => (await portAt()) === P);
    void one.learn(MAC, { portId: R });
    await until('it has moved', async () => (await portAt()) === R);
    void two.learn(MAC, { portId: Q });
    await until('one is told', () => lostByOne.length === 1);
    t.is(await portAt(), Q);
    await one.forget(MAC);
    t.is(await portAt(), Q, 'one cannot take away what is the other’s');
    void one.learn(MAC, { portId: P });
    await until('two is told', () => lostByTwo.length === 1);
    t.is(await portAt(), P);
    t.deepEqual([one.learnedCount, two.learnedCount], [1, 0]);
    await one.close();
    t.is(await portAt(), undefined);
  });

  run(`${title}: entries go with their owner’s session, and come back with the owner`, async (t) => {
    const bench = await Bench.start(t, start);
    const { proxy, store } = await bench.cuttable(1000);
    const lost: string[] = [];
    const owner = bench.table(store, lost);
    const watcher = follow(bench.table());
    await watcher.watch.ready;
    await Promise.all(Array.from({ length: 50 }, (_, i) => owner.learn(MAC + i, { portId: P })));
    await until('they are there', () => watcher.content.size === 50);
    proxy.cut();
    await until('they are gone', () => watcher.content.size === 0);
    const rival = bench.table();
    void rival.learn(MAC, { portId: Q });
    await until('another has learned one', () => watcher.content.size === 1);
    void owner.learn(MAC + 1, { portId: R });
    const forgotten = owner.forget(MAC + 2);
    proxy.pass();
    await forgotten;
    await until('they are back', () => watcher.content.size === 49);
    await until('the owner knows of the one it lost', () => lost.length === 1);
    t.is(watcher.content.get(MAC), Q);
    t.is(watcher.content.get(MAC + 1), R);
    t.false(watcher.content.has(MAC + 2));
    t.true([...watcher.content].every(([mac, port]) => mac <= MAC + 1 || port === P));
    watcher.watch.close();
  });

  run(`${title}: a watcher that was cut off sees the difference only`, async (t) => {
    const bench = await Bench.start(t, start);
    const api = bench.table();
    await Promise.all(Array.from({ length: 300 }, (_, i) => api.put(MAC + i, { portId: P })));
    const { proxy, store } = await bench.cuttable();
    const watcher = follow(bench.table(store));
    await watcher.watch.ready;
    t.is(watcher.changes, 300);
    proxy.cut();
    await until('it knows', () => store.state === 'disconnected');
    await api.put(MAC, { portId: Q });
    await api.put(MAC + 1000, { portId: Q });
    await api.remove(MAC + 299);
    proxy.pass();
    await until('it is in step', () => watcher.loads === 2);
    t.is(watcher.changes, 303);
    t.is(watcher.content.get(MAC), Q);
    t.is(watcher.content.get(MAC + 1000), Q);
    t.false(watcher.content.has(MAC + 299));
    watcher.watch.close();
  });
}

tableTests('embedded server', embedded, test.serial);
tableTests(
  'Apache ZooKeeper',
  () => ApacheZookeeper.start(),
  process.env.MIDONET_SKIP_ZOOKEEPER === '1' ? test.skip : test.serial,
);

test.serial(
  'one change of ten thousand entries is one event and one reading for each of twenty watchers',
  async (t) => {
    t.timeout(120_000);
    const bench = await Bench.start(t);
    const api = bench.table();
    await Promise.all(Array.from({ length: 10_000 }, (_, i) => api.put(MAC + i, { portId: P })));
    const stores = Array.from({ length: 20 }, () => bench.store());
    const watchers = stores.map((store) => follow(bench.table(store)));
    await Promise.all(watchers.map(({ watch }) => watch.ready));
    t.true(watchers.every(({ content }) => content.size === 10_000));
    const steps: [string, () => Promise<unknown>, number][] = [
      ['changed', () => api.put(MAC + 77, { portId: Q }), 1],
      ['added', () => api.put(MAC + 10_077, { portId: Q }), 1],
      ['removed', () => api.remove(MAC + 78), 0],
    ];
    for (const [what, change, reads] of steps) {
      const before = stores.map((store) => store.metrics);
      const changes = watchers.map((watcher) => watcher.changes);
      await change();
      await until(`the entry is ${what}`, () => watchers.every((watcher, i) => watcher.changes === changes[i] + 1));
      for (const [i, store] of stores.entries()) {
        t.is(store.metrics.watchEvents - before[i].watchEvents, 1, what);
        t.is(store.metrics.watchReads - before[i].watchReads, reads, what);
        t.is(store.metrics.requests, before[i].requests);
      }
    }
    for (const { watch } of watchers) watch.close();
  },
);

test.serial('an owner of ten thousand entries needs no timer for each', async (t) => {
  t.timeout(120_000);
  const bench = await Bench.start(t);
  const { proxy, store } = await bench.cuttable(60_000);
  const owner = bench.table(store);
  const watcher = follow(bench.table());
  await watcher.watch.ready;
  await Promise.all(Array.from({ length: 10_000 }, (_, i) => owner.learn(MAC + i, { portId: P })));
  await until('all are learned', () => watcher.content.size === 10_000, 60_000);
  proxy.cut();
  await until('it knows', () => store.state === 'disconnected');
  for (let i = 0; i < 9000; i++) void owner.forget(MAC + i);
  for (let i = 9000; i < 10_000; i++) owner.learn(MAC + i, { portId: Q });
  const timers = process.getActiveResourcesInfo().filter((type) => type === 'Timeout').length;
  t.true(timers < 500, `${timers} timers`);
  t.is(store.metrics.pending, 0);
  proxy.pass();
  await until('all is as it shall be', () => watcher.content.size === 1000, 60_000);
  await until('those that are left have moved', () => [...watcher.content.values()].every((port) => port === Q));
  t.is(store.metrics.sessionsLost, 0);
  watcher.watch.close();
});

test.serial('a table does not bring back the object that it belonged to', async (t) => {
  const bench = await Bench.start(t);
  const store = bench.store();
  const lost: string[] = [];
  const gone = new SharedTable(store, MAC_TABLE, randomUUID(), {
    onLost: (mac, reason) => lost.push(`${formatMac(mac)} ${reason}`),
  });
  void gone.learn(MAC, { portId: P });
  await until('that is told', () => lost.length === 1);
  t.deepEqual(lost, [`${formatMac(MAC)} gone`]);
  await t.throwsAsync(gone.put(MAC, { portId: P }), { instanceOf: NodeNotFoundError });
  t.deepEqual(await store.children('/bridges'), [bench.bridgeId]);
});

test.serial('what is not valid is reported, and does not hide the rest', async (t) => {
  const bench = await Bench.start(t);
  const table = bench.table();
  const store = bench.store();
  await table.put(MAC, { portId: P });
  await store.ensure(`${bridgeMacsPath(bench.bridgeId)}/ff/no-mac`);
  const bad = macPath(bench.bridgeId, formatMac(MAC + 1));
  await store.ensure(bad);
  await store.set(bad, bytes('{"portId":7}'));
  const watcher = follow(table);
  await watcher.watch.ready;
  t.deepEqual([...watcher.content], [[MAC, P]]);
  t.is(watcher.invalid.length, 2);
  t.true(watcher.invalid.some((message) => message.includes('no-mac')));
  await t.throwsAsync(table.get(MAC + 1), { instanceOf: InvalidInputError });
  await t.throwsAsync(table.put(MAC, { portId: 'x' }), { instanceOf: InvalidInputError, message: /MAC table/ });
  t.throws(() => table.learn(MAC, { portId: 'x' }), { instanceOf: InvalidInputError });
  const seen: (string | undefined)[] = [];
  const errors: Error[] = [];
  const watch = table.watchEntry(
    MAC + 1,
    (value) => seen.push(value?.portId),
    (error) => errors.push(error),
  );
  await until('it is told', () => errors.length === 1);
  await table.put(MAC + 1, { portId: Q });
  await until('it is mended', () => seen.length === 1);
  t.deepEqual(seen, [Q]);
  watch.close();
  watcher.watch.close();
});

test('an address leads to a MAC address and nothing else', (t) => {
  t.deepEqual(IP_TABLE.value.parse({ mac: '02:00:00:00:00:0A' }), { mac: '02:00:00:00:00:0a' });
  t.false(IP_TABLE.value.safeParse({ mac: 'nonsense' }).success);
});

test('keys are canonical text and back', (t) => {
  const word = fc.nat({ max: 0xffff_ffff });
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 2 ** 48 - 1 }),
      (mac) => MAC_TABLE.parseKey(MAC_TABLE.formatKey(mac)) === mac,
    ),
  );
  const v4 = word.map((n) => [24, 16, 8, 0].map((bits) => (n >>> bits) & 255).join('.'));
  const v6 = fc.ipV6();
  for (const table of [IP_TABLE, NEIGHBOR_TABLE, ADDRESS_TABLE]) {
    fc.assert(
      fc.property(fc.oneof(v4, v6), (address) => {
        const text = table.formatKey(address);
        return table.parseKey(text) === text && table.formatKey(text) === text;
      }),
    );
    t.throws(() => table.formatKey('10.0.0.256'), { instanceOf: InvalidInputError });
    t.is(table.parseKey('ten'), undefined);
  }
  const route: fc.Arbitrary<LearnedRouteKey> = fc.oneof(
    fc.record({
      destination: fc.tuple(v4, fc.nat({ max: 32 })).map(([address, prefix]) => `${address}/${prefix}`),
      nextHop: fc.option(v4, { nil: undefined }),
      portId: fc.uuid(),
    }),
    fc.record({
      destination: fc.tuple(v6, fc.nat({ max: 128 })).map(([address, prefix]) => `${address}/${prefix}`),
      nextHop: fc.option(v6, { nil: undefined }),
      portId: fc.uuid(),
    }),
  );
  fc.assert(
    fc.property(route, (key) => {
      const text = LEARNED_ROUTE_TABLE.formatKey(key);
      t.false(text.includes('/'));
      const parsed = LEARNED_ROUTE_TABLE.parseKey(text)!;
      t.is(parsed.portId, key.portId);
      t.is(parsed.nextHop === undefined, key.nextHop === undefined);
      return LEARNED_ROUTE_TABLE.formatKey(parsed) === text;
    }),
  );
  for (const text of ['', '10.0.0.0_8', '10.0.0.0_8,', 'x,,p', '10.0.0.0_8,x,p', '10.0.0.0_8,,p,q']) {
    t.is(LEARNED_ROUTE_TABLE.parseKey(text), undefined, text);
  }
});

test.serial(
  'whatever several owners do over connections that are cut, every watcher ends with the table',
  async (t) => {
    t.timeout(120_000);
    const bench = await Bench.start(t);
    const clients = await Promise.all(Array.from({ length: 3 }, () => bench.cuttable(1000)));
    const tables = clients.map(({ store }) => bench.table(store));
    const watchers = tables.map(follow);
    const api = bench.table();
    const key = fc.integer({ min: 0, max: 11 }).map((i) => MAC + i);
    const port = fc.constantFrom(P, Q, R);
    const who = fc.nat({ max: 2 });
    const step = fc.oneof(
      { weight: 5, arbitrary: fc.record({ type: fc.constant('learn' as const), who, key, port }) },
      { weight: 3, arbitrary: fc.record({ type: fc.constant('forget' as const), who, key }) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant('put' as const), key, port }) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant('remove' as const), key }) },
      { weight: 1, arbitrary: fc.record({ type: fc.constant('drop' as const), who }) },
      { weight: 1, arbitrary: fc.record({ type: fc.constant('cut' as const), who }) },
      { weight: 1, arbitrary: fc.record({ type: fc.constant('pass' as const), who }) },
      { weight: 2, arbitrary: fc.record({ type: fc.constant('wait' as const), ms: fc.integer({ min: 0, max: 30 }) }) },
    );
    const truth = async () => {
      const content = new Map<number, string>();
      for (let i = 0; i < 12; i++) {
        const entry = await api.get(MAC + i);
        if (entry !== undefined) content.set(MAC + i, entry.value.portId);
      }
      return content;
    };
    const same = (a: Map<number, string>, b: Map<number, string>) =>
      a.size === b.size && [...a].every(([mac, portId]) => b.get(mac) === portId);
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60 }), fc.boolean(), async (steps, loseSessions) => {
        for (const one of steps) {
          if (one.type === 'learn') void tables[one.who].learn(one.key, { portId: one.port });
          else if (one.type === 'forget') void tables[one.who].forget(one.key);
          else if (one.type === 'put') await api.put(one.key, { portId: one.port });
          else if (one.type === 'remove') await api.remove(one.key);
          else if (one.type === 'drop') clients[one.who].proxy.drop();
          else if (one.type === 'cut') clients[one.who].proxy.cut();
          else if (one.type === 'pass') clients[one.who].proxy.pass();
          else await new Promise((resolve) => setTimeout(resolve, one.ms));
        }
        const lost = clients.map(({ store }) => store.metrics.sessionsLost);
        if (loseSessions && clients.every(({ store }) => store.state === 'disconnected')) {
          await new Promise((resolve) => setTimeout(resolve, 1500));
        }
        for (const { proxy } of clients) proxy.pass();
        await until('all are connected', () => clients.every(({ store }) => store.state === 'connected'));
        // What each owner holds in the end is in the table, and what is learned there has an owner that holds it.
        await until('all agree', async () => {
          const content = await truth();
          const learned = tables.reduce((sum, table) => sum + table.learnedCount, 0);
          let held = 0;
          for (const mac of content.keys()) if ((await api.get(mac))?.isLearned) held++;
          return learned === held && watchers.every((watcher) => same(watcher.content, content));
        });
        t.true(clients.every(({ store }, i) => store.metrics.sessionsLost >= lost[i]));
      }),
      { numRuns: 25, interruptAfterTimeLimit: 60_000, endOnFailure: true },
    );
    for (const { watch } of watchers) watch.close();
  },
);
