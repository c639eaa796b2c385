import { randomUUID } from 'node:crypto';
import test from 'ava';
import fc from 'fast-check';
import { MidonetError } from '../../../src/errors.js';
import { ipPath } from '../../../src/nsdb/layout.js';
import { findFaults } from '../../../src/nsdb/repository/integrity.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import type { Transaction } from '../../../src/nsdb/repository/transaction.js';
import type { Store } from '../../../src/nsdb/store.js';
import { REFERENCES, withoutReference } from '../../../src/topology/references.js';
import { KINDS, type Kind, SCHEMAS } from '../../../src/topology/types.js';
import { holder, sample } from '../../topology/samples.js';
import { allPaths, EmbeddedNsdb } from '../embedded-nsdb.js';

function hasTenant(kind: Kind): boolean {
  const schema = SCHEMAS[kind];
  return 'shape' in schema && 'tenantId' in schema.shape;
}

/** Few objects of each kind at a time, so that what is done concerns the same ones. */
const SLOTS = 2;

/** Which object is in each slot. One that is made takes the place of another, and has an identifier of its own. */
class Slots {
  private readonly ids = new Map<string, string>();

  id(kind: Kind, slot: number): string {
    const name = `${kind} ${slot % SLOTS}`;
    const id = this.ids.get(name) ?? randomUUID();
    this.ids.set(name, id);
    return id;
  }

  fill(kind: Kind, slot: number, id: string): void {
    this.ids.set(`${kind} ${slot % SLOTS}`, id);
  }
}

type Step =
  | { type: 'create'; row: number; id: number; named: number }
  | { type: 'set'; row: number; id: number; named: number }
  | { type: 'unset'; row: number; id: number; named: number }
  | { type: 'delete'; kind: Kind; id: number };

const small = fc.nat({ max: SLOTS - 1 });
const rowIndex = fc.nat({ max: REFERENCES.length - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ type: fc.constant('create' as const), row: rowIndex, id: small, named: small }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant('set' as const), row: rowIndex, id: small, named: small }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('unset' as const), row: rowIndex, id: small, named: small }) },
  {
    weight: 2,
    arbitrary: fc.record({ type: fc.constant('delete' as const), kind: fc.constantFrom(...KINDS), id: small }),
  },
);
/** Steps that a client takes in a row; several in one list are one transaction. */
const client = fc.array(fc.array(step, { minLength: 1, maxLength: 3 }), { minLength: 5, maxLength: 15 });

async function take(step: Step, slots: Slots, target: TopologyRepository | Transaction): Promise<void> {
  if (step.type === 'delete') return target.delete(step.kind, slots.id(step.kind, step.id));
  const row = REFERENCES[step.row];
  const namedId = slots.id(row.names, step.named);
  const made = holder(row, namedId, (kind) => slots.id(kind, step.id + step.named));
  if (row.kind === 'port' && made.bridgeId !== undefined) {
    Object.assign(made, { mac: `02:00:00:00:00:0${step.id}`, addresses: [`10.0.0.${step.named}`] });
  }
  if (hasTenant(row.kind)) Object.assign(made, { tenantId: `tenant-${step.named}` });
  Object.assign(made, { name: `name-${step.id}` });
  if (step.type === 'create') {
    await target.create(row.kind, made as never);
    slots.fill(row.kind, step.id, made.id);
    return;
  }
  const id = slots.id(row.kind, step.id);
  if (step.type === 'set') await target.modify(row.kind, id, (old) => ({ ...old, ...made, id }) as never);
  else await target.modify(row.kind, id, (old) => withoutReference(row, old, namedId) as never);
}

/** What others do at the same time, or what is random, may make a step fail so, and no other way. */
const EXPECTED = ['MN_NOT_FOUND', 'MN_ALREADY_EXISTS', 'MN_CONFLICT', 'MN_REFERENCED', 'MN_INVALID_INPUT'];

async function run(repository: TopologyRepository, slots: Slots, lists: readonly (readonly Step[])[]): Promise<number> {
  let done = 0;
  for (const steps of lists) {
    try {
      // Hosts are not deleted in transactions.
      if (steps.length === 1 || steps.some((one) => one.type === 'delete' && one.kind === 'host')) {
        for (const one of steps) await take(one, slots, repository);
      } else {
        const transaction = repository.transaction();
        for (const one of steps) await take(one, slots, transaction);
        await transaction.commit();
      }
      done++;
    } catch (error) {
      if (!(error instanceof MidonetError && EXPECTED.includes(error.code))) throw error;
    }
  }
  return done;
}

/** Entries of the bridges' address tables that no port accounts for. */
async function strayAddresses(store: Store, repository: TopologyRepository): Promise<string[]> {
  const expected = new Set<string>();
  for (const id of await repository.list('port')) {
    const { bridgeId, mac, addresses } = (await repository.get('port', id))!.object;
    for (const address of addresses) if (bridgeId && mac) expected.add(ipPath(bridgeId, address));
  }
  return (await allPaths(store, '/bridges')).filter(
    (path) => /^\/bridges\/[^/]+\/ips\/..\/./.test(path) && !expected.has(path),
  );
}

test('property: whatever several do at once, no reference leads nowhere and every entry is accounted for', async (t) => {
  let done = 0;
  const outcome = fc.asyncProperty(fc.array(client, { minLength: 3, maxLength: 3 }), async (clients) => {
    const nsdb = await EmbeddedNsdb.start();
    try {
      const repositories = clients.map(() => new TopologyRepository(nsdb.store()));
      await repositories[0].initialize();
      const slots = new Slots();
      for (let n = 0; n < SLOTS; n++) {
        for (const kind of KINDS) {
          const made = { ...sample(kind, (needed) => slots.id(needed, n)), id: slots.id(kind, n) };
          await repositories[0].create(kind, made as never).catch((error) => {
            if (!EXPECTED.includes(error.code)) throw error;
          });
        }
      }
      for (const count of await Promise.all(clients.map((lists, i) => run(repositories[i], slots, lists))))
        done += count;
      const store = nsdb.store();
      const found: string[] = [];
      for await (const finding of findFaults(store)) found.push(`${finding.kind} ${finding.path}: ${finding.detail}`);
      found.push(...(await strayAddresses(store, new TopologyRepository(store))));
      if (found.length > 0) throw new Error(found.join('\n'));
    } finally {
      await nsdb.close();
    }
  });
  await fc.assert(outcome, { numRuns: 25 });
  t.true(done > 200, `${done} changes were made`);
});
