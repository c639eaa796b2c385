/** What clients ask for: each frame is read here, and carried out by whoever knows its kind. */
import { JuteReader } from '../protocol/jute.js';
import { Err, Op, readConnectRequest, Xid } from '../protocol/records.js';
import type { Authentication } from './authentication.js';
import type { ClientConnection } from './client-connection.js';
import type { SessionRecord } from './database.js';
import type { Outbox, RequestKind } from './outbox.js';
import { readWriteRequest } from './prepare.js';
import type { Reads } from './reads.js';
import type { Sessions } from './sessions.js';
import type { WatchRequests } from './watch-requests.js';
import type { Writes } from './writes.js';

export class Requests {
  readonly counters = { requests: 0 };

  constructor(
    private readonly sessions: Sessions,
    private readonly authentication: Authentication,
    private readonly reads: Reads,
    private readonly writes: Writes,
    private readonly watchRequests: WatchRequests,
    private readonly outbox: Outbox,
  ) {}

  /** @throws WireProtocolError when the frame is no request. */
  carryOut(connection: ClientConnection, frame: Buffer): void {
    const r = new JuteReader(frame);
    const { session } = connection;
    if (session === undefined) {
      this.outbox.beginConnect();
      this.sessions.connect(connection, readConnectRequest(r));
      if (!this.authentication.isStranger(connection)) connection.allowLargeRequests();
      return;
    }
    this.sessions.touch(session);
    const xid = r.int();
    const op = r.int();
    if (op !== Op.ping) this.counters.requests++;
    this.outbox.begin(kindOf(op));
    if (op !== Op.auth && this.authentication.isStranger(connection)) {
      this.authentication.sendAway(connection, xid, Err.authRequired);
      return;
    }
    this.dispatch(connection, session, xid, op, r);
  }

  private dispatch(c: ClientConnection, session: SessionRecord, xid: number, op: number, r: JuteReader): void {
    switch (op) {
      case Op.ping:
        return this.outbox.reply(c, Xid.ping, Err.ok);
      case Op.getData:
        return this.reads.data(c, xid, r);
      case Op.getChildren:
      case Op.getChildren2:
        return this.reads.children(c, xid, r, op === Op.getChildren2);
      case Op.exists:
        return this.reads.exists(c, xid, r);
      case Op.getAcl:
        return this.reads.acl(c, xid, r);
      case Op.getAllChildrenNumber:
        return this.reads.countBelow(c, xid, r);
      case Op.getEphemerals:
        return this.reads.ephemerals(c, session, xid, r);
      case Op.whoAmI:
        return this.reads.whoAmI(c, xid);
      case Op.multiRead:
        return this.reads.several(c, xid, r);
      case Op.sync:
        return this.reads.sync(c, xid, r);
      case Op.multi:
        return this.writes.multi(c, session, xid, r);
      case Op.setWatches:
      case Op.setWatches2:
        return this.watchRequests.setAgain(c, xid, r, op === Op.setWatches2);
      case Op.addWatch:
        return this.watchRequests.add(c, xid, r);
      case Op.checkWatches:
      case Op.removeWatches:
        return this.watchRequests.find(c, xid, r, op === Op.removeWatches);
      case Op.auth:
        return this.authentication.authenticate(c, xid, r);
      case Op.closeSession:
        return this.sessions.close(c, session, xid);
      default: {
        const request = readWriteRequest(op, r);
        if (request === undefined) return this.outbox.reply(c, xid, Err.unimplemented);
        return this.writes.write(c, session, xid, request);
      }
    }
  }
}

function kindOf(op: number): RequestKind {
  switch (op) {
    case Op.getData:
    case Op.exists:
    case Op.getChildren:
    case Op.getChildren2:
      return 'read';
    case Op.create:
    case Op.create2:
    case Op.setData:
    case Op.delete:
      return 'write';
    case Op.multi:
      return 'multi';
    default:
      return 'other';
  }
}
