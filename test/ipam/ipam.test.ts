import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { Ipam } from '../../src/ipam/ipam.js';
import { PoolAllocator } from '../../src/ipam/pool-allocator.js';
import { PoolLayout } from '../../src/ipam/pool-layout.js';
import { idFromName } from '../../src/topology/id.js';
import type { AddressPool } from '../../src/topology/types.js';
import { FakeStore, FakeTree, seedTree } from './fake-store.js';

const bridgeId = idFromName('bridge', 'test');
const makePool = (cidr: string, blockSize: number, gateway?: string): AddressPool => ({
  id: idFromName('pool', bridgeId, cidr),
  bridgeId,
  cidr,
  blockSize,
  gateway,
});
const HOSTS = ['h1', 'h2', 'h3'].map((name) => idFromName('host', name));

/** A host as a process: what is in `disk` survives it. */
class TestHost {
  readonly store: FakeStore;
  disk: readonly string[] = [];
  clock = 0;
  warnings: string[] = [];
  allocator!: PoolAllocator;
  /** Addresses in use, as the attachment journal would have them. */
  readonly used = new Set<string>();

  constructor(
    tree: FakeTree,
    readonly hostId: string,
    readonly pool: AddressPool,
  ) {
    this.store = new FakeStore(tree);
    this.start();
  }

  start(): void {
    this.allocator = new PoolAllocator({
      pool: this.pool,
      hostId: this.hostId,
      store: this.store,
      knownBlocks: this.disk,
      saveBlocks: async (names) => {
        this.disk = names;
      },
      now: () => this.clock,
      warn: (message) => this.warnings.push(message),
    });
    for (const address of this.used) this.allocator.adopt(address);
  }

  async allocate(): Promise<string> {
    const address = await this.allocator.allocate();
    this.used.add(address);
    return address;
  }

  release(address: string): void {
    this.used.delete(address);
    this.allocator.release(address);
  }
}

async function setup(pool: AddressPool, hosts = 1): Promise<{ tree: FakeTree; hosts: TestHost[] }> {
  const tree = new FakeTree();
  await seedTree(tree, HOSTS.slice(0, hosts), [pool.id]);
  return { tree, hosts: HOSTS.slice(0, hosts).map((id) => new TestHost(tree, id, pool)) };
}

const blockNodes = (tree: FakeTree) =>
  [...tree.nodes.keys()].filter((path) => /^\/address-pools\/[^/]+\/blocks\/\w+\/\w+$/.test(path));
const indexNodes = (tree: FakeTree) =>
  [...tree.nodes.keys()].filter((path) => /^\/hosts\/[^/]+\/leases\/[^/]+\/\w+$/.test(path));

/** Lets background work run to its end. */
async function settle(): Promise<void> {
  for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve));
}

test('addresses come in order from one block, reserved ones never', async (t) => {
  const { hosts } = await setup(makePool('10.0.0.0/28', 28, '10.0.0.1'));
  const got: string[] = [];
  for (let i = 0; i < 13; i++) got.push(await hosts[0].allocate());
  t.deepEqual(
    got,
    Array.from({ length: 13 }, (_, i) => `10.0.0.${i + 2}`),
  );
  const error = await t.throwsAsync(hosts[0].allocate(), { code: 'MN_POOL_EXHAUSTED' });
  t.regex(error.message, /10\.0\.0\.0\/28/);
  t.regex(error.message, /all 1 blocks of 16 addresses.*13 addresses are in use in the 1 blocks/);
});

test('asking whether there is an address takes nothing, and ends with the signal', async (t) => {
  const { tree, hosts } = await setup(makePool('10.0.0.0/28', 29), 2);
  await hosts[0].allocator.requireFree();
  t.deepEqual(blockNodes(tree), []);
  t.is(hosts[0].allocator.usage.blocks, 0);
  await t.throwsAsync(hosts[0].allocator.requireFree(AbortSignal.abort(new Error('gone'))), { message: 'gone' });
  await hosts[1].allocate();
  while (blockNodes(tree).length < 2) await hosts[1].allocate();
  await t.throwsAsync(hosts[0].allocator.requireFree(), { code: 'MN_POOL_EXHAUSTED', message: /all 2 blocks/ });
  await hosts[1].allocator.requireFree();
  hosts[1].disk = [];
  hosts[1].used.clear();
  hosts[1].start();
  await t.notThrowsAsync(hosts[1].allocator.requireFree(), 'of its own blocks the NSDB knows');
  tree.nodes.delete(`/address-pools/${hosts[0].pool.id}/blocks`);
  await t.throwsAsync(hosts[0].allocator.requireFree(), { code: 'MN_NOT_FOUND', message: /pool/ });
  tree.nodes.delete(`/hosts/${HOSTS[0]}/leases`);
  await t.throwsAsync(hosts[0].allocator.requireFree(), { code: 'MN_NOT_FOUND', message: /host/ });
});

