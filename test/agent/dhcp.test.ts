import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { Word } from '../../src/flow/key.js';
import { formatIpv4, formatIpv6, formatMac, linkLocalAddress, parseIpv4 } from '../../src/packet/address.js';
import { buildArpRequest } from '../../src/packet/arp.js';
import { readU16, readU48, writeU48 } from '../../src/packet/big-endian.js';
import {
  buildDhcp,
  type DhcpMessage,
  DhcpMessageType,
  DhcpOption,
  dhcpOptionU32,
  parseDhcp,
} from '../../src/packet/dhcp.js';
import {
  DhcpV6MessageType,
  DhcpV6Option,
  dhcpV6Option,
  identityAssociation,
  identityAssociations,
  leasedAddresses,
  linkLayerDuid,
  parseDhcpV6,
} from '../../src/packet/dhcpv6.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildRouterSolicitation, parseRouterAdvertisement } from '../../src/packet/router-advertisement.js';
import { buildUdp } from '../../src/packet/udp.js';
import { CONFIGURATION_SERVER_MAC } from '../../src/simulation/answer.js';
import { dhcpFrame, dhcpV6Frame } from '../packet/dhcp-frames.js';
import { Cluster, type Pod, type TestHost } from './cluster.js';
import { until } from './until.js';

/** Offsets behind the headers of Ethernet, IP and UDP. */
const DHCP_AT = 42;
const DHCPV6_AT = 62;
const ICMPV6_AT = 54;
const ALL_NODES_MAC = 0x3333_0000_0001;

async function start(t: ExecutionContext, hosts = 1) {
  const c = await Cluster.start({ hosts });
  t.teardown(() => c.close());
  return { c, bridgeId: await c.createBridge() };
}

type Fields = Record<string, unknown>;

async function createSubnet(c: Cluster, bridgeId: string, fields: Fields = {}): Promise<string> {
  const subnet = { id: randomUUID(), bridgeId, cidr: '10.1.0.0/16', defaultGateway: '10.1.255.254', ...fields };
  return (await c.repository.create('dhcp-subnet', subnet)).id;
}

async function createSubnetV6(c: Cluster, bridgeId: string, fields: Fields = {}): Promise<string> {
  const subnet = { id: randomUUID(), bridgeId, prefix: 'fd00::/64', ...fields };
  return (await c.repository.create('dhcp-v6-subnet', subnet)).id;
}

async function attach(host: TestHost, pod: Pod): Promise<Pod> {
  await host.attach(pod);
  await until(
    'the subnets of the bridge are in hand',
    () =>
      host.agent.cache.bridge(pod.bridgeId).dhcpSubnets.value !== undefined &&
      host.agent.cache.bridge(pod.bridgeId).dhcpV6Subnets.value !== undefined,
  );
  return pod;
}

function message(pod: Pod, type: number): DhcpMessage {
  return {
    reply: false,
    hops: 0,
    transaction: 7,
    seconds: 0,
    broadcast: false,
    clientAddress: 0,
    yourAddress: 0,
    serverAddress: 0,
    relayAddress: 0,
    clientMac: pod.mac,
    type,
    options: new Map(),
  };
}

function request(pod: Pod, type: number, fields: Partial<DhcpMessage> = {}): Uint8Array {
  return dhcpFrame(pod.mac, buildDhcp({ ...message(pod, type), ...fields }));
}

/** What came that is not for all IPv6 machines: routers are advertised to these unasked. */
function received(pod: Pod): Uint8Array[] {
  return pod.device!.received().filter((frame) => readU48(frame, 0) !== ALL_NODES_MAC);
}

/** What the pod is told, and nothing else. */
async function answerTo<T>(pod: Pod, frame: Uint8Array, read: (frame: Uint8Array) => T | undefined): Promise<T> {
  pod.device!.clear();
  pod.send(frame);
  await until(`${pod.interfaceName} has an answer`, () => received(pod).length > 0, 4000);
  const [answer, ...more] = received(pod);
  const message = read(answer);
  if (message === undefined || more.length > 0) throw new Error('something else came');
  return message;
}

