import type { SecureContext } from 'node:tls';
import { ClosedError, MidonetError, TimeoutError } from '../../errors.js';
import { JuteReader, JuteWriter, NO_SESSION, WireProtocolError } from '../protocol/jute.js';
import { Err, Op, PASSWORD_LENGTH, Xid } from '../protocol/records.js';
import type { Credentials, StoreState } from '../store.js';
import { AddressBook } from './address-book.js';
import { nameOf, type Target } from './connect-string.js';
import { HandshakeRefusedError, WireConnection } from './wire-connection.js';

export interface SessionOptions {
  readonly targets: readonly Target[];
  readonly credentials: Credentials | undefined;
  readonly secureContext: SecureContext | undefined;
  /** Milliseconds to ask for. */
  readonly sessionTimeout: number;
  onNotice(level: 'info' | 'warn', message: string, fields: object): void;
}

export interface SessionEvents {
  /** Requests go through, on this connection. */
  onConnected(connection: WireConnection): void;
  /** There is no connection; answers to what was sent come no more. */
  onDisconnected(): void;
  /** The session of this number is gone, and its ephemeral nodes with it. */
  onSessionLost(id: string): void;
  /** The servers' data were put back to an earlier state. */
  onSetBack(): void;
  /** No server that was reached takes this client; undefined: that is over. */
  onRefused(refusal: Error | undefined): void;
  onWatchEvent(type: number, path: string): void;
  /** Whether the next answer is for somebody who awaits it, rather than for this client itself. */
  nextIsAwaited(): boolean;
  onAnswer(xid: number, err: number, r: JuteReader): void;
}

type Opened = Awaited<ReturnType<typeof WireConnection.open>>;

/** The server answers nothing to this client before it has shown to be somebody else. */
class CredentialsRefusedError extends MidonetError {
  constructor(server: string, user: string | undefined) {
    super(
      'MN_STORE_AUTH',
      user === undefined
        ? `${server} takes only clients with a user and a password`
        : `${server} refuses the password of user ${user}`,
    );
  }
}

const BACKOFF_MIN = 50;
/** Servers that are back shall have their clients back soon: the wait is between half of this and the whole. */
const BACKOFF_MAX = 1500;
/** A connection that ends earlier, in milliseconds, was of little use; after a few of them in a row the next has to wait. */
const SHORT_LIVED = 1000;
const FREE_RECONNECTS = 5;
/** Bounds of the time for connecting to one server. */
const CONNECT_TIMEOUT_MIN = 200;
const CONNECT_TIMEOUT_MAX = 5000;

/** One session, kept over as many connections as it takes, and a new one when it was lost. */
export class Session {
  readonly counters = { connects: 0, failedConnects: 0, disconnects: 0, sessionsLost: 0 };
  private currentState: StoreState = 'connecting';
  private connection: WireConnection | undefined;
  private current: { id: string; password: Uint8Array; timeout: number } | undefined;
  private zxid = 0;
  private refused = false;
  /** Somebody was given an answer, and may not have seen it yet: promises tell later. */
  private answered = false;
  /** What was said of servers that cannot be reached since there was a connection, and how many attempts have failed. */
  private readonly complaints = new Set<string>();
  private failedAttempts = 0;
  private readonly closing = new AbortController();
  private readonly running: Promise<void>;

  /** Begins to connect. */
  constructor(
    private readonly options: SessionOptions,
    private readonly events: SessionEvents,
  ) {
    this.running = this.run();
  }

  get state(): StoreState {
    return this.currentState;
  }

  /** Its number, 16 hexadecimal digits, once there is one. */
  get id(): string | undefined {
    return this.current?.id;
  }

  /** Milliseconds the server granted, once there is a session. */
  get grantedTimeout(): number | undefined {
    return this.current?.timeout;
  }

  /** Of the last change that an answer has shown. */
  get lastZxid(): number {
    return this.zxid;
  }

  /** Gives the connection up, and makes no other. The session lives on at the server unless it was told to end it. */
  async close(): Promise<void> {
    this.currentState = 'closed';
    this.closing.abort(new ClosedError('store'));
    this.connection?.destroy(new ClosedError('store'));
    await this.running;
  }

