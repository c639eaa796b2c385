import type { Socket } from 'node:net';
import { FrameSplitter, WireProtocolError } from '../protocol/jute.js';
import { addressIdentity, type Identity } from './access.js';
import type { SessionRecord } from './database.js';

/** Bytes of a request from whoever may only connect and authenticate: what is not whole yet takes memory. */
const MAX_FIRST_REQUESTS = 4096;
/** Replies a connection may have waiting for the disk, and bytes for disk and network, before no more of it is read. */
const MAX_WAITING_REPLIES = 1000;
const MAX_UNSENT_BYTES = 4 * 1024 * 1024;
/** Unsent bytes from which on a watch event, which nobody asks for, ends the connection. */
const MAX_BACKLOG_BYTES = 64 * 1024 * 1024;
/** Milliseconds that a client has to end a connection after its last reply. */
const LINGER = 1000;

/** One client's connection: frames in, frames out. A client that does not read its replies is not read from either. */
export class ClientConnection {
  /** Undefined until the client has said which session it wants. */
  session: SessionRecord | undefined;
  /** Whom the client has shown to be; the address is known from the beginning. */
  readonly identities: Identity[];
  /** Whether its session was opened by somebody who has not authenticated. */
  isUnproven = false;
  readonly connectedAt = Date.now();
  received = 0;
  sent = 0;
  private waiting = 0;
  private waitingBytes = 0;
  private outgoing: Buffer[] = [];
  private outgoingBytes = 0;
  private paused = false;
  private deaf = false;
  private finished = false;
  private readonly splitter: FrameSplitter;

  constructor(
    readonly socket: Socket,
    readonly name: string,
    private readonly maxRequest: number,
    private readonly onFrame: (connection: ClientConnection, frame: Buffer) => void,
    private readonly onConnectionError: (connection: ClientConnection, error: Error) => void,
  ) {
    const address = addressIdentity(socket.remoteAddress);
    this.identities = address === undefined ? [] : [address];
    this.splitter = new FrameSplitter(Math.min(MAX_FIRST_REQUESTS, maxRequest));
    socket.setNoDelay(true);
    socket.on('drain', () => this.resume());
  }

  /** The client is known: its requests may be as large as those of any. */
  allowLargeRequests(): void {
    this.splitter.maxFrame = this.maxRequest;
  }

  push(chunk: Buffer): void {
    if (this.deaf) return;
    this.splitter.push(chunk);
    this.process();
  }

  /** A reply is being held back until the disk has caught up. */
  hold(frame: Buffer): void {
    this.waiting++;
    this.waitingBytes += frame.length;
  }

  /** A reply that was held back goes out. */
  release(frame: Buffer): void {
    this.waiting--;
    this.waitingBytes -= frame.length;
    this.write(frame);
    if (this.paused) this.resume();
  }

  /** What comes from now on is read and thrown away: the reply that will be the last is known. */
  ignoreFurther(): void {
    this.deaf = true;
    if (!this.paused) return;
    this.paused = false;
    this.socket.resume();
  }

  /** Ends the connection when all that was written has gone out, whether or not the client ends its half. */
  finish(words?: string): void {
    if (this.finished || this.socket.destroyed) return;
    this.ignoreFurther();
    this.finished = true;
    this.flush();
    if (words !== undefined) this.socket.write(words);
    this.socket.end();
    const timer = setTimeout(() => this.socket.destroy(), LINGER);
    this.socket.once('close', () => clearTimeout(timer));
  }

  write(frame: Buffer): void {
    if (this.finished || this.socket.destroyed) return;
    this.sent++;
    this.outgoingBytes += frame.length;
    if (this.outgoing.push(frame) === 1) process.nextTick(this.flush);
  }

  /** What was written in one turn leaves in one piece: one system call, and a copy costs less than a list of buffers. */
  private readonly flush = (): void => {
    const frames = this.outgoing;
    if (frames.length === 0 || this.socket.destroyed) return;
    this.outgoing = [];
    this.outgoingBytes = 0;
    this.socket.write(frames.length === 1 ? frames[0] : Buffer.concat(frames));
  };

  /** Ends the connection of a client that has left very much unread; its watches then need no memory either. */
  endIfFarBehind(): void {
    if (this.unsent < MAX_BACKLOG_BYTES || this.socket.destroyed) return;
    this.onConnectionError(this, new WireProtocolError(`${this.unsent} bytes are left unread`));
  }

  private get unsent(): number {
    return this.waitingBytes + this.outgoingBytes + this.socket.writableLength;
  }

  private get full(): boolean {
    return this.waiting >= MAX_WAITING_REPLIES || this.unsent >= MAX_UNSENT_BYTES;
  }

  private process(): void {
    try {
      while (!this.deaf && !this.socket.destroyed) {
        if (this.full) {
          this.paused = true;
          this.socket.pause();
          return;
        }
        const frame = this.splitter.next();
        if (frame === undefined) return;
        this.received++;
        this.onFrame(this, frame);
      }
    } catch (error) {
      this.onConnectionError(this, error as Error);
    }
  }

  private resume(): void {
    if (!this.paused || this.full || this.socket.destroyed) return;
    this.paused = false;
    this.socket.resume();
    // What was cut into frames already waits here, not in the socket.
    setImmediate(() => this.process());
  }
}
