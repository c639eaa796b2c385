import { ipv4Broadcast, ipv4CidrContains, ipv4PrefixMask } from '../packet/address.js';
import { readU16, writeU16, writeU32 } from '../packet/big-endian.js';
import {
  buildDhcpReply,
  classlessRoutes,
  DHCP_SERVER_PORT,
  type DhcpMessage,
  DhcpMessageType,
  DhcpOption,
  dhcpOptionU32,
  parseDhcp,
} from '../packet/dhcp.js';
import { ETHERNET_HEADER, type EthernetHeader, EtherType, parseEthernet } from '../packet/ethernet.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import { newIpv4Header, parseIpv4Header } from '../packet/ipv4.js';
import { parseUdpHeader, UDP_HEADER } from '../packet/udp.js';
import { type Answer, CONFIGURATION_SERVER_MAC, noAnswer } from './answer.js';
import type { DhcpHostFact, DhcpSubnetFact } from './fact.js';

/** What is said where neither the subnet nor its gateway has an address for the server: link-local, RFC 3927. */
const DEFAULT_SERVER_ADDRESS = 0xa9fe_0101;

/** The largest MTU that is announced when the subnet does not name one. MidoNet's value. */
const DEFAULT_MTU = 1500;

/** A client takes messages of so many bytes if it does not say otherwise, with the headers of IP and UDP (RFC 2131 section 2). */
const DEFAULT_MAX_MESSAGE = 576;
const IP_AND_UDP = 28;

/** The part of a message that is always there: fixed fields, magic number, message type, server identifier, end. */
const MESSAGE_WITHOUT_OPTIONS = 236 + 4 + 3 + 6 + 1;

/** What a machine is given. */
export interface DhcpAssignment {
  readonly subnet: DhcpSubnetFact;
  readonly address: number;
  /** What the subnet knows of the machine; undefined for one that is known by its port only. */
  readonly host: DhcpHostFact | undefined;
}

/**
 * Answer the frame of a DHCP client that has this assignment (RFC 2131 section 4.3).
 * @param mtu of the largest packet that fits the underlay, encapsulated
 */
export function answerDhcp(frame: Uint8Array, assignment: DhcpAssignment, mtu: number): Answer {
  const ethernet: EthernetHeader = { dst: 0, src: 0, type: 0 };
  const message = parseEthernet(frame, ethernet) ? readMessage(frame, ethernet.type) : undefined;
  // Of another machine's hardware address only that machine may ask for.
  if (message === undefined || message.reply || message.clientMac !== ethernet.src) return noAnswer('malformed');
  if (message.relayAddress !== 0) return noAnswer('relayed');
  switch (message.type) {
    case DhcpMessageType.DISCOVER:
      return reply(message, DhcpMessageType.OFFER, assignment, mtu);
    case DhcpMessageType.REQUEST: {
      // Selecting and after a restart it is in the option, else in the header (RFC 2131 section 4.3.2).
      const wanted = dhcpOptionU32(message, DhcpOption.REQUESTED_ADDRESS) ?? message.clientAddress;
      const isOurs = wanted === 0 || wanted === assignment.address;
      return reply(message, isOurs ? DhcpMessageType.ACK : DhcpMessageType.NAK, assignment, mtu);
    }
    case DhcpMessageType.INFORM:
      return reply(message, DhcpMessageType.ACK, assignment, mtu);
    case DhcpMessageType.DECLINE:
      return noAnswer('declined');
    case DhcpMessageType.RELEASE:
      return noAnswer('released');
    default:
      return noAnswer('not-a-request');
  }
}

function readMessage(frame: Uint8Array, etherType: number): DhcpMessage | undefined {
  const ip = newIpv4Header();
  if (etherType !== EtherType.IPV4 || !parseIpv4Header(frame, ETHERNET_HEADER, ip)) return undefined;
  if (ip.protocol !== IpProtocol.UDP || ip.moreFragments || ip.fragmentOffset !== 0) return undefined;
  const udp = { srcPort: 0, dstPort: 0, length: 0, checksum: 0 };
  if (!parseUdpHeader(frame, ip.payload, ip.end, udp) || udp.dstPort !== DHCP_SERVER_PORT) return undefined;
  return parseDhcp(frame, ip.payload + UDP_HEADER, Math.min(ip.end, ip.payload + udp.length));
}

