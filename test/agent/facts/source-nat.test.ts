import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import type { FlowKey } from '../../../src/flow/key.js';
import { formatIpv4, formatMac } from '../../../src/packet/address.js';
import { buildEthernet, EtherType } from '../../../src/packet/ethernet.js';
import { IpProtocol } from '../../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../../src/packet/ipv4.js';
import { buildUdp } from '../../../src/packet/udp.js';
import { positionBetween } from '../../../src/topology/position.js';
import { keyOf } from '../../simulation/world.js';
import { Cluster, Pod } from '../cluster.js';
import { until } from '../until.js';

/** 10.1.0.0/16 is inside of the router; outside, in 10.2.0.0/16, its machines are seen with this address. */
const OUTER = 0x0a02_00c8;

interface Side {
  readonly bridgeId: string;
  readonly mac: number;
}

/** A router that hides one network from the other. On each host there is a client inside and a server outside. */
async function setUp(t: ExecutionContext) {
  const cluster = await Cluster.start({ hosts: 2 });
  t.teardown(() => cluster.close());
  const { repository } = cluster;
  const id = randomUUID;
  const position = positionBetween(undefined, undefined);
  const before = (await repository.create('chain', { id: id(), name: 'before' })).id;
  const behind = (await repository.create('chain', { id: id(), name: 'behind' })).id;
  const address = formatIpv4(OUTER);
  const targets = [{ start: address, end: address, ports: { start: 1024, end: 65535 } }];
  const inside = { source: '10.1.0.0/16' };
  const answers = { destination: `${address}/32` };
  const action = 'accept';
  await repository.create('rule', {
    id: id(),
    chainId: behind,
    position,
    type: 'snat',
    targets,
    action,
    condition: inside,
  });
  await repository.create('rule', {
    id: id(),
    chainId: before,
    position,
    type: 'reverse-snat',
    action,
    condition: answers,
  });
  const filters = { inboundFilterId: before, outboundFilterId: behind };
  const routerId = (await repository.create('router', { id: id(), name: 'edge', ...filters })).id;

  const side = async (number: number): Promise<Side> => {
    const bridgeId = await cluster.createBridge();
    const mac = 0x0a00_0000_0000 + number;
    const subnets = [`10.${number}.0.254/16`];
    const port = await repository.create('port', { id: id(), routerId, mac: formatMac(mac), subnets });
    await repository.create('port', { id: id(), bridgeId, peerId: port.id });
    const destination = `10.${number}.0.0/16`;
    await repository.create('route', { id: id(), routerId, type: 'normal', destination, nextHopPortId: port.id });
    return { bridgeId, mac };
  };
  const sides = [await side(1), await side(2)];
  const machines = sides.map(({ bridgeId }, i) =>
    cluster.hosts.map((_, host) => new Pod(bridgeId, 0x1_0000 * i + host + 1)),
  );
  for (const pods of machines) for (const [i, pod] of pods.entries()) await cluster.hosts[i].attach(pod);
  await cluster.published();
  const [clients, servers] = machines;

  const send = (from: Pod, to: number, srcPort: number, dstPort: number) => {
    const gateway = sides.find(({ bridgeId }) => bridgeId === from.bridgeId)!.mac;
    const udp = buildUdp(srcPort, dstPort, Buffer.from('?'));
    const packet = buildIpv4({ src: from.ip, dst: to, protocol: IpProtocol.UDP }, udp);
    from.send(buildEthernet({ dst: gateway, src: from.mac, type: EtherType.IPV4 }, packet));
  };
  /** The headers of what came since this was last asked. */
  const received = ({ device }: Pod): FlowKey[] => {
    const keys = device!.received().map((frame) => keyOf(frame, 0));
    device!.clear();
    return keys.filter(({ nwProto }) => nwProto === IpProtocol.UDP);
  };
  /** Sends until one comes: routes and ports may still be on their way. */
  const asks = async (client: Pod, server: Pod, srcPort: number): Promise<FlowKey> => {
    const seen: FlowKey[] = [];
    await until(`${server.interfaceName} hears ${client.interfaceName}`, async () => {
      send(client, server.ip, srcPort, 53);
      await cluster.quiet();
      seen.push(...received(server));
      return seen.length > 0;
    });
    return seen[0];
  };
  return { cluster, routerId, clients, servers, send, received, asks };
}

