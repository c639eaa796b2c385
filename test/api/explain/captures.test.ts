import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import express from 'express';
import { pino } from 'pino';
import { startAgentControl } from '../../../src/agent/control/agent-control.js';
import { ApiClient, type ApiError } from '../../../src/api/client/client.js';
import { AgentLink } from '../../../src/api/explain/agent-link.js';
import { type FlowsAnswer, flowRoutes } from '../../../src/api/explain/flow-routes.js';
import { AuditFile } from '../../../src/api/requests/audit-log.js';
import type { ApiContext } from '../../../src/api/requests/context.js';
import { LOCAL_ADMIN } from '../../../src/api/tenancy/caller.js';
import { Scope } from '../../../src/api/tenancy/tenancy.js';
import { formatIpv4 } from '../../../src/packet/address.js';
import { type CaptureItem, PcapngReader } from '../../../src/packet/pcap.js';
import type { Cluster } from '../../agent/cluster.js';
import { clusterTest } from '../../agent/cluster-test.js';
import { until } from '../../agent/until.js';
import { itemsOf, TestApi, tenantAdmin, tokenOf } from '../api-test.js';

const log = pino({ level: 'silent' });

/** The API, and agents that it can ask. */
async function serve(c: Cluster, more: Partial<ApiContext> = {}) {
  const controls = c.hosts.map((host) => startAgentControl({ agent: host.agent, host: '127.0.0.1', port: 0, log }));
  const api = await TestApi.start(c.repository.store, more);
  const client = new ApiClient({ server: api.address });
  const close = async () => {
    client.close();
    await api.close();
    await Promise.all(controls.map((one) => one.close()));
  };
  return { api, client, close };
}

clusterTest('a capture is no reason for a warning, whatever else waits for its end', { hosts: 1 }, async (t, c) => {
  const warnings: Error[] = [];
  const warn = (warning: Error) => warnings.push(warning);
  process.on('warning', warn);
  const folder = await mkdtemp(join(tmpdir(), 'midonet-audit-'));
  const audit = new AuditFile(join(folder, 'audit.jsonl'));
  const { client, close } = await serve(c, { audit, requestsPerSecond: 500, closing: new AbortController().signal });
  try {
    const [a] = await c.populate(await c.createBridge(), 1);
    const options = { query: { seconds: 1 } };
    await until('a capture has come to its end', async () => {
      const stream = await client.stream('POST', `/v1/ports/${a.id}/captures`, options).catch(() => undefined);
      if (stream === undefined) return false;
      await once(stream.resume(), 'end');
      return true;
    });
    t.deepEqual(warnings, []);
  } finally {
    process.off('warning', warn);
    await close();
    audit.close();
    await rm(folder, { recursive: true });
  }
});

clusterTest(
  'flows of a port are shown for every host, with names, and those of one host',
  { hosts: 2 },
  async (t, c) => {
    const { api, client, close } = await serve(c);
    try {
      const [a, b] = await c.populate(await c.createBridge(), 1);
      await c.repository.modify('port', a.id, (port) => ({ ...port, name: 'web' }));
      await c.connects(a, b);
      let answer: FlowsAnswer | undefined;
      await until('both agents can be asked', async () => {
        answer = (await client.request('GET', '/v1/flows', { query: { portId: a.id } })).body as FlowsAnswer;
        return answer.hosts.every(({ error }) => error === undefined);
      });
      const { hosts, names, hostsLeft } = answer!;
      t.deepEqual(hosts.map(({ name }) => name).sort(), ['host-1', 'host-2']);
      t.is(hostsLeft, 0);
      t.true(hosts.some(({ flows }) => flows.some(({ from, to }) => from === a.id && to.includes('tunnel'))));
      t.like(names, { [a.id]: 'blue/web', [b.id]: `${b.interfaceName} on host-2` });
      for (const { to } of hosts.flatMap(({ flows }) => flows))
        for (const id of to) t.true(id === 'tunnel' || id in names);
      const one = (await client.request('GET', '/v1/flows', { query: { hostId: c.hosts[1].id, limit: 1 } })).body;
      t.like(one, { hosts: [{ name: 'host-2', more: true }] });

      const refused = async (query: string, fault: object) => t.like((await api.admin.send('GET', query)).body, fault);
      await refused(`/v1/flows?portId=${a.id}&hostId=${c.hosts[0].id}`, { status: 400, field: 'portId' });
      await refused(`/v1/flows?portId=${a.id}&limit=0`, { status: 400, field: 'limit' });
      await refused(`/v1/flows?portId=${a.id}&colour=red`, { status: 400, field: 'colour' });
      await refused(`/v1/flows?portId=${c.hosts[0].id}`, { status: 404 });
      const tenant = api.as(tenantAdmin('blue'));
      t.is((await tenant.send('GET', `/v1/flows?hostId=${c.hosts[0].id}`)).status, 403);
      t.is((await tenant.send('GET', `/v1/connections?portId=${a.id}`)).status, 404);
      t.is((await tenant.send('GET', `/v1/ports/${a.id}/captures`)).status, 404);
      t.is((await tenant.send('POST', `/v1/ports/${a.id}/captures`)).status, 404);
    } finally {
      await close();
    }
  },
);

