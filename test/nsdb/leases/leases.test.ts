import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import fc from 'fast-check';
import { EmbeddedServer } from '../../../src/nsdb/embedded/server.js';
import { encodeJson } from '../../../src/nsdb/json.js';
import { hostAlivePath, hostLeasesPath, missingHostPath, natBlocksPath, objectPath } from '../../../src/nsdb/layout.js';
import {
  findLeakedLeases,
  type LeaseFinding,
  noteMissingHosts,
  reclaimLeases,
} from '../../../src/nsdb/leases/lease-check.js';
import type { LeaseStore } from '../../../src/nsdb/leases/lease-registry.js';
import { leaseEntryPath, takeOperations } from '../../../src/nsdb/leases/leases.js';
import {
  NAT_BLOCK_PORTS,
  type NatBlock,
  NatBlocks,
  NatExhaustedError,
  watchNatOwners,
} from '../../../src/nsdb/leases/nat-blocks.js';
import { ObjectNotFoundError, TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { NodeError, type Store } from '../../../src/nsdb/store.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { until } from '../../compliance/store.js';
import { ApacheZookeeper } from '../apache-zookeeper.js';
import { allPaths } from '../embedded-nsdb.js';
import { Crashed, MortalStore } from './mortal-store.js';

const ADDRESS = '192.0.2.1';
const ALL = { first: 0, last: 65_535 };
const NONE = new Uint8Array();

/** A server, and clients with a root of their own for each test. */
class Bench {
  readonly #closers: (() => Promise<void>)[] = [];
  readonly repository: TopologyRepository;
  readonly deviceId = randomUUID();

  private constructor(
    readonly connect: string,
    readonly store: Store,
  ) {
    this.repository = new TopologyRepository(store);
  }

  static async open(address: string): Promise<Bench> {
    const root = `/${randomUUID()}`;
    const top = new ZookeeperStore({ connect: address, operationTimeout: 20_000 });
    await top.ensure(root);
    await top.close();
    const store = new ZookeeperStore({ connect: `${address}${root}`, operationTimeout: 20_000 });
    const bench = new Bench(`${address}${root}`, store);
    bench.#closers.push(() => store.close());
    await bench.repository.initialize();
    await bench.repository.create('bridge', { id: bench.deviceId, name: 'nat' });
    return bench;
  }

  another(): Store {
    const store = new ZookeeperStore({ connect: this.connect, operationTimeout: 20_000 });
    this.#closers.push(() => store.close());
    return store;
  }

  async host(): Promise<string> {
    const id = randomUUID();
    await this.repository.create('host', { id, name: `host-${id}` });
    return id;
  }

  /** The owners of an address's blocks, by first port. */
  async owners(address = ADDRESS): Promise<Map<number, string>> {
    const folder = natBlocksPath(this.deviceId, address);
    const owners = new Map<number, string>();
    for (const name of (await this.store.children(folder)) ?? []) {
      const node = await this.store.get(`${folder}/${name}`);
      if (node !== undefined) owners.set(Number(name), JSON.parse(Buffer.from(node.data).toString()).hostId);
    }
    return owners;
  }

  async close(): Promise<void> {
    for (const close of this.#closers) await close();
  }
}

function natBlocks(store: LeaseStore, hostId: string, more: Partial<ConstructorParameters<typeof NatBlocks>[0]> = {}) {
  const onLost = (block: NatBlock) => {
    throw new Error(`lost ${JSON.stringify(block)}`);
  };
  return new NatBlocks({ store, hostId, onLost, ...more });
}

const first = (block: NatBlock) => block.first;
const numeric = (a: number, b: number) => a - b;

async function collect(found: AsyncIterable<LeaseFinding>): Promise<LeaseFinding[]> {
  const all: LeaseFinding[] = [];
  for await (const finding of found) all.push(finding);
  return all;
}

const servers = [
  { name: 'embedded server', start: () => startEmbedded() },
  { name: 'Apache ZooKeeper', start: () => ApacheZookeeper.start() },
];

async function startEmbedded(): Promise<{ address: string; close(): Promise<void> }> {
  const dataDir = await mkdtemp(join(tmpdir(), 'midonet-leases-'));
  const server = await EmbeddedServer.start({ listen: { host: '127.0.0.1', port: 0 }, dataDir, fsync: false });
  const close = async () => {
    await server.close();
    await rm(dataDir, { recursive: true });
  };
  return { address: server.address, close };
}

for (const { name, start } of servers) {
  const skipped = name === 'Apache ZooKeeper' && process.env.MIDONET_SKIP_ZOOKEEPER === '1';
  const test = anyTest as TestFn<{ bench: Bench }>;
  const declare = (title: string, body: (t: ExecutionContext<{ bench: Bench }>, bench: Bench) => Promise<void>) =>
    (skipped ? test.skip : test)(`${name}: ${title}`, async (t) => {
      const bench = await Bench.open(server!.address);
      try {
        await body(t, bench);
      } finally {
        await bench.close();
      }
    });
  let server: { address: string; close(): Promise<void> } | undefined;
  test.before(async () => {
    if (!skipped) server = await start();
  });
  test.after.always(() => server?.close());

  declare(
    '50 hosts take all 1024 blocks of an address: each is one host’s, then the error says so',
    async (t, bench) => {
      const stores = Array.from({ length: 5 }, () => bench.another());
      const hosts = await Promise.all(Array.from({ length: 50 }, () => bench.host()));
      const takers = hosts.map((hostId, i) => natBlocks(stores[i % stores.length], hostId));
      const taken = await Promise.all(
        takers.map(async (taker) => {
          const blocks: NatBlock[] = [];
          for (;;) {
            try {
              blocks.push(await taker.take(bench.deviceId, ADDRESS, { range: ALL }));
            } catch (error) {
              t.true(error instanceof NatExhaustedError, String(error));
              t.is((error as NatExhaustedError).code, 'MN_NAT_EXHAUSTED');
              t.regex(
                (error as Error).message,
                new RegExp(`${bench.deviceId}.*192\\.0\\.2\\.1.*0 to 65535.* ${blocks.length} of them`),
              );
              return blocks;
            }
          }
        }),
      );
      t.deepEqual(
        taken.flat().map(first).sort(numeric),
        Array.from({ length: 1024 }, (_, i) => i * NAT_BLOCK_PORTS),
      );
      const owners = await bench.owners();
      for (const [i, blocks] of taken.entries()) for (const block of blocks) t.is(owners.get(block.first), hosts[i]);
      t.deepEqual(await collect(findLeakedLeases(bench.store)), []);
      await Promise.all(takers.map((taker, i) => Promise.all(taken[i].map((block) => taker.release(block)))));
      t.is((await bench.owners()).size, 0);
      t.deepEqual(await collect(findLeakedLeases(bench.store)), []);
    },
  );

  declare('the folders of an address go with its last block, unless somebody takes another', async (t, bench) => {
    let now = 0;
    const [a, b] = [await bench.host(), await bench.host()];
    const before = await allPaths(bench.store);
    const open = (hostId: string) => natBlocks(bench.store, hostId, { now: () => now });
    const [mine, theirs] = [open(a), open(b)];
    const block = await mine.take(bench.deviceId, ADDRESS);
    const other = await theirs.take(bench.deviceId, ADDRESS);
    await mine.release(block);
    t.false(await mine.forget(bench.deviceId, ADDRESS), 'a change may still be on its way');
    now = 60_000;
    t.true(await mine.forget(bench.deviceId, ADDRESS));
    t.false(await theirs.forget(bench.deviceId, ADDRESS), 'a block is held');
    t.is((await bench.owners()).get(other.first), b);
    await theirs.release(other);
    const [, again] = await Promise.all([theirs.forget(bench.deviceId, ADDRESS), theirs.take(bench.deviceId, ADDRESS)]);
    t.is((await bench.owners()).get(again.first), b);
    await theirs.release(again);
    t.is((await bench.owners()).size, 0);
    now += 60_000;
    t.true(await theirs.forget(bench.deviceId, ADDRESS));
    t.deepEqual(await allPaths(bench.store), before);
  });

  declare('a take is two messages, with no block taken and with 900', async (t, bench) => {
    let now = 0;
    const [other, hostId] = [await bench.host(), await bench.host()];
    const store = new MortalStore(bench.store);
    const blocks = natBlocks(store, hostId, { now: () => now });
    const count = async () => {
      const before = store.calls;
      await blocks.take(bench.deviceId, ADDRESS);
      return store.calls - before;
    };
    t.true((await count()) <= 8, 'with the folders and the look at what an earlier run has left');
    now = 60_000;
    t.true((await count()) <= 6, 'with the second look at that');
    t.is(await count(), 2);
    const many = natBlocks(bench.store, other);
    for (let i = 0; i < 900; i++) await many.take(bench.deviceId, ADDRESS);
    t.is(await count(), 2);
    store.calls = 0;
    await blocks.ownerOf(bench.deviceId, ADDRESS, 5000);
    t.is(store.calls, 1);
  });

  declare(
    'a crash between any two calls leaks nothing that a restart or reclaiming does not find',
    async (t, bench) => {
      const life = async (blocks: NatBlocks) => {
        const kept = await blocks.take(bench.deviceId, ADDRESS);
        const released = await blocks.take(bench.deviceId, ADDRESS, { range: ALL });
        await blocks.release(released);
        return kept;
      };
      for (const fate of ['before', 'after'] as const) {
        for (let n = 1; ; n++) {
          const hostId = await bench.host();
          const store = new MortalStore(bench.store);
          store.fate = () => (store.calls === n ? fate : 'live');
          let ended = true;
          try {
            await life(natBlocks(store, hostId));
          } catch (error) {
            t.true(error instanceof Crashed);
            ended = false;
          }
          const mine = [...(await bench.owners())].filter(([, owner]) => owner === hostId).map(([port]) => port);
          t.deepEqual((await natBlocks(bench.store, hostId).load()).map(first).sort(numeric), mine.sort(numeric));
          t.deepEqual(await collect(findLeakedLeases(bench.store)), []);
          // The same crash in the deletion of the host, which is tried again, or left to fsck.
          const deleting = new MortalStore(bench.store);
          deleting.fate = () => (deleting.calls === n ? fate : 'live');
          await t.notThrowsAsync(
            new TopologyRepository(deleting as LeaseStore as Store).delete('host', hostId).catch((error: unknown) => {
              if (!(error instanceof Crashed)) throw error;
            }),
          );
          if (n % 2 === 0) await bench.repository.delete('host', hostId);
          else await removeTree(bench.store, objectPath('host', hostId));
          await reclaimLeases(bench.store);
          t.deepEqual(
            [...(await bench.owners()).values()].filter((owner) => owner === hostId),
            [],
          );
          t.deepEqual(await collect(findLeakedLeases(bench.store)), []);
          if (ended) break;
        }
      }
    },
  );

  declare('leases of a host that is cut off stay; of one not seen for long they are reclaimed', async (t, bench) => {
    const hostId = await bench.host();
    const blocks = natBlocks(bench.store, hostId);
    const block = await blocks.take(bench.deviceId, ADDRESS);
    const agent = bench.another();
    const alive = agent.ephemeral(hostAlivePath(hostId), encodeJson({}));
    await alive.ready;
    const look = async (goneAfter?: number) => {
      await delay(30);
      await noteMissingHosts(bench.store);
      return (await collect(findLeakedLeases(bench.store, { goneAfter }))).map(({ path }) => path);
    };
    t.deepEqual(await look(0), [], 'it runs');
    t.is(await bench.store.exists(missingHostPath(hostId)), undefined);
    await alive.close();
    await look();
    t.deepEqual(await look(), [], 'a day has not passed');
    t.is(await reclaimLeases(bench.store), 0);
    t.deepEqual(await look(60_000), []);
    const path = `${natBlocksPath(bench.deviceId, ADDRESS)}/${String(block.first).padStart(5, '0')}`;
    t.deepEqual(await look(20), [path]);

    const again = agent.ephemeral(hostAlivePath(hostId), encodeJson({}));
    await again.ready;
    await again.close();
    t.deepEqual(
      await collect(findLeakedLeases(bench.store, { goneAfter: 20 })),
      [],
      'it has been there since the mark',
    );
    await look();
    await look();
    const [finding] = await collect(findLeakedLeases(bench.store, { goneAfter: 0 }));
    await blocks.reconcile();
    await t.throwsAsync(
      bench.store.multi(finding.repair),
      { instanceOf: NodeError },
      'it has confirmed the lease since',
    );
    t.deepEqual(await collect(findLeakedLeases(bench.store, { goneAfter: 0 })), []);
    await delay(30);
    t.is(await reclaimLeases(bench.store, { goneAfter: 20 }), 1);
    t.is((await bench.owners()).size, 0);
    t.deepEqual(await bench.store.children(`${hostLeasesPath(hostId)}/${bench.deviceId},${ADDRESS}`), []);
    await blocks.reconcile();
    t.is((await bench.owners()).get(block.first), hostId, 'it comes back, and nobody has its block');
  });

  declare('what is wrong with leases is found and mended, and only that', async (t, bench) => {
    const { store, deviceId } = bench;
    const [hostId, other] = [await bench.host(), await bench.host()];
    const sound = await natBlocks(store, hostId).take(deviceId, ADDRESS, { range: { first: 2048, last: 2048 } });
    const folder = natBlocksPath(deviceId, ADDRESS);
    const entries = `${hostLeasesPath(hostId)}/${deviceId},${ADDRESS}`;
    const gone = natBlocksPath(randomUUID(), ADDRESS);
    await store.create(`${folder}/04096`, encodeJson({ hostId: other }));
    await store.create(`${folder}/08192`, encodeJson({ hostId: randomUUID() }));
    await store.create(`${folder}/12288`, Buffer.from('?'));
    await store.create(`${entries}/16384`, Buffer.from(`${folder}/16384`));
    await store.create(`${entries}/04096`, Buffer.from(`${folder}/04096`));
    await store.create(`${entries}/00000`, NONE);
    await store.ensure(gone);
    await store.create(`${gone}/01024`, encodeJson({ hostId }));
    await store.create(`${entries}/20480`, Buffer.from(`${gone}x/20480`));
    const found = new Map((await collect(findLeakedLeases(store))).map((finding) => [finding.path, finding]));
    t.deepEqual(
      [...found.keys()].sort(),
      [
        `${folder}/04096`,
        `${folder}/08192`,
        `${folder}/12288`,
        `${entries}/16384`,
        `${entries}/04096`,
        `${entries}/00000`,
        `${entries}/20480`,
        `${gone}/01024`,
        gone,
        gone.slice(0, gone.lastIndexOf('/')),
      ].sort(),
    );
    // Somebody takes a block just before its stale entry is mended.
    await store.delete(`${entries}/16384`);
    await store.multi(takeOperations({ hostId }, `${folder}/16384`, `${entries}/16384`));
    await t.throwsAsync(store.multi(found.get(`${entries}/16384`)!.repair), { code: 'MN_ALREADY_EXISTS' });

    t.is(await reclaimLeases(store), 8);
    t.deepEqual(
      (await collect(findLeakedLeases(store))).map(({ path }) => path),
      [`${folder}/12288`],
      'nobody knows whose it is',
    );
    t.deepEqual(await store.children(folder), ['02048', '04096', '12288', '16384']);
    t.deepEqual(await store.children(entries), ['02048', '16384']);
    t.deepEqual((await natBlocks(store, other).load()).map(first), [4096], 'it finds its block again');
    t.is(await natBlocks(store, other).ownerOf(deviceId, ADDRESS, sound.last), hostId);
  });

  declare(
    'an address block that lost its entry is found again; one of a deleted host is reclaimed',
    async (t, bench) => {
      const { store, repository, deviceId } = bench;
      const poolId = randomUUID();
      await repository.create('address-pool', { id: poolId, bridgeId: deviceId, cidr: '10.0.0.0/24', blockSize: 26 });
      const hostId = await bench.host();
      const shard = `${objectPath('address-pool', poolId)}/blocks/000`;
      await store.ensure(shard);
      await store.create(`${shard}/0a000000`, encodeJson({ hostId }));
      await store.create(`${shard}/0a000040`, encodeJson({ hostId: randomUUID() }));
      t.is(await reclaimLeases(store), 2);
      t.deepEqual(await store.children(shard), ['0a000000']);
      t.truthy(await store.exists(leaseEntryPath(hostId, poolId, `${shard}/0a000000`)));
    },
  );

  declare('with a device its NAT blocks go, of every host', async (t, bench) => {
    const before = (await allPaths(bench.store)).filter((path) => !path.includes(bench.deviceId));
    const hosts = [await bench.host(), await bench.host()];
    for (const hostId of hosts) {
      await natBlocks(bench.store, hostId).take(bench.deviceId, ADDRESS);
      await natBlocks(bench.store, hostId).take(bench.deviceId, 'fd00::1');
    }
    await bench.repository.delete('bridge', bench.deviceId);
    for (const hostId of hosts) {
      t.deepEqual(await natBlocks(bench.store, hostId).load(), []);
      await bench.repository.delete('host', hostId);
    }
    t.deepEqual(await allPaths(bench.store), before);
  });

  declare('whoever watches the owners of an address learns of every block, from any host', async (t, bench) => {
    const { deviceId } = bench;
    const [hostId, other] = [await bench.host(), await bench.host()];
    const blocks = natBlocks(bench.store, hostId);
    const before = await blocks.take(deviceId, ADDRESS);
    const seen = new Map<number, string>();
    const keys = new Map<number, number | undefined>();
    const invalid: string[] = [];
    let isCurrent = false;
    const watch = watchNatOwners(bench.another(), deviceId, ADDRESS, {
      owner: (port, lease) => {
        keys.set(port, lease?.tunnelKey);
        if (lease === undefined) seen.delete(port);
        else seen.set(port, lease.hostId);
      },
      current: () => {
        isCurrent = true;
      },
      invalid: (error) => invalid.push(error.message),
    });
    await watch.ready;
    t.deepEqual([...seen], [[before.first, hostId]]);
    await until('it has heard of all', () => isCurrent);
    const tunnelKey = () => 77;
    const onLost = () => t.fail('nobody else takes it');
    const theirs = new NatBlocks({ store: bench.another(), hostId: other, tunnelKey, onLost });
    const after = await theirs.take(deviceId, ADDRESS);
    await natBlocks(bench.store, other).take(deviceId, 'fd00::1');
    await blocks.release(before);
    await until('the watcher knows', () => seen.size === 1 && seen.get(after.first) === other);
    t.deepEqual([keys.get(before.first), keys.get(after.first)], [undefined, 77]);
    await bench.store.create(`${natBlocksPath(deviceId, ADDRESS)}/00064`, Buffer.from('?'));
    await until('it is told', () => invalid.length > 0);
    t.regex(invalid[0], /00064: not JSON/);
    watch.close();
    await blocks.take(deviceId, ADDRESS);
    t.is(seen.size, 1);
  });

  declare('ports below 1024 only when asked; a range, IPv6, what is not valid', async (t, bench) => {
    const { deviceId } = bench;
    const hostId = await bench.host();
    const blocks = natBlocks(bench.store, hostId);
    const low = await blocks.take(deviceId, ADDRESS, { range: { first: 80, last: 80 } });
    t.deepEqual(low, { deviceId, address: ADDRESS, first: 64, last: 127 });
    await t.throwsAsync(blocks.take(deviceId, ADDRESS, { range: { first: 100, last: 127 } }), {
      code: 'MN_NAT_EXHAUSTED',
    });
    t.deepEqual(
      [await blocks.take(deviceId, ADDRESS, { range: { first: 100, last: 128 } })].map(first),
      [128],
      'the one with a port of the range that is free',
    );
    for (let i = 0; i < 100; i++) t.true((await blocks.take(deviceId, ADDRESS)).first >= 1024);
    const v6 = await blocks.take(deviceId, 'FD00:0::1');
    t.is(v6.address, 'fd00::1');
    t.is(await blocks.ownerOf(deviceId, 'fd00:0:0::1', v6.last), hostId);
    t.is(await blocks.ownerOf(deviceId, ADDRESS, 0), undefined);
    const wrong: [() => Promise<unknown>, RegExp][] = [
      [() => blocks.take('router', ADDRESS), /^deviceId.*"router"/],
      [() => blocks.take(deviceId, '192.0.2'), /^address.*"192\.0\.2"/],
      [() => blocks.take(deviceId, ADDRESS, { range: { first: -1, last: 5 } }), /^range\.first.*-1/],
      [() => blocks.take(deviceId, ADDRESS, { range: { first: 7, last: 5 } }), /^range\.last.*5/],
      [() => blocks.ownerOf(deviceId, ADDRESS, 65_536), /^port.*65536/],
    ];
    for (const [call, message] of wrong) await t.throwsAsync(call, { code: 'MN_INVALID_INPUT', message });
    await t.throwsAsync(natBlocks(bench.store, randomUUID()).take(deviceId, ADDRESS), {
      instanceOf: ObjectNotFoundError,
    });
  });

  declare(
    'a host keeps its blocks over a restart, and learns of those that the NSDB gave to others',
    async (t, bench) => {
      const { deviceId } = bench;
      const [hostId, other] = [await bench.host(), await bench.host()];
      const earlier = natBlocks(bench.store, hostId);
      const taken = [await earlier.take(deviceId, ADDRESS), await earlier.take(deviceId, 'fd00::1')];
      const lost: NatBlock[] = [];
      const blocks = natBlocks(bench.store, hostId, { onLost: (block) => lost.push(block) });
      t.deepEqual((await blocks.load()).map(first).sort(numeric), taken.map(first).sort(numeric));
      t.not((await blocks.take(deviceId, ADDRESS)).first, taken[0].first);
      const unasked = natBlocks(bench.store, hostId);
      t.true(
        [...(await bench.owners()).keys()].includes((await unasked.take(deviceId, ADDRESS)).first),
        'what is there already',
      );

      // An NSDB that was restored from an older copy, and in which another host took a block since.
      for (const owner of [hostId]) await removeTree(bench.store, `${hostLeasesPath(owner)}/${deviceId},${ADDRESS}`);
      await removeTree(bench.store, natBlocksPath(deviceId, ADDRESS));
      await natBlocks(bench.store, other).take(deviceId, ADDRESS, { range: taken[0] });
      await blocks.reconcile();
      t.deepEqual(lost, [taken[0]]);
      t.is((await bench.owners()).size, 2, 'the other one was claimed again');
      await blocks.release(taken[0]);
      t.is(await blocks.ownerOf(deviceId, ADDRESS, taken[0].first), other);
    },
  );
}

/** What a host does in a history. `crash` and `lose` are at the n-th call of the next action. */
type Step =
  | { readonly type: 'take'; readonly host: number }
  | { readonly type: 'release'; readonly host: number; readonly which: number }
  | { readonly type: 'restart' | 'reconcile' | 'delete' | 'clock'; readonly host: number }
  | {
      readonly type: 'fault';
      readonly host: number;
      readonly fate: 'before' | 'after' | 'lost';
      readonly call: number;
    };

const HOSTS = 2;
const BLOCKS = 4;
const RANGE = { first: 1024, last: 1024 + BLOCKS * NAT_BLOCK_PORTS - 1 };

const host = fc.nat(HOSTS - 1);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ type: fc.constant('take' as const), host }) },
  { weight: 5, arbitrary: fc.record({ type: fc.constant('release' as const), host, which: fc.nat(4) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constantFrom('restart', 'reconcile', 'delete', 'clock'), host }) },
  {
    weight: 5,
    arbitrary: fc.record({
      type: fc.constant('fault' as const),
      host,
      fate: fc.constantFrom('before', 'after', 'lost'),
      call: fc.integer({ min: 1, max: 4 }),
    }),
  },
);

