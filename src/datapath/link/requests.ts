import { InvalidInputError } from '../../errors.js';
import { formatMac } from '../../packet/address.js';
import { formatCidr, formatIp, type Ip } from '../../packet/ip.js';
import {
  LITTLE_ENDIAN,
  MessageWriter,
  NLA_F_NESTED,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  NLM_F_REQUEST,
} from '../netlink/message.js';
import { familyOf, type IpWithPrefix, requireIp, writeIp } from './address.js';
import type { LinkTarget } from './link.js';
import { requireInterfaceName } from './name.js';
import type { Namespace } from './namespace.js';
import type { LinkRoute } from './route.js';
import {
  EADDRNOTAVAIL,
  ENODEV,
  ENOENT,
  ESRCH,
  IFA_ADDRESS,
  IFA_F_NODAD,
  IFA_FLAGS,
  IFA_LOCAL,
  IFADDRMSG_LENGTH,
  IFF_UP,
  IFINFOMSG_LENGTH,
  IFLA_ADDRESS,
  IFLA_GRE_COLLECT_METADATA,
  IFLA_IFALIAS,
  IFLA_IFNAME,
  IFLA_INFO_DATA,
  IFLA_INFO_KIND,
  IFLA_LINKINFO,
  IFLA_MASTER,
  IFLA_MTU,
  IFLA_NET_NS_FD,
  IFLA_VXLAN_COLLECT_METADATA,
  IFLA_VXLAN_LEARNING,
  IFLA_VXLAN_PORT,
  IFLA_VXLAN_UDP_ZERO_CSUM6_RX,
  NDA_DST,
  NDA_LLADDR,
  NDMSG_LENGTH,
  NUD_PERMANENT,
  RT_SCOPE_LINK,
  RT_SCOPE_NOWHERE,
  RT_SCOPE_UNIVERSE,
  RT_TABLE_MAIN,
  RTA_DST,
  RTA_GATEWAY,
  RTA_METRICS,
  RTA_OIF,
  RTA_PREFSRC,
  RTA_PRIORITY,
  RTAX_MTU,
  RTM_DELADDR,
  RTM_DELLINK,
  RTM_DELNEIGH,
  RTM_DELROUTE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWNEIGH,
  RTM_NEWROUTE,
  RTMSG_LENGTH,
  RTN_UNICAST,
  RTNH_F_ONLINK,
  RTPROT_STATIC,
  VETH_INFO_PEER,
} from './rtnetlink.js';

/** What any new interface can be given. */
export interface NewLink {
  readonly name: string;
  readonly mtu?: number;
  readonly mac?: number;
  readonly up?: boolean;
  readonly alias?: string;
  /** Index of a bridge to join. */
  readonly master?: number;
}

/** One end of a new veth pair. `namespace` is where to make it; that of the socket if undefined. */
export interface NewVethEnd extends Omit<NewLink, 'up' | 'alias' | 'master'> {
  readonly namespace?: Namespace;
}

/** What to change about an interface; undefined stays as it is. */
export interface LinkChange {
  /** A new name. The interface must be given by index; before Linux 6.2 it must be down, too. */
  readonly name?: string;
  readonly mtu?: number;
  readonly mac?: number;
  readonly up?: boolean;
  /** Empty to have none. */
  readonly alias?: string;
  /** 0 to leave the bridge it is in. */
  readonly master?: number;
  /** Where to move it. */
  readonly namespace?: Namespace;
}

/** A neighbour that does not need to be asked for its address. */
export interface Neighbour {
  /** Of the interface. */
  readonly index: number;
  readonly ip: Ip;
  readonly mac: number;
}

const NONE: readonly number[] = [];

/**
 * Requests to change the interfaces, addresses and routes of a namespace, to be sent together with `Links.apply`. The
 * kernel carries them out in order. Requests to add an address, route or neighbour succeed when it is there, requests to
 * delete anything succeed when it is gone.
 *
 * Methods throw InvalidInputError for values that the kernel would misread.
 */
export class LinkRequests {
  readonly writer = new MessageWriter(1024);
  /** What each request asks for, in words. */
  readonly asked: string[] = [];
  /** For each request the errno values that count as success. */
  readonly tolerated: (readonly number[])[] = [];
  /** For each request that makes an interface its name, else undefined. */
  readonly makes: (string | undefined)[] = [];

  get count(): number {
    return this.asked.length;
  }

