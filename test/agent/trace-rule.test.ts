import { randomUUID } from 'node:crypto';
import test from 'ava';
import { formatIpv4 } from '../../src/packet/address.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { positionsAfter } from '../../src/topology/position.js';
import { Cluster } from './cluster.js';
import { until } from './until.js';

test('the way of packets that a rule wants traced is logged, of as many as it says', async (t) => {
  const cluster = await Cluster.start({ hosts: 1 });
  t.teardown(() => cluster.close());
  const bridgeId = await cluster.createBridge();
  const [a, b, c, d] = await cluster.populate(bridgeId, 4);
  const { repository } = cluster;
  const request = { id: randomUUID(), portId: a.id, createdAt: 0 };
  const { id: traceRequestId } = await repository.create('trace-request', request);
  const chainId = (await repository.create('chain', { id: randomUUID(), name: 'traced' })).id;
  const [first, second] = positionsAfter(undefined, 2);
  const ids = [randomUUID(), randomUUID()];
  const trace = { type: 'trace', traceRequestId, limit: 1, condition: { protocol: IpProtocol.UDP } } as const;
  const drop = { type: 'drop', condition: { destination: `${formatIpv4(b.ip)}/32` } } as const;
  await repository.create('rule', { id: ids[0], chainId, position: first, ...trace });
  await repository.create('rule', { id: ids[1], chainId, position: second, ...drop });
  await repository.modify('port', a.id, (port) => ({ ...port, inboundFilterId: chainId }));

  await until('the chain counts', async () => {
    const text = cluster.sendTo(a, b);
    await cluster.quiet();
    return b.count(text) === 0;
  });
  await cluster.connects(a, c);
  await cluster.connects(a, d);
  const traces = cluster.hosts[0].notes.filter((line) => line.includes('traced a packet'));
  t.is(traces.length, 1);
  const traced = JSON.parse(traces[0]) as { traceRequestId: string; packet: string; steps: string };
  t.is(traced.traceRequestId, traceRequestId);
  t.regex(traced.packet, /^udp 10\.1\.0\.1:/);
  const beginning = `in at port ${a.id} of a bridge\n  chain ${chainId}\n    rule ${ids[0]} where udp: trace\n`;
  t.true(traced.steps.startsWith(beginning), traced.steps);
});
