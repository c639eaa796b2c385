import { InvalidInputError } from '../../errors.js';
import type { Ip } from '../../packet/ip.js';
import { AttributeReader, LITTLE_ENDIAN, type MessageReader, type MessageWriter } from '../netlink/message.js';
import {
  AF_INET,
  AF_INET6,
  IFA_ADDRESS,
  IFA_F_TENTATIVE,
  IFA_FLAGS,
  IFA_LOCAL,
  IFADDRMSG_LENGTH,
} from './rtnetlink.js';

/** An address with the length of its subnet's prefix; unlike a `Cidr` it keeps its host bits. */
export interface IpWithPrefix extends Ip {
  readonly prefix: number;
}

/** An address of an interface. */
export interface LinkAddress extends IpWithPrefix {
  /** Of the interface. */
  readonly index: number;
  /** IPv6: not usable yet, other stations are being asked whether they have it. */
  readonly tentative: boolean;
}

/** Number of the address family. */
export function familyOf(ip: Ip): number {
  return ip.family === 4 ? AF_INET : AF_INET6;
}

/** Write an address, 4 or 16 bytes, as an attribute. */
export function writeIp(writer: MessageWriter, type: number, ip: Ip): void {
  const offset = writer.attribute(type, ip.words.length * 4);
  ip.words.forEach((word, i) => {
    writer.view.setUint32(offset + 4 * i, word);
  });
}

/** Read an address from an attribute of a message of address family `family`; undefined for families other than IP. */
export function readIp(attribute: AttributeReader, family: number): Ip | undefined {
  if (family === AF_INET) {
    return { family: 4, words: [attribute.be32()] };
  }
  if (family === AF_INET6) {
    const offset = attribute.struct(16);
    const { view } = attribute;
    return {
      family: 6,
      words: [0, 4, 8, 12].map((word) => view.getUint32(offset + word)),
    };
  }
  return undefined;
}

/** Check what types do not say: as many words as the family has, and a prefix that fits. @throws InvalidInputError */
export function requireIp(ip: Ip & { readonly prefix?: number }, field: string): void {
  const words = ip.family === 4 ? 1 : 4;
  const valid = (ip.family === 4 || ip.family === 6) && ip.words.length === words;
  if (!valid || !ip.words.every((word) => Number.isInteger(word) && word >= 0 && word <= 0xffff_ffff)) {
    throw new InvalidInputError(field, ip, 'expected an IP address');
  }
  if (ip.prefix !== undefined && !(Number.isInteger(ip.prefix) && ip.prefix >= 0 && ip.prefix <= 32 * words)) {
    throw new InvalidInputError(`${field}.prefix`, ip.prefix, `expected 0 to ${32 * words}`);
  }
}

export function ipEqual(a: Ip, b: Ip): boolean {
  return a.family === b.family && a.words.every((word, i) => word === b.words[i]);
}

export function readAddress(message: MessageReader): LinkAddress | undefined {
  const attributes = message.attributes(new AttributeReader(), IFADDRMSG_LENGTH);
  const { view, offset } = message;
  const family = view.getUint8(offset);
  let address: Ip | undefined;
  let local: Ip | undefined;
  let flags = view.getUint8(offset + 2);
  while (attributes.next()) {
    if (attributes.type === IFA_ADDRESS) {
      address = readIp(attributes, family);
    } else if (attributes.type === IFA_LOCAL) {
      local = readIp(attributes, family);
    } else if (attributes.type === IFA_FLAGS) {
      flags = attributes.u32();
    }
  }
  // On a point-to-point interface IFA_ADDRESS is the other end's.
  const ip = local ?? address;
  return (
    ip && {
      ...ip,
      prefix: view.getUint8(offset + 1),
      index: view.getUint32(offset + 4, LITTLE_ENDIAN),
      tentative: (flags & IFA_F_TENTATIVE) !== 0,
    }
  );
}
