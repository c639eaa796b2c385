import { formatIpv6, ipv6CidrContains, isMulticastIpv6, linkLocalAddress } from '../packet/address.js';
import {
  addressList,
  buildDhcpV6,
  DHCPV6_CLIENT_PORT,
  DHCPV6_SERVER_PORT,
  type DhcpV6Message,
  DhcpV6MessageType,
  DhcpV6Option,
  type DhcpV6OptionValue,
  DhcpV6Status,
  dhcpV6Duid,
  dhcpV6Option,
  type IdentityAssociation,
  identityAssociation,
  identityAssociations,
  isDhcpV6OptionRequested,
  type LeasedAddress,
  leasedAddress,
  leasedAddresses,
  linkLayerDuid,
  parseDhcpV6,
  statusCode,
} from '../packet/dhcpv6.js';
import { encodeDomainNames } from '../packet/dns-name.js';
import { buildEthernet, ETHERNET_HEADER, type EthernetHeader, EtherType, parseEthernet } from '../packet/ethernet.js';
import { IpProtocol } from '../packet/ip-protocol.js';
import { buildIpv6, ipv6Source, newIpv6Header, parseIpv6Header } from '../packet/ipv6.js';
import { buildUdp, parseUdpHeader, UDP_HEADER } from '../packet/udp.js';
import { type Answer, CONFIGURATION_SERVER_MAC, FOR_EVER, type NoAnswer, nameService, noAnswer } from './answer.js';
import type { DhcpV6SubnetFact, Fact } from './fact.js';

const SERVER_DUID = linkLayerDuid(CONFIGURATION_SERVER_MAC);
const SERVER_DUID_TEXT = Buffer.from(SERVER_DUID).toString('hex');
const SERVER_ADDRESS = linkLocalAddress(CONFIGURATION_SERVER_MAC);

/** Tells clients to take this offer without waiting for others (RFC 8415 section 21.8): there is no other server. */
const HIGHEST_PREFERENCE = 255;

/** Fractions of the preferred lifetime after which clients renew, and ask anybody (RFC 8415 section 21.4). */
const T1 = 0.5;
const T2 = 0.8;

/** What the server knows of a machine before it has read its message. */
export interface DhcpV6Client {
  /** The enabled subnets of its bridge that DHCPv6 is for, at least one. */
  readonly subnets: readonly DhcpV6SubnetFact[];
  /** Addresses that are the machine's own by its port, used where no subnet knows it by its identifier. */
  readonly addresses: readonly ArrayLike<number>[];
}

interface Request {
  readonly message: DhcpV6Message;
  readonly associations: readonly IdentityAssociation[];
  readonly client: DhcpV6Client;
  readonly leases: readonly LeasedAddress[];
}

/**
 * Answer the frame of a DHCPv6 client (RFC 8415 section 18.3): addresses where they are `stateful`, and the rest of the
 * configuration to whoever asks.
 */
export function answerDhcpV6(frame: Uint8Array, client: DhcpV6Client): Answer {
  const ethernet: EthernetHeader = { dst: 0, src: 0, type: 0 };
  const message = parseEthernet(frame, ethernet) ? readMessage(frame, ethernet.type) : undefined;
  const associations = message && identityAssociations(message.options);
  if (message === undefined || associations === undefined) return noAnswer('malformed');
  const fault = validate(message, associations);
  if (fault !== undefined) return noAnswer(fault);

  const duid = dhcpV6Duid(message.options, DhcpV6Option.CLIENT_ID);
  const stateful = client.subnets.filter(({ addressing }) => addressing === 'stateful');
  const hosts = duid === undefined ? [] : stateful.map((subnet) => ({ subnet, host: subnet.host(duid) }));
  const missing: Fact<unknown>[] = hosts.map(({ host }) => host).filter(({ value }) => value === undefined);
  if (missing.length > 0) return { type: 'wait', missing };
  const leases = hosts.flatMap(({ subnet, host }) => leasesIn(subnet, host.value?.address, client.addresses));
  const answer = respond({ message, associations, client, leases });
  if (answer === undefined) return noAnswer('not-a-request');
  const payload = buildUdp(DHCPV6_SERVER_PORT, DHCPV6_CLIENT_PORT, buildDhcpV6(answer));
  const ip = { src: SERVER_ADDRESS, dst: ipv6Source(frame, ETHERNET_HEADER), protocol: IpProtocol.UDP };
  return {
    type: 'frame',
    frame: buildEthernet(
      { dst: ethernet.src, src: CONFIGURATION_SERVER_MAC, type: EtherType.IPV6 },
      buildIpv6(ip, payload),
    ),
    renewal: {
      // Any client identifier may be asked for, so that of a machine which was given nothing is not worth keeping.
      facts: leases.length > 0 ? hosts.map(({ host }) => host) : [],
      seconds: Math.max(0, ...leases.map(({ valid }) => valid)),
    },
  };
}

