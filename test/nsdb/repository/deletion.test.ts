import { randomUUID } from 'node:crypto';
import { flowStatePath, memberPath, objectPath } from '../../../src/nsdb/layout.js';
import { findFaults } from '../../../src/nsdb/repository/integrity.js';
import {
  ObjectNotFoundError,
  ObjectReferencedError,
  TopologyRepository,
} from '../../../src/nsdb/repository/topology-repository.js';
import { NodeExistsError, type Store, StoreUnavailableError } from '../../../src/nsdb/store.js';
import { positionBetween, positionsAfter } from '../../../src/topology/position.js';
import { allPaths } from '../embedded-nsdb.js';
import { test } from './repository-test.js';

const id = () => randomUUID();

async function faults(store: Store): Promise<string[]> {
  const found: string[] = [];
  for await (const { path, detail } of findFaults(store)) found.push(`${path}: ${detail}`);
  return found;
}

/** Lets the store do some more requests with several operations, and then no more. Returns how many there were. */
function limitMultis(store: Store, limit: number): () => number {
  let count = 0;
  const multi = store.multi.bind(store);
  store.multi = async (operations, options) => {
    if (count >= limit) throw new StoreUnavailableError('multi', operations[0].path, false, 'injected');
    count++;
    return multi(operations, options);
  };
  return () => count;
}

async function largeChain(repository: TopologyRepository, rules: number): Promise<string> {
  const chain = await repository.create('chain', { id: id(), name: 'large' });
  const positions = positionsAfter(undefined, rules);
  for (let i = 0; i < rules; i += 200) {
    const transaction = repository.transaction();
    for (const position of positions.slice(i, i + 200)) {
      await transaction.create('rule', { id: id(), chainId: chain.id, type: 'accept', position });
    }
    await transaction.commit();
  }
  return chain.id;
}

test('what fits in one request is deleted by one', async (t) => {
  const { repository, store } = t.context;
  const chainId = await largeChain(repository, 100);
  const bridge = await repository.create('bridge', { id: id(), name: 'b', inboundFilterId: chainId });
  const count = limitMultis(store, 1);
  await repository.delete('chain', chainId);
  t.is(count(), 1);
  t.is((await repository.get('bridge', bridge.id))?.object.inboundFilterId, undefined);
  t.deepEqual(await repository.list('rule'), []);
});

test('more is deleted in parts, each of them sound, and finished after a crash in between', async (t) => {
  const { nsdb, repository, store } = t.context;
  const chainId = await largeChain(repository, 1000);
  const other = await repository.create('chain', { id: id(), name: 'other' });
  const position = positionBetween(undefined, undefined);
  await repository.create('rule', { id: id(), chainId: other.id, type: 'jump', jumpChainId: chainId, position });
  const bridge = await repository.create('bridge', { id: id(), name: 'b', inboundFilterId: chainId });
  const dying = nsdb.store();
  limitMultis(dying, 1);
  await t.throwsAsync(new TopologyRepository(dying).delete('chain', chainId), { instanceOf: StoreUnavailableError });
  const left = await repository.list('rule');
  t.true(left.length > 0 && left.length < 1000, `${left.length} rules are left`);
  t.truthy(await repository.get('chain', chainId));
  t.deepEqual(await faults(store), []);
  await repository.delete('chain', chainId);
  t.deepEqual(await repository.list('rule'), []);
  t.deepEqual(await faults(store), []);
  t.is((await repository.get('bridge', bridge.id))?.object.inboundFilterId, undefined);
});

test('a refusal deep down is found before anything is deleted', async (t) => {
  const { repository, store } = t.context;
  const bridge = await repository.create('bridge', { id: id(), name: 'b' });
  const ports = [];
  for (let i = 0; i < 20; i++) ports.push(await repository.create('port', { id: id(), bridgeId: bridge.id }));
  const pool = await repository.create('pool', { id: id() });
  const vip = { id: id(), poolId: pool.id, address: '10.0.0.9', protocolPort: 80 };
  await repository.create('vip', { ...vip, gatewayPortId: ports[7].id });
  const before = await allPaths(store);
  const error = await t.throwsAsync<ObjectReferencedError>(repository.delete('bridge', bridge.id), {
    instanceOf: ObjectReferencedError,
  });
  t.like(error, { kind: 'port', id: ports[7].id, otherKind: 'vip', otherId: vip.id });
  t.deepEqual(await allPaths(store), before);
  await repository.delete('pool', pool.id);
  await repository.delete('bridge', bridge.id);
  t.deepEqual(await repository.list('port'), []);
});

test('objects that name each other in a circle are deleted', async (t) => {
  const { repository, store } = t.context;
  const bridge = await repository.create('bridge', { id: id(), name: 'b' });
  const transaction = repository.transaction();
  const [first, second, mirror, otherMirror] = Array.from({ length: 4 }, id);
  await transaction.create('port', { id: first, bridgeId: bridge.id, inboundMirrorIds: [mirror, otherMirror] });
  await transaction.create('port', { id: second, bridgeId: bridge.id, inboundMirrorIds: [mirror], peerId: first });
  await transaction.create('mirror', { id: mirror, toPortId: first, conditions: [{ inPortIds: [second, first] }] });
  await transaction.create('mirror', { id: otherMirror, toPortId: second });
  await transaction.commit();
  await repository.delete('port', first);
  t.deepEqual((await repository.get('port', second))?.object.inboundMirrorIds, []);
  await repository.delete('bridge', bridge.id);
  t.deepEqual(await repository.list('mirror'), []);
  t.deepEqual(await faults(store), []);
});

