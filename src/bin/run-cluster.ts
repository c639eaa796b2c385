import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import { AccessTokens } from '../api/authentication/access-tokens.js';
import { Authentication } from '../api/authentication/authentication.js';
import { TokenReviewer } from '../api/authentication/token-review.js';
import { clusterMetrics } from '../api/cluster-metrics.js';
import { SOCKET_LIMITS } from '../api/protection/socket-limits.js';
import { AuditFile, type AuditLog } from '../api/requests/audit-log.js';
import { ApiServer } from '../api/server.js';
import { InvalidInputError } from '../errors.js';
import { HttpEndpoint } from '../http-endpoint.js';
import { status } from '../nsdb/operations/status.js';
import { TopologyRepository } from '../nsdb/repository/topology-repository.js';
import { ZookeeperStore } from '../nsdb/zookeeper/client.js';
import { withoutRoot } from '../nsdb/zookeeper/connect-string.js';
import { apiSettings } from './api-settings.js';
import { CertificateWatch } from './certificate-watch.js';
import type { Config } from './config.js';
import { namingAddress } from './listen-address.js';
import { nsdbConnection } from './nsdb-connection.js';
import { Closers, type Service } from './service.js';

const RETRY_MS = 1000;

/** Run the REST API. It keeps nothing of its own: any number of them may run side by side. */
export async function runCluster(config: Config, log: Logger, signal: AbortSignal): Promise<Service> {
  const closers = new Closers(log);
  try {
    const { api } = config;
    const { listen, tls, adminToken, anonymous, isLocalOnly } = apiSettings(api);
    const store = new ZookeeperStore({
      ...nsdbConnection(config.nsdb),
      onNotice: (level, message, fields) => log[level](fields, `NSDB client: ${message}`),
    });
    closers.add(() => store.close());
    const repository = new TopologyRepository(store, (error) =>
      log.warn({ error: error.message }, 'what a change leaves behind is not removed; `midonet nsdb fsck` finds it'),
    );
    const ending = new AbortController();
    const initialized = initialize(repository, log, ending.signal);
    closers.add(async () => {
      ending.abort();
      await initialized;
    });
    const audit = openAudit(api.auditFile, log);
    closers.add(() => audit.close());
    const authentication = new Authentication({
      accessTokens: new AccessTokens(store),
      adminToken,
      roles: api.roles,
      tokenReviewer: await openTokenReviewer(api.kubernetes),
      anonymous,
      failuresPerMinute: api.limits.failuresPerMinute,
    });
    closers.add(() => authentication.close());
    const server = await ApiServer.listen({
      listen,
      tls,
      socketLimits: { ...SOCKET_LIMITS, ...api.limits },
      repository,
      log,
      authenticate: (request, response) => authentication.authenticate(request, response),
      isLocalOnly,
      requestsPerSecond: api.limits.requestsPerSecond,
      audit,
      nsdbStatus: nsdbStatusOf(config.nsdb, store, closers),
      configuration: config,
    }).catch(namingAddress('config.api.listen', api.listen));
    closers.add(() => server.close());
    const certificates = new CertificateWatch(api.tls, tls, server, log);
    closers.add(() => certificates.close());
    const http = await HttpEndpoint.listen({
      ...api.http,
      registry: clusterMetrics({ server, store, isAuditFailing: () => audit.fault !== undefined }),
      fault: async () => {
        if (audit.fault !== undefined) return `changes are refused, as the audit log cannot be written: ${audit.fault}`;
        return store.state === 'connected' ? undefined : `NSDB ${store.state}`;
      },
    }).catch(namingAddress('config.api.http', `${api.http.host}:${api.http.port}`));
    closers.add(() => http.close());
    signal.throwIfAborted();
    const isOpen = anonymous !== undefined;
    log.info({ listen: api.listen, tls: tls !== undefined, http: http.port }, 'serving the REST API');
    if (isOpen) log.warn({ listen: api.listen }, 'whoever reaches the API may change everything: see docs/security.md');
    return { ready: initialized, failed: new Promise<never>(() => {}), close: () => closers.close() };
  } catch (error) {
    await closers.close();
    throw error;
  }
}

/** How the NSDB is. Its servers are asked with a client of its own where the data are below a path of theirs. */
function nsdbStatusOf(nsdb: Config['nsdb'], store: ZookeeperStore, closers: Closers) {
  const connect = withoutRoot(nsdb.connect);
  const server = connect === nsdb.connect ? store : new ZookeeperStore({ ...nsdbConnection(nsdb), connect });
  if (server !== store) closers.add(() => server.close());
  return (signal: AbortSignal) =>
    status({ connect: nsdb.connect, store, server, askServers: nsdb.tls === undefined, signal });
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

function openAudit(path: string | undefined, log: Logger): AuditLog & { close(): void } {
  if (path !== undefined) return new AuditFile(path, 'config.api.auditFile');
  // Whatever else is logged.
  const own = log.child({}, { level: 'info' });
  return {
    check: () => undefined,
    record: (entry) => own.info({ audit: entry }, 'audit'),
    fault: undefined,
    close: () => undefined,
  };
}

/** @throws InvalidInputError */
async function openTokenReviewer(kubernetes: Config['api']['kubernetes']): Promise<TokenReviewer | undefined> {
  if (kubernetes === undefined) return undefined;
  try {
    return await TokenReviewer.open(kubernetes);
  } catch (error) {
    const expected = `expected a kubeconfig file, or to run in a pod (${error instanceof Error ? error.message : error})`;
    throw new InvalidInputError('config.api.kubernetes', kubernetes.kubeconfig, expected);
  }
}
