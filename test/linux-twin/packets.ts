import { MAC_BROADCAST, parseMac } from '../../src/packet/address.js';
import { readU16, readU32, readU48, writeU32 } from '../../src/packet/big-endian.js';
import { checksum, pseudoHeaderIpv4, pseudoHeaderIpv6, transportChecksumValid } from '../../src/packet/checksum.js';
import { buildEthernet, ETHERNET_HEADER, EtherType } from '../../src/packet/ethernet.js';
import {
  buildIcmp,
  buildIcmpError,
  IcmpType,
  icmpMessage,
  isIcmpError,
  UnreachableCode,
} from '../../src/packet/icmp.js';
import { buildIcmpv6Error, Icmpv6Type, isIcmpv6Error, Unreachable6Code } from '../../src/packet/icmpv6.js';
import { cidrContains, formatIp, type Ip, parseCidr, parseIp } from '../../src/packet/ip.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4 } from '../../src/packet/ipv4.js';
import { buildIpv6 } from '../../src/packet/ipv6.js';
import { buildTcp, TcpFlag } from '../../src/packet/tcp.js';
import { buildUdp } from '../../src/packet/udp.js';
import type { Dice } from '../dice.js';
import { type Network, OUTSIDE, type PodSpec, SERVICE_PORTS } from './network.js';

/** A packet as its headers say. */
export interface Packet {
  readonly source: Ip;
  readonly destination: Ip;
  /** TTL or hop limit. */
  readonly ttl: number;
  readonly content: Content;
}

export type Content =
  | { readonly type: 'tcp'; readonly srcPort: number; readonly dstPort: number; readonly flags: number }
  | { readonly type: 'udp'; readonly srcPort: number; readonly dstPort: number }
  | { readonly type: 'echo'; readonly isReply: boolean; readonly identifier: number }
  | { readonly type: 'icmp'; readonly icmpType: number; readonly icmpCode: number }
  | { readonly type: 'error'; readonly icmpType: number; readonly icmpCode: number; readonly quoted: Packet }
  | { readonly type: 'other'; readonly protocol: number };

/** A packet on a wire, by its number. */
export interface Seen {
  readonly number: number;
  readonly srcMac: number;
  readonly dstMac: number;
  readonly packet: Packet;
}

/** A protocol that nothing knows anything of (RFC 3692). */
const EXPERIMENTAL = 253;
/** The last eight bytes of all packets: this, and their number. An error ends with the packet that it is about. */
const MARK = 0x7477_696e;
/** An ICMP type that asks something, but nothing that anybody answers here. */
const OTHER_ICMP = { 4: IcmpType.ECHO_REPLY, 6: 200 } as const;

export function frameOf(dstMac: number, srcMac: number, packet: Packet, number: number): Uint8Array {
  const type = packet.source.family === 4 ? EtherType.IPV4 : EtherType.IPV6;
  return buildEthernet({ dst: dstMac, src: srcMac, type }, bytesOf(packet, number));
}

function bytesOf({ source, destination, ttl, content }: Packet, number: number): Uint8Array {
  const mark = new Uint8Array(8);
  writeU32(mark, 0, MARK);
  writeU32(mark, 4, number);
  const isIpv4 = source.family === 4;
  const icmp = (type: number, code: number, rest: number, payload: Uint8Array) => ({
    protocol: isIpv4 ? IpProtocol.ICMP : IpProtocol.ICMPV6,
    payload: isIpv4 ? buildIcmp(type, code, rest, payload) : icmpMessage(type, code, rest, payload),
  });
  const build = (): { protocol: number; payload: Uint8Array } => {
    switch (content.type) {
      case 'tcp': {
        // Each side has sent one segment, with the mark in it, before it sends another.
        const next = number + 1 + mark.length;
        const isFirst = (content.flags & TcpFlag.SYN) !== 0;
        const numbers = { seq: isFirst ? number : next, ack: content.flags === TcpFlag.SYN ? 0 : next };
        return { protocol: IpProtocol.TCP, payload: buildTcp({ ...content, ...numbers }, mark) };
      }
      case 'udp':
        return { protocol: IpProtocol.UDP, payload: buildUdp(content.srcPort, content.dstPort, mark) };
      case 'echo': {
        const [request, reply] = isIpv4
          ? [IcmpType.ECHO_REQUEST, IcmpType.ECHO_REPLY]
          : [Icmpv6Type.ECHO_REQUEST, Icmpv6Type.ECHO_REPLY];
        return icmp(content.isReply ? reply : request, 0, ((content.identifier << 16) | 1) >>> 0, mark);
      }
      case 'icmp':
        return icmp(content.icmpType, content.icmpCode, 0, mark);
      case 'error':
        return icmp(content.icmpType, content.icmpCode, 0, bytesOf(content.quoted, number));
      case 'other':
        return { protocol: content.protocol, payload: mark };
    }
  };
  const { protocol, payload } = build();
  return isIpv4
    ? buildIpv4({ src: source.words[0], dst: destination.words[0], protocol, ttl }, payload)
    : buildIpv6({ src: source.words, dst: destination.words, protocol, hopLimit: ttl }, payload);
}

