import test, { type ExecutionContext } from 'ava';
import { Cluster, type Pod, type TestHost } from './cluster.js';

/** A machine on each host, and agents that have read what they want to. */
async function setUp(t: ExecutionContext, hosts: number) {
  const cluster = await Cluster.start({ hosts });
  t.teardown(() => cluster.close());
  const bridgeId = await cluster.createBridge();
  const pods = await cluster.populate(bridgeId, 1);
  for (const { gate } of cluster.hosts) await gate.quiet();
  return { cluster, bridgeId, pods };
}

/** How often answers of the NSDB have to be waited for until a packet of a machine that sends one again and again arrives. */
async function turnsUntilArrival(cluster: Cluster, host: TestHost, from: Pod, to: Pod): Promise<number> {
  const texts: string[] = [];
  const sending = setInterval(() => {
    if (host.isRunning && from.device !== undefined) texts.push(cluster.sendTo(from, to));
  }, 10);
  const turns = await host.gate.turnsUntil(() => texts.some((text) => to.count(text) > 0));
  clearInterval(sending);
  return turns;
}

test('the first packet to a machine of another host waits for the NSDB three times: for the MAC, the port, and the tunnel', async (t) => {
  const { cluster, pods } = await setUp(t, 2);
  const turns = await turnsUntilArrival(cluster, cluster.hosts[0], pods[0], pods[1]);
  t.log(`${turns} turns`);
  t.true(turns <= 5, `${turns} turns`);
});

test('an agent that starts again has packets on their way after a few turns of the NSDB', async (t) => {
  const { cluster, pods } = await setUp(t, 2);
  const [host] = cluster.hosts;
  await host.stop();
  // No flow of the last run helps.
  for (const { id } of host.flows()) host.switch.operate({ type: 'delete', id: id! });
  const started = host.start();
  const turns = await turnsUntilArrival(cluster, host, pods[0], pods[1]);
  await started;
  t.log(`${turns} turns`);
  t.true(turns <= 10, `${turns} turns`);
});

test('the first packet of the first machine on a host that nobody knew goes out as soon as the host has joined', async (t) => {
  const { cluster, bridgeId, pods } = await setUp(t, 1);
  const host = await cluster.addHost();
  const pod = cluster.pod(bridgeId);
  const started = host.start().then(() => host.attach(pod));
  const turns = await turnsUntilArrival(cluster, host, pod, pods[0]);
  await started;
  t.log(`${turns} turns`);
  t.true(turns <= 14, `${turns} turns`);
});
