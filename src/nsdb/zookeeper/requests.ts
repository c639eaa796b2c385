import { ClosedError } from '../../errors.js';
import { LatencyHistogram } from '../../latency-histogram.js';
import { type JuteReader, WireProtocolError } from '../protocol/jute.js';
import { Op } from '../protocol/records.js';
import { type CallOptions, RequestTooLargeError, StoreAuthError, StoreUnavailableError } from '../store.js';
import { Fifo } from './fifo.js';
import { frameOf, XID_OFFSET } from './frames.js';
import { failureOf } from './replies.js';
import type { WireConnection } from './wire-connection.js';

export interface RequestLimits {
  /** Milliseconds after which a call fails that found no server, or got no answer. */
  readonly operationTimeout: number;
  /** Largest request in bytes. */
  readonly maxRequest: number;
  /** Calls under way or waiting, beyond which further ones fail at once. */
  readonly maxPending: number;
}

/** What somebody calls the store for. */
export interface Call<T> {
  readonly operation: string;
  /** As the caller named it. */
  readonly path: string;
  readonly frame: Buffer;
  readonly isWrite: boolean;
  readonly options: CallOptions | undefined;
  decode(err: number, r: JuteReader): T;
}

interface Request {
  readonly operation: string;
  readonly path: string;
  /** Whole frame; the transaction number is written into it when it is sent. */
  readonly frame: Buffer;
  readonly isWrite: boolean;
  /** Of the client itself: no time limit, and not repeated after a reconnect. */
  readonly internal: boolean;
  settled: boolean;
  sent: boolean;
  xid: number;
  onReply(err: number, r: JuteReader): void;
  fail(error: Error): void;
}

/** The connection of a request of the client's own is gone. */
export class ConnectionLost extends Error {}

const CLOSE_TIMEOUT = 2000;

/**
 * Requests from when they are made until they are answered, pipelined in that order. When a connection breaks, reads that
 * were not answered are asked again on the next one; writes that were sent are reported as of unknown outcome, since
 * repeating them could make a change twice.
 */
export class Requests {
  /** From a call to its answer, milliseconds. */
  readonly latencies = { read: new LatencyHistogram(), write: new LatencyHistogram() };
  readonly counters = { requests: 0, watchReads: 0 };
  private connection: WireConnection | undefined;
  private nextXid = 1;
  /** Waiting for a connection, in the order of the calls; none of them is settled. */
  private readonly queued = new Set<Request>();
  private readonly unanswered = new Fifo<Request>();
  private waiting = 0;
  /** Why the servers do not take this client, while they do not. */
  private refusal: Error | undefined;
  private closed = false;

  constructor(private readonly limits: RequestLimits) {}

  /** Calls under way or waiting. */
  get pending(): number {
    return this.waiting;
  }

  /** Whether there is a connection to send on. */
  get connected(): boolean {
    return this.connection !== undefined;
  }

  /** Sends a request of a caller's, or has it wait for a connection; ends within the operation timeout. */
  async call<T>({ operation, path, frame, isWrite, options, decode }: Call<T>): Promise<T> {
    const { operationTimeout, maxRequest, maxPending } = this.limits;
    const signal = options?.signal;
    signal?.throwIfAborted();
    if (this.closed) throw new ClosedError('store');
    const bytes = frame.length - XID_OFFSET;
    if (bytes > maxRequest) throw new RequestTooLargeError(path, bytes, maxRequest);
    if (this.refusal !== undefined) throw new StoreAuthError(path, this.refusal.message);
    if (this.waiting >= maxPending) {
      throw new StoreUnavailableError(operation, path, false, `${this.waiting} calls are waiting already`);
    }
    const called = performance.now();
    return new Promise<T>((resolve, reject) => {
      const settle = () => {
        request.settled = true;
        this.queued.delete(request);
        this.waiting--;
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      };
      const request: Request = {
        operation,
        path,
        frame,
        isWrite,
        internal: false,
        settled: false,
        sent: false,
        xid: 0,
        onReply: (err, r) => {
          settle();
          this.latencies[isWrite ? 'write' : 'read'].observe(performance.now() - called);
          const failure = failureOf(operation, path, err);
          if (failure !== undefined) {
            reject(failure);
            return;
          }
          try {
            resolve(decode(err, r));
          } catch (error) {
            reject(error);
          }
        },
        fail: (error) => {
          settle();
          reject(error);
        },
      };
      const timer = setTimeout(() => {
        const reason = request.sent ? 'no answer' : 'not connected';
        const unknown = isWrite && request.sent;
        request.fail(new StoreUnavailableError(operation, path, unknown, `${reason} within ${operationTimeout} ms`));
      }, operationTimeout);
      const onAbort = () => request.fail(signal!.reason as Error);
      signal?.addEventListener('abort', onAbort, { once: true });
      this.waiting++;
      this.counters.requests++;
      if (this.connection === undefined) this.queued.add(request);
      else this.transmit(request);
    });
  }

