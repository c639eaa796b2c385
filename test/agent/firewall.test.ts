import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { encodeJson } from '../../src/nsdb/json.js';
import { referencePath } from '../../src/nsdb/layout.js';
import type { Condition } from '../../src/topology/chains.js';
import { positionBetween, positionsAfter } from '../../src/topology/position.js';
import { REFERENCES } from '../../src/topology/references.js';
import { Cluster, type Pod } from './cluster.js';
import { until } from './until.js';

const OUTSIDE = { source: '10.9.0.0/16' };

async function setUp(t: ExecutionContext, hosts: number, perHost: number) {
  const cluster = await Cluster.start({ hosts });
  t.teardown(() => cluster.close());
  const bridgeId = await cluster.createBridge();
  const pods = await cluster.populate(bridgeId, perHost);
  const { repository } = cluster;
  const chainId = (await repository.create('chain', { id: randomUUID(), name: 'firewall' })).id;
  const addRule = async (position: string, type: 'accept' | 'drop', condition: Condition) => {
    const rule = await repository.create('rule', { id: randomUUID(), chainId, position, type, condition });
    return rule.id;
  };
  const setFilter = (pod: Pod, field: 'inboundFilterId' | 'outboundFilterId', value: string | undefined) =>
    repository.modify('port', pod.id, (port) => ({ ...port, [field]: value }));
  const stops = (from: Pod, to: Pod) =>
    until(`packets from ${from.interfaceName} to ${to.interfaceName} are dropped`, async () => {
      const text = cluster.sendTo(from, to);
      await cluster.quiet();
      return to.count(text) === 0;
    });
  return { cluster, repository, bridgeId, pods, chainId, addRule, setFilter, stops };
}

const from = (pod: Pod, prefix = 32) => ({ source: `10.1.0.${pod.ip & 0xff}/${prefix}` });

test("a rule is added, moved, changed and removed under traffic, on the sender's host", async (t) => {
  const { cluster, repository, pods, chainId, addRule, setFilter, stops } = await setUp(t, 2, 1);
  const [a, b] = pods;
  await cluster.connects(a, b);
  const [first, second] = positionsAfter(undefined, 2);
  await addRule(first, 'accept', OUTSIDE);
  const dropId = await addRule(second, 'drop', from(a));
  await cluster.ping(a, b);
  await setFilter(a, 'inboundFilterId', chainId);
  await stops(a, b);
  await cluster.connects(b, a);
  t.true(cluster.hosts[0].agent.metrics.drops.get('filtered')! > 0);

  const before = await addRule(positionBetween(first, second), 'accept', from(a));
  await cluster.connects(a, b);
  await repository.modify('rule', before, (rule) => ({ ...rule, condition: OUTSIDE }));
  await stops(a, b);
  await repository.modify('rule', dropId, (rule) => ({ ...rule, condition: OUTSIDE }));
  await cluster.connects(a, b);
  await repository.modify('rule', dropId, (rule) => ({ ...rule, condition: from(a) }));
  await stops(a, b);
  await repository.delete('rule', dropId);
  await cluster.connects(a, b);
  await setFilter(a, 'inboundFilterId', undefined);
  await cluster.ping(a, b);
});

test("the outbound filter of a port is that of the sender's host, the filters of a bridge of every host", async (t) => {
  const { cluster, repository, bridgeId, pods, chainId, addRule, setFilter, stops } = await setUp(t, 2, 2);
  const [a, b, c] = pods;
  await addRule(positionBetween(undefined, undefined), 'drop', from(a));
  await setFilter(c, 'outboundFilterId', chainId);
  await stops(a, c);
  cluster.underlayFrames = [];
  cluster.sendTo(a, c);
  await cluster.quiet();
  t.deepEqual(cluster.underlayFrames, [], 'it does not cross the underlay');
  await cluster.connects(b, c);
  await cluster.connects(a, b);
  await setFilter(c, 'outboundFilterId', undefined);
  await cluster.connects(a, c);
  await repository.modify('bridge', bridgeId, (bridge) => ({ ...bridge, inboundFilterId: chainId }));
  await stops(a, b);
  await stops(a, c);
  await cluster.connects(c, a);
});