  /** A pair of interfaces that are each other's cable. */
  addVeth(link: NewLink, peer: NewVethEnd): this {
    requireInterfaceName(peer.name, 'peer.name');
    requireLinkValues(peer, 'peer.');
    const namespaceFd = peer.namespace?.fd;
    this.#beginNew(link, 'veth', `with peer ${peer.name}${peer.namespace ? ` in ${peer.namespace.path}` : ''}`);
    const writer = this.writer;
    const [info, data] = this.#beginInfo('veth');
    const end = writer.nest(VETH_INFO_PEER | NLA_F_NESTED);
    writer.reserve(IFINFOMSG_LENGTH);
    this.#writeLink(peer, namespaceFd);
    writer.endNest(end);
    return this.#endNew(link, info, data);
  }

  /**
   * A VXLAN interface where each packet brings its own tunnel header fields.
   * @param port UDP port
   */
  addVxlan(link: NewLink, port: number): this {
    if (!(Number.isInteger(port) && port > 0 && port <= 0xffff)) {
      throw new InvalidInputError('port', port, 'expected a UDP port');
    }
    this.#beginNew(link, 'vxlan', `on UDP port ${port}`);
    const [info, data] = this.#beginInfo('vxlan');
    this.writer.u8(IFLA_VXLAN_COLLECT_METADATA, 1);
    this.writer.u8(IFLA_VXLAN_LEARNING, 0);
    this.writer.u8(IFLA_VXLAN_UDP_ZERO_CSUM6_RX, 1);
    this.writer.be16(IFLA_VXLAN_PORT, port);
    return this.#endNew(link, info, data);
  }

  /** A GRE interface for Ethernet frames where each packet brings its own tunnel header fields. It ignores `mtu`. */
  addGretap(link: NewLink): this {
    this.#beginNew(link, 'gretap', 'in external mode');
    const [info, data] = this.#beginInfo('gretap');
    this.writer.flag(IFLA_GRE_COLLECT_METADATA);
    return this.#endNew(link, info, data);
  }

  /** An interface of a kind that needs no settings: `dummy`, `bridge`. */
  addPlain(link: NewLink, kind: 'bridge' | 'dummy'): this {
    this.#beginNew(link, kind, '');
    const [info, data] = this.#beginInfo(kind);
    return this.#endNew(link, info, data);
  }

  deleteLink(target: LinkTarget): this {
    requireTarget(target);
    this.#beginLink(RTM_DELLINK, target, `delete link ${target}`, [ENODEV]);
    return this;
  }

  setLink(target: LinkTarget, change: LinkChange): this {
    requireTarget(target);
    requireLinkValues(change, '');
    const namespaceFd = change.namespace?.fd;
    const parts = [];
    if (change.namespace !== undefined) parts.push(`netns ${change.namespace.path}`);
    if (change.name !== undefined) parts.push(`name ${change.name}`);
    if (change.mtu !== undefined) parts.push(`mtu ${change.mtu}`);
    if (change.mac !== undefined) parts.push(`address ${formatMac(change.mac)}`);
    if (change.alias !== undefined) parts.push(`alias ${change.alias}`);
    if (change.master !== undefined) parts.push(`master ${change.master}`);
    if (change.up !== undefined) parts.push(change.up ? 'up' : 'down');
    if (change.name !== undefined && typeof target === 'string') {
      throw new InvalidInputError('target', target, 'expected the index of the interface to give a new name to');
    }
    const start = this.#beginLink(RTM_NEWLINK, target, `set link ${target} ${parts.join(' ')}`, NONE);
    this.#writeFlags(start, change.up);
    this.#writeLink(change, namespaceFd);
    return this;
  }

  /** An IPv6 address is usable at once: other stations are not asked whether they have it. */
  addAddress(index: number, address: IpWithPrefix): this {
    this.#address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, 'add', index, address, NONE);
    if (address.family === 6) {
      this.writer.u32(IFA_FLAGS, IFA_F_NODAD);
    }
    return this;
  }

  deleteAddress(index: number, address: IpWithPrefix): this {
    this.#address(RTM_DELADDR, 0, 'delete', index, address, [EADDRNOTAVAIL, ENODEV]);
    return this;
  }

  /** Replaces a route to the same destination with the same priority. */
  addRoute(route: LinkRoute): this {
    this.#route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, 'add', route, NONE);
    return this;
  }

  deleteRoute(route: LinkRoute): this {
    this.#route(RTM_DELROUTE, 0, 'delete', route, [ESRCH, ENODEV]);
    return this;
  }

