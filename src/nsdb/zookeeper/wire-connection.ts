import { connect, isIP, type Socket } from 'node:net';
import { connect as connectTls, type SecureContext } from 'node:tls';
import { MidonetError, TimeoutError } from '../../errors.js';
import { FrameSplitter, JuteReader, JuteWriter, WireProtocolError } from '../protocol/jute.js';
import {
  type ConnectRequest,
  type ConnectResponse,
  Op,
  readConnectResponse,
  writeConnectRequest,
  Xid,
} from '../protocol/records.js';
import { nameOf, type Target } from './connect-string.js';

/** A list of children may be far larger than a request; a length beyond this is nonsense. */
const MAX_REPLY = 256 * 1024 * 1024;

/** Looks at the connection in one session timeout. */
const BEATS = 24;
/** Parts of the session timeout: silence of ours that a ping ends, and silence of the server that ends the connection. */
const PING_AFTER = 1 / 4;
const DEAD_AFTER = 2 / 3;

export interface WireEvents {
  /** False: not yet. The frame is handed over again once all that the frames before it have led to is done. */
  onFrame(frame: Buffer): boolean;
  /** The connection is gone; told once. */
  onClose(reason: Error): void;
}

/** The server took the connection and closed it instead of answering the request for a session. */
export class HandshakeRefusedError extends MidonetError {
  constructor(server: string, mayDemandTls: boolean) {
    const hint = mayDemandTls ? '; it may have no quorum, or demand TLS' : '; it may have no quorum';
    super('MN_STORE_UNAVAILABLE', `${server} closed the connection during the handshake${hint}`);
  }
}

/** The two ends did not come to an encrypted connection. */
export class TlsError extends MidonetError {
  constructor(server: string, detail: string) {
    super('MN_STORE_UNAVAILABLE', `TLS with ${server}: ${detail}`);
  }
}

export interface OpenOptions {
  readonly tls: SecureContext | undefined;
  /** Milliseconds until the answer to the request for a session. */
  readonly timeout: number;
  readonly signal: AbortSignal;
}

/** One connection to one server: the handshake, frames in both directions, and pings that tell a dead peer. */
export class WireConnection {
  private readonly splitter = new FrameSplitter(MAX_REPLY);
  private lastReceived = performance.now();
  private lastSent = performance.now();
  private heart: NodeJS.Timeout | undefined;
  private handshake: ((response: ConnectResponse) => void) | undefined;
  private events: WireEvents | undefined;
  private closed: Error | undefined;
  private corked = false;
  /** Was refused by {@link WireEvents.onFrame}. */
  private heldFrame: Buffer | undefined;

  private constructor(
    private readonly socket: Socket,
    private readonly target: Target,
  ) {
    socket.setNoDelay(true);
    socket.on('data', (chunk) => this.onData(chunk));
  }

