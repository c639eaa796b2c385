import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { pino } from 'pino';
import { Cell } from '../../../src/agent/facts/cell.js';
import { Neighbors } from '../../../src/agent/learning/neighbors.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { formatIpv4 } from '../../../src/packet/address.js';
import type { NeighborFact, RouterPortFact } from '../../../src/simulation/fact.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';

const LIMIT = 1024;
const MAC = 0x0200_0000_0001;

async function setUp(t: ExecutionContext) {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  const store = nsdb.store();
  const repository = new TopologyRepository(store);
  await repository.initialize();
  const routerId = (await repository.create('router', { id: randomUUID(), name: 'r' })).id;
  const port = await repository.create('port', { id: randomUUID(), routerId, subnets: ['10.0.0.1/8'] });
  const warnings: string[] = [];
  const neighbors = new Neighbors({
    store,
    port: () => ({ tag: 'port', value: undefined }),
    send: () => {},
    invalid: (error) => t.fail(error.message),
    clock: () => 0,
    log: pino({ level: 'warn' }, { write: (line: string) => warnings.push(line) }),
  });
  t.teardown(() => neighbors.close());
  const hear = (address: number, source: string, mac = MAC) =>
    neighbors.heard({
      type: 'neighbor',
      port: { id: port.id } as RouterPortFact,
      source,
      address: Uint32Array.of(address),
      mac,
      isForRouter: true,
    });
  const need = (address: number) => {
    const cell = new Cell<NeighborFact>('neighbor', { onChange: () => {} });
    const watch = neighbors.watch(port.id, formatIpv4(address), cell);
    t.teardown(() => watch.close());
    return cell;
  };
  return { neighbors, hear, need, warnings };
}

test('a machine that makes up neighbours takes the place of its own, and not of those that come in elsewhere', async (t) => {
  const { neighbors, hear, need, warnings } = await setUp(t);
  const [hostile, honest] = [randomUUID(), randomUUID()];
  for (let i = 0; i < 2 * LIMIT; i++) hear(0x0a01_0000 + i, hostile);
  t.is(neighbors.learnedCount, LIMIT);
  t.is(neighbors.refused, LIMIT);
  t.is(warnings.length, 1);

  const needed = [1, 2, 3].map((i) => need(0x0a02_0000 + i));
  for (const i of [1, 2, 3]) hear(0x0a02_0000 + i, honest, MAC + i);
  t.deepEqual(
    needed.map(({ value }) => value?.mac),
    [1, 2, 3].map((i) => MAC + i),
  );
  for (let i = 0; i < LIMIT; i++) hear(0x0a03_0000 + i, hostile);
  t.is(neighbors.learnedCount, LIMIT);
  for (const i of [1, 2, 3]) t.is(need(0x0a02_0000 + i).value?.mac, MAC + i, 'it is still known');

  const wanted = need(0x0a04_0001);
  hear(0x0a04_0001, hostile, MAC + 9);
  t.is(wanted.value?.mac, MAC + 9, 'what packets wait for is learned in any case');
  t.is(neighbors.learnedCount, LIMIT);
});

test('many that make up neighbours share the room', async (t) => {
  const { neighbors, hear, need } = await setUp(t);
  const sources = Array.from({ length: 8 }, () => randomUUID());
  for (const [n, source] of sources.entries())
    for (let i = 0; i < LIMIT; i++) hear(0x0a00_0100 + (n << 16) + i, source);
  const known = sources.map((_, n) => {
    let count = 0;
    for (let i = 0; i < LIMIT; i++) if (need(0x0a00_0100 + (n << 16) + i).value) count++;
    return count;
  });
  t.is(neighbors.learnedCount, LIMIT);
  for (const count of known) t.true(count >= LIMIT / 8 - 8 && count <= LIMIT / 8 + 8, known.join());
});