/** A host as a process that crashes, and what of its blocks connections use: that survives it. */
class ModelHost {
  id = '';
  store!: MortalStore;
  blocks!: NatBlocks;
  used = new Map<number, NatBlock>();

  constructor(
    readonly bench: Bench,
    readonly clock: { now: number },
  ) {}

  async begin(): Promise<void> {
    this.id = await this.bench.host();
    this.start();
  }

  start(): void {
    this.store = new MortalStore(this.bench.store);
    this.blocks = natBlocks(this.store, this.id, { now: () => this.clock.now });
  }

  async run(step: Step): Promise<void> {
    const { store } = this;
    switch (step.type) {
      case 'take': {
        const block = await this.blocks.take(this.bench.deviceId, ADDRESS, { range: RANGE });
        this.used.set(block.first, block);
        break;
      }
      case 'release': {
        const block = [...this.used.values()][step.which];
        if (block === undefined) break;
        this.used.delete(block.first);
        await this.blocks.release(block);
        break;
      }
      case 'restart':
        await this.restart();
        break;
      case 'reconcile':
        await this.blocks.reconcile();
        break;
      case 'clock':
        this.clock.now += 40_000;
        break;
      case 'delete':
        this.used.clear();
        await this.bench.repository.delete('host', this.id);
        await this.begin();
        break;
      case 'fault': {
        const at = store.calls + step.call;
        store.fate = () => (store.calls === at ? step.fate : 'live');
      }
    }
  }