function readDhcp(frame: Uint8Array): DhcpMessage | undefined {
  return readU16(frame, 36) === 68 ? parseDhcp(frame, DHCP_AT, frame.length) : undefined;
}

function asked(pod: Pod, type: number, fields: Partial<DhcpMessage> = {}): Promise<DhcpMessage> {
  return answerTo(pod, request(pod, type, fields), readDhcp);
}

function results(host: TestHost, request: 'dhcp' | 'dhcpv6' | 'router-solicitation', result: string): number {
  return host.agent.metrics.configurationRequests.get(request)?.get(result) ?? 0;
}

async function isUnanswered(t: ExecutionContext, pod: Pod, frame: Uint8Array, reason: string): Promise<void> {
  const before = results(pod.host!, 'dhcp', reason);
  pod.device!.clear();
  pod.send(frame);
  await until(`it is refused: ${reason}`, () => results(pod.host!, 'dhcp', reason) === before + 1);
  t.is(pod.device!.received().length, 0);
}

test.serial('a machine is offered what is set aside for it, and given it; nobody else hears of it', async (t) => {
  const { c, bridgeId } = await start(t, 2);
  const id = await createSubnet(c, bridgeId, {
    dnsServers: ['10.1.0.53'],
    routes: [{ destination: '172.16.0.0/12', gateway: '10.1.255.1' }],
  });
  const machine = c.pod(bridgeId, false);
  await c.repository.members('dhcp-subnet', id).set(formatMac(machine.mac), { address: '10.1.9.9', name: 'nine' });
  const other = await attach(c.hosts[1], c.pod(bridgeId));
  await attach(c.hosts[0], machine);
  await c.published();
  const offer = await asked(machine, DhcpMessageType.DISCOVER);
  t.is(offer.type, DhcpMessageType.OFFER);
  t.is(formatIpv4(offer.yourAddress), '10.1.9.9');
  t.is(formatIpv4(dhcpOptionU32(offer, DhcpOption.SERVER_ID)!), '10.1.255.254');
  t.is(readU16(offer.options.get(DhcpOption.INTERFACE_MTU)!, 0), 1450);
  t.is(dhcpOptionU32(offer, DhcpOption.DNS_SERVERS), parseIpv4('10.1.0.53')!);
  t.is(Buffer.from(offer.options.get(DhcpOption.HOST_NAME)!).toString(), 'nine');
  t.is(
    Buffer.from(offer.options.get(DhcpOption.CLASSLESS_ROUTES)!).toString('hex'),
    '0cac10' + '0a01ff01' + '00' + '0a01fffe',
  );
  const address = offer.options.get(DhcpOption.SERVER_ID)!;
  const options = new Map([[DhcpOption.SERVER_ID as number, address]]);
  const wanted = (last: number) =>
    new Map([...options, [DhcpOption.REQUESTED_ADDRESS, new Uint8Array([10, 1, 9, last])] as const]);
  t.is((await asked(machine, DhcpMessageType.REQUEST, { options: wanted(9) })).type, DhcpMessageType.ACK);
  t.is((await asked(machine, DhcpMessageType.REQUEST, { options: wanted(8) })).type, DhcpMessageType.NAK);
  t.deepEqual(other.device!.received(), []);
  t.is(results(c.hosts[0], 'dhcp', 'answered'), 3);
  t.deepEqual(
    c.hosts[0].flows().filter(({ key, mask }) => mask.tpDst !== 0 && key.tpDst === 67),
    [],
  );
});

test.serial('a machine that the topology knows by its port needs no entry in the subnet', async (t) => {
  const { c, bridgeId } = await start(t);
  await createSubnet(c, bridgeId);
  const pod = await attach(c.hosts[0], c.pod(bridgeId));
  t.is((await asked(pod, DhcpMessageType.DISCOVER)).yourAddress, pod.ip);
});

