import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { FrameSplitter, JuteReader, JuteWriter, NO_SESSION } from '../../src/nsdb/protocol/jute.js';
import {
  type Acl,
  Op,
  PASSWORD_LENGTH,
  readAcls,
  readConnectResponse,
  readStat,
  writeAcls,
  writeConnectRequest,
  Xid,
} from '../../src/nsdb/protocol/records.js';
import type { Stat } from '../../src/nsdb/store.js';

/** An answer: its code, and what follows that. */
export interface Answer {
  readonly err: number;
  readonly body: JuteReader;
}

/** A client that says just what it is told to, one request after the other, for what the store's client never does. */
export class WireClient {
  private readonly splitter = new FrameSplitter(1 << 24);
  private waiting: { resolve(frame: Buffer): void; reject(error: Error): void } | undefined;
  private xid = 0;
  sessionId = NO_SESSION;
  private password: Uint8Array = new Uint8Array(PASSWORD_LENGTH);
  /** Types and paths of the watch events so far. */
  readonly events: [number, string][] = [];

  private constructor(private readonly socket: Socket) {
    socket.on('data', (chunk) => {
      this.splitter.push(chunk);
      for (let frame = this.splitter.next(); frame !== undefined; frame = this.splitter.next()) this.onFrame(frame);
    });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.waiting?.reject(new Error('the connection is closed')));
  }

  /** With a session of its own, or that of another client. `address` as host:port. A server that has just started may turn clients away at first. */
  static async open(address: string, former?: WireClient): Promise<WireClient> {
    const deadline = performance.now() + 20_000;
    for (;;) {
      try {
        return await WireClient.tryToOpen(address, former);
      } catch (error) {
        if (performance.now() > deadline) throw error;
        await delay(50);
      }
    }
  }

  private static async tryToOpen(address: string, former?: WireClient): Promise<WireClient> {
    const colon = address.lastIndexOf(':');
    const socket = connect(Number(address.slice(colon + 1)), address.slice(0, colon));
    await once(socket, 'connect');
    const client = new WireClient(socket);
    const w = new JuteWriter();
    const { sessionId, password } = former ?? client;
    writeConnectRequest(w, { lastZxidSeen: 0, timeout: 20_000, sessionId, password, readOnly: false });
    const response = readConnectResponse(new JuteReader(await client.exchange(w.frame())));
    client.sessionId = response.sessionId;
    client.password = response.password;
    return client;
  }

  /** Settles when the server has closed the connection. */
  get closed(): Promise<unknown> {
    return this.socket.closed ? Promise.resolve() : once(this.socket, 'close');
  }

  async request(op: number, write: (w: JuteWriter) => void = () => {}, xid = ++this.xid): Promise<Answer> {
    const w = new JuteWriter().int(xid).int(op);
    write(w);
    const body = new JuteReader(await this.exchange(w.frame()));
    body.int();
    body.long();
    return { err: body.int(), body };
  }

  async authenticate(scheme: string, secret: string): Promise<number> {
    const write = (w: JuteWriter) => w.int(0).string(scheme).bytes(Buffer.from(secret));
    return (await this.request(Op.auth, write, Xid.auth)).err;
  }

  async create(path: string, acls: readonly Acl[], data: Uint8Array = new Uint8Array(), flags = 0): Promise<number> {
    const answer = await this.request(Op.create, (w) => {
      writeAcls(w.string(path).bytes(data), acls);
      w.int(flags);
    });
    return answer.err;
  }

  async setAcls(path: string, acls: readonly Acl[], version = -1): Promise<number> {
    return (await this.request(Op.setAcl, (w) => writeAclsAndVersion(w, path, acls, version))).err;
  }

  async getAcls(path: string): Promise<{ acls: readonly Acl[]; stat: Stat } | number> {
    const { err, body } = await this.request(Op.getAcl, (w) => w.string(path));
    return err === 0 ? { acls: readAcls(body), stat: readStat(body) } : err;
  }

  close(): void {
    this.socket.destroy();
  }

  private onFrame(frame: Buffer): void {
    const r = new JuteReader(frame);
    if (r.int() !== Xid.notification) {
      this.waiting?.resolve(frame);
      return;
    }
    r.long();
    r.int();
    const type = r.int();
    r.int();
    this.events.push([type, r.string()]);
  }

  private exchange(frame: Buffer): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      if (this.socket.destroyed) return reject(new Error('the connection is closed'));
      this.waiting = { resolve, reject };
      this.socket.write(frame);
    });
  }
}

function writeAclsAndVersion(w: JuteWriter, path: string, acls: readonly Acl[], version: number): void {
  writeAcls(w.string(path), acls);
  w.int(version);
}