function readMessage(frame: Uint8Array, etherType: number): DhcpV6Message | undefined {
  const ip = newIpv6Header();
  if (etherType !== EtherType.IPV6 || !parseIpv6Header(frame, ETHERNET_HEADER, ip)) return undefined;
  if (!ip.complete || ip.protocol !== IpProtocol.UDP || ip.fragmented) return undefined;
  const src = ipv6Source(frame, ETHERNET_HEADER);
  if (isMulticastIpv6(src) || src.every((word) => word === 0)) return undefined;
  const udp = { srcPort: 0, dstPort: 0, length: 0, checksum: 0 };
  if (!parseUdpHeader(frame, ip.payload, ip.end, udp) || udp.dstPort !== DHCPV6_SERVER_PORT) return undefined;
  return parseDhcpV6(frame, ip.payload + UDP_HEADER, Math.min(ip.end, ip.payload + udp.length));
}

/** Which identifiers a message must have and must not have (RFC 8415 section 16). */
function validate(
  { type, options }: DhcpV6Message,
  associations: readonly IdentityAssociation[],
): NoAnswer | undefined {
  const hasClient = dhcpV6Duid(options, DhcpV6Option.CLIENT_ID) !== undefined;
  const namesServer = dhcpV6Option(options, DhcpV6Option.SERVER_ID) !== undefined;
  const isForUs = dhcpV6Duid(options, DhcpV6Option.SERVER_ID) === SERVER_DUID_TEXT;
  switch (type) {
    case DhcpV6MessageType.SOLICIT:
    case DhcpV6MessageType.CONFIRM:
    case DhcpV6MessageType.REBIND:
      return hasClient && !namesServer ? undefined : 'malformed';
    case DhcpV6MessageType.REQUEST:
    case DhcpV6MessageType.RENEW:
    case DhcpV6MessageType.RELEASE:
    case DhcpV6MessageType.DECLINE:
      if (!hasClient || !namesServer) return 'malformed';
      return isForUs ? undefined : 'other-server';
    case DhcpV6MessageType.INFORMATION_REQUEST:
      if (associations.length > 0) return 'malformed';
      return namesServer && !isForUs ? 'other-server' : undefined;
    default:
      return 'not-a-request';
  }
}

/** What is the machine's in a subnet: `known` by its identifier, or else what its port has. */
function leasesIn(
  subnet: DhcpV6SubnetFact,
  known: ArrayLike<number> | undefined,
  own: readonly ArrayLike<number>[],
): LeasedAddress[] {
  const addresses = known === undefined ? own.filter((address) => ipv6CidrContains(subnet, address)) : [known];
  const { preferredLifetime: preferred, validLifetime: valid } = subnet;
  return addresses.map((address) => ({ address, preferred, valid }));
}

function respond(request: Request): DhcpV6Message | undefined {
  const { message, associations, client } = request;
  switch (message.type) {
    case DhcpV6MessageType.SOLICIT: {
      const isRapid =
        dhcpV6Option(message.options, DhcpV6Option.RAPID_COMMIT) !== undefined && request.leases.length > 0;
      const mark = isRapid
        ? { code: DhcpV6Option.RAPID_COMMIT, value: new Uint8Array() }
        : { code: DhcpV6Option.PREFERENCE, value: new Uint8Array([HIGHEST_PREFERENCE]) };
      return answer(request, isRapid ? DhcpV6MessageType.REPLY : DhcpV6MessageType.ADVERTISE, [
        mark,
        ...give(request),
        ...configuration(request),
      ]);
    }
    case DhcpV6MessageType.REQUEST:
      return answer(request, DhcpV6MessageType.REPLY, [...give(request), ...configuration(request)]);
    case DhcpV6MessageType.RENEW:
    case DhcpV6MessageType.REBIND:
      return answer(request, DhcpV6MessageType.REPLY, [...renew(request), ...configuration(request)]);
    case DhcpV6MessageType.CONFIRM: {
      const claimed = associations.flatMap(({ options }) => leasedAddresses(options));
      // A server that cannot tell says nothing (RFC 8415 section 18.3.3).
      if (claimed.length === 0) return undefined;
      const isHere = claimed.every(({ address }) => client.subnets.some((subnet) => ipv6CidrContains(subnet, address)));
      const status = isHere
        ? statusCode(DhcpV6Status.SUCCESS, 'all addresses are on this link')
        : statusCode(DhcpV6Status.NOT_ON_LINK, 'an address is not of this link');
      return answer(request, DhcpV6MessageType.REPLY, [status]);
    }
    case DhcpV6MessageType.RELEASE:
    case DhcpV6MessageType.DECLINE:
      return answer(request, DhcpV6MessageType.REPLY, [
        statusCode(DhcpV6Status.SUCCESS, 'taken note'),
        ...associations.filter((one) => !isBound(request, one)).map((one) => refusal(one, DhcpV6Status.NO_BINDING)),
      ]);
    default:
      return answer(request, DhcpV6MessageType.REPLY, configuration(request));
  }
}

