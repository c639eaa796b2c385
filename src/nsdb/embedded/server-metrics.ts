import { Gauge, type Registry } from 'prom-client';
import { registerCounters, registerGauges, registerLatencies } from '../../prometheus.js';
import type { DiskUsage } from './disk-usage.js';
import type { EmbeddedServer } from './server.js';

/** What the embedded server counts. */
export function registerServerMetrics(registry: Registry, server: EmbeddedServer): void {
  const of = (field: keyof EmbeddedServer['metrics']) => (): number => server.metrics[field];
  const { requests, fsync, snapshot } = server.latencies;
  registerLatencies(
    registry,
    'midonet_nsdb_server_request_duration_seconds',
    'Time from the arrival of a request until its answer leaves, with the wait for the disk',
    requests,
  );
  registerLatencies(registry, 'midonet_nsdb_server_fsync_duration_seconds', 'Time of an fsync of the log', fsync);
  registerLatencies(registry, 'midonet_nsdb_server_snapshot_duration_seconds', 'Time to make a snapshot', snapshot);
  registerCounters(registry, [
    ['midonet_nsdb_server_connections_accepted_total', 'Connections made to the server', of('connectionsAccepted')],
    ['midonet_nsdb_server_protocol_errors_total', 'Connections closed for what they sent', of('protocolErrors')],
    [
      'midonet_nsdb_server_authentication_failures_total',
      'Clients sent away without the right user and password',
      of('authenticationFailures'),
    ],
    ['midonet_nsdb_server_sessions_expired_total', 'Sessions that ended without a word', of('sessionsExpired')],
    ['midonet_nsdb_server_transactions_total', 'Changes', of('transactions')],
    ['midonet_nsdb_server_watch_events_total', 'Messages about changes to those who watch', of('watchEvents')],
    [
      'midonet_nsdb_server_log_batches_total',
      'Writes to the log, each of which holds one or more changes',
      of('logBatches'),
    ],
    ['midonet_nsdb_server_log_written_bytes_total', 'Bytes written to the log', of('logBytes')],
    ['midonet_nsdb_server_snapshots_total', 'Snapshots made', of('snapshots')],
  ]);
  registerGauges(registry, [
    ['midonet_nsdb_server_connections', 'Connections', of('connections')],
    ['midonet_nsdb_server_sessions', 'Sessions', of('sessions')],
    ['midonet_nsdb_server_watches', 'Watches', of('watches')],
    ['midonet_nsdb_server_nodes', 'Nodes of the tree', of('nodes')],
    ['midonet_nsdb_server_data_bytes', 'Bytes of data in all nodes', of('dataBytes')],
    ['midonet_nsdb_server_zxid', 'Number of the last change', of('zxid')],
    ['midonet_nsdb_server_disk_full', '1 while changes are refused since the disk has too little room', of('diskFull')],
    ['midonet_nsdb_server_frozen', '1 while changes are refused since the data are moved elsewhere', of('frozen')],
  ]);
  const ofFiles: [name: string, help: string, field: keyof DiskUsage][] = [
    ['midonet_nsdb_server_log_bytes', 'Bytes of the log files', 'logBytes'],
    ['midonet_nsdb_server_snapshot_bytes', 'Bytes of the snapshots', 'snapshotBytes'],
    ['midonet_nsdb_server_snapshot_files', 'Snapshots there are', 'snapshots'],
    ['midonet_nsdb_server_free_disk_bytes', 'Bytes left on the disk of the data', 'freeBytes'],
  ];
  for (const [name, help, field] of ofFiles) {
    new Gauge({
      name,
      help,
      registers: [registry],
      async collect() {
        this.set((await server.diskUsage())[field]);
      },
    });
  }
}
