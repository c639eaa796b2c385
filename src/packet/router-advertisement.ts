import { IPV6_UNSPECIFIED, type Ipv6, ipv6Equal, ipv6MulticastMac } from './address.js';
import { readU16, readU32, readU48, readWords, writeU16, writeU32, writeU48, writeWords } from './big-endian.js';
import { decodeDomainNames, encodeDomainNames } from './dns-name.js';
import { buildEthernet, EtherType } from './ethernet.js';
import { IpProtocol } from './ip-protocol.js';
import { buildIpv6 } from './ipv6.js';
import { ALL_NODES, ND_HOP_LIMIT, NdOption, NdType } from './nd.js';

export const ALL_ROUTERS: Ipv6 = [0xff02_0000, 0, 0, 2];

const HEADER = 16;
const PREFIX_OPTION = 32;
const FLAG_MANAGED = 0x80;
const FLAG_OTHER = 0x40;
const FLAG_ON_LINK = 0x80;
const FLAG_AUTONOMOUS = 0x40;

/** A prefix of the link (RFC 4861 section 4.6.2). Lifetimes in seconds, 0xffffffff for ever. */
export interface AdvertisedPrefix {
  readonly address: ArrayLike<number>;
  readonly prefix: number;
  /** Machines with the prefix reach each other directly. */
  readonly onLink: boolean;
  /** Machines may make addresses of it. */
  readonly autonomous: boolean;
  readonly valid: number;
  readonly preferred: number;
}

/** What a router says of itself and its link (RFC 4861 section 4.2). */
export interface RouterAdvertisement {
  /** For packets that machines send; 0: not said. */
  readonly hopLimit: number;
  /** Addresses are had by DHCPv6. */
  readonly managed: boolean;
  /** Other configuration is had by DHCPv6. */
  readonly other: boolean;
  /** How long it may be the default router, in seconds; 0: it is none. */
  readonly lifetime: number;
  /** Its link-layer address. */
  readonly mac: number;
  /** 0: not said. */
  readonly mtu: number;
  readonly prefixes: readonly AdvertisedPrefix[];
  /** Name servers and search domains, and for how many seconds they may be used. */
  readonly dnsServers: readonly ArrayLike<number>[];
  readonly domainSearch: readonly string[];
  readonly dnsLifetime: number;
}

export interface AdvertisementPath {
  /** The router's link-local address. */
  readonly src: ArrayLike<number>;
  /** Who asked; if it has no address yet, the answer goes to all nodes. */
  readonly dst: ArrayLike<number>;
  readonly dstMac: number;
}

/** The frame that advertises a router (RFC 4861 sections 4.2 and 6.2.6, RFC 8106). */
export function buildRouterAdvertisement(message: RouterAdvertisement, path: AdvertisementPath): Uint8Array {
  const toAll = ipv6Equal(path.dst, IPV6_UNSPECIFIED);
  const header = new Uint8Array(HEADER);
  header[0] = NdType.ROUTER_ADVERTISEMENT;
  header[4] = message.hopLimit;
  header[5] = (message.managed ? FLAG_MANAGED : 0) | (message.other ? FLAG_OTHER : 0);
  writeU16(header, 6, message.lifetime);
  const parts = [header, macOption(message.mac)];
  if (message.mtu > 0) parts.push(mtuOption(message.mtu));
  for (const prefix of message.prefixes) parts.push(prefixOption(prefix));
  if (message.dnsServers.length > 0) parts.push(serversOption(message.dnsServers, message.dnsLifetime));
  if (message.domainSearch.length > 0) parts.push(searchOption(message.domainSearch, message.dnsLifetime));
  const dst = toAll ? ALL_NODES : path.dst;
  return buildEthernet(
    { dst: toAll ? ipv6MulticastMac(ALL_NODES) : path.dstMac, src: message.mac, type: EtherType.IPV6 },
    buildIpv6(
      { src: path.src, dst, protocol: IpProtocol.ICMPV6, hopLimit: ND_HOP_LIMIT },
      new Uint8Array(Buffer.concat(parts)),
    ),
  );
}

function option(type: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  bytes[0] = type;
  bytes[1] = length / 8;
  return bytes;
}

function macOption(mac: number): Uint8Array {
  const bytes = option(NdOption.SOURCE_LINK_LAYER, 8);
  writeU48(bytes, 2, mac);
  return bytes;
}

function mtuOption(mtu: number): Uint8Array {
  const bytes = option(NdOption.MTU, 8);
  writeU32(bytes, 4, mtu);
  return bytes;
}

