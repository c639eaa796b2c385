import { ipv4Network, ipv4PrefixMask, parseIpv4, parseIpv4Cidr } from './address.js';
import { writeU16, writeU32 } from './big-endian.js';
import { classlessRoutes, DhcpOption } from './dhcp.js';
import { encodeDomainNames, isDomainName } from './dns-name.js';

/**
 * Makes the bytes of an option of its text, or tells what was expected. Lists are separated by commas or white space.
 */
interface OptionType {
  readonly expected: string;
  /** Undefined if the text is not as expected. */
  parse(text: string): Uint8Array | undefined;
}

/** RFC 3396 lets a value be split, but a message must leave room for others. */
const MAX_VALUE = 512;

const TEXT: OptionType = { expected: 'text', parse: (text) => new TextEncoder().encode(text) };

const ADDRESS: OptionType = {
  expected: 'an IPv4 address',
  parse: (text) => addresses([text]),
};

const ADDRESSES: OptionType = {
  expected: 'IPv4 addresses',
  parse: (text) => addresses(words(text)),
};

/** Static routes (RFC 2132 section 5.8). */
const ADDRESS_PAIRS: OptionType = {
  expected: 'IPv4 addresses in pairs: a destination and its router',
  parse: (text) => (words(text).length % 2 === 0 ? addresses(words(text)) : undefined),
};

/** Address and mask of each (RFC 2132 section 4.3). */
const RANGES: OptionType = {
  expected: 'IPv4 address ranges such as 10.0.0.0/8',
  parse: (text) => {
    const found = words(text).map(parseIpv4Cidr);
    if (found.length === 0) return undefined;
    const bytes = new Uint8Array(8 * found.length);
    for (const [i, range] of found.entries()) {
      if (range === undefined) return undefined;
      writeU32(bytes, 8 * i, ipv4Network(range.address, range.prefix));
      writeU32(bytes, 8 * i + 4, ipv4PrefixMask(range.prefix));
    }
    return bytes;
  },
};

const ROUTES: OptionType = {
  expected: 'ranges and their routers in turn, such as 10.1.0.0/16 10.0.0.1, 0.0.0.0/0 10.0.0.2',
  parse: (text) => {
    const parts = words(text);
    if (parts.length === 0 || parts.length % 2 !== 0) return undefined;
    const routes: { address: number; prefix: number; router: number }[] = [];
    for (let i = 0; i < parts.length; i += 2) {
      const range = parseIpv4Cidr(parts[i]);
      const router = parseIpv4(parts[i + 1]);
      if (range === undefined || router === undefined) return undefined;
      routes.push({ address: ipv4Network(range.address, range.prefix), prefix: range.prefix, router });
    }
    return classlessRoutes(routes);
  },
};

const BOOLEAN: OptionType = {
  expected: 'true or false',
  parse: (text) => {
    if (text !== 'true' && text !== 'false' && text !== '1' && text !== '0') return undefined;
    return new Uint8Array([text === 'true' || text === '1' ? 1 : 0]);
  },
};

/** An option that says all by being there (RFC 4039 section 4). */
const FLAG: OptionType = {
  expected: 'true',
  parse: (text) => (text === 'true' || text === '1' ? new Uint8Array(0) : undefined),
};

const U8 = number(1, 0, 0xff);
const U16 = number(2, 0, 0xffff);
const U32 = number(4, 0, 0xffff_ffff);
const I32 = number(4, -0x8000_0000, 0x7fff_ffff);

const U16S: OptionType = {
  expected: 'numbers from 0 to 65535',
  parse: (text) => {
    const parts = words(text);
    const found = parts.map((part) => U16.parse(part));
    if (found.length === 0 || found.includes(undefined)) return undefined;
    return new Uint8Array(found.flatMap((part) => [...(part as Uint8Array)]));
  },
};

/** One of the values that RFC 2132 section 8.7 knows. */
const NODE_TYPE: OptionType = {
  expected: '1, 2, 4 or 8',
  parse: (text) => (/^[1248]$/.test(text) ? new Uint8Array([Number(text)]) : undefined),
};

const BYTE_AND_ADDRESSES: OptionType = {
  expected: 'a number from 0 to 255 and IPv4 addresses',
  parse: (text) => {
    const [first, ...rest] = words(text);
    const byte = U8.parse(first ?? '');
    const list = addresses(rest);
    return byte && list && new Uint8Array([...byte, ...list]);
  },
};

