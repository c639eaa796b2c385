import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import test from 'ava';
import express from 'express';
import { pino } from 'pino';
import { Feeds } from '../../../src/api/feeds/feeds.js';
import { LOCAL_ADMIN } from '../../../src/api/tenancy/caller.js';
import { tenantOf } from '../../../src/api/tenancy/tenancy.js';
import { WatchStream } from '../../../src/api/watch/watch-stream.js';
import { TopologyRepository } from '../../../src/nsdb/repository/topology-repository.js';
import { until } from '../../compliance/store.js';
import { EmbeddedNsdb } from '../../nsdb/embedded-nsdb.js';
import { WatchReader } from './watch-reader.js';

const log = pino({ level: 'silent' });
const PORTS = 200;

test("a tenant's stream is not made slower by every object of another tenant", async (t) => {
  const nsdb = await EmbeddedNsdb.start();
  const repository = new TopologyRepository(nsdb.store());
  await repository.initialize();
  const feeds = new Feeds(repository, log);
  let asked = 0;
  const server = express()
    .get('/ports', async (_request, response) => {
      const maySee = async (...[lookup, kind, object]: Parameters<typeof tenantOf>) => {
        asked++;
        return (await tenantOf(lookup, kind, object)) === 'red';
      };
      const selection = { maySee };
      const stream = new WatchStream({ response, feeds, kinds: ['port'], caller: LOCAL_ADMIN, selection, log });
      await stream.catchUp(AbortSignal.timeout(30_000));
      await stream.run(undefined);
    })
    .listen(0, '127.0.0.1');
  await once(server, 'listening');
  const reader = new WatchReader('/ports');
  try {
    const bridges: string[] = [];
    for (const tenantId of ['red', 'blue']) {
      bridges.push((await repository.create('bridge', { id: randomUUID(), name: tenantId, tenantId })).id);
    }
    const [red, blue] = bridges;
    for (let i = 0; i < PORTS; i++) await repository.create('port', { id: randomUUID(), bridgeId: blue });
    const mine = await repository.create('port', { id: randomUUID(), bridgeId: red });
    await reader.start(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    await until('all is told', () => reader.counts.current === 1);
    t.deepEqual(reader.contents, [JSON.stringify(mine)]);
    // Of each bridge whether it is the tenant's, and of each port that is told.
    t.true(asked <= bridges.length + 1, `${asked} times`);
  } finally {
    await reader.stop();
    feeds.close();
    server.closeAllConnections();
    server.close();
    await nsdb.close();
  }
});
