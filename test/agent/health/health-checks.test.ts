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

interface Options {
  readonly hosts?: number;
  readonly device?: 'bridge' | 'router';
  readonly protocol?: 'tcp' | 'udp' | 'sctp';
}

/** A pod on each host: all are members of one pool with a health monitor. */
async function setUp(t: ExecutionContext, { hosts = 2, device = 'bridge', protocol = 'tcp' }: Options = {}) {
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
  const pool = { id: randomUUID(), loadBalancerId, protocol, healthMonitorId: monitor.id };
  await repository.create('pool', pool);
  await repository.create('vip', { id: randomUUID(), poolId: pool.id, address: formatIpv4(VIP), protocolPort: 80 });
  const pods = await cluster.populate(bridgeId, 1);
  const members: PoolMember[] = [];
  for (const { ip } of pods) {
    const input = { id: randomUUID(), poolId: pool.id, address: formatIpv4(ip), protocolPort: MEMBER_PORT };
    members.push(await repository.create('pool-member', input));
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
  const status = async (i: number) => (await repository.get('pool-member', members[i].id))?.object.status;
  const becomes = (i: number, expected: PoolMember['status']) =>
    until(`member ${i} is ${expected}`, async () => {
      await step();
      return (await status(i)) === expected;
    });
  const checkers = () => cluster.hosts.filter((host) => host.isRunning && host.agent.healthChecks.members > 0);
  return { cluster, repository, pods, members, pool, monitor, behaviours, asked, step, status, becomes, checkers };
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
  for (const protocol of ['tcp', 'udp', 'sctp'] as const) {
    test(`one host checks the ${protocol} members of a ${device}'s VIP on all hosts, and tells which work`, async (t) => {
      const { pods, asked, behaviours, becomes, checkers, step, status } = await setUp(t, { device, protocol });
      await until('both members were asked three times', async () => {
        await step();
        return [...asked.values()].every((count) => count >= 3);
      });
      t.is(checkers().length, 1);
      for (const i of [0, 1]) t.is(await status(i), 'active');
      for (const i of [0, 1]) {
        behaviours.set(pods[i], 'refuses');
        await becomes(i, 'inactive');
        t.is(await status(1 - i), 'active');
        behaviours.set(pods[i], 'accepts');
        await becomes(i, 'active');
      }
      t.is(checkers()[0].agent.healthChecks.statusChanges, 4);
    });
  }
}

test('when the agent that checks dies another one does', async (t) => {
  const { cluster, pods, behaviours, becomes, checkers, step } = await setUp(t);
  await until('somebody checks', async () => {
    await step();
    return checkers().length === 1;
  });
  const [first] = checkers();
  await first.crash();
  await until('somebody else checks', async () => {
    await step();
    return checkers().length === 1 && checkers()[0] !== first;
  });
  // The kernel of the dead agent's host goes on forwarding, so its member is still to be reached.
  const survivor = cluster.hosts.findIndex((host) => host !== first);
  behaviours.set(pods[survivor], 'refuses');
  await becomes(survivor, 'inactive');
  await first.start();
  behaviours.set(pods[survivor], 'accepts');
  await becomes(survivor, 'active');
  t.not(checkers()[0], first);
});

test('silence counts as often as the monitor says, and the status is written when it changes', async (t) => {
  const { repository, pods, members, asked, behaviours, becomes, monitor, step } = await setUp(t, { hosts: 1 });
  await repository.modify('health-monitor', monitor.id, (found) => ({ ...found, maxRetries: 3 }));
  await until('the member was asked', async () => {
    await step();
    return asked.get(pods[0])! >= 1;
  });
  const version = async () => (await repository.get('pool-member', members[0].id))!.version;
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

test('monitors, members and pools are changed, switched off and taken away while members are asked', async (t) => {
  const { cluster, repository, pods, members, pool, monitor, asked, behaviours, becomes, step } = await setUp(t, {
    hosts: 1,
  });
  const [pod] = pods;
  const isAsked = async () => {
    asked.set(pod, 0);
    for (let i = 0; i < 6; i++) await step();
    return asked.get(pod)! > 0;
  };
  const switchMember = (adminStateUp: boolean) =>
    repository.modify('pool-member', members[0].id, (found) => ({ ...found, adminStateUp }));
  behaviours.set(pod, 'silent');
  await becomes(0, 'inactive');

  await repository.modify('health-monitor', monitor.id, (found) => ({ ...found, adminStateUp: false }));
  await becomes(0, 'active');
  t.false(await isAsked());
  await repository.modify('health-monitor', monitor.id, (found) => ({ ...found, adminStateUp: true }));
  await becomes(0, 'inactive');

  await switchMember(false);
  await until('a member that is switched off is not asked', async () => !(await isAsked()));
  await switchMember(true);
  await until('it is asked again', isAsked);

  await repository.modify('health-monitor', monitor.id, (found) => ({ ...found, delay: 3600 }));
  await until('it is asked rarely', async () => !(await isAsked()));
  await repository.modify('health-monitor', monitor.id, (found) => ({ ...found, delay: 1 }));
  await until('it is asked often', isAsked);

  await repository.modify('pool', pool.id, ({ healthMonitorId, ...rest }) => rest);
  await becomes(0, 'active');
  t.false(await isAsked());
  t.is(cluster.hosts[0].agent.healthChecks.balancers, 0);
  await repository.modify('pool', pool.id, (found) => ({ ...found, healthMonitorId: monitor.id }));
  await becomes(0, 'inactive');

  await repository.delete('pool-member', members[0].id);
  await until('a member that is gone is not asked', async () => !(await isAsked()));
  t.is(cluster.hosts[0].agent.healthChecks.members, 0);
});