test.serial('who is not known, and what a relay sends on, is not answered', async (t) => {
  const { c, bridgeId } = await start(t);
  const id = await createSubnet(c, bridgeId);
  const pod = await attach(c.hosts[0], c.pod(bridgeId, false));
  await isUnanswered(t, pod, request(pod, DhcpMessageType.DISCOVER), 'unknown-machine');
  await c.repository.members('dhcp-subnet', id).set(formatMac(pod.mac), { address: '10.1.9.9' });
  await until('it is known', async () => {
    pod.send(request(pod, DhcpMessageType.DISCOVER));
    await new Promise((resolve) => setTimeout(resolve, 5));
    return pod.device!.received().length > 0;
  });
  const relayed = { relayAddress: parseIpv4('10.1.0.7')!, hops: 1 };
  await isUnanswered(t, pod, request(pod, DhcpMessageType.DISCOVER, relayed), 'relayed');
  await isUnanswered(t, pod, request(pod, DhcpMessageType.DISCOVER, { clientMac: pod.mac + 1 }), 'malformed');
});

test.serial('a bridge follows its subnets: changed, disabled, deleted and made while machines ask', async (t) => {
  const { c, bridgeId } = await start(t);
  const [host] = c.hosts;
  const id = await createSubnet(c, bridgeId);
  const pod = await attach(host, c.pod(bridgeId));
  const other = await attach(host, c.pod(bridgeId, false));
  const served = host.agent.cache.bridge(bridgeId).served;
  t.is(dhcpOptionU32(await asked(pod, DhcpMessageType.DISCOVER), DhcpOption.LEASE_TIME), 86_400);
  await c.repository.modify('dhcp-subnet', id, (subnet) => ({ ...subnet, leaseSeconds: 600 }));
  await until('the lease is shorter', async () => {
    return dhcpOptionU32(await asked(pod, DhcpMessageType.DISCOVER), DhcpOption.LEASE_TIME) === 600;
  });
  await c.repository.modify('dhcp-subnet', id, (subnet) => ({ ...subnet, enabled: false }));
  await until('nothing is answered', () => served.value === null);
  const goesOn = async () => {
    other.device!.clear();
    pod.send(request(pod, DhcpMessageType.DISCOVER));
    await until('it goes to the others', () => other.device!.received().length === 1);
  };
  await goesOn();
  // The flow that took it there must not take the next.
  await c.repository.modify('dhcp-subnet', id, (subnet) => ({ ...subnet, enabled: true }));
  await until('it is answered', () => served.value?.dhcp === true);
  await until('no flow is wide enough for a request', () =>
    host.flows().every(({ mask, key }) => key.ethDst !== 0xffff_ffff_ffff || mask.nwProto !== 0),
  );
  other.device!.clear();
  t.is((await asked(pod, DhcpMessageType.DISCOVER)).type, DhcpMessageType.OFFER);
  t.is(other.device!.received().length, 0);
  await c.repository.delete('dhcp-subnet', id);
  await until('nothing is answered', () => served.value === null);
  await goesOn();
});

test.serial('the server is found by its own address, and answers what is sent to it alone', async (t) => {
  const { c, bridgeId } = await start(t);
  const [host] = c.hosts;
  const id = await createSubnet(c, bridgeId, { serverAddress: '10.1.0.2' });
  const pod = await attach(host, c.pod(bridgeId));
  const server = parseIpv4('10.1.0.2')!;
  const node = host.agent.cache.bridge(bridgeId);
  await until('the server is known', () => node.ipv4(server).value !== undefined);
  const arp = await answerTo(pod, buildArpRequest(pod.mac, pod.ip, server), (frame) => readU48(frame, 22));
  t.is(arp, CONFIGURATION_SERVER_MAC);
  const renewal = request(pod, DhcpMessageType.REQUEST, { clientAddress: pod.ip });
  writeU48(renewal, 0, arp);
  t.is((await answerTo(pod, renewal, readDhcp)).type, DhcpMessageType.ACK);
  await c.repository.modify('dhcp-subnet', id, (subnet) => ({ ...subnet, serverAddress: undefined }));
  await until('the server has no address of its own', () => !node.ipv4(server).isLocal);
});

