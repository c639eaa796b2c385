import { linkLocalAddress, parseIpv4, parseIpv6 } from '../../src/packet/address.js';
import { DHCP_CLIENT_PORT, DHCP_SERVER_PORT } from '../../src/packet/dhcp.js';
import { buildDhcpV6, DHCPV6_CLIENT_PORT, DHCPV6_SERVER_PORT, type DhcpV6Message } from '../../src/packet/dhcpv6.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildUdp } from '../../src/packet/udp.js';
import type { DhcpHostFact, DhcpSubnetFact, DhcpV6HostFact, DhcpV6SubnetFact } from '../../src/simulation/fact.js';
import { fact, type TestFact } from './world.js';

/** ff02::1:2, to which DHCPv6 clients send (RFC 8415 section 7.1). */
const ALL_SERVERS = parseIpv6('ff02::1:2')!;
const ALL_SERVERS_MAC = 0x3333_0001_0002;

/** 10.0.0.0/24 with the gateway 10.0.0.1; machines that nobody has added are known to be absent. */
export function subnet(
  fields: Partial<DhcpSubnetFact> = {},
): DhcpSubnetFact & { hosts: Map<number, TestFact<DhcpHostFact>> } {
  const hosts = new Map<number, TestFact<DhcpHostFact>>();
  return {
    id: 'subnet',
    enabled: true,
    address: parseIpv4('10.0.0.0')!,
    prefix: 24,
    serverAddress: undefined,
    gateway: parseIpv4('10.0.0.1')!,
    dnsServers: [],
    domainName: undefined,
    leaseSeconds: 86_400,
    mtu: undefined,
    routes: [],
    hosts,
    host: (mac) => hosts.get(mac) ?? fact<DhcpHostFact>(`host ${mac}`, null),
    ...fields,
  };
}

/** fd00::/64, stateful; machines that nobody has added are known to be absent. */
export function subnetV6(
  fields: Partial<DhcpV6SubnetFact> = {},
): DhcpV6SubnetFact & { hosts: Map<string, TestFact<DhcpV6HostFact>> } {
  const hosts = new Map<string, TestFact<DhcpV6HostFact>>();
  return {
    id: 'subnet6',
    enabled: true,
    address: parseIpv6('fd00::')!,
    prefix: 64,
    addressing: 'stateful',
    dnsServers: [],
    domainSearch: [],
    preferredLifetime: 43_200,
    validLifetime: 86_400,
    gateway: undefined,
    mtu: undefined,
    advertisement: undefined,
    hosts,
    host: (duid) => hosts.get(duid) ?? fact<DhcpV6HostFact>(`host ${duid}`, null),
    ...fields,
  };
}

/** A frame with a DHCP message of a client that has no address. */
export function dhcpFrame(mac: number, payload: Uint8Array, dst = 0xffff_ffff_ffff): Uint8Array {
  return buildEthernet(
    { dst, src: mac, type: EtherType.IPV4 },
    buildIpv4(
      { src: 0, dst: 0xffff_ffff, protocol: IpProtocol.UDP },
      buildUdp(DHCP_CLIENT_PORT, DHCP_SERVER_PORT, payload),
    ),
  );
}

/** A frame with a DHCPv6 message from the client's link-local address. */
export function dhcpV6Frame(mac: number, message: DhcpV6Message): Uint8Array {
  return buildEthernet(
    { dst: ALL_SERVERS_MAC, src: mac, type: EtherType.IPV6 },
    buildIpv6(
      { src: linkLocalAddress(mac), dst: ALL_SERVERS, protocol: IpProtocol.UDP },
      buildUdp(DHCPV6_CLIENT_PORT, DHCPV6_SERVER_PORT, buildDhcpV6(message)),
    ),
  );
}
