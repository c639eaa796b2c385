/** Who may use the server, when it was given credentials; and whom a connection has shown to be, for access lists. */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { JuteReader } from '../protocol/jute.js';
import { Err } from '../protocol/records.js';
import type { Credentials } from '../store.js';
import { digestIdentity } from './access.js';
import type { ClientConnection } from './client-connection.js';
import type { Notice } from './notice.js';
import type { Outbox } from './outbox.js';
import type { Sessions } from './sessions.js';

/** Bytes of user and password; identities of one connection. */
const MAX_SECRET = 1024;
const MAX_IDENTITIES = 16;

export class Authentication {
  readonly counters = { authenticationFailures: 0 };

  constructor(
    private readonly credentials: Credentials | undefined,
    private readonly sessions: Sessions,
    private readonly outbox: Outbox,
    private readonly notice: Notice,
  ) {}

  /** Whether all that the client may do is authenticate. */
  isStranger({ identities }: ClientConnection): boolean {
    return this.credentials !== undefined && !identities.some(({ scheme }) => scheme === 'super');
  }

  authenticate(connection: ClientConnection, xid: number, r: JuteReader): void {
    r.int();
    const scheme = r.string();
    const secret = r.bytes();
    // The address is known without.
    if (scheme === 'ip') return this.outbox.reply(connection, xid, Err.ok);
    const { credentials } = this;
    const { identities } = connection;
    const wrong = credentials !== undefined && !isSameSecret(secret, `${credentials.user}:${credentials.password}`);
    if (scheme !== 'digest' || wrong || secret.length > MAX_SECRET || identities.length >= MAX_IDENTITIES) {
      return this.sendAway(connection, xid, Err.authFailed);
    }
    const identity = digestIdentity(secret);
    if (!identities.some(({ scheme, id }) => scheme === identity.scheme && id === identity.id)) {
      identities.push(identity);
      if (credentials !== undefined) identities.push({ scheme: 'super', id: '' });
    }
    connection.isUnproven = false;
    connection.allowLargeRequests();
    this.outbox.reply(connection, xid, Err.ok);
  }

  /** Answers for the last time. */
  sendAway(connection: ClientConnection, xid: number, err: number): void {
    this.counters.authenticationFailures++;
    this.notice('warn', 'sent a client away that did not authenticate', { client: connection.name });
    this.endUnproven(connection);
    this.outbox.replyForTheLastTime(connection, xid, 0, err);
  }

  /** Ends the session that a stranger opened: whoever does not authenticate has no more of them than connections. */
  endUnproven(connection: ClientConnection): void {
    if (!connection.isUnproven || !this.isStranger(connection) || !this.sessions.has(connection)) return;
    this.sessions.end(connection.session!);
  }
}

/** Takes as long whatever the two have in common. */
function isSameSecret(given: Uint8Array, expected: string): boolean {
  const [a, b] = [given, Buffer.from(expected)].map((text) => createHash('sha256').update(text).digest());
  return timingSafeEqual(a, b);
}
