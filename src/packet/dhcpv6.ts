import { readU16, readU32, readWords, writeU16, writeU32, writeU48, writeWords } from './big-endian.js';

export const DHCPV6_SERVER_PORT = 547;
export const DHCPV6_CLIENT_PORT = 546;

/** Message types (RFC 8415 section 7.3). */
export const DhcpV6MessageType = {
  SOLICIT: 1,
  ADVERTISE: 2,
  REQUEST: 3,
  CONFIRM: 4,
  RENEW: 5,
  REBIND: 6,
  REPLY: 7,
  RELEASE: 8,
  DECLINE: 9,
  INFORMATION_REQUEST: 11,
  RELAY_FORWARD: 12,
  RELAY_REPLY: 13,
} as const;

/** Option codes (RFC 8415 section 21; 23 and 24: RFC 3646). */
export const DhcpV6Option = {
  CLIENT_ID: 1,
  SERVER_ID: 2,
  IA_NA: 3,
  IA_TA: 4,
  IA_ADDRESS: 5,
  OPTION_REQUEST: 6,
  PREFERENCE: 7,
  STATUS_CODE: 13,
  RAPID_COMMIT: 14,
  DNS_SERVERS: 23,
  DOMAIN_LIST: 24,
  IA_PD: 25,
} as const;

/** Status codes (RFC 8415 section 21.13). */
export const DhcpV6Status = {
  SUCCESS: 0,
  NO_ADDRESSES: 2,
  NO_BINDING: 3,
  NOT_ON_LINK: 4,
  NO_PREFIXES: 6,
} as const;

/** Longest DUID (RFC 8415 section 11.1). */
const MAX_DUID = 130;

export interface DhcpV6OptionValue {
  readonly code: number;
  readonly value: Uint8Array;
}

/** A message between client and server (RFC 8415 section 8). An option may be there several times. */
export interface DhcpV6Message {
  /** One of {@link DhcpV6MessageType}. */
  readonly type: number;
  /** 24 bits. */
  readonly transaction: number;
  readonly options: readonly DhcpV6OptionValue[];
}

/** A group of addresses or prefixes of a client (RFC 8415 sections 21.4, 21.5 and 21.21). */
export interface IdentityAssociation {
  /** IA_NA, IA_TA or IA_PD. */
  readonly code: number;
  readonly id: number;
  /** When to renew and when to rebind, in seconds; not in an IA_TA. */
  readonly t1: number;
  readonly t2: number;
  readonly options: readonly DhcpV6OptionValue[];
}

/** An address with its lifetimes in seconds (RFC 8415 section 21.6). */
export interface LeasedAddress {
  readonly address: ArrayLike<number>;
  readonly preferred: number;
  readonly valid: number;
}

/**
 * Read the message in bytes `offset` to `end`, which is a UDP payload. Undefined if it is malformed, or goes between
 * relays and servers.
 */
export function parseDhcpV6(bytes: Uint8Array, offset: number, end: number): DhcpV6Message | undefined {
  if (end > bytes.length || offset + 4 > end) return undefined;
  const type = bytes[offset];
  if (type === DhcpV6MessageType.RELAY_FORWARD || type === DhcpV6MessageType.RELAY_REPLY) return undefined;
  const options = parseOptions(bytes, offset + 4, end);
  return options && { type, transaction: readU32(bytes, offset) % 0x100_0000, options };
}

function parseOptions(bytes: Uint8Array, offset: number, end: number): DhcpV6OptionValue[] | undefined {
  const options: DhcpV6OptionValue[] = [];
  let at = offset;
  while (at < end) {
    if (at + 4 > end) return undefined;
    const next = at + 4 + readU16(bytes, at + 2);
    if (next > end) return undefined;
    options.push({ code: readU16(bytes, at), value: bytes.slice(at + 4, next) });
    at = next;
  }
  return options;
}

export function buildDhcpV6({ type, transaction, options }: DhcpV6Message): Uint8Array {
  const rest = buildOptions(options);
  const bytes = new Uint8Array(4 + rest.length);
  writeU32(bytes, 0, transaction);
  bytes[0] = type;
  bytes.set(rest, 4);
  return bytes;
}

