import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type NetworkDescription, Networks } from '../../../src/agent/attachments/networks.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../../src/nsdb/store.js';
import { idFromName } from '../../../src/topology/id.js';
import { FakeStore, FakeTree } from '../../ipam/fake-store.js';
import { until } from '../until.js';

const DESCRIPTION: NetworkDescription = {
  name: 'net',
  subnets: [
    { cidr: '10.1.0.0/24', blockSize: 28, gateway: '10.1.0.1' },
    { cidr: 'fd00::/64', blockSize: 122 },
  ],
};

async function setup(t: ExecutionContext) {
  const folder = await mkdtemp(join(tmpdir(), 'mn-networks-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const tree = new FakeTree();
  const warnings: string[] = [];
  const stores: FakeStore[] = [];
  const open = (name = 'a') => {
    const store = new FakeStore(tree);
    stores.push(store);
    return Networks.open({
      repository: new TopologyRepository(store as unknown as Store),
      folder: join(folder, name),
      warn: (message) => warnings.push(message),
    });
  };
  await new TopologyRepository(new FakeStore(tree) as unknown as Store).initialize();
  return { folder, tree, warnings, stores, open };
}

test('the first use makes bridge and pools; names give the same identifiers everywhere', async (t) => {
  const { tree, open } = await setup(t);
  const [one, two] = await Promise.all([open('a'), open('b')]);
  const [first, second] = await Promise.all([one.ensure(DESCRIPTION), two.ensure(DESCRIPTION)]);
  t.deepEqual(first, second);
  t.is(first.bridgeId, idFromName('bridge', 'net'));
  t.is(first.pools[0].id, idFromName('pool', first.bridgeId, '10.1.0.0/24'));
  t.deepEqual(tree.childrenOf('/address-pools').sort(), first.pools.map((pool) => pool.id).sort());
  t.deepEqual(tree.childrenOf('/bridges'), [first.bridgeId]);
});

test('a network that differs is refused, naming the field', async (t) => {
  const { open } = await setup(t);
  const networks = await open();
  await networks.ensure(DESCRIPTION);
  const [v4, v6] = DESCRIPTION.subnets;
  for (const [subnets, message] of [
    [[v4], /subnets: .*has the subnet fd00::\/64 too/],
    [[{ ...v4, cidr: '10.2.0.0/24', gateway: undefined }, v6], /subnets: |subnets\[0\]\.cidr: /],
    [[{ ...v4, gateway: '10.1.0.2' }, v6], /subnets\[0\]\.gateway: .*10\.1\.0\.2/],
    [[{ ...v4, gateway: undefined }, v6], /subnets\[0\]\.gateway: .*with gateway 10\.1\.0\.1/],
    [[v4, { ...v6, blockSize: 121 }], /subnets\[1\]\.blockSize: .*121/],
  ] as const) {
    await t.throwsAsync(networks.ensure({ name: 'net', subnets }), { code: 'MN_INVALID_INPUT', message });
    await t.throwsAsync((await open('other')).ensure({ name: 'net', subnets }), { code: 'MN_INVALID_INPUT', message });
  }
  t.deepEqual((await networks.ensure(DESCRIPTION)).name, 'net');
});

test('without a block size that of the existing pool counts', async (t) => {
  const { open } = await setup(t);
  const network = await (await open('a')).ensure(DESCRIPTION);
  const subnets = DESCRIPTION.subnets.map(({ cidr, gateway }) => ({ cidr, gateway }));
  t.deepEqual(await (await open('b')).ensure({ name: 'net', subnets }), network);
  const fresh = await (await open('b')).ensure({ name: 'fresh', subnets: [{ cidr: '10.9.0.0/16' }] });
  t.is(fresh.pools[0].blockSize, 26);
});

test('what a host that crashed left half made is completed', async (t) => {
  const { tree, open } = await setup(t);
  const network = await (await open('a')).ensure(DESCRIPTION);
  const pool = network.pools[1].id;
  for (const path of [...tree.nodes.keys()].reverse()) if (path.includes(pool)) tree.nodes.delete(path);
  await (await open('b')).ensure(DESCRIPTION);
  t.true(tree.nodes.has(`/address-pools/${pool}`));
});

test('known networks need no NSDB, also after a restart; others do', async (t) => {
  const { open, stores } = await setup(t);
  const network = await (await open()).ensure(DESCRIPTION);
  const again = await open();
  stores[1].down = true;
  t.deepEqual(await again.ensure(DESCRIPTION), network);
  await t.throwsAsync(again.ensure({ ...DESCRIPTION, name: 'new' }), { code: 'MN_STORE_UNAVAILABLE' });
  await again.close();
});

test('a network on disk that the NSDB has lost is made again; one that changed there is read again', async (t) => {
  const { open, tree, warnings } = await setup(t);
  const network = await (await open()).ensure(DESCRIPTION);
  for (const path of [...tree.nodes.keys()].reverse()) {
    if (path.startsWith('/bridges/') || path.startsWith('/address-pools/')) tree.nodes.delete(path);
  }
  let networks = await open();
  await networks.ensure(DESCRIPTION);
  while (!tree.nodes.has(`/address-pools/${network.pools[1].id}`))
    await new Promise((resolve) => setImmediate(resolve));
  await networks.close();

  for (const path of [...tree.nodes.keys()].reverse()) {
    if (path.startsWith('/bridges/') || path.startsWith('/address-pools/')) tree.nodes.delete(path);
  }
  const changed: NetworkDescription = { name: 'net', subnets: [{ ...DESCRIPTION.subnets[0], gateway: '10.1.0.9' }] };
  await (await open('b')).ensure(changed);
  networks = await open();
  await networks.ensure(DESCRIPTION);
  while (warnings.length === 0) await new Promise((resolve) => setImmediate(resolve));
  await networks.close();
  t.is(networks.get('net'), undefined);
  await t.throwsAsync(networks.ensure(DESCRIPTION), { code: 'MN_INVALID_INPUT' });
  t.is((await networks.ensure(changed)).pools[0].gateway, '10.1.0.9');
});

test('a damaged file is moved aside', async (t) => {
  const { folder, open, warnings } = await setup(t);
  const network = await (await open()).ensure(DESCRIPTION);
  await writeFile(join(folder, 'a', `${network.bridgeId}.json`), '{"name":"net"}');
  const networks = await open();
  t.is(networks.get('net'), undefined);
  t.is(warnings.length, 1);
  t.deepEqual(await readdir(join(folder, 'a')), [`${network.bridgeId}.json.damaged`]);
  t.deepEqual(await networks.ensure(DESCRIPTION), network);
});

test('with a new session, networks are compared with the NSDB again, which may have been emptied', async (t) => {
  const { tree, stores, open } = await setup(t);
  const networks = await open();
  const { bridgeId } = await networks.ensure(DESCRIPTION);
  for (const path of [...tree.nodes.keys()]) if (/^\/(bridges|pools)\/./.test(path)) tree.nodes.delete(path);
  stores[0].emit('session-lost');
  stores[0].emit('connected');
  await networks.ensure(DESCRIPTION);
  await until(
    'the network is there again',
    () => tree.nodes.has(`/bridges/${bridgeId}`) && tree.childrenOf('/address-pools').length === 2,
  );
  await networks.close();
  t.pass();
});
