import { InvalidInputError } from '../errors.js';
import { formatMac, MAC_BROADCAST, parseMac } from '../packet/address.js';
import { ArpOp } from '../packet/arp.js';
import { EtherType } from '../packet/ethernet.js';
import { formatIp, type Ip, parseIp } from '../packet/ip.js';
import { IpProtocol, PROTOCOL_NAMES } from '../packet/ip-protocol.js';
import { TcpFlag } from '../packet/tcp.js';
import { FlowKey, VLAN_PRESENT, Word } from './key.js';

/**
 * Packets as people write them: a protocol, where from and where to, then whatever else matters, in any order.
 *
 *     tcp 10.0.0.1:1234 > 10.0.0.2:80 flags syn,ack
 *     udp [fd00::1]:53 > [fd00::2]:53 vlan 7 ttl 3
 *     icmp 10.0.0.1 > 10.0.0.2 type 8 code 0
 *     arp 10.0.0.1 > 10.0.0.2 from 02:00:00:00:00:01
 *     protocol 47 10.0.0.1 > 10.0.0.2 to 02:00:00:00:00:11 tos 16
 */
export interface PacketText {
  /** The number of an IP protocol, or an ARP request. */
  readonly protocol: number | 'arp';
  /** Both of the same family. */
  readonly source: Ip;
  readonly destination: Ip;
  /** What is undefined is not said. Ports are of TCP, UDP and SCTP, the type and its code of ICMP. */
  readonly sourcePort?: number;
  readonly destinationPort?: number;
  readonly icmpType?: number;
  readonly icmpCode?: number;
  readonly sourceMac?: number;
  readonly destinationMac?: number;
  readonly vlan?: number;
  readonly ttl?: number;
  readonly tos?: number;
  /** Of TCP, see TcpFlag. */
  readonly flags?: number;
}

/** A text that describes no packet, and which part of it is at fault. */
export class PacketTextError extends InvalidInputError {
  constructor(
    text: string,
    /** Where the word that is at fault begins and ends in the text; both the length of the text where one is missing. */
    readonly start: number,
    readonly end: number,
    expected: string,
    field: string,
  ) {
    const where =
      start === end ? 'at the end' : `for ${JSON.stringify(text.slice(start, end))} at character ${start + 1}`;
    super(field, text, `expected ${expected} ${where}`);
  }
}

const FORM = 'PROTOCOL SOURCE > DESTINATION, as in tcp 10.0.0.1:1234 > 10.0.0.2:80';
const PROTOCOLS = new Map(Array.from(PROTOCOL_NAMES, ([protocol, name]) => [name, protocol]));
const WITH_PORTS: ReadonlySet<number | 'arp'> = new Set([IpProtocol.TCP, IpProtocol.UDP, IpProtocol.SCTP]);
const FLAGS = Object.entries(TcpFlag).map(([name, bit]) => [name.toLowerCase(), bit] as const);
const NO_FLAGS = 'none';
const ENDPOINT_WITH_PORT = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d+)$/;

/** Types of ICMP (RFC 792) and ICMPv6 (RFC 4443) that have names here, all with code 0. */
const ICMP_NAMES: Readonly<Record<4 | 6, Readonly<Record<string, number>>>> = {
  4: { 'echo-request': 8, 'echo-reply': 0 },
  6: { 'echo-request': 128, 'echo-reply': 129 },
};

/** @throws PacketTextError */
export function parsePacket(text: string, field = 'packet'): PacketText {
  return new Parser(text, field).packet();
}

interface Token {
  readonly text: string;
  readonly start: number;
}

class Parser {
  private readonly tokens: readonly Token[];
  private at = 0;

  constructor(
    private readonly text: string,
    private readonly field: string,
  ) {
    this.tokens = Array.from(text.matchAll(/>|[^\s>]+/g), (match) => ({ text: match[0], start: match.index }));
  }

  packet(): PacketText {
    const named = this.protocol();
    const source = this.endpoint(named);
    const arrow = this.next(`">" and the destination, in all ${FORM}`);
    if (arrow.text !== '>') throw this.fault(arrow, '">" between source and destination');
    const atDestination = this.tokens[this.at];
    const destination = this.endpoint(named);
    if (source.ip.family !== destination.ip.family) {
      throw this.fault(atDestination, `an IPv${source.ip.family} address, as the source is one,`);
    }
    if (named === 'arp' && source.ip.family === 6) {
      throw this.fault(atDestination, 'an IPv4 address, as ARP has only those,');
    }
    if (named === IpProtocol.ICMPV6 && source.ip.family === 4) {
      throw this.fault(atDestination, 'an IPv6 address, as icmpv6 has only those,');
    }
    return {
      protocol: this.inFamily(named, source.ip.family),
      source: source.ip,
      destination: destination.ip,
      ...(source.port !== undefined && { sourcePort: source.port }),
      ...(destination.port !== undefined && { destinationPort: destination.port }),
      ...this.details(named, source.ip.family),
    };
  }

