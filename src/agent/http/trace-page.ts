import { InvalidInputError } from '../../errors.js';
import { describePacket } from '../../flow/describe.js';
import { extractKey } from '../../flow/extract.js';
import { FlowKey, VLAN_PRESENT, Word } from '../../flow/key.js';
import { MAC_BROADCAST, requireMac } from '../../packet/address.js';
import { ArpOp } from '../../packet/arp.js';
import { EtherType } from '../../packet/ethernet.js';
import { type Ip, parseIp } from '../../packet/ip.js';
import { IpProtocol, PROTOCOL_NAMES } from '../../packet/ip-protocol.js';
import { formatPasses, outcomeOf, type Pass } from '../../simulation/explain.js';
import type { TracedPacket } from '../forwarding/tracer.js';

/** What explains packets. */
export interface Explainer {
  explain(packet: TracedPacket, signal: AbortSignal): Promise<Pass[]>;
}

const PROTOCOLS = new Map(Array.from(PROTOCOL_NAMES, ([protocol, name]) => [name, protocol]));
const CONNECTIONS = ['new', 'established', 'reply'] as const;
const FIELDS = new Set([
  ...['port', 'connection', 'hash', 'format', 'frame', 'sourceMac', 'destinationMac', 'vlan', 'protocol', 'source'],
  ...['destination', 'sourcePort', 'destinationPort', 'type', 'code', 'ttl', 'tos'],
]);
/** What is read under it is named by it. */
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const MAX_FRAME = 65_535;
const DEFAULT_TTL = 64;

/**
 * What would become of a packet that comes in at a port of the virtual network, step by step, for people to read; as an object with
 * `format=json`. The query describes the packet by its fields or as a whole (`frame`, in hexadecimal).
 * @throws InvalidInputError for a packet that cannot be
 */
export async function tracePage(
  explainer: Explainer,
  query: URLSearchParams,
  signal: AbortSignal,
): Promise<string | object> {
  for (const field of query.keys()) {
    if (!FIELDS.has(field)) throw new InvalidInputError('query', field, `expected one of ${[...FIELDS].join(', ')}`);
  }
  const portId = query.get('port');
  if (portId === null || !UUID.test(portId))
    throw new InvalidInputError('port', portId, 'expected the id of a port, a UUID');
  const connection = choice(query, 'connection', CONNECTIONS);
  const format = choice(query, 'format', ['text', 'json'] as const);
  const hash = number(query, 'hash', 0xffff_ffff, 0);
  const passes = await explainer.explain({ portId, connection, hash, ...packetOf(query) }, signal);
  if (format === 'text') return formatPasses(passes);
  return {
    passes: passes.map((pass) => ({ packet: describePacket(pass.key), steps: pass.steps, ...outcomeOf(pass) })),
  };
}

function packetOf(query: URLSearchParams): { key: FlowKey; bytes?: Uint8Array } {
  const key = new FlowKey();
  const frame = query.get('frame');
  if (frame === null) {
    fillHeaders(key, query);
    return { key };
  }
  const bytes = Buffer.from(frame, 'hex');
  if (2 * bytes.length !== frame.length || bytes.length > MAX_FRAME || !extractKey(bytes, key)) {
    throw new InvalidInputError(
      'frame',
      frame,
      'expected a whole Ethernet frame in hexadecimal, with one VLAN tag at most',
    );
  }
  return { key, bytes };
}

function fillHeaders(key: FlowKey, query: URLSearchParams): void {
  key.ethSrc = requireMac(query.get('sourceMac') ?? '', 'sourceMac');
  const protocol = query.get('protocol');
  const destinationMac = query.get('destinationMac');
  if (protocol === 'arp' && destinationMac === null) key.ethDst = MAC_BROADCAST;
  else key.ethDst = requireMac(destinationMac ?? '', 'destinationMac');
  if (query.has('vlan')) {
    key.vlanTci = VLAN_PRESENT | number(query, 'vlan', 4095, 0);
    key.vlanTpid = EtherType.VLAN;
  }
  const source = address(query, 'source');
  const destination = address(query, 'destination');
  if (source.family !== destination.family) {
    throw new InvalidInputError('destination', query.get('destination'), `expected an IPv${source.family} address`);
  }
  key.words.set(source.words, Word.NW_SRC);
  key.words.set(destination.words, Word.NW_DST);
  if (protocol === 'arp') {
    if (source.family !== 4) throw new InvalidInputError('source', query.get('source'), 'expected an IPv4 address');
    key.ethType = EtherType.ARP;
    key.nwProto = ArpOp.REQUEST;
    key.arpSha = key.ethSrc;
    return;
  }
  key.ethType = source.family === 4 ? EtherType.IPV4 : EtherType.IPV6;
  key.nwProto = protocol === null ? IpProtocol.TCP : (PROTOCOLS.get(protocol) ?? number(query, 'protocol', 255, 0));
  key.nwTtl = number(query, 'ttl', 255, DEFAULT_TTL);
  key.nwTos = number(query, 'tos', 255, 0);
  const isIcmp = key.nwProto === IpProtocol.ICMP || key.nwProto === IpProtocol.ICMPV6;
  key.tpSrc = isIcmp ? number(query, 'type', 255, 0) : number(query, 'sourcePort', 65_535, 0);
  key.tpDst = isIcmp ? number(query, 'code', 255, 0) : number(query, 'destinationPort', 65_535, 0);
}

function address(query: URLSearchParams, field: string): Ip {
  const text = query.get(field);
  const ip = text === null ? undefined : parseIp(text);
  if (ip === undefined) throw new InvalidInputError(field, text, 'expected an IPv4 or IPv6 address');
  return ip;
}

function number(query: URLSearchParams, field: string, max: number, otherwise: number): number {
  const text = query.get(field);
  if (text === null) return otherwise;
  const value = Number(text);
  if (text === '' || !Number.isInteger(value) || value < 0 || value > max) {
    throw new InvalidInputError(field, text, `expected a whole number from 0 to ${max}`);
  }
  return value;
}

/** The first is what holds where the query says nothing. */
function choice<T extends string>(query: URLSearchParams, field: string, choices: readonly T[]): T {
  const text = query.get(field);
  const found = text === null ? choices[0] : choices.find((one) => one === text);
  if (found === undefined) throw new InvalidInputError(field, text, `expected one of ${choices.join(', ')}`);
  return found;
}
