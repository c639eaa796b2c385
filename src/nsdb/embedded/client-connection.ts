import type { Socket } from 'node:net';
import { FrameSplitter } from '../protocol/jute.js';
import type { SessionRecord } from './database.js';

/** Replies a connection may have waiting for the disk, and bytes for the network, before no more of it is read. */
const MAX_WAITING_REPLIES = 1000;
const MAX_UNSENT_BYTES = 4 * 1024 * 1024;

/** One client's connection: frames in, frames out. A client that does not read its replies is not read from either. */
export class ClientConnection {
  /** Undefined until the client has said which session it wants. */
  session: SessionRecord | undefined;
  readonly connectedAt = Date.now();
  received = 0;
  sent = 0;
  private waiting = 0;
  private corked = false;
  private paused = false;
  private readonly splitter: FrameSplitter;

  constructor(
    readonly socket: Socket,
    readonly name: string,
    maxFrame: number,
    private readonly onFrame: (connection: ClientConnection, frame: Buffer) => void,
    private readonly onProtocolError: (connection: ClientConnection, error: Error) => void,
  ) {
    this.splitter = new FrameSplitter(maxFrame);
    socket.setNoDelay(true);
    socket.on('drain', () => this.resume());
  }

  push(chunk: Buffer): void {
    this.splitter.push(chunk);
    this.process();
  }

  /** A reply is being held back until the disk has caught up. */
  hold(): void {
    this.waiting++;
  }

  /** A reply that was held back goes out. */
  release(frame: Buffer): void {
    this.waiting--;
    this.write(frame);
    if (this.paused) this.resume();
  }

  write(frame: Buffer): void {
    if (this.socket.destroyed) return;
    if (!this.corked) {
      this.corked = true;
      this.socket.cork();
      process.nextTick(() => {
        this.corked = false;
        this.socket.uncork();
      });
    }
    this.sent++;
    this.socket.write(frame);
  }

  private get full(): boolean {
    return this.waiting >= MAX_WAITING_REPLIES || this.socket.writableLength >= MAX_UNSENT_BYTES;
  }

  private process(): void {
    try {
      while (!this.socket.destroyed) {
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
      this.onProtocolError(this, error as Error);
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