/** What is in a frame; undefined of what no packet of the test's has brought about. @throws Error about a wrong checksum */
export function parseFrame(frame: Uint8Array): Seen | undefined {
  const type = readU16(frame, 12);
  if (type !== EtherType.IPV4 && type !== EtherType.IPV6) return undefined;
  const at = frame.length - 8;
  if (at < ETHERNET_HEADER + 20 || readU32(frame, at) !== MARK) return undefined;
  const packet = parsePacket(frame, ETHERNET_HEADER, true);
  if (packet === undefined) return undefined;
  return { number: readU32(frame, at + 4), dstMac: readU48(frame, 0), srcMac: readU48(frame, 6), packet };
}

function parsePacket(bytes: Uint8Array, at: number, isWhole: boolean): Packet | undefined {
  const isIpv4 = bytes[at] >>> 4 === 4;
  const words = (offset: number) =>
    isIpv4 ? [readU32(bytes, offset)] : [0, 4, 8, 12].map((i) => readU32(bytes, offset + i));
  const family = isIpv4 ? 4 : 6;
  const source: Ip = { family, words: words(at + (isIpv4 ? 12 : 8)) };
  const destination: Ip = { family, words: words(at + (isIpv4 ? 16 : 24)) };
  const protocol = bytes[at + (isIpv4 ? 9 : 6)];
  const transport = at + (isIpv4 ? 20 : 40);
  const end = isIpv4 ? at + readU16(bytes, at + 2) : transport + readU16(bytes, at + 4);
  if (end !== bytes.length) throw new Error('the length in a header is wrong');
  if (isIpv4 && checksum(bytes, at, transport) !== 0) throw new Error('the checksum of an IPv4 header is wrong');
  const pseudo = isIpv4
    ? pseudoHeaderIpv4(source.words[0], destination.words[0], protocol, end - transport)
    : pseudoHeaderIpv6(source.words, destination.words, protocol, end - transport);
  // What is quoted is as the router had it, which may have translated it in part only.
  if (isWhole && !transportChecksumValid(bytes, transport, end, protocol, pseudo)) {
    throw new Error(`the checksum of a packet of protocol ${protocol} is wrong`);
  }
  const content = parseContent(bytes, transport, protocol, isIpv4);
  return content && { source, destination, ttl: bytes[at + (isIpv4 ? 8 : 7)], content };
}

function parseContent(bytes: Uint8Array, at: number, protocol: number, isIpv4: boolean): Content | undefined {
  switch (protocol) {
    case IpProtocol.TCP:
      return { type: 'tcp', srcPort: readU16(bytes, at), dstPort: readU16(bytes, at + 2), flags: bytes[at + 13] };
    case IpProtocol.UDP:
      return { type: 'udp', srcPort: readU16(bytes, at), dstPort: readU16(bytes, at + 2) };
    case IpProtocol.ICMP:
    case IpProtocol.ICMPV6: {
      const [icmpType, icmpCode] = [bytes[at], bytes[at + 1]];
      const [request, reply] = isIpv4
        ? [IcmpType.ECHO_REQUEST, IcmpType.ECHO_REPLY]
        : [Icmpv6Type.ECHO_REQUEST, Icmpv6Type.ECHO_REPLY];
      if (icmpType === request || icmpType === reply) {
        return { type: 'echo', isReply: icmpType === reply, identifier: readU16(bytes, at + 4) };
      }
      // Linux tells of a better router, of IPv6 whatever it is told; here nobody does.
      if (!isIpv4 && icmpType === REDIRECT) return undefined;
      if (isIpv4 ? !isIcmpError(icmpType) : !isIcmpv6Error(icmpType)) return { type: 'icmp', icmpType, icmpCode };
      const quoted = parsePacket(bytes, at + 8, false);
      return quoted && { type: 'error', icmpType, icmpCode, quoted };
    }
    default:
      return { type: 'other', protocol };
  }
}

