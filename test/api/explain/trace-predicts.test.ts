import { randomUUID } from 'node:crypto';
import { formatPacket, parsePacket } from '../../../src/flow/packet-text.js';
import { formatIpv4 } from '../../../src/packet/address.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import type { Cluster, Pod } from '../../agent/cluster.js';
import { clusterTest } from '../../agent/cluster-test.js';
import { until } from '../../agent/until.js';
import { Dice } from '../../dice.js';
import { packetFrame } from '../../packet-frame.js';
import { ExplainingApi } from './explaining-api.js';

const PACKETS = 120;
const VIP = '10.9.9.9';
const BLACK = '10.66.0.1';

/** Two bridges behind a router, two pods on each host in each; filters on the way in and out, with state, and translation. */
async function network(c: Cluster): Promise<Pod[]> {
  const { repository } = c;
  const routerId = (await repository.create('router', { id: randomUUID(), name: 'edge' })).id;
  const pods: Pod[] = [];
  for (const number of [1, 2]) {
    const bridgeId = (await repository.create('bridge', { id: randomUUID(), name: `net-${number}` })).id;
    const atRouter = await repository.create('port', {
      id: randomUUID(),
      routerId,
      subnets: [`10.${number}.0.254/16`],
    });
    await repository.create('port', { id: randomUUID(), bridgeId, peerId: atRouter.id });
    const route = { id: randomUUID(), routerId, destination: `10.${number}.0.0/16`, nextHopPortId: atRouter.id };
    await repository.create('route', { ...route, type: 'normal' });
    const own = { id: randomUUID(), routerId, destination: `10.${number}.0.254/32`, nextHopPortId: atRouter.id };
    await repository.create('route', { ...own, type: 'local' });
    for (const host of c.hosts) {
      for (let i = 0; i < 2; i++) {
        const pod = c.pod(bridgeId);
        pods.push(Object.assign(pod, { ip: 0x0a00_0000 + number * 0x1_0000 + pods.length + 1 }));
        await host.attach(pod);
      }
    }
  }
  await repository.create('route', { id: randomUUID(), routerId, type: 'blackhole', destination: '10.66.0.0/16' });
  const member = formatIpv4(pods[5].ip);
  const target = { start: member, end: member, ports: { start: 8080, end: 8080 } };
  const inbound = await c.createChain([
    { type: 'drop', condition: { protocol: IpProtocol.TCP, destinationPorts: { start: 22, end: 22 } } },
    { type: 'dnat', action: 'accept', targets: [target], condition: { protocol: 6, destination: `${VIP}/32` } },
    { type: 'accept' },
  ]);
  const outbound = await c.createChain([
    { type: 'accept', condition: { matchReturnFlow: true } },
    { type: 'accept', condition: { protocol: IpProtocol.UDP, destinationPorts: { start: 53, end: 60 } } },
    { type: 'reject' },
  ]);
  await c.published();
  for (const pod of [pods[0], pods[1], pods[2]]) {
    await repository.modify('port', pod.id, (port) => ({ ...port, inboundFilterId: inbound }));
  }
  for (const pod of [pods[3], pods[6]]) {
    await repository.modify('port', pod.id, (port) => ({ ...port, outboundFilterId: outbound }));
  }
  return pods;
}

clusterTest('what a trace says of random packets is what becomes of them', { hosts: 2 }, async (t, c) => {
  const pods = await network(c);
  const api = await ExplainingApi.serve(c);
  const dice = new Dice(Number(process.env.MIDONET_SEED ?? 1));
  const verdicts = new Map<string, number>();
  try {
    await until('the agents know the filters', async () => {
      const ask = (from: Pod, to: Pod) =>
        api.trace({ portId: from.id, packet: `tcp ${formatIpv4(from.ip)}:1 > ${formatIpv4(to.ip)}:22` });
      const inbound = await Promise.all([0, 1, 2].map((i) => ask(pods[i], pods[7])));
      const outbound = await Promise.all([ask(pods[7], pods[3]), ask(pods[4], pods[6]), ask(pods[5], pods[3])]);
      return [...inbound, ...outbound].every(({ outcome }) => outcome.verdict === 'dropped');
    });
    for (let i = 0; i < PACKETS; i++) {
      const from = dice.pick(pods)!;
      const to = dice.chance(70)
        ? formatIpv4(dice.pick(pods.filter((pod) => pod !== from))!.ip)
        : dice.pick([VIP, BLACK, '10.77.0.1', '10.1.0.254', '10.2.0.254'])!;
      const protocol = dice.pick(['tcp', 'udp', 'icmp'])!;
      const source = formatIpv4(from.ip);
      const ends =
        protocol === 'icmp' ? `${source} > ${to}` : `${source}:${2000 + i} > ${to}:${dice.pick([22, 53, 80])}`;
      const ttl = dice.chance(10) ? 1 : 64;
      const answer = await api.trace({ portId: from.id, packet: `${protocol} ${ends} ttl ${ttl}` });
      t.is(formatPacket(parsePacket(answer.packet)), answer.packet);
      const { verdict, portIds, text } = answer.outcome;
      verdicts.set(verdict, (verdicts.get(verdict) ?? 0) + 1);
      const mark = randomUUID();
      from.send(packetFrame(answer.packet, mark));
      const arrived = () => pods.filter((pod) => pod !== from && pod.count(mark) > 0).map(({ id }) => id);
      if (verdict === 'delivered') await until(`${answer.packet} arrives: ${text}`, () => arrived().length > 0);
      await c.quiet();
      t.deepEqual(arrived(), [...portIds], `${answer.packet}: ${text}`);
      t.is(verdict === 'delivered', portIds.length > 0, text);
      for (const pod of pods) pod.device?.clear();
    }
    for (const verdict of ['delivered', 'dropped', 'answered']) t.true((verdicts.get(verdict) ?? 0) > 3, verdict);
    t.false(verdicts.has('undecided'));
  } finally {
    await api.close();
  }
});