test('a flooded packet passes the filter of each port that it leaves at, on this host and on another', async (t) => {
  const { cluster, pods, chainId, addRule, setFilter } = await setUp(t, 2, 2);
  const [a, b, c, d] = pods;
  await addRule(positionBetween(undefined, undefined), 'drop', from(a));
  await setFilter(b, 'outboundFilterId', chainId);
  await setFilter(c, 'outboundFilterId', chainId);
  const unknown = { mac: 0x0200_0000_ffff, ip: a.ip };
  const floods = async (sender: Pod, others: readonly Pod[]) => {
    await until('the copies come where they may and nowhere else', async () => {
      const text = cluster.sendTo(sender, unknown);
      await cluster.quiet();
      return pods.every((pod) => pod.count(text) === (others.includes(pod) ? 1 : 0));
    });
  };
  await floods(a, [d]);
  await floods(b, [a, c, d]);
  await setFilter(b, 'outboundFilterId', undefined);
  await floods(a, [b, d]);
  t.pass();
});

test('jumps and address groups are followed, and what is not needed any more is not watched', async (t) => {
  const { cluster, repository, pods, chainId, setFilter, stops } = await setUp(t, 1, 3);
  const [a, b, c] = pods;
  const groupId = (await repository.create('ip-address-group', { id: randomUUID(), name: 'blocked' })).id;
  const members = repository.members('ip-address-group', groupId);
  const inner = (await repository.create('chain', { id: randomUUID(), name: 'inner' })).id;
  const position = positionBetween(undefined, undefined);
  const rule = { id: randomUUID(), position } as const;
  await repository.create('rule', { ...rule, chainId, type: 'jump', jumpChainId: inner });
  await repository.create('rule', {
    ...rule,
    id: randomUUID(),
    chainId: inner,
    type: 'drop',
    condition: { sourceAddressGroupId: groupId },
  });
  await setFilter(b, 'outboundFilterId', chainId);
  await cluster.connects(a, b);
  await members.set(`10.1.0.${a.ip & 0xff}`, {});
  await stops(a, b);
  await cluster.connects(c, b);
  const { store } = cluster.hosts[0];
  const { tracked } = store.metrics;
  await Promise.all(Array.from({ length: 200 }, (_, i) => members.set(`10.7.0.${i}`, {})));
  await cluster.ping(c, b);
  // Something else may be read, or forgotten, meanwhile.
  t.true(store.metrics.tracked < tracked + 20, 'of members that send nothing, nothing is read');
  await members.remove(`10.1.0.${a.ip & 0xff}`);
  await cluster.connects(a, b);

  const { chains } = cluster.hosts[0].agent.cache;
  t.is(chains.size, 3);
  await setFilter(b, 'outboundFilterId', undefined);
  await until('the flows do without the chains', async () => {
    await cluster.connects(a, b);
    await cluster.advance(61_000);
    return chains.size === 0;
  });
});

test('a filter counts from the first packet of a host that starts again', async (t) => {
  const { cluster, pods, chainId, addRule, setFilter, stops } = await setUp(t, 1, 2);
  const [a, b] = pods;
  await addRule(positionBetween(undefined, undefined), 'drop', from(a));
  await setFilter(a, 'inboundFilterId', chainId);
  await stops(a, b);
  const [host] = cluster.hosts;
  await host.stop();
  await host.start();
  const sent: string[] = [];
  await until('the host knows its ports', async () => {
    sent.push(cluster.sendTo(a, b));
    await cluster.quiet();
    return host.agent.bindings.isComplete;
  });
  await stops(a, b);
  t.deepEqual(
    sent.filter((text) => b.count(text) > 0),
    [],
  );
  await cluster.connects(b, a);
});

test('without the NSDB, ports that are attached carry traffic without filters', async (t) => {
  const { cluster, bridgeId, pods } = await setUp(t, 1, 1);
  const [host] = cluster.hosts;
  host.gate.shut();
  await until('the NSDB is lost', () => host.store.state !== 'connected');
  const pod = cluster.pod(bridgeId);
  await host.attach(pod);
  await cluster.connects(pod, pods[0]);
  host.gate.reopen();
  t.pass();
});

test('a stateful firewall lets replies in, and knows the connections on both hosts', async (t) => {
  const { cluster, pods, chainId, addRule, setFilter, stops } = await setUp(t, 2, 1);
  const [a, b] = pods;
  const positions = positionsAfter(undefined, 2);
  await addRule(positions[0], 'accept', { matchReturnFlow: true });
  await addRule(positions[1], 'drop', { etherType: 0x0800 });
  await setFilter(a, 'outboundFilterId', chainId);
  await stops(b, a);
  const replies = async () => {
    const text = cluster.sendTo(a, b, 1000, 2000);
    await until('the packet comes', () => b.count(text) === 1);
    const reply = cluster.sendTo(b, a, 2000, 1000);
    await until('the reply comes', () => a.count(reply) === 1);
  };
  await replies();
  await stops(b, a);
  await setFilter(b, 'outboundFilterId', chainId);
  await stops(a, b);
  t.pass();
});