const BYTE_AND_TEXT: OptionType = {
  expected: 'a number from 0 to 255, and text behind a blank if need be',
  parse: (text) => {
    const [, first, rest] = /^(\d+)(?: (.*))?$/s.exec(text) ?? [];
    const byte = U8.parse(first ?? '');
    return byte && new Uint8Array([...byte, ...new TextEncoder().encode(rest ?? '')]);
  },
};

/** With its type in the first byte, or text, which has the type 0 (RFC 2132 section 9.14). */
const CLIENT_IDENTIFIER: OptionType = {
  expected: 'bytes such as 01:02:00:00:00:00:01, or text',
  parse: (text) => {
    if (text === '') return undefined;
    if (/^[0-9a-f]{2}(:[0-9a-f]{2})+$/i.test(text)) return new Uint8Array(Buffer.from(text.replaceAll(':', ''), 'hex'));
    return new Uint8Array([0, ...new TextEncoder().encode(text)]);
  },
};

const DOMAIN_NAMES: OptionType = {
  expected: 'domain names',
  parse: (text) => {
    const names = words(text);
    return names.length > 0 && names.every(isDomainName) ? encodeDomainNames(names) : undefined;
  },
};

/** For what is in a structure of its own. */
const BYTES: OptionType = {
  expected: 'hexadecimal digits behind hex:, such as hex:01ff',
  parse: () => undefined,
};

/** For codes that the table does not have. */
const UNKNOWN: OptionType = { ...TEXT, expected: 'text, or hexadecimal digits behind hex:' };

type Row = readonly [code: number, type: OptionType, ...names: string[]];

/**
 * Options by code: the type of their value, the name (as ISC's dhcp-options(5) has it), and other names in use. Those of
 * RFC 2132 unless another is given.
 */