test.serial('a machine that renews its address from the gateway is answered', async (t) => {
  const { c, bridgeId } = await start(t);
  const [host] = c.hosts;
  await createSubnet(c, bridgeId);
  const routerId = (await c.repository.create('router', { id: randomUUID(), name: 'edge' })).id;
  const mac = '0a:00:00:00:00:01';
  const atRouter = { id: randomUUID(), routerId, mac, subnets: ['10.1.255.254/16'] };
  await c.repository.create('port', atRouter);
  const atBridge = { id: randomUUID(), bridgeId, mac, addresses: ['10.1.255.254'], peerId: atRouter.id };
  await c.repository.create('port', atBridge);
  const pod = await attach(host, c.pod(bridgeId));
  const gateway = parseIpv4('10.1.255.254')!;
  const payload = buildDhcp({ ...message(pod, DhcpMessageType.REQUEST), clientAddress: pod.ip });
  const renewal = buildEthernet(
    { dst: 0x0a00_0000_0001, src: pod.mac, type: EtherType.IPV4 },
    buildIpv4({ src: pod.ip, dst: gateway, protocol: IpProtocol.UDP }, buildUdp(68, 67, payload)),
  );
  const ack = await answerTo(pod, renewal, readDhcp);
  t.deepEqual([ack.type, ack.yourAddress], [DhcpMessageType.ACK, pod.ip]);
});

test.serial('a machine that asks without end is not heard for a while', async (t) => {
  const { c, bridgeId } = await start(t);
  const [host] = c.hosts;
  await createSubnet(c, bridgeId);
  const pod = await attach(host, c.pod(bridgeId));
  const frame = request(pod, DhcpMessageType.DISCOVER);
  await until('it has asked too often', () => {
    for (let i = 0; i < 10; i++) pod.send(frame);
    return host.flows().some(({ key, actions }) => key.tpDst === 67 && actions.length === 0);
  });
  const { upcalls } = host.agent.metrics;
  t.true(results(host, 'dhcp', 'too-many') > 0);
  for (let i = 0; i < 100; i++) pod.send(frame);
  await c.quiet();
  t.true(host.agent.metrics.upcalls - upcalls < 100);
  await c.advance(2000);
  await until('it is heard again', () => host.flows().every(({ key }) => key.tpDst !== 67));
  t.is((await asked(pod, DhcpMessageType.DISCOVER)).type, DhcpMessageType.OFFER);
});

test.serial('without the NSDB a machine renews what it was given, and a stranger waits in vain', async (t) => {
  const { c, bridgeId } = await start(t);
  const [host] = c.hosts;
  const id = await createSubnet(c, bridgeId, { leaseSeconds: 1200 });
  const machine = c.pod(bridgeId, false);
  await c.repository.members('dhcp-subnet', id).set(formatMac(machine.mac), { address: '10.1.9.9' });
  await attach(host, machine);
  t.is((await asked(machine, DhcpMessageType.DISCOVER)).type, DhcpMessageType.OFFER);
  for (let minute = 0; minute < 10; minute++) await c.advance(61_000);
  host.gate.shut();
  await until('the NSDB is lost', () => host.store.state !== 'connected');
  t.is(
    (await asked(machine, DhcpMessageType.REQUEST, { clientAddress: parseIpv4('10.1.9.9')! })).type,
    DhcpMessageType.ACK,
  );
  // One that nobody knows has to wait, and is told nothing.
  const stranger = await attach(host, c.pod(bridgeId, false));
  stranger.send(request(stranger, DhcpMessageType.DISCOVER));
  await until('it waits', () => host.agent.forwarder.waitingPackets === 1);
  await c.advance(6000);
  t.is(host.agent.forwarder.waitingPackets, 0);
  t.is(host.agent.metrics.drops.get('waited-too-long'), 1);
});