test('IPv6 addresses', async (t) => {
  const { hosts } = await setup(makePool('fd00::/120', 122, 'fd00::1'));
  const first = await hosts[0].allocate();
  t.regex(first, /^fd00::[0-9a-f]+$/);
  t.is(await hosts[0].allocator.request('FD00:0::00aa', 'ips'), 'fd00::aa');
});

test('a released address is reused as late as possible', async (t) => {
  const { hosts } = await setup(makePool('10.0.0.0/29', 29));
  const got: string[] = [];
  for (let i = 0; i < 4; i++) got.push(await hosts[0].allocate());
  hosts[0].release(got[1]);
  hosts[0].release(got[0]);
  t.is(await hosts[0].allocate(), '10.0.0.5');
  t.is(await hosts[0].allocate(), '10.0.0.6');
  t.is(await hosts[0].allocate(), got[1]);
  t.is(await hosts[0].allocate(), got[0]);
});

test('a further block is there before the last is used up: allocation never waits', async (t) => {
  const { hosts, tree } = await setup(makePool('10.0.0.0/24', 28));
  const [host] = hosts;
  await host.allocate();
  t.is(blockNodes(tree).length, 1);
  for (let i = 0; i < 11; i++) await host.allocate();
  await settle();
  t.is(blockNodes(tree).length, 2);
  host.store.down = true;
  for (let i = 0; i < 15; i++) await host.allocate();
});

test('without the NSDB: free addresses are handed out, then MN_STORE_UNAVAILABLE, then it works again', async (t) => {
  const { hosts } = await setup(makePool('10.0.0.0/24', 30));
  const [host] = hosts;
  await host.allocate();
  await settle();
  host.store.down = true;
  let count = 0;
  const error = await t.throwsAsync(
    async () => {
      for (;;) {
        await host.allocate();
        count += 1;
      }
    },
    { code: 'MN_STORE_UNAVAILABLE' },
  );
  t.truthy(error);
  t.true(count >= 2);
  host.store.down = false;
  await t.notThrowsAsync(host.allocate());
});

test('a restart without the NSDB: blocks come from disk, used addresses from whoever uses them', async (t) => {
  const { hosts } = await setup(makePool('10.0.0.0/24', 28));
  const [host] = hosts;
  const used = [await host.allocate(), await host.allocate()];
  host.store.down = true;
  host.start();
  for (let i = 0; i < 10; i++) t.false(used.includes(await host.allocate()));
});

test('a restart finds blocks again that only the NSDB knows of', async (t) => {
  const { hosts, tree } = await setup(makePool('10.0.0.0/24', 28));
  const [host] = hosts;
  await host.allocate();
  const before = blockNodes(tree);
  host.disk = [];
  host.start();
  await host.allocator.reconcile();
  t.is(host.allocator.usage.blocks, 1);
  await host.allocate();
  t.deepEqual(blockNodes(tree), before);
});

test('blocks of an NSDB that was restored from an old copy are claimed again when in use', async (t) => {
  const { hosts, tree } = await setup(makePool('10.0.0.0/24', 28));
  const [host] = hosts;
  await host.allocate();
  for (const path of [...blockNodes(tree), ...indexNodes(tree)]) tree.nodes.delete(path);
  await host.allocator.reconcile();
  t.is(blockNodes(tree).length, 1);
  t.is(indexNodes(tree).length, 1);
  t.deepEqual(host.warnings, []);
});

