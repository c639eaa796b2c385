import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { formatIpv4, formatMac } from '../../src/packet/address.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildUdp } from '../../src/packet/udp.js';
import { keyOf } from '../simulation/world.js';
import { Cluster, type Pod } from './cluster.js';
import { until } from './until.js';

const VIP = 0x0a63_0001;
const PORT = 53;
const MEMBER_PORT = 5353;
const GATEWAY_MAC = 0x0a00_0000_0001;

/** On a busy machine. */
const PATIENCE_MS = 30_000;

interface Received {
  readonly src: number;
  readonly srcPort: number;
  readonly dst: number;
  readonly dstPort: number;
}

/** Pods on one bridge that asks its load balancer, behind a router; of the pods, the last `members` are the pool's. */
async function setUp(t: ExecutionContext, { hosts = 2, perHost = 2, members = 2 } = {}) {
  const cluster = await Cluster.start({ hosts });
  t.teardown(() => cluster.close());
  const { repository } = cluster;
  const bridgeId = await cluster.createBridge();
  const { id: routerId } = await repository.create('router', { id: randomUUID(), name: 'edge' });
  const subnets = ['10.1.255.254/16'];
  const mac = formatMac(GATEWAY_MAC);
  const { id: peerId } = await repository.create('port', { id: randomUUID(), routerId, mac, subnets });
  await repository.create('port', { id: randomUUID(), bridgeId, peerId });
  const route = { type: 'normal', destination: '10.1.0.0/16', nextHopPortId: peerId } as const;
  await repository.create('route', { id: randomUUID(), routerId, ...route });

  const { id: loadBalancerId } = await repository.create('load-balancer', { id: randomUUID() });
  const { id: poolId } = await repository.create('pool', { id: randomUUID(), loadBalancerId, protocol: 'udp' });
  const address = formatIpv4(VIP);
  const vip = await repository.create('vip', { id: randomUUID(), poolId, address, protocolPort: PORT });
  await repository.modify('bridge', bridgeId, (bridge) => ({ ...bridge, loadBalancerId }));

  const pods = await cluster.populate(bridgeId, perHost);
  const memberOf = (pod: Pod) =>
    repository.create('pool-member', {
      id: randomUUID(),
      poolId,
      address: formatIpv4(pod.ip),
      protocolPort: MEMBER_PORT,
    });
  const pool = await Promise.all(pods.slice(-members).map(memberOf));
  return { cluster, repository, pods, pool, vip, poolId, memberOf };
}

const BYTES = new Uint8Array(8);

function ask(from: Pod, srcPort: number): void {
  const packet = buildIpv4({ src: from.ip, dst: VIP, protocol: IpProtocol.UDP }, buildUdp(srcPort, PORT, BYTES));
  from.send(buildEthernet({ dst: GATEWAY_MAC, src: from.mac, type: EtherType.IPV4 }, packet));
}

function reply(from: Pod, to: Pod, { dstPort, srcPort }: Received): void {
  const udp = buildUdp(dstPort, srcPort, BYTES);
  const packet = buildIpv4({ src: from.ip, dst: to.ip, protocol: IpProtocol.UDP }, udp);
  from.send(buildEthernet({ dst: to.mac, src: from.mac, type: EtherType.IPV4 }, packet));
}

/** The UDP packets that came since this was last asked. */
function received(pod: Pod): Received[] {
  const frames = pod.device?.received() ?? [];
  pod.device?.clear();
  return frames
    .map((frame) => keyOf(frame, 0))
    .filter(({ ethType, nwProto }) => ethType === EtherType.IPV4 && nwProto === IpProtocol.UDP)
    .map(({ ipv4Src: src, ipv4Dst: dst, tpSrc: srcPort, tpDst: dstPort }) => ({ src, srcPort, dst, dstPort }));
}

/** Asks, and has the member that was asked answer. Returns which that was; undefined if none was. */
async function converse(cluster: Cluster, client: Pod, pods: readonly Pod[], srcPort: number) {
  for (const pod of pods) received(pod);
  ask(client, srcPort);
  await cluster.quiet();
  for (const pod of pods) {
    const [there] = received(pod);
    if (there === undefined) continue;
    reply(pod, client, there);
    await cluster.quiet();
    return { member: pod, there, back: received(client) };
  }
  return undefined;
}

