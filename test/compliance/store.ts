/**
 * The compliance suite of the store: the client against a server, the embedded one or Apache ZooKeeper. A test file calls
 * {@link storeCompliance} with how to start its server; one ava test per behaviour. Every test works below a root of its
 * own, which is also what makes each of them a test of the chroot. Clients of an ensemble are at different servers: a client
 * that is to see what another wrote calls `sync` first.
 */

import { setTimeout as delay } from 'node:timers/promises';
import type { ExecutionContext, TestFn } from 'ava';
import { ClosedError, InvalidInputError } from '../../src/errors.js';
import {
  EphemeralParentError,
  type EphemeralState,
  type NodeError,
  NodeExistsError,
  NodeNotEmptyError,
  NodeNotFoundError,
  RequestTooLargeError,
  type Store,
  type StoreEvent,
  type StoreNode,
  type StoreOperation,
  StoreUnavailableError,
  VersionConflictError,
} from '../../src/nsdb/store.js';
import { ZookeeperStore, type ZookeeperStoreOptions } from '../../src/nsdb/zookeeper/client.js';
import { CutProxy } from '../nsdb/cut-proxy.js';
import { fourLetterWord } from '../nsdb/four-letter-word.js';

/** A running server; sessions from 200 ms to 60 s must be possible. */
export interface StoreServer {
  /** host:port, or several with commas between them: the servers of an ensemble. */
  readonly address: string;
  /** host:port of one of several, for tests that need to know where a client is. */
  readonly member?: string;
  close(): Promise<void>;
}

const NONE = new Uint8Array();

export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

export function text(node: StoreNode | undefined): string | undefined {
  return node === undefined ? undefined : new TextDecoder().decode(node.data);
}

/** Waits until something holds, looking often; fails after `limit` ms. */
export async function until(what: string, holds: () => boolean | Promise<boolean>, limit = 15_000): Promise<void> {
  const end = performance.now() + limit;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`it did not come about within ${limit} ms that ${what}`);
    await delay(5);
  }
}

/** What a test uses, closed when it ends. */
class Bench {
  private readonly closers: (() => Promise<void>)[] = [];

  constructor(
    readonly server: StoreServer,
    private readonly root: string,
  ) {}

  /** A client in the test's root. */
  store(options: Partial<ZookeeperStoreOptions> = {}, address = this.server.address): ZookeeperStore {
    const store = new ZookeeperStore({
      sessionTimeout: 10_000,
      operationTimeout: 20_000,
      ...options,
      connect: `${address}${this.root}`,
    });
    this.closers.push(() => store.close());
    return store;
  }

  /** host:port of one server. */
  get member(): string {
    return this.server.member ?? this.server.address;
  }

  async proxy(): Promise<CutProxy> {
    const proxy = await CutProxy.to(this.member);
    this.closers.push(() => proxy.close());
    return proxy;
  }

  async close(): Promise<void> {
    for (const close of this.closers.reverse()) await close();
  }
}

