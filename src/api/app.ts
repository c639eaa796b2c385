import express, { type ErrorRequestHandler, type Express, type RequestHandler } from 'express';
import type { Logger } from 'pino';
import type { TopologyRepository } from '../nsdb/repository/topology-repository.js';
import { batchRoutes } from './batch-routes.js';
import { type Caller, LOCAL_ADMIN } from './caller.js';
import { jsonBodies } from './json-body.js';
import { objectRoutes } from './object-routes.js';
import { PROBLEM_TYPE, problemOf } from './problem.js';
import { NoSuchPathError } from './request-errors.js';
import { Scope } from './tenancy.js';
import { traceRoutes } from './trace-routes.js';

/** What the API works with. */
export interface ApiContext {
  readonly repository: TopologyRepository;
  readonly log: Logger;
  /** Finds out who makes a request, and rejects whoever may not make any; every request is an admin's when absent. */
  readonly authenticate?: (request: express.Request) => Promise<Caller>;
  /** Aborted when the server closes: answers that go on and on must end then. */
  readonly closing?: AbortSignal;
}

/** What middleware leaves for those behind it, in `response.locals`. */
export interface Locals {
  caller: Caller;
  /** What the caller may see and change. */
  scope: Scope;
  /** Ends when the client goes away, or the request has taken too long. */
  signal: AbortSignal;
}

const BODY_LIMIT = '1mb';
const REQUEST_TIMEOUT_MS = 30_000;

/** The REST API as a request handler: who, what, and errors in one form. */
export function createApp(context: ApiContext): Express {
  const app = express();
  app.disable('x-powered-by');
  app.set('query parser', 'simple');
  // Objects have tags of their own.
  app.set('etag', false);
  app.use(signals());
  app.use(authentication(context));
  app.use(readersOnlyRead());
  app.use(jsonBodies(BODY_LIMIT));
  app.use('/v1', batchRoutes());
  app.use('/v1', objectRoutes());
  app.use('/v1', traceRoutes(context));
  app.use(({ path }) => {
    throw new NoSuchPathError(path);
  });
  app.use(failures(context));
  return app;
}

function signals(): RequestHandler {
  return (_request, response, next) => {
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    response.locals.signal = AbortSignal.any([gone.signal, AbortSignal.timeout(REQUEST_TIMEOUT_MS)]);
    next();
  };
}

function authentication({ authenticate, repository }: ApiContext): RequestHandler {
  return async (request, response, next) => {
    const caller = authenticate === undefined ? LOCAL_ADMIN : await authenticate(request);
    response.locals.caller = caller;
    response.locals.scope = new Scope(repository, caller, response.locals.signal);
    next();
  };
}

/** What others than GET a reader may ask for: it changes nothing. */
const READING: ReadonlySet<string> = new Set(['/v1/trace']);

function readersOnlyRead(): RequestHandler {
  return ({ method, path }, response, next) => {
    const isReading = ['GET', 'HEAD', 'OPTIONS'].includes(method) || READING.has(path);
    if (!isReading) (response.locals as Locals).scope.requireWriter();
    next();
  };
}

function failures({ log }: ApiContext): ErrorRequestHandler {
  return (error: unknown, request, response, next) => {
    // The answer is under way: all that can be said is that it is cut short.
    if (response.headersSent) return next(error);
    const problem = problemOf(error);
    if (problem.code === 'MN_INTERNAL') {
      log.error({ error: error instanceof Error ? error.stack : String(error), path: request.path }, 'request failed');
    }
    // Of an answer that was being made.
    response.removeHeader('ETag');
    response.status(problem.status).type(PROBLEM_TYPE).json(problem);
  };
}
