import type { MidonetError } from '../../errors.js';
import type {
  ConnectionEvent,
  ConnectionListener,
  ConnectionName,
  ConnectionOperation,
  TrackedConnection,
} from '../datapath.js';
import { DatapathError } from '../errors.js';
import {
  AttributeReader,
  type MessageReader,
  MessageWriter,
  NLA_F_NESTED,
  NLM_F_CREATE,
  NLM_F_DUMP,
} from '../netlink/message.js';
import { NETLINK_NETFILTER, NetlinkSocket } from '../netlink/socket.js';
import {
  begin,
  beginNamed,
  CTA_ID,
  CTA_TUPLE_ORIG,
  CTA_ZONE,
  IPCTNL_MSG_CT_DELETE,
  IPCTNL_MSG_CT_GET,
  NFGENMSG_LENGTH,
  NFNL_SUBSYS_CTNETLINK,
  NFNLGRP_CONNTRACK_DESTROY,
  NFNLGRP_CONNTRACK_NEW,
  NFNLGRP_CONNTRACK_UPDATE,
  readConnection,
  readZone,
  writeOperation,
} from './ctnetlink.js';
import { Errno, hasErrno, toDatapathError } from './refusal.js';
import { IpProtocol } from './uapi.js';

/** How many connections are deleted or changed before other work gets its turn: some milliseconds in the kernel. */
const BATCH = 512;
/** Bytes of unread events that the kernel keeps: each takes about 1 KiB. */
const EVENTS_BUFFER = 16 * 1024 * 1024;

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
  for (let start = 0; start < found.length; start += BATCH) {
    signal?.throwIfAborted();
    writer.reset();
    for (const { family, zone, original, id } of found.slice(start, start + BATCH)) {
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

/**
 * The connection with this tuple, in whatever direction.
 * @param socket of the protocol NETLINK_NETFILTER
 */
export async function findConnection(
  socket: NetlinkSocket,
  name: ConnectionName,
  signal?: AbortSignal,
): Promise<TrackedConnection | undefined> {
  const writer = new MessageWriter(512);
  beginNamed(writer, IPCTNL_MSG_CT_GET, 0, name);
  let found: TrackedConnection | undefined;
  const [error] = await socket.attempt(writer, 'find a connection', {
    signal,
    each: (message) => {
      found = readConnection(message);
    },
  });
  if (error !== undefined && !hasErrno(error, Errno.ENOENT)) throw toDatapathError(error);
  return found;
}

/** See {@link Datapath.changeConnections}. */
export async function changeConnections(
  socket: NetlinkSocket,
  operations: readonly ConnectionOperation[],
  signal?: AbortSignal,
): Promise<(MidonetError | undefined)[]> {
  const results: (MidonetError | undefined)[] = [];
  const writer = new MessageWriter(64 * 1024);
  for (let start = 0; start < operations.length; start += BATCH) {
    signal?.throwIfAborted();
    // What is refused here takes no part.
    const part = operations.slice(start, start + BATCH);
    writer.reset();
    for (const operation of part) if (!isSctpCreation(operation)) writeOperation(writer, operation);
    const asked = part.filter((operation) => !isSctpCreation(operation)).map(({ type }) => `${type} a connection`);
    const errors = [...(await socket.attempt(writer, asked, { signal }))];
    let at = 0;
    for (const operation of part) {
      if (isSctpCreation(operation)) {
        results.push(new DatapathError('unsupported', 'create a connection of SCTP'));
        continue;
      }
      const error = errors[at++];
      const isNone = operation.type === 'forget' && hasErrno(error, Errno.ENOENT);
      results.push(error === undefined || isNone ? undefined : toDatapathError(error));
    }
    await new Promise(setImmediate);
  }
  return results;
}

/** Its tags, which the kernel holds against every packet, would not be known. */
function isSctpCreation(operation: ConnectionOperation): boolean {
  return operation.type === 'create' && operation.connection.protocol === IpProtocol.SCTP;
}

/** See {@link Datapath.watchConnections}. @param namespaceFd of the network namespace, the process's own if undefined */
export function watchConnections(listener: ConnectionListener, namespaceFd: number | undefined): NetlinkSocket {
  let batch: ConnectionEvent[] = [];
  const socket = new NetlinkSocket({
    protocol: NETLINK_NETFILTER,
    namespaceFd,
    receiveBuffer: EVENTS_BUFFER,
    listener: {
      message: (message) => {
        if (message.type >>> 8 !== NFNL_SUBSYS_CTNETLINK || !listener.concerns(readZone(message))) return;
        batch.push({ type: eventType(message), connection: readConnection(message) });
      },
      batchEnd: () => {
        const events = batch;
        batch = [];
        if (events.length > 0) listener.events(events);
      },
      overrun: () => listener.lost(),
    },
  });
  try {
    for (const group of [NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_UPDATE, NFNLGRP_CONNTRACK_DESTROY]) {
      socket.join(group);
    }
  } catch (error) {
    socket.close();
    throw error;
  }
  return socket;
}

function eventType({ type, flags }: MessageReader): ConnectionEvent['type'] {
  if ((type & 0xff) === IPCTNL_MSG_CT_DELETE) return 'ended';
  return (flags & NLM_F_CREATE) !== 0 ? 'begun' : 'changed';
}

function writeList(zone: number | undefined): MessageWriter {
  const writer = new MessageWriter(256);
  begin(writer, IPCTNL_MSG_CT_GET, NLM_F_DUMP, 0);
  if (zone !== undefined) {
    writer.be16(CTA_ZONE, zone);
  }
  return writer;
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