export function storeCompliance(test: TestFn, start: () => Promise<StoreServer>): void {
  let server: StoreServer;
  let count = 0;

  test.before(async () => {
    server = await start();
  });
  test.after.always(async () => {
    await server?.close();
  });

  const check = (title: string, run: (t: ExecutionContext, bench: Bench) => Promise<void>) => {
    // One after the other: some of them look at the clock.
    test.serial(title, async (t) => {
      const bench = new Bench(server, `/compliance/${count++}`);
      try {
        const store = bench.store();
        await store.ensure('/');
        await run(t, bench);
      } finally {
        await bench.close();
      }
    });
  };

  check('nodes are made, read, changed and deleted', async (t, bench) => {
    const store = bench.store();
    t.is(await store.get('/a'), undefined);
    t.is(await store.exists('/a'), undefined);
    t.is(await store.children('/a'), undefined);
    t.is(await store.create('/a', bytes('one')), '/a');
    await store.create('/a/c', NONE);
    await store.create('/a/b', NONE);
    t.deepEqual(await store.children('/a'), ['b', 'c']);
    t.deepEqual(await store.children('/a/b'), []);
    const made = (await store.get('/a'))!;
    t.is(text(made), 'one');
    t.like(made.stat, { version: 0, cversion: 2, numChildren: 2, dataLength: 3, ephemeralOwner: undefined });
    t.is(made.stat.czxid, made.stat.mzxid);
    t.true(made.stat.pzxid > made.stat.czxid);
    t.true(Math.abs(made.stat.ctime - Date.now()) < 60_000);
    const set = await store.set('/a', bytes('second'));
    t.like(set, { version: 1, dataLength: 6, czxid: made.stat.czxid });
    t.true(set.mzxid > made.stat.pzxid);
    t.deepEqual((await store.get('/a'))!.stat, set);
    t.deepEqual(await store.exists('/a'), set);
    await store.delete('/a/b');
    t.like(await store.exists('/a'), { cversion: 3, numChildren: 1, version: 1 });
    await store.delete('/a/c', 0);
    await store.delete('/a', 1);
    t.is(await store.get('/a'), undefined);
  });

  check('bytes come back as they were', async (t, bench) => {
    const store = bench.store();
    const all = Uint8Array.from({ length: 512 }, (_, i) => i & 0xff);
    await store.create('/bytes', all);
    t.deepEqual(new Uint8Array((await store.get('/bytes'))!.data), all);
    await store.create('/naïve-名前', NONE);
    t.deepEqual(await store.children('/'), ['bytes', 'naïve-名前']);
  });

  check('errors name the node and tell what is wrong', async (t, bench) => {
    const store = bench.store();
    await store.create('/a', NONE);
    await store.create('/a/b', NONE);
    const parent = await t.throwsAsync<NodeError>(store.create('/x/y', NONE), { instanceOf: NodeNotFoundError });
    t.is(parent.path, '/x');
    t.is(parent.code, 'MN_NOT_FOUND');
    await t.throwsAsync(store.create('/a', NONE), { instanceOf: NodeExistsError, message: /\/a / });
    await t.throwsAsync(store.set('/x', NONE), { instanceOf: NodeNotFoundError });
    await t.throwsAsync(store.set('/a', NONE, 3), { instanceOf: VersionConflictError });
    await t.throwsAsync(store.delete('/x'), { instanceOf: NodeNotFoundError });
    await t.throwsAsync(store.delete('/a/b', 1), { instanceOf: VersionConflictError });
    await t.throwsAsync(store.delete('/a'), { instanceOf: NodeNotEmptyError });
    await store.create('/e', NONE, { ephemeral: true });
    await t.throwsAsync(store.create('/e/f', NONE), { instanceOf: EphemeralParentError });
    for (const path of ['', 'a', '/a/', '//a', '/a/./b', '/a/..', '/a\u0000']) {
      await t.throwsAsync(store.create(path, NONE), { instanceOf: InvalidInputError }, path);
      await t.throwsAsync(store.get(path), { instanceOf: InvalidInputError }, path);
    }
    t.is(store.metrics.disconnects, 0);
  });

  check('a request larger than servers take is refused before it harms the connection', async (t, bench) => {
    const store = bench.store();
    const large = new Uint8Array(1_048_000).fill(7);
    await store.create('/large', large);
    t.is((await store.get('/large'))!.data.length, large.length);
    await t.throwsAsync(store.set('/large', new Uint8Array(1_048_576)), { instanceOf: RequestTooLargeError });
    t.like(await store.exists('/large'), { version: 0 });
    t.is(store.metrics.disconnects, 0);
  });

  check('sequential nodes are numbered within their parent', async (t, bench) => {
    const store = bench.store();
    await store.create('/q', NONE);
    const made = await Promise.all(Array.from({ length: 20 }, () => store.create('/q/n-', NONE, { sequential: true })));
    t.deepEqual(
      made,
      made.map((_, i) => `/q/n-${String(i).padStart(10, '0')}`),
    );
    await store.delete(made[19]);
    t.is(await store.create('/q/', NONE, { sequential: true, ephemeral: true }), '/q/0000000020');
    t.is((await store.exists('/q/0000000020'))!.ephemeralOwner, store.sessionId);
  });

  check('a multi happens wholly, with a result for every part', async (t, bench) => {
    const store = bench.store();
    await store.create('/m', bytes('0'));
    const results = await store.multi([
      { type: 'check', path: '/m', version: 0 },
      { type: 'create', path: '/m/a', data: bytes('a') },
      { type: 'create', path: '/m/a/s-', data: NONE, sequential: true },
      { type: 'create', path: '/m/e', data: NONE, ephemeral: true },
      { type: 'set', path: '/m', data: bytes('1'), version: 0 },
      { type: 'set', path: '/m', data: bytes('2'), version: 1 },
      { type: 'delete', path: '/m/a/s-0000000000' },
    ]);
    t.deepEqual(
      results.map(({ path }) => path),
      ['/m', '/m/a', '/m/a/s-0000000000', '/m/e', '/m', '/m', '/m/a/s-0000000000'],
    );
    t.is(results[5].stat!.version, 2);
    const node = (await store.get('/m'))!;
    t.is(text(node), '2');
    t.like(node.stat, { version: 2, numChildren: 2 });
    const { ephemeralOwner, czxid } = (await store.exists('/m/e'))!;
    t.is(ephemeralOwner, store.sessionId);
    t.is(czxid, node.stat.mzxid, 'all parts are one change');
    t.deepEqual(await store.multi([]), []);
  });

  check('a multi that fails leaves no trace and names the part', async (t, bench) => {
    const store = bench.store();
    await store.create('/m', bytes('0'));
    await store.create('/m/full', NONE);
    await store.create('/m/full/child', NONE);
    const before = await store.get('/m');
    let calls = 0;
    const watches = ['/m', '/m/new', '/m/full'].flatMap((path) => [
      store.watchData(path, () => calls++),
      store.watchChildren(path, () => calls++),
    ]);
    await Promise.all(watches.map(({ ready }) => ready));
    calls = 0;
    const good: StoreOperation[] = [
      { type: 'create', path: '/m/new', data: NONE },
      { type: 'create', path: '/m/new/s-', data: NONE, sequential: true },
      { type: 'set', path: '/m', data: bytes('1') },
      { type: 'delete', path: '/m/full/child' },
    ];
    const bad: [StoreOperation, new (path: string) => NodeError][] = [
      [{ type: 'create', path: '/m/new', data: NONE }, NodeExistsError],
      [{ type: 'create', path: '/none/x', data: NONE }, NodeNotFoundError],
      [{ type: 'check', path: '/m', version: 0 }, VersionConflictError],
      [{ type: 'set', path: '/m', data: NONE, version: 7 }, VersionConflictError],
      [{ type: 'delete', path: '/m/new' }, NodeNotEmptyError],
      [{ type: 'delete', path: '/none' }, NodeNotFoundError],
    ];
    for (const [operation, kind] of bad) {
      const after: StoreOperation = { type: 'create', path: '/m/after', data: NONE };
      const error = await t.throwsAsync<NodeError>(store.multi([...good, operation, after]), { instanceOf: kind });
      t.is(error.operationIndex, good.length);
      t.is(error.path, operation.path === '/none/x' ? '/none' : operation.path);
    }
    t.deepEqual(await store.get('/m'), before);
    t.deepEqual(await store.children('/m'), ['full']);
    t.deepEqual(await store.children('/m/full'), ['child']);
    t.is(calls, 0);
  });

  check('ensure makes parents, also when several do so at once', async (t, bench) => {
    const [one, two] = [bench.store(), bench.store()];
    await Promise.all([one.ensure('/a/b/c/d'), two.ensure('/a/b/c/e'), one.ensure('/a/b/c/d')]);
    await one.sync();
    t.deepEqual(await one.children('/a/b/c'), ['d', 'e']);
    await one.ensure('/a/b');
    await one.ensure('/');
  });

  check('a watch of data tells the value, every change and absence', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    const seen: (string | undefined)[] = [];
    const watch = store.watchData('/w', (node) => seen.push(text(node)));
    t.is(seen.length, 0, 'not called before watchData returns');
    await watch.ready;
    t.deepEqual(seen, [undefined]);
    const expected: (string | undefined)[] = [undefined];
    const step = async (value: string | undefined, change: () => Promise<unknown>) => {
      await change();
      expected.push(value);
      await until(`${value} is seen`, () => seen.length === expected.length);
      t.deepEqual(seen, expected);
    };
    await step('1', () => other.create('/w', bytes('1')));
    await step('2', () => other.set('/w', bytes('2')));
    await step('3', () => store.set('/w', bytes('3')));
    await step(undefined, () => other.delete('/w'));
    await step('4', () => store.create('/w', bytes('4')));
    await store.create('/w/child', NONE);
    const late: (string | undefined)[] = [];
    const second = store.watchData('/w', (node) => late.push(text(node)));
    await second.ready;
    t.deepEqual(late, ['4']);
    watch.close();
    await other.set('/w', bytes('5'));
    await until('the second watch sees it', () => late.at(-1) === '5');
    t.deepEqual(seen, expected, 'a closed watch is silent, and children are no data');
    second.close();
    t.is(store.metrics.tracked, 0);
  });

  check('a watch of children tells the names, every change and absence', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    const seen: (readonly string[] | undefined)[] = [];
    const watch = store.watchChildren('/w', (names) => seen.push(names));
    await watch.ready;
    const expected: (string[] | undefined)[] = [undefined];
    const step = async (value: string[] | undefined, change: () => Promise<unknown>) => {
      await change();
      expected.push(value);
      await until(`${value} is seen`, () => seen.length === expected.length);
      t.deepEqual(seen, expected);
    };
    await step([], () => other.create('/w', NONE));
    await step(['b'], () => other.create('/w/b', NONE));
    await step(['a', 'b'], () => store.create('/w/a', NONE, { ephemeral: true }));
    await other.set('/w/b', bytes('data are not children'));
    await other.create('/w/b/grandchild', NONE);
    await other.delete('/w/b/grandchild');
    await step(['b'], () => other.delete('/w/a'));
    await step([], () => other.delete('/w/b'));
    await step(undefined, () => other.delete('/w'));
    watch.close();
  });

  check('a watch sees values in order and ends with the last', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    await other.create('/n', bytes('0'));
    await store.sync();
    const seen: number[] = [];
    const watch = store.watchData('/n', (node) => seen.push(Number(text(node))));
    await watch.ready;
    await Promise.all(Array.from({ length: 500 }, (_, i) => other.set('/n', bytes(String(i + 1)))));
    await until('the last value is seen', () => seen.at(-1) === 500);
    t.deepEqual(
      seen,
      [...new Set(seen)].sort((a, b) => a - b),
    );
  });

  check('the event comes before any answer that shows a later change', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    await other.create('/first', bytes('0'));
    await other.create('/second', bytes('0'));
    await store.sync();
    let seen = '';
    const watch = store.watchData('/first', (node) => {
      seen = text(node)!;
    });
    await watch.ready;
    for (let round = 1; round <= 50; round++) {
      const events = store.metrics.watchEvents;
      void other.set('/first', bytes(String(round)));
      const second = other.set('/second', bytes(String(round)));
      while (text(await store.get('/second')) !== String(round)) {}
      t.true(store.metrics.watchEvents > events, `round ${round}`);
      await second;
      await until('the value is seen', () => seen === String(round));
    }
  });

  check('what is read and what is watched is told in one order', async (t, bench) => {
    const [store, writer] = [bench.store(), bench.store()];
    await writer.create('/t', bytes('0'));
    await writer.create('/t/n', bytes('0'));
    await store.sync();
    const told: string[] = [];
    let latest = 0;
    const tell = (how: string, node: StoreNode | undefined) => {
      if (node === undefined) return;
      if (node.stat.mzxid < latest) told.push(`${how} ${text(node)} after zxid ${latest - node.stat.mzxid} later`);
      latest = Math.max(latest, node.stat.mzxid);
    };
    let gone = 0;
    const watches = [
      store.watchData('/t/n', (node) => tell('watched', node)),
      store.watchTree('/t', (path, node) => {
        if (path === '/t/n' && node === undefined) gone = latest;
        if (path === '/t/n') tell('tree', node);
      }),
    ];
    await Promise.all(watches.map(({ ready }) => ready));
    let done = false;
    const read = async () => {
      while (!done) {
        const node = await store.get('/t/n');
        tell('read', node);
        // A tree tells of a deletion without a reading of its own.
        if (node !== undefined && node.stat.mzxid <= gone) told.push(`read ${text(node)} after it was told as deleted`);
      }
    };
    const readers = Array.from({ length: 4 }, read);
    for (let round = 1; round <= 100; round++) {
      await writer.set('/t/n', bytes(`${round}`));
      await writer.delete('/t/n');
      await writer.create('/t/n', bytes(`${round}`));
    }
    await delay(20);
    done = true;
    await Promise.all(readers);
    t.deepEqual(told, []);
  });

  check('a thousand watches all fire', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    const values = new Map<number, string | undefined>();
    const watches = Array.from({ length: 1000 }, (_, i) =>
      store.watchData(`/w${i}`, (node) => values.set(i, text(node))),
    );
    await Promise.all(watches.map(({ ready }) => ready));
    t.is(values.size, 1000);
    await Promise.all(watches.map((_, i) => other.create(`/w${i}`, bytes(`v${i}`))));
    await until('all are seen', () => [...values].every(([i, value]) => value === `v${i}`));
    t.pass();
  });

  check('a list of children may be larger than a request', async (t, bench) => {
    const store = bench.store();
    await store.create('/many', NONE);
    const names = Array.from({ length: 12_000 }, (_, i) => `${'n'.repeat(90)}-${String(i).padStart(6, '0')}`);
    for (let i = 0; i < names.length; i += 1000) {
      await store.multi(
        names.slice(i, i + 1000).map((name) => ({ type: 'create', path: `/many/${name}`, data: NONE })),
      );
    }
    t.deepEqual(await store.children('/many'), names);
    t.is((await store.exists('/many'))!.numChildren, names.length);
  });

  check('calls in a row are carried out in that order', async (t, bench) => {
    const store = bench.store();
    const results = await Promise.all([
      store.create('/o', bytes('1')),
      store.get('/o'),
      store.set('/o', bytes('2'), 0),
      store.get('/o'),
      store.delete('/o', 1),
      store.get('/o'),
    ]);
    t.deepEqual([text(results[1]), text(results[3]), results[5]], ['1', '2', undefined]);
  });

  check('what one client wrote another reads after a sync', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    for (let i = 0; i < 20; i++) {
      await other.create(`/s${i}`, NONE);
      await store.sync();
      t.not(await store.exists(`/s${i}`), undefined);
    }
  });

  check('ephemeral nodes end with the session that is closed', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    await store.create('/e', bytes('x'), { ephemeral: true });
    await other.sync();
    t.is((await other.exists('/e'))!.ephemeralOwner, store.sessionId);
    const seen: (string | undefined)[] = [];
    const watch = other.watchData('/e', (node) => seen.push(text(node)));
    await watch.ready;
    await store.close();
    await until('it is gone', () => seen.length === 2);
    t.deepEqual(seen, ['x', undefined]);
    t.is(store.state, 'closed');
    await t.throwsAsync(store.get('/e'), { instanceOf: ClosedError });
  });

  check('a tree that is followed so far down tells nothing of what is below', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    await other.ensure('/t/a/b/c');
    const told: string[] = [];
    const watch = store.watchTree('/t', (path, node) => told.push(`${path} ${text(node)}`), { depth: 2 });
    await watch.ready;
    t.deepEqual(told.splice(0), ['/t ', '/t/a ', '/t/a/b ']);
    await other.set('/t/a/b/c', bytes('1'));
    await other.create('/t/a/b/d', bytes('2'));
    await other.delete('/t/a/b/c');
    await other.delete('/t/a/b/d');
    await other.set('/t/a/b', bytes('3'));
    await until('it is told', () => told.length >= 1);
    await other.delete('/t/a/b');
    await other.create('/t/e', bytes('4'));
    await until('all is told', () => told.length >= 3);
    t.is(told[0], '/t/a/b 3');
    t.deepEqual(told.slice(1), ['/t/a/b undefined', '/t/e 4']);
    watch.close();
  });

  check('a tree tells every node from the root down, then every change', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    const told: string[] = [];
    let current = 0;
    const watch = store.watchTree('/t', (path, node) => told.push(`${path} ${text(node)}`), {
      onCurrent: () => current++,
    });
    await watch.ready;
    t.deepEqual(told, [], 'nothing is there');
    const expected: string[] = [];
    const step = async (changes: string[], change: () => Promise<unknown>) => {
      await change();
      expected.push(...changes);
      await until(`${changes} are told`, () => told.length >= expected.length);
      t.deepEqual(told, expected);
    };
    await step(['/t 1'], () => other.create('/t', bytes('1')));
    await step(['/t/a 2'], () => other.create('/t/a', bytes('2')));
    await step(['/t/a/b/c 4'], async () => {
      expected.push('/t/a/b 3');
      await other.multi([
        { type: 'create', path: '/t/a/b', data: bytes('3') },
        { type: 'create', path: '/t/a/b/c', data: bytes('4') },
      ]);
    });
    await step(['/t/a/b 5'], () => store.set('/t/a/b', bytes('5')));
    await step(['/t/e 6'], () => store.create('/t/e', bytes('6'), { ephemeral: true }));
    await step(['/t/e undefined'], () => other.delete('/t/e'));
    const late: string[] = [];
    const second = other.watchTree('/t/a', (path, node) => late.push(`${path} ${text(node)}`));
    t.is(late.length, 0, 'not called before watchTree returns');
    await second.ready;
    t.deepEqual(late, ['/t/a 2', '/t/a/b 5', '/t/a/b/c 4']);
    await step(['/t/a/b/c undefined', '/t/a/b undefined'], async () => {
      await other.multi([
        { type: 'delete', path: '/t/a/b/c' },
        { type: 'delete', path: '/t/a/b' },
      ]);
    });
    await other.create('/elsewhere', NONE);
    await other.create('/ta', NONE);
    await step(['/t/a undefined'], () => other.delete('/t/a'));
    await step(['/t undefined'], () => other.delete('/t'));
    await step(['/t 7'], () => other.create('/t', bytes('7')));
    t.is(current, 1);
    watch.close();
    await other.set('/t', bytes('8'));
    await store.sync('/t');
    await store.get('/t');
    t.deepEqual(told, expected, 'a closed watch is silent');
    t.is(store.metrics.tracked, 0);
    second.close();
  });

  check('a change in a tree of thousands costs one event and one reading', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    await other.create('/t', NONE);
    for (let shard = 0; shard < 20; shard++) {
      await other.multi([
        { type: 'create', path: `/t/${shard}`, data: NONE },
        ...Array.from({ length: 150 }, (_, i) => ({
          type: 'create' as const,
          path: `/t/${shard}/${i}`,
          data: bytes('0'),
        })),
      ]);
    }
    const content = new Map<string, string>();
    const watch = store.watchTree('/t', (path, node) => {
      t.true(path === '/t' || content.has(path.slice(0, path.lastIndexOf('/'))), path);
      content.set(path, text(node)!);
    });
    await watch.ready;
    t.is(content.size, 1 + 20 + 20 * 150);
    const before = store.metrics;
    await other.set('/t/7/77', bytes('1'));
    await until('it is told', () => content.get('/t/7/77') === '1');
    await other.create('/t/7/new', bytes('1'));
    await until('it is told', () => content.get('/t/7/new') === '1');
    t.is(store.metrics.watchEvents - before.watchEvents, 2);
    t.is(store.metrics.watchReads - before.watchReads, 2);
    watch.close();
  });

  check('a tree ends with what the store holds, whatever happens while it is read', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    await other.create('/t', bytes('0'));
    const content = new Map<string, number>();
    const last = new Map<string, number>();
    let told = 0;
    const listener = (path: string, node: StoreNode | undefined) => {
      told++;
      if (node === undefined) {
        t.true(content.delete(path), `${path} was there`);
        t.false(
          [...content.keys()].some((other) => other.startsWith(`${path}/`)),
          `nothing is left below ${path}`,
        );
      } else {
        t.true(node.stat.mzxid > (last.get(path) ?? 0), `${path} does not go back in time`);
        t.true(path === '/t' || content.has(path.slice(0, path.lastIndexOf('/'))), `the parent of ${path} is there`);
        last.set(path, node.stat.mzxid);
        content.set(path, node.stat.mzxid);
      }
    };
    let watch: ReturnType<Store['watchTree']> | undefined;
    const ignore = (error: unknown) => {
      if (!(error instanceof Error && 'path' in error)) throw error;
    };
    for (let round = 0; round < 40; round++) {
      const parent = `/t/${round % 5}`;
      const work: Promise<unknown>[] = [
        other.create(parent, bytes(`${round}`)),
        ...Array.from({ length: 8 }, (_, i) => other.create(`${parent}/${i}`, bytes(`${round}`))),
        other.set(`${parent}/${round % 8}`, bytes(`${-round}`)),
      ];
      if (round === 10) watch = store.watchTree('/t', listener);
      if (round % 3 === 0) {
        work.push(...Array.from({ length: 8 }, (_, i) => other.delete(`${parent}/${i}`)), other.delete(parent));
        work.push(other.create(parent, bytes('again')), other.create(`${parent}/1`, bytes('again')));
      }
      await Promise.all(work.map((one) => one.catch(ignore)));
    }
    await watch!.ready;
    const truth = new Map<string, number>();
    const read = async (path: string) => {
      truth.set(path, (await other.get(path))!.stat.mzxid);
      for (const name of (await other.children(path))!) await read(`${path}/${name}`);
    };
    await read('/t');
    await until('all is told', () => content.size === truth.size && [...truth].every(([p, z]) => content.get(p) === z));
    t.true(told > truth.size);
    watch!.close();
  });

  check('a tree that is settled at a change has told every change up to it', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    await other.create('/t', NONE);
    const content = new Set<string>();
    const settled: { readonly zxid: number; readonly content: ReadonlySet<string> }[] = [];
    const listener = (path: string, node: StoreNode | undefined) => {
      if (node === undefined) content.delete(path);
      else content.add(path);
    };
    const watch = store.watchTree('/t', listener, {
      onSettled: (zxid) => settled.push({ zxid, content: new Set(content) }),
    });
    const made: { readonly path: string; readonly zxid: number }[] = [];
    const gone: { readonly path: string; readonly zxid: number }[] = [];
    for (let round = 0; round < 30; round++) {
      const folder = `/t/${round}`;
      const paths = [folder, `${folder}/a`, `${folder}/a/1`, `${folder}/a/2`, `${folder}/b`];
      await Promise.all(paths.map((path) => other.create(path, NONE)));
      for (const path of paths) made.push({ path, zxid: (await other.exists(path))!.czxid });
      await other.delete(`${folder}/b`);
      gone.push({ path: `${folder}/b`, zxid: (await other.exists(folder))!.pzxid });
    }
    const last = gone.at(-1)!.zxid;
    await store.sync('/t');
    watch.settle();
    await until('it is settled at the last change', () => settled.some(({ zxid }) => zxid >= last));
    const deleted = new Set(gone.map(({ path }) => path));
    for (const [i, { zxid, content }] of settled.entries()) {
      t.true(zxid >= (settled[i - 1]?.zxid ?? 0), 'it does not go back');
      for (const one of made) {
        if (one.zxid <= zxid && !deleted.has(one.path)) t.true(content.has(one.path), `${one.path} at ${zxid}`);
      }
      for (const one of gone) if (one.zxid <= zxid) t.false(content.has(one.path), `${one.path} at ${zxid}`);
    }
    watch.close();
  });

  check('a tree says so when a node came and went before it could be read', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    await other.create('/t', NONE);
    const [told, unseen]: string[][] = [[], []];
    const watch = store.watchTree('/t', (path, node) => told.push(`${path} ${text(node)}`), {
      onUnseen: (path) => unseen.push(path),
    });
    await watch.ready;
    await other.multi([
      { type: 'create', path: '/t/a', data: NONE },
      { type: 'delete', path: '/t/a' },
    ]);
    await until('it is said', () => unseen.length > 0);
    await other.create('/t/b', NONE);
    await until('what stays is told', () => told.includes('/t/b '));
    t.deepEqual([unseen, told], [['/t/a'], ['/t ', '/t/b ']]);
    watch.close();
  });

  for (const loss of ['the connection', 'the session'] as const) {
    check(`after the loss of ${loss} a tree tells what differs, and nothing else`, async (t, bench) => {
      const [proxy, other] = [await bench.proxy(), bench.store()];
      const store = bench.store({ sessionTimeout: loss === 'the session' ? 1000 : 20_000 }, proxy.address);
      await store.create('/mine', NONE, { ephemeral: true });
      for (const path of ['/t', '/t/same', '/t/same/same', '/t/gone', '/t/gone/too', '/t/changed', '/t/again']) {
        await other.create(path, bytes('1'));
      }
      await other.create('/t/again/old', bytes('1'));
      const told: string[] = [];
      let current = 0;
      const watch = store.watchTree('/t', (path, node) => told.push(`${path} ${text(node)}`), {
        onCurrent: () => current++,
      });
      await watch.ready;
      t.is(told.length, 8);
      told.length = 0;
      proxy.cut();
      await until('the client knows', () => store.state === 'disconnected');
      await other.delete('/t/gone/too');
      await other.delete('/t/gone');
      await other.set('/t/changed', bytes('2'));
      await other.delete('/t/again/old');
      await other.delete('/t/again');
      await other.create('/t/again', bytes('3'));
      await other.create('/t/again/new', bytes('3'));
      if (loss === 'the session') await until('it is over', async () => (await other.exists('/mine')) === undefined);
      proxy.pass();
      await until('it is read again', () => current === 2);
      t.deepEqual(
        told.filter((line) => line.startsWith('/t/gone')),
        ['/t/gone/too undefined', '/t/gone undefined'],
      );
      t.deepEqual(told.slice().sort(), [
        '/t/again 3',
        '/t/again/new 3',
        '/t/again/old undefined',
        '/t/changed 2',
        '/t/gone undefined',
        '/t/gone/too undefined',
      ]);
      t.is(store.metrics.sessionsLost, loss === 'the session' ? 1 : 0);
      await other.set('/t/same/same', bytes('4'));
      await until('the watch is set again', () => told.at(-1) === '/t/same/same 4');
      watch.close();
    });
  }

  check('all kinds of watches on one path work side by side', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    const seen = { data: '', children: '', tree: '' };
    const open = {
      data: () =>
        store.watchData('/p', (node) => {
          seen.data = `${text(node)}`;
        }),
      children: () =>
        store.watchChildren('/p', (names) => {
          seen.children = `${names}`;
        }),
      tree: () =>
        store.watchTree('/p', (path, node) => {
          seen.tree = `${path} ${text(node)}`;
        }),
    };
    const kinds = ['data', 'children', 'tree'] as const;
    for (const order of [kinds, kinds.toReversed()]) {
      const watches = order.map((kind) => ({ kind, watch: open[kind]() }));
      await Promise.all(watches.map(({ watch }) => watch.ready));
      for (const [round, left] of [kinds, kinds, kinds.filter((kind) => kind !== 'tree'), ['tree']].entries()) {
        for (const one of watches) {
          if (!left.some((kind) => kind === one.kind)) one.watch.close();
        }
        if (round === 3) {
          const again = open.tree();
          watches.push({ kind: 'tree', watch: again });
          await again.ready;
        }
        for (const value of ['1', '2']) {
          if (value === '1') await other.create('/p', bytes('1'));
          else await other.set('/p', bytes(value));
          if (left.includes('data')) await until('data are told', () => seen.data === value);
          if (left.includes('tree')) await until('the tree is told', () => seen.tree === `/p ${value}`);
        }
        await other.create('/p/child', NONE);
        if (left.includes('children')) await until('children are told', () => seen.children === 'child');
        if (left.includes('tree')) await until('the child is told', () => seen.tree === '/p/child ');
        await other.delete('/p/child');
        if (left.includes('children')) await until('children are told', () => seen.children === '');
        await other.delete('/p');
        if (left.includes('data')) await until('the end is told', () => seen.data === 'undefined');
        if (left.includes('children')) await until('the end is told', () => seen.children === 'undefined');
        if (left.includes('tree')) await until('the end is told', () => seen.tree === '/p undefined');
      }
      for (const { watch } of watches) watch.close();
      t.is(store.metrics.tracked, 0);
    }
  });

  check('the server keeps no watch that nobody wants', async (t, bench) => {
    const store = bench.store({}, bench.member);
    const watches = async () => Number(/zk_watch_count\t(\d+)/.exec(await fourLetterWord(bench.member, 'mntr'))![1]);
    const before = await watches();
    await store.create('/there', NONE);
    const open = () => [
      store.watchTree('/there', () => {}),
      store.watchTree('/absent', () => {}),
      ...['/there', '/absent', '/other'].flatMap((path) => [
        store.watchData(path, () => {}),
        store.watchChildren(path, () => {}),
      ]),
    ];
    for (const wait of [true, false]) {
      const opened = open();
      if (wait) {
        await Promise.all(opened.map(({ ready }) => ready));
        t.true((await watches()) >= before + 4);
      }
      for (const watch of opened) watch.close();
      await until('they are taken back', async () => (await watches()) === before);
    }
    t.is(store.metrics.disconnects, 0);
  });

  check('a session is taken up again after the connection was cut', async (t, bench) => {
    const [proxy, other] = [await bench.proxy(), bench.store()];
    const store = bench.store({ sessionTimeout: 20_000 }, proxy.address);
    const events: StoreEvent[] = [];
    store.onState((event) => events.push(event));
    await other.create('/changed', bytes('1'));
    await other.create('/same', bytes('1'));
    await other.create('/deleted', bytes('1'));
    await other.create('/parent', NONE);
    await store.sync();
    const seen: string[] = [];
    const watches = [
      ...['/changed', '/same', '/deleted', '/created', '/never'].map((path) =>
        store.watchData(path, (node) => seen.push(`${path} ${text(node)}`)),
      ),
      store.watchChildren('/parent', (names) => seen.push(`/parent [${names}]`)),
      store.watchChildren('/same', (names) => seen.push(`/same [${names}]`)),
    ];
    await Promise.all(watches.map(({ ready }) => ready));
    await store.create('/e', NONE, { ephemeral: true });
    const session = store.sessionId;
    seen.length = 0;
    proxy.cut();
    await until('the client knows', () => store.state === 'disconnected');
    await other.set('/changed', bytes('2'));
    await other.delete('/deleted');
    await other.create('/created', bytes('1'));
    await other.create('/parent/child', NONE);
    proxy.pass();
    await Promise.all([store.sync(), other.sync()]);
    t.is(text(await store.get('/changed')), '2', 'calls wait for the connection');
    await until('all is seen', () => seen.length >= 4);
    t.deepEqual(seen.sort(), ['/changed 2', '/created 1', '/deleted undefined', '/parent [child]']);
    t.is(store.sessionId, session);
    t.is((await other.exists('/e'))!.ephemeralOwner, session);
    t.deepEqual(events, ['connected', 'disconnected', 'connected']);
    await other.set('/same', bytes('2'));
    await other.create('/never', bytes('after all'));
    await until('watches set again fire', () => seen.length === 6);
    t.deepEqual(seen.slice(4).sort(), ['/never after all', '/same 2']);
  });

  check('cutting the connection again and again loses nothing', async (t, bench) => {
    const [proxy, other] = [await bench.proxy(), bench.store()];
    const store = bench.store({ sessionTimeout: 20_000, operationTimeout: 15_000 }, proxy.address);
    await other.create('/n', bytes('0'));
    await store.sync();
    const seen: number[] = [];
    const watch = store.watchData('/n', (node) => seen.push(Number(text(node))));
    await watch.ready;
    const session = store.sessionId;
    let reads = 0;
    let last = 0;
    for (let i = 1; i <= 60; i++) {
      const write = other.set('/n', bytes(String(i)));
      if (i % 6 === 0) setTimeout(() => proxy.drop(), Math.random() * 4);
      const value = Number(text(await store.get('/n')));
      t.true(value >= last, 'reads do not go back in time');
      last = value;
      reads++;
      await write;
    }
    t.is(reads, 60);
    await until('the last value is seen', () => seen.at(-1) === 60);
    t.deepEqual(
      seen,
      [...new Set(seen)].sort((a, b) => a - b),
    );
    t.is(store.sessionId, session);
    t.true(store.metrics.disconnects >= 5);
  });

  check('a connection that went dead without a word is noticed and replaced', async (t, bench) => {
    const proxy = await bench.proxy();
    const store = bench.store({ sessionTimeout: 3000 }, proxy.address);
    await store.create('/e', NONE, { ephemeral: true });
    const session = store.sessionId;
    proxy.stall();
    proxy.pass();
    const since = performance.now();
    // Between two thirds of the timeout and the whole of it: there is time to take up the session.
    t.not(await store.exists('/e'), undefined);
    const took = performance.now() - since;
    t.true(took > 1000 && took < 10_000, `${took}`);
    t.is(store.sessionId, session);
    t.is(store.metrics.disconnects, 1);
  });

  check('an idle session stays alive', async (t, bench) => {
    const [store, other] = [bench.store({ sessionTimeout: 1500 }), bench.store()];
    await store.create('/e', NONE, { ephemeral: true });
    await delay(3500);
    await other.sync();
    t.not(await other.exists('/e'), undefined);
    t.is(store.metrics.sessionsLost, 0);
  });

  check('calls end in time, and say whether the change may have been made', async (t, bench) => {
    const proxy = await bench.proxy();
    const store = bench.store({ operationTimeout: 400, sessionTimeout: 20_000 }, proxy.address);
    await store.create('/a', NONE);
    proxy.stall();
    const timed = async (call: Promise<unknown>, unknown: boolean, within: number) => {
      const since = performance.now();
      const error = await t.throwsAsync<StoreUnavailableError>(call, { instanceOf: StoreUnavailableError });
      t.is(error.code, 'MN_STORE_UNAVAILABLE');
      t.is(error.outcomeUnknown, unknown);
      t.true(performance.now() - since < within, `${performance.now() - since}`);
    };
    await Promise.all([timed(store.set('/a', NONE), true, 5000), timed(store.get('/a'), false, 5000)]);
    const sent = timed(store.set('/a', NONE), true, 5000);
    await delay(20);
    proxy.cut();
    await sent;
    await until('the client knows', () => store.state === 'disconnected');
    await Promise.all([timed(store.set('/a', NONE), false, 5000), timed(store.get('/a'), false, 5000)]);
    const abort = new AbortController();
    const aborted = store.get('/a', { signal: abort.signal });
    abort.abort(new Error('enough'));
    await t.throwsAsync(aborted, { message: 'enough' });
    proxy.pass();
    await until('it is back', () => store.state === 'connected');
    t.not(await store.get('/a'), undefined);
  });

  check('a client with several servers finds the one that lives', async (t, bench) => {
    const dead = await bench.proxy();
    dead.cut();
    const silent = await bench.proxy();
    silent.stall();
    const addresses = `${dead.address},${silent.address},127.0.0.1:1,${bench.server.address}`;
    const store = bench.store({ sessionTimeout: 1000 }, addresses);
    await store.create('/a', NONE);
    t.is(store.state, 'connected');
  });

  check('after session loss ephemerals are made and watches read again', async (t, bench) => {
    const [proxy, other] = [await bench.proxy(), bench.store()];
    const store = bench.store({ sessionTimeout: 1500 }, proxy.address);
    const events: StoreEvent[] = [];
    store.onState((event) => events.push(event));
    await other.create('/same', bytes('1'));
    await other.create('/changed', bytes('1'));
    await store.sync();
    const seen: string[] = [];
    const watches = ['/same', '/changed'].map((path) =>
      store.watchData(path, (node) => seen.push(`${path} ${text(node)}`)),
    );
    await Promise.all(watches.map(({ ready }) => ready));
    const states: EphemeralState[] = [];
    const kept = store.ephemeral('/kept', bytes('me'), { onState: (state) => states.push(state) });
    await kept.ready;
    await store.create('/plain', NONE, { ephemeral: true });
    await other.sync();
    const session = store.sessionId;
    seen.length = 0;
    proxy.cut();
    await until('the session is over', async () => (await other.exists('/plain')) === undefined);
    t.is(await other.exists('/kept'), undefined);
    await other.set('/changed', bytes('2'));
    proxy.pass();
    await until('it is made again', async () => (await other.exists('/kept')) !== undefined);
    await until('the client knows', () => kept.state === 'held');
    const node = (await other.get('/kept'))!;
    t.is(text(node), 'me');
    t.is(node.stat.ephemeralOwner, store.sessionId);
    t.not(store.sessionId, session);
    t.deepEqual(states, ['held', 'pending', 'held']);
    await until('the change is seen', () => seen.length > 0);
    t.deepEqual(seen, ['/changed 2']);
    t.deepEqual(events, ['connected', 'disconnected', 'session-lost', 'connected']);
    await other.set('/same', bytes('2'));
    await until('watches fire', () => seen.includes('/same 2'));
    t.is(await other.exists('/plain'), undefined);
  });

  check('a kept ephemeral node follows its owner, whatever others do', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    const kept = store.ephemeral('/k', bytes('1'));
    await kept.ready;
    t.is(kept.state, 'held');
    await other.delete('/k');
    await until('it is made again', async () => text(await other.get('/k')) === '1');
    kept.set(bytes('2'));
    kept.set(bytes('3'));
    await until('it is set', async () => text(await other.get('/k')) === '3');
    await other.set('/k', bytes('not mine'));
    await until('it is set back', async () => text(await other.get('/k')) === '3');
    await kept.close();
    t.is(kept.state, 'closed');
    await other.sync();
    t.is(await other.exists('/k'), undefined);
  });

  check('a kept ephemeral node that is deleted as soon as it is there is made again', async (t, bench) => {
    const [store, other] = [bench.store(), bench.store()];
    for (let i = 0; i < 50; i++) {
      const kept = store.ephemeral(`/k${i}`, bytes('1'));
      await kept.ready;
      await other.delete(`/k${i}`);
      await until('it is made again', async () => (await other.get(`/k${i}`)) !== undefined);
    }
    t.pass();
  });

  check('two who want the same ephemeral node', async (t, bench) => {
    const [first, second, third] = [bench.store(), bench.store(), bench.store()];
    const held = first.ephemeral('/k', bytes('first'));
    await held.ready;
    const waiting = second.ephemeral('/k', bytes('second'));
    await until('the conflict is told', () => waiting.state === 'conflict');
    await third.sync();
    t.is(text(await third.get('/k')), 'first');
    await first.close();
    await until('the second has it', () => waiting.state === 'held');
    await third.sync();
    t.is(text(await third.get('/k')), 'second');
    const asked: string[] = [];
    const heir = third.ephemeral('/k', bytes('third'), {
      takeOver: (current) => {
        asked.push(text(current)!);
        return true;
      },
    });
    await until('the third has it', () => heir.state === 'held');
    t.deepEqual(asked, ['second']);
    await until('the second knows', () => waiting.state === 'conflict');
    t.is((await second.get('/k'))!.stat.ephemeralOwner, third.sessionId);
  });

  check('nothing is called after close, and waiting calls fail', async (t, bench) => {
    const proxy = await bench.proxy();
    const store: Store = bench.store({ operationTimeout: 10_000 }, proxy.address);
    await store.create('/a', NONE);
    let calls = 0;
    const watch = store.watchData('/a', () => calls++);
    await watch.ready;
    proxy.cut();
    await until('the client knows', () => store.state === 'disconnected');
    const waiting = t.throwsAsync(store.get('/a'), { instanceOf: ClosedError });
    const unborn = store.watchData('/b', () => calls++);
    await store.close();
    await waiting;
    await unborn.ready;
    proxy.pass();
    await delay(50);
    t.is(calls, 1);
    t.throws(() => store.watchData('/a', () => {}), { instanceOf: ClosedError });
  });
}