const REDIRECT = 137;

/** In one line. */
export function describePacket({ source, destination, ttl, content }: Packet): string {
  return `${formatIp(source)} > ${formatIp(destination)} ttl ${ttl} ${describeContent(content)}`;
}

function describeContent(content: Content): string {
  switch (content.type) {
    case 'tcp':
      return `tcp ${content.srcPort} > ${content.dstPort} flags ${content.flags.toString(16)}`;
    case 'udp':
      return `udp ${content.srcPort} > ${content.dstPort}`;
    case 'echo':
      return `echo ${content.isReply ? 'reply' : 'request'} ${content.identifier}`;
    case 'icmp':
      return `icmp ${content.icmpType}/${content.icmpCode}`;
    case 'error':
      return `error ${content.icmpType}/${content.icmpCode} about [${describePacket(content.quoted)}]`;
    case 'other':
      return `protocol ${content.protocol}`;
  }
}

/** A packet that a pod sends to one of its neighbours. */
export interface Sent {
  readonly pod: PodSpec;
  readonly dstMac: number;
  readonly packet: Packet;
}

/** Random packets to where something is decided. */
export function randomPacket(dice: Dice, network: Network, number: number): Sent {
  const pod = dice.pick(network.pods)!;
  const family = dice.chance(50) ? 4 : 6;
  const own = parseIp(family === 4 ? pod.ipv4 : pod.ipv6)!;
  const source = dice.chance(94) ? own : near(dice, parseIp(OUTSIDE[family])!);
  const destination = randomDestination(dice, network, family);
  const ttl = dice.pick([64, 64, 64, 64, 64, 64, 255, 3, 2, 1])!;
  const gateway = dice.chance(96) ? nextMac(network, pod, destination) : strangeMac(dice, network);
  return { pod, dstMac: gateway, packet: { source, destination, ttl, content: randomContent(dice, family, number) } };
}

function randomContent(dice: Dice, family: 4 | 6, number: number): Content {
  // Each a connection of its own.
  const srcPort = 1100 + (number & 0xfff);
  const dstPort = dice.below(SERVICE_PORTS);
  switch (dice.below(10)) {
    case 0:
    case 1:
    case 2:
      return { type: 'tcp', srcPort, dstPort, flags: dice.chance(90) ? TcpFlag.SYN : TcpFlag.ACK };
    case 3:
    case 4:
    case 5:
      return { type: 'udp', srcPort, dstPort };
    case 6:
    case 7:
      return { type: 'echo', isReply: false, identifier: srcPort };
    case 8:
      return { type: 'other', protocol: EXPERIMENTAL };
    default:
      return dice.chance(50)
        ? { type: 'echo', isReply: true, identifier: srcPort }
        : { type: 'icmp', icmpType: OTHER_ICMP[family], icmpCode: 0 };
  }
}

function randomDestination(dice: Dice, network: Network, family: 4 | 6): Ip {
  const at = family === 4 ? 0 : 1;
  const parse = (text: string) => parseIp(text)!;
  const pod = dice.pick(network.pods)!;
  const router = dice.pick(network.routers)!;
  const port = dice.pick(router.ports)!;
  const isOfFamily = (text: string) => text.includes(':') === (family === 6);
  const translated = network.routers
    .flatMap(({ nat }) => nat.map((rule) => (rule.type === 'dnat' ? rule.destination : rule.address)))
    .filter(isOfFamily);
  const address = translated.length > 0 && dice.chance(25) ? dice.pick(translated) : undefined;
  if (address !== undefined) return parse(address);
  switch (dice.below(10)) {
    case 0:
      return parse(port.subnets[at].split('/')[0]);
    case 1:
    case 2:
      return near(dice, parse(OUTSIDE[family]));
    case 3: {
      const route = dice.pick(router.routes.filter(({ destination }) => isOfFamily(destination)))!;
      return near(dice, parseCidr(route.destination)!);
    }
    case 4:
      // Nobody has it.
      return dice.chance(50) ? near(dice, parseCidr(pod.subnets[at])!) : parse(dice.pick(SPECIAL[family])!);
    default:
      return parse(at === 0 ? pod.ipv4 : pod.ipv6);
  }
}

