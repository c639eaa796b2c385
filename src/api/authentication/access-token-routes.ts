import { Router } from 'express';
import * as z from 'zod';
import type { OperationDescription, ParameterDescription } from '../description/operation.js';
import { parameter, serve } from '../requests/serve.js';
import { NoSuchEntryError } from '../tenancy/request-errors.js';
import { type AccessTokens, accessTokenSchema, newAccessTokenSchema, TOKEN_PREFIX } from './access-tokens.js';

const EXAMPLE = {
  id: '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08',
  name: 'ci',
  role: 'tenant-admin',
  tenantId: 'blue',
  createdBy: 'admin',
  createdAt: 1_750_000_000_000,
};

const ID: ParameterDescription = {
  name: 'id',
  in: 'path',
  description: 'The SHA-256 of the token, 64 hexadecimal digits.',
  schema: z.string().regex(/^[0-9a-f]{64}$/),
};

export const ACCESS_TOKEN_OPERATIONS: readonly OperationDescription[] = [
  {
    method: 'get',
    path: '/v1/access-tokens',
    tag: 'AccessToken',
    summary: 'List access tokens',
    description: 'Admins only. The tokens themselves are not told again.',
    answers: [
      {
        status: 200,
        description: 'All there are, by name.',
        content: { schema: z.strictObject({ items: z.array(accessTokenSchema) }), example: { items: [EXAMPLE] } },
      },
    ],
  },
  {
    method: 'post',
    path: '/v1/access-tokens',
    tag: 'AccessToken',
    summary: 'Make an access token',
    description: 'Admins only. The token is in this answer and nowhere else; the NSDB has its SHA-256.',
    body: {
      schema: newAccessTokenSchema,
      example: { name: 'ci', role: 'tenant-admin', tenantId: 'blue', expiresInSeconds: 86_400 },
    },
    answers: [
      {
        status: 201,
        description: 'It has been made.',
        content: {
          schema: accessTokenSchema.extend({ token: z.string() }),
          example: { ...EXAMPLE, token: `${TOKEN_PREFIX}…` },
        },
        headers: { Location: 'Where it is.' },
      },
    ],
    failures: [409, 507],
  },
  {
    method: 'get',
    path: '/v1/access-tokens/{id}',
    tag: 'AccessToken',
    summary: 'Get an access token, without what makes it one',
    parameters: [ID],
    answers: [{ status: 200, description: 'The token.', content: { schema: accessTokenSchema, example: EXAMPLE } }],
    failures: [404],
  },
  {
    method: 'delete',
    path: '/v1/access-tokens/{id}',
    tag: 'AccessToken',
    summary: 'Delete an access token',
    description: 'Within five seconds nobody can use it any more.',
    parameters: [ID],
    answers: [{ status: 204, description: 'There is none any more.' }],
  },
];

/** `/access-tokens`: an admin makes, lists and deletes the tokens by which others show who they are. */
export function accessTokenRoutes(tokens: AccessTokens): Router {
  const router = Router();
  serve(router, '/access-tokens', {
    get: async ({ response, scope, signal }) => {
      scope.requireAdmin(WHAT);
      response.json({ items: await tokens.list(signal) });
    },
    post: async ({ request, response, scope, signal }) => {
      scope.requireAdmin(WHAT);
      const { accessToken, token } = await tokens.create(request.body, scope.caller.name, signal);
      response.set('Cache-Control', 'no-store');
      response
        .status(201)
        .location(`/v1/access-tokens/${accessToken.id}`)
        .json({ ...accessToken, token });
    },
  });
  serve(router, '/access-tokens/:id', {
    get: async (call) => {
      call.scope.requireAdmin(WHAT);
      const id = parameter(call, 'id');
      const accessToken = await tokens.get(id, call.signal);
      if (accessToken === undefined) throw new NoSuchEntryError('access token', id);
      call.response.json(accessToken);
    },
    delete: async (call) => {
      call.scope.requireAdmin(WHAT);
      await tokens.delete(parameter(call, 'id'), call.signal);
      call.response.status(204).end();
    },
  });
  return router;
}

const WHAT = 'see and make access tokens';
