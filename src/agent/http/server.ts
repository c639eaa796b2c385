import { Counter, Gauge, Registry } from 'prom-client';
import { HttpEndpoint } from '../../http-endpoint.js';
import type { PoolUsage } from '../../ipam/pool-allocator.js';
import type { ZookeeperStore } from '../../nsdb/zookeeper/client.js';
import { registerClientMetrics } from '../../nsdb/zookeeper/client-metrics.js';
import { type Reading, registerCounters, registerGauges } from '../../prometheus.js';
import type { Agent } from '../agent.js';
import { agentFault, agentPages } from './pages.js';

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
  readonly registry: Registry;
}

export interface AgentMetricsOptions {
  readonly agent: Agent;
  /** The address pools of this host. */
  readonly pools: () => readonly PoolUsage[];
  /** Of the CNI program. */
  readonly cni: () => CallCounts;
  /** The client of the NSDB. */
  readonly store: Pick<ZookeeperStore, 'metrics' | 'latencies'>;
}

/**
 * The agent's metrics and health, see {@link HttpEndpoint}. It is ready while this host forwards, has a session with the NSDB
 * and shares its identity with no other machine. Without a session it forwards and attaches all the same.
 */
export function listenHttp(options: HttpOptions): Promise<HttpEndpoint> {
  const { host, port, agent, registry } = options;
  return HttpEndpoint.listen({
    host,
    port,
    registry,
    pages: agentPages(agent),
    fault: (signal) => agentFault(agent, signal),
  });
}

/** The agent's metrics, read when they are asked for. */
export function agentMetrics({ agent, pools, cni, store }: AgentMetricsOptions): Registry {
  const registry = new Registry();
  const { metrics } = agent;
  const flowState = agent.flowState.counters;
  const registers = [registry];
  const counters: Reading[] = [
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
    ['midonet_router_messages_total', 'ICMP messages that routers sent from here', () => metrics.replies],
    ['midonet_router_messages_left_out_total', 'ICMP messages over the limit', () => metrics.unanswered],
    [
      'midonet_macs_not_learned_total',
      'Sightings of MAC addresses behind ports that have too many',
      () => agent.learner.refused,
    ],
    [
      'midonet_neighbors_not_learned_total',
      'Neighbours not heard, or given up for others, as a port of a router has too many',
      () => agent.neighbors.refused,
    ],
    ['midonet_traces_left_out_total', 'Packets that rules wanted traced too often', () => metrics.tracesLeftOut],
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
    [
      'midonet_chain_circles_total',
      'Jumps that were not followed as they lead back to a chain that led to them',
      () => metrics.chainCircles,
    ],
    [
      'midonet_router_advertisements_total',
      'Router advertisements sent to machines that did not ask',
      () => metrics.routerAdvertisements,
    ],
    [
      'midonet_member_status_changes_total',
      'Status changes of pool members that this host found',
      () => agent.healthChecks.statusChanges,
    ],
    [
      'midonet_flow_state_sent_total',
      'Connections of stateful port groups that other hosts were told of',
      () => flowState.sent,
    ],
    ['midonet_flow_state_received_total', 'The same that others have told', () => flowState.received],
    ['midonet_flow_state_resent_total', 'Messages about them sent once more', () => flowState.resent],
    ['midonet_flow_state_overflowed_total', 'Changes of them that could not wait any more', () => flowState.overflowed],
    ['midonet_flow_state_sessions_total', 'Times that a host was told of all', () => flowState.sessions],
    ['midonet_flow_state_installed_total', 'Connections of other hosts made known here', () => flowState.installed],
    [
      'midonet_flow_state_replaced_total',
      'Of those, in place of what an answer had begun that came first',
      () => flowState.replaced,
    ],
    ['midonet_flow_state_refused_total', 'Of those, refused by the datapath', () => flowState.refused],
    ['midonet_flow_state_gaps_total', 'Times that connections came faster than they were read', () => flowState.gaps],
    [
      'midonet_flow_state_rejected_total',
      'Messages that made no sense, or of hosts without a port in a common group',
      () => flowState.rejected,
    ],
    ['midonet_datapath_errors_total', 'Operations that the datapath refused', () => metrics.operationErrors],
    ['midonet_cni_calls_total', 'Calls of the CNI program', () => cni().calls],
    ['midonet_cni_calls_failed_total', 'Calls of the CNI program answered with an error', () => cni().failed],
  ];
  registerCounters(registry, counters);
  registerClientMetrics(registry, store);
  const { meters, ...features } = agent.features;
  new Gauge({
    name: 'midonet_datapath_feature',
    help: 'Whether the kernel can do this for connections',
    labelNames: ['feature'],
    registers,
    collect() {
      for (const [feature, there] of Object.entries(features)) this.set({ feature }, there ? 1 : 0);
    },
  });
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
    name: 'midonet_configuration_requests_total',
    help: 'Requests of machines for their configuration, by what came of them',
    labelNames: ['request', 'result'],
    registers,
    collect() {
      this.reset();
      for (const [request, counts] of metrics.configurationRequests) {
        for (const [result, count] of counts) this.inc({ request, result }, count);
      }
    },
  });
  new Counter({
    name: 'midonet_health_checks_total',
    help: 'Questions to pool members whether they work, by what came of them',
    labelNames: ['result'],
    registers,
    collect() {
      this.reset();
      for (const [result, count] of agent.healthChecks.results) this.inc({ result }, count);
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
  const gauges: Reading[] = [
    ['midonet_datapath_meters', 'How many meters the kernel can have', () => meters],
    ['midonet_meters', 'Meters that limit the rate of ports of this host', () => agent.cache.meters.size],
    ['midonet_flows', 'Flows in the kernel', () => agent.forwarder.flows.size],
    ['midonet_flow_masks', 'Different masks of these flows', () => agent.forwarder.flows.masks],
    ['midonet_ports', 'Ports of this host whose interface is attached', () => agent.bindings.activePorts],
    ['midonet_neighbors_learned', 'Neighbours of routers that were heard here', () => agent.neighbors.learnedCount],
    [
      'midonet_recirculations',
      'States in which packets come back from connection tracking',
      () => agent.forwarder.recirculations.size,
    ],
    ['midonet_flow_state_hosts', 'Other hosts with which connections are shared', () => agent.flowState.peerCount],
    ['midonet_flow_state_waiting', 'Connections to be told to other hosts', () => agent.flowState.unsent],
    ['midonet_nat_blocks', 'Blocks of source ports that this host has leased', () => agent.natLeases.size],
    ['midonet_conntrack_zones', 'Conntrack zones of this host that are taken or not empty yet', () => agent.zones.size],
    ['midonet_health_balancers', 'Load balancers whose members this host checks', () => agent.healthChecks.balancers],
    ['midonet_health_members', 'Pool members that this host checks', () => agent.healthChecks.members],
    ['midonet_captures', 'Captures whose packets come to this host, each direction', () => agent.captures.size],
    ['midonet_packets_waiting', 'Packets that wait for data from the NSDB', () => agent.forwarder.waitingPackets],
    ['midonet_facts_watched', 'Facts watched in the NSDB', () => agent.cache.size],
    [
      'midonet_nsdb_connected',
      '1 with a session with the NSDB',
      () => (agent.repository.store.state === 'connected' ? 1 : 0),
    ],
    ['midonet_nsdb_backlog', 'Writes that have not reached the NSDB yet', () => agent.publisher.backlog],
  ];
  registerGauges(registry, gauges);
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
