import { Router } from 'express';
import { hostAlivePath } from '../../nsdb/layout.js';
import { KINDS } from '../../topology/types.js';
import { segmentOf } from '../description/resources.js';
import { parseId, refuseOthers } from '../requests/object-query.js';
import { parameter, serve } from '../requests/serve.js';
import { sendPage } from './object-routes.js';

/** `/v1`: what there is, and who asks; `/v1/tenants`: whose; `/v1/hosts/{id}/status`: whether a host's agent runs. */
export function overviewRoutes(): Router {
  const router = Router();
  serve(router, '/', {
    get: ({ request, response, scope }) => {
      refuseOthers(request.query, []);
      const { name, role, tenantId } = scope.caller;
      const collections = Object.fromEntries(KINDS.map((kind) => [segmentOf(kind), `/v1/${segmentOf(kind)}`]));
      response.json({
        caller: { name, role, tenantId },
        collections,
        tenants: '/v1/tenants',
        batch: '/v1/batch',
        watch: '/v1/watch',
        trace: '/v1/trace',
        flows: '/v1/flows',
        connections: '/v1/connections',
        status: '/v1/status',
        supportBundle: '/v1/support-bundle',
        accessTokens: '/v1/access-tokens',
        openapi: '/v1/openapi.json',
        documentation: '/docs',
      });
    },
  });
  serve(router, '/tenants', {
    get: async (call) => {
      const { request, scope, signal } = call;
      refuseOthers(request.query, []);
      const tenants = scope.isAdmin ? await scope.repository.tenants(signal) : [scope.caller.tenantId];
      sendPage(
        call,
        tenants.map((id) => ({ id })),
        undefined,
      );
    },
  });
  serve(router, '/hosts/:id/status', {
    get: async (call) => {
      const { request, response, scope, signal } = call;
      refuseOthers(request.query, []);
      const { object } = await scope.require('host', parseId('id', parameter(call, 'id')));
      const alive = await scope.repository.store.exists(hostAlivePath(object.id), { signal });
      response.json({ id: object.id, alive: alive !== undefined });
    },
  });
  return router;
}