test('answers find the host that has translated the connection, wherever they come in, without a flow for each', async (t) => {
  const { cluster, clients, servers, send, received, asks } = await setUp(t);
  const flows = () => cluster.hosts.reduce((sum, host) => sum + host.flows().length, 0);
  for (const client of clients) {
    for (const server of servers) {
      const asked = await asks(client, server, 1000);
      t.deepEqual([asked.ipv4Src, asked.ipv4Dst, asked.tpDst], [OUTER, server.ip, 53]);
      t.true(asked.tpSrc >= 1024);
      await until('the answer to come', async () => {
        send(server, OUTER, 53, asked.tpSrc);
        await cluster.quiet();
        const [answer] = received(client);
        if (answer === undefined) return false;
        t.deepEqual([answer.ipv4Src, answer.tpSrc, answer.ipv4Dst, answer.tpDst], [server.ip, 53, client.ip, 1000]);
        return true;
      });
    }
  }
  await until('all ports are leased', () => cluster.hosts.every((host) => host.agent.natLeases.size === 16));
  for (const client of clients) for (const server of servers) await asks(client, server, 1000);
  /** Has each client ask each server from a hundred ports, and be answered. */
  const converse = async (firstPort: number) => {
    for (let port = firstPort; port < firstPort + 100; port++) {
      for (const client of clients) for (const server of servers) send(client, server.ip, port, 53);
    }
    await cluster.quiet();
    const used = new Set<string>();
    for (const server of servers) {
      const keys = received(server);
      t.is(keys.length, 200);
      for (const { tpSrc } of keys) {
        used.add(`${server.ip} ${tpSrc}`);
        send(server, OUTER, 53, tpSrc);
      }
    }
    t.is(used.size, 400, 'hosts have no port in common');
    await cluster.quiet();
    for (const client of clients) t.is(received(client).length, 200);
  };
  await converse(2000);
  const before = flows();
  await converse(3000);
  // A block of ports that was not used yet takes three flows where answers come in, and there are 16 blocks for each host.
  t.true(flows() - before < 40, `${flows() - before} more flows for 400 more connections`);
});

test('a connection keeps its address and port while the agent of its host is started again', async (t) => {
  const { cluster, clients, servers, send, received, asks } = await setUp(t);
  const [client] = clients;
  const [host] = cluster.hosts;
  const server = servers[1];
  const before = await asks(client, server, 1000);
  await until('all ports are leased', () => host.agent.natLeases.size === 16);
  await host.stop();
  await host.start();
  await until('the ports are known', () => host.agent.bindings.isComplete);
  await until('what was leased is known', () => host.agent.natLeases.size === 16);
  t.is((await asks(client, server, 1000)).tpSrc, before.tpSrc);
  received(client);
  await until('an answer comes', async () => {
    send(server, OUTER, 53, before.tpSrc);
    await cluster.quiet();
    return received(client).length > 0;
  });
});

test('when nothing is translated any more, ports, zone and tunnel key are given back', async (t) => {
  const { cluster, routerId, clients, servers, asks } = await setUp(t);
  const [host] = cluster.hosts;
  await asks(clients[0], servers[0], 1000);
  await until('ports are leased', () => host.agent.natLeases.size > 0);
  t.not(host.agent.zoneOf(routerId), undefined);
  for (let i = 0; i < 5; i++) await cluster.advance(61_000);
  t.true(host.agent.natLeases.size > 0, 'not at once');
  await until('all is given back', async () => {
    await cluster.advance(61_000);
    return host.agent.natLeases.size === 0 && host.agent.zoneOf(routerId) === undefined;
  });
  await asks(clients[0], servers[0], 1000);
});
