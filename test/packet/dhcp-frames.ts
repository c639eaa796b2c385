import { linkLocalAddress, MAC_BROADCAST, parseIpv6 } from '../../src/packet/address.js';
import { buildDhcp, DHCP_CLIENT_PORT, DHCP_SERVER_PORT } from '../../src/packet/dhcp.js';
import { buildDhcpV6, DHCPV6_CLIENT_PORT, DHCPV6_SERVER_PORT, type DhcpV6Message } from '../../src/packet/dhcpv6.js';
import { buildEthernet, EtherType } from '../../src/packet/ethernet.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildUdp } from '../../src/packet/udp.js';

/** ff02::1:2, to which DHCPv6 clients send (RFC 8415 section 7.1). */
const ALL_SERVERS = parseIpv6('ff02::1:2')!;
const ALL_SERVERS_MAC = 0x3333_0001_0002;

/** A client's message, broadcast in a frame from its MAC address (RFC 2131 section 4.1). */
export function dhcpRequest(
  type: number,
  clientMac: number,
  transaction: number,
  options: ReadonlyMap<number, Uint8Array> = new Map(),
): Uint8Array {
  const message = buildDhcp({
    reply: false,
    hops: 0,
    transaction,
    seconds: 0,
    broadcast: false,
    clientAddress: 0,
    yourAddress: 0,
    serverAddress: 0,
    relayAddress: 0,
    clientMac,
    type,
    options,
  });
  return dhcpFrame(clientMac, message);
}

/** A frame with a DHCP message of a client that has no address. */
export function dhcpFrame(mac: number, payload: Uint8Array, dst = MAC_BROADCAST): Uint8Array {
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
