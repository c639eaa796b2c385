import test, { type ExecutionContext } from 'ava';
import { ZookeeperStore, type ZookeeperStoreOptions } from '../../../src/nsdb/zookeeper/client.js';
import { ApacheZookeeper } from '../apache-zookeeper.js';
import { EmbeddedNsdb } from '../embedded-nsdb.js';

/** Milliseconds: what is tested here is not how soon a server is given up on a busy machine. */
const PATIENT = { sessionTimeout: 30_000, operationTimeout: 60_000 };

/** A server of either kind, and clients of it that are closed with it. */
export interface TestServer {
  readonly connect: string;
  store(options?: Partial<ZookeeperStoreOptions>): ZookeeperStore;
}

export async function embedded(t: ExecutionContext): Promise<TestServer> {
  const nsdb = await EmbeddedNsdb.start();
  t.teardown(() => nsdb.close());
  return { connect: `unix:${nsdb.folder}/socket`, store: (options) => nsdb.store({ ...PATIENT, ...options }) };
}

export async function apache(t: ExecutionContext): Promise<TestServer> {
  const server = await ApacheZookeeper.start();
  const stores: ZookeeperStore[] = [];
  t.teardown(async () => {
    await Promise.all(stores.map((store) => store.close()));
    await server.close();
  });
  return {
    connect: server.address,
    store: (options) => {
      const store = new ZookeeperStore({ ...PATIENT, ...options, connect: server.address });
      stores.push(store);
      return store;
    },
  };
}

/** A test with Apache ZooKeeper. */
export const apacheTest = process.env.MIDONET_SKIP_ZOOKEEPER === '1' ? test.skip : test;
