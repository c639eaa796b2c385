import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Registry } from 'prom-client';
import { InvalidInputError } from './errors.js';

const FAULT_TIMEOUT_MS = 2000;
const PAGE_TIMEOUT_MS = 30_000;

export interface HttpEndpointOptions {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly registry: Registry;
  /** Why what the process does cannot be relied on, or undefined; a rejection is a reason as well. */
  readonly fault: (signal: AbortSignal) => Promise<string | undefined>;
  /** Texts for people and objects for programs, by path. */
  readonly pages?: Readonly<Record<string, Page>>;
}

/** @throws InvalidInputError for a query that asks for something there is not */
export type Page = (query: URLSearchParams, signal: AbortSignal) => Promise<string | object>;

/**
 * Metrics for Prometheus at /metrics, health (/healthz answers while the process works, /readyz says what is wrong), and pages
 * of whoever listens.
 */
export class HttpEndpoint {
  private constructor(private readonly server: Server) {}

  static async listen({ host, port, registry, fault, pages = {} }: HttpEndpointOptions): Promise<HttpEndpoint> {
    const server = createServer((request, response) => {
      const send = (status: number, type: string, body: string) => {
        response.writeHead(status, { 'content-type': type });
        response.end(request.method === 'HEAD' ? undefined : body);
      };
      if (request.method !== 'GET' && request.method !== 'HEAD') return send(405, 'text/plain', 'only GET\n');
      const [path, query] = (request.url ?? '/').split('?', 2);
      if (Object.hasOwn(pages, path)) {
        pages[path](new URLSearchParams(query), AbortSignal.timeout(PAGE_TIMEOUT_MS)).then(
          (page) => {
            if (typeof page === 'string') send(200, 'text/plain; charset=utf-8', page);
            else send(200, 'application/json', JSON.stringify(page));
          },
          (error: Error) => send(error instanceof InvalidInputError ? 400 : 500, 'text/plain', `${error.message}\n`),
        );
        return;
      }
      switch (path) {
        case '/healthz':
          return send(200, 'text/plain', 'ok\n');
        case '/readyz':
          fault(AbortSignal.timeout(FAULT_TIMEOUT_MS)).then(
            (reason) => send(reason === undefined ? 200 : 503, 'text/plain', `${reason ?? 'ok'}\n`),
            (error: Error) => send(503, 'text/plain', `${error.message}\n`),
          );
          return;
        case '/metrics':
          registry.metrics().then(
            (text) => send(200, registry.contentType, text),
            (error: Error) => send(500, 'text/plain', `${error.message}\n`),
          );
          return;
        default:
          return send(
            404,
            'text/plain',
            `try ${[...Object.keys(pages), '/metrics', '/healthz'].join(', ')} or /readyz\n`,
          );
      }
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, host, resolve);
    });
    return new HttpEndpoint(server);
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    this.server.closeAllConnections();
    return closed;
  }
}
