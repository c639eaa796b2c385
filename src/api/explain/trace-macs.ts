import { InvalidInputError } from '../../errors.js';
import { formatPacket, type PacketText } from '../../flow/packet-text.js';
import { bridgeVlanLinksPath } from '../../nsdb/layout.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import { SharedTable } from '../../nsdb/tables/shared-table.js';
import { IP_TABLE, NEIGHBOR_TABLE } from '../../nsdb/tables/tables.js';
import { formatMac, ipv6MulticastMac, isMulticastIpv6, MAC_BROADCAST, parseMac } from '../../packet/address.js';
import { type Cidr, cidrContains, formatIp, type Ip, parseCidr } from '../../packet/ip.js';
import { type Kind, type Port, routerPortMac, type TopologyTypes } from '../../topology/types.js';

/** A packet with its MAC addresses, and which of them were found in place of those that nobody gave. */
export interface AddressedPacket {
  readonly packet: PacketText;
  /** A sentence each. */
  readonly assumed: readonly string[];
}

/** The source of packets from outside that come in at a router, of which it looks at everything but that. */
const STRANGER_MAC = 0x0200_0000_00fe;

/**
 * Gives a packet that comes in at the port the MAC addresses that the machine there would have sent it with.
 * @throws InvalidInputError when they cannot be found out
 */
export async function addressPacket(
  repository: TopologyRepository,
  port: Port,
  packet: PacketText,
  signal: AbortSignal,
): Promise<AddressedPacket> {
  const sender = new Sender(repository, port, packet, signal);
  const assumed: string[] = [];
  const found = async (given: number | undefined, find: () => Promise<FoundMac>): Promise<number> => {
    if (given !== undefined) return given;
    const { mac, because } = await find();
    assumed.push(because);
    return mac;
  };
  const sourceMac = await found(packet.sourceMac, () => sender.source());
  if (port.bridgeId !== undefined && port.mac !== undefined && sourceMac !== parseMac(port.mac)) {
    assumed.push(`from MAC ${formatMac(sourceMac)}: not the port's own, which is ${port.mac}`);
  }
  if (packet.protocol === 'arp') return { packet: { ...packet, sourceMac }, assumed };
  const destinationMac = await found(packet.destinationMac, () => sender.destination());
  return { packet: { ...packet, sourceMac, destinationMac }, assumed };
}

interface FoundMac {
  readonly mac: number;
  readonly because: string;
}

/** What machines of a bridge know of the network that they are in. */
interface Subnet {
  readonly range: Cidr;
  readonly gateway?: string;
  /** For these destinations another. */
  readonly routes?: readonly { readonly destination: string; readonly gateway: string }[];
}

class Sender {
  constructor(
    private readonly repository: TopologyRepository,
    private readonly port: Port,
    private readonly packet: PacketText,
    private readonly signal: AbortSignal,
  ) {}

  async source(): Promise<FoundMac> {
    const { port, packet } = this;
    const source = formatIp(packet.source);
    if (port.routerId !== undefined) {
      const neighbor = await this.neighbor(port.id, source);
      if (neighbor !== undefined) return found(neighbor, `from MAC: the neighbour of the router that has ${source}`);
      return found(STRANGER_MAC, 'from MAC: made up, as a router does not look at it');
    }
    const peer = await this.peer();
    if (peer?.routerId !== undefined) return found(macOf(peer), 'from MAC: the router that the port is linked to');
    if (port.mac !== undefined) return found(parseMac(port.mac)!, "from MAC: the port's own");
    const known = await this.onBridge(source);
    if (known !== undefined) return found(known, `from MAC: the bridge knows that ${source} has it`);
    throw this.unknown(`\`from MAC\`, as neither the port nor the bridge's IP table tells who has ${source}`);
  }

  async destination(): Promise<FoundMac> {
    const { port, packet } = this;
    const group = groupMac(packet.destination);
    if (group !== undefined) return found(group, 'to MAC: that of the group');
    if (port.routerId !== undefined) return found(macOf(port), "to MAC: the router's at this port");
    const text = formatIp(packet.destination);
    const routers = await this.linkedRouters();
    const hop = (await this.peer()) === undefined ? await this.gateway(routers) : undefined;
    const address = hop ?? text;
    const via = hop === undefined ? `who has ${text}` : `the gateway ${hop}`;
    const router = routers.find(({ subnets = [] }) => subnets.some((subnet) => addressOf(subnet) === address));
    if (router !== undefined) return found(macOf(router), `to MAC: ${via}, a router linked to the bridge`);
    const known = await this.onBridge(address);
    if (known !== undefined) return found(known, `to MAC: ${via}, by the bridge's IP table`);
    const asks =
      packet.source.family === 4 ? `with arp ${formatIp(packet.source)} > ${address}` : 'by neighbour discovery';
    throw this.unknown(
      `\`to MAC\`, as nobody on the bridge is known to have ${address}: a machine would ask for it ${asks}`,
    );
  }

