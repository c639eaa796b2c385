import { Router } from 'express';
import * as z from 'zod';
import { MidonetError } from '../../errors.js';
import { uuid } from '../../topology/fields.js';
import type { Port } from '../../topology/types.js';
import { validateBody } from '../requests/error-fields.js';
import { parseId, refuseOthers } from '../requests/object-query.js';
import { type Call, parameter, serve } from '../requests/serve.js';
import { NoSuchEntryError } from '../tenancy/request-errors.js';
import { type Change, carryOut } from './changes.js';

/** The port is linked to another one, which would lose its link. */
export class LinkedPortError extends MidonetError {
  constructor(id: string, peerId: string) {
    super('MN_CONFLICT', `port ${id} is linked to port ${peerId}; delete that link first`);
  }
}

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
      await setPeer(call, portId, peerId, ({ peerId: known = peerId }) => {
        if (known !== peerId) throw new LinkedPortError(portId, known);
      });
      call.response.json({ portId, peerId });
    },
    delete: async (call) => {
      await setPeer(call, idIn(call), null, () => undefined);
      call.response.status(204).end();
    },
  });
  return router;
}

function idIn(call: Call): string {
  refuseOthers(call.request.query, []);
  return parseId('id', parameter(call, 'id'));
}

/** @param check throws for a port that is to keep its peer */
async function setPeer(
  { scope, signal }: Call,
  id: string,
  peerId: string | null,
  check: (port: Port) => void,
): Promise<void> {
  scope.requireWriter();
  const change: Change = { op: 'patch', kind: 'port', id, body: { peerId }, check: (port) => check(port as Port) };
  await carryOut(scope, [change], () => undefined, signal);
}
