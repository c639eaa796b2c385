import { MAC_BROADCAST } from './address.js';
import { readU16, readU32, readU48, writeU16, writeU32, writeU48 } from './big-endian.js';
import { buildEthernet, EtherType } from './ethernet.js';
import { IpProtocol } from './ip-protocol.js';
import { buildIpv4 } from './ipv4.js';
import { buildUdp } from './udp.js';

export const DHCP_SERVER_PORT = 67;
export const DHCP_CLIENT_PORT = 68;

/** Values of the message type option (RFC 2132 section 9.6). */
export const DhcpMessageType = {
  DISCOVER: 1,
  OFFER: 2,
  REQUEST: 3,
  DECLINE: 4,
  ACK: 5,
  NAK: 6,
  RELEASE: 7,
  INFORM: 8,
} as const;

/** Option codes (RFC 2132; 82: RFC 3046; 121: RFC 3442). */
export const DhcpOption = {
  PAD: 0,
  SUBNET_MASK: 1,
  ROUTER: 3,
  DNS_SERVERS: 6,
  HOST_NAME: 12,
  DOMAIN_NAME: 15,
  INTERFACE_MTU: 26,
  BROADCAST_ADDRESS: 28,
  REQUESTED_ADDRESS: 50,
  LEASE_TIME: 51,
  OVERLOAD: 52,
  MESSAGE_TYPE: 53,
  SERVER_ID: 54,
  PARAMETER_LIST: 55,
  MAX_MESSAGE_SIZE: 57,
  RENEWAL_TIME: 58,
  REBINDING_TIME: 59,
  CLIENT_ID: 61,
  RELAY_AGENT: 82,
  CLASSLESS_ROUTES: 121,
  END: 255,
} as const;

const BOOTREQUEST = 1;
const BOOTREPLY = 2;
const FIXED = 236;
const MAGIC = 0x6382_5363;
const FLAG_BROADCAST = 0x8000;
/** Some clients and relays drop what is shorter than a BOOTP message (RFC 1542 section 2.1). */
const MIN_MESSAGE = 300;

/** A message (RFC 2131 section 2). Addresses are IPv4, unsigned 32-bit; zero where there is none. */
export interface DhcpMessage {
  /** From a server. */
  reply: boolean;
  hops: number;
  transaction: number;
  seconds: number;
  /** The client cannot take a unicast answer yet. */
  broadcast: boolean;
  clientAddress: number;
  yourAddress: number;
  serverAddress: number;
  relayAddress: number;
  clientMac: number;
  /** One of {@link DhcpMessageType}. */
  type: number;
  /** Option values by code, parts of a split option joined (RFC 3396). */
  options: Map<number, Uint8Array>;
}

/**
 * Read the message in bytes `offset` to `end`, which is a UDP payload. Undefined if it is malformed, not for Ethernet, or
 * has no message type (plain BOOTP).
 */
export function parseDhcp(bytes: Uint8Array, offset: number, end: number): DhcpMessage | undefined {
  if (end > bytes.length || offset + FIXED + 4 > end) return undefined;
  const op = bytes[offset];
  // Hardware type 1 (Ethernet) with addresses of 6 bytes.
  if ((op !== BOOTREQUEST && op !== BOOTREPLY) || readU16(bytes, offset + 1) !== 0x0106) return undefined;
  if (readU32(bytes, offset + FIXED) !== MAGIC) return undefined;
  const options = new Map<number, Uint8Array>();
  if (!readOptions(bytes, offset + FIXED + 4, end, options)) return undefined;
  // The option says which of the file and server name fields hold options too (RFC 2131 section 4.1).
  const overload = options.get(DhcpOption.OVERLOAD)?.[0] ?? 0;
  if ((overload & 1) !== 0 && !readOptions(bytes, offset + 108, offset + 236, options)) return undefined;
  if ((overload & 2) !== 0 && !readOptions(bytes, offset + 44, offset + 108, options)) return undefined;
  const type = options.get(DhcpOption.MESSAGE_TYPE);
  if (type?.length !== 1) return undefined;
  return {
    reply: op === BOOTREPLY,
    hops: bytes[offset + 3],
    transaction: readU32(bytes, offset + 4),
    seconds: readU16(bytes, offset + 8),
    broadcast: (readU16(bytes, offset + 10) & FLAG_BROADCAST) !== 0,
    clientAddress: readU32(bytes, offset + 12),
    yourAddress: readU32(bytes, offset + 16),
    serverAddress: readU32(bytes, offset + 20),
    relayAddress: readU32(bytes, offset + 24),
    clientMac: readU48(bytes, offset + 28),
    type: type[0],
    options,
  };
}

