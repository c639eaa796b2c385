import { randomUUID } from 'node:crypto';
import { ClosedError, UnsupportedError } from '../../../src/errors.js';
import { findOrphanedFlowState } from '../../../src/nsdb/flow-state/port-folder.js';
import { encodeJson } from '../../../src/nsdb/json.js';
import { flowStatePath, natBlocksPath } from '../../../src/nsdb/layout.js';
import { findFaults } from '../../../src/nsdb/repository/integrity.js';
import {
  ObjectConflictError,
  ObjectExistsError,
  ObjectNotFoundError,
  ObjectReferencedError,
  ReferenceConflictError,
  TopologyRepository,
  TransactionTooLargeError,
} from '../../../src/nsdb/repository/topology-repository.js';
import { StoreUnavailableError } from '../../../src/nsdb/store.js';
import { positionsAfter } from '../../../src/topology/position.js';
import { allPaths } from '../embedded-nsdb.js';
import { test } from './repository-test.js';

test.afterEach(async (t) => {
  for await (const { path, detail } of findFaults(t.context.store)) t.fail(`${path}: ${detail}`);
});

const id = () => randomUUID();

test('objects that name each other are made together, in any order, and seen at once', async (t) => {
  const { repository, store } = t.context;
  const [routerId, portId, chainId, loadBalancerId, peerId, bridgeId] = Array.from({ length: 6 }, id);
  const transaction = repository.transaction();
  await transaction.create('port', { id: portId, routerId, subnets: ['10.0.0.1/24'], peerId });
  await transaction.create('port', { id: peerId, bridgeId });
  await transaction.create('bridge', { id: bridgeId, name: 'b' });
  await transaction.create('router', { id: routerId, name: 'r', inboundFilterId: chainId, loadBalancerId });
  await transaction.create('load-balancer', { id: loadBalancerId });
  await transaction.create('chain', { id: chainId, name: 'c' });
  for (const position of positionsAfter(undefined, 100)) {
    await transaction.create('rule', { id: id(), chainId, type: 'drop', position });
  }
  const before = await allPaths(store);
  t.deepEqual(await allPaths(store), before);
  await transaction.commit();
  t.is((await repository.get('port', peerId))?.object.peerId, portId);
  t.is((await repository.rulesOf(chainId)).length, 100);
  await t.throwsAsync(transaction.commit(), { instanceOf: ClosedError });
});

test('ports change their peers in one step, whatever the order', async (t) => {
  const { repository } = t.context;
  const { id: bridgeId } = await repository.create('bridge', { id: id(), name: 'b' });
  const ids: string[] = [id(), id(), id(), id()];
  for (const port of ids) await repository.create('port', { id: port, bridgeId });
  const link = async (pairs: [number, number | undefined][]) => {
    const transaction = repository.transaction();
    for (const [port, peer] of pairs) {
      const peerId = peer === undefined ? undefined : ids[peer];
      await transaction.modify('port', ids[port], (old) => ({ ...old, peerId }));
    }
    await transaction.commit();
  };
  const peers = async () => {
    const ports = await Promise.all(ids.map((port) => repository.get('port', port)));
    return ports.map((port) => ids.indexOf(port?.object.peerId ?? '')).join(' ');
  };
  await link([
    [0, 1],
    [3, 2],
  ]);
  t.is(await peers(), '1 0 3 2');
  await t.throwsAsync(link([[0, 3]]), { instanceOf: ReferenceConflictError });
  await link([
    [0, 3],
    [2, 1],
    [3, undefined],
    [1, undefined],
  ]);
  t.is(await peers(), '3 2 1 0');
  const transaction = repository.transaction();
  await transaction.modify('port', ids[0], (old) => ({ ...old, owner: 'me' }));
  await transaction.delete('port', ids[3]);
  await transaction.commit();
  t.is(await peers(), '-1 2 1 -1');
});

test('nothing happens when a part of it cannot', async (t) => {
  const { repository, store } = t.context;
  const bridge = await repository.create('bridge', { id: id(), name: 'b' });
  const chain = await repository.create('chain', { id: id(), name: 'c' });
  const before = await allPaths(store);
  const transaction = repository.transaction();
  await transaction.modify('bridge', bridge.id, (old) => ({ ...old, inboundFilterId: chain.id }));
  await transaction.create('port', { id: id(), bridgeId: id() });
  const error = await t.throwsAsync<ObjectNotFoundError>(transaction.commit(), { instanceOf: ObjectNotFoundError });
  t.is(error?.field, 'port.bridgeId');
  const again = repository.transaction();
  await again.create('bridge', { ...bridge, name: 'other' });
  await t.throwsAsync(again.create('bridge', bridge), { instanceOf: ObjectExistsError });
  await t.throwsAsync(again.commit(), { instanceOf: ObjectExistsError });
  t.like(await repository.get('bridge', bridge.id), { object: bridge, version: 0 });
  // Folders of entries may have been made.
  t.deepEqual(
    (await allPaths(store)).filter((path) => !/\/ports\/..$|\/refs/.test(path)),
    before,
  );
});

