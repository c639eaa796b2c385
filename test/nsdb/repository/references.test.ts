import anyTest, { type TestFn } from 'ava';
import { referenceName } from '../../../src/nsdb/layout.js';
import { findFaults } from '../../../src/nsdb/repository/integrity.js';
import {
  ObjectReferencedError,
  ReferenceConflictError,
  TopologyRepository,
} from '../../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../../src/nsdb/store.js';
import { REFERENCES, type ReferenceRow, referencesIn } from '../../../src/topology/references.js';
import type { Kind, TopologyTypes } from '../../../src/topology/types.js';
import { holder, type Sample, sample } from '../../topology/samples.js';
import { EmbeddedNsdb } from '../embedded-nsdb.js';

interface Context {
  nsdb: EmbeddedNsdb;
  store: Store;
  repository: TopologyRepository;
}

const test = anyTest as TestFn<Context>;

// One NSDB for all rows: they differ in their objects.
let nsdb: EmbeddedNsdb;
test.before(async () => {
  nsdb = await EmbeddedNsdb.start();
});
test.after.always(() => nsdb?.close());
test.beforeEach(async (t) => {
  const store = nsdb.store();
  t.context = { nsdb, store, repository: new TopologyRepository(store) };
  await t.context.repository.initialize();
});

/** Makes objects, and those that they need first. */
class Maker {
  private readonly waiting: Promise<unknown>[] = [];

  constructor(private readonly repository: TopologyRepository) {}

  readonly need = (kind: Kind): string => {
    const made = sample(kind, this.need);
    const before = [...this.waiting];
    this.waiting.push(Promise.all(before).then(() => this.repository.create(kind, made as never)));
    return made.id;
  };

  async create(kind: Kind, object: Sample): Promise<TopologyTypes[Kind]> {
    await Promise.all(this.waiting);
    return this.repository.create(kind, object as never) as Promise<TopologyTypes[Kind]>;
  }

  async make(kind: Kind): Promise<string> {
    return (await this.create(kind, sample(kind, this.need))).id;
  }
}

function isNamed(row: ReferenceRow, object: TopologyTypes[Kind], id: string): boolean {
  return referencesIn(row.kind, object).some((reference) => reference.row === row && reference.id === id);
}

async function findings(store: Store): Promise<string[]> {
  const found: string[] = [];
  for await (const { kind, path, detail } of findFaults(store)) found.push(`${kind} ${path}: ${detail}`);
  return found;
}

for (const row of REFERENCES) {
  const name = referenceName(row);
  test.serial(`${name} names a ${row.names}: ${row.onDelete}`, async (t) => {
    const { repository, store } = t.context;
    const maker = new Maker(repository);
    const namedId = await maker.make(row.names);
    const made = await maker.create(row.kind, holder(row, namedId, maker.need));
    t.true(isNamed(row, made, namedId), 'the sample has the field');
    const field = row.field.replaceAll('[]', '');
    const holders = row.symmetric ? [made.id] : await repository.holders(row.kind, field, namedId);
    t.true(holders.includes(made.id));
    // Insertions are noted at their own ports.
    t.is(holders.length, row.names === 'l2-insertion' ? 2 : 1);
    const deletion = repository.delete(row.names, namedId, AbortSignal.timeout(20_000));
    if (row.onDelete === 'refuse') {
      const error = await t.throwsAsync<ObjectReferencedError>(deletion, { instanceOf: ObjectReferencedError });
      t.like(error, { kind: row.names, id: namedId, otherKind: row.kind, otherId: made.id, code: 'MN_REFERENCED' });
      t.truthy(await repository.get(row.names, namedId));
      await repository.delete(row.kind, made.id);
      await repository.delete(row.names, namedId);
    } else {
      await deletion;
      const left = await repository.get(row.kind, made.id);
      if (row.onDelete === 'cascade') t.is(left, undefined);
      else t.false(isNamed(row, left!.object, namedId));
    }
    t.is(await repository.get(row.names, namedId), undefined);
    t.deepEqual(await findings(store), []);
  });
}

for (const row of REFERENCES.filter(({ onDeleteHolder }) => onDeleteHolder === 'refuse')) {
  test.serial(`what names a ${row.names} in ${referenceName(row)} is not deleted`, async (t) => {
    const { repository, store } = t.context;
    const maker = new Maker(repository);
    const namedId = await maker.make(row.names);
    const made = await maker.create(row.kind, holder(row, namedId, maker.need));
    const error = await t.throwsAsync<ObjectReferencedError>(repository.delete(row.kind, made.id), {
      instanceOf: ObjectReferencedError,
    });
    t.like(error, { kind: row.kind, id: made.id, otherKind: row.names, otherId: namedId });
    t.truthy(await repository.get(row.kind, made.id));
    await repository.delete(row.names, namedId);
    await repository.delete(row.kind, made.id);
    t.is(await repository.get(row.kind, made.id), undefined);
    t.deepEqual(await findings(store), []);
  });
}

