import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { EmbeddedServer } from '../../../src/nsdb/embedded/server.js';
import { storeCompliance } from '../../compliance/store.js';

storeCompliance(test, async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  const server = await EmbeddedServer.start({
    listen: { host: '127.0.0.1', port: 0 },
    dataDir,
    minSessionTimeout: 200,
    maxSessionTimeout: 60_000,
    // Small, so that snapshots are made while the tests run.
    snapshotAfter: 256 * 1024,
  });
  return {
    address: server.address,
    close: async () => {
      await server.close();
      await rm(dataDir, { recursive: true });
    },
  };
});
