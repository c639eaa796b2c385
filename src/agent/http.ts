import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Counter, Gauge, Registry } from 'prom-client';
import type { PoolUsage } from '../ipam/pool-allocator.js';
import type { Agent } from './agent.js';

const FAULT_TIMEOUT_MS = 2000;

/** What front ends have counted since the start. */
export interface CallCounts {
  readonly calls: number;
  readonly failed: number;
  /** Connections that were closed without an answer, by reason. */
  readonly dropped: Readonly<Record<string, number>>;
}

export interface HttpOptions {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly agent: Agent;
  /** The address pools of this host. */
  readonly pools: () => readonly PoolUsage[];
  /** Of the CNI program. */
  readonly cni: () => CallCounts;
}

/**
 * Metrics for Prometheus at /metrics, and health: /healthz answers while the process works, /readyz while this host also
 * forwards, has a session with the NSDB and shares its identity with no other machine. Without a session it forwards and attaches all the same.
 */
export class HttpEndpoint {
  private constructor(private readonly server: Server) {}

  static async listen(options: HttpOptions): Promise<HttpEndpoint> {
    const { host, port, agent } = options;
    const registry = metricsOf(options);
    const server = createServer((request, response) => {
      const send = (status: number, type: string, body: string) => {
        response.writeHead(status, { 'content-type': type });
        response.end(request.method === 'HEAD' ? undefined : body);
      };
      if (request.method !== 'GET' && request.method !== 'HEAD') return send(405, 'text/plain', 'only GET\n');
      switch (request.url?.split('?', 1)[0]) {
        case '/healthz':
          return send(200, 'text/plain', 'ok\n');
        case '/readyz':
          agent.fault(AbortSignal.timeout(FAULT_TIMEOUT_MS)).then(
            (fault) => {
              const { state } = agent.repository.store;
              const reason = fault ?? (state === 'connected' ? undefined : `NSDB ${state}`);
              send(reason === undefined ? 200 : 503, 'text/plain', `${reason ?? 'ok'}\n`);
            },
            (error: Error) => send(503, 'text/plain', `the datapath does not answer: ${error.message}\n`),
          );
          return;
        case '/metrics':
          registry.metrics().then(
            (text) => send(200, registry.contentType, text),
            (error: Error) => send(500, 'text/plain', `${error.message}\n`),
          );
          return;
        default:
          return send(404, 'text/plain', 'try /metrics, /healthz or /readyz\n');
      }
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, host, resolve);
    });
    return new HttpEndpoint(server);
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    this.server.closeAllConnections();
    return closed;
  }
}

/** The agent's metrics, read when they are asked for. */
function metricsOf({ agent, pools, cni }: HttpOptions): Registry {
  const registry = new Registry();
  const { metrics } = agent;
  const registers = [registry];
  const counters: [name: string, help: string, value: () => number][] = [
    ['midonet_upcalls_total', 'Packets that no kernel flow matched', () => metrics.upcalls],
    ['midonet_upcalls_lost_total', 'Upcalls lost because they were not read in time', () => metrics.upcallsLost],
    [
      'midonet_upcalls_duplicate_total',
      'Upcalls for which a flow was there by the time they were read',
      () => metrics.duplicates,
    ],
    ['midonet_simulations_total', 'Simulations of packets and flows', () => metrics.simulations],
    ['midonet_packets_parked_total', 'Packets that waited for data from the NSDB', () => metrics.parked],
    ['midonet_packets_answered_total', 'ARP requests and neighbour solicitations answered here', () => metrics.answers],
    ['midonet_flows_installed_total', 'Flows put in the kernel', () => metrics.installed],
    ['midonet_flows_revisited_total', 'Flows simulated again after a change', () => metrics.revisits],
    ['midonet_flows_replaced_total', 'Flows whose actions were replaced in place', () => metrics.replaced],
    ['midonet_flows_expired_total', 'Flows removed for being idle', () => metrics.expired],
    ['midonet_flows_evicted_total', 'Flows removed because the table was full', () => metrics.evictions],
    ['midonet_flows_foreign_total', 'Flows of others found in the datapath', () => metrics.foreignFlows],
    [
      'midonet_flood_copies_cut_total',
      'Copies of flooded packets that did not fit in one flow',
      () => metrics.cutCopies,
    ],
    ['midonet_datapath_errors_total', 'Operations that the datapath refused', () => metrics.operationErrors],
    ['midonet_cni_calls_total', 'Calls of the CNI program', () => cni().calls],
    ['midonet_cni_calls_failed_total', 'Calls of the CNI program answered with an error', () => cni().failed],
  ];
  for (const [name, help, value] of counters) {
    new Counter({
      name,
      help,
      registers,
      collect() {
        this.reset();
        this.inc(value());
      },
    });
  }
  new Counter({
    name: 'midonet_drops_total',
    help: 'Packets dropped in the agent, and decisions to drop, by reason',
    labelNames: ['reason'],
    registers,
    collect() {
      this.reset();
      for (const [reason, count] of metrics.drops) this.inc({ reason }, count);
    },
  });
  new Counter({
    name: 'midonet_cni_connections_dropped_total',
    help: 'Connections to the CNI socket closed without an answer, by reason',
    labelNames: ['reason'],
    registers,
    collect() {
      this.reset();
      for (const [reason, count] of Object.entries(cni().dropped)) this.inc({ reason }, count);
    },
  });
  const gauges: [name: string, help: string, value: () => number][] = [
    ['midonet_flows', 'Flows in the kernel', () => agent.forwarder.flows.size],
    ['midonet_flow_masks', 'Different masks of these flows', () => agent.forwarder.flows.masks],
    ['midonet_ports', 'Ports of this host whose interface is attached', () => agent.bindings.activePorts],
    ['midonet_packets_waiting', 'Packets that wait for data from the NSDB', () => agent.forwarder.waitingPackets],
    ['midonet_facts_watched', 'Facts watched in the NSDB', () => agent.cache.size],
    [
      'midonet_nsdb_connected',
      '1 with a session with the NSDB',
      () => (agent.repository.store.state === 'connected' ? 1 : 0),
    ],
    ['midonet_nsdb_backlog', 'Writes that have not reached the NSDB yet', () => agent.publisher.backlog],
  ];
  for (const [name, help, value] of gauges) {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(value());
      },
    });
  }
  const ofPools: [name: string, help: string, value: (pool: PoolUsage) => number][] = [
    ['midonet_pool_blocks', 'Address blocks that belong to this host', ({ blocks }) => blocks],
    ['midonet_pool_addresses_used', 'Addresses in use on this host', ({ used }) => used],
    ['midonet_pool_addresses_free', "Addresses left in this host's blocks", ({ free }) => free],
  ];
  for (const [name, help, value] of ofPools) {
    new Gauge({
      name,
      help,
      labelNames: ['cidr', 'pool'],
      registers,
      collect() {
        this.reset();
        for (const pool of pools()) this.set({ cidr: pool.cidr, pool: pool.poolId }, value(pool));
      },
    });
  }
  return registry;
}