test('a block that somebody else was given meanwhile is not handed out any more, and said', async (t) => {
  const { hosts, tree } = await setup(makePool('10.0.0.0/28', 29), 2);
  const address = await hosts[0].allocate();
  for (const path of [...blockNodes(tree), ...indexNodes(tree)]) tree.nodes.delete(path);
  await hosts[1].allocator.request(address, 'ips');
  await hosts[0].allocator.reconcile();
  t.is(hosts[0].warnings.length, 1);
  t.regex(hosts[0].warnings[0], new RegExp(HOSTS[1]));
  t.is(hosts[0].allocator.usage.free, 0);
  const other = await hosts[0].allocate();
  const layout = new PoolLayout(hosts[0].pool);
  t.false(layout.addresses(blockNodes(tree)[0].split('/').at(-1)!).includes(other) && other === address);
  hosts[0].release(address);
  t.is(hosts[0].allocator.usage.blocks, 1);
});

test('requested addresses', async (t) => {
  const { hosts, tree } = await setup(makePool('10.0.0.0/24', 28, '10.0.0.1'), 2);
  const [one, two] = hosts;
  t.is(await one.allocator.request('10.0.0.20', 'ips[0]'), '10.0.0.20');
  t.is(blockNodes(tree).length, 1);
  t.is(await one.allocator.request('10.0.0.21', 'ips[0]'), '10.0.0.21');
  t.is(blockNodes(tree).length, 1);
  await t.throwsAsync(one.allocator.request('10.0.0.20', 'ips[0]'), {
    code: 'MN_ADDRESS_IN_USE',
    message: /10\.0\.0\.20/,
  });
  const other = await t.throwsAsync(two.allocator.request('10.0.0.22', 'ips[0]'), { code: 'MN_ADDRESS_IN_USE' });
  t.regex(other.message, new RegExp(`10\\.0\\.0\\.16/28.*${one.hostId}`));
  for (const wrong of ['10.0.1.1', 'fd00::1', 'nonsense', '10.0.0.0', '10.0.0.255', '10.0.0.1']) {
    await t.throwsAsync(one.allocator.request(wrong, 'ips[0]'), {
      code: 'MN_INVALID_INPUT',
      message: new RegExp(`ips\\[0\\].*${wrong}`),
    });
  }
  two.store.down = true;
  await t.throwsAsync(two.allocator.request('10.0.0.99', 'ips[0]'), { code: 'MN_STORE_UNAVAILABLE' });
});

test('an address that was asked for is not handed out a second time', async (t) => {
  const { hosts } = await setup(makePool('10.0.0.0/29', 29));
  await hosts[0].allocator.request('10.0.0.1', 'ips');
  const got: string[] = [];
  for (let i = 0; i < 5; i++) got.push(await hosts[0].allocate());
  t.deepEqual(got, ['10.0.0.2', '10.0.0.3', '10.0.0.4', '10.0.0.5', '10.0.0.6']);
});

test('wholly free blocks go back after a while, except one', async (t) => {
  const { hosts, tree } = await setup(makePool('10.0.0.0/24', 29));
  const [host] = hosts;
  const got: string[] = [];
  for (let i = 0; i < 30; i++) got.push(await host.allocate());
  await settle();
  const most = blockNodes(tree).length;
  t.true(most >= 4);
  for (const address of got) host.release(address);
  await host.allocator.maintain();
  t.is(blockNodes(tree).length, most, 'not at once');
  host.clock += 61_000;
  await host.allocator.maintain();
  t.is(blockNodes(tree).length, 1);
  t.is(indexNodes(tree).length, 1);
  t.is(host.disk.length, 1);
  await host.allocator.maintain();
  t.is(blockNodes(tree).length, 1, 'no flapping');
});

test('a give-back that arrives late takes nothing away', async (t) => {
  const { hosts, tree } = await setup(makePool('10.0.0.0/24', 29));
  const [host] = hosts;
  const got: string[] = [];
  for (let i = 0; i < 8; i++) got.push(await host.allocate());
  await settle();
  for (const address of got) host.release(address);
  host.clock += 61_000;
  host.store.fault = () => 'late';
  await t.throwsAsync(host.allocator.maintain(), { code: 'MN_STORE_UNAVAILABLE' });
  host.store.fault = () => 'none';
  await host.allocator.reconcile();
  const blocks = blockNodes(tree);
  host.store.settleLate();
  t.deepEqual(blockNodes(tree), blocks);
  t.is(host.allocator.usage.blocks, blocks.length);
});

test('hosts that start at once do not get the same block', async (t) => {
  const pool = makePool('10.0.0.0/22', 29);
  const tree = new FakeTree();
  const ids = Array.from({ length: 40 }, (_, i) => idFromName('host', String(i)));
  await seedTree(tree, ids, [pool.id]);
  const hosts = ids.map((id) => new TestHost(tree, id, pool));
  const got = await Promise.all(hosts.map((host) => host.allocate()));
  t.is(new Set(got).size, 40);
  t.is(blockNodes(tree).length, 40);
});