test.serial(
  'what was read for a machine is given up when its lease has run out, and what for a stranger after a minute',
  async (t) => {
    const { c, bridgeId } = await start(t);
    const [host] = c.hosts;
    await createSubnet(c, bridgeId, { leaseSeconds: 600 });
    const pod = await attach(host, c.pod(bridgeId));
    await asked(pod, DhcpMessageType.DISCOVER);
    const stranger = await attach(host, c.pod(bridgeId, false));
    await isUnanswered(t, stranger, request(stranger, DhcpMessageType.DISCOVER), 'unknown-machine');
    const hostOf = (mac: number) => host.agent.cache.bridge(bridgeId).dhcpSubnets.value![0].host(mac);
    for (let minute = 0; minute < 3; minute++) await c.advance(61_000);
    t.is(hostOf(pod.mac).value, null);
    t.is(hostOf(stranger.mac).value, undefined);
    for (let minute = 0; minute < 10; minute++) await c.advance(61_000);
    t.is(hostOf(pod.mac).value, undefined);
  },
);

function readDhcpV6(frame: Uint8Array) {
  return readU16(frame, 56) === 546 ? parseDhcpV6(frame, DHCPV6_AT, frame.length) : undefined;
}

const SERVERS_WANTED = { code: DhcpV6Option.OPTION_REQUEST, value: new Uint8Array([0, DhcpV6Option.DNS_SERVERS]) };

test.serial('DHCPv6: addresses where they are handed out, the rest to whoever asks', async (t) => {
  const { c, bridgeId } = await start(t);
  const [host] = c.hosts;
  const id = await createSubnetV6(c, bridgeId, { dnsServers: ['fd00::53'] });
  const pod = c.pod(bridgeId, false);
  const duid = linkLayerDuid(pod.mac);
  await c.repository.members('dhcp-v6-subnet', id).set(Buffer.from(duid).toString('hex'), { address: 'fd00::99' });
  await attach(host, pod);
  const client = { code: DhcpV6Option.CLIENT_ID, value: duid };
  const group = identityAssociation({ code: DhcpV6Option.IA_NA, id: 1, t1: 0, t2: 0, options: [] });
  const ask = (type: number, options: { code: number; value: Uint8Array }[]) =>
    answerTo(
      pod,
      dhcpV6Frame(pod.mac, { type, transaction: 3, options: [client, SERVERS_WANTED, ...options] }),
      readDhcpV6,
    );
  const offer = await ask(DhcpV6MessageType.SOLICIT, [group]);
  t.is(offer.type, DhcpV6MessageType.ADVERTISE);
  const server = { code: DhcpV6Option.SERVER_ID, value: dhcpV6Option(offer.options, DhcpV6Option.SERVER_ID)! };
  const reply = await ask(DhcpV6MessageType.REQUEST, [group, server]);
  const given = identityAssociations(reply.options)!.flatMap(({ options }) => leasedAddresses(options));
  t.deepEqual(
    given.map(({ address }) => formatIpv6(address)),
    ['fd00::99'],
  );
  await c.repository.modify('dhcp-v6-subnet', id, (subnet) => ({ ...subnet, addressing: 'stateless' }));
  await until(
    'it is stateless',
    () => host.agent.cache.bridge(bridgeId).dhcpV6Subnets.value?.[0].addressing === 'stateless',
  );
  const information = await ask(DhcpV6MessageType.INFORMATION_REQUEST, []);
  t.is(dhcpV6Option(information.options, DhcpV6Option.DNS_SERVERS)?.length, 16);
  await c.repository.modify('dhcp-v6-subnet', id, (subnet) => ({ ...subnet, addressing: 'slaac' }));
  await until('it is left to others', () => host.agent.cache.bridge(bridgeId).served.value === null);
  t.is(results(host, 'dhcpv6', 'answered'), 3);
});

