import test from 'ava';
import type { Agent } from '../../../src/agent/agent.js';
import { agentMetrics, listenHttp } from '../../../src/agent/http/server.js';
import { LatencyHistogram } from '../../../src/latency-histogram.js';
import type { ZookeeperStoreMetrics } from '../../../src/nsdb/zookeeper/client.js';

test('/readyz says why this host does not forward, /healthz only that the process works', async (t) => {
  let fault: string | Error | undefined;
  const store = { state: 'connected' };
  const agent = {
    repository: { store },
    connections: async () => [],
    features: { conntrack: true, zones: true, nat: true, labels: true, meters: 0 },
    flowState: { counters: {} },
    fault: async () => {
      if (fault instanceof Error) throw fault;
      return fault;
    },
  } as unknown as Agent;
  const counts = { calls: 0, failed: 0, dropped: {} };
  const metrics = { requests: 7 } as unknown as ZookeeperStoreMetrics;
  const latencies = { read: new LatencyHistogram(), write: new LatencyHistogram() };
  const http = await listenHttp({
    host: '127.0.0.1',
    port: 0,
    agent,
    registry: agentMetrics({ agent, pools: () => [], cni: () => counts, store: { metrics, latencies } }),
  });
  t.teardown(() => http.close());
  const ask = async (path: string) => {
    const response = await fetch(`http://127.0.0.1:${http.port}${path}`);
    return [response.status, await response.text()];
  };
  t.deepEqual(await ask('/readyz'), [200, 'ok\n']);
  t.deepEqual(await ask('/connections?limit=5'), [200, 'no connections\n']);
  t.deepEqual(await ask('/connections?limit=0'), [400, 'limit: expected a whole number from 1, got "0"\n']);
  t.deepEqual(await ask('/'), [404, 'try /connections, /flows, /trace, /metrics, /healthz or /readyz\n']);
  fault = 'the datapath is gone';
  t.deepEqual(await ask('/readyz'), [503, 'the datapath is gone\n']);
  t.deepEqual(await ask('/healthz'), [200, 'ok\n']);
  fault = new Error('too late');
  t.deepEqual(await ask('/readyz'), [503, 'the datapath does not answer: too late\n']);
  fault = undefined;
  store.state = 'disconnected';
  t.deepEqual(await ask('/readyz'), [503, 'NSDB disconnected\n']);
});