const ROWS: readonly Row[] = [
  [1, ADDRESS, 'subnet-mask', 'netmask'],
  [2, I32, 'time-offset'],
  [3, ADDRESSES, 'routers', 'router'],
  [4, ADDRESSES, 'time-servers', 'time-server'],
  [5, ADDRESSES, 'ien116-name-servers', 'name-servers'],
  [6, ADDRESSES, 'domain-name-servers', 'dns-server', 'dns-servers'],
  [7, ADDRESSES, 'log-servers', 'log-server'],
  [8, ADDRESSES, 'cookie-servers', 'cookie-server'],
  [9, ADDRESSES, 'lpr-servers', 'lpr-server'],
  [10, ADDRESSES, 'impress-servers'],
  [11, ADDRESSES, 'resource-location-servers'],
  [12, TEXT, 'host-name', 'hostname'],
  [13, U16, 'boot-size', 'boot-file-size'],
  [14, TEXT, 'merit-dump', 'merit-dump-file'],
  [15, TEXT, 'domain-name'],
  [16, ADDRESS, 'swap-server'],
  [17, TEXT, 'root-path'],
  [18, TEXT, 'extensions-path', 'extension-path'],
  [19, BOOLEAN, 'ip-forwarding', 'ip-forward-enable'],
  [20, BOOLEAN, 'non-local-source-routing'],
  [21, RANGES, 'policy-filter'],
  [22, number(2, 576, 0xffff), 'max-dgram-reassembly', 'max-datagram-reassembly'],
  [23, number(1, 1, 0xff), 'default-ip-ttl', 'default-ttl'],
  [24, U32, 'path-mtu-aging-timeout'],
  [25, U16S, 'path-mtu-plateau-table'],
  [26, number(2, 68, 0xffff), 'interface-mtu', 'mtu'],
  [27, BOOLEAN, 'all-subnets-local'],
  [28, ADDRESS, 'broadcast-address', 'broadcast'],
  [29, BOOLEAN, 'perform-mask-discovery'],
  [30, BOOLEAN, 'mask-supplier'],
  [31, BOOLEAN, 'router-discovery'],
  [32, ADDRESS, 'router-solicitation-address', 'router-solicitation'],
  [33, ADDRESS_PAIRS, 'static-routes', 'static-route'],
  [34, BOOLEAN, 'trailer-encapsulation'],
  [35, U32, 'arp-cache-timeout', 'arp-timeout'],
  [36, BOOLEAN, 'ieee802-3-encapsulation', 'ethernet-encap'],
  [37, number(1, 1, 0xff), 'default-tcp-ttl', 'tcp-ttl'],
  [38, U32, 'tcp-keepalive-interval', 'tcp-keepalive'],
  [39, BOOLEAN, 'tcp-keepalive-garbage'],
  [40, TEXT, 'nis-domain'],
  [41, ADDRESSES, 'nis-servers', 'nis-server'],
  [42, ADDRESSES, 'ntp-servers', 'ntp-server'],
  [43, BYTES, 'vendor-encapsulated-options', 'vendor-encap'],
  [44, ADDRESSES, 'netbios-name-servers', 'netbios-ns'],
  [45, ADDRESSES, 'netbios-dd-server', 'netbios-dd'],
  [46, NODE_TYPE, 'netbios-node-type', 'netbios-nodetype'],
  [47, TEXT, 'netbios-scope'],
  [48, ADDRESSES, 'font-servers', 'x-windows-fs'],
  [49, ADDRESSES, 'x-display-manager', 'x-windows-dm'],
  [51, U32, 'dhcp-lease-time', 'lease-time'],
  [52, number(1, 1, 3), 'dhcp-option-overload', 'option-overload'],
  [56, TEXT, 'dhcp-message', 'message'],
  [57, number(2, 576, 0xffff), 'dhcp-max-message-size', 'max-message-size'],
  [58, U32, 'dhcp-renewal-time', 't1'],
  [59, U32, 'dhcp-rebinding-time', 't2'],
  [60, TEXT, 'vendor-class-identifier', 'vendor-class'],
  [61, CLIENT_IDENTIFIER, 'dhcp-client-identifier', 'client-id'],
  // RFC 2242.
  [62, TEXT, 'nwip-domain'],
  [63, BYTES, 'nwip-suboptions'],
  [64, TEXT, 'nisplus-domain', 'nis+-domain'],
  [65, ADDRESSES, 'nisplus-servers', 'nis+-server'],
  [66, TEXT, 'tftp-server-name', 'tftp-server'],
  [67, TEXT, 'bootfile-name'],
  [68, ADDRESSES, 'mobile-ip-home-agent', 'mobile-ip-home'],
  [69, ADDRESSES, 'smtp-server'],
  [70, ADDRESSES, 'pop-server', 'pop3-server'],
  [71, ADDRESSES, 'nntp-server'],
  [72, ADDRESSES, 'www-server'],
  [73, ADDRESSES, 'finger-server'],
  [74, ADDRESSES, 'irc-server'],
  [75, ADDRESSES, 'streettalk-server'],
  [76, ADDRESSES, 'streettalk-directory-assistance-server'],
  // RFC 3004.
  [77, TEXT, 'user-class'],
  // RFC 2610.
  [78, BYTE_AND_ADDRESSES, 'slp-directory-agent'],
  [79, BYTE_AND_TEXT, 'slp-service-scope'],
  // RFC 4039.
  [80, FLAG, 'rapid-commit'],
  // RFC 4702.
  [81, BYTES, 'fqdn'],
  // RFC 4578.
  [93, U16S, 'client-arch', 'pxe-system-type'],
  [94, BYTES, 'client-interface-id', 'pxe-interface-id'],
  [97, BYTES, 'client-machine-id', 'pxe-client-id'],
  // RFC 4833.
  [100, TEXT, 'posix-timezone', 'pcode'],
  [101, TEXT, 'tzdb-timezone', 'tcode'],
  // RFC 2563.
  [116, BOOLEAN, 'auto-config'],
  // RFC 2937.
  [117, U16S, 'name-service-search'],
  // RFC 3011.
  [118, ADDRESS, 'subnet-selection', 'subnet-select'],
  // RFC 3397.
  [119, DOMAIN_NAMES, 'domain-search'],
  // RFC 3361.
  [120, BYTES, 'sip-servers', 'sip-server'],
  // RFC 3442.
  [121, ROUTES, 'classless-static-routes', 'classless-static-route'],
  // RFC 3925.
  [124, BYTES, 'vivco'],
  [125, BYTES, 'vivso', 'vendor-id-encap'],
  // RFC 5859.
  [150, ADDRESSES, 'tftp-server-address'],
  // RFC 6926.
  [151, BYTE_AND_TEXT, 'status-code'],
  [152, U32, 'base-time'],
  [153, U32, 'start-time-of-state'],
  [154, U32, 'query-start-time'],
  [155, U32, 'query-end-time'],
  [156, number(1, 1, 8), 'dhcp-state'],
  [157, U8, 'data-source'],
  // The same as 121, for clients that came before RFC 3442.
  [249, ROUTES, 'ms-classless-static-routes'],
  // Web proxy auto-discovery, never standardised.
  [252, TEXT, 'wpad-url', 'wpad'],
];

