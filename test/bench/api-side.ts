import { randomUUID } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connectApi, type MidonetClient } from '../../src/api/client/client.js';
import { freePort } from '../nsdb/apache-zookeeper.js';
import type { NsdbServer } from './nsdb-servers.js';
import { PROGRAM, ServiceProcess } from './service-process.js';

/** What a client may ask for. */
export type ApiOperation =
  | 'get'
  | 'list-100'
  | 'bridge-by-name'
  | 'port-by-name'
  | 'create'
  | 'patch'
  | 'batch-100-rules';

const SERVERS = 2;
/** Of one batch. */
const RULES = 100;
/** Objects that are made together. */
const LOAD_BATCH = 100;
const LOAD_AT_ONCE = 4;

/** An NSDB server with API servers before it, each a process, and a client of each. */
export class ApiSide {
  private readonly servers: ServiceProcess[] = [];
  private readonly bridges: string[] = [];
  private readonly ports: string[] = [];

  private constructor(
    private readonly nsdb: NsdbServer,
    /** Of each API server. */
    readonly clients: readonly MidonetClient[],
  ) {}

  static async start(nsdb: NsdbServer, folder: string): Promise<ApiSide> {
    const clients: MidonetClient[] = [];
    const side = new ApiSide(nsdb, clients);
    try {
      await nsdb.start();
      for (let i = 0; i < SERVERS; i++) await side.startServer(join(folder, `api-${i}`), clients);
      return side;
    } catch (error) {
      await side.close();
      throw error;
    }
  }

  get name(): string {
    return this.nsdb.name;
  }

  async close(): Promise<void> {
    for (const client of this.clients) client.close();
    for (const server of this.servers) await server.stop();
    await this.nsdb.stop();
  }

  kill(): void {
    for (const process of [...this.servers, this.nsdb]) process.kill();
  }

  /** Makes bridges and ports until there are so many. */
  async fill(bridges: number, ports: number): Promise<void> {
    await this.inBatches('bridge', this.bridges, bridges, (number) => ({ name: `bridge-${number}` }));
    await this.inBatches('port', this.ports, ports, (number) => {
      return { name: `port-${number}`, bridgeId: this.bridges[number % this.bridges.length] };
    });
  }

  /** One request to the first server. */
  async request(operation: ApiOperation): Promise<void> {
    const [api] = this.clients;
    switch (operation) {
      case 'get':
        await api.request('GET', `/v1/ports/${any(this.ports)}`);
        break;
      case 'list-100':
        await api.request('GET', '/v1/ports', { query: { limit: 100 } });
        break;
      case 'bridge-by-name':
        await expectOne(api, '/v1/bridges', `bridge-${anyIndex(this.bridges)}`);
        break;
      case 'port-by-name':
        await expectOne(api, '/v1/ports', `port-${anyIndex(this.ports)}`);
        break;
      case 'create':
        await api.request('POST', '/v1/ports', { body: { bridgeId: any(this.bridges), name: 'made' } });
        break;
      case 'patch':
        // A field that no index has. Another's port changes hands by force only.
        await api.request('PATCH', `/v1/ports/${any(this.ports)}`, {
          body: { owner: randomUUID() },
          query: { force: 'true' },
        });
        break;
      case 'batch-100-rules':
        await api.batch(chainWithRules());
        break;
    }
  }

  /** Microseconds of processor time of the first API server so far. */
  async processorTime(): Promise<number> {
    return (await this.servers[0].processorTime()) * 1e6;
  }

  private async startServer(folder: string, clients: MidonetClient[]): Promise<void> {
    await mkdir(folder, { recursive: true });
    const listen = `127.0.0.1:${await freePort()}`;
    const file = join(folder, 'midonet.json');
    const config = {
      stateFolder: folder,
      nsdb: { connect: this.nsdb.connect },
      api: { listen, limits: { requestsPerSecond: 1_000_000 }, http: { port: 0 } },
    };
    await writeFile(file, JSON.stringify(config));
    const client = connectApi({ server: `http://${listen}` });
    const command = [process.execPath, PROGRAM, 'cluster', '--config', file];
    const server = new ServiceProcess(`API before ${this.name}`, command, () => answers(client));
    this.servers.push(server);
    clients.push(client);
    await server.start();
  }

  private async inBatches(
    kind: 'bridge' | 'port',
    ids: string[],
    count: number,
    body: (number: number) => { name: string; bridgeId?: string },
  ): Promise<void> {
    let next = ids.length;
    const worker = async (api: MidonetClient) => {
      while (next < count) {
        const first = next;
        next = Math.min(next + LOAD_BATCH, count);
        const numbers = Array.from({ length: next - first }, (_, i) => first + i);
        const made = await api.batch(numbers.map((number) => ({ op: 'create', kind, body: body(number) })));
        for (const [i, { id }] of made.entries()) ids[first + i] = id;
      }
    };
    await Promise.all(Array.from({ length: LOAD_AT_ONCE }, (_, i) => worker(this.clients[i % SERVERS])));
  }
}

async function answers(api: MidonetClient): Promise<boolean> {
  try {
    await api.request('GET', '/v1/bridges', { query: { limit: 1 } });
    return true;
  } catch {
    // It does not listen yet, or has no NSDB.
    return false;
  }
}

async function expectOne(api: MidonetClient, path: string, name: string): Promise<void> {
  const { body } = await api.request('GET', path, { query: { name } });
  const { items } = body as { items: readonly { name: string }[] };
  if (items.length !== 1 || items[0].name !== name) throw new Error(`${path} has ${items.length} named ${name}`);
}

function chainWithRules(): Parameters<MidonetClient['batch']>[0] {
  const id = randomUUID();
  const rules = Array.from({ length: RULES }, (_, i) => ({
    op: 'create' as const,
    kind: 'rule' as const,
    body: { chainId: id, type: 'drop' as const, condition: { protocol: 6, destinationPorts: { start: i, end: i } } },
  }));
  return [{ op: 'create', kind: 'chain', id, body: { name: 'firewall' } }, ...rules];
}

function any(ids: readonly string[]): string {
  return ids[anyIndex(ids)];
}

function anyIndex(ids: readonly string[]): number {
  return Math.floor(Math.random() * ids.length);
}
