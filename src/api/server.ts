import {
  createServer as createHttpServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http';
import { createServer as createHttpsServer, Server as HttpsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { TlsOptions } from 'node:tls';
import { type ListenAddress, listenOn } from '../nsdb/embedded/listener.js';
import { MIN_TLS_VERSION } from '../nsdb/protocol/tls.js';
import { createApp } from './app.js';
import { StreamCounts } from './feeds/stream-counts.js';
import { RequestCounts } from './protection/request-counts.js';
import { SOCKET_LIMITS, type SocketLimits } from './protection/socket-limits.js';
import type { ApiContext } from './requests/context.js';

/** Contents of PEM files. */
export interface ServerTls {
  /** What the server shows, with the certificates between it and the authority. */
  readonly certificate: string;
  readonly key: string;
  /** Authorities that certificates of clients must come from; undefined: clients are not asked for any. */
  readonly clientCa?: string;
}

export interface ApiServerOptions extends Omit<ApiContext, 'closing' | 'streamCounts'> {
  readonly listen: ListenAddress;
  /** Undefined: not encrypted. */
  readonly tls?: ServerTls;
  readonly socketLimits?: SocketLimits;
}

interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

/** Of all headers of a request together. */
const HEADER_BYTES = 16 * 1024;
/** Requests of one connection that have not been answered: hardly any client sends a second one before the first is answered. */
const MAX_PIPELINED = 16;
/** How long answers under way may take when the server closes. */
const CLOSE_MS = 5000;
/** A machine that is gone without a word is noticed by probes (RFC 9293 section 3.8.4), also by a stream in which nothing is sent. */
const PROBE_MS = 30_000;
/** How often requests that take too long are looked for. */
const CHECK_MS = 1000;

/** The REST API on a socket of its own. */
export class ApiServer {
  private readonly ofAddress = new Map<string, number>();
  private readonly sockets = new Set<Socket>();
  readonly requests = new RequestCounts();
  /** Connections closed because there were too many. */
  refusedConnections = 0;

  /** Requests of a connection: the first is worked on, the others wait. */
  private readonly asked = new WeakMap<Socket, Exchange[]>();

  private constructor(
    private readonly server: Server,
    private readonly app: RequestListener,
    private readonly limits: SocketLimits,
    private readonly closing: AbortController,
    readonly streams: StreamCounts,
  ) {
    server.maxConnections = limits.connections;
    server.headersTimeout = limits.headersTimeout;
    server.requestTimeout = limits.requestTimeout;
    server.timeout = limits.idleTimeout;
    server.on('connection', (socket: Socket) => this.admit(socket));
    server.on('request', (request, response) => this.take(request, response));
    server.on('drop', () => {
      this.refusedConnections++;
    });
  }

  static async listen(options: ApiServerOptions): Promise<ApiServer> {
    const { listen, tls, socketLimits = SOCKET_LIMITS, ...context } = options;
    const closing = new AbortController();
    const streamCounts = new StreamCounts();
    const app = createApp({ ...context, closing: closing.signal, streamCounts });
    const { headersTimeout } = socketLimits;
    const http = {
      maxHeaderSize: HEADER_BYTES,
      connectionsCheckingInterval: Math.min(CHECK_MS, headersTimeout),
      keepAlive: true,
      keepAliveInitialDelay: PROBE_MS,
    };
    const server =
      tls === undefined
        ? createHttpServer(http)
        : createHttpsServer({ ...http, ...secure(tls), handshakeTimeout: headersTimeout });
    await listenOn(server, listen, (error) => {
      // Of one connection, such as no descriptor left for it: the others are not concerned.
      context.log.error({ error: error.message }, 'the REST API could not take a connection');
    });
    return new ApiServer(server, app, socketLimits, closing, streamCounts);
  }

  /** What new connections are shown from now on. Only of a server that is encrypted. */
  setTls(tls: ServerTls): void {
    if (this.server instanceof HttpsServer) this.server.setSecureContext(secure(tls));
  }

  /** 0 on a Unix socket. */
  get port(): number {
    const address = this.server.address() as AddressInfo | string | null;
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  /** Open ones. */
  get connections(): number {
    return this.sockets.size;
  }

  /** Takes no more requests, ends the streams, and gives the answers under way a few seconds. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    this.closing.abort();
    this.server.closeIdleConnections();
    const timer = setTimeout(() => {
      // Those too on which there has been no request yet.
      for (const socket of this.sockets) socket.destroy();
    }, CLOSE_MS);
    await closed;
    clearTimeout(timer);
  }

  /** Node.js hands over all requests that came in one piece. They are worked on one after the other, as they are answered. */
  private take(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    if (socket.destroyed) return;
    const asked = this.asked.get(socket) ?? [];
    this.asked.set(socket, asked);
    asked.push({ request, response });
    if (asked.length > MAX_PIPELINED) socket.destroy();
    else if (asked.length === 1) this.answerFirst(asked);
  }

  private answerFirst(asked: Exchange[]): void {
    const [{ request, response }] = asked;
    this.requests.begin(request, response);
    response.once('close', () => {
      asked.shift();
      // Without a socket it comes behind an answer that ends the connection.
      if (asked.length > 0 && asked[0].response.socket !== null && !request.socket.destroyed) this.answerFirst(asked);
      // Its last answer may be given when the server is closing already.
      else if (this.closing.signal.aborted) setImmediate(() => this.server.closeIdleConnections());
    });
    this.app(request, response);
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
    this.sockets.add(socket);
    socket.once('close', () => {
      this.sockets.delete(socket);
      const left = (this.ofAddress.get(address) ?? 1) - 1;
      if (left === 0) this.ofAddress.delete(address);
      else this.ofAddress.set(address, left);
    });
  }
}

/** Clients whose certificate is not good are refused with an answer that says so, not without one. */
function secure({ certificate, key, clientCa }: ServerTls): TlsOptions {
  return {
    cert: certificate,
    key,
    ca: clientCa,
    minVersion: MIN_TLS_VERSION,
    requestCert: clientCa !== undefined,
    rejectUnauthorized: false,
  };
}