test('what was read in it must not change before it is committed', async (t) => {
  const { repository } = t.context;
  const bridge = await repository.create('bridge', { id: id(), name: 'b' });
  const host = await repository.create('host', { id: id(), name: 'h' });
  for (const interfere of [
    () => repository.modify('host', host.id, (old) => ({ ...old, name: 'other' })),
    () => repository.delete('host', host.id),
  ]) {
    const transaction = repository.transaction();
    t.is((await transaction.get('host', host.id))?.id, host.id);
    await transaction.modify('bridge', bridge.id, (old) => ({ ...old, name: 'changed' }));
    await interfere();
    const error = await t.throwsAsync<ObjectConflictError>(transaction.commit(), { instanceOf: ObjectConflictError });
    t.like(error, { kind: 'host', id: host.id, code: 'MN_CONFLICT' });
    t.is((await repository.get('bridge', bridge.id))?.object.name, 'b');
  }
});

test('a deletion in it takes along what goes with the object, as the transaction leaves that', async (t) => {
  const { repository } = t.context;
  const routerId = id();
  const loadBalancer = await repository.create('load-balancer', { id: id() });
  const port = { id: id(), routerId };
  const setUp = repository.transaction();
  await setUp.create('router', { id: routerId, name: 'r', loadBalancerId: loadBalancer.id });
  await setUp.create('port', port);
  await setUp.create('route', { id: id(), routerId, type: 'normal', destination: '0.0.0.0/0', nextHopPortId: port.id });
  await setUp.commit();
  const refused = repository.transaction();
  await refused.delete('router', routerId);
  await t.throwsAsync(refused.commit(), { instanceOf: ObjectReferencedError });
  t.truthy(await repository.get('port', port.id));

  const transaction = repository.transaction();
  const other = await transaction.create('router', { id: id(), name: 'other' });
  await transaction.modify('router', routerId, ({ loadBalancerId: _, ...router }) => router);
  await transaction.update('router', { ...other, loadBalancerId: loadBalancer.id });
  await transaction.modify('port', port.id, (old) => ({ ...old, routerId: other.id }));
  await transaction.delete('router', routerId);
  t.is(await transaction.get('router', routerId), undefined);
  await transaction.commit();
  t.is(await repository.get('router', routerId), undefined);
  t.deepEqual(await repository.list('route'), []);
  t.is((await repository.get('port', port.id))?.object.routerId, other.id);
  t.deepEqual(await repository.holders('router', 'loadBalancerId', loadBalancer.id), [other.id]);

  const lone = await repository.create('router', { id: id(), name: 'lone' });
  const dangling = repository.transaction();
  await dangling.delete('router', lone.id);
  await dangling.create('bgp-network', { id: id(), routerId: lone.id, cidr: '10.0.0.0/8' });
  const error = await t.throwsAsync<ObjectNotFoundError>(dangling.commit(), { instanceOf: ObjectNotFoundError });
  t.is(error?.field, 'bgp-network.routerId');
});

test('of two objects in it that claim the same the second is refused', async (t) => {
  const { repository } = t.context;
  const { id: bridgeId } = await repository.create('bridge', { id: id(), name: 'b' });
  const { id: loadBalancerId } = await repository.create('load-balancer', { id: id() });
  const ports = repository.transaction();
  for (let i = 0; i < 2; i++) await ports.create('port', { id: id(), bridgeId, mac: '02:00:00:00:00:01' });
  const error = await t.throwsAsync<ObjectExistsError>(ports.commit(AbortSignal.timeout(20_000)), {
    instanceOf: ObjectExistsError,
  });
  t.is(error?.field, 'port.mac');
  const routers = repository.transaction();
  for (let i = 0; i < 2; i++) await routers.create('router', { id: id(), name: 'r', loadBalancerId });
  await t.throwsAsync(routers.commit(AbortSignal.timeout(20_000)), { instanceOf: ReferenceConflictError });
  t.deepEqual(await repository.list('router'), []);
});