/** Addresses that are no machine's. */
const SPECIAL = {
  4: ['10.1.1.255', '10.2.1.255', '10.1.7.7', '255.255.255.255', '224.0.0.5', '127.0.0.1', '0.0.0.0', '198.51.100.1'],
  6: ['fd00:1:7::7', '2001:db8:1::1', 'ff02::1', '::1', 'ff0e::5'],
} as const;

/** An address a few numbers behind another. */
function near(dice: Dice, { family, words }: Ip): Ip {
  const last = words.length - 1;
  const offset = dice.pick([1, 2, 16, 77, 78, 129, 200])!;
  // IPv6: also in another network of the range.
  const moved = family === 6 && dice.chance(40) ? [1, dice.pick([0x0010_0000, 0x8000_0000, 0x1000])!] : undefined;
  return {
    family,
    words: words.map((word, i) => {
      if (i === last) return (word + offset) >>> 0;
      return moved !== undefined && i === moved[0] ? (word | moved[1]) >>> 0 : word;
    }),
  };
}

/** To whom a pod gives a packet: its neighbour, or its router. */
export function nextMac(network: Network, pod: PodSpec, destination: Ip): number {
  const text = formatIp(destination);
  const neighbor = network.pods.find(
    ({ bridge, ipv4, ipv6 }) => bridge === pod.bridge && (ipv4 === text || ipv6 === text),
  );
  return parseMac(neighbor?.mac ?? pod.gateway)!;
}

function strangeMac(dice: Dice, network: Network): number {
  const gateway = parseMac(dice.pick(dice.pick(network.bridges)!.gateways)!)!;
  return dice.pick([gateway, gateway, MAC_BROADCAST, 0x0200_0000_9999])!;
}

/** How a pod answers what it has got, and nothing where there is no answer to it. `choice` tells the ways apart. */
export function answerTo(network: Network, pod: PodSpec, frame: Uint8Array, choice: number): Sent | undefined {
  const seen = parseFrame(frame);
  if (seen === undefined || seen.dstMac !== parseMac(pod.mac)) return undefined;
  const { source, destination } = seen.packet;
  const packet = answerPacket(seen.packet, frame, choice);
  if (packet === undefined) return undefined;
  return {
    pod,
    dstMac: nextMac(network, pod, source),
    packet: { ...packet, source: destination, destination: source },
  };
}

function answerPacket(packet: Packet, frame: Uint8Array, choice: number): Packet | undefined {
  const { content } = packet;
  if (content.type === 'error') return undefined;
  if (choice === 0) return refusal(packet, frame);
  const answer = (content: Content): Packet => ({ ...packet, ttl: 64, content });
  switch (content.type) {
    case 'tcp': {
      const { srcPort, dstPort, flags } = content;
      const isFirst = flags === TcpFlag.SYN;
      return answer({
        type: 'tcp',
        srcPort: dstPort,
        dstPort: srcPort,
        flags: (isFirst ? TcpFlag.SYN : 0) | TcpFlag.ACK,
      });
    }
    case 'udp':
      return answer({ type: 'udp', srcPort: content.dstPort, dstPort: content.srcPort });
    case 'echo':
      return content.isReply ? undefined : answer({ ...content, isReply: true });
    default:
      return answer(content);
  }
}

/** That nobody listens there. */
function refusal(packet: Packet, frame: Uint8Array): Packet | undefined {
  const { source, destination } = packet;
  const bytes =
    source.family === 4
      ? buildIcmpError(IcmpType.UNREACHABLE, UnreachableCode.PORT, destination.words[0], frame, ETHERNET_HEADER)
      : buildIcmpv6Error(Icmpv6Type.UNREACHABLE, Unreachable6Code.PORT, destination.words, frame, ETHERNET_HEADER);
  return bytes && parsePacket(bytes, 0, true);
}

/** Whether the pod's own network has the address. */
export function isNearby(pod: PodSpec, address: Ip): boolean {
  return pod.subnets.some((subnet) => cidrContains(parseCidr(subnet)!, address));
}