  addNeighbour(neighbour: Neighbour): this {
    this.#neighbour(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, 'add', neighbour, NONE);
    return this;
  }

  deleteNeighbour(neighbour: Neighbour): this {
    this.#neighbour(RTM_DELNEIGH, 0, 'delete', neighbour, [ENOENT, ENODEV]);
    return this;
  }

  /** Begin a message and note what it asks for. Arguments are checked before, so that none is left unfinished. */
  #begin(type: number, flags: number, asked: string, tolerated: readonly number[], makes?: string): number {
    const start = this.writer.begin(type, NLM_F_REQUEST | flags);
    this.asked.push(asked);
    this.tolerated.push(tolerated);
    this.makes.push(makes);
    return start;
  }

  #beginNew(link: NewLink, kind: string, detail: string): void {
    requireInterfaceName(link.name, 'name');
    requireLinkValues(link, '');
    const asked = `add link ${link.name} (${kind})${detail === '' ? '' : ` ${detail}`}`;
    const start = this.#begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, asked, NONE, link.name);
    this.writer.reserve(IFINFOMSG_LENGTH);
    this.#writeFlags(start, link.up);
    this.#writeLink(link, undefined);
  }

  /** @returns the two nests to end, outer first */
  #beginInfo(kind: string): [number, number] {
    const info = this.writer.nest(IFLA_LINKINFO | NLA_F_NESTED);
    this.writer.string(IFLA_INFO_KIND, kind);
    return [info, this.writer.nest(IFLA_INFO_DATA | NLA_F_NESTED)];
  }

  #endNew(link: NewLink, info: number, data: number): this {
    this.writer.endNest(data);
    this.writer.endNest(info);
    // The kernel overlooks an alias while it makes the interface.
    return link.alias === undefined || link.alias === '' ? this : this.setLink(link.name, { alias: link.alias });
  }

  #beginLink(type: number, target: LinkTarget, asked: string, tolerated: readonly number[]): number {
    const start = this.#begin(type, 0, asked, tolerated);
    const offset = this.writer.reserve(IFINFOMSG_LENGTH);
    if (typeof target === 'number') {
      this.writer.view.setInt32(offset + 4, target, LITTLE_ENDIAN);
    } else {
      this.writer.string(IFLA_IFNAME, target);
    }
    return start;
  }

  #writeFlags(message: number, up: boolean | undefined): void {
    if (up !== undefined) {
      // Behind the message header: ifi_flags and ifi_change.
      this.writer.view.setUint32(message + 24, up ? IFF_UP : 0, LITTLE_ENDIAN);
      this.writer.view.setUint32(message + 28, IFF_UP, LITTLE_ENDIAN);
    }
  }

  #writeLink(link: LinkChange, namespaceFd: number | undefined): void {
    const writer = this.writer;
    if (namespaceFd !== undefined) {
      writer.u32(IFLA_NET_NS_FD, namespaceFd);
    }
    if (link.name !== undefined) {
      writer.string(IFLA_IFNAME, link.name);
    }
    if (link.mtu !== undefined) {
      writer.u32(IFLA_MTU, link.mtu);
    }
    if (link.mac !== undefined) {
      writer.mac(IFLA_ADDRESS, link.mac);
    }
    if (link.alias === '') {
      writer.flag(IFLA_IFALIAS);
    } else if (link.alias !== undefined) {
      writer.string(IFLA_IFALIAS, link.alias);
    }
    if (link.master !== undefined) {
      writer.u32(IFLA_MASTER, link.master);
    }
  }

  #address(
    type: number,
    flags: number,
    verb: string,
    index: number,
    address: IpWithPrefix,
    tolerated: readonly number[],
  ): void {
    requireIndex(index);
    requireIp(address, 'address');
    this.#begin(type, flags, `${verb} address ${formatIp(address)}/${address.prefix} of interface ${index}`, tolerated);
    const offset = this.writer.reserve(IFADDRMSG_LENGTH);
    const { view } = this.writer;
    view.setUint8(offset, familyOf(address));
    view.setUint8(offset + 1, address.prefix);
    view.setUint32(offset + 4, index, LITTLE_ENDIAN);
    writeIp(this.writer, IFA_LOCAL, address);
    writeIp(this.writer, IFA_ADDRESS, address);
  }

  #route(type: number, flags: number, verb: string, route: LinkRoute, tolerated: readonly number[]): void {
    const { destination, gateway, index, priority, mtu, source } = route;
    requireIndex(index);
    requireIp(destination, 'destination');
    for (const [field, ip] of [['gateway', gateway] as const, ['source', source] as const]) {
      if (ip !== undefined) {
        requireIp(ip, field);
        if (ip.family !== destination.family) {
          throw new InvalidInputError(field, formatIp(ip), `expected an IPv${destination.family} address`);
        }
      }
    }
    const via = gateway === undefined ? '' : ` via ${formatIp(gateway)}`;
    this.#begin(type, flags, `${verb} route ${formatCidr(destination)}${via} dev ${index}`, tolerated);
    const writer = this.writer;
    const offset = writer.reserve(RTMSG_LENGTH);
    writer.view.setUint8(offset, familyOf(destination));
    writer.view.setUint8(offset + 1, destination.prefix);
    writer.view.setUint8(offset + 4, RT_TABLE_MAIN);
    if (type === RTM_NEWROUTE) {
      const onLink = gateway === undefined && destination.family === 4;
      writer.view.setUint8(offset + 5, RTPROT_STATIC);
      writer.view.setUint8(offset + 6, onLink ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE);
      writer.view.setUint8(offset + 7, RTN_UNICAST);
    } else {
      // Any protocol and type; and any scope.
      writer.view.setUint8(offset + 6, RT_SCOPE_NOWHERE);
    }
    writer.view.setUint32(offset + 8, route.onlink ? RTNH_F_ONLINK : 0, LITTLE_ENDIAN);
    if (destination.prefix > 0) {
      writeIp(writer, RTA_DST, destination);
    }
    if (gateway !== undefined) {
      writeIp(writer, RTA_GATEWAY, gateway);
    }
    writer.u32(RTA_OIF, index);
    if (priority !== undefined) {
      writer.u32(RTA_PRIORITY, priority);
    }
    if (source !== undefined) {
      writeIp(writer, RTA_PREFSRC, source);
    }
    if (mtu !== undefined) {
      const metrics = writer.nest(RTA_METRICS | NLA_F_NESTED);
      writer.u32(RTAX_MTU, mtu);
      writer.endNest(metrics);
    }
  }

  #neighbour(type: number, flags: number, verb: string, neighbour: Neighbour, tolerated: readonly number[]): void {
    const { index, ip, mac } = neighbour;
    requireIndex(index);
    requireIp(ip, 'ip');
    requireMacNumber(mac, 'mac');
    this.#begin(type, flags, `${verb} neighbour ${formatIp(ip)} lladdr ${formatMac(mac)} dev ${index}`, tolerated);
    const offset = this.writer.reserve(NDMSG_LENGTH);
    const { view } = this.writer;
    view.setUint8(offset, familyOf(ip));
    view.setInt32(offset + 4, index, LITTLE_ENDIAN);
    view.setUint16(offset + 8, NUD_PERMANENT, LITTLE_ENDIAN);
    writeIp(this.writer, NDA_DST, ip);
    this.writer.mac(NDA_LLADDR, mac);
  }
}

