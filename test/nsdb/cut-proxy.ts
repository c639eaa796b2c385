import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** A TCP proxy whose connections can be cut, stalled as if the network had gone without a word, or their answers kept back. */
export class CutProxy {
  private readonly pairs = new Set<readonly [Socket, Socket]>();
  private mode: 'pass' | 'stall' | 'refuse' = 'pass';
  accepted = 0;
  private held: Buffer[] | undefined;

  private constructor(
    private readonly server: Server,
    private readonly target: { host: string; port: number },
  ) {}

  /** `target` as host:port. */
  static async to(target: string): Promise<CutProxy> {
    const colon = target.lastIndexOf(':');
    const server = createServer();
    const proxy = new CutProxy(server, { host: target.slice(0, colon), port: Number(target.slice(colon + 1)) });
    server.on('connection', (socket) => proxy.accept(socket));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get address(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Ends every connection and lets no new one through. */
  cut(): void {
    this.mode = 'refuse';
    this.drop();
  }

  /** Ends every connection; new ones are let through. */
  drop(): void {
    for (const [near, far] of this.pairs) {
      near.destroy();
      far.destroy();
    }
  }

  /** Nothing moves any more, on old and new connections, but none is closed. */
  stall(): void {
    this.mode = 'stall';
    for (const [near, far] of this.pairs) {
      near.pause();
      far.pause();
    }
  }

  /** Lets new connections through; those that were stalled stay so. */
  pass(): void {
    this.mode = 'pass';
  }

  /** Keeps back what the server says from now on; for a single connection. */
  hold(): void {
    this.held = [];
  }

  /** Messages kept back. */
  get heldFrames(): number {
    const bytes = Buffer.concat(this.held ?? []);
    let count = 0;
    for (let at = 0; at + 4 <= bytes.length && at + 4 + bytes.readInt32BE(at) <= bytes.length; count++) {
      at += 4 + bytes.readInt32BE(at);
    }
    return count;
  }

  /** Lets what was kept back through in one piece, as `change` leaves it. */
  release(change: (bytes: Buffer) => void = () => {}): void {
    const bytes = Buffer.concat(this.held ?? []);
    change(bytes);
    this.held = undefined;
    for (const [near] of this.pairs) near.write(bytes);
  }

  async close(): Promise<void> {
    this.cut();
    this.server.close();
    await once(this.server, 'close');
  }

  private accept(near: Socket): void {
    this.accepted++;
    if (this.mode === 'refuse') {
      near.destroy();
      return;
    }
    const far = connect(this.target);
    const pair = [near, far] as const;
    this.pairs.add(pair);
    for (const [from, to] of [pair, [far, near] as const]) {
      from.setNoDelay(true);
      from.on('data', (chunk) => {
        if (from === far && this.held !== undefined) this.held.push(chunk);
        else to.write(chunk);
      });
      from.on('end', () => to.end());
      from.on('error', () => to.destroy());
      from.on('close', () => {
        to.destroy();
        this.pairs.delete(pair);
      });
    }
    if (this.mode === 'stall') {
      near.pause();
      far.pause();
    }
  }
}
