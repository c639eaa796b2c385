import { Registry } from 'prom-client';
import { HttpEndpoint } from '../../http-endpoint.js';
import type { EmbeddedServer } from './server.js';
import { registerServerMetrics } from './server-metrics.js';

/** The server's metrics and health: it is ready while it takes changes. A server that cannot serve ends. */
export function listenHttp(
  server: EmbeddedServer,
  address: { readonly host: string; readonly port: number },
): Promise<HttpEndpoint> {
  const registry = new Registry();
  registerServerMetrics(registry, server);
  return HttpEndpoint.listen({
    ...address,
    registry,
    fault: async () => {
      const { frozen, diskFull } = server.metrics;
      if (frozen === 1) return 'frozen: the data are moved elsewhere';
      return diskFull === 1 ? 'the disk is full: changes are refused' : undefined;
    },
  });
}
