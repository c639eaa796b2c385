import type { RequestHandler } from 'express';
import { MemoryStore, rateLimit } from 'express-rate-limit';
import { TooManyRequestsError } from '../authentication/errors.js';
import { isRepeated } from '../authentication/failure-limit.js';
import { type Caller, callerKey } from '../tenancy/caller.js';

const WINDOW_MS = 10_000;

/**
 * Refuses requests of a caller who makes more than `perSecond`, on average over ten seconds.
 * @param closing aborted when there are no more requests
 */
export function callerLimit(perSecond: number, closing?: AbortSignal): RequestHandler {
  const store = new MemoryStore();
  closing?.addEventListener('abort', () => store.shutdown(), { once: true });
  return rateLimit({
    store,
    windowMs: WINDOW_MS,
    limit: (perSecond * WINDOW_MS) / 1000,
    keyGenerator: (_request, response) => callerKey(response.locals.caller as Caller),
    standardHeaders: 'draft-8',
    legacyHeaders: false,
    handler: (request, _response, next) => {
      next(new TooManyRequestsError(`expected at most ${perSecond} requests a second`, isRepeated(request)));
    },
  });
}
