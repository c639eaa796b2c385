import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EmbeddedServer } from '../../src/nsdb/embedded/server.js';
import { joinPath } from '../../src/nsdb/path.js';
import type { Store } from '../../src/nsdb/store.js';
import { ZookeeperStore, type ZookeeperStoreOptions } from '../../src/nsdb/zookeeper/client.js';

/** An embedded NSDB on a Unix socket in a folder of its own, which can be stopped and started again. */
export class EmbeddedNsdb {
  private server: EmbeddedServer | undefined;
  private readonly stores: Store[] = [];

  private constructor(readonly folder: string) {}

  static async start(): Promise<EmbeddedNsdb> {
    const nsdb = new EmbeddedNsdb(await mkdtemp(join(tmpdir(), 'midonet-nsdb-')));
    await nsdb.resume();
    return nsdb;
  }

  /** A client, closed with the server. */
  store(options: Partial<ZookeeperStoreOptions> = {}): ZookeeperStore {
    const store = new ZookeeperStore({
      sessionTimeout: 4000,
      ...options,
      connect: `unix:${join(this.folder, 'socket')}`,
    });
    this.stores.push(store);
    return store;
  }

  /** Stop serving; the data stay on disk. */
  async stop(): Promise<void> {
    await this.server?.close();
    this.server = undefined;
  }

  async resume(): Promise<void> {
    this.server = await EmbeddedServer.start({
      listen: { path: join(this.folder, 'socket') },
      dataDir: join(this.folder, 'data'),
      minSessionTimeout: 100,
      fsync: false,
    });
  }

  async close(): Promise<void> {
    for (const store of this.stores) await store.close();
    await this.stop();
    await rm(this.folder, { recursive: true });
  }
}

/** Every path of the store but those of its server and the folders of the index of names, which stay; sorted. */
export async function allPaths(store: Store, path = '/'): Promise<string[]> {
  const paths: string[] = [];
  for (const name of (await store.children(path)) ?? []) {
    if (path === '/' && name === 'zookeeper') continue;
    const child = joinPath(path, name);
    if (!/^\/names\/[^/]+(\/..)?$/.test(child)) paths.push(child);
    paths.push(...(await allPaths(store, child)));
  }
  return paths.sort();
}
