import { randomUUID } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import test from 'ava';
import { Cell, type CellOptions } from '../../../src/agent/facts/cell.js';
import { ChainCells } from '../../../src/agent/facts/chain-cells.js';
import { InsertionCells } from '../../../src/agent/facts/insertion-cells.js';
import type { TopologySource } from '../../../src/agent/facts/topology-source.js';
import type { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { formatMac } from '../../../src/packet/address.js';
import type { PortFact } from '../../../src/simulation/fact.js';
import type { Port } from '../../../src/topology/devices.js';
import type { L2Insertion } from '../../../src/topology/observation.js';

/** Insertions of one service, as the NSDB tells of them. */
function start() {
  let tell: (id: string, insertion: L2Insertion | undefined) => void = () => {};
  let tellAll = () => {};
  const changes: string[] = [];
  const repository = {
    watchHolders: (
      _kind: string,
      _field: string,
      _id: string,
      listener: typeof tell,
      _invalid: unknown,
      all: () => void,
    ) => {
      tell = listener;
      tellAll = all;
      return { ready: Promise.resolve(), close: () => {} };
    },
  } as unknown as TopologyRepository;
  const source = {
    repository,
    cell: <T>(tag: string, options: Omit<CellOptions<T>, 'onChange'>) =>
      new Cell<T>(tag, { ...options, onChange: (cell) => changes.push(cell.tag) }),
    port: (id: string) => new Cell<PortFact>(id, { onChange: () => {} }),
  } as unknown as TopologySource;
  const cells = new InsertionCells(source, new ChainCells(source));
  const servicePortId = randomUUID();
  const chain = cells.ofPort({ id: servicePortId, serviceInsertionIds: ['some'] } as unknown as Port).service!;
  return {
    cells,
    chain: chain as Cell<NonNullable<typeof chain.value>>,
    changes,
    tell: (insertion: L2Insertion) => tell(insertion.id, insertion),
    tellAll: () => tellAll(),
    insertion: (i: number): L2Insertion => ({
      id: randomUUID(),
      portId: randomUUID(),
      mac: formatMac(i),
      servicePortId,
      position: 1,
      failOpen: false,
    }),
  };
}

test('insertions of a service that come together make its chain once, with a jump for each way of each machine', async (t) => {
  const { cells, chain, changes, tell, tellAll, insertion } = start();
  chain.start();
  for (let i = 0; i < 500; i++) tell(insertion(i));
  tellAll();
  await nextTurn();
  t.deepEqual(changes, [chain.tag]);
  t.is(chain.value!.jumps.size, 1000);
  t.is(cells.size, 1001, 'jumps lead to the chains of the machines');
  for (let i = 500; i < 600; i++) tell(insertion(i));
  await nextTurn();
  t.is(changes.length, 2);
  t.is(chain.value!.jumps.size, 1200);
});

test('a chain that nobody needs any more is not made', async (t) => {
  const { chain, changes, tellAll } = start();
  chain.start();
  tellAll();
  chain.stop();
  await nextTurn();
  t.deepEqual(changes, []);
});