function prefixOption(prefix: AdvertisedPrefix): Uint8Array {
  const bytes = option(NdOption.PREFIX_INFORMATION, PREFIX_OPTION);
  bytes[2] = prefix.prefix;
  bytes[3] = (prefix.onLink ? FLAG_ON_LINK : 0) | (prefix.autonomous ? FLAG_AUTONOMOUS : 0);
  writeU32(bytes, 4, prefix.valid);
  writeU32(bytes, 8, prefix.preferred);
  writeWords(bytes, 16, prefix.address);
  return bytes;
}

function serversOption(servers: readonly ArrayLike<number>[], lifetime: number): Uint8Array {
  const bytes = option(NdOption.DNS_SERVERS, 8 + 16 * servers.length);
  writeU32(bytes, 4, lifetime);
  for (const [i, server] of servers.entries()) writeWords(bytes, 8 + 16 * i, server);
  return bytes;
}

function searchOption(domains: readonly string[], lifetime: number): Uint8Array {
  const names = encodeDomainNames(domains);
  const bytes = option(NdOption.DNS_SEARCH, 8 + Math.ceil(names.length / 8) * 8);
  writeU32(bytes, 4, lifetime);
  bytes.set(names, 8);
  return bytes;
}

/**
 * Read a router advertisement from its ICMPv6 header at `offset` up to `end`. Undefined if it is none, or malformed. Of
 * several lifetimes of names the last is told.
 */
export function parseRouterAdvertisement(
  bytes: Uint8Array,
  offset: number,
  end: number,
): RouterAdvertisement | undefined {
  if (end > bytes.length || offset + HEADER > end) return undefined;
  if (bytes[offset] !== NdType.ROUTER_ADVERTISEMENT || bytes[offset + 1] !== 0) return undefined;
  const prefixes: AdvertisedPrefix[] = [];
  const dnsServers: Ipv6[] = [];
  const domainSearch: string[] = [];
  let [mac, mtu, dnsLifetime] = [0, 0, 0];
  let at = offset + HEADER;
  while (at < end) {
    if (at + 2 > end) return undefined;
    const type = bytes[at];
    const length = bytes[at + 1] * 8;
    if (length === 0 || at + length > end) return undefined;
    if (type === NdOption.SOURCE_LINK_LAYER && length === 8) mac = readU48(bytes, at + 2);
    else if (type === NdOption.MTU && length === 8) mtu = readU32(bytes, at + 4);
    else if (type === NdOption.PREFIX_INFORMATION && length === PREFIX_OPTION) prefixes.push(parsePrefix(bytes, at));
    else if (type === NdOption.DNS_SERVERS && length >= 24) {
      dnsLifetime = readU32(bytes, at + 4);
      for (let server = at + 8; server + 16 <= at + length; server += 16) dnsServers.push(readWords(bytes, server));
    } else if (type === NdOption.DNS_SEARCH && length >= 16) {
      const names = decodeDomainNames(bytes.slice(at + 8, at + length));
      if (names === undefined) return undefined;
      dnsLifetime = readU32(bytes, at + 4);
      domainSearch.push(...names);
    }
    at += length;
  }
  return {
    hopLimit: bytes[offset + 4],
    managed: (bytes[offset + 5] & FLAG_MANAGED) !== 0,
    other: (bytes[offset + 5] & FLAG_OTHER) !== 0,
    lifetime: readU16(bytes, offset + 6),
    mac,
    mtu,
    prefixes,
    dnsServers,
    domainSearch,
    dnsLifetime,
  };
}

function parsePrefix(bytes: Uint8Array, at: number): AdvertisedPrefix {
  return {
    address: readWords(bytes, at + 16),
    prefix: bytes[at + 2],
    onLink: (bytes[at + 3] & FLAG_ON_LINK) !== 0,
    autonomous: (bytes[at + 3] & FLAG_AUTONOMOUS) !== 0,
    valid: readU32(bytes, at + 4),
    preferred: readU32(bytes, at + 8),
  };
}

/** A frame that asks the routers of the link for advertisements (RFC 4861 section 4.1); `src` may be unspecified. */
export function buildRouterSolicitation(src: ArrayLike<number>, mac: number): Uint8Array {
  // From the unspecified address it must not carry the option.
  const hasAddress = !ipv6Equal(src, IPV6_UNSPECIFIED);
  const message = new Uint8Array(hasAddress ? 16 : 8);
  message[0] = NdType.ROUTER_SOLICITATION;
  if (hasAddress) message.set(macOption(mac), 8);
  return buildEthernet(
    { dst: ipv6MulticastMac(ALL_ROUTERS), src: mac, type: EtherType.IPV6 },
    buildIpv6({ src, dst: ALL_ROUTERS, protocol: IpProtocol.ICMPV6, hopLimit: ND_HOP_LIMIT }, message),
  );
}
