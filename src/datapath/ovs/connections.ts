import type { ConnectionTuple, TrackedConnection } from '../datapath.js';
import {
  AttributeReader,
  type MessageReader,
  MessageWriter,
  NLA_F_NESTED,
  NLM_F_DUMP,
  NLM_F_REQUEST,
} from '../netlink/message.js';
import type { NetlinkSocket } from '../netlink/socket.js';
import { Errno, hasErrno } from './refusal.js';
import { IpProtocol } from './uapi.js';

// linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h, nf_conntrack_common.h, nf_conntrack_tcp.h
const NFNL_SUBSYS_CTNETLINK = 1;
const IPCTNL_MSG_CT_GET = 1;
const IPCTNL_MSG_CT_DELETE = 2;
/** struct nfgenmsg: family u8, version u8, resource id be16. */
const NFGENMSG_LENGTH = 4;
const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_REPLY = 2;
const CTA_STATUS = 3;
const CTA_PROTOINFO = 4;
const CTA_TIMEOUT = 7;
const CTA_MARK = 8;
const CTA_ID = 12;
const CTA_ZONE = 18;
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
const IPS_SEEN_REPLY = 2;
const TCP_STATES: readonly string[] = [
  'NONE',
  'SYN_SENT',
  'SYN_RECV',
  'ESTABLISHED',
  'FIN_WAIT',
  'CLOSE_WAIT',
  'LAST_ACK',
  'TIME_WAIT',
  'CLOSE',
  'SYN_SENT2',
];

/** How many connections are deleted before other work gets its turn: some milliseconds in the kernel. */
const DELETE_BATCH = 512;

/**
 * Connections of the socket's network namespace: those of one zone, or all, `limit` at most. The kernel is read to the end in
 * any case; before Linux 6.8 it also hands out the connections of other zones, which are left out here.
 * @param socket of the protocol NETLINK_NETFILTER
 */
export function listConnections(
  socket: NetlinkSocket,
  zone: number | undefined,
  limit: number,
  signal?: AbortSignal,
): Promise<TrackedConnection[]> {
  let count = 0;
  const parse = (message: MessageReader): TrackedConnection | undefined => {
    if (count >= limit) {
      return undefined;
    }
    const connection = readConnection(message);
    if (zone !== undefined && connection.zone !== zone) {
      return undefined;
    }
    count += 1;
    return connection;
  };
  return socket.dump(writeList(zone), 'list tracked connections', parse, signal);
}

/**
 * Delete the connections of these zones, one by one: the kernel's own flush ignores the zone before Linux 6.8 and would delete all.
 * @returns how many there were
 */
export async function deleteConnections(
  socket: NetlinkSocket,
  zones: ReadonlySet<number>,
  signal?: AbortSignal,
): Promise<number> {
  const listed = zones.size === 1 ? [...zones][0] : undefined;
  const what = listed === undefined ? `${zones.size} zones` : `zone ${listed}`;
  const parse = (message: MessageReader) => readIdentity(message, zones);
  const found = await socket.dump(writeList(listed), `list connections of ${what}`, parse, signal);
  const writer = new MessageWriter(64 * 1024);
  for (let start = 0; start < found.length; start += DELETE_BATCH) {
    signal?.throwIfAborted();
    writer.reset();
    for (const { family, zone, original, id } of found.slice(start, start + DELETE_BATCH)) {
      begin(writer, IPCTNL_MSG_CT_DELETE, 0, family);
      writer.raw(CTA_TUPLE_ORIG | NLA_F_NESTED, original);
      writer.be16(CTA_ZONE, zone);
      // Another connection may have these addresses and ports by now.
      writer.be32(CTA_ID, id);
    }
    for (const error of await socket.attempt(writer, `delete connections of ${what}`, { signal })) {
      if (error !== undefined && !hasErrno(error, Errno.ENOENT)) {
        throw error;
      }
    }
    await new Promise(setImmediate);
  }
  return found.length;
}

function writeList(zone: number | undefined): MessageWriter {
  const writer = new MessageWriter(256);
  begin(writer, IPCTNL_MSG_CT_GET, NLM_F_DUMP, 0);
  if (zone !== undefined) {
    writer.be16(CTA_ZONE, zone);
  }
  return writer;
}

function begin(writer: MessageWriter, command: number, flags: number, family: number): void {
  writer.begin((NFNL_SUBSYS_CTNETLINK << 8) | command, NLM_F_REQUEST | flags);
  writer.view.setUint8(writer.reserve(NFGENMSG_LENGTH), family);
}

/** What a deletion needs to know. */
interface Identity {
  readonly family: number;
  readonly zone: number;
  /** Payload of CTA_TUPLE_ORIG. */
  readonly original: Uint8Array;
  readonly id: number;
}

/** Undefined for a connection of another zone. */
function readIdentity(message: MessageReader, zones: ReadonlySet<number>): Identity | undefined {
  const family = message.bytes[message.offset];
  let original: Uint8Array | undefined;
  let id = 0;
  let zone = 0;
  const attributes = message.attributes(new AttributeReader(), NFGENMSG_LENGTH);
  while (attributes.next()) {
    switch (attributes.type) {
      case CTA_TUPLE_ORIG:
        original = attributes.raw().slice();
        break;
      case CTA_ID:
        id = attributes.be32();
        break;
      case CTA_ZONE:
        zone = attributes.be16();
        break;
    }
  }
  return original !== undefined && zones.has(zone) ? { family, zone, original, id } : undefined;
}

interface ReadTuple extends ConnectionTuple {
  readonly protocol: number;
}

const NO_TUPLE: ReadTuple = { src: [], dst: [], srcPort: 0, dstPort: 0, protocol: 0 };

function readConnection(message: MessageReader): TrackedConnection {
  let original = NO_TUPLE;
  let reply = NO_TUPLE;
  let status = 0;
  let zone = 0;
  let mark = 0;
  let timeout = 0;
  let tcpState: string | undefined;
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

function readTcpState(attributes: AttributeReader): string | undefined {
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
