import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import type { DatapathFeatures } from '../../src/datapath/datapath.js';
import { describeMatch } from '../../src/flow/describe.js';
import { positionBetween } from '../../src/topology/position.js';
import { Cluster, type Pod, type TestHost } from './cluster.js';
import { until } from './until.js';

/** A cluster in which nothing gets to the pod `inside` but answers to what it has sent. */
async function setUp(t: ExecutionContext, hosts: number, perHost: number, features?: Partial<DatapathFeatures>) {
  const cluster = await Cluster.start({ hosts, features });
  t.teardown(() => cluster.close());
  const pods = await cluster.populate(await cluster.createBridge(), perHost);
  const [outside, inside] = pods;
  const { repository } = cluster;
  const chainId = (await repository.create('chain', { id: randomUUID(), name: 'answers-only' })).id;
  const position = positionBetween(undefined, undefined);
  const condition = { matchForwardFlow: true };
  await repository.create('rule', { id: randomUUID(), chainId, position, type: 'drop', condition });
  const setFilter = (outboundFilterId: string | undefined) =>
    repository.modify('port', inside.id, (port) => ({ ...port, outboundFilterId }));
  await setFilter(chainId);
  /** Whether a packet gets there, once the hosts have done with it. */
  const arrives = async (from: Pod, to: Pod, srcPort: number, dstPort: number) => {
    const text = cluster.sendTo(from, to, srcPort, dstPort);
    await cluster.quiet();
    return to.count(text) === 1;
  };
  const answers = async (port: number) =>
    (await arrives(inside, outside, port, 2000)) && (await arrives(outside, inside, 2000, port));
  await until('the filter bites', async () => !(await arrives(outside, inside, 1, 1)));
  if (features?.conntrack !== false) await until('answers get through', () => answers(999));
  return { cluster, pods, outside, inside, arrives, answers, setFilter };
}

function upcalls(cluster: Cluster): number {
  return cluster.hosts.reduce((sum, host) => sum + host.switch.statistics.missed, 0);
}

function recirculating(host: TestHost): number {
  return host.flows().filter(({ key }) => key.recircId !== 0).length;
}

for (const hosts of [1, 2]) {
  test(`connections begun inside are answered, others are not, and none costs an upcall (hosts: ${hosts})`, async (t) => {
    const { cluster, outside, inside, arrives, answers } = await setUp(t, hosts, 2 / hosts);
    t.false(await arrives(outside, inside, 2000, 5000));
    const before = upcalls(cluster);
    for (const pod of [inside, outside]) pod.device!.clear();
    for (let port = 1000; port < 1200; port++) cluster.sendTo(inside, outside, port, 2000);
    await cluster.quiet();
    for (let port = 1000; port < 1200; port++) {
      cluster.sendTo(outside, inside, 2000, port);
      cluster.sendTo(outside, inside, 2001, port);
    }
    await cluster.quiet();
    t.is(upcalls(cluster), before);
    t.is(outside.device!.received().length, 200);
    t.is(inside.device!.received().length, 200);
    t.true(await answers(999));
    t.false(await arrives(outside, inside, 2001, 1000));
  });
}

test('after a restart connections go on by the flows that are there, which are the same then', async (t) => {
  const { cluster, outside, inside, arrives, answers } = await setUp(t, 1, 2);
  const [host] = cluster.hosts;
  const ids = () =>
    host
      .flows()
      .map(({ id, key, mask, actions }) => `${id} ${describeMatch(key, mask)} ${JSON.stringify(actions)}`)
      .sort();
  t.false(await arrives(outside, inside, 2000, 1002));
  const before = ids();
  t.true(recirculating(host) >= 2);
  await host.stop();
  t.true(await answers(999));
  t.true(await answers(1000));
  await host.start();
  await until('the ports are known', () => host.agent.bindings.isComplete);
  await cluster.advance(1000);
  const missed = upcalls(cluster);
  t.true(await answers(999));
  t.true(await answers(1001));
  t.false(await arrives(outside, inside, 2000, 1002));
  t.is(upcalls(cluster), missed);
  t.deepEqual(ids(), before);
  await cluster.advance(11_000);
  t.true(await answers(999));
  t.deepEqual(ids(), before);
  t.deepEqual(host.warnings, []);
});

test('a restart without the NSDB leaves the flows as they are', async (t) => {
  const { cluster, outside, inside, arrives, answers } = await setUp(t, 1, 2);
  const [host] = cluster.hosts;
  await host.stop();
  host.gate.shut();
  await host.start();
  await cluster.advance(11_000);
  await cluster.advance(11_000);
  t.true(await answers(999));
  t.true(await answers(1001));
  t.false(await arrives(outside, inside, 2000, 1002));
  host.gate.reopen();
  await until('the ports are known', () => host.agent.bindings.isComplete);
  t.true(await answers(1003));
});

test('without the filter nothing is asked any more, and nothing is left of it', async (t) => {
  const { cluster, outside, inside, arrives, setFilter } = await setUp(t, 1, 2);
  const [host] = cluster.hosts;
  t.true(host.agent.forwarder.recirculations.size > 0);
  await setFilter(undefined);
  await until('everything gets through', () => arrives(outside, inside, 2000, 5000));
  for (let i = 0; i < 3; i++) await cluster.advance(11_000);
  await until('no flow takes what comes back', () => recirculating(host) === 0);
  await cluster.advance(11_000);
  t.is(host.agent.forwarder.recirculations.size, 0);
  t.true(await arrives(outside, inside, 2000, 5001));
});

test("a port's connections are forgotten with it", async (t) => {
  const { cluster, inside, outside } = await setUp(t, 1, 2);
  const [host] = cluster.hosts;
  const zones = [inside, outside].map(({ id }) => host.agent.zoneOf(id)!);
  t.not(zones[0], zones[1]);
  const count = async (zone: number) => (await host.agent.connections(zone, 1000)).length;
  t.deepEqual([(await count(zones[0])) > 0, (await count(zones[1])) > 0], [true, true]);
  await host.detach(inside);
  await cluster.advance(5000);
  await until('the zone is empty', async () => (await count(zones[0])) === 0);
  t.is(host.agent.zoneOf(inside.id), undefined);
  t.true((await count(zones[1])) > 0);
});

test('without zones in the kernel all ports share one, and answers are known all the same', async (t) => {
  const { cluster, outside, inside, arrives, answers } = await setUp(t, 2, 1, { zones: false });
  t.true(await answers(1001));
  t.false(await arrives(outside, inside, 2000, 1002));
  const zones = (await cluster.hosts[0].agent.connections(undefined, 1000)).map(({ zone }) => zone);
  t.deepEqual([...new Set(zones)], [0]);
});

test('without connection tracking, what depends on it is dropped and counted', async (t) => {
  const { cluster, outside, inside, arrives } = await setUp(t, 1, 2, { conntrack: false, zones: false, nat: false });
  t.false(await arrives(outside, inside, 2000, 1002));
  t.true((cluster.hosts[0].agent.metrics.drops.get('no-connection-state') ?? 0) > 0);
});