test('a VIP is served on every host, by members on every host, and answers come from it', async (t) => {
  const { cluster, pods } = await setUp(t);
  for (const client of pods.slice(0, 2)) {
    const others = pods.filter((pod) => pod !== client);
    const members = new Set<Pod>();
    for (let port = 1000; port < 1030; port++) {
      await until('somebody answers', async () => {
        const found = await converse(cluster, client, others, port);
        // What is parked until a host has read what it needs is late.
        if (found === undefined || found.back.length === 0) return false;
        members.add(found.member);
        t.deepEqual(found.there, { src: client.ip, srcPort: port, dst: found.member.ip, dstPort: MEMBER_PORT });
        const expected = { src: VIP, srcPort: PORT, dst: client.ip, dstPort: port };
        for (const back of found.back) t.deepEqual(back, expected);
        return true;
      });
    }
    t.deepEqual(
      [...members].map(({ ip }) => ip).sort(),
      pods.slice(2).map(({ ip }) => ip),
    );
  }
});

test('members come, are switched off and go; a VIP moves and goes', async (t) => {
  const { cluster, repository, pods, pool, vip, memberOf } = await setUp(t, { hosts: 1, perHost: 3, members: 1 });
  const [client, second, first] = pods;
  const others = [second, first];
  let port = 1000;
  const answeredBy = async () => (await converse(cluster, client, others, ++port))?.member;
  await until('the only member answers', async () => (await answeredBy()) === first);
  const kept = port;
  await memberOf(second);
  await until('the new member answers, too', async () => (await answeredBy()) === second);
  await repository.modify('pool-member', pool[0].id, (member) => ({ ...member, adminStateUp: false }));
  await until('the other one takes all', async () => {
    for (let i = 0; i < 20; i++) if ((await answeredBy()) !== second) return false;
    return true;
  });
  t.is((await converse(cluster, client, others, kept))?.member, first, 'a connection keeps its member');
  await repository.modify('vip', vip.id, (found) => ({ ...found, protocolPort: PORT + 1 }));
  await until('the VIP has another port', async () => (await answeredBy()) === undefined);
  await repository.modify('vip', vip.id, (found) => ({ ...found, protocolPort: PORT }));
  await until('it has its port back', async () => (await answeredBy()) === second);
  await repository.delete('vip', vip.id);
  await until('it is gone', async () => (await answeredBy()) === undefined);
});

test('connections of a member that does not work move to another, those of one that is switched off stay', async (t) => {
  t.timeout(4 * PATIENCE_MS);
  const { cluster, repository, pods, pool } = await setUp(t, { hosts: 2, perHost: 2, members: 3 });
  const [client, ...others] = pods;
  const memberAt = (pod: Pod) => pool[others.indexOf(pod)];
  const answeredBy = async (port: number) => (await converse(cluster, client, others, port))?.member;
  const ports = Array.from({ length: 4 }, (_, i) => 1000 + i);
  const before = new Map<number, Pod>();
  for (const port of ports) {
    await until(
      'somebody answers',
      async () => {
        const member = await answeredBy(port);
        if (member !== undefined) before.set(port, member);
        return member !== undefined;
      },
      PATIENCE_MS,
    );
  }
  const [[port, first]] = before;
  let newest = 2000;
  await repository.modify('pool-member', memberAt(first).id, (member) => ({ ...member, adminStateUp: false }));
  await until(
    'new connections go elsewhere',
    async () => {
      for (let i = 0; i < 8; i++) if ((await answeredBy(++newest)) === first) return false;
      return true;
    },
    PATIENCE_MS,
  );
  t.is(await answeredBy(port), first, 'it finishes what it has begun');

  await repository.modify('pool-member', memberAt(first).id, (member) => ({ ...member, status: 'inactive' }));
  await until(
    'its connections have moved',
    async () => {
      const member = await answeredBy(port);
      return member !== undefined && member !== first;
    },
    PATIENCE_MS,
  );
  for (const [other, member] of before) {
    if (member === first) t.not(await answeredBy(other), first);
    else t.is(await answeredBy(other), member, 'the others have kept theirs');
  }
});

test('what the load balancer needed is given up when nothing asks it any more', async (t) => {
  const { cluster, pods } = await setUp(t, { hosts: 1, perHost: 2, members: 1 });
  const [client, member] = pods;
  await until('the member answers', async () => (await converse(cluster, client, [member], 1000)) !== undefined);
  const { cache } = cluster.hosts[0].agent;
  t.is(cache.loadBalancers.size, 2);
  for (const pod of pods) await cluster.hosts[0].detach(pod);
  for (let i = 0; i < 20; i++) await cluster.advance(10_000);
  await until('nothing is left', async () => {
    await cluster.advance(10_000);
    return cache.loadBalancers.size === 0;
  });
});