  /** Connects and asks for a session. @throws when the server is not reached or does not answer in time. */
  static async open(
    target: Target,
    request: ConnectRequest,
    { tls, timeout, signal }: OpenOptions,
  ): Promise<{ connection: WireConnection; response: ConnectResponse }> {
    signal.throwIfAborted();
    const socket = tls === undefined ? connect(target) : encrypted(target, tls);
    const name = nameOf(target);
    let ready = false;
    return new Promise((resolve, reject) => {
      const connection = new WireConnection(socket, target);
      const onAbort = () => socket.destroy(signal.reason as Error);
      const timer = setTimeout(() => socket.destroy(new TimeoutError(`connecting to ${name}`, timeout)), timeout);
      signal.addEventListener('abort', onAbort, { once: true });
      socket.once(tls === undefined ? 'connect' : 'secureConnect', () => {
        ready = true;
        const w = new JuteWriter(64);
        writeConnectRequest(w, request);
        connection.send(w.frame());
      });
      connection.handshake = (response) => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
        resolve({ connection, response });
      };
      socket.on('error', (error: NodeJS.ErrnoException) => {
        const other = error instanceof MidonetError || error.syscall === 'connect' || error === signal.reason;
        const failed = tls !== undefined && !other && !(ready && error.syscall !== undefined);
        connection.end(failed ? new TlsError(name, tlsDetail(error, ready)) : error);
      });
      socket.on('close', () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
        const refused = ready && connection.handshake !== undefined;
        const reason = refused
          ? new HandshakeRefusedError(name, tls === undefined && request.lastZxidSeen === 0)
          : new Error(`${name} closed the connection`);
        connection.end(reason);
        reject(connection.closed);
      });
    });
  }

  /** Hands over what comes in from now on, and sends pings so that a session of `timeout` ms stays alive. */
  attach(events: WireEvents, timeout: number): void {
    this.events = events;
    if (this.closed !== undefined) {
      const reason = this.closed;
      queueMicrotask(() => events.onClose(reason));
      return;
    }
    this.heart = setInterval(() => this.beat(timeout), Math.max(10, timeout / BEATS));
    this.drain();
  }

  /** Sends a request and takes the next frame for its answer; only before {@link attach}. */
  ask(frame: Buffer, timeout: number, signal: AbortSignal): Promise<JuteReader> {
    return new Promise((resolve, reject) => {
      const onAbort = () => this.destroy(signal.reason as Error);
      const timer = setTimeout(
        () => this.destroy(new TimeoutError('the answer to the first request', timeout)),
        timeout,
      );
      const settle = () => {
        this.events = undefined;
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
      };
      this.events = {
        onFrame: (answer) => {
          settle();
          resolve(new JuteReader(answer));
          return true;
        },
        onClose: (reason) => {
          settle();
          reject(reason);
        },
      };
      if (signal.aborted) onAbort();
      if (this.closed !== undefined) {
        this.events?.onClose(this.closed);
        return;
      }
      signal.addEventListener('abort', onAbort, { once: true });
      this.send(frame);
      this.drain();
    });
  }

  send(frame: Buffer): void {
    this.lastSent = performance.now();
    // Requests made in one turn leave in one packet.
    if (!this.corked) {
      this.corked = true;
      this.socket.cork();
      process.nextTick(() => {
        this.corked = false;
        this.socket.uncork();
      });
    }
    this.socket.write(frame);
  }

  destroy(reason: Error): void {
    this.end(reason);
    this.socket.destroy();
  }

  private end(reason: Error): void {
    if (this.closed !== undefined) return;
    this.closed = reason;
    clearInterval(this.heart);
    this.events?.onClose(reason);
  }

  private beat(timeout: number): void {
    const now = performance.now();
    if (now - this.lastReceived >= timeout * (DEAD_AFTER - 1 / BEATS)) {
      this.destroy(new TimeoutError('an answer to a ping', Math.round(now - this.lastReceived)));
    } else if (now - this.lastSent >= timeout * PING_AFTER) {
      this.send(new JuteWriter(16).int(Xid.ping).int(Op.ping).frame());
    }
  }

  private onData(chunk: Buffer): void {
    this.lastReceived = performance.now();
    if (this.handshake !== undefined && chunk[0] === TLS_ALERT && chunk[1] === TLS_MAJOR_VERSION) {
      this.destroy(new TlsError(nameOf(this.target), 'the server demands it, and this client is set up without'));
      return;
    }
    this.splitter.push(chunk);
    this.drain();
  }

  private drain(): void {
    try {
      while (this.closed === undefined) {
        if (this.handshake === undefined && this.events === undefined) return;
        const frame = this.heldFrame ?? this.splitter.next();
        if (frame === undefined) return;
        this.heldFrame = undefined;
        if (this.handshake !== undefined) {
          const done = this.handshake;
          const response = readConnectResponse(new JuteReader(frame));
          this.handshake = undefined;
          done(response);
        } else if (!this.events!.onFrame(frame)) {
          this.heldFrame = frame;
          // Node.js comes to the next tick when no promise has anything left to do, but only if asked by one.
          queueMicrotask(() => process.nextTick(() => this.drain()));
          return;
        }
      }
    } catch (error) {
      this.destroy(error instanceof Error ? error : new WireProtocolError(String(error)));
    }
  }
}

function encrypted(target: Target, secureContext: SecureContext): Socket {
  const name = 'path' in target ? undefined : (target.name ?? target.host);
  return connectTls({
    ...target,
    // Of an address the certificate is checked as well, but servers are not told it (RFC 6066 section 3).
    servername: name === undefined || isIP(name) !== 0 ? undefined : name,
    secureContext,
  });
}

/** The bytes a TLS alert begins with, RFC 8446 section 5.1. */
const TLS_ALERT = 21;
const TLS_MAJOR_VERSION = 3;

function tlsDetail(error: NodeJS.ErrnoException, ready: boolean): string {
  const plain = !ready && (error.code === 'ECONNRESET' || error.code === 'ERR_SSL_WRONG_VERSION_NUMBER');
  return plain ? `the server may be set up without (${error.message})` : error.message;
}
