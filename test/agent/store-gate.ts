import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';

/** A way to the NSDB's Unix socket that can be shut, as a partition or the death of a process would. */
export class StoreGate {
  private readonly sockets = new Set<Socket>();
  private open = true;

  private constructor(
    readonly path: string,
    private readonly server: Server,
  ) {}

  static async to(target: string, path: string): Promise<StoreGate> {
    await rm(path, { force: true });
    const server = createServer();
    const gate = new StoreGate(path, server);
    server.on('connection', (near) => {
      if (!gate.open) {
        near.destroy();
        return;
      }
      const far = connect({ path: target });
      gate.join(near, far);
      gate.join(far, near);
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

  private join(from: Socket, to: Socket): void {
    this.sockets.add(from);
    from.on('error', () => to.destroy());
    from.on('close', () => {
      this.sockets.delete(from);
      to.destroy();
    });
    from.pipe(to);
  }
}
