import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import type { Condition } from '../../src/topology/chains.js';
import { Cluster, type Pod } from './cluster.js';
import { until } from './until.js';

/** `perHost` pods on each host, and one more on the first and the last host, which listen. */
async function setUp(t: ExecutionContext, hosts: number, perHost: number) {
  const cluster = await Cluster.start({ hosts });
  t.teardown(() => cluster.close());
  const { repository } = cluster;
  const bridgeId = await cluster.createBridge();
  const pods = await cluster.populate(bridgeId, perHost);
  const aside = (await repository.create('bridge', { id: randomUUID(), name: 'aside' })).id;
  const near = cluster.pod(aside);
  await cluster.hosts[0].attach(near);
  const far = cluster.pod(aside);
  await cluster.hosts[hosts - 1].attach(far);
  await cluster.published();
  const addMirror = async (to: Pod, ...conditions: Condition[]) => {
    const mirror = { id: randomUUID(), name: 'mirror', toPortId: to.id, conditions };
    return (await repository.create('mirror', mirror)).id;
  };
  const setTaps = (pod: Pod, taps: Partial<Record<'inboundMirrorIds' | 'outboundMirrorIds', string[]>>) =>
    repository.modify('port', pod.id, (port) => ({ ...port, ...taps }));
  /** Packets come to these pods, and to no others. */
  const reach = (from: Pod, to: { mac: number; ip: number }, ...comeTo: Pod[]) =>
    until(`packets of ${from.interfaceName} come where they should`, async () => {
      const text = cluster.sendTo(from, to);
      await cluster.quiet();
      return [...pods, near, far].every((pod) => pod.count(text) === (comeTo.includes(pod) ? 1 : 0));
    });
  return { cluster, repository, bridgeId, pods, near, far, addMirror, setTaps, reach };
}

test('a mirror is set, moved, changed and deleted under traffic, with its port on this host and on another', async (t) => {
  const { cluster, repository, pods, near, far, addMirror, setTaps, reach } = await setUp(t, 2, 1);
  const [a, b] = pods;
  await cluster.connects(a, b);
  const mirrorId = await addMirror(near, {});
  await setTaps(a, { inboundMirrorIds: [mirrorId] });
  await reach(a, b, b, near);
  await reach(b, a, a);
  await repository.modify('mirror', mirrorId, (mirror) => ({ ...mirror, toPortId: far.id }));
  await reach(a, b, b, far);
  await repository.modify('mirror', mirrorId, (mirror) => ({ ...mirror, conditions: [{ protocol: 6 }] }));
  await reach(a, b, b);
  await repository.modify('mirror', mirrorId, (mirror) => ({
    ...mirror,
    conditions: [{ protocol: 6 }, { protocol: 17 }],
  }));
  await setTaps(a, { inboundMirrorIds: [], outboundMirrorIds: [mirrorId] });
  await reach(b, a, a, far);
  await reach(a, b, b);
  await repository.delete('mirror', mirrorId);
  await reach(b, a, a);

  await until('no flow needs the mirror', async () => {
    await cluster.connects(b, a);
    await cluster.advance(61_000);
    return cluster.hosts.every(({ agent }) => agent.cache.mirrors.size === 0);
  });
  t.pass();
});

test('a mirror of a bridge copies what comes into it on every host', async (t) => {
  const { repository, bridgeId, pods, near, addMirror, reach } = await setUp(t, 2, 1);
  const [a, b] = pods;
  const mirrorId = await addMirror(near, {});
  await repository.modify('bridge', bridgeId, (bridge) => ({ ...bridge, inboundMirrorIds: [mirrorId] }));
  await reach(a, b, b, near);
  await reach(b, a, a, near);
  await repository.modify('bridge', bridgeId, (bridge) => ({ ...bridge, inboundMirrorIds: [] }));
  await reach(a, b, b);
  t.pass();
});

test('a flooded packet is copied on the host where it leaves at a port with a mirror', async (t) => {
  const { pods, near, far, addMirror, setTaps, reach } = await setUp(t, 2, 2);
  const [a, b, c, d] = pods;
  const unknown = { mac: 0x0200_0000_ffff, ip: a.ip };
  await reach(a, unknown, b, c, d);
  await setTaps(d, { outboundMirrorIds: [await addMirror(near, {}), await addMirror(far, {})] });
  await reach(a, unknown, b, c, d, near, far);
  t.pass();
});
