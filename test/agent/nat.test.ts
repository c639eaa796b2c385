import { randomUUID } from 'node:crypto';
import test from 'ava';
import type { FlowKey } from '../../src/flow/key.js';
import { formatIpv4, formatMac, parseIpv4 } from '../../src/packet/address.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildUdp } from '../../src/packet/udp.js';
import { keyOf } from '../simulation/world.js';
import { Cluster, Pod, type TestHost } from './cluster.js';
import { until } from './until.js';

const VIP = '10.2.9.9';
const OUTER = '10.2.9.8';

interface Network {
  readonly bridgeId: string;
  readonly number: number;
  readonly gatewayMac: number;
}

/** A bridge behind the router: 10.NUMBER.0.0/16. */
async function createNetwork(c: Cluster, routerId: string, number: number): Promise<Network> {
  const bridgeId = await c.createBridge();
  const gatewayMac = 0x0a00_0000_0000 + number;
  const mac = formatMac(gatewayMac);
  const subnets = [`10.${number}.0.254/16`];
  const atRouter = await c.repository.create('port', { id: randomUUID(), routerId, mac, subnets });
  await c.repository.create('port', { id: randomUUID(), bridgeId, peerId: atRouter.id });
  const route = { id: randomUUID(), routerId, type: 'normal', destination: `10.${number}.0.0/16` } as const;
  await c.repository.create('route', { ...route, nextHopPortId: atRouter.id });
  return { bridgeId, number, gatewayMac };
}

/** A machine 10.NUMBER.0.HOST on the network. */
class Machine extends Pod {
  constructor(
    private readonly network: Network,
    host: number,
  ) {
    super(network.bridgeId, 0x1_0000 * (network.number - 1) + host);
  }

  sendUdp(dst: number, srcPort: number, dstPort: number): void {
    const packet = buildIpv4({ src: this.ip, dst, protocol: IpProtocol.UDP }, buildUdp(srcPort, dstPort));
    this.send(buildEthernet({ dst: this.network.gatewayMac, src: this.mac, type: EtherType.IPV4 }, packet));
  }

  /** Headers of the UDP packets that came since this was last asked. */
  received(): FlowKey[] {
    const keys = (this.device?.received() ?? []).map((frame) => keyOf(frame, 0));
    this.device?.clear();
    return keys.filter(({ nwProto }) => nwProto === IpProtocol.UDP);
  }
}

/** Clients on each host, a server on the second, and a router that translates both addresses of what clients send. */
async function setUp(c: Cluster) {
  const routerId = (await c.repository.create('router', { id: randomUUID(), name: 'edge' })).id;
  const inside = await createNetwork(c, routerId, 1);
  const outside = await createNetwork(c, routerId, 2);
  const server = new Machine(outside, 1);
  const clients = c.hosts.map((_, i) => new Machine(inside, i + 1));
  for (const [i, client] of clients.entries()) await c.hosts[i].attach(client);
  await c.hosts[1].attach(server);
  const address = formatIpv4(server.ip);
  const inboundFilterId = await c.createChain([
    {
      type: 'dnat',
      targets: [{ start: address, end: address, ports: { start: 8080, end: 8080 } }],
      action: 'accept',
      condition: { destination: `${VIP}/32` },
    },
    { type: 'reverse-snat', action: 'accept', condition: { destination: `${OUTER}/32` } },
  ]);
  const outboundFilterId = await c.createChain([
    {
      type: 'snat',
      targets: [{ start: OUTER, end: OUTER, ports: { start: 1024, end: 65535 } }],
      action: 'accept',
      condition: { source: '10.1.0.0/16' },
    },
  ]);
  await c.repository.modify('router', routerId, (router) => ({ ...router, inboundFilterId, outboundFilterId }));
  await c.published();
  return { clients, server, routerId };
}

function upcalls(hosts: readonly TestHost[]): number {
  return hosts.reduce((sum, host) => sum + host.switch.statistics.missed, 0);
}

test('connections through NAT, and answers that come in at another host than the one that translates', async (t) => {
  const c = await Cluster.start({ hosts: 2 });
  t.teardown(() => c.close());
  const { clients, server } = await setUp(c);
  const vip = parseIpv4(VIP)!;
  const outer = parseIpv4(OUTER)!;
  const converse = async (client: Machine, srcPort: number) => {
    client.sendUdp(vip, srcPort, 80);
    const arrived: FlowKey[] = [];
    await until('the server gets it', () => arrived.push(...server.received()) > 0);
    const [there] = arrived;
    t.deepEqual([arrived.length, there.ipv4Src, there.tpDst], [1, outer, 8080]);
    server.sendUdp(outer, 8080, there.tpSrc);
    const answers: FlowKey[] = [];
    await until('the client gets its answer', () => answers.push(...client.received()) > 0);
    const [back] = answers;
    t.deepEqual([answers.length, back.ipv4Src, back.ipv4Dst, back.tpSrc, back.tpDst], [1, vip, client.ip, 80, srcPort]);
    return there.tpSrc;
  };
  for (const client of clients) {
    await until('the rules bite', async () => {
      client.sendUdp(vip, 1, 80);
      await c.quiet();
      return server.received().some(({ ipv4Src }) => ipv4Src === outer);
    });
  }
  const ports = new Set<number>();
  for (let srcPort = 1000; srcPort < 1050; srcPort++) {
    for (const client of clients) ports.add(await converse(client, srcPort));
  }
  t.is(ports.size, 100, 'no two hosts translate to one port');
  // Each range of ports that a host has leased has flows of its own.
  const before = upcalls(c.hosts);
  for (let srcPort = 2000; srcPort < 2050; srcPort++) for (const client of clients) await converse(client, srcPort);
  const more = upcalls(c.hosts) - before;
  t.true(more < 20, `${more} upcalls`);
});
