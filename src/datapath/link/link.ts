import { AttributeReader, LITTLE_ENDIAN, type MessageReader, readU64 } from '../netlink/message.js';
import {
  AF_UNSPEC,
  IFF_LOOPBACK,
  IFF_LOWER_UP,
  IFF_UP,
  IFINFOMSG_LENGTH,
  IFLA_ADDRESS,
  IFLA_GRE_COLLECT_METADATA,
  IFLA_IFALIAS,
  IFLA_IFNAME,
  IFLA_INFO_DATA,
  IFLA_INFO_KIND,
  IFLA_LINK,
  IFLA_LINK_NETNSID,
  IFLA_LINKINFO,
  IFLA_MASTER,
  IFLA_MTU,
  IFLA_STATS64,
  IFLA_VXLAN_COLLECT_METADATA,
  IFLA_VXLAN_LEARNING,
  IFLA_VXLAN_PORT,
  IFLA_VXLAN_UDP_ZERO_CSUM6_RX,
} from './rtnetlink.js';

/** A network interface of one namespace. */
export interface Link {
  /** Unique in its namespace for as long as the interface is there. */
  readonly index: number;
  readonly name: string;
  readonly mtu: number;
  /** Administratively up. */
  readonly up: boolean;
  /** Up, and the other end of the cable is too. */
  readonly carrier: boolean;
  readonly loopback: boolean;
  /** Undefined if the interface has no Ethernet address. */
  readonly mac: number | undefined;
  /** Of a virtual interface: `veth`, `vxlan`, `bridge` … */
  readonly kind: string | undefined;
  readonly alias: string | undefined;
  /** Index of the bridge, bond or datapath it belongs to. */
  readonly master: number | undefined;
  /** Index of its peer (veth) or of the interface it is built on, in the namespace that `peerNamespace` stands for. */
  readonly peer: number | undefined;
  /** The kernel's number for the namespace of the peer; undefined if that is this one. */
  readonly peerNamespace: number | undefined;
  readonly tunnel: TunnelAttributes | undefined;
}

/** Attributes of a VXLAN or GRE interface; undefined where the kind does not have them. */
export interface TunnelAttributes {
  /** Each packet brings its own tunnel header fields (`external`). */
  readonly external: boolean;
  /** UDP port. */
  readonly port: number | undefined;
  readonly learning: boolean | undefined;
  readonly zeroChecksum6Receive: boolean | undefined;
}

/** Counters since the interface was made (`struct rtnl_link_stats64`), exact up to 2^53. */
export interface LinkStatistics {
  readonly rxPackets: number;
  readonly txPackets: number;
  readonly rxBytes: number;
  readonly txBytes: number;
  readonly rxErrors: number;
  readonly txErrors: number;
  readonly rxDropped: number;
  readonly txDropped: number;
}

/** An interface by index or by name. */
export type LinkTarget = number | string;

/** @returns undefined for a message about the interface in another role, such as that of a port of a bridge */
export function readLink(message: MessageReader): Link | undefined {
  const attributes = message.attributes(new AttributeReader(), IFINFOMSG_LENGTH);
  const { view, offset } = message;
  if (view.getUint8(offset) !== AF_UNSPEC) {
    return undefined;
  }
  const flags = view.getUint32(offset + 8, LITTLE_ENDIAN);
  const link: { -readonly [K in keyof Link]: Link[K] } = {
    index: view.getInt32(offset + 4, LITTLE_ENDIAN),
    name: '',
    mtu: 0,
    up: (flags & IFF_UP) !== 0,
    carrier: (flags & IFF_LOWER_UP) !== 0,
    loopback: (flags & IFF_LOOPBACK) !== 0,
    mac: undefined,
    kind: undefined,
    alias: undefined,
    master: undefined,
    peer: undefined,
    peerNamespace: undefined,
    tunnel: undefined,
  };
  while (attributes.next()) {
    switch (attributes.type) {
      case IFLA_IFNAME:
        link.name = attributes.string();
        break;
      case IFLA_MTU:
        link.mtu = attributes.u32();
        break;
      case IFLA_ADDRESS:
        link.mac = attributes.length === 6 ? attributes.mac() : undefined;
        break;
      case IFLA_IFALIAS:
        link.alias = attributes.string();
        break;
      case IFLA_MASTER:
        link.master = attributes.u32();
        break;
      case IFLA_LINK:
        link.peer = attributes.u32() || undefined;
        break;
      case IFLA_LINK_NETNSID:
        link.peerNamespace = attributes.i32();
        break;
      case IFLA_LINKINFO:
        readLinkInfo(link, attributes);
        break;
    }
  }
  return link;
}

function readLinkInfo(link: { -readonly [K in keyof Link]: Link[K] }, attribute: AttributeReader): void {
  for (const info = attribute.enter(new AttributeReader()); info.next(); ) {
    if (info.type === IFLA_INFO_KIND) {
      link.kind = info.string();
    } else if (info.type === IFLA_INFO_DATA) {
      // The kernel sends the kind before the data, whose meaning depends on it.
      if (link.kind === 'vxlan') {
        link.tunnel = readVxlan(info);
      } else if (link.kind === 'gretap') {
        link.tunnel = readGre(info);
      }
    }
  }
}

function readVxlan(attribute: AttributeReader): TunnelAttributes {
  const tunnel = { external: false, port: 0, learning: false, zeroChecksum6Receive: false };
  for (const data = attribute.enter(new AttributeReader()); data.next(); ) {
    switch (data.type) {
      case IFLA_VXLAN_COLLECT_METADATA:
        tunnel.external = data.u8() !== 0;
        break;
      case IFLA_VXLAN_PORT:
        tunnel.port = data.be16();
        break;
      case IFLA_VXLAN_LEARNING:
        tunnel.learning = data.u8() !== 0;
        break;
      case IFLA_VXLAN_UDP_ZERO_CSUM6_RX:
        tunnel.zeroChecksum6Receive = data.u8() !== 0;
        break;
    }
  }
  return tunnel;
}

function readGre(attribute: AttributeReader): TunnelAttributes {
  let external = false;
  for (const data = attribute.enter(new AttributeReader()); data.next(); ) {
    external ||= data.type === IFLA_GRE_COLLECT_METADATA;
  }
  return { external, port: undefined, learning: undefined, zeroChecksum6Receive: undefined };
}

export function readStatistics(message: MessageReader): LinkStatistics | undefined {
  const attributes = message.attributes(new AttributeReader(), IFINFOMSG_LENGTH);
  while (attributes.next()) {
    if (attributes.type === IFLA_STATS64) {
      const offset = attributes.struct(64);
      const counter = (index: number) => readU64(attributes.view, offset + 8 * index);
      return {
        rxPackets: counter(0),
        txPackets: counter(1),
        rxBytes: counter(2),
        txBytes: counter(3),
        rxErrors: counter(4),
        txErrors: counter(5),
        rxDropped: counter(6),
        txDropped: counter(7),
      };
    }
  }
  return undefined;
}

/** Whether two readings of an interface say the same. */
export function sameLink(a: Link, b: Link): boolean {
  return (
    a.index === b.index &&
    a.name === b.name &&
    a.mtu === b.mtu &&
    a.up === b.up &&
    a.carrier === b.carrier &&
    a.mac === b.mac &&
    a.kind === b.kind &&
    a.alias === b.alias &&
    a.master === b.master &&
    a.peer === b.peer &&
    a.peerNamespace === b.peerNamespace &&
    a.tunnel?.external === b.tunnel?.external &&
    a.tunnel?.port === b.tunnel?.port
  );
}
