import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import { clusterMetrics } from '../api/cluster-metrics.js';
import { ApiServer } from '../api/server.js';
import { HttpEndpoint } from '../http-endpoint.js';
import { TopologyRepository } from '../nsdb/repository/topology-repository.js';
import { ZookeeperStore } from '../nsdb/zookeeper/client.js';
import { type Config, parseListen } from './config.js';
import { namingAddress } from './listen-address.js';
import { nsdbConnection } from './nsdb-connection.js';
import { Closers, type Service } from './service.js';

const RETRY_MS = 1000;

/** Run the REST API. It keeps nothing of its own: any number of them may run side by side. */
export async function runCluster(config: Config, log: Logger, signal: AbortSignal): Promise<Service> {
  const closers = new Closers(log);
  try {
    const { api } = config;
    const store = new ZookeeperStore({
      ...nsdbConnection(config.nsdb),
      onNotice: (level, message, fields) => log[level](fields, `NSDB client: ${message}`),
    });
    closers.add(() => store.close());
    const repository = new TopologyRepository(store);
    const ending = new AbortController();
    const initialized = initialize(repository, log, ending.signal);
    closers.add(async () => {
      ending.abort();
      await initialized;
    });
    const server = await ApiServer.listen({
      listen: parseListen('config.api.listen', api.listen),
      repository,
      log,
    }).catch(namingAddress('config.api.listen', api.listen));
    closers.add(() => server.close());
    const http = await HttpEndpoint.listen({
      ...api.http,
      registry: clusterMetrics({ server, store }),
      fault: async () => (store.state === 'connected' ? undefined : `NSDB ${store.state}`),
    }).catch(namingAddress('config.api.http', `${api.http.host}:${api.http.port}`));
    closers.add(() => http.close());
    signal.throwIfAborted();
    log.info({ listen: api.listen, http: http.port }, 'serving the REST API');
    return { failed: new Promise<never>(() => {}), close: () => closers.close() };
  } catch (error) {
    await closers.close();
    throw error;
  }
}

/** Makes the top folders of an NSDB that has none, as soon as there is one: until then requests are answered with 503. */
async function initialize(repository: TopologyRepository, log: Logger, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      return await repository.initialize(signal);
    } catch (error) {
      if (signal.aborted) return;
      log.warn({ error: error instanceof Error ? error.message : error }, 'the NSDB cannot be used yet');
    }
    await delay(RETRY_MS, undefined, { signal }).catch(() => undefined);
  }
}
