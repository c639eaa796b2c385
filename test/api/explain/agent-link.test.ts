import { randomUUID } from 'node:crypto';
import { connect } from 'node:tls';
import { pino } from 'pino';
import { startAgentControl } from '../../../src/agent/control/agent-control.js';
import { CONTROL_TLS } from '../../../src/agent/control/protocol.js';
import type { AgentSummary } from '../../../src/agent/control/summary-page.js';
import type { DescribedFlow } from '../../../src/agent/http/flows-page.js';
import { AgentLink, AgentRefusedError, AgentUnavailableError } from '../../../src/api/explain/agent-link.js';
import { formatMac } from '../../../src/packet/address.js';
import type { Cluster, TestHost } from '../../agent/cluster.js';
import { clusterTest } from '../../agent/cluster-test.js';
import { until } from '../../agent/until.js';

const log = pino({ level: 'silent' });

/** Lets the agent of a host be asked, and waits until the NSDB knows where. */
async function control(c: Cluster, host: TestHost) {
  const server = startAgentControl({ agent: host.agent, host: '127.0.0.1', port: 0, log });
  const link = new AgentLink(c.repository.store);
  await until('the NSDB knows where the agent can be asked', async () => {
    try {
      await link.agentOf(host.id);
      return true;
    } catch (error) {
      if (error instanceof AgentUnavailableError) return false;
      throw error;
    }
  });
  return { server, link };
}

clusterTest('flows of a port, traces and a summary are asked of the agent of a host', { hosts: 2 }, async (t, c) => {
  const [first, second] = c.hosts;
  const bridgeId = await c.createBridge();
  const [a, b] = await c.populate(bridgeId, 1);
  const { server, link } = await control(c, first);
  try {
    await c.connects(a, b);
    const { flows, more } = (await link.get(first.id, `/flows?port=${a.id}`)) as {
      flows: DescribedFlow[];
      more: boolean;
    };
    t.false(more);
    const sent = flows.find(({ from }) => from === a.id)!;
    t.deepEqual(sent.to, ['tunnel']);
    t.true(sent.tags.includes(`port ${a.id}`), sent.tags.join());
    t.true(sent.tags.includes(`port ${b.id}`), sent.tags.join());
    t.regex(sent.match, /^in_port=/);
    t.regex(sent.actions, /set-tunnel\(key/);
    // A port of another host is known by what is sent there.
    const there = (await link.get(first.id, `/flows?port=${b.id}`)) as { flows: DescribedFlow[] };
    t.true(there.flows.some(({ from }) => from === a.id));
    const one = (await link.get(first.id, '/flows?limit=1')) as { flows: DescribedFlow[]; more: boolean };
    t.is(one.flows.length, 1);
    t.true(one.more);

    const packet = `packet=${encodeURIComponent(`tcp 10.1.0.1:1 > 10.1.0.2:2 from ${formatMac(a.mac)} to ${formatMac(b.mac)}`)}`;
    const trace = (await link.get(first.id, `/trace?port=${a.id}&${packet}&format=json`)) as {
      passes: { steps: object[] }[];
    };
    t.like(trace.passes[0].steps[0], { type: 'in', port: a.id });
    t.regex(String(await link.get(first.id, `/trace?port=${a.id}&${packet}`)), /^in at port/m);

    const summary = (await link.get(first.id, '/summary')) as AgentSummary;
    t.is(summary.hostId, first.id);
    t.deepEqual(summary.ports, [{ id: a.id, interfaceName: a.interfaceName, active: true }]);
    t.is(summary.fault, undefined);

    const refused = await t.throwsAsync(link.get(first.id, '/flows?limit=0'), { instanceOf: AgentRefusedError });
    t.is(refused.code, 'MN_INVALID_INPUT');
    t.is(refused.field, 'limit');
    await t.throwsAsync(link.get(first.id, '/nowhere'), { code: 'MN_NOT_FOUND' });
    const unavailable = await t.throwsAsync(link.get(second.id, '/summary'), { instanceOf: AgentUnavailableError });
    t.regex(unavailable.message, /config\.control/);
    await t.throwsAsync(link.get(randomUUID(), '/summary'), { code: 'MN_AGENT_UNAVAILABLE', message: /no agent runs/ });
  } finally {
    await server.close();
  }
  await t.throwsAsync(link.get(first.id, '/summary'), { code: 'MN_AGENT_UNAVAILABLE', message: /does not answer at/ });
});

clusterTest('whoever does not have the key of the NSDB is not let in', { hosts: 1 }, async (t, c) => {
  const [host] = c.hosts;
  const { server, link } = await control(c, host);
  try {
    const address = await link.agentOf(host.id);
    const outcome = (key: Buffer, identity: string) =>
      new Promise<string>((resolve) => {
        const socket = connect({
          ...CONTROL_TLS,
          host: address.host,
          port: address.port,
          pskCallback: () => ({ psk: key, identity }),
          checkServerIdentity: () => undefined,
        });
        socket.once('secureConnect', () => {
          resolve('let in');
          socket.destroy();
        });
        socket.once('error', () => resolve('refused'));
      });
    const key = Buffer.from(address.key, 'hex');
    t.is(await outcome(key, 'midonet-api'), 'let in');
    t.is(await outcome(key, 'somebody'), 'refused');
    t.is(await outcome(Buffer.alloc(32), 'midonet-api'), 'refused');
  } finally {
    await server.close();
  }
});
