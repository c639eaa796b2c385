import { Router } from 'express';
import * as z from 'zod';
import { uuid } from '../../topology/fields.js';
import { KINDS, type Kind } from '../../topology/types.js';
import type { OperationDescription } from '../description/operation.js';
import { validateBody } from '../requests/error-fields.js';
import { ENTITY_TAG_EXPECTED, ENTITY_TAG_LIST, etagOf } from '../requests/etag.js';
import { refuseOthers } from '../requests/object-query.js';
import { told } from '../requests/secrets.js';
import { serve } from '../requests/serve.js';
import { type Change, carryOut } from './changes.js';

/** More would not fit in one transaction of the store. */
const MAX_CHANGES = 500;

const kind = z.enum(KINDS as [Kind, ...Kind[]]);
const id = uuid;
const ifMatch = z
  .string()
  .refine((tags) => ENTITY_TAG_LIST.test(tags), ENTITY_TAG_EXPECTED)
  .optional();
/** Also if it is a port that has an owner. Only an admin may say so. */
const force = z.boolean().optional();
const body = z.unknown();

/** Changes that happen together. The bodies are checked where they are carried out. */
export const batchSchema = z.strictObject({
  operations: z
    .array(
      z.discriminatedUnion('op', [
        z.strictObject({ op: z.literal('create'), kind, id: id.optional(), body }),
        z.strictObject({ op: z.literal('replace'), kind, id, ifMatch, force, body }),
        z.strictObject({ op: z.literal('patch'), kind, id, ifMatch, force, body }),
        z.strictObject({ op: z.literal('delete'), kind, id, ifMatch, force }),
      ]),
    )
    .max(MAX_CHANGES),
});

export const BATCH_OPERATIONS: readonly OperationDescription[] = [
  {
    method: 'post',
    path: '/v1/batch',
    tag: 'Batch',
    summary: 'Change several objects, all or none',
    description:
      'One transaction: nobody ever sees a part of it. Objects may name others that are made in the same batch. Errors name the field as in `operations[3].body.mac`. The answer has what became of each, in order.',
    body: {
      schema: batchSchema,
      example: {
        operations: [
          { op: 'create', kind: 'bridge', id: '3d1b2e6c-6f0a-4c1e-9d43-0a6f2a1f9c01', body: { name: 'db' } },
          { op: 'create', kind: 'port', body: { bridgeId: '3d1b2e6c-6f0a-4c1e-9d43-0a6f2a1f9c01' } },
        ],
      },
    },
    answers: [
      {
        status: 200,
        description: 'All has been done.',
        content: {
          schema: z.strictObject({
            results: z.array(
              z.strictObject({
                kind,
                id,
                result: z.enum(['created', 'changed', 'unchanged', 'deleted']),
                etag: z.string().optional(),
                object: z.looseObject({}).optional(),
              }),
            ),
          }),
          example: {
            results: [{ kind: 'bridge', id: '3d1b2e6c-6f0a-4c1e-9d43-0a6f2a1f9c01', result: 'deleted' }],
          },
        },
      },
    ],
    failures: [404, 409, 412, 507],
  },
];

/** `POST /v1/batch`: changes of several objects, all of them or none. */
export function batchRoutes(): Router {
  const router = Router();
  serve(router, '/batch', {
    post: async ({ request, response, scope, signal }) => {
      refuseOthers(request.query, []);
      scope.requireWriter();
      const { operations } = validateBody(batchSchema, request.body);
      if (operations.some((operation) => 'force' in operation && operation.force === true)) scope.requireAdmin('force');
      const changes: readonly Change[] = operations;
      const outcomes = await carryOut(scope, changes, (i) => `operations[${i}]`, signal);
      response.locals.changes = outcomes.map(({ kind, id, result, stored }) => {
        return { kind, id, result, etag: stored && etagOf(stored.modified) };
      });
      const results = outcomes.map(({ kind, id, result, stored }) => ({
        kind,
        id,
        result,
        ...(stored !== undefined && { etag: etagOf(stored.modified), object: told(kind, stored.object) }),
      }));
      response.json({ results });
    },
  });
  return router;
}