function reply(message: DhcpMessage, type: number, assignment: DhcpAssignment, mtu: number): Answer {
  const { subnet, address } = assignment;
  const isNak = type === DhcpMessageType.NAK;
  const isInform = message.type === DhcpMessageType.INFORM;
  const options = isNak ? new Map<number, Uint8Array>() : assignedOptions(assignment, mtu);
  if (isInform) for (const code of LEASE_OPTIONS) options.delete(code);
  const clientId = message.options.get(DhcpOption.CLIENT_ID);
  // The client's own goes back as it came (RFC 6842 section 3).
  const all = clientId === undefined ? options : new Map([...options, [DhcpOption.CLIENT_ID, clientId]]);
  const frame = buildDhcpReply(message, {
    type,
    serverMac: CONFIGURATION_SERVER_MAC,
    serverAddress: dhcpServerAddress(subnet),
    yourAddress: isNak || isInform ? 0 : address,
    options: fitting(all, maxMessage(message, mtu)),
  });
  return { type: 'frame', frame };
}

/** The address by which a subnet's machines know the server. */
export function dhcpServerAddress({ serverAddress, gateway }: DhcpSubnetFact): number {
  return serverAddress ?? gateway ?? DEFAULT_SERVER_ADDRESS;
}

/** What concerns the time for which an address is given, which nobody has to hear who has one already (RFC 2131 section 4.3.5). */
const LEASE_OPTIONS = [DhcpOption.LEASE_TIME, DhcpOption.RENEWAL_TIME, DhcpOption.REBINDING_TIME];

/** The options that go with an assignment, in the order of importance: the last ones are left out where there is no room. */
function assignedOptions({ subnet, host, address }: DhcpAssignment, mtu: number): Map<number, Uint8Array> {
  const options = new Map<number, Uint8Array>([
    [DhcpOption.LEASE_TIME, u32(subnet.leaseSeconds)],
    [DhcpOption.SUBNET_MASK, u32(ipv4PrefixMask(subnet.prefix))],
    [DhcpOption.INTERFACE_MTU, u16(Math.min(subnet.mtu ?? DEFAULT_MTU, mtu))],
  ]);
  if (subnet.gateway !== undefined) options.set(DhcpOption.ROUTER, u32(subnet.gateway));
  if (subnet.routes.length > 0) {
    // Clients that take these ignore the router option (RFC 3442 page 5).
    const viaGateway = subnet.gateway === undefined ? [] : [{ address: 0, prefix: 0, router: subnet.gateway }];
    options.set(DhcpOption.CLASSLESS_ROUTES, classlessRoutes([...subnet.routes, ...viaGateway]));
  }
  if (subnet.dnsServers.length > 0) options.set(DhcpOption.DNS_SERVERS, u32(...subnet.dnsServers));
  options.set(DhcpOption.BROADCAST_ADDRESS, u32(ipv4Broadcast(address, subnet.prefix)));
  if (subnet.domainName !== undefined) options.set(DhcpOption.DOMAIN_NAME, text(subnet.domainName));
  if (host?.name !== undefined) options.set(DhcpOption.HOST_NAME, text(host.name));
  for (const [code, value] of host?.options ?? []) options.set(code, value);
  return options;
}

/** How many bytes the message may have so that the client takes it and the network carries it. */
function maxMessage(message: DhcpMessage, mtu: number): number {
  const told = message.options.get(DhcpOption.MAX_MESSAGE_SIZE);
  const size = told?.length === 2 ? Math.max(readU16(told, 0), DEFAULT_MAX_MESSAGE) : DEFAULT_MAX_MESSAGE;
  return Math.min(size, Math.max(mtu, DEFAULT_MAX_MESSAGE)) - IP_AND_UDP;
}

/** The options that there is room for. */
function fitting(options: ReadonlyMap<number, Uint8Array>, maxLength: number): Map<number, Uint8Array> {
  let room = maxLength - MESSAGE_WITHOUT_OPTIONS;
  const taken = new Map<number, Uint8Array>();
  for (const [code, value] of options) {
    // A long one goes in parts of 255 bytes, each with a header of its own.
    const length = value.length + 2 * Math.max(1, Math.ceil(value.length / 255));
    if (length > room) continue;
    room -= length;
    taken.set(code, value);
  }
  return taken;
}

/** The subnet, of those in order, that the machine's own address is in. */
export function subnetOf(
  subnets: readonly DhcpSubnetFact[],
  addresses: readonly number[],
): { subnet: DhcpSubnetFact; address: number } | undefined {
  for (const subnet of subnets) {
    const address = addresses.find((candidate) => ipv4CidrContains(subnet, candidate));
    if (address !== undefined) return { subnet, address };
  }
  return undefined;
}

function u32(...values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(4 * values.length);
  for (const [i, value] of values.entries()) writeU32(bytes, 4 * i, value);
  return bytes;
}

function u16(value: number): Uint8Array {
  const bytes = new Uint8Array(2);
  writeU16(bytes, 0, value);
  return bytes;
}

function text(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}