test('many allocations at once', async (t) => {
  const { hosts } = await setup(makePool('10.0.0.0/24', 30));
  const got = await Promise.all(Array.from({ length: 100 }, () => hosts[0].allocate()));
  t.is(new Set(got).size, 100);
});

test('the last blocks of a pool', async (t) => {
  const { hosts } = await setup(makePool('10.0.0.0/29', 31, '10.0.0.2'), 3);
  const got = new Set<string>();
  const results = await Promise.allSettled(
    Array.from({ length: 12 }, async (_, i) => got.add(await hosts[i % 3].allocate())),
  );
  for (const result of results) {
    if (result.status === 'rejected') t.is((result.reason as { code: string }).code, 'MN_POOL_EXHAUSTED');
  }
  t.false(got.has('10.0.0.0') || got.has('10.0.0.7') || got.has('10.0.0.2'));
  t.is(got.size, results.filter((result) => result.status === 'fulfilled').length);
  t.true(got.size >= 3);
});

test('pool or host missing in the NSDB is named', async (t) => {
  const pool = makePool('10.0.0.0/24', 28);
  const tree = new FakeTree();
  await seedTree(tree, [HOSTS[0]], []);
  await t.throwsAsync(new TestHost(tree, HOSTS[0], pool).allocate(), {
    message: new RegExp(`no address-pool ${pool.id}`),
  });
  await seedTree(tree, [], [pool.id]);
  await t.throwsAsync(new TestHost(tree, HOSTS[1], pool).allocate(), { message: new RegExp(`no host ${HOSTS[1]}`) });
});

type Step =
  | { type: 'allocate' | 'maintain' | 'crash' | 'reconcile' | 'wait'; host: number }
  | { type: 'release'; host: number; which: number }
  | { type: 'request'; host: number; offset: number }
  | { type: 'down'; host: number; down: boolean };

const host = fc.nat({ max: 2 });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ type: fc.constant('allocate' as const), host }) },
  { weight: 5, arbitrary: fc.record({ type: fc.constant('release' as const), host, which: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('request' as const), host, offset: fc.nat({ max: 63 }) }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('maintain' as const), host }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('crash' as const), host }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('reconcile' as const), host }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('wait' as const), host }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('down' as const), host, down: fc.boolean() }) },
);

const EXPECTED = new Set([
  'MN_POOL_EXHAUSTED',
  'MN_STORE_UNAVAILABLE',
  'MN_ADDRESS_IN_USE',
  'MN_INVALID_INPUT',
  'MN_CLOSED',
]);

