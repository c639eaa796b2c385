import { JuteReader, JuteWriter, NO_SESSION } from '../protocol/jute.js';
import { type Acl, readAcls, writeAcls } from '../protocol/records.js';

/**
 * One change of the database, with everything decided: names of sequential nodes are whole, versions were checked. What a
 * session's end deletes is spelled out, so applying a change never looks at anything but the node it names. Its data are
 * a view of the bytes it was read from, to be copied by whoever keeps them.
 */
export type Change =
  | {
      readonly type: 'create';
      readonly path: string;
      readonly data: Buffer;
      readonly owner: string | undefined;
      /** Undefined: anyone may do anything. */
      readonly acls?: readonly Acl[] | undefined;
    }
  | { readonly type: 'set'; readonly path: string; readonly data: Buffer }
  | { readonly type: 'delete'; readonly path: string }
  | { readonly type: 'set-acl'; readonly path: string; readonly acls: readonly Acl[] }
  | { readonly type: 'open-session'; readonly id: string; readonly timeout: number; readonly password: Buffer }
  | { readonly type: 'close-session'; readonly id: string }
  /** The nodes that every server has, where they are not: the first change in a folder. */
  | { readonly type: 'system-nodes' };

/** Changes that happen together. Zxids have no gaps. */
export interface Transaction {
  readonly zxid: number;
  /** Milliseconds since 1970. */
  readonly time: number;
  readonly changes: readonly Change[];
}

const CREATE = 1;
const DELETE = 2;
const SET = 3;
const OPEN_SESSION = 4;
const CLOSE_SESSION = 5;
const CREATE_WITH_ACL = 6;
const SET_ACL = 7;
const SYSTEM_NODES = 8;

export function encodeTransaction(transaction: Transaction): Buffer {
  let size = 32;
  for (const change of transaction.changes) {
    size += 40;
    if ('path' in change) size += change.path.length;
    if ('data' in change) size += change.data.length;
  }
  const w = new JuteWriter(size);
  w.long(transaction.zxid).long(transaction.time).int(transaction.changes.length);
  for (const change of transaction.changes) {
    switch (change.type) {
      case 'create':
        w.int(change.acls === undefined ? CREATE : CREATE_WITH_ACL)
          .string(change.path)
          .bytes(change.data)
          .sessionId(change.owner ?? NO_SESSION);
        if (change.acls !== undefined) writeAcls(w, change.acls);
        break;
      case 'set':
        w.int(SET).string(change.path).bytes(change.data);
        break;
      case 'delete':
        w.int(DELETE).string(change.path);
        break;
      case 'set-acl':
        writeAcls(w.int(SET_ACL).string(change.path), change.acls);
        break;
      case 'open-session':
        w.int(OPEN_SESSION).sessionId(change.id).int(change.timeout).bytes(change.password);
        break;
      case 'close-session':
        w.int(CLOSE_SESSION).sessionId(change.id);
        break;
      case 'system-nodes':
        w.int(SYSTEM_NODES);
        break;
    }
  }
  return w.body();
}

/** @throws WireProtocolError when the bytes are not a transaction. */
export function decodeTransaction(bytes: Buffer): Transaction {
  const r = new JuteReader(bytes);
  const zxid = r.long();
  const time = r.long();
  const changes: Change[] = [];
  for (let left = r.count(4); left > 0; left--) changes.push(decodeChange(r));
  return { zxid, time, changes };
}

function decodeChange(r: JuteReader): Change {
  const type = r.int();
  switch (type) {
    case CREATE:
    case CREATE_WITH_ACL: {
      const path = r.string();
      const data = r.bytes();
      const owner = r.sessionId();
      const acls = type === CREATE ? undefined : readAcls(r);
      return { type: 'create', path, data, owner: owner === NO_SESSION ? undefined : owner, acls };
    }
    case SET:
      return { type: 'set', path: r.string(), data: r.bytes() };
    case DELETE:
      return { type: 'delete', path: r.string() };
    case SET_ACL:
      return { type: 'set-acl', path: r.string(), acls: readAcls(r) };
    case OPEN_SESSION:
      return { type: 'open-session', id: r.sessionId(), timeout: r.int(), password: ownBytes(r.bytes()) };
    case CLOSE_SESSION:
      return { type: 'close-session', id: r.sessionId() };
    case SYSTEM_NODES:
      return { type: 'system-nodes' };
    default:
      throw new RangeError(`change of unknown type ${type}`);
  }
}

/** A copy outside every pool: what is kept for long must not keep a socket's or a file's whole buffer alive. */
export function ownBytes(bytes: Uint8Array): Buffer {
  const copy = Buffer.allocUnsafeSlow(bytes.length);
  copy.set(bytes);
  return copy;
}
