import { Frag } from '../flow/key.js';
import { type Ipv6, isMulticastIpv6, MAC_BROADCAST } from '../packet/address.js';
import { readU48 } from '../packet/big-endian.js';
import { DHCP_CLIENT_PORT, DHCP_SERVER_PORT } from '../packet/dhcp.js';
import { DHCPV6_CLIENT_PORT, DHCPV6_SERVER_PORT } from '../packet/dhcpv6.js';
import { ETHERNET_HEADER, EtherType } from '../packet/ethernet.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import { ipv6Source, newIpv6Header, parseIpv6Header } from '../packet/ipv6.js';
import { ND_HOP_LIMIT, NdType } from '../packet/nd.js';
import { type Answer, CONFIGURATION_SERVER_MAC, noAnswer } from './answer.js';
import { bitsToTell } from './condition.js';
import type { SimulationContext } from './context.js';
import type { ConfigurationRequest, Effect } from './decision.js';
import { answerDhcp, subnetOf } from './dhcp.js';
import { answerDhcpV6 } from './dhcpv6.js';
import type { DhcpSubnetFact, Fact, PortFact, ServedFact } from './fact.js';
import { answerSolicitation } from './router-advertisement.js';

/** 33:33:00:01:00:02, of ff02::1:2, to which DHCPv6 clients send (RFC 8415 section 7.1, RFC 2464 section 7). */
const ALL_DHCP_SERVERS_MAC = 0x3333_0001_0002;
/** 33:33:00:00:00:02, of ff02::2, to which router solicitations go (RFC 4861 section 4.1). */
const ALL_ROUTERS_MAC = 0x3333_0000_0002;

/** Offset of the source address in a frame. */
const ETHERNET_SOURCE = 6;
/** Length of the message without options. */
const ROUTER_SOLICITATION = 8;

/**
 * Take a packet that comes in at an exterior port of a bridge, if it is a machine's request for configuration and the
 * bridge's subnets say that these are answered. No filter sees it, and nobody else on the bridge.
 * @returns whether it was taken
 */
export function takeConfigurationRequest(context: SimulationContext, fact: Fact<PortFact>): boolean {
  const port = context.read(fact);
  if (port === undefined || port?.type !== 'bridge' || !port.adminStateUp) return false;
  const bridge = context.read(port.bridge);
  if (!bridge?.adminStateUp) return false;
  // Only requests wait until it is known: a bridge works without.
  const served = context.peek(bridge.served);
  if (served === null) return false;
  const request = requestIn(context, served);
  if (request === undefined) return false;
  if (context.read(bridge.served) !== undefined) context.configure({ type: 'configure', bridge, port, request });
  return true;
}

/**
 * Take a packet for a router's own address, if it is a request of a machine that renews its address: where the DHCP server
 * has the address of the gateway, the machine sends it to the gateway.
 * @returns whether it was taken
 */
export function takeRenewal(context: SimulationContext): boolean {
  const port = context.ingress && context.read(context.ingress);
  if (port?.type !== 'bridge') return false;
  const bridge = context.read(port.bridge);
  const served = bridge && context.peek(bridge.served);
  if (!bridge || served === null || served?.dhcp === false) return false;
  if (!isOfType(context, EtherType.IPV4) || !isUdp(context, DHCP_CLIENT_PORT, DHCP_SERVER_PORT)) return false;
  if (context.read(bridge.served) !== undefined)
    context.configure({ type: 'configure', bridge, port, request: 'dhcp' });
  return true;
}

/** @param served what the bridge answers; undefined where it may be anything */
function requestIn(context: SimulationContext, served: ServedFact | undefined): ConfigurationRequest | undefined {
  const { packet, mask } = context;
  if (packet.vlanTci !== 0) return undefined;
  mask.seeEthDst();
  switch (packet.ethDst) {
    case MAC_BROADCAST:
    case CONFIGURATION_SERVER_MAC:
      if (served?.dhcp === false || !isOfType(context, EtherType.IPV4)) return undefined;
      return isUdp(context, DHCP_CLIENT_PORT, DHCP_SERVER_PORT) ? 'dhcp' : undefined;
    case ALL_DHCP_SERVERS_MAC:
      if (served?.dhcpV6 === false || !isOfType(context, EtherType.IPV6)) return undefined;
      return isUdp(context, DHCPV6_CLIENT_PORT, DHCPV6_SERVER_PORT) ? 'dhcpv6' : undefined;
    case ALL_ROUTERS_MAC:
      if (served?.advertisements === false || !isOfType(context, EtherType.IPV6)) return undefined;
      return isRouterSolicitation(context) ? 'router-solicitation' : undefined;
    default:
      return undefined;
  }
}