  /** As an agent starts: what is leased is loaded, and what no connection uses released. */
  async restart(): Promise<void> {
    this.start();
    for (const block of await this.blocks.load()) if (!this.used.has(block.first)) await this.blocks.release(block);
  }
}

anyTest('property: in any history no block has two owners, none in use is lost, none is leaked', async (t) => {
  const server = await startEmbedded();
  t.teardown(() => server.close());
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
      const bench = await Bench.open(server.address);
      const clock = { now: 0 };
      const hosts = Array.from({ length: HOSTS }, () => new ModelHost(bench, clock));
      try {
        for (const one of hosts) await one.begin();
        for (const step of steps) {
          const one = hosts[step.host];
          try {
            await one.run(step);
          } catch (error) {
            if (error instanceof NatExhaustedError) {
              const owners = await bench.owners();
              if (owners.size < BLOCKS) throw new Error(`exhausted with ${BLOCKS - owners.size} free`);
              for (const [port, id] of owners) {
                if (id === one.id && !one.used.has(port)) throw new Error(`${port} is leased but not handed out`);
              }
            } else if (!(error instanceof Crashed)) throw error;
          }
          if (one.store.dead) await one.restart();
          const all = hosts.flatMap(({ used }) => [...used.keys()]);
          if (new Set(all).size < all.length) throw new Error('a block is used by two hosts');
          const owners = await bench.owners();
          for (const { id, used } of hosts) {
            for (const port of used.keys())
              if (owners.get(port) !== id) throw new Error(`${port} is used but not leased`);
          }
          const found = await collect(findLeakedLeases(bench.store));
          if (found.length > 0) throw new Error(JSON.stringify(found));
        }
        for (const one of hosts) await one.restart();
        const owners = await bench.owners();
        for (const { id, used } of hosts)
          for (const port of used.keys()) if (owners.get(port) === id) owners.delete(port);
        if (owners.size > 0) throw new Error(`leaked: ${JSON.stringify([...owners])}`);
      } finally {
        await bench.close();
      }
    }),
    { numRuns: 80 },
  );
  t.pass();
});

async function removeTree(store: Store, path: string): Promise<void> {
  for (const name of (await store.children(path)) ?? []) await removeTree(store, `${path}/${name}`);
  if ((await store.exists(path)) !== undefined) await store.delete(path);
}
