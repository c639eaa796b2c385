import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pino } from 'pino';
import { startAgentControl } from '../../../src/agent/control/agent-control.js';
import type { RecentWarnings } from '../../../src/agent/control/recent-warnings.js';
import { createApp } from '../../../src/api/app.js';
import { ApiClient } from '../../../src/api/client/client.js';
import { AgentLink, AgentUnavailableError } from '../../../src/api/explain/agent-link.js';
import type { TraceAnswer } from '../../../src/api/explain/trace-routes.js';
import type { Caller } from '../../../src/api/tenancy/caller.js';
import type { Cluster, TestHost } from '../../agent/cluster.js';
import { until } from '../../agent/until.js';

const log = pino({ level: 'silent' });

/** The REST API of a cluster in memory, with agents that it can ask. */
export class ExplainingApi {
  /** Who asks; an admin when undefined. */
  caller: Caller | undefined;

  private constructor(
    /** As clients name it. */
    readonly server: string,
    readonly client: ApiClient,
    private readonly http: Server,
    private readonly controls: readonly { close(): Promise<void> }[],
  ) {}

  /**
   * @param hosts whose agents can be asked
   * @param warnings what they tell of their logs
   */
  static async serve(
    c: Cluster,
    hosts: readonly TestHost[] = c.hosts,
    warnings?: RecentWarnings,
  ): Promise<ExplainingApi> {
    const controls = hosts.map((host) =>
      startAgentControl({ agent: host.agent, host: '127.0.0.1', port: 0, warnings, log }),
    );
    const authenticate = async (): Promise<Caller> =>
      api.caller ?? { name: 'test', role: 'admin', tenantId: undefined };
    const server = createServer(createApp({ repository: c.repository, log, authenticate }));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const name = `http://127.0.0.1:${port}`;
    const api = new ExplainingApi(name, new ApiClient({ server: name }), server, controls);
    const link = new AgentLink(c.repository.store);
    for (const { id, name } of hosts) {
      await until(`the agent of ${name} can be asked`, () => link.agentOf(id).then(() => true, unlessUnavailable));
    }
    return api;
  }

  async trace(body: object): Promise<TraceAnswer> {
    return (await this.client.request('POST', '/v1/trace', { body })).body as TraceAnswer;
  }

  async close(): Promise<void> {
    this.client.close();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
    await Promise.all(this.controls.map((one) => one.close()));
  }
}

function unlessUnavailable(error: unknown): false {
  if (!(error instanceof AgentUnavailableError)) throw error;
  return false;
}
