import type { ExecutionContext } from 'ava';
import { pino } from 'pino';
import { AccessTokens } from '../../src/api/authentication/access-tokens.js';
import { Authentication, type AuthenticationOptions } from '../../src/api/authentication/authentication.js';
import { ApiServer, type ApiServerOptions } from '../../src/api/server.js';
import type { Context } from '../nsdb/repository/repository-test.js';

export const ADMIN_TOKEN = 'the-token-of-the-admin-which-is-long-enough';

/** An API server of the test on a free port of loopback, which takes those only who show who they are. */
export async function serveApi(
  t: ExecutionContext<Context>,
  options: Partial<AuthenticationOptions & ApiServerOptions> = {},
): Promise<ApiServer> {
  const { repository, store } = t.context;
  const authentication = new Authentication({
    accessTokens: new AccessTokens(store, options.clock),
    adminToken: ADMIN_TOKEN,
    roles: [],
    failuresPerMinute: 1000,
    ...options,
  });
  const server = await ApiServer.listen({
    listen: { host: '127.0.0.1', port: 0 },
    repository,
    log: pino({ level: 'silent' }),
    authenticate: (request, response) => authentication.authenticate(request, response),
    ...options,
  });
  t.teardown(() => server.close());
  return server;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into whatever the answer is.
  readonly body: any;
}

/** A request over plain HTTP. */
export async function ask(
  server: ApiServer,
  token: string | undefined,
  method: string,
  path: string,
  body?: unknown,
  headers: Readonly<Record<string, string>> = {},
): Promise<Answer> {
  const answer = await fetch(`http://127.0.0.1:${server.port}${path}`, {
    method,
    headers: {
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...headers,
    },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, body: text === '' ? undefined : JSON.parse(text) };
}

/** Makes an access token, as an admin. */
export async function makeToken(
  server: ApiServer,
  grant: { readonly role: string; readonly tenantId?: string; readonly expiresInSeconds?: number },
  name = grant.role,
): Promise<{ readonly id: string; readonly token: string }> {
  const { status, body } = await ask(server, ADMIN_TOKEN, 'POST', '/v1/access-tokens', { name, ...grant });
  if (status !== 201) throw new Error(JSON.stringify(body));
  return body;
}
