import test from 'ava';
import fc from 'fast-check';
import { Cell } from '../../../src/agent/facts/cell.js';
import { RouteRegions, type UsableRoute } from '../../../src/agent/facts/route-regions.js';
import { FlowKey, Word } from '../../../src/flow/key.js';
import { FlowMask } from '../../../src/flow/mask.js';
import { EtherType } from '../../../src/packet/ethernet.js';
import { parseCidr, parseIp } from '../../../src/packet/ip.js';
import type { RouteFact } from '../../../src/simulation/fact.js';
import { RouteTable } from '../../../src/simulation/route-table.js';

/** Regions that write down which of their facts tell of a change. */
function setUp() {
  const told: string[] = [];
  const cells: Cell<readonly RouteFact[]>[] = [];
  const regions = new RouteRegions((name, forget) => {
    const cell = new Cell<readonly RouteFact[]>(name, {
      onChange: () => told.push(name),
      same: (a, b) => a.length === b.length && a.every((one, i) => one === b[i]),
      forget,
    });
    cells.push(cell);
    return cell;
  });
  return { regions, told, cells };
}

interface Options {
  readonly source?: string;
  readonly weight?: number;
  readonly isLocal?: boolean;
}

function route(id: string, destination: string, { source, weight = 0, isLocal = false }: Options = {}): UsableRoute {
  const { family, words, prefix } = parseCidr(destination)!;
  const from = source === undefined ? { words, prefix: 0 } : parseCidr(source)!;
  return {
    id,
    family,
    destination: { words, length: prefix },
    source: { words: from.words, length: from.prefix },
    weight,
    isLocal,
    fact: { id, type: 'blackhole' },
  };
}

function packet(to: string, from: string): FlowKey {
  const key = new FlowKey();
  const [dst, src] = [parseIp(to)!, parseIp(from)!];
  key.ethType = dst.family === 4 ? EtherType.IPV4 : EtherType.IPV6;
  key.words.set(dst.words, Word.NW_DST);
  key.words.set(src.words, Word.NW_SRC);
  return key;
}

function ids(cell: Cell<readonly RouteFact[]>): string[] {
  return (cell.value ?? []).map(({ id }) => id);
}

test('only regions where a route makes a difference tell of it', (t) => {
  const { regions, told } = setUp();
  const find = (to: string) => regions.find(packet(to, '10.9.9.9'), new FlowMask());
  regions.set(route('all', '0.0.0.0/0'));
  regions.set(route('ten', '10.0.0.0/8'));
  regions.set(route('one', '10.1.0.0/16'));
  t.deepEqual([ids(find('10.1.0.1')), ids(find('10.2.0.1')), ids(find('192.0.2.1'))], [['one'], ['ten'], ['all']]);
  t.is(find('10.1.5.5'), find('10.1.0.1'), 'one fact for a region');
  told.length = 0;

  regions.set(route('two', '10.200.0.0/16'));
  t.deepEqual(told, [], 'packets asked for nothing there');
  regions.set(route('within', '10.1.2.0/24'));
  t.deepEqual(told, ['10.1.0.0/16']);
  t.deepEqual([ids(find('10.1.2.1')), ids(find('10.1.0.1'))], [['within'], ['one']]);
  told.length = 0;
  regions.delete('within');
  t.deepEqual(told, ['10.1.2.0/24']);
  told.length = 0;
  regions.set(route('one', '10.1.0.0/16', { weight: 5 }));
  regions.set(route('worse', '10.1.0.0/16', { weight: 9 }));
  // The fact of the route is another: whether it leads to the same the regions cannot tell.
  t.true(told.every((name) => name.startsWith('10.1.')));
});

test('among equals those that leave at this host are taken', (t) => {
  const { regions } = setUp();
  regions.set(route('far', '10.0.0.0/8'));
  regions.set(route('near', '10.0.0.0/8', { isLocal: true }));
  const cell = regions.find(packet('10.0.0.1', '10.9.9.9'), new FlowMask());
  t.deepEqual(ids(cell), ['near']);
  regions.delete('near');
  t.deepEqual(ids(cell), ['far']);
});

test('a region that no flow needs is forgotten', (t) => {
  const { regions, cells } = setUp();
  regions.set(route('all', '::/0'));
  regions.find(packet('fd00::1', 'fd00::2'), new FlowMask());
  t.is(regions.regionCount, 1);
  cells[0].stop();
  t.is(regions.regionCount, 0);
});

const ADDRESSES = ['10.0.0.1', '10.0.0.2', '10.0.1.1', '10.1.0.1', '10.128.0.1', '192.0.2.1', '0.0.0.1'];
const PREFIXES = [0, 1, 8, 9, 16, 24, 31, 32];
const cidrs = fc
  .tuple(fc.constantFrom(...ADDRESSES), fc.constantFrom(...PREFIXES))
  .map(([ip, length]) => `${ip}/${length}`);
const changes = fc.oneof(
  fc.record({
    type: fc.constant('set' as const),
    id: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'),
    destination: cidrs,
    source: fc.option(cidrs, { nil: undefined }),
    weight: fc.nat(1),
  }),
  fc.record({ type: fc.constant('delete' as const), id: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f') }),
  fc.record({
    type: fc.constant('find' as const),
    to: fc.constantFrom(...ADDRESSES),
    from: fc.constantFrom(...ADDRESSES),
  }),
);

test('over any changes: a fact says what the table does, and tells when that changes for a packet that has it', (t) => {
  fc.assert(
    fc.property(fc.array(changes, { maxLength: 60 }), (steps) => {
      const { regions, told } = setUp();
      const table = new RouteTable<UsableRoute>();
      /** As flows do: what a packet found, under which mask. */
      const found = new Map<string, { key: FlowKey; mask: FlowMask; cell: Cell<readonly RouteFact[]>; best: string }>();
      const look = (name: string, key: FlowKey) => {
        const mask = new FlowMask();
        const cell = regions.find(key, mask);
        const best = ids(cell).join();
        t.is(
          best,
          table
            .lookup(key, new FlowMask())
            .map(({ id }) => id)
            .join(),
        );
        found.set(name, { key, mask, cell, best });
      };
      for (const step of steps) {
        told.length = 0;
        if (step.type === 'find') look(`${step.to} ${step.from}`, packet(step.to, step.from));
        else if (step.type === 'set') {
          const added = route(step.id, step.destination, step);
          table.insert(added);
          regions.set(added);
        } else {
          table.remove(step);
          regions.delete(step.id);
        }
        for (const [name, { key, mask, cell, best }] of [...found]) {
          if (told.includes(cell.tag)) look(name, key);
          else {
            const seen = new FlowMask();
            t.is(
              table
                .lookup(key, seen)
                .map(({ id }) => id)
                .join(),
              best,
              `${name} was not told`,
            );
            for (let i = 0; i < seen.words.length; i++) t.is(seen.words[i] & ~mask.words[i], 0, `bits of ${name}`);
          }
        }
      }
    }),
    { numRuns: 500 },
  );
});