test('packets go through a service on another host and come back, tagged on the way', async (t) => {
  const { cluster, repository, pods, chainId } = await setUp(t, 2, 2);
  const [a, b, service] = pods;
  const serviceChain = (await repository.create('chain', { id: randomUUID(), name: 'service' })).id;
  const [first, second] = positionsAfter(undefined, 2);
  const redirect = { type: 'l2-transform', action: 'redirect' } as const;
  const [toService, back] = [5, 6];
  // What comes back is let in; all else goes to the service, and from there into the port where it came from.
  const rules = [
    { chainId, position: first, type: 'l2-transform', action: 'accept', popVlan: true, condition: { vlanId: back } },
    { chainId, position: second, ...redirect, pushVlanId: toService, targetPortId: service.id },
    {
      chainId: serviceChain,
      position: first,
      ...redirect,
      popVlan: true,
      pushVlanId: back,
      targetPortId: a.id,
      ingress: true,
      condition: { vlanId: toService },
    },
  ] as const;
  for (const rule of rules) await repository.create('rule', { id: randomUUID(), ...rule });
  await cluster.connects(a, b);
  for (const [pod, inboundFilterId] of [
    [service, serviceChain],
    [a, chainId],
  ] as const) {
    await repository.modify('port', pod.id, (port) => ({ ...port, inboundFilterId }));
  }
  let tagged: Uint8Array | undefined;
  await until('a packet comes to the service', async () => {
    const text = cluster.sendTo(a, b);
    await cluster.quiet();
    tagged = service.device?.received().find((frame) => Buffer.from(frame).includes(text));
    service.device?.clear();
    return tagged !== undefined;
  });
  t.is((tagged![14] << 8) | tagged![15], toService);
  const text = cluster.sendTo(a, b);
  await until('another comes', () => service.count(text) === 1);
  t.is(b.count(text), 0);
  service.send(service.device!.received()[0]);
  await until('the service sends it on', () => b.count(text) === 1);
  const [frame] = b.device!.received().filter((one) => Buffer.from(one).includes(text));
  t.is((frame[12] << 8) | frame[13], 0x0800, 'it has no tag any more');
});

test('a port that is switched off in the NSDB is off, also when it is attached once more, until it is switched on', async (t) => {
  const { cluster, repository, pods, stops } = await setUp(t, 2, 1);
  const [a, b] = pods;
  const setState = (adminStateUp: boolean) => repository.modify('port', b.id, (port) => ({ ...port, adminStateUp }));
  await cluster.connects(a, b);
  await setState(false);
  await stops(a, b);
  await stops(b, a);
  const { agent } = b.host!;
  await agent.bindings.attach({ ...b.port, owner: 'cni' }, b.interfaceName);
  await until('the NSDB knows', () => agent.publisher.backlog === 0);
  t.false((await repository.get('port', b.id))!.object.adminStateUp);
  await stops(a, b);
  await setState(true);
  await cluster.connects(a, b);
  await cluster.connects(b, a);
});

test('nothing passes a rule that the agent cannot read, whatever it was before; what is decided before it does not come to it', async (t) => {
  const { cluster, repository, pods, chainId, addRule, setFilter, stops } = await setUp(t, 1, 3);
  const [a, b, c] = pods;
  const [first, second, third] = positionsAfter(undefined, 3);
  await addRule(first, 'accept', from(a));
  const ruleId = await addRule(second, 'accept', from(b));
  await addRule(third, 'accept', {});
  await setFilter(c, 'outboundFilterId', chainId);
  await cluster.connects(a, c);
  await cluster.connects(b, c);

  const { store } = repository;
  const row = REFERENCES.find(({ kind, field }) => kind === 'rule' && field === 'chainId')!;
  const path = referencePath(row, ruleId, chainId)!;
  const rule = { id: ruleId, chainId, position: second, condition: {}, type: 'divert' };
  const write = (value: object) => store.set(path, encodeJson(value));
  await write(rule);
  await stops(b, c);
  await cluster.connects(a, c);
  const { agent } = cluster.hosts[0];
  t.true(agent.metrics.drops.get('unreadable-rule')! > 0);
  const warnings = () => cluster.hosts[0].warnings.filter((line) => line.includes(ruleId));
  t.is(warnings().length, 1);
  t.regex(warnings()[0], /type/);

  await write({ ...rule, v: 99 });
  await stops(b, c);
  t.is(warnings().length, 1, 'it is told once');
  await write({ ...rule, position: 7 });
  await stops(a, c);
  await write({ ...rule, type: 'accept', condition: {} });
  await cluster.connects(a, c);
  await cluster.connects(b, c);
  await write(rule);
  await stops(b, c);
  await repository.delete('rule', ruleId);
  await cluster.connects(b, c);
});
