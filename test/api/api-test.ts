import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import pino from 'pino';
import { createApp } from '../../src/api/app.js';
import type { ApiContext } from '../../src/api/requests/context.js';
import type { Problem } from '../../src/api/requests/problem.js';
import { type Caller, LOCAL_ADMIN } from '../../src/api/tenancy/caller.js';
import { TopologyRepository } from '../../src/nsdb/repository/topology-repository.js';
import type { Store } from '../../src/nsdb/store.js';

/** An answer of the API. */
export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  /** What the JSON says; undefined for an empty body. */
  readonly body: unknown;
}

export const tenantAdmin = (tenantId: string): Caller => ({
  name: `${tenantId}-admin`,
  role: 'tenant-admin',
  tenantId,
});
export const tenantReader = (tenantId: string): Caller => ({
  name: `${tenantId}-reader`,
  role: 'tenant-reader',
  tenantId,
});

const CALLER = 'x-test-caller';

/** A bearer token that says who shows it. */
export function tokenOf(caller: Caller): string {
  return Buffer.from(JSON.stringify(caller)).toString('base64url');
}

function callerOf(named: string | undefined, authorization: string | undefined): Caller {
  const token = authorization?.slice('Bearer '.length);
  const text = named ?? (token === undefined ? undefined : Buffer.from(token, 'base64url').toString());
  return text === undefined ? LOCAL_ADMIN : (JSON.parse(text) as Caller);
}

/** The REST API on a loopback port, before a store; each request says whose it is. */
export class TestApi {
  readonly repository: TopologyRepository;

  private constructor(
    readonly store: Store,
    private readonly server: Server,
    readonly address: string,
  ) {
    this.repository = new TopologyRepository(store);
  }

  static async start(store: Store, more: Partial<ApiContext> = {}): Promise<TestApi> {
    const repository = new TopologyRepository(store);
    await repository.initialize();
    const app = createApp({
      repository,
      log: pino({ level: 'silent' }),
      authenticate: async (request) => callerOf(request.get(CALLER), request.get('authorization')),
      ...more,
    });
    const server = createServer(app).listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new TestApi(store, server, `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  }

  async close(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, 'close');
  }

  /** Those of one caller. */
  as(caller: Caller): Client {
    return new Client(this.address, { [CALLER]: JSON.stringify(caller) });
  }

  get admin(): Client {
    return this.as(LOCAL_ADMIN);
  }
}

/** Requests as they are sent and answered, with nothing made of them. */
export class Client {
  constructor(
    private readonly address: string,
    private readonly own: Readonly<Record<string, string>>,
  ) {}

  async send(
    method: string,
    path: string,
    body?: unknown,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Reply> {
    const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body);
    const type: Record<string, string> = text === undefined ? {} : { 'content-type': 'application/json' };
    const response = await fetch(`${this.address}${path}`, {
      method,
      body: text,
      headers: { ...this.own, ...type, ...headers },
    });
    const answer = await response.text();
    return { status: response.status, headers: response.headers, body: answer === '' ? undefined : JSON.parse(answer) };
  }

  get(path: string, headers?: Readonly<Record<string, string>>): Promise<Reply> {
    return this.send('GET', path, undefined, headers);
  }

  post(path: string, body: unknown, headers?: Readonly<Record<string, string>>): Promise<Reply> {
    return this.send('POST', path, body, headers);
  }

  put(path: string, body: unknown, headers?: Readonly<Record<string, string>>): Promise<Reply> {
    return this.send('PUT', path, body, headers);
  }

  patch(path: string, body: unknown, headers?: Readonly<Record<string, string>>): Promise<Reply> {
    return this.send('PATCH', path, body, headers);
  }

  delete(path: string, headers?: Readonly<Record<string, string>>): Promise<Reply> {
    return this.send('DELETE', path, undefined, headers);
  }
}

/** The items of a page. */
export function itemsOf({ body }: Reply): Record<string, unknown>[] {
  return (body as { items: Record<string, unknown>[] }).items;
}

/** What an answer says is wrong. */
export function problemIn({ body }: Reply): Problem {
  return body as Problem;
}

export function etagIn({ headers }: Reply): string {
  return headers.get('etag') ?? '';
}
