import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { FrameSplitter } from '../../src/nsdb/protocol/jute.js';
import { Xid } from '../../src/nsdb/protocol/records.js';

const MAX_FRAME = 256 * 1024 * 1024;

/** What went through a gate; bytes with the lengths of their frames. */
export interface Traffic {
  requests: number;
  requestBytes: number;
  /** Without events. */
  answers: number;
  events: number;
  /** Of answers and events. */
  answerBytes: number;
}

type GateTarget = { readonly path: string } | { readonly host: string; readonly port: number };

/** A way to the NSDB that can be shut, as a partition or the death of a process would. */
export class StoreGate {
  /** Since the gate was made, or this was set to zeros. Pings do not count. */
  traffic: Traffic = noTraffic();
  private readonly sockets = new Set<Socket>();
  private open = true;
  /** Answers that are kept back; undefined when none are. */
  private held: { readonly to: Socket; readonly chunk: Buffer }[] | undefined;

  private constructor(
    readonly path: string,
    private readonly server: Server,
    /** Where further connections lead. */
    public target: GateTarget,
  ) {}

  static async to(socket: string, path: string): Promise<StoreGate> {
    await rm(path, { force: true });
    const server = createServer();
    const gate = new StoreGate(path, server, { path: socket });
    server.on('connection', (near) => {
      if (!gate.open) {
        near.destroy();
        return;
      }
      const far = connect(gate.target);
      near.pipe(far);
      far.on('data', (chunk: Buffer) => {
        if (gate.held === undefined) near.write(chunk);
        else gate.held.push({ to: near, chunk });
      });
      far.on('end', () => near.end());
      gate.join(near, far, (xid, bytes) => {
        if (xid === Xid.ping) return;
        gate.traffic.requests++;
        gate.traffic.requestBytes += bytes;
      });
      gate.join(far, near, (xid, bytes) => {
        if (xid === Xid.ping) return;
        if (xid === Xid.notification) gate.traffic.events++;
        else gate.traffic.answers++;
        gate.traffic.answerBytes += bytes;
      });
    });
    server.listen(path);
    await once(server, 'listening');
    return gate;
  }

  shut(): void {
    this.open = false;
    for (const socket of this.sockets) socket.destroy();
  }

  reopen(): void {
    this.open = true;
  }

  /**
   * Let answers through in turns only, each when the client has nothing more to ask before it has them, as if the NSDB were far
   * away. Returns how many turns it took until what is waited for came about.
   */
  async turnsUntil(isDone: () => boolean): Promise<number> {
    let turns = 0;
    let told = this.toldCount;
    this.held = [];
    while (!isDone()) {
      const { requests } = this.traffic;
      for (let idle = 0; idle < 5; idle++) await new Promise((resolve) => setTimeout(resolve, 4));
      if (this.traffic.requests !== requests) continue;
      // Answers to pings are none.
      if (this.toldCount > told) turns++;
      told = this.toldCount;
      this.release();
    }
    this.release();
    this.held = undefined;
    return turns;
  }

  /** Until nothing has been asked or told for a while. */
  async quiet(): Promise<void> {
    for (let idle = 0, before = -1; idle < 10; idle++) {
      const now = this.traffic.requests + this.toldCount;
      if (now !== before) idle = 0;
      before = now;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  private get toldCount(): number {
    return this.traffic.answers + this.traffic.events;
  }

  private release(): void {
    for (const { to, chunk } of this.held?.splice(0) ?? []) if (!to.destroyed) to.write(chunk);
  }

  async close(): Promise<void> {
    this.shut();
    this.server.close();
    await once(this.server, 'close');
  }

  private join(from: Socket, to: Socket, count: (xid: number, bytes: number) => void): void {
    this.sockets.add(from);
    const splitter = new FrameSplitter(MAX_FRAME);
    from.on('data', (chunk: Buffer) => {
      splitter.push(chunk);
      for (let frame = splitter.next(); frame !== undefined; frame = splitter.next()) {
        count(frame.readInt32BE(0), 4 + frame.length);
      }
    });
    from.on('error', () => to.destroy());
    from.on('close', () => {
      this.sockets.delete(from);
      to.destroy();
    });
  }
}

export function noTraffic(): Traffic {
  return { requests: 0, requestBytes: 0, answers: 0, events: 0, answerBytes: 0 };
}