function buildOptions(options: readonly DhcpV6OptionValue[]): Uint8Array {
  const bytes = new Uint8Array(options.reduce((length, { value }) => length + 4 + value.length, 0));
  let at = 0;
  for (const { code, value } of options) {
    writeU16(bytes, at, code);
    writeU16(bytes, at + 2, value.length);
    bytes.set(value, at + 4);
    at += 4 + value.length;
  }
  return bytes;
}

/** The value of the first option with the code. */
export function dhcpV6Option(options: readonly DhcpV6OptionValue[], code: number): Uint8Array | undefined {
  return options.find((option) => option.code === code)?.value;
}

/** The identifier (DUID) in an option in hexadecimal; undefined without one or with one of a wrong length. */
export function dhcpV6Duid(options: readonly DhcpV6OptionValue[], code: number): string | undefined {
  const duid = dhcpV6Option(options, code);
  if (duid === undefined || duid.length < 3 || duid.length > MAX_DUID) return undefined;
  return Buffer.from(duid).toString('hex');
}

/** Whether the client asks for options of the code (RFC 8415 section 21.7). */
export function isDhcpV6OptionRequested(options: readonly DhcpV6OptionValue[], code: number): boolean {
  const list = dhcpV6Option(options, DhcpV6Option.OPTION_REQUEST) ?? new Uint8Array();
  for (let at = 0; at + 2 <= list.length; at += 2) if (readU16(list, at) === code) return true;
  return false;
}

/** The identity associations among the options; undefined if one is malformed. */
export function identityAssociations(options: readonly DhcpV6OptionValue[]): IdentityAssociation[] | undefined {
  const found: IdentityAssociation[] = [];
  for (const { code, value } of options) {
    if (code !== DhcpV6Option.IA_NA && code !== DhcpV6Option.IA_TA && code !== DhcpV6Option.IA_PD) continue;
    const header = code === DhcpV6Option.IA_TA ? 4 : 12;
    const rest = value.length < header ? undefined : parseOptions(value, header, value.length);
    if (rest === undefined) return undefined;
    const [t1, t2] = header === 4 ? [0, 0] : [readU32(value, 4), readU32(value, 8)];
    found.push({ code, id: readU32(value, 0), t1, t2, options: rest });
  }
  return found;
}

export function identityAssociation({ code, id, t1, t2, options }: IdentityAssociation): DhcpV6OptionValue {
  const header = code === DhcpV6Option.IA_TA ? 4 : 12;
  const rest = buildOptions(options);
  const value = new Uint8Array(header + rest.length);
  writeU32(value, 0, id);
  if (header === 12) {
    writeU32(value, 4, t1);
    writeU32(value, 8, t2);
  }
  value.set(rest, header);
  return { code, value };
}

/** The addresses among the options of an identity association; those that are malformed are left out. */
export function leasedAddresses(options: readonly DhcpV6OptionValue[]): LeasedAddress[] {
  return options
    .filter(({ code, value }) => code === DhcpV6Option.IA_ADDRESS && value.length >= 24)
    .map(({ value }) => ({ address: readWords(value, 0), preferred: readU32(value, 16), valid: readU32(value, 20) }));
}

export function leasedAddress({ address, preferred, valid }: LeasedAddress): DhcpV6OptionValue {
  const value = new Uint8Array(24);
  writeWords(value, 0, address);
  writeU32(value, 16, preferred);
  writeU32(value, 20, valid);
  return { code: DhcpV6Option.IA_ADDRESS, value };
}

export function statusCode(status: number, message: string): DhcpV6OptionValue {
  const text = new TextEncoder().encode(message);
  const value = new Uint8Array(2 + text.length);
  writeU16(value, 0, status);
  value.set(text, 2);
  return { code: DhcpV6Option.STATUS_CODE, value };
}

/** The DUID that is made of a MAC address (DUID-LL, RFC 8415 section 11.4). */
export function linkLayerDuid(mac: number): Uint8Array {
  const duid = new Uint8Array(10);
  writeU16(duid, 0, 3);
  writeU16(duid, 2, 1);
  writeU48(duid, 4, mac);
  return duid;
}

/** IPv6 addresses behind each other. */
export function addressList(addresses: readonly ArrayLike<number>[]): Uint8Array {
  const bytes = new Uint8Array(16 * addresses.length);
  for (const [i, address] of addresses.entries()) writeWords(bytes, 16 * i, address);
  return bytes;
}
