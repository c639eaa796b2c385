import { readU16, readU32 } from '../../packet/big-endian.js';
import { buildEthernet, ETHERNET_HEADER, EtherType } from '../../packet/ethernet.js';
import { ICMP_HEADER, IcmpType, UnreachableCode } from '../../packet/icmp.js';
import { Icmpv6Type } from '../../packet/icmpv6.js';
import { IpProtocol } from '../../packet/ip-protocol.js';
import { buildIpv4, newIpv4Header, parseIpv4Header } from '../../packet/ipv4.js';
import { buildIpv6, ipv6Destination, ipv6Source, newIpv6Header, parseIpv6Header } from '../../packet/ipv6.js';
import { buildSctpInit, parseSctpHeader, SctpChunk } from '../../packet/sctp.js';
import { buildTcp, newTcpHeader, parseTcpHeader, TcpFlag } from '../../packet/tcp.js';
import { buildUdp } from '../../packet/udp.js';

/** Addresses and ports of a question to a member: one word of IPv4, four of IPv6. */
export interface HealthPath {
  readonly protocol: number;
  readonly src: readonly number[];
  readonly srcPort: number;
  readonly dst: readonly number[];
  readonly dstPort: number;
}

/** A question to a member whether it takes connections. */
export interface HealthQuestion extends HealthPath {
  /**
   * 32 bits, not zero: the sequence number of TCP, the tag of SCTP. The lower 16 are in the IP header, too, since all ICMP errors
   * quote that.
   */
  readonly token: number;
}

/** What came back. */
export interface HealthAnswer {
  /** Of the question. */
  readonly path: HealthPath;
  /** The token of the question: all of it, or (of an ICMP error) the lower 16 bits. */
  readonly token: number;
  /** `unreachable`: an ICMP error, of the member or on the way to it. */
  readonly verdict: 'accepted' | 'refused' | 'unreachable';
}

/** Lower bits of a token that every answer has. */
export const SHORT_TOKEN = 0xffff;

/** A segment that opens a connection, an INIT of SCTP, or an empty datagram of UDP. */
export function buildQuestion(question: HealthQuestion, srcMac: number, dstMac: number): Uint8Array {
  return frameOf(question, question.token & SHORT_TOKEN, payloadOf(question), srcMac, dstMac);
}

function payloadOf({ protocol, srcPort, dstPort, token }: HealthQuestion): Uint8Array {
  switch (protocol) {
    case IpProtocol.TCP:
      return buildTcp({ srcPort, dstPort, seq: token, flags: TcpFlag.SYN });
    case IpProtocol.SCTP:
      return buildSctpInit(srcPort, dstPort, token);
    default:
      return buildUdp(srcPort, dstPort);
  }
}

/** Ends what a question of TCP has begun, before the member's service hears of it (RFC 9293 section 3.10.7.4). */
export function buildReset({ token, ...path }: HealthQuestion, srcMac: number, dstMac: number): Uint8Array {
  const { srcPort, dstPort } = path;
  const segment = buildTcp({ srcPort, dstPort, seq: (token + 1) >>> 0, flags: TcpFlag.RST });
  return frameOf(path, 0, segment, srcMac, dstMac);
}

function frameOf(
  { protocol, src, dst }: HealthPath,
  id: number,
  payload: Uint8Array,
  srcMac: number,
  dstMac: number,
): Uint8Array {
  const isIpv4 = src.length === 1;
  const packet = isIpv4
    ? buildIpv4({ src: src[0], dst: dst[0], protocol, id }, payload)
    : buildIpv6({ src, dst, protocol, flowLabel: id }, payload);
  return buildEthernet({ src: srcMac, dst: dstMac, type: isIpv4 ? EtherType.IPV4 : EtherType.IPV6 }, packet);
}

/** An IP packet in a frame, or in an ICMP error. */
interface IpPacket {
  readonly protocol: number;
  readonly src: readonly number[];
  readonly dst: readonly number[];
  readonly id: number;
  readonly payload: number;
  readonly end: number;
}

