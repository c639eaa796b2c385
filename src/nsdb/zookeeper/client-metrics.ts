import type { Registry } from 'prom-client';
import { registerCounters, registerGauges, registerLatencies } from '../../prometheus.js';
import type { ZookeeperStore } from './client.js';

/** What the client of the NSDB counts. */
export function registerClientMetrics(registry: Registry, store: Pick<ZookeeperStore, 'metrics' | 'latencies'>): void {
  const of = (field: keyof ZookeeperStore['metrics']) => (): number => store.metrics[field];
  registerLatencies(
    registry,
    'midonet_nsdb_client_request_duration_seconds',
    'Time from a call to its answer, with the wait for a connection',
    store.latencies,
  );
  registerCounters(registry, [
    ['midonet_nsdb_client_requests_total', 'Calls, those that failed included', of('requests')],
    ['midonet_nsdb_client_connects_total', 'Connections made to the NSDB', of('connects')],
    ['midonet_nsdb_client_connects_failed_total', 'Attempts to connect that failed', of('failedConnects')],
    ['midonet_nsdb_client_disconnects_total', 'Connections that were lost', of('disconnects')],
    ['midonet_nsdb_client_sessions_lost_total', 'Sessions that were lost, with their nodes', of('sessionsLost')],
    ['midonet_nsdb_client_watch_events_total', 'Changes that were heard of', of('watchEvents')],
    ['midonet_nsdb_client_watch_reads_total', 'Readings made because of them', of('watchReads')],
  ]);
  registerGauges(registry, [
    ['midonet_nsdb_client_watches', 'Nodes and trees watched', of('tracked')],
    ['midonet_nsdb_client_pending', 'Calls that wait for an answer or a connection', of('pending')],
  ]);
}