/** What only the server or only clients may say. */
const RESERVED_NAMES: Readonly<Record<string, number>> = {
  'dhcp-requested-address': DhcpOption.REQUESTED_ADDRESS,
  'dhcp-message-type': DhcpOption.MESSAGE_TYPE,
  'dhcp-server-identifier': DhcpOption.SERVER_ID,
  'dhcp-parameter-request-list': DhcpOption.PARAMETER_LIST,
  'relay-agent-information': DhcpOption.RELAY_AGENT,
};

/** These, and what is no option at all. */
const RESERVED = new Set<number>([DhcpOption.PAD, DhcpOption.END, ...Object.values(RESERVED_NAMES)]);

const BY_CODE = new Map<number, Row>(ROWS.map((row) => [row[0], row]));
const CODES = new Map<string, number>([
  ...ROWS.flatMap(([code, , ...names]) => names.map((name): [string, number] => [name, code])),
  ...Object.entries(RESERVED_NAMES),
]);

/** Names of the options and what their values are, for documentation. */
export function describeDhcpOptions(): { code: number; names: readonly string[]; expected: string }[] {
  return ROWS.map(([code, { expected }, ...names]) => ({ code, names, expected }));
}

/** What came of reading an option: its bytes, or which of the two texts is wrong and what was expected. */
export type DhcpOptionResult =
  | { readonly code: number; readonly value: Uint8Array }
  | { readonly fault: 'name' | 'value'; readonly expected: string };

/**
 * An option as people write it.
 * @param name a name of the table, of either case, or the code as a decimal number from 1 to 254
 * @param text as the option's type says; `hex:` and hexadecimal digits gives the bytes of any option
 */
export function parseDhcpOption(name: string, text: string): DhcpOptionResult {
  const code = /^\d{1,3}$/.test(name) ? Number(name) : CODES.get(name.toLowerCase());
  if (code === undefined || code > 255) {
    return { fault: 'name', expected: 'expected the name of a DHCP option or its code, 1 to 254' };
  }
  if (RESERVED.has(code)) return { fault: 'name', expected: 'expected an option that is not for the protocol itself' };
  const type = BY_CODE.get(code)?.[1] ?? UNKNOWN;
  const value = text.startsWith('hex:') ? hexadecimal(text.slice(4)) : type.parse(text.trim());
  if (value === undefined) return { fault: 'value', expected: `expected ${type.expected}` };
  if (value.length > MAX_VALUE) return { fault: 'value', expected: `expected at most ${MAX_VALUE} bytes` };
  // Only an option whose type says so may be empty (RFC 2132 section 2).
  if (value.length === 0 && type !== FLAG)
    return { fault: 'value', expected: `expected ${type.expected}, not nothing` };
  return { code, value };
}

function words(text: string): string[] {
  return text.split(/[\s,]+/).filter((word) => word !== '');
}

function addresses(texts: readonly string[]): Uint8Array | undefined {
  if (texts.length === 0) return undefined;
  const bytes = new Uint8Array(4 * texts.length);
  for (const [i, text] of texts.entries()) {
    const address = parseIpv4(text);
    if (address === undefined) return undefined;
    writeU32(bytes, 4 * i, address);
  }
  return bytes;
}

function number(length: 1 | 2 | 4, min: number, max: number): OptionType {
  return {
    expected: `a number from ${min} to ${max}`,
    parse: (text) => {
      const value = /^-?\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
      if (!(value >= min && value <= max)) return undefined;
      const bytes = new Uint8Array(length);
      if (length === 1) bytes[0] = value;
      else if (length === 2) writeU16(bytes, 0, value);
      else writeU32(bytes, 0, value);
      return bytes;
    },
  };
}

function hexadecimal(digits: string): Uint8Array | undefined {
  return /^([0-9a-f]{2})+$/i.test(digits) ? new Uint8Array(Buffer.from(digits, 'hex')) : undefined;
}
