import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { Router } from 'express';
import * as z from 'zod';
import { within } from '../../deadline.js';
import type { OperationDescription } from '../description/operation.js';
import type { ApiContext } from '../requests/context.js';
import { serve } from '../requests/serve.js';
import { supportBundle } from './support-bundle.js';

const GZIP = 'application/gzip';
/** A bundle takes longer than other answers: each agent is asked. */
const BUNDLE_TIMEOUT_MS = 300_000;

export const SUPPORT_BUNDLE_OPERATIONS: readonly OperationDescription[] = [
  {
    method: 'get',
    path: '/v1/support-bundle',
    tag: 'Explain',
    summary: 'Get what is needed to find out from afar what is wrong',
    description:
      'For admins. A tar archive of status, topology, configuration, and of each agent its summary, metrics and flows, without secrets; `manifest.json` in it says what could not be got.',
    answers: [
      {
        status: 200,
        description: 'The archive',
        content: { schema: z.string(), example: '', types: [GZIP] },
      },
    ],
  },
];

/** `GET /v1/support-bundle`: a compressed tar archive. */
export function supportBundleRoutes({ repository, nsdbStatus, configuration, closing, log }: ApiContext): Router {
  const router = Router();
  serve(router, '/support-bundle', {
    get: async ({ response, scope }) => {
      scope.requireAdmin('get a support bundle');
      const gone = new AbortController();
      response.once('close', () => gone.abort());
      const ends = closing === undefined ? gone.signal : AbortSignal.any([gone.signal, closing]);
      const signal = within(BUNDLE_TIMEOUT_MS, ends);
      response.type(GZIP).set('Content-Disposition', 'attachment; filename="midonet-support.tar.gz"');
      const archive = Readable.from(supportBundle({ repository, nsdbStatus, configuration, signal }), {
        objectMode: false,
      });
      try {
        await pipeline(archive, createGzip(), response, { signal });
      } catch (error) {
        // The archive ends early, which whoever reads it notices.
        if (!gone.signal.aborted) log.warn({ error: (error as Error).message }, 'a support bundle was cut short');
        response.destroy();
      }
    },
  });
  return router;
}
