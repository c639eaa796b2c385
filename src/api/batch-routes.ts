import { Router } from 'express';
import * as z from 'zod';
import { KINDS, type Kind } from '../topology/types.js';
import { type Change, carryOut } from './changes.js';
import { validateBody } from './error-fields.js';
import { etagOf } from './etag.js';
import { refuseOthers } from './object-query.js';
import { serve } from './serve.js';

/** More would not fit in one transaction of the store. */
const MAX_CHANGES = 500;

const kind = z.enum(KINDS as [Kind, ...Kind[]]);
const id = z.uuid();
const ifMatch = z.string().optional();
const body = z.unknown();

/** Changes that happen together. The bodies are checked where they are carried out. */
export const batchSchema = z.strictObject({
  operations: z
    .array(
      z.discriminatedUnion('op', [
        z.strictObject({ op: z.literal('create'), kind, id: id.optional(), body }),
        z.strictObject({ op: z.literal('replace'), kind, id, ifMatch, body }),
        z.strictObject({ op: z.literal('patch'), kind, id, ifMatch, body }),
        z.strictObject({ op: z.literal('delete'), kind, id, ifMatch }),
      ]),
    )
    .max(MAX_CHANGES),
});

/** `POST /v1/batch`: changes of several objects, all of them or none. */
export function batchRoutes(): Router {
  const router = Router();
  serve(router, '/batch', {
    post: async ({ request, response, scope, signal }) => {
      refuseOthers(request.query, []);
      scope.requireWriter();
      const { operations } = validateBody(batchSchema, request.body);
      const changes: readonly Change[] = operations;
      const outcomes = await carryOut(scope, changes, (i) => `operations[${i}]`, signal);
      response.locals.changes = outcomes.map(({ kind, id, result, stored }) => {
        return { kind, id, result, etag: stored && etagOf(stored.modified) };
      });
      const results = outcomes.map(({ kind, id, result, stored }) => ({
        kind,
        id,
        result,
        ...(stored !== undefined && { etag: etagOf(stored.modified), object: stored.object }),
      }));
      response.json({ results });
    },
  });
  return router;
}
