import { Router } from 'express';
import * as z from 'zod';
import type { OperationDescription } from '../description/operation.js';
import type { ApiContext } from '../requests/context.js';
import { serve } from '../requests/serve.js';
import { clusterStatus } from './status.js';

/** See ClusterStatus. */
const statusSchema = z.object({
  healthy: z.boolean(),
  problems: z.array(
    z.object({ severity: z.enum(['error', 'warning']), what: z.string(), where: z.string(), advice: z.string() }),
  ),
  hosts: z.object({ known: z.int(), alive: z.int() }).optional(),
  ports: z.object({ bound: z.int(), active: z.int() }).optional(),
  flows: z.int().optional(),
  nsdb: z.looseObject({ connect: z.string() }).optional(),
  partial: z.array(z.string()),
});

export const STATUS_OPERATIONS: readonly OperationDescription[] = [
  {
    method: 'get',
    path: '/v1/status',
    tag: 'Explain',
    summary: 'Say what is wrong in the whole cluster, and what to do about it',
    description:
      'For admins. Asks the NSDB and every agent; what it looked at in part only is in `partial`. Without `hosts`, `ports` and `flows` the NSDB could not be read.',
    answers: [
      {
        status: 200,
        description: 'How everything is; also when something is wrong',
        content: {
          schema: statusSchema,
          example: {
            healthy: false,
            problems: [
              {
                severity: 'error',
                what: 'no agent runs there; 3 ports are bound there',
                where: 'host node-2',
                advice: 'start `midonet agent` on it and look at its log',
              },
            ],
            hosts: { known: 2, alive: 1 },
            ports: { bound: 4, active: 4 },
            flows: 120,
            partial: [],
          },
        },
      },
    ],
  },
];

/** `GET /v1/status`: what is wrong, and what to do about it. */
export function statusRoutes({ repository, nsdbStatus }: ApiContext): Router {
  const router = Router();
  serve(router, '/status', {
    get: async ({ response, scope, signal }) => {
      scope.requireAdmin('see the status of the cluster');
      response.json(await clusterStatus({ repository, nsdb: nsdbStatus, signal }));
    },
  });
  return router;
}