/** What a frame without a VLAN tag says to a question; undefined if nothing. */
export function parseAnswer(frame: Uint8Array): HealthAnswer | undefined {
  if (frame.length < ETHERNET_HEADER) return undefined;
  const isIpv4 = readU16(frame, ETHERNET_HEADER - 2) === EtherType.IPV4;
  const packet = parseIp(frame, ETHERNET_HEADER, isIpv4);
  if (packet === undefined) return undefined;
  switch (packet.protocol) {
    case IpProtocol.TCP:
      return tcpAnswer(frame, packet);
    case IpProtocol.SCTP:
      return sctpAnswer(frame, packet);
    case isIpv4 ? IpProtocol.ICMP : IpProtocol.ICMPV6:
      return icmpAnswer(frame, packet, isIpv4);
    default:
      return undefined;
  }
}

function tcpAnswer(frame: Uint8Array, packet: IpPacket): HealthAnswer | undefined {
  const tcp = newTcpHeader();
  if (!parseTcpHeader(frame, packet.payload, packet.end, tcp) || (tcp.flags & TcpFlag.ACK) === 0) return undefined;
  const path = reversed(packet, tcp);
  const token = (tcp.ack - 1) >>> 0;
  if ((tcp.flags & TcpFlag.RST) !== 0) return { path, token, verdict: 'refused' };
  return (tcp.flags & TcpFlag.SYN) === 0 ? undefined : { path, token, verdict: 'accepted' };
}

function sctpAnswer(frame: Uint8Array, packet: IpPacket): HealthAnswer | undefined {
  const sctp = parseSctpHeader(frame, packet.payload, packet.end);
  if (sctp === undefined) return undefined;
  const path = reversed(packet, sctp);
  const token = sctp.verificationTag;
  if (sctp.chunk === SctpChunk.ABORT) return { path, token, verdict: 'refused' };
  return sctp.chunk === SctpChunk.INIT_ACK ? { path, token, verdict: 'accepted' } : undefined;
}

function icmpAnswer(frame: Uint8Array, { payload: at }: IpPacket, isIpv4: boolean): HealthAnswer | undefined {
  if (at + ICMP_HEADER > frame.length) return undefined;
  const [type, code] = [frame[at], frame[at + 1]];
  const isUnreachable = isIpv4
    ? type === IcmpType.UNREACHABLE && code !== UnreachableCode.FRAGMENTATION_NEEDED
    : type === Icmpv6Type.UNREACHABLE;
  const about = isUnreachable ? parseIp(frame, at + ICMP_HEADER, isIpv4) : undefined;
  if (about === undefined || about.payload + 4 > frame.length) return undefined;
  const { protocol, src, dst, id, payload } = about;
  const [srcPort, dstPort] = [readU16(frame, payload), readU16(frame, payload + 2)];
  return { path: { protocol, src, dst, srcPort, dstPort }, token: id, verdict: 'unreachable' };
}

function reversed({ protocol, src, dst }: IpPacket, ports: { srcPort: number; dstPort: number }): HealthPath {
  return { protocol, src: dst, srcPort: ports.dstPort, dst: src, dstPort: ports.srcPort };
}

function parseIp(bytes: Uint8Array, at: number, isIpv4: boolean): IpPacket | undefined {
  if (isIpv4) {
    const ip = newIpv4Header();
    if (!parseIpv4Header(bytes, at, ip) || ip.fragmentOffset !== 0) return undefined;
    const { protocol, payload, end, id } = ip;
    return { protocol, src: [ip.src], dst: [ip.dst], id, payload, end };
  }
  const ip = newIpv6Header();
  if (!parseIpv6Header(bytes, at, ip) || !ip.complete) return undefined;
  const { protocol, payload, end } = ip;
  const id = readU32(bytes, at) & SHORT_TOKEN;
  return { protocol, src: ipv6Source(bytes, at), dst: ipv6Destination(bytes, at), id, payload, end };
}