test('one that is too large is refused, with its size', async (t) => {
  const { repository } = t.context;
  const chain = await repository.create('chain', { id: id(), name: 'c' });
  const transaction = repository.transaction();
  for (const position of positionsAfter(undefined, 400)) {
    await transaction.create('rule', { id: id(), chainId: chain.id, type: 'drop', position });
  }
  const error = await t.throwsAsync<TransactionTooLargeError>(transaction.commit(), {
    instanceOf: TransactionTooLargeError,
  });
  t.true(error!.message.includes(`at most 1000 operations of 524288 bytes, got ${error?.operations} operations of`));
  t.deepEqual(await repository.list('rule'), []);
});

test('what belongs to a deleted object outside of it goes, too; hosts are deleted by themselves', async (t) => {
  const { repository, store } = t.context;
  const bridge = await repository.create('bridge', { id: id(), name: 'b' });
  const port = await repository.create('port', { id: id(), bridgeId: bridge.id });
  const host = await repository.create('host', { id: id(), name: 'h' });
  const archived = flowStatePath(port.id);
  const block = `${natBlocksPath(bridge.id, '192.0.2.1')}/01024`;
  for (const path of [`${archived}/0000000001`, block]) await store.ensure(path);
  await store.set(block, encodeJson({ hostId: host.id }));
  const transaction = repository.transaction();
  await transaction.delete('bridge', bridge.id);
  await t.throwsAsync(transaction.delete('host', host.id), { instanceOf: UnsupportedError });
  await transaction.commit();
  t.is(await repository.get('port', port.id), undefined);
  t.is(await store.exists(archived), undefined);
  t.is(await store.exists(block), undefined);
});

test('what was read before is changed or deleted only if nobody has changed it since', async (t) => {
  const { repository } = t.context;
  const chain = await repository.create('chain', { id: id(), name: 'c' });
  const { modified } = (await repository.get('chain', chain.id))!;
  const change = { ...chain, metadata: { by: 'me' } };
  await repository.modify('chain', chain.id, () => ({ ...chain, metadata: { by: 'another' } }));
  const stale = repository.transaction();
  const refused = { instanceOf: ObjectConflictError };
  await t.throwsAsync(stale.get('chain', chain.id, undefined, modified), refused);
  await t.throwsAsync(stale.update('chain', change, undefined, modified), refused);
  await t.throwsAsync(
    stale.modify('chain', chain.id, () => change, undefined, modified),
    refused,
  );
  await t.throwsAsync(stale.delete('chain', chain.id, undefined, modified), refused);
  await t.throwsAsync(stale.delete('chain', id(), undefined, modified), refused);

  const current = (await repository.get('chain', chain.id))!;
  const transaction = repository.transaction();
  await transaction.update('chain', change, undefined, current.modified);
  await transaction.modify('chain', chain.id, (old) => ({ ...old, name: 'd' }), undefined, current.modified);
  await transaction.commit();
  t.like((await repository.get('chain', chain.id))?.object, { name: 'd', metadata: { by: 'me' } });

  // An object made anew under the same id has as many changes behind it, but is not the one that was read.
  const { modified: former } = (await repository.get('chain', chain.id))!;
  await repository.delete('chain', chain.id);
  await repository.create('chain', chain);
  await t.throwsAsync(repository.transaction().delete('chain', chain.id, undefined, former), refused);
});

test('a change that is done is not told as failed when what it leaves behind cannot be removed, but that is told', async (t) => {
  const { store } = t.context;
  const failing = Object.create(store) as typeof store;
  const lost = new StoreUnavailableError('delete', '/', false, 'connection lost');
  failing.delete = () => Promise.reject(lost);
  const leftOver: Error[] = [];
  const repository = new TopologyRepository(failing, (error) => leftOver.push(error));
  const first = await repository.create('bridge', { id: id(), name: 'b', tenantId: 'blue' });
  const second = await repository.create('bridge', { id: id(), name: 'b', tenantId: 'red' });
  const port = await repository.create('port', { id: id(), bridgeId: second.id });
  await store.ensure(`${flowStatePath(port.id)}/0000000001`);

  await repository.delete('bridge', first.id);
  const transaction = repository.transaction();
  await transaction.delete('bridge', second.id);
  await transaction.commit();
  t.is(await repository.get('bridge', first.id), undefined);
  t.is(await repository.get('port', port.id), undefined);
  // Two folders of tenants, and flow state.
  t.deepEqual(leftOver, [lost, lost, lost]);

  const found: string[] = [];
  for await (const { path, repair } of findFaults(store)) {
    found.push(path);
    await store.multi(repair);
  }
  t.deepEqual(found.toSorted(), ['/tenants/blue', '/tenants/red']);
  for await (const { path } of findOrphanedFlowState(store)) t.is(path, flowStatePath(port.id));
});
