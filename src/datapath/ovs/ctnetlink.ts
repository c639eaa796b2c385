import { type TranslatedEnd, translationsOf } from '../connection.js';
import type { ConnectionName, ConnectionOperation, ConnectionTuple, TrackedConnection } from '../datapath.js';
import {
  AttributeReader,
  type MessageReader,
  type MessageWriter,
  NLA_F_NESTED,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REQUEST,
} from '../netlink/message.js';
import { TCP_STATES, type TcpState } from '../tcp-states.js';
import { IpProtocol } from './uapi.js';

/** The kernel's connections in netlink messages. */

// linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h, nf_conntrack_common.h, nf_conntrack_tcp.h
export const NFNL_SUBSYS_CTNETLINK = 1;
export const NFNLGRP_CONNTRACK_NEW = 1;
export const NFNLGRP_CONNTRACK_UPDATE = 2;
export const NFNLGRP_CONNTRACK_DESTROY = 3;
export const IPCTNL_MSG_CT_NEW = 0;
export const IPCTNL_MSG_CT_GET = 1;
export const IPCTNL_MSG_CT_DELETE = 2;
/** struct nfgenmsg: family u8, version u8, resource id be16. */
export const NFGENMSG_LENGTH = 4;
export const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_REPLY = 2;
const CTA_STATUS = 3;
const CTA_PROTOINFO = 4;
const CTA_NAT_SRC = 6;
const CTA_TIMEOUT = 7;
const CTA_MARK = 8;
export const CTA_ID = 12;
const CTA_NAT_DST = 13;
export const CTA_ZONE = 18;
const CTA_MARK_MASK = 21;
const CTA_TUPLE_IP = 1;
const CTA_TUPLE_PROTO = 2;
const CTA_IP_V4_SRC = 1;
const CTA_IP_V4_DST = 2;
const CTA_IP_V6_SRC = 3;
const CTA_IP_V6_DST = 4;
const CTA_PROTO_NUM = 1;
const CTA_PROTO_SRC_PORT = 2;
const CTA_PROTO_DST_PORT = 3;
const CTA_PROTO_ICMP_ID = 4;
const CTA_PROTO_ICMP_TYPE = 5;
const CTA_PROTO_ICMP_CODE = 6;
const CTA_PROTO_ICMPV6_ID = 7;
const CTA_PROTO_ICMPV6_TYPE = 8;
const CTA_PROTO_ICMPV6_CODE = 9;
const CTA_PROTOINFO_TCP = 1;
const CTA_PROTOINFO_TCP_STATE = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY = 5;
const CTA_NAT_V4_MINIP = 1;
const CTA_NAT_V4_MAXIP = 2;
const CTA_NAT_PROTO = 3;
const CTA_NAT_V6_MINIP = 4;
const CTA_NAT_V6_MAXIP = 5;
const CTA_PROTONAT_PORT_MIN = 1;
const CTA_PROTONAT_PORT_MAX = 2;
const IPS_SEEN_REPLY = 2;
const IPS_ASSURED = 4;
const IPS_CONFIRMED = 8;
/** Segments are not held against the window. */
const IP_CT_TCP_FLAG_BE_LIBERAL = 8;
const AF_INET = 2;
const AF_INET6 = 10;

export function begin(writer: MessageWriter, command: number, flags: number, family: number): void {
  writer.begin((NFNL_SUBSYS_CTNETLINK << 8) | command, NLM_F_REQUEST | flags);
  writer.view.setUint8(writer.reserve(NFGENMSG_LENGTH), family);
}

/** A request about one connection, without what else it says. */
export function beginNamed(writer: MessageWriter, command: number, flags: number, name: ConnectionName): void {
  const { zone, family, protocol, original } = name;
  begin(writer, command, flags, family === 4 ? AF_INET : AF_INET6);
  writeTuple(writer, CTA_TUPLE_ORIG, protocol, original);
  writer.be16(CTA_ZONE, zone);
}

/** See {@link ConnectionOperation}. */
export function writeOperation(writer: MessageWriter, operation: ConnectionOperation): void {
  switch (operation.type) {
    case 'create':
      writeCreation(writer, operation.connection);
      break;
    case 'change':
      beginNamed(writer, IPCTNL_MSG_CT_NEW, 0, operation.connection);
      if (operation.answered) writeAnswered(writer, operation.connection.protocol);
      if (operation.timeoutMs !== undefined) writer.be32(CTA_TIMEOUT, seconds(operation.timeoutMs));
      if (operation.markMask !== undefined) {
        writer.be32(CTA_MARK, ((operation.mark ?? 0) & operation.markMask) >>> 0);
        writer.be32(CTA_MARK_MASK, operation.markMask);
      }
      break;
    case 'forget':
      beginNamed(writer, IPCTNL_MSG_CT_DELETE, 0, operation.connection);
      break;
  }
}

