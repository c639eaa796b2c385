import { randomUUID } from 'node:crypto';
import { MemoryNetwork } from '../../../src/datapath/memory/network.js';
import { EmbeddedServer } from '../../../src/nsdb/embedded/server.js';
import { makeSnapshot } from '../../../src/nsdb/embedded/storage.js';
import { joinPath } from '../../../src/nsdb/path.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { ZookeeperStore } from '../../../src/nsdb/zookeeper/client.js';
import { PowerLossDisk } from '../../nsdb/embedded/power-loss-disk.js';
import type { Ignores } from './datapath.js';
import { VirtualProcess } from './events.js';
import { VirtualHost } from './host.js';
import { World } from './world.js';

const UNDERLAY = 0xc0a8_6400;
/** From the shortest that a server gives, to one that outlasts many faults. */
const SESSION_TIMEOUTS_MS = [4000, 8000, 20_000];
/** Bytes of log after which the server makes a snapshot. */
const SNAPSHOT_AFTER = 100_000;

/** A cluster in a world of its own: agents on `memory` datapaths that an underlay joins, the embedded NSDB, a client of it. */
export class VirtualCluster {
  readonly world: World;
  readonly network: MemoryNetwork;
  readonly hosts: VirtualHost[] = [];
  /** Who makes and changes topology. */
  private readonly client = new VirtualProcess('client');
  repository!: TopologyRepository;
  private disk: PowerLossDisk;
  private server: VirtualProcess | undefined;
  private servers = 0;

  /** @param ignores see {@link Ignores} */
  constructor(
    seed: number,
    private readonly ignores: Ignores,
  ) {
    this.world = new World(seed);
    const { events } = this.world;
    this.disk = new PowerLossDisk(events.dice);
    this.network = new MemoryNetwork({ now: () => events.now, automatic: true });
  }

  async start(hosts: number): Promise<void> {
    const { world } = this;
    this.startNsdb();
    await world.call('the NSDB is filled', this.client, async () => {
      this.repository = new TopologyRepository(new ZookeeperStore({ connect: '10.0.0.1:2181' }));
      await this.repository.initialize();
      const sessionTimeout = world.events.dice.pick(SESSION_TIMEOUTS_MS)!;
      for (let i = 1; i <= hosts; i++) {
        this.hosts.push(
          new VirtualHost(world, this.network, `host-${i}`, randomUUID(), UNDERLAY + i, sessionTimeout, this.ignores),
        );
      }
    });
    for (const host of this.hosts) host.start();
    await this.settled();
  }

  /** Runs until all agents run, know their ports, and have told the NSDB of them. */
  settled(): Promise<void> {
    return this.world.until('all agents know their ports, and the NSDB, too', () =>
      this.hosts.every((host) => host.isUp && host.agent.bindings.isComplete && host.agent.publisher.backlog === 0),
    );
  }

  /** Has the client do something, and runs until that is done. */
  change<T>(what: string, action: () => Promise<T>): Promise<T> {
    return this.world.call(what, this.client, action);
  }

  /** Has the client begin a change, which may fail. */
  attempt(what: string, action: () => Promise<void>): void {
    this.world.attempt(what, this.client, action);
  }

  get nsdbIsUp(): boolean {
    return this.server !== undefined;
  }

  startNsdb(): void {
    const { disk } = this;
    const server = new VirtualProcess(`nsdb.${++this.servers}`);
    this.server = server;
    this.world.events.schedule(server, 0, () => {
      disk.run();
      EmbeddedServer.start({
        listen: { port: 2181 },
        dataDir: '/nsdb',
        diskReserve: 0,
        snapshotAfter: SNAPSHOT_AFTER,
        disk,
        snapshotMaker: (job, signal) => makeSnapshot(disk, job, signal),
      }).catch((error: Error) => {
        throw error;
      });
    });
  }

  /** The power of its machine fails, or the server is killed. */
  stopNsdb(byPowerLoss: boolean): void {
    this.world.kill(this.server!);
    this.server = undefined;
    this.disk = byPowerLoss ? this.disk.cutPower() : this.disk.kill();
  }

  /** Every path of the NSDB but those of the server itself, sorted. */
  paths(): Promise<string[]> {
    const { store } = this.repository;
    const below = async (path: string): Promise<string[]> => {
      const children = ((await store.children(path)) ?? []).filter((name) => path !== '/' || name !== 'zookeeper');
      const found = await Promise.all(children.map((name) => below(joinPath(path, name))));
      return [path, ...found.flat()];
    };
    return this.change('the NSDB is read', async () => (await below('/')).sort());
  }
}
