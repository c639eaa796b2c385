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
    from.pipe(to);
  }
}

export function noTraffic(): Traffic {
  return { requests: 0, requestBytes: 0, answers: 0, events: 0, answerBytes: 0 };
}