clusterTest('no more hosts are asked when flows enough for an answer are found', { hosts: 2 }, async (t, c) => {
  const { client, close } = await serve(c);
  const { signal } = new AbortController();
  const app = express();
  app.use((_request, response, next) => {
    Object.assign(response.locals, { signal, scope: new Scope(c.repository, LOCAL_ADMIN, signal) });
    next();
  });
  app.use('/v1', flowRoutes({ repository: c.repository, log }, 1));
  const server = app.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const few = new ApiClient({ server: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
  try {
    const [a, b] = await c.populate(await c.createBridge(), 1);
    await c.connects(a, b);
    const flows = async (from: ApiClient) => (await from.request('GET', '/v1/flows')).body as FlowsAnswer;
    await until('both agents tell flows', async () =>
      (await flows(client)).hosts.every(({ flows, error }) => error === undefined && flows.length > 0),
    );
    t.is((await flows(client)).hostsLeft, 0);
    const { hosts, hostsLeft } = await flows(few);
    t.deepEqual([hosts.length, hostsLeft], [1, 1]);
  } finally {
    few.close();
    server.close();
    await close();
  }
});

clusterTest('connections of a port are shown where rules ask for them', { hosts: 1 }, async (t, c) => {
  const { client, close } = await serve(c);
  try {
    const [a, b] = await c.populate(await c.createBridge(), 2);
    const ask = async () =>
      (await client.request('GET', '/v1/connections', { query: { portId: a.id } })).body as { connections: string[] };
    const chainId = await c.createChain([{ type: 'accept', condition: { matchForwardFlow: true } }]);
    await c.repository.modify('port', a.id, (port) => ({ ...port, inboundFilterId: chainId }));
    await until('a connection is tracked', async () => {
      await c.connects(a, b);
      return (await ask().catch(() => undefined))?.connections.length === 1;
    });
    t.regex((await ask()).connections[0], new RegExp(`^udp ${formatIpv4(a.ip)}:1000 > ${formatIpv4(b.ip)}:2000, `));
  } finally {
    await close();
  }
});

clusterTest(
  'a capture streams packets until the client has enough, and is listed meanwhile',
  { hosts: 2 },
  async (t, c) => {
    const { client, close } = await serve(c);
    try {
      const [a, b] = await c.populate(await c.createBridge(), 1);
      await c.connects(a, b);
      const path = `/v1/ports/${a.id}/captures`;
      const listed = async () => ((await client.request('GET', path)).body as { items: object[] }).items;
      const open = (query: Record<string, string | number>) => client.stream('POST', path, { query });
      await until('the agent can be asked', () =>
        open({ seconds: 1 }).then(
          (stream) => !stream.destroy().readable,
          () => false,
        ),
      );
      await until('nothing is left', async () => (await listed()).length === 0);

      const stream = await open({ direction: 'in', count: 2 });
      t.is(stream.headers['content-type'], 'application/x-pcapng');
      t.like(await listed(), [{ directions: ['in'], hostId: c.hosts[0].id }]);
      const reader = new PcapngReader();
      const items: CaptureItem[] = [];
      stream.on('data', (piece: Buffer) => items.push(...reader.read(piece)));
      const ended = once(stream, 'end');
      await until('two packets are captured', async () => {
        c.sendTo(a, b);
        await c.quiet();
        return stream.readableEnded;
      });
      await ended;
      t.is(items.filter((item) => 'bytes' in item).length, 2);
      await until('nothing is left', async () => (await listed()).length === 0);

      for (const [query, field] of [
        [{ count: 0 }, 'count'],
        [{ filter: 'tcp' }, 'filter'],
        [{ format: 'text' }, 'format'],
        [{ speed: 1 }, 'speed'],
      ] as const) {
        const error = await t.throwsAsync<ApiError>(open(query as unknown as Record<string, string>));
        t.like(error, { status: 400, field });
      }
    } finally {
      await close();
    }
  },
);

clusterTest('tenants are told nothing of the host that is asked for them', { hosts: 1 }, async (t, c) => {
  const bridgeId = await c.createBridge();
  await c.repository.modify('bridge', bridgeId, (bridge) => ({ ...bridge, tenantId: 'blue' }));
  const [a] = await c.populate(bridgeId, 1);
  const api = await TestApi.start(c.repository.store);
  const tenant = api.as(tenantAdmin('blue'));
  const [host] = c.hosts;
  const nothing = async () => {
    for (const [method, path] of [
      ['POST', `/v1/ports/${a.id}/captures`],
      ['GET', `/v1/connections?portId=${a.id}`],
    ]) {
      t.like((await api.admin.send(method, path)).body, { code: 'MN_AGENT_UNAVAILABLE' });
      const { status, body } = await tenant.send(method, path);
      t.is(status, 503);
      t.like(body, { code: 'MN_AGENT_UNAVAILABLE', detail: 'no agent can be asked now' });
    }
  };
  try {
    // It does not listen; then it does not answer where it says.
    await nothing();
    host.agent.setControl({ host: '127.0.0.1', port: 1, key: '00'.repeat(32) });
    const link = new AgentLink(c.repository.store);
    await until('the NSDB knows where the agent should be asked', () =>
      link.agentOf(host.id).then(
        () => true,
        () => false,
      ),
    );
    await nothing();
    const control = startAgentControl({ agent: host.agent, host: '127.0.0.1', port: 0, log });
    const client = new ApiClient({ server: api.address, token: tokenOf(tenantAdmin('blue')) });
    try {
      const path = `/v1/ports/${a.id}/captures`;
      await until('the agent can be asked', () =>
        client.stream('POST', path, { query: { direction: 'in' } }).then(
          () => true,
          () => false,
        ),
      );
      const [item] = itemsOf(await tenant.get(path));
      t.deepEqual(Object.keys(item).sort(), ['directions', 'id', 'since']);
      t.is(itemsOf(await api.admin.get(path))[0].hostId, host.id);
      for (let more = 0; more < 3; more++) await client.stream('POST', path, { query: { direction: 'in' } });
      t.like(await t.throwsAsync<ApiError>(client.stream('POST', path)), { status: 429 });
    } finally {
      client.close();
      await control.close();
    }
  } finally {
    await api.close();
  }
});