test.serial('a router solicitation is answered with the subnets and their gateway', async (t) => {
  const { c, bridgeId } = await start(t, 2);
  const router = await attach(c.hosts[1], c.pod(bridgeId));
  await createSubnetV6(c, bridgeId, {
    addressing: 'slaac',
    gateway: formatIpv6(router.ip6),
    advertisement: { routerLifetime: 1800 },
  });
  await c.published();
  const pod = await attach(c.hosts[0], c.pod(bridgeId));
  const frame = buildRouterSolicitation(linkLocalAddress(pod.mac), pod.mac);
  const read = (bytes: Uint8Array) => parseRouterAdvertisement(bytes, ICMPV6_AT, bytes.length);
  const { mac, lifetime, mtu, prefixes } = await answerTo(pod, frame, read);
  t.deepEqual([mac, lifetime, mtu], [router.mac, 1800, 1450]);
  t.like(prefixes[0], { prefix: 64, autonomous: true, onLink: true });
  t.deepEqual(received(router), []);
});

test.serial('routers are advertised unasked: on change, and again before what was said runs out', async (t) => {
  const { c, bridgeId } = await start(t, 2);
  const [host, other] = c.hosts;
  const router = await attach(other, c.pod(bridgeId));
  const id = await createSubnetV6(c, bridgeId, {
    addressing: 'slaac',
    gateway: formatIpv6(router.ip6),
    advertisement: { routerLifetime: 900 },
  });
  await c.published();
  const pods = [await attach(host, c.pod(bridgeId)), await attach(host, c.pod(bridgeId))];
  const subnets = host.agent.cache.bridge(bridgeId).dhcpV6Subnets;
  /** What both pods have heard since the last call. */
  const heard = async (count: number) => {
    await until('advertisements have come', () => pods.every(({ device }) => device!.received().length >= count));
    const [one, two] = pods.map(({ device }) => device!.received());
    for (const { device } of pods) device!.clear();
    t.deepEqual(one, two);
    t.is(one.length, count);
    t.is(readU48(one[0], 0), ALL_NODES_MAC);
    return one.map((frame) => parseRouterAdvertisement(frame, ICMPV6_AT, frame.length)!);
  };
  await until('the subnet is known', () => subnets.value?.length === 1);
  // It is told by a timer of the agent's, too.
  for (const { device } of pods) device!.clear();
  await until('they have heard', async () => {
    await c.advance(1000);
    return pods.every(({ device }) => device!.received().length > 0);
  });
  const [first] = await heard(1);
  t.like(first, { mac: router.mac, lifetime: 900 });
  for (let second = 0; second < 298; second += 50) await c.advance(50_000);
  t.like((await heard(1))[0], { mac: router.mac, lifetime: 900 });

  host.gate.shut();
  await until('the NSDB is lost', () => host.store.state !== 'connected');
  for (let second = 0; second < 298; second += 50) await c.advance(50_000);
  await heard(1);
  host.gate.reopen();
  await c.repository.delete('dhcp-v6-subnet', id);
  await until('the subnet is gone', () => subnets.value?.length === 0);
  await c.advance(1000);
  const [last] = await heard(1);
  t.like(last, { mac: router.mac, lifetime: 0 });
  t.is(last.prefixes[0].preferred, 0);
  await c.advance(600_000);
  await c.quiet();
  t.true(pods.every(({ device }) => device!.received().length === 0));
});

test.serial('flows between machines are as wide on a bridge with subnets as on one without', async (t) => {
  const { c, bridgeId } = await start(t);
  await createSubnet(c, bridgeId);
  await createSubnetV6(c, bridgeId, { advertisement: {} });
  const [a, b] = await c.populate(bridgeId, 2);
  await until('subnets are known', () => c.hosts[0].agent.cache.bridge(bridgeId).served.value?.advertisements === true);
  await c.ping(a, b);
  const flow = c.hosts[0].flows().find(({ key }) => key.ethSrc === a.mac && key.ethDst === b.mac)!;
  t.is(flow.mask.words[Word.NW_PROTO], 0);
});
