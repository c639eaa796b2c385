import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { EmbeddedServer } from '../../../src/nsdb/embedded/server.js';
import { storeSecurityCompliance } from '../../compliance/store-security.js';

storeSecurityCompliance(test, async ({ credentials, tls }) => {
  const dataDir = await mkdtemp(join(tmpdir(), 'midonet-nsdb-'));
  const listen = { port: 0 };
  const server = await EmbeddedServer.start({ listen, dataDir, fsync: false, credentials, tls: tls?.server });
  return {
    address: server.address,
    close: async () => {
      await server.close();
      await rm(dataDir, { recursive: true });
    },
  };
});
