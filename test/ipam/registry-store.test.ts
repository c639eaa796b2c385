import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { Ipam } from '../../src/ipam/ipam.js';
import { EmbeddedServer } from '../../src/nsdb/embedded/server.js';
import { addressPoolBlocksPath, hostLeasesPath } from '../../src/nsdb/layout.js';
import { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { idFromName } from '../../src/topology/id.js';
import type { AddressPool } from '../../src/topology/types.js';

const bridgeId = idFromName('bridge', 'net');
const POOL: AddressPool = {
  id: idFromName('pool', bridgeId, '10.0.0.0/22'),
  bridgeId,
  cidr: '10.0.0.0/22',
  blockSize: 28,
};
const hostIds = Array.from({ length: 8 }, (_, i) => idFromName('host', `${i}`));

test('hosts that share an NSDB: different addresses, blocks found again after a restart and a lost NSDB', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'mn-ipam-store-'));
  const startServer = (port: number) =>
    EmbeddedServer.start({ listen: { host: '127.0.0.1', port }, dataDir: join(folder, 'nsdb') });
  let server = await startServer(0);
  const port = Number(server.address.split(':').at(-1));
  const stores = hostIds.map(() => new ZookeeperStore({ connect: server.address, operationTimeout: 2000 }));
  t.teardown(async () => {
    await Promise.all(stores.map((store) => store.close()));
    await server.close();
    await rm(folder, { recursive: true });
  });
  const repository = new TopologyRepository(stores[0]);
  await repository.initialize();
  for (const [i, id] of hostIds.entries()) await repository.create('host', { id, name: `host${i}` });
  await repository.create('bridge', { id: bridgeId, name: 'net' });
  await repository.create('address-pool', POOL);

  const open = () =>
    Promise.all(
      hostIds.map((hostId, i) =>
        Ipam.open({ store: stores[i], hostId, folder: join(folder, `${i}`), warn: (message) => t.log(message) }),
      ),
    );
  let hosts = await open();
  const given = await Promise.all(
    Array.from({ length: 20 }, () => hosts.map((ipam) => ipam.pool(POOL).allocate())).flat(),
  );
  t.is(new Set(given).size, 160);
  await Promise.all(hosts.map((ipam) => ipam.close()));

  hosts = await open();
  await server.close();
  const more: string[] = [];
  for (const [i, ipam] of hosts.entries()) {
    for (let n = i; n < given.length; n += hosts.length) ipam.pool(POOL).adopt(given[n]);
    more.push(await ipam.pool(POOL).allocate());
  }
  t.is(new Set([...given, ...more]).size, 168, 'without the NSDB');

  server = await startServer(port);
  for (const ipam of hosts) await ipam.maintain();
  const store = stores[0];
  const nodes = (await store.children(addressPoolBlocksPath(POOL.id, '000'))) ?? [];
  let indexed = 0;
  for (const id of hostIds) indexed += ((await store.children(`${hostLeasesPath(id)}/${POOL.id}`)) ?? []).length;
  t.is(indexed, nodes.length);
  t.is(
    hosts.reduce((sum, ipam) => sum + ipam.usage()[0].blocks, 0),
    nodes.length,
  );
  await Promise.all(hosts.map((ipam) => ipam.close()));
});