  private protocol(): number | 'arp' {
    const names = [...PROTOCOLS.keys(), 'arp', 'protocol NUMBER'].join(', ');
    const token = this.next(FORM);
    if (token.text === 'arp') return 'arp';
    if (token.text === 'protocol') return this.number('protocol', 255);
    const protocol = PROTOCOLS.get(token.text);
    if (protocol === undefined) throw this.fault(token, `one of ${names}`);
    return protocol;
  }

  /** Plain `icmp` is that of the family; nobody has to write the 6. */
  private inFamily(protocol: number | 'arp', family: 4 | 6): number | 'arp' {
    return protocol === IpProtocol.ICMP && family === 6 ? IpProtocol.ICMPV6 : protocol;
  }

  private endpoint(protocol: number | 'arp'): { ip: Ip; port?: number } {
    const token = this.next(`an address, in all ${FORM}`);
    const [, bracketed, plain, digits] = ENDPOINT_WITH_PORT.exec(token.text) ?? [];
    const inBrackets = /^\[([^\]]*)\]$/.exec(token.text)?.[1];
    const ip = parseIp(bracketed ?? plain ?? inBrackets ?? token.text);
    if (ip === undefined) throw this.fault(token, 'an address such as 10.0.0.1, 10.0.0.1:80 or [fd00::1]:80');
    if (digits === undefined) return { ip };
    if (!WITH_PORTS.has(protocol))
      throw this.fault(token, 'an address without a port, as only tcp, udp and sctp have ports,');
    const port = Number(digits);
    if (port > 65_535) throw this.fault(token, 'a port from 0 to 65535');
    return { ip, port };
  }

  private details(named: number | 'arp', family: 4 | 6): Partial<PacketText> {
    const protocol = this.inFamily(named, family);
    const isIcmp = protocol === IpProtocol.ICMP || protocol === IpProtocol.ICMPV6;
    const words = ['from', 'to', 'vlan'];
    if (protocol !== 'arp') words.push('ttl', 'tos');
    if (protocol === IpProtocol.TCP) words.push('flags');
    if (isIcmp) words.push('type', 'code', ...Object.keys(ICMP_NAMES[family]));
    const found: { -readonly [F in keyof PacketText]?: PacketText[F] } = {};
    while (this.at < this.tokens.length) {
      const token = this.next('');
      if (!words.includes(token.text)) throw this.fault(token, `one of ${words.join(', ')}`);
      const set = <F extends keyof PacketText>(field: F, value: PacketText[F]) => {
        if (found[field] !== undefined) throw this.fault(token, 'nothing that was said before');
        found[field] = value;
      };
      switch (token.text) {
        case 'from':
          set('sourceMac', this.mac());
          break;
        case 'to':
          set('destinationMac', this.mac());
          break;
        case 'vlan':
          set('vlan', this.number('vlan', 4095));
          break;
        case 'ttl':
        case 'tos':
          set(token.text, this.number(token.text, 255));
          break;
        case 'flags':
          set('flags', this.flags());
          break;
        case 'type':
          set('icmpType', this.number('type', 255));
          break;
        case 'code':
          set('icmpCode', this.number('code', 255));
          break;
        default:
          set('icmpType', ICMP_NAMES[family][token.text]);
          set('icmpCode', 0);
      }
    }
    return found;
  }

  private mac(): number {
    const token = this.next('a MAC address');
    const mac = parseMac(token.text);
    if (mac === undefined) throw this.fault(token, 'a MAC address such as 02:00:00:00:00:01');
    return mac;
  }

  private number(of: string, max: number): number {
    const expected = `a whole number from 0 to ${max} after ${of}`;
    const token = this.next(expected);
    if (!/^\d{1,5}$/.test(token.text) || Number(token.text) > max) throw this.fault(token, expected);
    return Number(token.text);
  }

  private flags(): number {
    const expected = `flags with commas between them, of ${FLAGS.map(([name]) => name).join(', ')}, or ${NO_FLAGS}`;
    const token = this.next(expected);
    if (token.text === NO_FLAGS) return 0;
    let flags = 0;
    for (const word of token.text.split(',')) {
      const bit = FLAGS.find(([name]) => name === word)?.[1];
      if (bit === undefined) throw this.fault(token, expected);
      flags |= bit;
    }
    return flags;
  }

  private next(expected: string): Token {
    const token = this.tokens[this.at];
    if (token === undefined) {
      throw new PacketTextError(this.text, this.text.length, this.text.length, expected, this.field);
    }
    this.at++;
    return token;
  }

  private fault({ start, text }: Token, expected: string): PacketTextError {
    return new PacketTextError(this.text, start, start + text.length, expected, this.field);
  }
}