/** The kernel makes what answers look like from the translations, so the reply is that of a connection without any. */
function writeCreation(writer: MessageWriter, connection: Omit<TrackedConnection, 'tcpState'>): void {
  const { protocol, original, reply, answered, mark, timeoutMs } = connection;
  beginNamed(writer, IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_EXCL, connection);
  const isEcho = protocol === IpProtocol.ICMP || protocol === IpProtocol.ICMPV6;
  writeTuple(writer, CTA_TUPLE_REPLY, protocol, {
    src: original.dst,
    dst: original.src,
    srcPort: isEcho ? original.srcPort : original.dstPort,
    dstPort: isEcho ? reply.dstPort : original.srcPort,
  });
  const { source, destination } = translationsOf(connection);
  if (source !== undefined || destination !== undefined) {
    // Left to itself the kernel would take another source port where this one is taken.
    const port = isEcho ? reply.srcPort : reply.dstPort;
    writeTranslation(writer, CTA_NAT_SRC, { address: reply.dst, port });
  }
  if (destination !== undefined) writeTranslation(writer, CTA_NAT_DST, destination);
  writer.be32(CTA_TIMEOUT, seconds(timeoutMs));
  writer.be32(CTA_MARK, mark);
  if (answered) writeAnswered(writer, protocol);
  else if (protocol === IpProtocol.TCP) writeTcp(writer, 'SYN_SENT');
}

function writeAnswered(writer: MessageWriter, protocol: number): void {
  writer.be32(CTA_STATUS, IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED);
  if (protocol === IpProtocol.TCP) writeTcp(writer, 'ESTABLISHED');
}

function writeTcp(writer: MessageWriter, state: TcpState): void {
  const info = writer.nest(CTA_PROTOINFO | NLA_F_NESTED);
  const tcp = writer.nest(CTA_PROTOINFO_TCP | NLA_F_NESTED);
  writer.u8(CTA_PROTOINFO_TCP_STATE, TCP_STATES.indexOf(state));
  for (const type of [CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, CTA_PROTOINFO_TCP_FLAGS_REPLY]) {
    // struct nf_ct_tcp_flags: flags, mask.
    const offset = writer.attribute(type, 2);
    writer.view.setUint8(offset, IP_CT_TCP_FLAG_BE_LIBERAL);
    writer.view.setUint8(offset + 1, IP_CT_TCP_FLAG_BE_LIBERAL);
  }
  writer.endNest(tcp);
  writer.endNest(info);
}

function writeTranslation(writer: MessageWriter, type: number, { address, port }: TranslatedEnd): void {
  const nat = writer.nest(type | NLA_F_NESTED);
  const [min, max] = address.length === 1 ? [CTA_NAT_V4_MINIP, CTA_NAT_V4_MAXIP] : [CTA_NAT_V6_MINIP, CTA_NAT_V6_MAXIP];
  writeAddress(writer, min, address);
  writeAddress(writer, max, address);
  if (port !== undefined) {
    const ports = writer.nest(CTA_NAT_PROTO | NLA_F_NESTED);
    writer.be16(CTA_PROTONAT_PORT_MIN, port);
    writer.be16(CTA_PROTONAT_PORT_MAX, port);
    writer.endNest(ports);
  }
  writer.endNest(nat);
}

function writeTuple(writer: MessageWriter, type: number, protocol: number, tuple: ConnectionTuple): void {
  const nest = writer.nest(type | NLA_F_NESTED);
  const ip = writer.nest(CTA_TUPLE_IP | NLA_F_NESTED);
  const isIpv4 = tuple.src.length === 1;
  writeAddress(writer, isIpv4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, tuple.src);
  writeAddress(writer, isIpv4 ? CTA_IP_V4_DST : CTA_IP_V6_DST, tuple.dst);
  writer.endNest(ip);
  const proto = writer.nest(CTA_TUPLE_PROTO | NLA_F_NESTED);
  writer.u8(CTA_PROTO_NUM, protocol);
  if (protocol === IpProtocol.ICMP) {
    writer.be16(CTA_PROTO_ICMP_ID, tuple.srcPort);
    writer.u8(CTA_PROTO_ICMP_TYPE, tuple.dstPort >>> 8);
    writer.u8(CTA_PROTO_ICMP_CODE, tuple.dstPort & 0xff);
  } else if (protocol === IpProtocol.ICMPV6) {
    writer.be16(CTA_PROTO_ICMPV6_ID, tuple.srcPort);
    writer.u8(CTA_PROTO_ICMPV6_TYPE, tuple.dstPort >>> 8);
    writer.u8(CTA_PROTO_ICMPV6_CODE, tuple.dstPort & 0xff);
  } else {
    writer.be16(CTA_PROTO_SRC_PORT, tuple.srcPort);
    writer.be16(CTA_PROTO_DST_PORT, tuple.dstPort);
  }
  writer.endNest(proto);
  writer.endNest(nest);
}

