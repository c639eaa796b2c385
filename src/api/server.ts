import { createServer as createHttpServer, type Server } from 'node:http';
import type { AddressInfo, ListenOptions, Socket } from 'node:net';
import { type ApiContext, createApp } from './app.js';

/** How much clients may ask of the sockets. */
export interface SocketLimits {
  /** Open at a time; more are closed at once. */
  readonly connections: number;
  /** The same of one address. */
  readonly connectionsPerAddress: number;
  /** Milliseconds from the first byte of a request to the end of its headers; also for a TLS handshake. */
  readonly headersTimeout: number;
  /** Milliseconds from the first byte of a request to the last. */
  readonly requestTimeout: number;
  /** Milliseconds that a connection may be silent in both directions. */
  readonly idleTimeout: number;
}

export const SOCKET_LIMITS: SocketLimits = {
  connections: 10_000,
  connectionsPerAddress: 1000,
  headersTimeout: 10_000,
  requestTimeout: 30_000,
  idleTimeout: 60_000,
};

export interface ApiServerOptions extends Omit<ApiContext, 'closing'> {
  /** Port 0: any free one. */
  readonly listen: { readonly host: string; readonly port: number } | { readonly path: string };
  readonly socketLimits?: SocketLimits;
}

/** Of all headers of a request together. */
const HEADER_BYTES = 16 * 1024;
/** How long answers under way may take when the server closes. */
const CLOSE_MS = 5000;
/** How often requests that take too long are looked for. */
const CHECK_MS = 1000;

/** The REST API on a socket of its own. */
export class ApiServer {
  private readonly ofAddress = new Map<string, number>();
  /** Connections closed because there were too many. */
  refusedConnections = 0;

  private constructor(
    private readonly server: Server,
    private readonly limits: SocketLimits,
    private readonly closing: AbortController,
  ) {
    server.maxConnections = limits.connections;
    server.headersTimeout = limits.headersTimeout;
    server.requestTimeout = limits.requestTimeout;
    server.timeout = limits.idleTimeout;
    server.on('connection', (socket: Socket) => this.admit(socket));
    server.on('drop', () => {
      this.refusedConnections++;
    });
  }

  static async listen(options: ApiServerOptions): Promise<ApiServer> {
    const { listen, socketLimits = SOCKET_LIMITS, ...context } = options;
    const closing = new AbortController();
    const app = createApp({ ...context, closing: closing.signal });
    const server = createHttpServer(
      { maxHeaderSize: HEADER_BYTES, connectionsCheckingInterval: Math.min(CHECK_MS, socketLimits.headersTimeout) },
      app,
    );
    const listening: ListenOptions = listen;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(listening, () => {
        server.off('error', reject);
        resolve();
      });
    });
    return new ApiServer(server, socketLimits, closing);
  }

  /** 0 on a Unix socket. */
  get port(): number {
    const address = this.server.address() as AddressInfo | string | null;
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  /** Open ones. */
  get connections(): number {
    let connections = 0;
    for (const count of this.ofAddress.values()) connections += count;
    return connections;
  }

  /** Takes no more requests, ends the streams, and gives the answers under way a few seconds. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    this.closing.abort();
    this.server.closeIdleConnections();
    const timer = setTimeout(() => this.server.closeAllConnections(), CLOSE_MS);
    await closed;
    clearTimeout(timer);
  }

  private admit(socket: Socket): void {
    const address = socket.remoteAddress ?? '';
    const count = this.ofAddress.get(address) ?? 0;
    if (count >= this.limits.connectionsPerAddress) {
      this.refusedConnections++;
      socket.destroy();
      return;
    }
    this.ofAddress.set(address, count + 1);
    socket.once('close', () => {
      const left = (this.ofAddress.get(address) ?? 1) - 1;
      if (left === 0) this.ofAddress.delete(address);
      else this.ofAddress.set(address, left);
    });
  }
}
