import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { encodeJson } from '../../src/nsdb/json.js';
import { objectPath } from '../../src/nsdb/layout.js';
import { formatMac } from '../../src/packet/address.js';
import { positionsAfter } from '../../src/topology/position.js';
import { Cluster, type Pod } from './cluster.js';
import { until } from './until.js';

/** Two machines and two services, each on another of two hosts. */
async function setUp(t: ExecutionContext) {
  const cluster = await Cluster.start({ hosts: 2 });
  t.teardown(() => cluster.close());
  const pods = await cluster.populate(await cluster.createBridge(), 2);
  const [a, first, b, second] = pods;
  await cluster.connects(a, b);
  await cluster.connects(b, a);
  const insert = async (service: Pod, fields: object = {}, of = a) => {
    const ends = { portId: of.id, servicePortId: service.id, mac: formatMac(of.mac) };
    return (await cluster.repository.create('l2-insertion', { id: randomUUID(), ...ends, ...fields })).id;
  };
  return { cluster, a, b, first, second, insert, go: (from: Pod, to: Pod) => go(cluster, from, to, [first, second]) };
}

/** Send a packet through services that send back what they get: which of them it comes to in turn, and whether it arrives. */
async function go(cluster: Cluster, from: Pod, to: Pod, services: readonly Pod[]): Promise<string> {
  for (const pod of [from, to, ...services]) pod.device?.clear();
  const text = cluster.sendTo(from, to);
  let way = '';
  for (let turn = 0; turn < 6; turn++) {
    await cluster.quiet();
    for (const [i, service] of services.entries()) {
      const frames = (service.device?.received() ?? []).filter((frame) => Buffer.from(frame).includes(text));
      if (frames.length === 0) continue;
      way += i + 1;
      service.device?.clear();
      for (const frame of frames) service.send(frame);
    }
    if (to.count(text) > 0) return `${way}${'!'.repeat(to.count(text))}`;
  }
  return way;
}

test('services are inserted, changed and removed under traffic, on whatever hosts they are', async (t) => {
  const { cluster, a, b, first, second, insert, go } = await setUp(t);
  const goes = (from: Pod, to: Pod, way: string) =>
    until(`packets from ${from.interfaceName} go "${way}"`, async () => (await go(from, to)) === way);
  const inFirst = await insert(first, { vlanId: 7 });
  await goes(a, b, '1!');
  await goes(b, a, '1!');
  const inSecond = await insert(second, { vlanId: 8, position: 5 });
  await goes(a, b, '12!');
  await goes(b, a, '12!');
  await cluster.repository.modify('l2-insertion', inFirst, (one) => ({ ...one, position: 9 }));
  await goes(a, b, '21!');
  await goes(b, a, '21!');

  const setState = (adminStateUp: boolean) =>
    cluster.repository.modify('port', second.id, (port) => ({ ...port, adminStateUp }));
  await setState(false);
  await goes(a, b, '');
  await cluster.repository.modify('l2-insertion', inSecond, (one) => ({ ...one, failOpen: true }));
  await goes(a, b, '1!');
  await goes(b, a, '1!');
  await setState(true);
  await goes(a, b, '21!');
  await second.host!.detach(second);
  await goes(a, b, '1!');
  t.is(await cluster.repository.get('l2-insertion', inSecond), undefined, 'it went with the port');
  await cluster.repository.delete('l2-insertion', inFirst);
  await goes(a, b, '!');
  await goes(b, a, '!');
  t.pass();
});

test('a firewall at a port with services knows the connections of the port', async (t) => {
  const { cluster, a, b, first, second, insert, go } = await setUp(t);
  const { repository } = cluster;
  const chainId = (await repository.create('chain', { id: randomUUID(), name: 'replies' })).id;
  const [early, late] = positionsAfter(undefined, 2);
  const rule = (position: string, type: 'accept' | 'drop', condition: object) =>
    repository.create('rule', { id: randomUUID(), chainId, position, type, condition });
  await rule(early, 'accept', { matchReturnFlow: true });
  await rule(late, 'drop', { etherType: 0x0800 });
  await insert(first);
  await insert(second, { position: 1 });
  await repository.modify('port', a.id, (port) => ({ ...port, outboundFilterId: chainId }));
  await until('what opens a connection to it is dropped', async () => (await go(b, a)) === '');
  await until('it may open one', async () => (await go(a, b)) === '12!');
  const reply = async () => {
    const text = cluster.sendTo(b, a, 2000, 1000);
    for (const service of [first, second]) {
      await cluster.quiet();
      const frames = service.device!.received().filter((frame) => Buffer.from(frame).includes(text));
      service.device!.clear();
      for (const frame of frames) service.send(frame);
    }
    await cluster.quiet();
    return a.count(text) === 1;
  };
  await until('replies come back, through the services', reply);
  t.pass();
});

test('nothing passes where an insertion cannot be read', async (t) => {
  const { cluster, a, b, first, insert, go } = await setUp(t);
  const id = await insert(first);
  await until('packets go through the service', async () => (await go(a, b)) === '1!');
  const path = objectPath('l2-insertion', id);
  const { object } = (await cluster.repository.get('l2-insertion', id))!;
  await cluster.repository.store.set(path, encodeJson({ ...object, position: 'first' }));
  await until('packets go nowhere', async () => (await go(a, b)) === '');
  t.true(cluster.hosts[0].warnings.some((line) => line.includes(id) && line.includes('position')));
  await cluster.repository.store.set(path, encodeJson(object));
  await until('packets go through the service again', async () => (await go(a, b)) === '1!');
});