function requireIndex(index: number): void {
  if (!(Number.isInteger(index) && index > 0 && index <= 0x7fff_ffff)) {
    throw new InvalidInputError('index', index, 'expected the index of an interface');
  }
}

/** @throws InvalidInputError */
export function requireTarget(target: LinkTarget): void {
  if (typeof target === 'number') {
    requireIndex(target);
  } else {
    requireInterfaceName(target, 'name');
  }
}

function requireMacNumber(mac: number, field: string): void {
  if (!(Number.isInteger(mac) && mac >= 0 && mac <= 0xffff_ffff_ffff)) {
    throw new InvalidInputError(field, mac, 'expected a MAC address, a 48-bit number');
  }
}

function requireLinkValues(link: LinkChange, field: string): void {
  if (link.name !== undefined) {
    requireInterfaceName(link.name, `${field}name`);
  }
  if (link.mtu !== undefined && !(Number.isInteger(link.mtu) && link.mtu >= 0 && link.mtu <= 0x7fff_ffff)) {
    throw new InvalidInputError(`${field}mtu`, link.mtu, 'expected a number of bytes');
  }
  if (link.mac !== undefined) {
    requireMacNumber(link.mac, `${field}mac`);
  }
  if (link.alias !== undefined && (new TextEncoder().encode(link.alias).length > 254 || link.alias.includes('\0'))) {
    throw new InvalidInputError(`${field}alias`, link.alias, 'expected at most 254 bytes of text');
  }
}