  /**
   * A request of the client's own; fails with ConnectionLost rather than wait. `done` is called as the answer arrives,
   * before anything that arrives later is looked at.
   */
  ask(
    operation: string,
    path: string,
    frame: Buffer,
    done: (err: number, r: JuteReader) => void,
    fail: (error: Error) => void,
  ): void {
    if (this.connection === undefined) {
      fail(new ConnectionLost());
      return;
    }
    const request: Request = {
      operation,
      path,
      frame,
      isWrite: false,
      internal: true,
      settled: false,
      sent: false,
      xid: 0,
      onReply: (err, r) => {
        request.settled = true;
        const error = failureOf(operation, path, err);
        if (error === undefined) done(err, r);
        else fail(error);
      },
      fail: (error) => {
        request.settled = true;
        fail(error);
      },
    };
    if (operation !== 'watch' && operation !== 'unwatch') this.counters.watchReads++;
    this.transmit(request);
  }

  /** Sends what has a transaction number of its own, whose answer nobody waits for. */
  post(frame: Buffer): void {
    this.connection?.send(frame);
  }

  /** Whether the next answer is a caller's. */
  nextIsAwaited(): boolean {
    return this.unanswered.peek()?.internal === false;
  }

  /** The answer to the request that is the first of those without one. */
  onAnswer(xid: number, err: number, r: JuteReader): void {
    const request = this.unanswered.peek();
    // It is not answered by this, and is to learn that the connection ends.
    if (request === undefined || request.xid !== xid) {
      throw new WireProtocolError(`answer to request ${xid}, expected ${request?.xid ?? 'none'}`);
    }
    this.unanswered.shift();
    if (!request.settled) request.onReply(err, r);
  }

  /** What is asked from now on goes over this connection; what waits for one does not yet. */
  onConnected(connection: WireConnection): void {
    this.connection = connection;
    this.refusal = undefined;
  }

  /** Sends what was called for while there was no connection. */
  sendQueued(): void {
    const waiting = [...this.queued];
    this.queued.clear();
    for (const request of waiting) this.transmit(request);
  }

  onDisconnected(): void {
    this.connection = undefined;
    // Nothing was queued while there was a connection, so what is asked again comes first.
    for (const request of this.unanswered.takeAll()) {
      if (request.settled) continue;
      if (request.internal) {
        request.fail(new ConnectionLost());
      } else if (request.isWrite) {
        request.fail(new StoreUnavailableError(request.operation, request.path, true, 'the connection was lost'));
      } else {
        request.sent = false;
        this.queued.add(request);
      }
    }
  }

  /** While the servers refuse this client, calls fail at once. */
  refuse(refusal: Error | undefined): void {
    this.refusal = refusal;
    if (refusal === undefined) return;
    for (const request of [...this.queued]) request.fail(new StoreAuthError(request.path, refusal.message));
  }

  /** Takes no more calls, and has the server end the session once it has answered those that were made. */
  endSession(): Promise<void> {
    this.closed = true;
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, CLOSE_TIMEOUT);
      const end = () => {
        clearTimeout(timer);
        resolve();
      };
      this.ask('close', '/', frameOf(Op.closeSession).frame(), end, end);
    });
  }

  /** Fails what was not answered. */
  close(): void {
    for (const request of [...this.unanswered.takeAll(), ...this.queued]) {
      if (!request.settled) request.fail(new ClosedError('store'));
    }
  }

  private transmit(request: Request): void {
    request.xid = this.nextXid;
    this.nextXid = this.nextXid === 0x7fffffff ? 1 : this.nextXid + 1;
    request.sent = true;
    request.frame.writeInt32BE(request.xid, XID_OFFSET);
    this.unanswered.push(request);
    this.connection!.send(request.frame);
  }
}
