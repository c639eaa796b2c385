import { randomUUID } from 'node:crypto';
import { encodeJson } from '../../../src/nsdb/json.js';
import {
  bridgePortPath,
  bridgeVlanLinksPath,
  hostPortPath,
  macPath,
  namePath,
  objectPath,
  tenantPath,
} from '../../../src/nsdb/layout.js';
import { joinPath } from '../../../src/nsdb/path.js';
import { walk } from '../../../src/nsdb/repository/deletion.js';
import { type Finding, findFaults } from '../../../src/nsdb/repository/integrity.js';
import type { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../../src/nsdb/store.js';
import { test } from './repository-test.js';

async function faults(store: Store): Promise<Finding[]> {
  const found: Finding[] = [];
  for await (const finding of findFaults(store)) found.push(finding);
  return found;
}

/** Mend what can be mended, until nothing more is found that can. Returns what is left. */
async function repair(store: Store): Promise<Finding[]> {
  for (let round = 0; round < 5; round++) {
    const found = await faults(store);
    const mendable = found.filter(({ repair }) => repair.length > 0);
    if (mendable.length === 0) return found;
    for (const finding of mendable) await store.multi(finding.repair);
  }
  throw new Error('repairs do not come to an end');
}

const MAC = '02:00:00:00:00:01';

async function populate(repository: TopologyRepository) {
  const bridge = await repository.create('bridge', { id: randomUUID(), name: 'blue' });
  const host = await repository.create('host', { id: randomUUID(), name: 'node-1' });
  const chain = await repository.create('chain', { id: randomUUID(), name: 'filter', tenantId: 'blue' });
  const port = await repository.create('port', {
    id: randomUUID(),
    bridgeId: bridge.id,
    mac: MAC,
    addresses: ['10.0.0.1'],
    inboundFilterId: chain.id,
    binding: { hostId: host.id, interfaceName: 'eth1' },
  });
  return { bridge, host, chain, port };
}

async function removeAll(store: Store, path: string): Promise<void> {
  for (const below of await walk(store, path)) await store.delete(below);
  await store.delete(path);
}

type Objects = Awaited<ReturnType<typeof populate>>;

/** What a mishap does, what is found then, and whether the object that is named first is there after the repair. */
const MISHAPS: [string, (store: Store, objects: Objects) => Promise<unknown>, string[]][] = [
  ['nothing', async () => undefined, []],
  [
    'an entry is gone',
    (store, { host, port }) => store.delete(hostPortPath(host.id, port.id)),
    ['missing-entry: port.binding.hostId'],
  ],
  [
    'a folder of entries is gone',
    (store, { chain }) => removeAll(store, `${objectPath('chain', chain.id)}/refs`),
    ['missing-entry: port.inboundFilterId'],
  ],
  [
    'a seeded entry was learned',
    async (store, { bridge }) => {
      const path = macPath(bridge.id, MAC);
      await store.delete(path);
      await store.create(path, encodeJson({ portId: randomUUID() }), { ephemeral: true });
    },
    ['missing-entry: port.mac'],
  ],
  [
    'entries were left',
    async (store, { bridge, host, port }) => {
      await store.ensure(bridgePortPath(bridge.id, randomUUID()));
      await store.create(hostPortPath(host.id, randomUUID()), new Uint8Array());
      await store.ensure(`${objectPath('port', port.id)}/refs/vip.gatewayPortId/00/${randomUUID()}`);
      await store.ensure(`${objectPath('port', port.id)}/refs/cat.dogId/00/${randomUUID()}`);
      await store.ensure(`/bridges/${bridge.id}/hosts/${randomUUID()}`);
      await store.ensure(joinPath(bridgeVlanLinksPath(bridge.id, 10), port.id));
      await store.ensure(joinPath(bridgeVlanLinksPath(bridge.id, 0), randomUUID()));
    },
    Array(7).fill('orphaned-entry'),
  ],
  [
    'a named object is gone',
    (store, { chain }) => removeAll(store, objectPath('chain', chain.id)),
    ['dangling-reference: inboundFilterId', 'orphaned-entry: chain', 'orphaned-entry: chain'],
  ],
  [
    'the bridge is gone',
    (store, { bridge }) => removeAll(store, objectPath('bridge', bridge.id)),
    ['dangling-reference: bridgeId', 'orphaned-entry: bridge'],
  ],
  [
    'an object is gone, its entries stayed',
    (store, { port }) => removeAll(store, objectPath('port', port.id)),
    Array(4).fill('orphaned-entry'),
  ],
  [
    'an object lost a folder',
    (store, { bridge }) => store.delete(`/bridges/${bridge.id}/hosts`),
    ['incomplete-object: no folder hosts'],
  ],
  [
    'the indexes are not there',
    async (store, { chain }) => {
      await removeAll(store, '/names/bridge');
      await removeAll(store, '/tenants/blue');
      await store.delete(namePath('chain', chain.name, chain.id));
    },
    ['missing-entry: bridge.name', 'missing-entry: chain.name', 'missing-entry: chain.tenantId'],
  ],
  [
    'the indexes have what they should not',
    async (store, { chain, bridge }) => {
      await store.ensure(namePath('chain', 'other', chain.id));
      await store.ensure(namePath('router', 'blue', bridge.id));
      await store.ensure(`/names/bridge/00/blue,${bridge.id}`);
      await store.ensure('/names/cat/00/tom,1');
      await store.ensure('/names/bridge/00/blue');
      await store.ensure(tenantPath('red', 'chain', chain.id));
      await store.ensure('/tenants/gone/bridge/00');
    },
    [...Array(6).fill('orphaned-entry'), 'leftover-folder: no object belongs to the tenant'],
  ],
  [
    'a part of a deleted object came back',
    (store) => store.ensure(`/bridges/${randomUUID()}/ports/00`),
    ['leftover-folder'],
  ],
];

for (const [mishap, cause, expected] of MISHAPS) {
  test(`${mishap}: it is found and mended`, async (t) => {
    const { store, repository } = t.context;
    const objects = await populate(repository);
    t.deepEqual(await faults(store), []);
    await cause(store, objects);
    const found = await faults(store);
    const texts = found.map(({ kind, detail }) => `${kind}: ${detail}`).sort();
    t.is(texts.length, expected.length, texts.join('\n'));
    for (const [i, text] of expected.sort().entries()) t.true(texts[i].startsWith(text), `${texts[i]} | ${text}`);
    t.deepEqual(await repair(store), []);
    if (mishap !== 'the bridge is gone' && !mishap.startsWith('an object is gone')) {
      t.truthy(await repository.get('port', objects.port.id));
    }
    for (const [kind, { id }] of Object.entries(objects)) await repository.delete(kind as 'port', id);
    t.deepEqual(await faults(store), []);
  });
}

test('what only a person can decide is told without a repair', async (t) => {
  const { store, repository } = t.context;
  const { bridge, port } = await populate(repository);
  const group = await repository.create('port-group', { id: randomUUID(), name: 'g' });
  const other = await repository.create('port', { id: randomUUID(), bridgeId: bridge.id });
  const chain = await repository.create('chain', { id: randomUUID(), name: 'c' });
  const rule = await repository.create('rule', {
    id: randomUUID(),
    chainId: chain.id,
    type: 'drop',
    position: 'i0000000',
    condition: { portGroupId: group.id },
  });
  await removeAll(store, objectPath('port-group', group.id));
  await store.set(objectPath('port', other.id), encodeJson({ ...other, mac: MAC }));
  await store.set(objectPath('chain', chain.id), encodeJson({ ...chain, v: 7 }));
  const left = await repair(store);
  t.deepEqual(
    left.map(({ kind, path }) => `${kind} ${path}`).sort(),
    [
      `dangling-reference ${objectPath('rule', rule.id)}`,
      `missing-entry ${macPath(bridge.id, MAC)}`,
      `undecodable-object ${objectPath('chain', chain.id)}`,
    ].sort(),
  );
  t.true(
    left.some(({ detail }) => detail.includes('written in version 7 of the form of a chain; this program knows 1')),
  );
  t.deepEqual((await repository.get('port', port.id))?.object, port);
});

test('a repair of what has changed since does nothing', async (t) => {
  const { store, repository } = t.context;
  const { chain, port } = await populate(repository);
  await removeAll(store, objectPath('chain', chain.id));
  const [finding] = await faults(store);
  await repository.modify('port', port.id, (old) => ({ ...old, owner: 'me' }));
  await t.throwsAsync(store.multi(finding.repair), { code: 'MN_CONFLICT' });
  t.is((await repository.get('port', port.id))?.object.owner, 'me');
});
