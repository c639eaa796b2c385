import { Registry } from 'prom-client';
import type { ZookeeperStore } from '../nsdb/zookeeper/client.js';
import { registerClientMetrics } from '../nsdb/zookeeper/client-metrics.js';
import { registerCounters, registerGauges } from '../prometheus.js';
import type { ApiServer } from './server.js';

export interface Counted {
  readonly server: ApiServer;
  readonly store: Pick<ZookeeperStore, 'metrics' | 'latencies' | 'state'>;
}

/** What a server of the API counts, read when it is asked for. */
export function clusterMetrics({ server, store }: Counted): Registry {
  const registry = new Registry();
  registerClientMetrics(registry, store);
  registerCounters(registry, [
    [
      'midonet_api_connections_refused_total',
      'Connections closed because there were too many',
      () => server.refusedConnections,
    ],
  ]);
  registerGauges(registry, [
    ['midonet_api_connections', 'Open connections to the API', () => server.connections],
    ['midonet_nsdb_connected', '1 with a session with the NSDB', () => (store.state === 'connected' ? 1 : 0)],
  ]);
  return registry;
}
