import type { ExecutionContext } from 'ava';
import type { ZookeeperStore } from '../../src/nsdb/zookeeper/client.js';
import { bytes, text } from '../compliance/store.js';

/** Names of the nodes below the root but those of the server itself. */
export async function ownNodes(store: ZookeeperStore): Promise<string[]> {
  return (await store.children('/'))!.filter((name) => name !== 'zookeeper');
}

/** Clients that count up, each in nodes of its own, and what they were told of it. */
export class Counters {
  private readonly acknowledged = new Map<string, number>();
  private readonly attempted = new Map<string, number>();
  writes = 0;

  /** Counts until something fails; returns the error. */
  async count(store: ZookeeperStore, path: string): Promise<Error> {
    const twin = `${path}-twin`;
    try {
      const node = await store.get(path);
      let value = node === undefined ? -1 : Number(text(node));
      if (node !== undefined && text(await store.get(twin)) !== text(node)) await store.set(twin, node.data, value - 1);
      for (;;) {
        value++;
        this.attempted.set(path, value);
        const data = bytes(String(value).padEnd((value % 7) * 150));
        if (value === 0) {
          await store.multi([path, twin].map((each) => ({ type: 'create', path: each, data })));
        } else if (value % 2 === 0) {
          await store.multi([path, twin].map((each) => ({ type: 'set', path: each, data, version: value - 1 })));
        } else {
          // Not one transaction: only their order is known.
          await Promise.all([store.set(path, data, value - 1), store.set(twin, data, value - 1)]);
        }
        this.acknowledged.set(path, value);
        this.writes++;
      }
    } catch (error) {
      return error as Error;
    }
  }

  /** All that was acknowledged is there, and nothing that was never sent. */
  async check(t: ExecutionContext, store: ZookeeperStore): Promise<void> {
    for (const [path, attempted] of this.attempted) {
      const [node, twin] = [await store.get(path), await store.get(`${path}-twin`)];
      const [value, twins] = [node, twin].map((one) => (one === undefined ? -1 : Number(text(one))));
      const acknowledged = this.acknowledged.get(path) ?? -1;
      if (value < acknowledged || value > attempted)
        t.fail(`${path} is ${value}, between ${acknowledged} and ${attempted}`);
      if (value !== twins && !(value % 2 === 1 && twins === value - 1))
        t.fail(`${path} is ${value}, its twin ${twins}`);
      if ((node?.stat.version ?? -1) !== value) t.fail(`${path} is ${value} with version ${node?.stat.version}`);
    }
  }
}
