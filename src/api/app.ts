import express, { type ErrorRequestHandler, type Express, type RequestHandler } from 'express';
import type { Logger } from 'pino';
import { MidonetError } from '../errors.js';
import type { TopologyRepository } from '../nsdb/repository/topology-repository.js';
import { type Caller, LOCAL_ADMIN } from './caller.js';
import { objectRoutes } from './object-routes.js';
import { PROBLEM_TYPE, problemOf } from './problem.js';
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
  app.use(signals());
  app.use(authentication(context));
  app.use(express.json({ limit: BODY_LIMIT, strict: false }));
  app.use('/v1', objectRoutes(context));
  app.use('/v1', traceRoutes(context));
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

function authentication({ authenticate }: ApiContext): RequestHandler {
  return async (request, response, next) => {
    response.locals.caller = authenticate === undefined ? LOCAL_ADMIN : await authenticate(request);
    next();
  };
}

function failures({ log }: ApiContext): ErrorRequestHandler {
  return (error: unknown, request, response, next) => {
    // The answer is under way: all that can be said is that it is cut short.
    if (response.headersSent) return next(error);
    const problem = problemOf(error);
    if (problem.status >= 500 && !(error instanceof MidonetError)) {
      log.error({ error: error instanceof Error ? error.stack : String(error), path: request.path }, 'request failed');
    }
    response.status(problem.status).type(PROBLEM_TYPE).json(problem);
  };
}