/** The text that {@link parsePacket} makes the same of. */
export function formatPacket(packet: PacketText): string {
  const { protocol, source, destination, vlan, ttl, tos, flags } = packet;
  const parts = [
    protocol === 'arp' ? 'arp' : (PROTOCOL_NAMES.get(protocol) ?? `protocol ${protocol}`),
    formatEndpoint(source, packet.sourcePort),
    '>',
    formatEndpoint(destination, packet.destinationPort),
    ...formatIcmp(packet),
  ];
  if (packet.sourceMac !== undefined) parts.push(`from ${formatMac(packet.sourceMac)}`);
  if (packet.destinationMac !== undefined) parts.push(`to ${formatMac(packet.destinationMac)}`);
  if (vlan !== undefined) parts.push(`vlan ${vlan}`);
  if (ttl !== undefined) parts.push(`ttl ${ttl}`);
  if (tos !== undefined) parts.push(`tos ${tos}`);
  if (flags !== undefined) parts.push(`flags ${formatFlags(flags)}`);
  return parts.join(' ');
}

function formatEndpoint(ip: Ip, port: number | undefined): string {
  if (port === undefined) return formatIp(ip);
  return ip.family === 4 ? `${formatIp(ip)}:${port}` : `[${formatIp(ip)}]:${port}`;
}

function formatIcmp({ source, icmpType, icmpCode }: PacketText): string[] {
  const named = Object.entries(ICMP_NAMES[source.family]).find(([, type]) => type === icmpType)?.[0];
  if (named !== undefined && icmpCode === 0) return [named];
  const type = icmpType === undefined ? [] : [`type ${icmpType}`];
  return icmpCode === undefined ? type : [...type, `code ${icmpCode}`];
}

function formatFlags(flags: number): string {
  const names = FLAGS.filter(([, bit]) => (flags & bit) !== 0).map(([name]) => name);
  return names.length === 0 ? NO_FLAGS : names.join(',');
}

const DEFAULT_TTL = 64;

/**
 * The headers of the packet. Where the text says nothing: ports, priority and code are 0, ICMP asks for an echo, TCP opens a
 * connection, and an ARP request goes to all.
 * @throws InvalidInputError for MAC addresses that it has to have
 */
export function packetKey(packet: PacketText): FlowKey {
  const { protocol, source, destination, sourceMac, vlan } = packet;
  const destinationMac = packet.destinationMac ?? (protocol === 'arp' ? MAC_BROADCAST : undefined);
  if (sourceMac === undefined) throw new InvalidInputError('packet', formatPacket(packet), 'expected `from MAC`');
  if (destinationMac === undefined) throw new InvalidInputError('packet', formatPacket(packet), 'expected `to MAC`');
  const key = new FlowKey();
  key.ethSrc = sourceMac;
  key.ethDst = destinationMac;
  if (vlan !== undefined) {
    key.vlanTci = VLAN_PRESENT | vlan;
    key.vlanTpid = EtherType.VLAN;
  }
  key.words.set(source.words, Word.NW_SRC);
  key.words.set(destination.words, Word.NW_DST);
  if (protocol === 'arp') {
    key.ethType = EtherType.ARP;
    key.nwProto = ArpOp.REQUEST;
    key.arpSha = sourceMac;
    return key;
  }
  key.ethType = source.family === 4 ? EtherType.IPV4 : EtherType.IPV6;
  key.nwProto = protocol;
  key.nwTtl = packet.ttl ?? DEFAULT_TTL;
  key.nwTos = packet.tos ?? 0;
  if (protocol === IpProtocol.ICMP || protocol === IpProtocol.ICMPV6) {
    key.tpSrc = packet.icmpType ?? ICMP_NAMES[protocol === IpProtocol.ICMP ? 4 : 6]['echo-request'];
    key.tpDst = packet.icmpCode ?? 0;
  } else {
    key.tpSrc = packet.sourcePort ?? 0;
    key.tpDst = packet.destinationPort ?? 0;
  }
  if (protocol === IpProtocol.TCP) key.tcpFlags = packet.flags ?? TcpFlag.SYN;
  return key;
}
