/** Sessions: opened and taken up by connections, ended by their clients or by silence. They outlive the server. */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { JuteWriter, NO_SESSION } from '../protocol/jute.js';
import { type ConnectRequest, Err, PASSWORD_LENGTH, writeConnectResponse } from '../protocol/records.js';
import type { Changes } from './changes.js';
import type { ClientConnection } from './client-connection.js';
import type { SessionRecord } from './database.js';
import type { Notice } from './notice.js';
import type { Outbox } from './outbox.js';
import { SessionClock } from './session-clock.js';
import type { Change } from './transaction.js';

/** Characters of paths in one transaction of a session's end. */
const MAX_END_LENGTH = 1024 * 1024;

/** Bounds of what clients may ask for, milliseconds. */
export interface SessionTimeouts {
  readonly minimum: number;
  readonly maximum: number;
}

export class Sessions {
  readonly counters = { sessionsExpired: 0 };
  private readonly byId = new Map<string, ClientConnection>();
  private readonly clock: SessionClock;

  constructor(
    private readonly changes: Changes,
    private readonly outbox: Outbox,
    private readonly timeouts: SessionTimeouts,
    private readonly notice: Notice,
  ) {
    this.clock = new SessionClock(Math.max(20, Math.min(500, timeouts.minimum / 8)), (id) => this.expire(id));
    for (const session of changes.database.sessions.values()) this.clock.touch(session);
  }

  /** A connection's first request: gives it the session it wants, or a new one. */
  connect(connection: ClientConnection, request: ConnectRequest): void {
    const { database } = this.changes;
    if (request.lastZxidSeen > database.zxid) {
      this.notice('warn', 'refused a client that has seen changes this server does not have', {
        client: connection.name,
        seen: request.lastZxidSeen,
        zxid: database.zxid,
      });
      connection.socket.destroy();
      return;
    }
    const isNewcomer = request.sessionId === NO_SESSION;
    const session = isNewcomer ? this.open(request.timeout) : this.withPassword(request.sessionId, request.password);
    if (session === undefined) {
      const none = { id: NO_SESSION, timeout: 0, password: Buffer.alloc(PASSWORD_LENGTH) };
      this.answer(connection, request, none, true);
      return;
    }
    // The client may have come back before this server saw that its old connection is gone.
    const former = this.byId.get(session.id);
    former?.socket.destroy();
    connection.isUnproven = isNewcomer || (former?.isUnproven ?? false);
    connection.session = session;
    this.byId.set(session.id, connection);
    this.clock.touch(session);
    this.answer(connection, request, session, false);
  }

  private answer(
    connection: ClientConnection,
    { readOnly }: ConnectRequest,
    { id, timeout, password }: Pick<SessionRecord, 'id' | 'timeout' | 'password'>,
    last: boolean,
  ): void {
    const w = new JuteWriter();
    writeConnectResponse(w, {
      timeout,
      sessionId: id,
      password,
      readOnly: readOnly === undefined ? undefined : false,
    });
    this.outbox.send(connection, w, last);
  }

  private open(wanted: number): SessionRecord {
    const timeout = Math.min(Math.max(wanted, this.timeouts.minimum), this.timeouts.maximum);
    const bytes = randomBytes(8);
    // Numbers that begin with 0x80 or 0xff mark other kinds of nodes as their owner.
    bytes[0] = 1;
    const id = bytes.toString('hex');
    this.changes.commit([{ type: 'open-session', id, timeout, password: randomBytes(PASSWORD_LENGTH) }]);
    return this.changes.database.sessions.get(id)!;
  }

  private withPassword(id: string, password: Uint8Array): SessionRecord | undefined {
    const session = this.changes.database.sessions.get(id);
    if (session === undefined || password.length !== PASSWORD_LENGTH) return undefined;
    return timingSafeEqual(password, session.password) ? session : undefined;
  }

  /** Whether the session has not ended. */
  lives(session: SessionRecord): boolean {
    return this.changes.database.sessions.get(session.id) === session;
  }

  /** The session was heard of. */
  touch(session: SessionRecord): void {
    this.clock.touch(session);
  }

  /** Ends a session, with its ephemeral nodes. */
  end(session: SessionRecord): void {
    this.clock.remove(session.id);
    this.byId.delete(session.id);
    // Of a session with very many nodes the end is several transactions, each of which fits into a batch of the log.
    let changes: Change[] = [];
    let length = 0;
    for (const path of [...session.ephemerals]) {
      changes.push({ type: 'delete', path });
      length += path.length;
      if (length >= MAX_END_LENGTH) {
        this.changes.commit(changes);
        changes = [];
        length = 0;
      }
    }
    changes.push({ type: 'close-session', id: session.id });
    this.changes.commit(changes);
  }

  /** The client ends its session, and with it the connection. */
  close(connection: ClientConnection, session: SessionRecord, xid: number): void {
    this.end(session);
    this.outbox.replyForTheLastTime(connection, xid, this.changes.database.zxid, Err.ok);
  }

  private expire(id: string): void {
    const session = this.changes.database.sessions.get(id);
    if (session === undefined) return;
    this.counters.sessionsExpired++;
    this.notice('info', 'session expired', { session: id, ephemerals: session.ephemerals.size });
    const connection = this.byId.get(id);
    this.end(session);
    connection?.socket.destroy();
  }

  /** Whether the connection's session lives, and has not been taken up by another one. */
  has(connection: ClientConnection): boolean {
    const { session } = connection;
    return session !== undefined && this.byId.get(session.id) === connection;
  }

  /** A connection is gone; its session may be taken up by another. */
  forget(connection: ClientConnection): void {
    if (this.has(connection)) this.byId.delete(connection.session!.id);
  }

  /** Lets no session expire any more. */
  stop(): void {
    this.clock.stop();
  }
}
