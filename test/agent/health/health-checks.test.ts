import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { formatIpv4, formatMac } from '../../../src/packet/address.js';
import { buildEthernet, ETHERNET_HEADER, EtherType } from '../../../src/packet/ethernet.js';
import { buildIcmpError, IcmpType, UnreachableCode } from '../../../src/packet/icmp.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { buildIpv4, newIpv4Header, parseIpv4Header } from '../../../src/packet/ipv4.js';
import { parseSctpHeader, SctpChunk } from '../../../src/packet/sctp.js';
import { buildTcp, newTcpHeader, parseTcpHeader, TcpFlag } from '../../../src/packet/tcp.js';
import type { PoolMember } from '../../../src/topology/types.js';
import { Cluster, type Pod } from '../cluster.js';
import { until } from '../until.js';

const VIP = 0x0a63_0001;
const MEMBER_PORT = 8080;
const GATEWAY_MAC = 0x0a00_0000_0001;
const MONITOR = { delay: 2, timeout: 1, maxRetries: 2 };

type Behaviour = 'accepts' | 'refuses' | 'silent';

type Protocol = 'tcp' | 'udp' | 'sctp';

interface Options {
  readonly hosts?: number;
  readonly device?: 'bridge' | 'router';
  /** There is a pool for each. */
  readonly protocols?: readonly Protocol[];
}

/** Clusters take their time on a busy machine. */
const PATIENCE_MS = 30_000;

/** A pod on each host: all are members of pools with a health monitor. */
async function setUp(t: ExecutionContext, { hosts = 2, device = 'bridge', protocols = ['tcp'] }: Options = {}) {
  t.timeout(4 * PATIENCE_MS);
  const cluster = await Cluster.start({ hosts });
  t.teardown(() => cluster.close());
  const { repository } = cluster;
  const bridgeId = await cluster.createBridge();
  const { id: loadBalancerId } = await repository.create('load-balancer', { id: randomUUID() });
  const ofRouter = device === 'router' ? { loadBalancerId } : {};
  const { id: routerId } = await repository.create('router', { id: randomUUID(), name: 'edge', ...ofRouter });
  const subnets = ['10.1.255.254/16'];
  const mac = formatMac(GATEWAY_MAC);
  const { id: peerId } = await repository.create('port', { id: randomUUID(), routerId, mac, subnets });
  await repository.create('port', { id: randomUUID(), bridgeId, peerId });
  const route = { type: 'normal', destination: '10.1.0.0/16', nextHopPortId: peerId } as const;
  await repository.create('route', { id: randomUUID(), routerId, ...route });
  if (device === 'bridge') {
    await repository.modify('bridge', bridgeId, (bridge) => ({ ...bridge, loadBalancerId }));
  }

  const monitor = await repository.create('health-monitor', { id: randomUUID(), ...MONITOR });
  const pods = await cluster.populate(bridgeId, 1);
  const pools: string[] = [];
  /** By pod. */
  const members: string[][] = pods.map(() => []);
  for (const protocol of protocols) {
    const poolId = randomUUID();
    pools.push(poolId);
    await repository.create('pool', { id: poolId, loadBalancerId, protocol, healthMonitorId: monitor.id });
    await repository.create('vip', { id: randomUUID(), poolId, address: formatIpv4(VIP), protocolPort: 80 });
    for (const [i, { ip }] of pods.entries()) {
      const input = { id: randomUUID(), poolId, address: formatIpv4(ip), protocolPort: MEMBER_PORT };
      members[i].push((await repository.create('pool-member', input)).id);
    }
  }
  const behaviours = new Map(pods.map((pod) => [pod, 'accepts' as Behaviour]));
  const asked = new Map(pods.map((pod) => [pod, 0]));
  const step = async (milliseconds = 1000) => {
    await cluster.advance(milliseconds);
    await cluster.quiet();
    for (const [pod, behaviour] of behaviours) {
      const questions = pod.device?.received() ?? [];
      pod.device?.clear();
      for (const question of questions) {
        const answer = answerTo(pod, question, behaviour);
        if (answer === undefined) continue;
        asked.set(pod, asked.get(pod)! + 1);
        if (answer !== 'none') pod.send(answer);
      }
    }
    await cluster.quiet();
  };
  /** Of all members that a pod is. */
  const status = async (i: number) => {
    const found = await Promise.all(members[i].map((id) => repository.get('pool-member', id)));
    return [...new Set(found.map((member) => member?.object.status))].join();
  };
  const comes = (what: string, check: () => boolean | Promise<boolean>) => {
    const stepped = async () => {
      await step();
      return check();
    };
    return until(what, stepped, PATIENCE_MS);
  };
  const becomes = (i: number, expected: PoolMember['status']) =>
    comes(`member ${i} is ${expected}`, async () => (await status(i)) === expected);
  const checkers = () => cluster.hosts.filter((host) => host.isRunning && host.agent.healthChecks.members > 0);
  return {
    cluster,
    repository,
    pods,
    members,
    pools,
    monitor,
    behaviours,
    asked,
    step,
    status,
    comes,
    becomes,
    checkers,
  };
}

