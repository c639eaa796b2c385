import { Counter, Registry } from 'prom-client';
import type { ZookeeperStore } from '../nsdb/zookeeper/client.js';
import { registerClientMetrics } from '../nsdb/zookeeper/client-metrics.js';
import { registerCounters, registerGauges, registerLatencies } from '../prometheus.js';
import type { ApiServer } from './server.js';

export interface Counted {
  readonly server: ApiServer;
  readonly isAuditFailing: () => boolean;
  readonly store: Pick<ZookeeperStore, 'metrics' | 'latencies' | 'state'>;
}

/** What a server of the API counts, read when it is asked for. */
export function clusterMetrics({ server, store, isAuditFailing }: Counted): Registry {
  const registry = new Registry();
  registerClientMetrics(registry, store);
  registerCounters(registry, [
    [
      'midonet_api_connections_refused_total',
      'Connections closed because there were too many',
      () => server.refusedConnections,
    ],
    [
      'midonet_api_watch_events_total',
      'Objects told to watch streams, as there or as gone',
      () => server.streams.events,
    ],
    [
      'midonet_api_watch_streams_stalled_total',
      'Watch streams closed because their clients took nothing',
      () => server.streams.stalled,
    ],
  ]);
  registerLatencies(
    registry,
    'midonet_api_request_duration_seconds',
    'Time from a request to the end of its answer, without streams',
    server.requests.latencies,
  );
  new Counter({
    name: 'midonet_api_requests_total',
    help: 'Requests by method and status; status 0: the client went away',
    labelNames: ['method', 'status'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [method, counts] of server.requests.byStatus) {
        for (const [status, count] of counts) this.inc({ method, status }, count);
      }
    },
  });
  registerGauges(registry, [
    ['midonet_api_requests_under_way', 'Requests whose answer has not ended', () => server.requests.underWay],
    [
      'midonet_api_audit_failing',
      '1 while changes are refused as they cannot be recorded',
      () => (isAuditFailing() ? 1 : 0),
    ],
    ['midonet_api_watch_streams', 'Open watch streams', () => server.streams.open],
    ['midonet_api_connections', 'Open connections to the API', () => server.connections],
    ['midonet_nsdb_connected', '1 with a session with the NSDB', () => (store.state === 'connected' ? 1 : 0)],
  ]);
  return registry;
}
