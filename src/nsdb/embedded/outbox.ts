/**
 * What leaves the server. Nothing does, neither an answer nor a watch event, before everything it may tell of is on disk.
 * All leaves in the order in which it was sent, so an event comes before every answer from after the change it tells of.
 */
import { LatencyHistogram } from '../../latency-histogram.js';
import { JuteWriter } from '../protocol/jute.js';
import { Err, SYNC_CONNECTED, writeReplyHeader, Xid } from '../protocol/records.js';
import type { ClientConnection } from './client-connection.js';
import type { Storage } from './storage.js';

/** Kinds of requests, for how long they take. */
export type RequestKind = 'read' | 'write' | 'multi' | 'other';

interface HeldFrame {
  readonly zxid: number;
  readonly connection: ClientConnection;
  readonly frame: Buffer;
  /** Ends the connection after it. */
  readonly last: boolean;
  /** The request it answers; undefined for an event. */
  readonly kind: RequestKind | undefined;
  readonly arrived: number;
}

export class Outbox {
  /** Time from the arrival of a request until its answer leaves, milliseconds. */
  readonly requestTimes: Readonly<Record<RequestKind, LatencyHistogram>> = {
    read: new LatencyHistogram(),
    write: new LatencyHistogram(),
    multi: new LatencyHistogram(),
    other: new LatencyHistogram(),
  };
  /** The request that is carried out just now, and when it came. */
  private kind: RequestKind | undefined;
  private arrived = 0;
  private held: HeldFrame[] = [];

  constructor(private readonly storage: Storage) {}

  /** A request has come: the answers sent from here on are to it. */
  begin(kind: RequestKind): void {
    this.kind = kind;
    this.arrived = performance.now();
  }

  /** A client says which session it wants, whose time is not taken. */
  beginConnect(): void {
    this.kind = undefined;
  }

  reply(connection: ClientConnection, xid: number, err: number, body?: (w: JuteWriter) => void): void {
    const w = new JuteWriter();
    writeReplyHeader(w, xid, this.storage.database.zxid, err);
    if (err === Err.ok) body?.(w);
    this.send(connection, w);
  }

  replyForTheLastTime(connection: ClientConnection, xid: number, zxid: number, err: number): void {
    const w = new JuteWriter();
    writeReplyHeader(w, xid, zxid, err);
    this.send(connection, w, true);
  }

  sendEvent(connection: ClientConnection, event: number, path: string): void {
    connection.endIfFarBehind();
    const w = new JuteWriter();
    writeReplyHeader(w, Xid.notification, -1, Err.ok);
    w.int(event).int(SYNC_CONNECTED).string(path);
    this.leave(connection, w.frame(), false, undefined);
  }

  /** Sends an answer; with `last` the connection ends after it. */
  send(connection: ClientConnection, w: JuteWriter, last = false): void {
    this.leave(connection, w.frame(), last, this.kind);
  }

  private leave(connection: ClientConnection, frame: Buffer, last: boolean, kind: RequestKind | undefined): void {
    if (this.storage.isDurable && this.held.length === 0) {
      connection.write(frame);
      if (kind !== undefined) this.requestTimes[kind].observe(performance.now() - this.arrived);
      if (last) connection.finish();
      return;
    }
    connection.hold(frame);
    if (last) connection.ignoreFurther();
    this.held.push({ zxid: this.storage.database.zxid, connection, frame, last, kind, arrived: this.arrived });
  }

  /** Everything up to this zxid is on disk. */
  releaseUpTo(zxid: number): void {
    let count = 0;
    while (count < this.held.length && this.held[count].zxid <= zxid) count++;
    const now = performance.now();
    for (const { connection, frame, last, kind, arrived } of this.held.splice(0, count)) {
      connection.release(frame);
      if (kind !== undefined) this.requestTimes[kind].observe(now - arrived);
      if (last) connection.finish();
    }
  }

  /** The disk failed: what waits for it never leaves. */
  drop(): void {
    this.held = [];
  }
}
