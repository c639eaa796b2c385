import { setMaxListeners } from 'node:events';
import { isDeepStrictEqual } from 'node:util';
import express, { type Express, type RequestHandler } from 'express';
import { endOf } from '../deadline.js';
import { accessTokenRoutes } from './authentication/access-token-routes.js';
import { AccessTokens } from './authentication/access-tokens.js';
import { NoRoleError, TooManyRequestsError, UnauthenticatedError } from './authentication/errors.js';
import { documentRoutes } from './document/document-routes.js';
import { captureRoutes } from './explain/capture-routes.js';
import { flowRoutes } from './explain/flow-routes.js';
import { traceRoutes } from './explain/trace-routes.js';
import { Feeds } from './feeds/feeds.js';
import { batchRoutes } from './objects/batch-routes.js';
import { linkRoutes } from './objects/link-routes.js';
import { memberRoutes } from './objects/member-routes.js';
import { objectRoutes } from './objects/object-routes.js';
import { overviewRoutes } from './objects/overview-routes.js';
import { tableRoutes } from './objects/table-routes.js';
import { auditing, requireAudit } from './protection/auditing.js';
import { browserGuard } from './protection/browser-guard.js';
import { callerLimit } from './protection/caller-limit.js';
import { securityHeaders } from './protection/security-headers.js';
import type { ApiContext, Locals } from './requests/context.js';
import { failures } from './requests/failures.js';
import { jsonBodies } from './requests/json-body.js';
import { isReading } from './requests/reading.js';
import { statusRoutes } from './status/status-routes.js';
import { supportBundleRoutes } from './status/support-bundle-routes.js';
import { type Caller, LOCAL_ADMIN } from './tenancy/caller.js';
import { NoSuchPathError } from './tenancy/request-errors.js';
import { Scope } from './tenancy/tenancy.js';
import { watchRoutes } from './watch/watch-routes.js';

const BODY_LIMIT = '1mb';
const REQUEST_TIMEOUT_MS = 30_000;
/** Each listens to the request's signal, and Node.js takes more than ten listeners for a leak. */
const READS_AT_ONCE = 200;
const LISTENERS_OF_AN_ANSWER = 20;
/** With the time for which tokens are remembered less than five seconds. */
const AUTHENTICATE_AGAIN_MS = 1500;

/** The REST API as a request handler: who, what, and errors in one form. */
export function createApp(context: ApiContext): Express {
  const feeds = new Feeds(context.repository, context.log, context.feedLimits, context.streamCounts);
  context.closing?.addEventListener('abort', () => feeds.close(), { once: true });
  const app = express();
  app.disable('x-powered-by');
  app.set('query parser', 'simple');
  // Objects have tags of their own.
  app.set('etag', false);
  app.use(securityHeaders());
  app.use(documentRoutes());
  app.use(signals());
  const { audit, isLocalOnly = false, requestsPerSecond } = context;
  if (audit !== undefined) app.use(auditing(audit));
  app.use(browserGuard(isLocalOnly));
  app.use(authentication(context));
  if (requestsPerSecond !== undefined) app.use(callerLimit(requestsPerSecond, context.closing));
  app.use(readersOnlyRead());
  if (audit !== undefined) app.use(requireAudit(audit));
  app.use(jsonBodies(BODY_LIMIT));
  app.use('/v1', accessTokenRoutes(new AccessTokens(context.repository.store)));
  app.use('/v1', overviewRoutes());
  app.use('/v1', batchRoutes());
  app.use('/v1', watchRoutes(context, feeds));
  app.use('/v1', memberRoutes());
  app.use('/v1', tableRoutes());
  app.use('/v1', linkRoutes());
  app.use('/v1', objectRoutes());
  app.use('/v1', traceRoutes());
  app.use('/v1', statusRoutes(context));
  app.use('/v1', flowRoutes(context));
  app.use('/v1', captureRoutes(context));
  app.use('/v1', supportBundleRoutes(context));
  app.use(({ path }) => {
    throw new NoSuchPathError(path);
  });
  app.use(failures(context.log));
  return app;
}

function signals(): RequestHandler {
  return (_request, response, next) => {
    response.locals.signal = endOf(response, REQUEST_TIMEOUT_MS);
    setMaxListeners(READS_AT_ONCE, response.locals.signal);
    // Each layer waits for the end of the answer, and a pipeline into it several times over: more than Node.js takes for sound.
    response.setMaxListeners(LISTENERS_OF_AN_ANSWER);
    next();
  };
}

function authentication({ authenticate, repository }: ApiContext): RequestHandler {
  return async (request, response, next) => {
    const caller = authenticate === undefined ? LOCAL_ADMIN : await authenticate(request, response);
    response.locals.caller = caller;
    response.locals.scope = new Scope(repository, caller, response.locals.signal);
    if (authenticate !== undefined) endWhenRefused(response, caller, () => authenticate(request, response));
    next();
  };
}

function readersOnlyRead(): RequestHandler {
  return (request, response, next) => {
    if (!isReading(request)) (response.locals as Locals).scope.requireWriter();
    next();
  };
}

/** Cuts an answer that goes on and on when its caller may not have it any more: the token is deleted, the certificate expired. */
function endWhenRefused(response: express.Response, caller: Caller, authenticate: () => Promise<Caller>): void {
  const timer = setInterval(() => {
    authenticate().then(
      (now) => {
        if (!isDeepStrictEqual(now, caller)) response.destroy();
      },
      (error: unknown) => {
        // Of an error that says nothing of the caller the answer need not suffer.
        if (REFUSALS.some((refusal) => error instanceof refusal)) response.destroy();
      },
    );
  }, AUTHENTICATE_AGAIN_MS);
  timer.unref();
  response.once('close', () => clearInterval(timer));
}

const REFUSALS = [UnauthenticatedError, NoRoleError, TooManyRequestsError];
