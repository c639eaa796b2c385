import { Router } from 'express';
import * as z from 'zod';
import { uuid } from '../../topology/fields.js';
import { validateBody } from '../requests/error-fields.js';
import { parseId, refuseOthers } from '../requests/object-query.js';
import { type Call, parameter, serve } from '../requests/serve.js';
import { NoSuchEntryError } from '../tenancy/request-errors.js';
import { carryOut } from './changes.js';

/** The port at the other end. */
export const linkSchema = z.strictObject({ peerId: uuid });

/** `/v1/ports/{id}/link`: which port this one is linked to; both name each other. */
export function linkRoutes(): Router {
  const router = Router();
  serve(router, '/ports/:id/link', {
    get: async (call) => {
      const portId = idIn(call);
      const { object } = await call.scope.require('port', portId);
      if (object.peerId === undefined) throw new NoSuchEntryError('link of port', portId);
      call.response.json({ portId, peerId: object.peerId });
    },
    put: async (call) => {
      const portId = idIn(call);
      const { peerId } = validateBody(linkSchema, call.request.body);
      await setPeer(call, portId, peerId);
      call.response.json({ portId, peerId });
    },
    delete: async (call) => {
      await setPeer(call, idIn(call), null);
      call.response.status(204).end();
    },
  });
  return router;
}

function idIn(call: Call): string {
  refuseOthers(call.request.query, []);
  return parseId('id', parameter(call, 'id'));
}

async function setPeer({ scope, signal }: Call, id: string, peerId: string | null): Promise<void> {
  await carryOut(scope, [{ op: 'patch', kind: 'port', id, body: { peerId } }], () => undefined, signal);
}