function answer({ message }: Request, type: number, options: readonly DhcpV6OptionValue[]): DhcpV6Message {
  const client = dhcpV6Option(message.options, DhcpV6Option.CLIENT_ID);
  return {
    type,
    transaction: message.transaction,
    options: [
      ...(client === undefined ? [] : [{ code: DhcpV6Option.CLIENT_ID, value: client }]),
      { code: DhcpV6Option.SERVER_ID, value: SERVER_DUID },
      ...options,
    ],
  };
}

/** All that is the machine's goes in the first group of addresses that it asks for; the others stay empty. */
function give({ associations, leases }: Request): DhcpV6OptionValue[] {
  const first = associations.find(({ code }) => code === DhcpV6Option.IA_NA);
  return associations.map((one) => {
    if (one === first && leases.length > 0) return identityAssociation(bound(one, leases));
    return refusal(one, one.code === DhcpV6Option.IA_PD ? DhcpV6Status.NO_PREFIXES : DhcpV6Status.NO_ADDRESSES);
  });
}

/** What is not the machine's any more ends at once (RFC 8415 sections 18.3.4 and 18.3.5). */
function renew(request: Request): DhcpV6OptionValue[] {
  const { associations, leases } = request;
  const groups = associations.filter(({ code }) => code === DhcpV6Option.IA_NA);
  const holder = groups.find((one) => isBound(request, one)) ?? groups[0];
  return associations.map((one) => {
    if (one.code === DhcpV6Option.IA_PD) return refusal(one, DhcpV6Status.NO_BINDING);
    const kept = one === holder ? leases : [];
    const ended = leasedAddresses(one.options)
      .filter(({ address }) => !includes(kept, address))
      .map(({ address }) => ({ address, preferred: 0, valid: 0 }));
    if (kept.length + ended.length === 0) return refusal(one, DhcpV6Status.NO_BINDING);
    return identityAssociation(bound(one, [...kept, ...ended]));
  });
}

/** Whether all addresses of a group, of which there are some, are the machine's. */
function isBound({ leases }: Request, { options }: IdentityAssociation): boolean {
  const claimed = leasedAddresses(options);
  return claimed.length > 0 && claimed.every(({ address }) => includes(leases, address));
}

function includes(leases: readonly LeasedAddress[], address: ArrayLike<number>): boolean {
  return leases.some((lease) => formatIpv6(lease.address) === formatIpv6(address));
}

function bound({ code, id }: IdentityAssociation, leases: readonly LeasedAddress[]): IdentityAssociation {
  const shortest = Math.min(...leases.map(({ preferred }) => preferred).filter((preferred) => preferred > 0), FOR_EVER);
  const after = (part: number) => (shortest === FOR_EVER ? FOR_EVER : Math.floor(shortest * part));
  return { code, id, t1: after(T1), t2: after(T2), options: leases.map(leasedAddress) };
}

const REASONS: Readonly<Record<number, string>> = {
  [DhcpV6Status.NO_ADDRESSES]: 'no address is set aside for this client',
  [DhcpV6Status.NO_BINDING]: 'the address is not of this client',
  [DhcpV6Status.NO_PREFIXES]: 'no prefixes are delegated',
};

function refusal({ code, id }: IdentityAssociation, status: number): DhcpV6OptionValue {
  return identityAssociation({ code, id, t1: 0, t2: 0, options: [statusCode(status, REASONS[status])] });
}

/** What the client asks for, of what the subnets have. */
function configuration({ message, client }: Request): DhcpV6OptionValue[] {
  const options: DhcpV6OptionValue[] = [];
  const { dnsServers, domainSearch } = nameService(client.subnets);
  if (dnsServers.length > 0 && isDhcpV6OptionRequested(message.options, DhcpV6Option.DNS_SERVERS)) {
    options.push({ code: DhcpV6Option.DNS_SERVERS, value: addressList(dnsServers) });
  }
  if (domainSearch.length > 0 && isDhcpV6OptionRequested(message.options, DhcpV6Option.DOMAIN_LIST)) {
    options.push({ code: DhcpV6Option.DOMAIN_LIST, value: encodeDomainNames(domainSearch) });
  }
  return options;
}
