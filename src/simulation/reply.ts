import type { FlowKey } from '../flow/key.js';
import { readU32 } from '../packet/big-endian.js';
import { buildEthernet, ETHERNET_HEADER, EtherType } from '../packet/ethernet.js';
import { buildIcmpEchoReply, buildIcmpError, IcmpType, UnreachableCode } from '../packet/icmp.js';
import { buildIcmpv6EchoReply, buildIcmpv6Error, Icmpv6Type, Unreachable6Code } from '../packet/icmpv6.js';
import { popTag } from '../packet/vlan.js';
import type { Effect, Reply } from './decision.js';
import { type InterfaceAddress, isBroadcastOf, prefixContains, type RouterPortFact } from './fact.js';

/** Offsets of the source addresses in their headers (RFC 791 section 3.1, RFC 8200 section 3). */
const IPV4_SOURCE = 12;
const IPV6_SOURCE = 8;

/**
 * The frame by which a router answers the packet in `bytes`, as it came in: a VLAN tag that it had there was taken off on its way.
 * Undefined where nothing may be said: about an error, a later fragment, a packet from or to many (RFC 1812 section
 * 4.3.2.7, RFC 4443 section 2.4), or where the port has no address to say it from.
 */
export function buildReply(
  { from, to, reply }: Extract<Effect, { type: 'reply' }>,
  asReceived: Uint8Array,
): Uint8Array | undefined {
  const bytes = popTag(asReceived) ?? asReceived;
  const type = ((bytes[12] << 8) | bytes[13]) as number;
  const isIpv6 = type === EtherType.IPV6;
  const at = ETHERNET_HEADER;
  let packet: Uint8Array | undefined;
  if (reply.type === 'echo') packet = isIpv6 ? buildIcmpv6EchoReply(bytes, at) : buildIcmpEchoReply(bytes, at);
  else {
    const source = addressFacing(from, bytes, isIpv6);
    if (source === undefined || (!isIpv6 && isAboutBroadcast(from, bytes))) return undefined;
    const { icmpType, icmpCode } = reply;
    packet = isIpv6
      ? buildIcmpv6Error(icmpType, icmpCode, source.words, bytes, at)
      : buildIcmpError(icmpType, icmpCode, source.words[0], bytes, at);
  }
  return packet === undefined ? undefined : buildEthernet({ dst: to, src: from.mac, type }, packet);
}

/** Communication administratively prohibited. */
export function prohibited({ ethType }: FlowKey): Reply {
  return ethType === EtherType.IPV4
    ? { type: 'error', icmpType: IcmpType.UNREACHABLE, icmpCode: UnreachableCode.PROHIBITED }
    : { type: 'error', icmpType: Icmpv6Type.UNREACHABLE, icmpCode: Unreachable6Code.PROHIBITED };
}

/** Whether the IPv4 packet is from or to all machines of a network at the port. */
function isAboutBroadcast(port: RouterPortFact, bytes: Uint8Array): boolean {
  const at = ETHERNET_HEADER + IPV4_SOURCE;
  return isBroadcastOf(port, readU32(bytes, at)) || isBroadcastOf(port, readU32(bytes, at + 4));
}

/** The address of the port in the network of the packet's sender, or else its first one. */
function addressFacing(port: RouterPortFact, bytes: Uint8Array, isIpv6: boolean): InterfaceAddress | undefined {
  const length = isIpv6 ? 4 : 1;
  const at = ETHERNET_HEADER + (isIpv6 ? IPV6_SOURCE : IPV4_SOURCE);
  if (bytes.length < at + 4 * length) return undefined;
  const sender = Uint32Array.from({ length }, (_, i) => readU32(bytes, at + 4 * i));
  const addresses = port.addresses.filter(({ words }) => words.length === length);
  return addresses.find((address) => prefixContains(address, sender, 0)) ?? addresses[0];
}
