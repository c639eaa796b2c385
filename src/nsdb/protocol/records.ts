/**
 * Numbers and records of ZooKeeper's wire protocol, as of 3.4 with what later versions added: zookeeper.jute,
 * ZooDefs.OpCode, KeeperException.Code and Watcher.Event in Apache ZooKeeper's sources.
 */
import type { Stat } from '../store.js';
import { type JuteReader, type JuteWriter, NO_SESSION, WireProtocolError } from './jute.js';

export const Op = {
  create: 1,
  delete: 2,
  exists: 3,
  getData: 4,
  setData: 5,
  getAcl: 6,
  setAcl: 7,
  getChildren: 8,
  sync: 9,
  ping: 11,
  getChildren2: 12,
  check: 13,
  multi: 14,
  create2: 15,
  checkWatches: 17,
  removeWatches: 18,
  multiRead: 22,
  auth: 100,
  setWatches: 101,
  getEphemerals: 103,
  getAllChildrenNumber: 104,
  setWatches2: 105,
  addWatch: 106,
  whoAmI: 107,
  closeSession: -11,
  /** In the answer to a multi: a part that failed. */
  error: -1,
} as const;

/** Transaction numbers that are not the client's count. */
export const Xid = { notification: -1, ping: -2, auth: -4, setWatches: -8 } as const;

export const Err = {
  ok: 0,
  /** The disk is full. Apache ZooKeeper defines the code for all its clients, and never sends it. */
  systemError: -1,
  runtimeInconsistency: -2,
  marshalling: -5,
  unimplemented: -6,
  badArguments: -8,
  noNode: -101,
  noAuth: -102,
  badVersion: -103,
  noChildrenForEphemerals: -108,
  nodeExists: -110,
  notEmpty: -111,
  sessionExpired: -112,
  invalidAcl: -114,
  authFailed: -115,
  sessionMoved: -118,
  notReadOnly: -119,
  /** Whoever does not authenticate first is sent away (SESSIONCLOSEDREQUIRESASLAUTH, also where SASL plays no part). */
  authRequired: -124,
  quotaExceeded: -125,
  noWatcher: -121,
  throttled: -127,
} as const;

export const EventType = { created: 1, deleted: 2, dataChanged: 3, childrenChanged: 4 } as const;

/** Of addWatch: for a node and the list of its children, or for a node and all below it. */
export const AddWatchMode = { persistent: 0, persistentRecursive: 1 } as const;

/** Of checkWatches and removeWatches: one-shot watches of a kind, or every watch of the path. */
export const WatcherType = { children: 1, data: 2, any: 3 } as const;

/** State in every watch event that tells of a node. */
export const SYNC_CONNECTED = 3;

export const CreateFlag = { ephemeral: 1, sequential: 2 } as const;

/** jute.maxbuffer of a server that was not configured: 0xfffff bytes in one request. */
export const DEFAULT_MAX_REQUEST = 0xfffff;

export const PASSWORD_LENGTH = 16;

export interface ConnectRequest {
  lastZxidSeen: number;
  /** Milliseconds asked for. */
  timeout: number;
  sessionId: string;
  password: Uint8Array;
  /** Undefined from a client older than 3.4, which gets no such field back. */
  readOnly: boolean | undefined;
}

export function writeConnectRequest(w: JuteWriter, request: ConnectRequest): void {
  w.int(0).long(request.lastZxidSeen).int(request.timeout).sessionId(request.sessionId).bytes(request.password);
  if (request.readOnly !== undefined) w.bool(request.readOnly);
}

export function readConnectRequest(r: JuteReader): ConnectRequest {
  const version = r.int();
  if (version !== 0) throw new WireProtocolError(`connect request of protocol version ${version}`);
  return {
    lastZxidSeen: r.long(),
    timeout: r.int(),
    sessionId: r.sessionId(),
    password: r.bytes(),
    readOnly: r.remaining > 0 ? r.bool() : undefined,
  };
}

export interface ConnectResponse {
  /** Milliseconds granted; 0 or less: the session is unknown or expired. */
  timeout: number;
  sessionId: string;
  password: Uint8Array;
  readOnly: boolean | undefined;
}

export function writeConnectResponse(w: JuteWriter, response: ConnectResponse): void {
  w.int(0).int(response.timeout).sessionId(response.sessionId).bytes(response.password);
  if (response.readOnly !== undefined) w.bool(response.readOnly);
}

export function readConnectResponse(r: JuteReader): ConnectResponse {
  const version = r.int();
  if (version !== 0) throw new WireProtocolError(`connect response of protocol version ${version}`);
  return {
    timeout: r.int(),
    sessionId: r.sessionId(),
    password: Buffer.from(r.bytes()),
    readOnly: r.remaining > 0 ? r.bool() : undefined,
  };
}

export function writeReplyHeader(w: JuteWriter, xid: number, zxid: number, err: number): void {
  w.int(xid).long(zxid).int(err);
}

export function writeStat(w: JuteWriter, stat: Stat): void {
  w.long(stat.czxid).long(stat.mzxid).long(stat.ctime).long(stat.mtime);
  w.int(stat.version).int(stat.cversion).int(stat.aversion);
  w.sessionId(stat.ephemeralOwner ?? NO_SESSION);
  w.int(stat.dataLength).int(stat.numChildren).long(stat.pzxid);
}

export function readStat(r: JuteReader): Stat {
  const czxid = r.long();
  const mzxid = r.long();
  const ctime = r.long();
  const mtime = r.long();
  const version = r.int();
  const cversion = r.int();
  const aversion = r.int();
  const owner = r.sessionId();
  const dataLength = r.int();
  const numChildren = r.int();
  const pzxid = r.long();
  // Apache ZooKeeper marks containers and nodes with a lifetime by owners that are no sessions.
  const ephemeralOwner =
    owner === NO_SESSION || owner === '8000000000000000' || owner.startsWith('ff') ? undefined : owner;
  return { czxid, mzxid, pzxid, ctime, mtime, version, cversion, aversion, ephemeralOwner, dataLength, numChildren };
}

export const Permission = { read: 1, write: 2, create: 4, delete: 8, admin: 16, all: 31 } as const;

/** One entry of an access list: what those may do whom scheme and id name. */
export interface Acl {
  readonly permissions: number;
  readonly scheme: string;
  readonly id: string;
}

/** Anyone may do anything. */
export const OPEN_ACL: Acl = { permissions: Permission.all, scheme: 'world', id: 'anyone' };

/** Those whom the connection has shown to be may do anything; the server puts their names in. */
export const CREATOR_ACL: Acl = { permissions: Permission.all, scheme: 'auth', id: '' };

export function writeAcls(w: JuteWriter, acls: readonly Acl[]): void {
  w.int(acls.length);
  for (const { permissions, scheme, id } of acls) w.int(permissions).string(scheme).string(id);
}

export function readAcls(r: JuteReader): Acl[] {
  const acls: Acl[] = [];
  for (let left = r.count(12); left > 0; left--) {
    acls.push({ permissions: r.int(), scheme: r.string(), id: r.string() });
  }
  return acls;
}

/** Header of each part of a multi, in the request and in the answer. */
export function writeMultiHeader(w: JuteWriter, type: number, done: boolean, err: number): void {
  w.int(type).bool(done).int(err);
}

export function readMultiHeader(r: JuteReader): { type: number; done: boolean; err: number } {
  return { type: r.int(), done: r.bool(), err: r.int() };
}