test.serial('a load balancer serves one router; a port has one peer, and both know of it', async (t) => {
  const { repository, store } = t.context;
  const maker = new Maker(repository);
  const loadBalancerId = await maker.make('load-balancer');
  const first = await maker.create('router', { ...sample('router', maker.need), loadBalancerId });
  const second = sample('router', maker.need);
  const taken = await t.throwsAsync<ReferenceConflictError>(maker.create('router', { ...second, loadBalancerId }), {
    instanceOf: ReferenceConflictError,
  });
  t.like(taken, { field: 'router.loadBalancerId', id: loadBalancerId, holderId: first.id, code: 'MN_CONFLICT' });
  await repository.modify('router', first.id, ({ loadBalancerId: _, ...router }) => router);
  await maker.create('router', { ...second, loadBalancerId });

  const ids: string[] = [];
  for (let i = 0; i < 3; i++) ids.push(await maker.make('port'));
  const peerOf = async (i: number) => (await repository.get('port', ids[i]))?.object.peerId;
  const link = (i: number, j: number) => repository.modify('port', ids[i], (port) => ({ ...port, peerId: ids[j] }));
  await link(0, 1);
  t.is(await peerOf(1), ids[0]);
  await t.throwsAsync(link(2, 1), { instanceOf: ReferenceConflictError });
  await t.throwsAsync(link(2, 2), { message: /port\.peerId: expected another port/ });
  await link(0, 2);
  t.deepEqual([await peerOf(0), await peerOf(1), await peerOf(2)], [ids[2], undefined, ids[0]]);
  await repository.modify('port', ids[2], ({ peerId: _, ...port }) => port);
  t.is(await peerOf(0), undefined);
  const hostId = await maker.make('host');
  const bound = { ...sample('port', maker.need), binding: { hostId, interfaceName: 'eth1' } };
  await maker.create('port', bound);
  await t.throwsAsync(
    repository.modify('port', ids[0], (port) => ({ ...port, peerId: bound.id })),
    { message: /port\.peerId: expected a port to link/ },
  );
  const links = await Promise.allSettled([link(0, 1), link(1, 2), link(2, 0)]);
  t.true(links.some(({ status }) => status === 'fulfilled'));
  t.deepEqual(await findings(store), []);
});

test.serial(
  'ports know the insertions that they take part in, at one end of them only, and each service once',
  async (t) => {
    const { repository, store } = t.context;
    const maker = new Maker(repository);
    const [a, b, service, other] = await Promise.all(['port', 'port', 'port', 'port'].map(() => maker.make('port')));
    const insert = (portId: string, servicePortId: string) =>
      repository.create('l2-insertion', { ...sample('l2-insertion', () => portId), servicePortId } as never);
    const idsOf = async (id: string) => {
      const { insertionIds = [], serviceInsertionIds = [] } = (await repository.get('port', id))!.object;
      return [insertionIds.length, serviceInsertionIds.length];
    };
    const [first, second] = await Promise.all([insert(a, service), insert(b, service), insert(a, other)]);
    t.deepEqual(await Promise.all([a, b, service, other].map(idsOf)), [
      [2, 0],
      [1, 0],
      [0, 2],
      [0, 1],
    ]);
    await t.throwsAsync(insert(a, service), { instanceOf: ReferenceConflictError });
    await t.throwsAsync(insert(service, other), { message: /l2-insertion\.portId: expected a port that is not/ });
    await t.throwsAsync(insert(b, a), { message: /l2-insertion\.servicePortId: expected a port that is not/ });
    const routerPort = sample('port', maker.need);
    await maker.create('port', { ...routerPort, bridgeId: undefined, routerId: await maker.make('router') });
    await t.throwsAsync(insert(a, routerPort.id), { message: /servicePortId: expected a port of a bridge/ });

    await repository.modify('port', a, ({ insertionIds: _, ...port }) => ({ ...port, isolated: true }));
    await repository.modify('port', service, ({ serviceInsertionIds: _, ...port }) => port);
    t.deepEqual(
      [await idsOf(a), await idsOf(service)],
      [
        [2, 0],
        [0, 2],
      ],
    );
    const routerId = await maker.make('router');
    const move = repository.modify('port', a, ({ id, adminStateUp, addresses }) => {
      return { id, adminStateUp, addresses, routerId, mac: '02:00:00:00:00:09', subnets: ['10.0.0.1/8'] };
    });
    await t.throwsAsync(move, { message: /port\.bridgeId: expected a bridge, as insertions/ });

    await repository.modify('l2-insertion', second.id, (one) => ({ ...one, servicePortId: other }));
    await repository.delete('l2-insertion', first.id);
    t.deepEqual(await Promise.all([a, b, service, other].map(idsOf)), [
      [1, 0],
      [1, 0],
      [0, 0],
      [0, 2],
    ]);
    await repository.delete('port', other);
    t.deepEqual(await Promise.all([a, b].map(idsOf)), [
      [0, 0],
      [0, 0],
    ]);
    t.deepEqual(await findings(store), []);
  },
);
