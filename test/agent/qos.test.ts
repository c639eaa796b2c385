import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { udpFrame } from '../simulation/world.js';
import { Cluster, type Pod } from './cluster.js';
import { until } from './until.js';

/** Of the TOS behind an Ethernet header. */
const TOS = 15;
const EF = 46;

async function setUp(t: ExecutionContext, hosts: number, perHost: number) {
  const cluster = await Cluster.start({ hosts });
  t.teardown(() => cluster.close());
  const { repository } = cluster;
  const bridgeId = await cluster.createBridge();
  const pods = await cluster.populate(bridgeId, perHost);
  return { cluster, repository, bridgeId, pods };
}

test('packets are marked by the policy of a port or of its bridge, on their way to another host, too', async (t) => {
  const { cluster, repository, bridgeId, pods } = await setUp(t, 2, 1);
  const [a, b] = pods;
  const comeWith = (tos: number) =>
    until(`packets come with TOS ${tos}`, async () => {
      b.device!.clear();
      const text = cluster.sendTo(a, b);
      await cluster.quiet();
      const frames = b.device!.received().filter((frame) => Buffer.from(frame).includes(text));
      return frames.length === 1 && frames[0][TOS] === tos;
    });
  const addPolicy = async (mark: number) => {
    const rules = [{ type: 'dscp' as const, mark }];
    return (await repository.create('qos-policy', { id: randomUUID(), name: 'marked', rules })).id;
  };
  await comeWith(0);
  const ofBridge = await addPolicy(EF);
  await repository.modify('bridge', bridgeId, (bridge) => ({ ...bridge, qosPolicyId: ofBridge }));
  await comeWith(EF << 2);
  await repository.modify('qos-policy', ofBridge, (policy) => ({ ...policy, rules: [{ type: 'dscp', mark: 12 }] }));
  await comeWith(12 << 2);
  const ofPort = await addPolicy(10);
  await repository.modify('port', a.id, (port) => ({ ...port, qosPolicyId: ofPort }));
  await comeWith(10 << 2);
  await repository.delete('qos-policy', ofPort);
  await comeWith(12 << 2);
  await repository.modify('bridge', bridgeId, (bridge) => ({ ...bridge, qosPolicyId: undefined }));
  await comeWith(0);
  t.pass();
});

test('what a port sends is limited on its host, whatever its flows, and each port by itself', async (t) => {
  const { cluster, repository, bridgeId, pods } = await setUp(t, 2, 2);
  const [a, b, c] = pods;
  const [host] = cluster.hosts;
  const rules = (maxKbps: number) => [{ type: 'bandwidth-limit' as const, maxKbps, maxBurstKb: 1000 }];
  const { id } = await repository.create('qos-policy', { id: randomUUID(), name: 'limited', rules: rules(1) });
  const { meters } = host.agent.cache;
  const hasMeters = (count: number) =>
    until(`there are ${count} meters`, async () => {
      cluster.sendTo(a, c);
      cluster.sendTo(b, c);
      await cluster.quiet();
      return meters.size === count;
    });
  await repository.modify('bridge', bridgeId, (bridge) => ({ ...bridge, qosPolicyId: id }));
  await hasMeters(2);
  await cluster.connects(a, c);
  await cluster.connects(b, c);

  const big = new Uint8Array(1000).fill(0x20);
  const send = (pod: Pod, count: number) => {
    for (let i = 0; i < count; i++) {
      const frame = udpFrame({ srcMac: pod.mac, dstMac: c.mac, src: pod.ip, dst: c.ip }, big);
      frame[14 + 20] = i & 1;
      pod.send(frame);
    }
  };
  const arrive = async (pod: Pod) => {
    c.device!.clear();
    send(pod, 500);
    await cluster.quiet();
    return c.device!.received().length;
  };
  const first = await arrive(a);
  t.true(first > 50 && first < 125, `${first} of 500 frames of 8.3 kilobits, where 1000 kilobits may come at once`);
  t.is(await arrive(a), 0);
  t.true((await arrive(b)) > 50);

  await repository.modify('qos-policy', id, (policy) => ({ ...policy, rules: rules(100_000) }));
  await hasMeters(4);
  await cluster.connects(a, c);
  await until('meters that are not needed are gone', async () => {
    await cluster.connects(a, c);
    await cluster.connects(b, c);
    await cluster.advance(31_000);
    return meters.size === 2;
  });
  await repository.modify('bridge', bridgeId, (bridge) => ({ ...bridge, qosPolicyId: undefined }));
  await until('no limit is left', async () => {
    await cluster.connects(a, c);
    await cluster.advance(31_000);
    return meters.size === 0 && (await arrive(a)) === 500;
  });
});