function readOptions(bytes: Uint8Array, start: number, end: number, out: Map<number, Uint8Array>): boolean {
  let at = start;
  while (at < end && bytes[at] !== DhcpOption.END) {
    if (bytes[at] === DhcpOption.PAD) {
      at++;
      continue;
    }
    if (at + 2 > end || at + 2 + bytes[at + 1] > end) return false;
    const code = bytes[at];
    const value = bytes.slice(at + 2, at + 2 + bytes[at + 1]);
    const before = out.get(code);
    out.set(code, before === undefined ? value : new Uint8Array([...before, ...value]));
    at += 2 + value.length;
  }
  return true;
}

/** The 32-bit number that an option holds (an address, a time), or undefined. */
export function dhcpOptionU32(message: DhcpMessage, code: number): number | undefined {
  const value = message.options.get(code);
  return value?.length === 4 ? readU32(value, 0) : undefined;
}

/** A message as a UDP payload (RFC 2131 section 2). Options go in the map's order, behind the message type. */
export function buildDhcp(
  message: Omit<DhcpMessage, 'options'> & { readonly options: ReadonlyMap<number, Uint8Array> },
): Uint8Array {
  const parts: number[] = [DhcpOption.MESSAGE_TYPE, 1, message.type];
  for (const [code, value] of message.options) {
    if (code === DhcpOption.MESSAGE_TYPE) continue;
    // An option of more than 255 bytes goes in several of the same code (RFC 3396 section 5).
    for (let at = 0; at === 0 || at < value.length; at += 255) {
      const part = value.subarray(at, at + 255);
      parts.push(code, part.length, ...part);
    }
  }
  parts.push(DhcpOption.END);
  const bytes = new Uint8Array(Math.max(MIN_MESSAGE, FIXED + 4 + parts.length));
  bytes[0] = message.reply ? BOOTREPLY : BOOTREQUEST;
  writeU16(bytes, 1, 0x0106);
  bytes[3] = message.hops;
  writeU32(bytes, 4, message.transaction);
  writeU16(bytes, 8, message.seconds);
  writeU16(bytes, 10, message.broadcast ? FLAG_BROADCAST : 0);
  writeU32(bytes, 12, message.clientAddress);
  writeU32(bytes, 16, message.yourAddress);
  writeU32(bytes, 20, message.serverAddress);
  writeU32(bytes, 24, message.relayAddress);
  writeU48(bytes, 28, message.clientMac);
  writeU32(bytes, FIXED, MAGIC);
  bytes.set(parts, FIXED + 4);
  return bytes;
}

export interface DhcpReplySpec {
  /** OFFER, ACK or NAK. */
  readonly type: number;
  readonly serverMac: number;
  /** Source of the packet, value of the server identifier option, and where to boot from (but in a NAK). */
  readonly serverAddress: number;
  /** Zero in a NAK. */
  readonly yourAddress: number;
  readonly options: ReadonlyMap<number, Uint8Array>;
}

/**
 * The frame that answers a client's message. Where it goes is as RFC 2131 section 4.1 says: to the client's address if it
 * has one, by broadcast if it asked so or is refused, else to its new address.
 */
export function buildDhcpReply(request: DhcpMessage, spec: DhcpReplySpec): Uint8Array {
  const serverId = new Uint8Array(4);
  writeU32(serverId, 0, spec.serverAddress);
  const options = new Map([[DhcpOption.SERVER_ID as number, serverId], ...spec.options]);
  const nak = spec.type === DhcpMessageType.NAK;
  const payload = buildDhcp({
    reply: true,
    hops: 0,
    transaction: request.transaction,
    seconds: 0,
    broadcast: request.broadcast,
    clientAddress: nak ? 0 : request.clientAddress,
    yourAddress: spec.yourAddress,
    serverAddress: nak ? 0 : spec.serverAddress,
    relayAddress: request.relayAddress,
    clientMac: request.clientMac,
    type: spec.type,
    options,
  });
  const unicast = request.clientAddress === 0 ? spec.yourAddress : request.clientAddress;
  const broadcast = nak || unicast === 0 || (request.clientAddress === 0 && request.broadcast);
  return buildEthernet(
    { dst: broadcast ? MAC_BROADCAST : request.clientMac, src: spec.serverMac, type: EtherType.IPV4 },
    buildIpv4(
      { src: spec.serverAddress, dst: broadcast ? 0xffff_ffff : unicast, protocol: IpProtocol.UDP },
      buildUdp(DHCP_SERVER_PORT, DHCP_CLIENT_PORT, payload),
    ),
  );
}

/** Value of the classless static route option (RFC 3442), in the order given. */
export function classlessRoutes(
  routes: readonly { readonly address: number; readonly prefix: number; readonly router: number }[],
): Uint8Array {
  const bytes: number[] = [];
  for (const { address, prefix, router } of routes) {
    bytes.push(prefix);
    for (let i = 0; i < Math.ceil(prefix / 8); i++) bytes.push((address >>> (24 - 8 * i)) & 255);
    for (let i = 0; i < 4; i++) bytes.push((router >>> (24 - 8 * i)) & 255);
  }
  return new Uint8Array(bytes);
}
