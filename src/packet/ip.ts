import {
  formatIpv4,
  formatIpv6,
  ipv4Network,
  ipv4PrefixMask,
  ipv6Network,
  parseIpv4,
  parseIpv4Cidr,
  parseIpv6,
  parseIpv6Cidr,
} from './address.js';

/** An address of either family: one unsigned 32-bit word for IPv4, four for IPv6. */
export interface Ip {
  readonly family: 4 | 6;
  readonly words: readonly number[];
}

/** An address range of either family. Bits behind the prefix are zero. */
export interface Cidr extends Ip {
  readonly prefix: number;
}

/** IPv4 dotted quad or IPv6 text (RFC 4291 section 2.2); undefined when it is neither. */
export function parseIp(text: string): Ip | undefined {
  const v4 = parseIpv4(text);
  if (v4 !== undefined) return { family: 4, words: [v4] };
  const v6 = parseIpv6(text);
  return v6 === undefined ? undefined : { family: 6, words: v6 };
}

export function formatIp(ip: Ip): string {
  return ip.family === 4 ? formatIpv4(ip.words[0]) : formatIpv6(ip.words);
}

/** `ADDRESS/PREFIX`; host bits are cleared. Undefined when the text is not of that form. */
export function parseCidr(text: string): Cidr | undefined {
  const v4 = parseIpv4Cidr(text);
  if (v4 !== undefined) return { family: 4, words: [ipv4Network(v4.address, v4.prefix)], prefix: v4.prefix };
  const v6 = parseIpv6Cidr(text);
  return v6 === undefined ? undefined : { family: 6, words: ipv6Network(v6.address, v6.prefix), prefix: v6.prefix };
}

export function formatCidr(cidr: Cidr): string {
  return `${formatIp(cidr)}/${cidr.prefix}`;
}

export function cidrContains(cidr: Cidr, ip: Ip): boolean {
  if (cidr.family !== ip.family) return false;
  return cidr.words.every((word, i) => ((word ^ ip.words[i]) & ipv4PrefixMask(cidr.prefix - 32 * i)) === 0);
}
