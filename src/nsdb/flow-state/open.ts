import type { FlowStateArchive } from './archive.js';
import type { CassandraArchiveOptions } from './cassandra-archive.js';
import { type NsdbArchiveOptions, NsdbFlowStateArchive } from './nsdb-archive.js';

/** Where flow state is archived. */
export type FlowStateArchiveSettings =
  | { readonly archive: 'nsdb' }
  | { readonly archive: 'cassandra'; readonly cassandra: CassandraArchiveOptions };

/** The archive that is configured. Cassandra's driver is loaded only for Cassandra; its servers need not be there yet. */
export async function openFlowStateArchive(
  settings: FlowStateArchiveSettings,
  nsdb: NsdbArchiveOptions,
): Promise<FlowStateArchive> {
  if (settings.archive === 'nsdb') return new NsdbFlowStateArchive(nsdb);
  const { CassandraArchive } = await import('./cassandra-archive.js');
  return new CassandraArchive(settings.cassandra);
}
