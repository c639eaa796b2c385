import { randomUUID } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import { type FlowKey, Word } from '../../src/flow/key.js';
import { formatIpv4, formatIpv6, formatMac, type Ipv6 } from '../../src/packet/address.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { buildIcmpEcho, IcmpType } from '../../src/packet/icmp.js';
import { buildIcmpv6Echo, Icmpv6Type } from '../../src/packet/icmpv6.js';
import { formatCidr, parseCidr } from '../../src/packet/ip.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { keyOf } from '../simulation/world.js';
import { Cluster, type ClusterOptions, Pod } from './cluster.js';
import { until } from './until.js';

function cluster(
  title: string,
  options: ClusterOptions,
  run: (t: ExecutionContext, c: Cluster) => Promise<void>,
): void {
  test.serial(title, async (t) => {
    const started = await Cluster.start(options);
    try {
      await run(t, started);
    } catch (error) {
      for (const host of started.hosts) for (const line of host.warnings.slice(-20)) t.log(host.name, line);
      throw error;
    } finally {
      await started.close();
    }
  });
}

/** A bridge behind a router, and how its machines know that. */
interface Network {
  readonly bridgeId: string;
  readonly number: number;
  readonly routerPortId: string;
  readonly gatewayMac: number;
  readonly gateway: number;
  readonly gateway6: Ipv6;
}

/** A machine on a bridge behind a router: 10.NUMBER.0.HOST and fd00::(NUMBER - 1):HOST. */
class Machine extends Pod {
  constructor(
    readonly network: Network,
    host: number,
  ) {
    super(network.bridgeId, 0x1_0000 * (network.number - 1) + host);
  }

  /** Sends an echo request; `to` is an IPv4 or IPv6 address. */
  ping(to: number | Ipv6, ttl = 64): void {
    const { mac: src, network } = this;
    const payload = new TextEncoder().encode('are you there?');
    if (typeof to === 'number') {
      const echo = buildIcmpEcho(IcmpType.ECHO_REQUEST, 7, 1, payload);
      const packet = buildIpv4({ src: this.ip, dst: to, protocol: IpProtocol.ICMP, ttl }, echo);
      this.send(buildEthernet({ dst: network.gatewayMac, src, type: EtherType.IPV4 }, packet));
    } else {
      const echo = buildIcmpv6Echo(Icmpv6Type.ECHO_REQUEST, 7, 1, payload);
      const packet = buildIpv6({ src: this.ip6, dst: to, protocol: IpProtocol.ICMPV6, hopLimit: ttl }, echo);
      this.send(buildEthernet({ dst: network.gatewayMac, src, type: EtherType.IPV6 }, packet));
    }
  }

  /** The headers of what came since this was last asked. */
  received(): FlowKey[] {
    const keys = (this.device?.received() ?? []).map((frame) => keyOf(frame, 0));
    this.device?.clear();
    return keys;
  }

  /** The headers of the only packet that comes. */
  async hears(what: string): Promise<FlowKey> {
    const keys: FlowKey[] = [];
    await until(what, () => keys.push(...this.received()) > 0);
    if (keys.length > 1) throw new Error(`${what}: ${keys.length} packets came`);
    return keys[0];
  }
}

async function createRouter(c: Cluster): Promise<string> {
  return (await c.repository.create('router', { id: randomUUID(), name: 'edge' })).id;
}

/** A bridge of which the machines are reached through the router. */
async function createNetwork(c: Cluster, routerId: string, number: number): Promise<Network> {
  const bridgeId = await c.createBridge();
  const gatewayMac = 0x0a00_0000_0000 + number;
  const gateway = 0x0a00_00fe + 0x1_0000 * number;
  const gateway6: Ipv6 = [0xfd00_0000, 0, 0, 0x1_0000 * (number - 1) + 0xfe];
  const mac = formatMac(gatewayMac);
  const subnets = [`${formatIpv4(gateway)}/16`, `${formatIpv6(gateway6)}/112`];
  const atRouter = await c.repository.create('port', { id: randomUUID(), routerId, mac, subnets });
  await c.repository.create('port', {
    id: randomUUID(),
    bridgeId,
    mac,
    addresses: [formatIpv4(gateway), formatIpv6(gateway6)],
    peerId: atRouter.id,
  });
  for (const destination of subnets.map((subnet) => formatCidr(parseCidr(subnet)!))) {
    await addRoute(c, routerId, destination, atRouter.id);
  }
  return { bridgeId, number, routerPortId: atRouter.id, gatewayMac, gateway, gateway6 };
}