async function runInterleaving(t: ExecutionContext, steps: Step[], faults: number[], order: number[]): Promise<void> {
  const { tree, hosts } = await setup(makePool('10.0.0.0/26', 29), 3);
  let faultCursor = 0;
  let orderCursor = 0;
  for (const each of hosts) {
    each.store.fault = () =>
      (['none', 'none', 'none', 'none', 'before', 'after', 'late'] as const)[faults[faultCursor++ % faults.length]];
    each.store.pause = async () => {
      for (let i = order[orderCursor++ % order.length]; i > 0; i--) await Promise.resolve();
    };
  }
  const owner = new Map<string, TestHost>();
  const take = (who: TestHost, generation: PoolAllocator, address: string) => {
    // A process that crashed meanwhile has not written the address down, and its namespace dies with the call.
    if (who.allocator !== generation) return;
    const holder = owner.get(address);
    if (holder !== undefined) throw new Error(`${address} handed out twice`);
    owner.set(address, who);
    who.used.add(address);
  };
  const running: Promise<void>[] = [];
  const guard = (work: Promise<void>) => {
    running.push(
      work.catch((error: { code?: string }) => {
        if (error.code === undefined || !EXPECTED.has(error.code)) throw error;
      }),
    );
  };
  for (const each of steps) {
    const who = hosts[each.host];
    const generation = who.allocator;
    switch (each.type) {
      case 'allocate':
        guard(generation.allocate().then((address) => take(who, generation, address)));
        break;
      case 'request':
        guard(generation.request(`10.0.0.${each.offset}`, 'ips').then((address) => take(who, generation, address)));
        break;
      case 'release': {
        const mine = [...who.used];
        if (mine.length === 0) break;
        const address = mine[each.which % mine.length];
        owner.delete(address);
        who.release(address);
        break;
      }
      case 'maintain':
        guard(generation.maintain());
        break;
      case 'reconcile':
        guard(generation.reconcile());
        break;
      case 'crash':
        // A dead process does not go on: what it has sent may still arrive.
        await generation.close();
        await settle();
        who.start();
        break;
      case 'down':
        who.store.down = each.down;
        break;
      case 'wait':
        who.clock += 61_000;
        who.store.settleLate();
        await new Promise((resolve) => setImmediate(resolve));
        break;
    }
  }
  await Promise.all(running);
  for (const each of hosts) {
    each.store.down = false;
    each.store.fault = () => 'none';
    each.store.settleLate();
    for (const address of [...each.used]) {
      if (owner.get(address) !== each) throw new Error(`${address} is with two hosts`);
      each.release(address);
    }
    await settle();
    // A block that is found only now is kept for a while, too.
    for (let i = 0; i < 2; i++) {
      each.clock += 61_000;
      await each.allocator.maintain();
    }
    const known = each.allocator.usage;
    if (known.used !== 0) throw new Error(`${known.used} addresses leaked`);
    if (known.blocks > 1) throw new Error(`${known.blocks} blocks kept`);
    if (each.disk.length !== known.blocks) throw new Error('disk differs from memory');
    if (each.warnings.some((warning) => warning.includes('belongs to host'))) throw new Error(each.warnings.join());
    await each.allocator.close();
  }
  const nodes = blockNodes(tree).length;
  if (nodes !== indexNodes(tree).length) throw new Error('block nodes and index differ');
  const kept = hosts.reduce((sum, each) => sum + each.allocator.usage.blocks, 0);
  if (nodes !== kept) throw new Error(`${nodes} nodes for ${kept} blocks`);
  t.pass();
}

test('property: no address twice, everything given back, over crashes, faults and any interleaving', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 60, size: 'max' }),
      fc.array(fc.nat({ max: 6 }), { minLength: 1, maxLength: 20, size: 'max' }),
      fc.array(fc.nat({ max: 4 }), { minLength: 1, maxLength: 20, size: 'max' }),
      (steps, faults, order) => runInterleaving(t, steps, faults, order),
    ),
    { numRuns: 150 },
  );
});

test('Ipam keeps the blocks on disk and reads them again; a damaged file is moved aside', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'mn-ipam-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const pool = makePool('10.0.0.0/24', 28);
  const tree = new FakeTree();
  await seedTree(tree, [HOSTS[0]], [pool.id]);
  const store = new FakeStore(tree);
  const warnings: string[] = [];
  const open = () => Ipam.open({ store, hostId: HOSTS[0], folder, warn: (message) => warnings.push(message) });
  let ipam = await open();
  const address = await ipam.pool(pool).allocate();
  await ipam.close();
  t.regex(await readFile(join(folder, `${pool.id}.json`), 'utf8'), /^\{"blocks":\["0a0000.0"\]\}$/);

  store.down = true;
  ipam = await open();
  ipam.pool(pool).adopt(address);
  t.not(await ipam.pool(pool).allocate(), address);
  t.is(ipam.usage()[0].used, 2);
  await ipam.close();

  await writeFile(join(folder, `${pool.id}.json`), '{"blocks": 5');
  store.down = false;
  ipam = await open();
  t.is(warnings.length, 1);
  t.deepEqual(await readdir(folder), [`${pool.id}.json.damaged`]);
  ipam.pool(pool).adopt(address);
  await ipam.maintain();
  t.is(ipam.usage()[0].blocks, 1);
  await ipam.close();
});

test('after a lost session the blocks are compared with the NSDB', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'mn-ipam-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const pool = makePool('10.0.0.0/24', 28);
  const tree = new FakeTree();
  await seedTree(tree, [HOSTS[0]], [pool.id]);
  const store = new FakeStore(tree);
  const ipam = await Ipam.open({ store, hostId: HOSTS[0], folder, warn: () => {} });
  await ipam.pool(pool).allocate();
  for (const path of [...blockNodes(tree), ...indexNodes(tree)]) tree.nodes.delete(path);
  store.emit('session-lost');
  store.emit('connected');
  await settle();
  t.is(blockNodes(tree).length, 1);
  await ipam.close();
});