function writeAddress(writer: MessageWriter, type: number, words: readonly number[]): void {
  const offset = writer.attribute(type, 4 * words.length);
  words.forEach((word, i) => {
    writer.view.setUint32(offset + 4 * i, word);
  });
}

/** At least one: with none it would expire at once. */
function seconds(milliseconds: number): number {
  return Math.max(1, Math.round(milliseconds / 1000));
}

/** The zone alone, which says whether the rest is of interest. */
export function readZone(message: MessageReader): number {
  const attributes = message.attributes(new AttributeReader(), NFGENMSG_LENGTH);
  while (attributes.next()) if (attributes.type === CTA_ZONE) return attributes.be16();
  return 0;
}

interface ReadTuple extends ConnectionTuple {
  readonly protocol: number;
}

const NO_TUPLE: ReadTuple = { src: [], dst: [], srcPort: 0, dstPort: 0, protocol: 0 };

export function readConnection(message: MessageReader): TrackedConnection {
  let original = NO_TUPLE;
  let reply = NO_TUPLE;
  let status = 0;
  let zone = 0;
  let mark = 0;
  let timeout = 0;
  let tcpState: TcpState | undefined;
  const attributes = message.attributes(new AttributeReader(), NFGENMSG_LENGTH);
  while (attributes.next()) {
    switch (attributes.type) {
      case CTA_TUPLE_ORIG:
        original = readTuple(attributes.enter(new AttributeReader()));
        break;
      case CTA_TUPLE_REPLY:
        reply = readTuple(attributes.enter(new AttributeReader()));
        break;
      case CTA_STATUS:
        status = attributes.be32();
        break;
      case CTA_PROTOINFO:
        tcpState = readTcpState(attributes.enter(new AttributeReader()));
        break;
      case CTA_TIMEOUT:
        timeout = attributes.be32();
        break;
      case CTA_MARK:
        mark = attributes.be32();
        break;
      case CTA_ZONE:
        zone = attributes.be16();
        break;
    }
  }
  return {
    zone,
    family: original.src.length === 1 ? 4 : 6,
    protocol: original.protocol,
    original: withoutProtocol(original),
    reply: withoutProtocol(reply),
    answered: (status & IPS_SEEN_REPLY) !== 0,
    tcpState: original.protocol === IpProtocol.TCP ? tcpState : undefined,
    mark,
    timeoutMs: timeout * 1000,
  };
}

function withoutProtocol({ src, dst, srcPort, dstPort }: ReadTuple): ConnectionTuple {
  return { src, dst, srcPort, dstPort };
}

function readTuple(attributes: AttributeReader): ReadTuple {
  let src: number[] = [];
  let dst: number[] = [];
  let protocol = 0;
  let srcPort = 0;
  let dstPort = 0;
  while (attributes.next()) {
    if (attributes.type === CTA_TUPLE_IP) {
      for (const ip = attributes.enter(new AttributeReader()); ip.next(); ) {
        if (ip.type === CTA_IP_V4_SRC || ip.type === CTA_IP_V6_SRC) {
          src = readAddress(ip);
        } else if (ip.type === CTA_IP_V4_DST || ip.type === CTA_IP_V6_DST) {
          dst = readAddress(ip);
        }
      }
    } else if (attributes.type === CTA_TUPLE_PROTO) {
      for (const proto = attributes.enter(new AttributeReader()); proto.next(); ) {
        switch (proto.type) {
          case CTA_PROTO_NUM:
            protocol = proto.u8();
            break;
          case CTA_PROTO_SRC_PORT:
          case CTA_PROTO_ICMP_ID:
          case CTA_PROTO_ICMPV6_ID:
            srcPort = proto.be16();
            break;
          case CTA_PROTO_DST_PORT:
            dstPort = proto.be16();
            break;
          case CTA_PROTO_ICMP_TYPE:
          case CTA_PROTO_ICMPV6_TYPE:
            dstPort |= proto.u8() << 8;
            break;
          case CTA_PROTO_ICMP_CODE:
          case CTA_PROTO_ICMPV6_CODE:
            dstPort |= proto.u8();
            break;
        }
      }
    }
  }
  return { src, dst, srcPort, dstPort, protocol };
}

function readAddress(attributes: AttributeReader): number[] {
  const words: number[] = [];
  for (let at = 0; at + 4 <= attributes.length; at += 4) {
    words.push(attributes.view.getUint32(attributes.offset + at));
  }
  return words;
}

function readTcpState(attributes: AttributeReader): TcpState | undefined {
  while (attributes.next()) {
    if (attributes.type === CTA_PROTOINFO_TCP) {
      for (const tcp = attributes.enter(new AttributeReader()); tcp.next(); ) {
        if (tcp.type === CTA_PROTOINFO_TCP_STATE) {
          return TCP_STATES[tcp.u8()];
        }
      }
    }
  }
  return undefined;
}
