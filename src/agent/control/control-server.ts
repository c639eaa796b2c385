import { randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Logger } from 'pino';
import { endOf } from '../../deadline.js';
import { MidonetError } from '../../errors.js';
import type { Page } from '../../http-endpoint.js';
import { Handshakes } from './handshakes.js';
import { CONTROL_IDENTITY, CONTROL_TLS, type ControlFault } from './protocol.js';

/** Answers a request by itself: a stream that goes on until one of the sides ends it. */
export type ControlStream = (query: URLSearchParams, response: ServerResponse, gone: AbortSignal) => Promise<void>;

export interface ControlServerOptions {
  /** An address of this host. */
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly pages: Readonly<Record<string, Page>>;
  readonly streams: Readonly<Record<string, ControlStream>>;
  /** Told where to ask, once it listens. */
  readonly onListening: (address: { host: string; port: number; key: string }) => void;
  readonly log: Logger;
}

const RETRY_MS = 5000;
const PAGE_TIMEOUT_MS = 30_000;
/** The API server does not wait longer for a connection, either. */
const HANDSHAKE_TIMEOUT_MS = 3000;
const HEADERS_TIMEOUT_MS = 10_000;
/** A machine that is gone without a word is noticed by probes, so that nothing is captured for it any longer. */
const PROBE_MS = 10_000;

/**
 * Where the API server asks this agent, and nobody else: whoever connects proves by TLS with a pre-shared key (RFC 4279,
 * RFC 5489) that it has read the key in the NSDB, and so does the agent. The agent works without it: while the address cannot be
 * listened on that is logged, and tried again.
 */
export class ControlServer {
  private readonly key = randomBytes(32);
  private readonly server: Server;
  private retry: NodeJS.Timeout | undefined;
  private closed = false;

  private constructor(private readonly options: ControlServerOptions) {
    this.server = createServer(
      {
        ...CONTROL_TLS,
        handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
        headersTimeout: HEADERS_TIMEOUT_MS,
        keepAlive: true,
        keepAliveInitialDelay: PROBE_MS,
        pskCallback: (_socket, identity) => (identity === CONTROL_IDENTITY ? this.key : null),
      },
      (request, response) => this.answer(request, response),
    );
    new Handshakes(this.server);
  }

  static start(options: ControlServerOptions): ControlServer {
    const control = new ControlServer(options);
    control.server.on('listening', () => {
      const { port } = control.server.address() as AddressInfo;
      options.onListening({ host: options.host, port, key: control.key.toString('hex') });
    });
    control.server.on('error', (error) => control.listenLater(error));
    control.listen();
    return control;
  }

  async close(): Promise<void> {
    this.closed = true;
    clearTimeout(this.retry);
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    this.server.closeAllConnections();
    await closed;
  }

  private listen(): void {
    this.server.listen(this.options.port, this.options.host);
  }

  private listenLater(error: Error): void {
    if (this.closed) return;
    const { log, host, port } = this.options;
    const context = { error: error.message, host, port, retryInMs: RETRY_MS };
    log.warn(context, 'the API server cannot ask this agent: the address of config.control cannot be listened on');
    this.retry = setTimeout(() => this.listen(), RETRY_MS);
  }

  private answer(request: IncomingMessage, response: ServerResponse): void {
    const { pages, streams } = this.options;
    const [path, query] = (request.url ?? '/').split('?', 2);
    const parameters = new URLSearchParams(query);
    if (request.method !== 'GET') return refuse(response, new MidonetError('MN_UNSUPPORTED', 'only GET'));
    if (Object.hasOwn(streams, path)) {
      const gone = new AbortController();
      response.once('close', () => gone.abort());
      streams[path](parameters, response, gone.signal).catch((error: Error) => this.failed(response, error));
    } else if (Object.hasOwn(pages, path)) {
      pages[path](parameters, endOf(response, PAGE_TIMEOUT_MS)).then(
        (page) => sendPage(response, page),
        (error: Error) => this.failed(response, error),
      );
    } else refuse(response, new MidonetError('MN_NOT_FOUND', `the agent has no page ${path}`));
  }

  private failed(response: ServerResponse, error: Error): void {
    if (response.destroyed) return;
    if (!(error instanceof MidonetError))
      this.options.log.warn({ error: error.stack }, 'could not answer the API server');
    // What was begun can only be cut short.
    if (response.headersSent) response.destroy(error);
    else refuse(response, error);
  }
}

function sendPage(response: ServerResponse, page: string | object): void {
  const isText = typeof page === 'string';
  response.writeHead(200, { 'content-type': isText ? 'text/plain; charset=utf-8' : 'application/json' });
  response.end(isText ? page : JSON.stringify(page));
}

function refuse(response: ServerResponse, error: Error): void {
  const code = error instanceof MidonetError ? error.code : 'MN_INTERNAL';
  const field = 'field' in error && typeof error.field === 'string' ? error.field : undefined;
  const value = 'value' in error ? error.value : undefined;
  const fault: ControlFault = { code, message: error.message, field, value };
  response.writeHead(500, { 'content-type': 'application/json' });
  response.end(JSON.stringify(fault));
}