  private async run(): Promise<void> {
    const { signal } = this.closing;
    const addressBook = new AddressBook({
      targets: this.options.targets,
      onError: (error) => this.complain('cannot resolve a server', { error: error.message }, error.message),
    });
    let last: Target | undefined;
    let failedRounds = 0;
    let shortLived = 0;
    let refusedSince: number | undefined;
    while (!signal.aborted) {
      const targets = await addressBook.addresses(last, signal);
      const limit = this.connectTimeout(targets.length, failedRounds);
      let established = false;
      let refused = targets.length > 0;
      let refusal: CredentialsRefusedError | undefined;
      for (const target of targets) {
        if (signal.aborted) return;
        const name = nameOf(target);
        try {
          const longRefused = refusedSince !== undefined && performance.now() - refusedSince >= this.refusalPatience;
          const { ended } = await this.connect(target, limit, longRefused);
          established = true;
          last = target;
          failedRounds = 0;
          refusedSince = undefined;
          const since = performance.now();
          const reason = await ended;
          shortLived = performance.now() - since < SHORT_LIVED ? shortLived + 1 : 0;
          if (!signal.aborted) this.notice('warn', 'lost the connection', { server: name, error: reason.message });
          break;
        } catch (error) {
          if (signal.aborted) return;
          if (!(error instanceof HandshakeRefusedError)) refused = false;
          this.counters.failedConnects++;
          this.failedAttempts++;
          if (error instanceof CredentialsRefusedError) refusal = error;
          else
            this.complain(
              'cannot connect',
              { server: name, error: (error as Error).message },
              `${name} ${error instanceof TimeoutError ? error.code : (error as Error).message}`,
            );
        }
      }
      if (established) {
        // Others were cut off in the same moment; not all shall be back in the same one.
        await pause(Math.random() * backoff(shortLived - FREE_RECONNECTS), signal);
        continue;
      }
      if (refusal !== undefined && !this.refused) {
        this.notice('warn', 'cannot authenticate', { error: refusal.message });
      }
      this.refused = refusal !== undefined;
      this.events.onRefused(refusal);
      refusedSince = refused ? (refusedSince ?? performance.now()) : undefined;
      await pause(backoff(failedRounds) * (0.5 + Math.random() / 2), signal);
      failedRounds++;
    }
  }

  /**
   * A connection that went dead leaves a third of the session timeout to find another server, so all of them are tried in
   * that time. Where that was in vain they are given longer: one may just be slow.
   */
  private connectTimeout(servers: number, failedRounds: number): number {
    const session = this.timeout;
    const first = Math.max(CONNECT_TIMEOUT_MIN, session / 3 / Math.max(1, servers));
    return Math.min(CONNECT_TIMEOUT_MAX, first * 2 ** Math.min(failedRounds, 10));
  }

  /** Milliseconds after which a server that turned this client away all the time is suspected to do so for ever. */
  private get refusalPatience(): number {
    return 2 * this.timeout;
  }

  /** Connects and takes up the session, or a new one. Resolves when connected, to a promise of why that ended. */
  private async connect(target: Target, timeout: number, longRefused: boolean): Promise<{ ended: Promise<Error> }> {
    const { connection, response } = await this.open(target, timeout, longRefused);
    if (response.timeout <= 0) {
      connection.destroy(new Error('session expired'));
      this.loseSession();
      return { ended: Promise.resolve(new Error('the session has expired')) };
    }
    // Only then is it ours: the server ends the session of one that it does not take.
    await this.introduce(connection, nameOf(target), timeout);
    if (this.closing.signal.aborted) {
      connection.destroy(new ClosedError('store'));
      throw new ClosedError('store');
    }
    this.current = { id: response.sessionId, password: response.password, timeout: response.timeout };
    this.counters.connects++;
    return { ended: this.established(connection, nameOf(target)) };
  }

  private async open(target: Target, timeout: number, longRefused: boolean): Promise<Opened> {
    try {
      return await this.handshake(target, timeout, this.zxid, this.current);
    } catch (error) {
      const suspicious = longRefused && this.zxid > 0 && error instanceof HandshakeRefusedError;
      if (!suspicious) throw error;
      return this.openAsNew(target, timeout);
    }
  }

  /**
   * Servers close the connection of a client that has seen more than they have, and also of every client while they have no
   * quorum. A quorum comes back, and a server that lags catches up; but data that were put back to a backup never will. To tell
   * them apart the client asks as a new one: what is taken by a server that is still behind is not its past. Then it forgets that.
   */
  private async openAsNew(target: Target, timeout: number): Promise<Opened> {
    const opened = await this.handshake(target, timeout, 0, undefined);
    const { connection } = opened;
    try {
      await this.introduce(connection, nameOf(target), timeout);
      const r = await connection.ask(
        new JuteWriter(16).int(Xid.ping).int(Op.ping).frame(),
        timeout,
        this.closing.signal,
      );
      r.int();
      // The session that was just made is a change by itself: a server that had everything is ahead of this client.
      if (r.long() > this.zxid) {
        connection.destroy(new Error('not needed'));
        return await this.handshake(target, timeout, this.zxid, this.current);
      }
    } catch (error) {
      connection.destroy(error as Error);
      throw error;
    }
    this.notice('warn', 'the servers have less than was seen: starting again', { zxid: this.zxid });
    this.zxid = 0;
    this.loseSession();
    this.events.onSetBack();
    return opened;
  }

