import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { Cluster } from './cluster.js';
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