/** What a machine says to a question of a health check; undefined to something else. */
function answerTo(pod: Pod, frame: Uint8Array, behaviour: Behaviour): Uint8Array | 'none' | undefined {
  const ip = newIpv4Header();
  const isIpv4 = ((frame[12] << 8) | frame[13]) === EtherType.IPV4;
  if (!isIpv4 || !parseIpv4Header(frame, ETHERNET_HEADER, ip) || ip.src !== VIP || ip.dst !== pod.ip) return undefined;
  const packet = payloadTo(frame, ip, behaviour);
  if (packet === undefined || packet === 'none') return packet;
  const isError = packet.protocol === IpProtocol.ICMP;
  const back = isError ? packet.bytes : buildIpv4({ src: pod.ip, dst: VIP, protocol: packet.protocol }, packet.bytes);
  return buildEthernet({ src: pod.mac, dst: GATEWAY_MAC, type: EtherType.IPV4 }, back);
}

type Payload = { readonly protocol: number; readonly bytes: Uint8Array };

function payloadTo(
  frame: Uint8Array,
  { protocol, payload, end, dst }: ReturnType<typeof newIpv4Header>,
  behaviour: Behaviour,
): Payload | 'none' | undefined {
  if (protocol === IpProtocol.TCP) {
    const tcp = newTcpHeader();
    if (!parseTcpHeader(frame, payload, end, tcp) || tcp.flags !== TcpFlag.SYN) return undefined;
    const flags = TcpFlag.ACK | (behaviour === 'accepts' ? TcpFlag.SYN : TcpFlag.RST);
    const spec = { srcPort: tcp.dstPort, dstPort: tcp.srcPort, seq: 7, ack: (tcp.seq + 1) >>> 0, flags };
    return behaviour === 'silent' ? 'none' : { protocol, bytes: buildTcp(spec) };
  }
  if (protocol === IpProtocol.SCTP) {
    const sctp = parseSctpHeader(frame, payload, end);
    if (sctp?.chunk !== SctpChunk.INIT) return undefined;
    if (behaviour === 'silent') return 'none';
    const chunk = behaviour === 'accepts' ? SctpChunk.INIT_ACK : SctpChunk.ABORT;
    const bytes = Uint8Array.from(frame.subarray(payload, end));
    bytes.copyWithin(0, 2, 4);
    bytes.set(frame.subarray(payload, payload + 2), 2);
    bytes.copyWithin(4, 16, 20);
    bytes[12] = chunk;
    return { protocol, bytes };
  }
  if (protocol !== IpProtocol.UDP) return undefined;
  if (behaviour !== 'refuses') return 'none';
  const error = buildIcmpError(IcmpType.UNREACHABLE, UnreachableCode.PORT, dst, frame, ETHERNET_HEADER)!;
  return { protocol: IpProtocol.ICMP, bytes: error };
}

for (const device of ['bridge', 'router'] as const) {
  test.serial(`one host checks the members of a ${device}'s VIP on all hosts, and tells which work`, async (t) => {
    const protocols = ['tcp', 'udp', 'sctp'] as const;
    const { pods, asked, behaviours, comes, becomes, checkers, status } = await setUp(t, { device, protocols });
    await comes('all were asked three times', () => [...asked.values()].every((count) => count >= 9));
    t.is(checkers().length, 1);
    for (const i of [0, 1]) t.is(await status(i), 'active');
    for (const i of [0, 1]) {
      behaviours.set(pods[i], 'refuses');
      await becomes(i, 'inactive');
      t.is(await status(1 - i), 'active');
      behaviours.set(pods[i], 'accepts');
      await becomes(i, 'active');
    }
    t.is(checkers()[0].agent.healthChecks.statusChanges, 4 * protocols.length);
  });
}

test.serial('when the agent that checks dies another one does', async (t) => {
  const { cluster, pods, behaviours, comes, becomes, checkers } = await setUp(t);
  await comes('somebody checks', () => checkers().length === 1);
  const [first] = checkers();
  await first.crash();
  await comes('somebody else checks', () => checkers().length === 1 && checkers()[0] !== first);
  // The kernel of the dead agent's host goes on forwarding, so its member is still to be reached.
  const survivor = cluster.hosts.findIndex((host) => host !== first);
  behaviours.set(pods[survivor], 'refuses');
  await becomes(survivor, 'inactive');
  await first.start();
  behaviours.set(pods[survivor], 'accepts');
  await becomes(survivor, 'active');
  t.not(checkers()[0], first);
});

test.serial('silence counts as often as the monitor says, and the status is written when it changes', async (t) => {
  const { repository, pods, members, asked, behaviours, comes, becomes, monitor, step } = await setUp(t, { hosts: 1 });
  await repository.modify('health-monitor', monitor.id, (found) => ({ ...found, maxRetries: 3 }));
  await comes('the member was asked', () => asked.get(pods[0])! >= 1);
  const version = async () => (await repository.get('pool-member', members[0][0]))!.version;
  const before = await version();
  asked.set(pods[0], 0);
  behaviours.set(pods[0], 'silent');
  await becomes(0, 'inactive');
  t.true(asked.get(pods[0])! >= 3);
  for (let i = 0; i < 6; i++) await step();
  t.is(await version(), before + 1);
  asked.set(pods[0], 0);
  behaviours.set(pods[0], 'accepts');
  await becomes(0, 'active');
  t.true(asked.get(pods[0])! >= 2);
  t.is(await version(), before + 2);
});