  /** Where the machine sends what is for another network; undefined for a destination on its own. */
  private async gateway(routers: readonly Port[]): Promise<string | undefined> {
    const { source, destination } = this.packet;
    const subnets = [...(await this.subnets()), ...routers.flatMap(subnetsOf)];
    if (subnets.some(({ range }) => cidrContains(range, destination))) return undefined;
    const own = subnets.filter(({ range }) => cidrContains(range, source));
    const routes = own.flatMap((subnet) => subnet.routes ?? []);
    const route = routes
      .map(({ destination: to, gateway }) => ({ range: parseCidr(to)!, gateway }))
      .filter(({ range }) => cidrContains(range, destination))
      .sort((a, b) => b.range.prefix - a.range.prefix)[0];
    if (route !== undefined) return route.gateway;
    const others = subnets.filter(({ range }) => range.family === source.family);
    return [...own, ...others].find(({ gateway }) => gateway !== undefined)?.gateway;
  }

  /** Those that DHCP and address pools tell the machines of. */
  private async subnets(): Promise<Subnet[]> {
    const bridgeId = this.port.bridgeId!;
    const [v4, v6, pools] = await Promise.all([
      this.ofBridge('dhcp-subnet', bridgeId),
      this.ofBridge('dhcp-v6-subnet', bridgeId),
      this.ofBridge('address-pool', bridgeId),
    ]);
    return [
      ...v4.map(({ cidr, defaultGateway, routes }) => ({ range: parseCidr(cidr)!, gateway: defaultGateway, routes })),
      ...v6.map(({ prefix, gateway }) => ({ range: parseCidr(prefix)!, gateway })),
      ...pools.map(({ cidr, gateway }) => ({ range: parseCidr(cidr)!, gateway })),
    ];
  }

  private async ofBridge<K extends Kind>(kind: K, bridgeId: string): Promise<TopologyTypes[K][]> {
    const ids = await this.repository.holders(kind, 'bridgeId', bridgeId, this.signal);
    const found = await Promise.all(ids.map((id) => this.repository.get(kind, id, this.signal)));
    return found.flatMap((one) => (one === undefined ? [] : [one.object]));
  }

  /** Ports of routers that are linked to the bridge in the packet's VLAN. */
  private async linkedRouters(): Promise<Port[]> {
    const folder = bridgeVlanLinksPath(this.port.bridgeId!, this.packet.vlan ?? 0);
    const ids = (await this.repository.store.children(folder, { signal: this.signal })) ?? [];
    const peers = await Promise.all(ids.map(async (id) => this.peerOf((await this.read(id))?.peerId)));
    return peers.filter((peer) => peer?.routerId !== undefined) as Port[];
  }

  private peer(): Promise<Port | undefined> {
    return this.peerOf(this.port.peerId);
  }

  private async peerOf(peerId: string | undefined): Promise<Port | undefined> {
    return peerId === undefined ? undefined : this.read(peerId);
  }

  private async read(portId: string): Promise<Port | undefined> {
    return (await this.repository.get('port', portId, this.signal))?.object;
  }

  /** By the bridge's IP table, which is about packets without a tag. */
  private async onBridge(address: string): Promise<number | undefined> {
    if (this.packet.vlan !== undefined) return undefined;
    const table = new SharedTable(this.repository.store, IP_TABLE, this.port.bridgeId!);
    return parseMac((await table.get(address, { signal: this.signal }))?.value.mac ?? '');
  }

  private async neighbor(portId: string, address: string): Promise<number | undefined> {
    const table = new SharedTable(this.repository.store, NEIGHBOR_TABLE, portId);
    return parseMac((await table.get(address, { signal: this.signal }))?.value.mac ?? '');
  }

  private unknown(expected: string): InvalidInputError {
    return new InvalidInputError('packet', formatPacket(this.packet), `expected ${expected}`);
  }
}

function found(mac: number, because: string): FoundMac {
  return { mac, because: because.replace(':', ` ${formatMac(mac)}:`) };
}

function macOf(routerPort: Port): number {
  return parseMac(routerPortMac(routerPort))!;
}

function subnetsOf({ subnets = [] }: Port): Subnet[] {
  return subnets.map((subnet) => ({ range: parseCidr(subnet)!, gateway: addressOf(subnet) }));
}

function addressOf(subnet: string): string {
  return subnet.slice(0, subnet.indexOf('/'));
}

/** Where packets for several machines go (RFC 1112 section 6.4, RFC 2464 section 7). */
function groupMac(ip: Ip): number | undefined {
  if (ip.family === 6) return isMulticastIpv6(ip.words) ? ipv6MulticastMac(ip.words) : undefined;
  const [word] = ip.words;
  if (word === 0xffff_ffff) return MAC_BROADCAST;
  return word >>> 28 === 0xe ? 0x0100_5e00_0000 + (word & 0x7f_ffff) : undefined;
}
