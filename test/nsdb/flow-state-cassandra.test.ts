import { randomUUID } from 'node:crypto';
import test, { registerCompletionHandler } from 'ava';
import { cassandraMissing } from '#setup/cassandra.mjs';
import { CassandraArchive } from '../../src/nsdb/flow-state/cassandra-archive.js';
import { archiveCompliance, CALL_MS } from '../compliance/flow-state-archive.js';
import { until } from '../compliance/store.js';
import { Cassandra } from './cassandra.js';

// cassandra-driver 4.10 now and then leaves timers behind when a client is shut down that has seen its server restart.
registerCompletionHandler(() => process.exit());

const missing = cassandraMissing();
if (missing !== undefined) {
  test.skip(`flow state in Apache Cassandra: not tested, ${missing}`, () => {});
} else {
  archiveCompliance(test, async () => {
    const server = await Cassandra.start();
    const open = () =>
      new CassandraArchive({
        contactPoints: [server.address],
        localDataCenter: 'datacenter1',
        keyspace: 'midonet_test',
        replication: 1,
        consistency: 'localQuorum',
        operationTimeout: CALL_MS,
      });
    // The first call connects and makes the table, which takes a busy machine long.
    const first = open();
    await until(
      'it is used',
      () =>
        first.remove(randomUUID()).then(
          () => true,
          () => false,
        ),
      60_000,
    );
    await first.close();
    return { open, stop: () => server.stop(), resume: () => server.resume(), close: () => server.close() };
  });
}