  private handshake(
    target: Target,
    timeout: number,
    lastZxidSeen: number,
    session: { readonly id: string; readonly password: Uint8Array } | undefined,
  ): Promise<Opened> {
    return WireConnection.open(
      target,
      {
        lastZxidSeen,
        timeout: this.options.sessionTimeout,
        sessionId: session?.id ?? NO_SESSION,
        password: session?.password ?? new Uint8Array(PASSWORD_LENGTH),
        readOnly: false,
      },
      { tls: this.options.secureContext, timeout, signal: this.closing.signal },
    );
  }

  /**
   * Says who this client is; without credentials it sends a ping, whose answer tells whether the server asks for them.
   * @throws CredentialsRefusedError, or what the connection ended with
   */
  private async introduce(connection: WireConnection, server: string, timeout: number): Promise<void> {
    const { credentials } = this.options;
    const w = new JuteWriter();
    if (credentials === undefined) w.int(Xid.ping).int(Op.ping);
    else w.int(Xid.auth).int(Op.auth).int(0).string('digest').bytes(digestCredentials(credentials));
    const r = await connection.ask(w.frame(), timeout, this.closing.signal);
    const xid = r.int();
    r.long();
    const err = r.int();
    if (err === Err.ok) return;
    const refused = err === Err.authFailed || err === Err.authRequired;
    const error = refused
      ? new CredentialsRefusedError(server, credentials?.user)
      : new WireProtocolError(`request ${xid}, the first on the connection, failed with code ${err}`);
    connection.destroy(error);
    throw error;
  }

  private established(connection: WireConnection, server: string): Promise<Error> {
    const { timeout, id } = this.current!;
    return new Promise((resolve) => {
      this.connection = connection;
      this.currentState = 'connected';
      this.refused = false;
      this.notice('info', 'connected', { server, session: id, timeout, failedAttempts: this.failedAttempts });
      this.failedAttempts = 0;
      this.complaints.clear();
      this.events.onConnected(connection);
      connection.attach(
        {
          onFrame: (frame) => this.onFrame(frame),
          onClose: (reason) => {
            this.disconnected();
            resolve(reason);
          },
        },
        timeout,
      );
    });
  }

  private disconnected(): void {
    this.connection = undefined;
    this.counters.disconnects++;
    if (this.currentState === 'connected') this.currentState = 'disconnected';
    this.events.onDisconnected();
  }

  private loseSession(): void {
    if (this.current === undefined) return;
    const { id } = this.current;
    this.notice('warn', 'the session was lost', { session: id });
    this.current = undefined;
    this.counters.sessionsLost++;
    this.events.onSessionLost(id);
  }

  /**
   * What a watch shows is told while its frame is looked at, answers are told by promises. For both to be told in the order
   * in which they came, a frame that may be of a watch has to wait for those who were answered before it.
   */
  private onFrame(frame: Buffer): boolean {
    const r = new JuteReader(frame);
    const xid = r.int();
    const zxid = r.long();
    const err = r.int();
    if (xid === Xid.ping || xid === Xid.setWatches) return true;
    const isAwaited = xid !== Xid.notification && this.events.nextIsAwaited();
    if (this.answered && !isAwaited) {
      this.answered = false;
      return false;
    }
    this.answered = isAwaited;
    if (xid === Xid.notification) {
      const type = r.int();
      r.int();
      this.events.onWatchEvent(type, r.string());
    } else {
      if (zxid > this.zxid) this.zxid = zxid;
      this.events.onAnswer(xid, err, r);
    }
    return true;
  }

  /** Milliseconds, granted or asked for. */
  private get timeout(): number {
    return this.current?.timeout ?? this.options.sessionTimeout;
  }

  /** Says what fails again and again once, until there is a connection. */
  private complain(message: string, fields: object, about: string): void {
    if (this.complaints.has(about)) return;
    this.complaints.add(about);
    this.notice('warn', message, fields);
  }

  private notice(level: 'info' | 'warn', message: string, fields: object): void {
    this.options.onNotice(level, message, fields);
  }
}

function digestCredentials({ user, password }: Credentials): Uint8Array {
  return Buffer.from(`${user}:${password}`);
}

/** Milliseconds after so many failures in a row. */
function backoff(failures: number): number {
  return Math.min(BACKOFF_MAX, BACKOFF_MIN * 2 ** Math.min(Math.max(0, failures), 10));
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener('abort', done, { once: true });
  });
}
