import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';
import test from 'ava';
import { freeze } from '../../../src/nsdb/freeze.js';
import { hostAlivePath } from '../../../src/nsdb/layout.js';
import { status } from '../../../src/nsdb/operations/status.js';
import { readFacts } from '../../../src/nsdb/operations/words.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { until } from '../../agent/until.js';
import { ApacheEnsemble } from '../apache-ensemble.js';
import { freePort } from '../apache-zookeeper.js';
import { apache, apacheTest, embedded } from './servers.js';

const HOST = '11111111-2222-4333-8444-555555555555';
const OTHER = '21111111-2222-4333-8444-555555555555';

function ask(connect: string, store: ZookeeperStore) {
  return status({ connect, store, server: store, askServers: true });
}

test('the embedded server tells what it is and holds, and hosts without an agent are named', async (t) => {
  const server = await embedded(t);
  const store = server.store();
  t.like(await ask(server.connect, store), { healthy: false, problems: [{ problem: 'the NSDB is empty' }] });
  const repository = new TopologyRepository(store);
  await repository.initialize();
  await repository.create('host', { id: HOST, name: 'node-1' });
  await repository.create('host', { id: OTHER, name: 'node-2' });
  await server.store().create(hostAlivePath(HOST), Buffer.from('{}'), { ephemeral: true });
  await store.ensure('/new');
  const found = await ask(server.connect, store);
  t.false(found.healthy);
  t.is(found.problems.length, 1);
  t.regex(found.problems[0].problem, /no agent runs on 1 of 2 hosts: node-2/);
  t.deepEqual(found.hosts, { alive: 1, known: 2, dead: ['node-2'] });
  const [facts] = found.servers;
  t.like(facts, { address: server.connect, state: 'serving', mode: 'standalone', sessions: 2 });
  t.true(facts.nodes! > 10 && facts.dataBytes! > 50 && facts.zxid! > 10);
  await server.store().create(hostAlivePath(OTHER), Buffer.from('{}'), { ephemeral: true });
  t.like(await ask(server.connect, store), { healthy: true, problems: [] });
  await freeze(store, 'zk1,zk2');
  const frozen = await ask(server.connect, store);
  t.is(frozen.frozenFor, 'zk1,zk2');
  t.regex(frozen.problems[0].problem, /takes no changes: its data are moved to zk1,zk2/);
});

test('one signal for all that is asked is no leak to Node.js, and ends it', async (t) => {
  const server = await embedded(t);
  const store = server.store();
  const repository = new TopologyRepository(store);
  await repository.initialize();
  for (let i = 0; i < 20; i++) await repository.create('host', { id: randomUUID(), name: `node-${i}` });
  const warnings: Error[] = [];
  const warn = (warning: Error) => warnings.push(warning);
  process.on('warning', warn);
  t.teardown(() => process.off('warning', warn));
  const stop = new AbortController();
  const asked = { connect: server.connect, store, server: store, askServers: true, signal: stop.signal };
  t.is((await status(asked)).hosts!.known, 20);
  // Warnings are told in a turn of their own.
  await new Promise((resolve) => setImmediate(resolve));
  t.deepEqual(
    warnings.filter(({ name }) => name === 'MaxListenersExceededWarning'),
    [],
  );
  stop.abort(new Error('enough'));
  await t.throwsAsync(status(asked), { message: 'enough' });
});

apacheTest('Apache ZooKeeper on its own is understood', async (t) => {
  const server = await apache(t);
  const store = server.store();
  await new TopologyRepository(store).initialize();
  const found = await ask(server.connect, store);
  t.deepEqual(found.problems, []);
  t.like(found.servers[0], { state: 'serving', mode: 'standalone' });
  t.regex(found.servers[0].version!, /^3\.\d+/);
  t.true(found.servers[0].nodes! > 5);
});

test('servers that are down, silent or say nonsense are told apart', async (t) => {
  const server = await embedded(t);
  const store = server.store();
  await new TopologyRepository(store).initialize();
  const odd = createServer((socket) => socket.end('what?\n\t\n: \n')).listen(0, '127.0.0.1');
  t.teardown(() => odd.close());
  await once(odd, 'listening');
  const { port } = odd.address() as { port: number };
  const nobody = await freePort();
  const found = await ask(`127.0.0.1:${port},127.0.0.1:${nobody}`, store);
  t.like(found.servers, [{ state: 'silent' }, { state: 'down' }]);
  t.is(found.problems.length, 1);
  t.regex(found.problems[0].problem, /cannot be reached: connect ECONNREFUSED/);
  t.like(await status({ connect: server.connect, store, server: store, askServers: false }), { healthy: true });
});

apacheTest('an ensemble is asked server by server: one that is down, and no quorum', async (t) => {
  t.timeout(120_000);
  const ensemble = await ApacheEnsemble.start();
  t.teardown(() => ensemble.close());
  const connect = ensemble.address;
  const store = new ZookeeperStore({ connect });
  t.teardown(() => store.close());
  await new TopologyRepository(store).initialize();
  const modes = async () => (await ask(connect, store)).servers.map(({ mode }) => mode).sort();
  t.deepEqual(await modes(), ['follower', 'follower', 'leader']);
  await ensemble.members[0].kill();
  await until(
    'two serve',
    async () => {
      const { servers, problems } = await ask(connect, store);
      return (
        servers.filter(({ state }) => state === 'serving').length === 2 &&
        servers.filter(({ state }) => state === 'down').length === 1 &&
        problems.some(({ problem }) => problem.includes('cannot be reached'))
      );
    },
    60_000,
  );
  await ensemble.members[1].kill();
  await until(
    'the last has no quorum',
    async () => {
      const { problems } = await ask(connect, store);
      return problems.some(({ problem }) => problem.includes('has no quorum'));
    },
    60_000,
  );
});

test('answers of servers of other versions are understood as far as they are known', (t) => {
  const facts = readFacts(
    'Zookeeper version: 3.4.14-1, built on 2019\nLatency min/avg/max: 0/0/9\nZxid: 0x500000003\nMode: follower\nNode count: 7\n',
    'mntr is not executed because it is not in the whitelist.\n',
  );
  t.deepEqual(facts, { version: '3.4.14-1', zxid: 0x500000003, mode: 'follower', nodes: 7 });
});