test('an object is not lost with one that it begins to name while that is deleted', async (t) => {
  const { nsdb, repository, store } = t.context;
  const other = new TopologyRepository(nsdb.store());
  for (let round = 0; round < 10; round++) {
    const chain = await repository.create('chain', { id: id(), name: 'c' });
    const bridges = [];
    for (let i = 0; i < 5; i++) bridges.push(await repository.create('bridge', { id: id(), name: 'b' }));
    const changes = bridges.map((bridge) =>
      other.modify('bridge', bridge.id, (old) => ({ ...old, inboundFilterId: chain.id })),
    );
    const [, ...outcomes] = await Promise.allSettled([repository.delete('chain', chain.id), ...changes]);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') t.true(outcome.reason instanceof ObjectNotFoundError, String(outcome.reason));
    }
    for (const bridge of bridges) {
      t.is((await repository.get('bridge', bridge.id))?.object.inboundFilterId, undefined);
      await repository.delete('bridge', bridge.id);
    }
  }
  t.deepEqual(await faults(store), []);
});

test('members are kept apart from their object, one by one, and go with it', async (t) => {
  const { repository, store } = t.context;
  const group = await repository.create('ip-address-group', { id: id(), name: 'g' });
  const members = repository.members('ip-address-group', group.id);
  t.true(await members.set('FD00:0::1', {}));
  t.false(await members.set('fd00::1', {}));
  for (let i = 1; i <= 50; i++) await members.set(`10.0.0.${i}`, {});
  await members.remove('10.0.0.7');
  await members.remove('10.0.0.7');
  t.is(await members.get('10.0.0.7'), undefined);
  const names: string[] = [];
  for await (const [name] of members.all()) names.push(name);
  t.is(names.length, 50);
  t.true(names.includes('fd00::1'));
  await t.throwsAsync(members.set('10.0.0', {}), { code: 'MN_INVALID_INPUT' });
  await t.throwsAsync(repository.members('ip-address-group', id()).set('10.0.0.1', {}), {
    instanceOf: ObjectNotFoundError,
  });
  await repository.delete('ip-address-group', group.id);
  t.is(await store.exists(objectPath('ip-address-group', group.id)), undefined);

  const bridge = await repository.create('bridge', { id: id(), name: 'b' });
  const subnet = await repository.create('dhcp-subnet', { id: id(), bridgeId: bridge.id, cidr: '10.0.0.0/24' });
  await t.throwsAsync(repository.create('dhcp-subnet', { id: id(), bridgeId: bridge.id, cidr: '10.0.0.0/24' }), {
    code: 'MN_ALREADY_EXISTS',
    message: /^dhcp-subnet\.cidr: 10\.0\.0\.0\/24/,
  });
  const machines = repository.members('dhcp-subnet', subnet.id);
  await machines.set('02:00:00:00:00:0A', { address: '10.0.0.5', name: 'web' });
  t.false(await machines.set('02:00:00:00:00:0a', { address: '10.0.0.6' }));
  t.deepEqual(await machines.get('02:00:00:00:00:0a'), { address: '10.0.0.6' });
  await t.throwsAsync(machines.set('02:00:00:00:00:0a', { address: 'fd00::1' }), { message: /dhcp-subnet\.address/ });
  const wrong = { address: '10.0.0.6', extraOptions: [{ name: 'mtu', value: 'large' }] };
  await t.throwsAsync(machines.set('02:00:00:00:00:0a', wrong), {
    message: 'dhcp-subnet.extraOptions[0].value: expected a number from 68 to 65535, got "large"',
  });
  const path = memberPath('dhcp-subnet', subnet.id, '02:00:00:00:00:0a');
  await t.throwsAsync(store.create(path, new Uint8Array()), { instanceOf: NodeExistsError });
  await repository.delete('bridge', bridge.id);
  t.is(await store.exists(objectPath('dhcp-subnet', subnet.id)), undefined);
});

test('what is archived of the flow state of ports goes with them, also with those of a bridge', async (t) => {
  const { store, repository } = t.context;
  const bridge = await repository.create('bridge', { id: id(), name: 'b' });
  const [first, second, other] = [id(), id(), id()];
  for (const port of [first, second]) await repository.create('port', { id: port, bridgeId: bridge.id });
  const left = await repository.create('bridge', { id: id(), name: 'left' });
  await repository.create('port', { id: other, bridgeId: left.id });
  for (const port of [first, second, other]) {
    await store.ensure(flowStatePath(port));
    for (let i = 0; i < 3; i++) {
      await store.create(`${flowStatePath(port)}/batch-`, Buffer.alloc(6), { sequential: true });
    }
  }
  await repository.delete('port', first);
  t.is(await store.get(flowStatePath(first)), undefined);
  t.is((await store.children(flowStatePath(second)))?.length, 3);
  await repository.delete('bridge', bridge.id);
  t.is(await store.get(flowStatePath(second)), undefined);
  t.is((await store.children(flowStatePath(other)))?.length, 3);
});
