import { randomUUID } from 'node:crypto';
import { pino } from 'pino';
import { RecentWarnings } from '../../../src/agent/control/recent-warnings.js';
import { clusterStatus } from '../../../src/api/status/status.js';
import { addressPoolBlocksPath, objectPath } from '../../../src/nsdb/layout.js';
import { joinPath } from '../../../src/nsdb/path.js';
import { clusterTest } from '../../agent/cluster-test.js';
import { until } from '../../agent/until.js';
import { ExplainingApi } from '../explain/explaining-api.js';

const { signal } = new AbortController();

clusterTest('nothing is said of a cluster that works', { hosts: 2 }, async (t, c) => {
  await c.populate(await c.createBridge(), 2);
  const api = await ExplainingApi.serve(c);
  try {
    const { body } = await api.client.request('GET', '/v1/status');
    t.like(body, {
      healthy: true,
      problems: [],
      partial: [],
      hosts: { known: 2, alive: 2 },
      ports: { bound: 4, active: 4 },
    });
    api.caller = { name: 'tenant', role: 'tenant-admin', tenantId: 'a' };
    await t.throwsAsync(api.client.request('GET', '/v1/status'), { code: 'MN_FORBIDDEN' });
  } finally {
    await api.close();
  }
});

clusterTest('what is wrong is said in words, with what to do about it', { hosts: 2 }, async (t, c) => {
  const { repository } = c;
  const { store } = repository;
  const bridgeId = await c.createBridge();
  const [asked] = c.hosts;
  await c.populate(bridgeId, 1);
  const binding = { hostId: asked.id, interfaceName: 'gone0' };
  await repository.create('port', { id: randomUUID(), bridgeId, name: 'lost', binding });
  const dead = await repository.create('host', { id: randomUUID(), name: 'dead' });
  const deadBinding = { hostId: dead.id, interfaceName: 'eth0' };
  await repository.create('port', { id: randomUUID(), bridgeId, binding: deadBinding });
  await repository.create('tunnel-zone', { id: randomUUID(), name: 'lonely', type: 'gre' });
  const lonely = (await repository.page({ kind: 'tunnel-zone', name: 'lonely', limit: 1 })).items[0].object;
  await repository.joinTunnelZone(lonely.id, asked.id, '192.168.7.1');

  const balancer = await repository.create('load-balancer', { id: randomUUID(), name: 'lb' });
  const pools: string[] = [];
  for (const [name, statuses] of [
    ['none', ['inactive']],
    ['some', ['active', 'inactive']],
    ['good', ['active']],
  ] as const) {
    const { id: poolId } = await repository.create('pool', { id: randomUUID(), name, loadBalancerId: balancer.id });
    pools.push(poolId);
    await repository.create('vip', { id: randomUUID(), poolId, address: `10.9.0.${pools.length}`, protocolPort: 80 });
    for (const [i, status] of statuses.entries()) {
      const member = { id: randomUUID(), poolId, address: `10.1.1.${i + 1}`, protocolPort: 8080, status };
      await repository.create('pool-member', member);
    }
  }
  const full = { id: randomUUID(), bridgeId, cidr: '10.8.0.0/30', blockSize: 30 };
  await repository.create('address-pool', full);
  const shard = addressPoolBlocksPath(full.id, '000');
  await store.ensure(shard);
  await store.create(joinPath(shard, '0a080000'), Buffer.from(JSON.stringify({ hostId: asked.id })));
  const broken = await repository.create('chain', { id: randomUUID(), name: 'broken' });
  await store.set(objectPath('chain', broken.id), Buffer.from('{"name":'), undefined);

  const warnings = new RecentWarnings();
  const log = pino({ level: 'error', hooks: warnings.hooks }, { write: () => {} });
  log.error('the disk is full');
  log.warn('nothing to speak of');

  const api = await ExplainingApi.serve(c, [asked], warnings);
  try {
    await until('the agent has heard of the port', async () => {
      const { ports } = await clusterStatus({ repository, signal });
      return ports?.bound === 3;
    });
    const { problems, ports, hosts, healthy } = await clusterStatus({ repository, signal });
    t.false(healthy);
    // One of them is on a host without an agent.
    t.deepEqual(ports, { bound: 3, active: 1 });
    t.deepEqual(hosts, { known: 3, alive: 2 });
    const wanted: [severity: string, where: string, what: RegExp][] = [
      ['error', 'host dead', /^no agent runs there; 1 port is bound there$/],
      ['error', 'host dead', /^is in no tunnel zone/],
      ['error', 'port blue/lost', /^bound to gone0 on host-1, and not active/],
      ['error', 'pool none', /^none of its members works: 10\.1\.1\.1 port 8080; connections/],
      ['error', 'address pool 10.8.0.0/30', /^all 1 blocks belong to hosts/],
      ['error', `chain ${broken.id}`, /^cannot be read/],
      ['warning', 'host host-1', /^its log has an error of the last minutes, the last: the disk is full$/],
      ['warning', 'host host-2', /cannot be asked/],
      ['warning', 'tunnel zone lonely', /^only host host-1 is in it$/],
      ['warning', 'pool some', /^1 of 2 members do not work: 10\.1\.1\.2 port 8080$/],
    ];
    for (const [severity, where, what] of wanted) {
      const found = problems.filter((problem) => problem.where === where && what.test(problem.what));
      t.is(found.length, 1, `${where}: ${what}: ${JSON.stringify(problems, undefined, 1)}`);
      t.is(found[0].severity, severity as 'error');
      t.true(found[0].advice.length > 10);
    }
    t.is(problems.length, wanted.length, JSON.stringify(problems, undefined, 1));
  } finally {
    await api.close();
  }
});
