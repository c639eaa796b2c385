import { Router } from 'express';
import { hostAlivePath } from '../../nsdb/layout.js';
import { readAhead } from '../../nsdb/read-ahead.js';
import { KINDS } from '../../topology/types.js';
import { segmentOf } from '../description/resources.js';
import { parseId, parsePaging, refuseOthers } from '../requests/object-query.js';
import { parameter, serve } from '../requests/serve.js';
import type { Scope } from '../tenancy/tenancy.js';
import { sendPage } from './object-routes.js';

/** `/v1`: what there is, and who asks; `/v1/tenants`: whose; `/v1/hosts/{id}/status` and `/v1/host-status`: whether agents of hosts run. */
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
        hostStatus: '/v1/host-status',
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
      refuseOthers(request.query, ['limit', 'after']);
      const { after = '', limit } = parsePaging(request.query);
      const { isAdmin, caller, repository } = scope;
      const tenants = isAdmin ? (await repository.tenants(signal)).sort() : [caller.tenantId!];
      const rest = tenants.filter((id) => id > after);
      const page = rest.slice(0, limit);
      sendPage(
        call,
        page.map((id) => ({ id })),
        rest.length > limit ? page.at(-1) : undefined,
      );
    },
  });
  serve(router, '/hosts/:id/status', {
    get: async (call) => {
      const { request, response, scope, signal } = call;
      refuseOthers(request.query, []);
      const { object } = await scope.require('host', parseId('id', parameter(call, 'id')));
      response.json(await statusOf(object.id, scope, signal));
    },
  });
  serve(router, '/host-status', {
    get: async (call) => {
      const { request, scope, signal } = call;
      scope.requireAdmin('see which agents run');
      refuseOthers(request.query, ['limit', 'after']);
      const { items, next } = await scope.repository.page({ kind: 'host', ...parsePaging(request.query), signal });
      const statuses = await readAhead(items, signal, ({ object }, signal) => statusOf(object.id, scope, signal));
      sendPage(call, statuses, next);
    },
  });
  return router;
}

async function statusOf(
  id: string,
  { repository }: Scope,
  signal?: AbortSignal,
): Promise<{ id: string; alive: boolean }> {
  const alive = await repository.store.exists(hostAlivePath(id), { signal });
  return { id, alive: alive !== undefined };
}
