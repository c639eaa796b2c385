import anyTest, { type TestFn } from 'ava';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../../src/nsdb/store.js';
import { EmbeddedNsdb } from '../embedded-nsdb.js';

export interface Context {
  nsdb: EmbeddedNsdb;
  store: Store;
  repository: TopologyRepository;
}

/** Each test has an initialized NSDB of its own. */
export const test = anyTest as TestFn<Context>;

test.beforeEach(async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  const store = nsdb.store();
  t.context = { nsdb, store, repository: new TopologyRepository(store) };
  await t.context.repository.initialize();
});
test.afterEach.always((t) => t.context.nsdb?.close());
