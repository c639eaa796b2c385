/** Requests that read the tree, and may leave one-shot watches on what they read. */
import { pathFault } from '../path.js';
import { type JuteReader, JuteWriter } from '../protocol/jute.js';
import {
  Err,
  Op,
  Permission,
  readMultiHeader,
  writeAcls,
  writeMultiHeader,
  writeReplyHeader,
  writeStat,
} from '../protocol/records.js';
import { allows, withoutDigests } from './access.js';
import type { ClientConnection } from './client-connection.js';
import { type Database, type SessionRecord, statOf, type TreeNode } from './database.js';
import { countBelow, ephemeralsFrom, userOf } from './inspection.js';
import type { Outbox } from './outbox.js';
import type { WatchTable } from './watch-table.js';

/** Bytes of one answer to several readings: a small request could ask for a large node any number of times. */
const MAX_ANSWER = 16 * 1024 * 1024;

export class Reads {
  constructor(
    private readonly database: Database,
    private readonly watches: WatchTable<ClientConnection>,
    private readonly outbox: Outbox,
  ) {}

  data(connection: ClientConnection, xid: number, r: JuteReader): void {
    this.read(connection, xid, r, 'data', (w, node) => {
      w.byteString(node.data);
      writeStat(w, statOf(node));
    });
  }

  children(connection: ClientConnection, xid: number, r: JuteReader, withStat: boolean): void {
    this.read(connection, xid, r, 'children', (w, node) => {
      w.strings(namesOf(node));
      if (withStat) writeStat(w, statOf(node));
    });
  }

  /** Needs no permission, as in Apache ZooKeeper. */
  exists(connection: ClientConnection, xid: number, r: JuteReader): void {
    const path = r.string();
    const watch = r.bool();
    if (pathFault(path) !== undefined) return this.outbox.reply(connection, xid, Err.badArguments);
    if (watch) this.watches.add('data', path, connection);
    const node = this.database.find(path);
    if (node === undefined) return this.outbox.reply(connection, xid, Err.noNode);
    return this.outbox.reply(connection, xid, Err.ok, (w) => writeStat(w, statOf(node)));
  }

  acl(connection: ClientConnection, xid: number, r: JuteReader): void {
    this.withNode(connection, xid, r.string(), Permission.read | Permission.admin, (w, node) => {
      const whole = allows(node.acl, Permission.admin, connection.identities);
      writeAcls(w, whole ? node.acl.acls : withoutDigests(node.acl.acls));
      writeStat(w, statOf(node));
    });
  }

  countBelow(connection: ClientConnection, xid: number, r: JuteReader): void {
    this.withNode(connection, xid, r.string(), Permission.read, (w, node) => w.int(countBelow(node)));
  }

  ephemerals(connection: ClientConnection, session: SessionRecord, xid: number, r: JuteReader): void {
    const prefix = r.string();
    this.outbox.reply(connection, xid, Err.ok, (w) => w.strings(ephemeralsFrom(session, prefix)));
  }

  whoAmI(connection: ClientConnection, xid: number): void {
    this.outbox.reply(connection, xid, Err.ok, (w) => {
      w.int(connection.identities.length);
      for (const identity of connection.identities) w.string(identity.scheme).string(userOf(identity));
    });
  }

  /** A single server is always up to date; what is left is the wait for the disk, as for every answer. */
  sync(connection: ClientConnection, xid: number, r: JuteReader): void {
    const path = r.string();
    this.outbox.reply(connection, xid, Err.ok, (w) => w.string(path));
  }

  /** Several readings of one moment; each has its own result or error. */
  several(connection: ClientConnection, xid: number, r: JuteReader): void {
    const w = new JuteWriter();
    writeReplyHeader(w, xid, this.database.zxid, Err.ok);
    for (;;) {
      const { type, done } = readMultiHeader(r);
      if (done) break;
      if (w.length > MAX_ANSWER) return this.outbox.reply(connection, xid, Err.marshalling);
      if (type !== Op.getData && type !== Op.getChildren) return this.outbox.reply(connection, xid, Err.badArguments);
      const path = r.string();
      const watch = r.bool();
      const node = this.readable(connection, path, Permission.read);
      if (typeof node === 'number') {
        writeMultiHeader(w, Op.error, false, node);
        w.int(node);
        continue;
      }
      if (watch) this.watches.add(type === Op.getData ? 'data' : 'children', path, connection);
      writeMultiHeader(w, type, false, Err.ok);
      if (type === Op.getChildren) w.strings(namesOf(node));
      else writeStat(w.byteString(node.data), statOf(node));
    }
    writeMultiHeader(w, Op.error, true, -1);
    this.outbox.send(connection, w);
  }

  private read(
    connection: ClientConnection,
    xid: number,
    r: JuteReader,
    kind: 'data' | 'children',
    body: (w: JuteWriter, node: TreeNode) => void,
  ): void {
    const path = r.string();
    const watch = r.bool();
    this.withNode(connection, xid, path, Permission.read, (w, node) => {
      if (watch) this.watches.add(kind, path, connection);
      body(w, node);
    });
  }

  private withNode(
    connection: ClientConnection,
    xid: number,
    path: string,
    permissions: number,
    body: (w: JuteWriter, node: TreeNode) => void,
  ): void {
    const node = this.readable(connection, path, permissions);
    if (typeof node === 'number') return this.outbox.reply(connection, xid, node);
    return this.outbox.reply(connection, xid, Err.ok, (w) => body(w, node));
  }

  /** The node, if the client has one of the permissions; or the code of the error. */
  private readable({ identities }: ClientConnection, path: string, permissions: number): TreeNode | number {
    if (pathFault(path) !== undefined) return Err.badArguments;
    const node = this.database.find(path);
    if (node === undefined) return Err.noNode;
    return allows(node.acl, permissions, identities) ? node : Err.noAuth;
  }
}

function namesOf(node: TreeNode): string[] {
  return node.children === undefined ? [] : [...node.children.keys()];
}