test.serial('an answer that came while the agent was held up is no silence', async (t) => {
  const { cluster, repository, pods, monitor, behaviours, asked, step, status, comes } = await setUp(t, { hosts: 1 });
  const [pod] = pods;
  await repository.modify('health-monitor', monitor.id, (found) => ({ ...found, timeout: 3, maxRetries: 1 }));
  const { results } = cluster.hosts[0].agent.healthChecks;
  await comes('it has answered', () => (results.get('accepted') ?? 0) > 0);
  asked.set(pod, 0);
  // Answers are given below, so late that the agent finds them together with its next tick.
  behaviours.delete(pod);
  await until(
    'it was asked three times',
    async () => {
      await step();
      const questions = pod.device?.received() ?? [];
      pod.device?.clear();
      for (const question of questions) {
        const answer = answerTo(pod, question, 'accepts');
        if (answer === undefined || answer === 'none') continue;
        asked.set(pod, asked.get(pod)! + 1);
        pod.send(answer);
        await cluster.advance(4000);
      }
      return asked.get(pod)! >= 3;
    },
    PATIENCE_MS,
  );
  t.is(results.get('silent'), undefined);
  t.true(results.get('accepted')! >= 4);
  t.is(await status(0), 'active');
});

test.serial('an agent that cannot write its tunnel key to the disk lives on, and checks when it can', async (t) => {
  const { cluster, comes, step, repository, pools, monitor } = await setUp(t, { hosts: 1 });
  const [host] = cluster.hosts;
  await comes('the members are checked', () => host.agent.healthChecks.members > 0);
  await repository.modify('pool', pools[0], ({ healthMonitorId, ...rest }) => rest);
  await comes('nothing is checked', () => host.agent.healthChecks.balancers === 0);
  const { tunnelTargets } = host.agent;
  const take = tunnelTargets.healthKey.bind(tunnelTargets);
  let refused = 0;
  tunnelTargets.healthKey = () => {
    refused++;
    throw new Error('ENOSPC: no space left on device');
  };
  await repository.modify('pool', pools[0], (found) => ({ ...found, healthMonitorId: monitor.id }));
  await comes('the key was asked for twice', () => refused >= 2);
  for (let i = 0; i < 3; i++) await step();
  t.is(host.agent.healthChecks.balancers, 0);
  tunnelTargets.healthKey = take;
  await comes('the members are checked again', () => host.agent.healthChecks.members > 0);
});

test.serial(
  'monitors, members and pools are changed, switched off and taken away while members are asked',
  async (t) => {
    const { cluster, repository, pods, members, pools, monitor, asked, behaviours, becomes, step } = await setUp(t, {
      hosts: 1,
    });
    const [pod] = pods;
    const [[memberId], [poolId]] = [members[0], pools];
    const isAsked = async () => {
      asked.set(pod, 0);
      for (let i = 0; i < 6; i++) await step();
      return asked.get(pod)! > 0;
    };
    const isNotAsked = async () => !(await isAsked());
    const switchMember = (adminStateUp: boolean) =>
      repository.modify('pool-member', memberId, (found) => ({ ...found, adminStateUp }));
    behaviours.set(pod, 'silent');
    await becomes(0, 'inactive');

    await repository.modify('health-monitor', monitor.id, (found) => ({ ...found, adminStateUp: false }));
    await becomes(0, 'active');
    t.false(await isAsked());
    await repository.modify('health-monitor', monitor.id, (found) => ({ ...found, adminStateUp: true }));
    await becomes(0, 'inactive');

    await switchMember(false);
    await until('a member that is switched off is not asked', isNotAsked, PATIENCE_MS);
    await switchMember(true);
    await until('it is asked again', isAsked, PATIENCE_MS);

    await repository.modify('health-monitor', monitor.id, (found) => ({ ...found, delay: 3600 }));
    await until('it is asked rarely', isNotAsked, PATIENCE_MS);
    await repository.modify('health-monitor', monitor.id, (found) => ({ ...found, delay: 1 }));
    await until('it is asked often', isAsked, PATIENCE_MS);

    await repository.modify('pool', poolId, ({ healthMonitorId, ...rest }) => rest);
    await becomes(0, 'active');
    t.false(await isAsked());
    t.is(cluster.hosts[0].agent.healthChecks.balancers, 0);
    await repository.modify('pool', poolId, (found) => ({ ...found, healthMonitorId: monitor.id }));
    await becomes(0, 'inactive');

    await repository.delete('pool-member', memberId);
    await until('a member that is gone is not asked', isNotAsked, PATIENCE_MS);
    t.is(cluster.hosts[0].agent.healthChecks.members, 0);
  },
);
