import type { ErrorRequestHandler } from 'express';
import type { Logger } from 'pino';
import { TooManyRequestsError } from '../authentication/errors.js';
import { TooManyAtOnceError } from '../tenancy/caller-places.js';
import { PROBLEM_TYPE, problemOf } from './problem.js';

/** A place is free when the caller ends one of theirs: nobody knows when, so this is how often asking for one makes sense. */
const PLACE_RETRY_SECONDS = 10;

/** Answers with what went wrong, as a problem document. An answer that is under way can only be cut short. */
export function failures(log: Logger): ErrorRequestHandler {
  // Express tells a handler of errors by its four parameters.
  return (error: unknown, { path }, response, _next) => {
    if (response.headersSent) {
      // A client that has gone misses nothing.
      if (!response.closed) log.error({ error: traceOf(error), path }, 'an answer was cut short');
      response.destroy();
      return;
    }
    const problem = problemOf(error);
    if (problem.status === 500) log.error({ error: traceOf(error), path }, 'request failed');
    // Of an answer that was being made.
    response.removeHeader('ETag');
    response.locals.code = problem.code;
    if (error instanceof TooManyRequestsError) response.locals.isUnrecorded = error.isRepeated;
    if (error instanceof TooManyAtOnceError) response.set('Retry-After', String(PLACE_RETRY_SECONDS));
    if (problem.status === 401) response.set('WWW-Authenticate', 'Bearer realm="midonet"');
    response.status(problem.status).type(PROBLEM_TYPE).json(problem);
  };
}

/** Where the error comes from, and where those that caused it do. */
function traceOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? String(error.stack) : `${error.stack}\ncaused by ${traceOf(error.cause)}`;
}
