/** Requests that change the tree, one by one or several that happen together, and when they are refused. */
import { FROZEN_PATH } from '../freeze.js';
import { type JuteReader, JuteWriter } from '../protocol/jute.js';
import { Err, Op, readMultiHeader, writeMultiHeader, writeReplyHeader, writeStat } from '../protocol/records.js';
import { type Changes, OpenTransaction } from './changes.js';
import type { ClientConnection } from './client-connection.js';
import { type Database, type SessionRecord, statOf } from './database.js';
import type { Outbox } from './outbox.js';
import { prepare, readWriteRequest, type WriteRequest } from './prepare.js';
import type { Sessions } from './sessions.js';
import type { Storage } from './storage.js';
import type { Change } from './transaction.js';

/** Characters of the access lists in one multi: what "auth" stands for is longer than that. */
export const MAX_MULTI_LISTS = 8 * 1024 * 1024;

export class Writes {
  private readonly database: Database;

  constructor(
    private readonly storage: Storage,
    private readonly changes: Changes,
    private readonly sessions: Sessions,
    private readonly outbox: Outbox,
  ) {
    this.database = storage.database;
  }

  /** What {@link FROZEN_PATH} does to others: ZooKeeper's answer of a server that may only be read. */
  get areFrozen(): boolean {
    return this.database.find(FROZEN_PATH) !== undefined;
  }

  write(connection: ClientConnection, session: SessionRecord, xid: number, request: WriteRequest): void {
    if (this.areFrozen && !(request.op === Op.delete && request.path === FROZEN_PATH)) {
      return this.outbox.reply(connection, xid, Err.notReadOnly);
    }
    const { identities } = connection;
    const change = this.sessions.lives(session)
      ? prepare(this.database, { sessionId: session.id, identities }, request)
      : Err.sessionExpired;
    if (typeof change === 'number') return this.outbox.reply(connection, xid, change);
    if (this.lackRoom(change)) return this.outbox.reply(connection, xid, Err.systemError);
    if (change !== undefined) this.changes.commit([change]);
    return this.outbox.reply(connection, xid, Err.ok, (w) => this.writeResult(w, request, change));
  }

  /** All or nothing. */
  multi(connection: ClientConnection, session: SessionRecord, xid: number, r: JuteReader): void {
    const requests: WriteRequest[] = [];
    for (;;) {
      const { type, done } = readMultiHeader(r);
      if (done) break;
      const request = readWriteRequest(type, r);
      if (request === undefined || request.op === Op.setAcl) {
        return this.outbox.reply(connection, xid, Err.unimplemented);
      }
      requests.push(request);
    }
    if (this.areFrozen) return this.outbox.reply(connection, xid, Err.notReadOnly);
    if (!this.sessions.lives(session)) return this.outbox.reply(connection, xid, Err.sessionExpired);
    this.changes.guard(() => this.carryOutAll(connection, session, xid, requests));
  }

  private carryOutAll(
    connection: ClientConnection,
    session: SessionRecord,
    xid: number,
    requests: readonly WriteRequest[],
  ): void {
    const transaction = new OpenTransaction(this.database, []);
    const w = new JuteWriter();
    writeReplyHeader(w, xid, transaction.zxid, Err.ok);
    const requester = { sessionId: session.id, identities: connection.identities };
    let lists = 0;
    for (const [index, request] of requests.entries()) {
      let change = prepare(this.database, requester, request);
      if (typeof change === 'object' && change.type === 'create' && change.acls !== undefined) {
        lists += this.database.accessLists.find(change.acls).key.length;
        if (lists > MAX_MULTI_LISTS) change = Err.invalidAcl;
      }
      const fault = typeof change === 'number' ? change : this.lackRoom(change) ? Err.systemError : Err.ok;
      if (typeof change === 'number' || fault !== Err.ok) {
        transaction.takeBack();
        this.replyFailedMulti(connection, xid, requests.length, index, fault);
        return;
      }
      if (change !== undefined) transaction.make(change);
      writeMultiHeader(w, request.op, false, Err.ok);
      this.writeResult(w, request, change);
    }
    writeMultiHeader(w, Op.error, true, -1);
    this.changes.record(transaction);
    this.outbox.send(connection, w);
  }

  /** What deletes needs room in the log only for a moment, and is how clients make room. Moving elsewhere is another way. */
  private lackRoom(change: Change | undefined): boolean {
    if (!this.storage.full || change === undefined || change.type === 'delete') return false;
    return !(change.type === 'create' && change.path === FROZEN_PATH);
  }

  private writeResult(w: JuteWriter, request: WriteRequest, change: Change | undefined): void {
    if (change?.type === 'create') {
      w.string(change.path);
      if (request.op === Op.create2) writeStat(w, statOf(this.database.find(change.path)!));
    } else if (change?.type === 'set' || change?.type === 'set-acl') {
      writeStat(w, statOf(this.database.find(change.path)!));
    }
  }

  private replyFailedMulti(
    connection: ClientConnection,
    xid: number,
    count: number,
    failed: number,
    err: number,
  ): void {
    this.outbox.reply(connection, xid, Err.ok, (w) => {
      for (let i = 0; i < count; i++) {
        const code = i < failed ? Err.ok : i === failed ? err : Err.runtimeInconsistency;
        writeMultiHeader(w, Op.error, false, code);
        w.int(code);
      }
      writeMultiHeader(w, Op.error, true, -1);
    });
  }
}