async function addRoute(
  c: Cluster,
  routerId: string,
  destination: string,
  nextHopPortId: string,
  gateway?: string,
): Promise<string> {
  const route = { id: randomUUID(), routerId, type: 'normal', destination, nextHopPortId, gateway } as const;
  return (await c.repository.create('route', route)).id;
}

/** A machine on each of two networks, on each of the hosts. */
async function linked(c: Cluster) {
  const routerId = await createRouter(c);
  const networks = [await createNetwork(c, routerId, 1), await createNetwork(c, routerId, 2)];
  const machines: Machine[] = [];
  for (const [i, host] of c.hosts.entries()) {
    for (const network of networks) {
      const machine = new Machine(network, i + 1);
      await host.attach(machine);
      machines.push(machine);
    }
  }
  await c.published();
  return { routerId, networks, machines };
}

cluster(
  'machines of two networks reach each other through the router, on one host and across',
  { hosts: 2 },
  async (t, c) => {
    const { machines } = await linked(c);
    for (const from of machines) {
      for (const to of machines) {
        if (from.network === to.network) continue;
        c.underlayFrames = [];
        from.ping(to.ip);
        const key = await to.hears(`${from.interfaceName} reaches ${to.interfaceName}`);
        t.deepEqual([key.ethSrc, key.ethDst], [to.network.gatewayMac, to.mac]);
        t.deepEqual([key.ipv4Src, key.ipv4Dst, key.nwTtl], [from.ip, to.ip, 63]);
        from.ping(to.ip6);
        const key6 = await to.hears(`${from.interfaceName} reaches ${to.interfaceName} by IPv6`);
        t.deepEqual([...key6.words.slice(Word.NW_SRC, Word.NW_SRC + 4)], [...from.ip6]);
        t.is(key6.nwTtl, 63);
        t.is(c.underlayFrames.length, from.host === to.host ? 0 : 2);
      }
    }
    const missed = () => c.hosts.reduce((sum, host) => sum + host.switch.statistics.missed, 0);
    const before = missed();
    for (const from of machines) {
      for (const to of machines) {
        if (from.network === to.network) continue;
        from.ping(to.ip);
        await to.hears('again');
      }
    }
    t.is(missed(), before);
  },
);

cluster('a router answers pings and tells what it cannot forward', { hosts: 2 }, async (t, c) => {
  const {
    machines: [machine, , , far],
    networks,
  } = await linked(c);
  machine.ping(networks[0].gateway);
  const echo = await machine.hears('the router answers');
  t.deepEqual([echo.tpSrc, echo.ipv4Src, echo.ipv4Dst], [IcmpType.ECHO_REPLY, networks[0].gateway, machine.ip]);
  machine.ping(networks[1].gateway6);
  t.is((await machine.hears('the router answers for its other port')).tpSrc, Icmpv6Type.ECHO_REPLY);

  machine.ping(far.ip, 1);
  const exceeded = await machine.hears('the router says that it took too many hops');
  t.deepEqual(
    [exceeded.tpSrc, exceeded.ipv4Src, exceeded.ethSrc],
    [IcmpType.TIME_EXCEEDED, networks[0].gateway, networks[0].gatewayMac],
  );
  machine.ping(far.ip6, 1);
  t.is((await machine.hears('by IPv6, too')).tpSrc, Icmpv6Type.TIME_EXCEEDED);
  machine.ping(0x0a63_0001);
  const unreachable = await machine.hears('the router says that there is no route');
  t.deepEqual([unreachable.tpSrc, unreachable.tpDst], [IcmpType.UNREACHABLE, 0]);
  const { metrics } = machine.host!.agent;
  t.deepEqual([metrics.drops.get('ttl-exceeded'), metrics.drops.get('no-route'), metrics.replies], [2, 1, 5]);
});
