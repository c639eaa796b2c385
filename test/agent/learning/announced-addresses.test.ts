import { randomUUID } from 'node:crypto';
import test from 'ava';
import { pino } from 'pino';
import { AnnouncedAddresses } from '../../../src/agent/learning/announced-addresses.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { SharedTable } from '../../../src/nsdb/tables/shared-table.js';
import { IP_TABLE } from '../../../src/nsdb/tables/tables.js';
import type { BridgeFact } from '../../../src/simulation/fact.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';
import { until } from '../until.js';

const MAC = 0x0200_0000_0001;

test('of a machine that announces addresses without end 1024 are believed for a minute, and that is told once', async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const store = nsdb.store();
  const repository = new TopologyRepository(store);
  await repository.initialize();
  const bridge = { id: (await repository.create('bridge', { id: randomUUID(), name: 'b' })).id } as BridgeFact;
  const clock = { now: 0 };
  const warnings: string[] = [];
  const log = pino({ level: 'warn' }, { write: (line: string) => warnings.push(JSON.parse(line).msg) });
  const addresses = new AnnouncedAddresses(store, () => clock.now, log);
  const table = new SharedTable(store, IP_TABLE, bridge.id);
  const announce = (n: number) =>
    addresses.announced({ type: 'announce', bridge, address: Uint32Array.of(0x0a00_0000 + n), mac: MAC });
  for (let n = 0; n < 1100; n++) announce(n);
  t.is(warnings.length, 1);
  await until(
    'the last one that is believed is in the table',
    async () => (await table.get('10.0.3.255')) !== undefined,
  );
  t.is(await table.get('10.0.4.0'), undefined);
  clock.now = 30_000;
  announce(0);
  clock.now = 60_000;
  addresses.expire();
  await until('the others are taken back', async () => (await table.get('10.0.3.255')) === undefined);
  t.deepEqual(await table.get('10.0.0.0'), { value: { mac: '02:00:00:00:00:01' }, isLearned: true });
  announce(1024);
  await until('there is room for others', async () => (await table.get('10.0.4.0')) !== undefined);
});