function isOfType({ packet, mask }: SimulationContext, type: number): boolean {
  mask.seeEthType();
  return packet.ethType === type;
}

/** Whether the packet, which is IP, is a whole UDP datagram between these ports. */
function isUdp({ packet, mask }: SimulationContext, src: number, dst: number): boolean {
  mask.seeNwProto();
  if (packet.nwProto !== IpProtocol.UDP) return false;
  mask.seeNwFrag();
  if (packet.nwFrag !== Frag.NONE) return false;
  mask.seeTpDst(portBits(packet.tpDst, dst));
  if (packet.tpDst !== dst) return false;
  mask.seeTpSrc(portBits(packet.tpSrc, src));
  return packet.tpSrc === src;
}

/** The bits of a port that tell whether it is the one expected. */
function portBits(port: number, expected: number): number {
  return port === expected ? 0xffff : bitsToTell(port, expected);
}

/** Whether the packet, which is IPv6, is a router solicitation from this link (RFC 4861 section 6.1.1). */
function isRouterSolicitation({ packet, mask }: SimulationContext): boolean {
  mask.seeNwProto();
  if (packet.nwProto !== IpProtocol.ICMPV6) return false;
  mask.seeNwFrag();
  if (packet.nwFrag !== Frag.NONE) return false;
  mask.seeTpSrc();
  if (packet.tpSrc !== NdType.ROUTER_SOLICITATION) return false;
  mask.seeTpDst();
  mask.seeNwTtl();
  return packet.tpDst === 0 && packet.nwTtl === ND_HOP_LIMIT;
}

/**
 * The answer to a request that was taken.
 * @param frame the packet
 * @param mtu of the largest packet that fits the underlay, encapsulated
 */
export function answerConfigurationRequest(
  { bridge, port, request }: Extract<Effect, { type: 'configure' }>,
  frame: Uint8Array,
  mtu: number,
): Answer {
  const mac = readU48(frame, ETHERNET_SOURCE);
  // What is known of the machine behind the port is said to no other.
  const own = port.mac === mac ? (port.addresses ?? []) : [];
  switch (request) {
    case 'dhcp':
      return withSubnets(bridge.dhcpSubnets, (subnets) => {
        const addresses = own.filter(({ length }) => length === 1).map((words) => words[0]);
        return answerKnownMachine(frame, subnets, { mac, addresses }, mtu);
      });
    case 'dhcpv6':
      return withSubnets(bridge.dhcpV6Subnets, (subnets) => {
        const served = subnets.filter(({ addressing }) => addressing !== 'slaac');
        return answerDhcpV6(frame, { subnets: served, addresses: own.filter(({ length }) => length === 4) });
      });
    case 'router-solicitation': {
      const address = solicitor(frame);
      return address === undefined ? noAnswer('malformed') : answerSolicitation(bridge, { mac, address }, mtu);
    }
  }
}

/** Answer by the enabled subnets of a bridge. */
function withSubnets<T extends { readonly enabled: boolean }>(
  fact: Fact<readonly T[]>,
  answer: (subnets: readonly T[]) => Answer,
): Answer {
  if (fact.value === undefined) return { type: 'wait', missing: [fact] };
  return answer((fact.value ?? []).filter(({ enabled }) => enabled));
}

/** Answer by the first subnet that knows the machine, or else by the machine's own address in one. */
function answerKnownMachine(
  frame: Uint8Array,
  subnets: readonly DhcpSubnetFact[],
  machine: { readonly mac: number; readonly addresses: readonly number[] },
  mtu: number,
): Answer {
  const hosts = subnets.map((subnet) => subnet.host(machine.mac));
  const missing = hosts.filter(({ value }) => value === undefined);
  if (missing.length > 0) return { type: 'wait', missing };
  const index = hosts.findIndex(({ value }) => value);
  const host = hosts[index]?.value ?? undefined;
  const found =
    host === undefined ? subnetOf(subnets, machine.addresses) : { subnet: subnets[index], address: host.address };
  if (found === undefined) return noAnswer('unknown-machine');
  const answer = answerDhcp(frame, { ...found, host }, mtu);
  if (answer.type !== 'frame') return answer;
  return { ...answer, renewal: { facts: hosts, seconds: found.subnet.leaseSeconds } };
}

/** Who sent a router solicitation; undefined if it is malformed (RFC 4861 section 6.1.1). */
function solicitor(frame: Uint8Array): Ipv6 | undefined {
  const ip = newIpv6Header();
  if (!parseIpv6Header(frame, ETHERNET_HEADER, ip) || !ip.complete) return undefined;
  if (ip.payload + ROUTER_SOLICITATION > ip.end) return undefined;
  const src = ipv6Source(frame, ETHERNET_HEADER);
  return isMulticastIpv6(src) ? undefined : src;
}
