import type { Request, RequestHandler, Response } from 'express';
import { COLLECTIONS } from '../description/resources.js';
import { AuditError, type AuditLog } from '../requests/audit-log.js';
import type { Locals } from '../requests/context.js';
import { PROBLEM_TYPE, problemOf } from '../requests/problem.js';
import { isReading } from '../requests/reading.js';

const REFUSALS: ReadonlySet<number> = new Set([401, 403, 429]);
/** By the segment of a path: what has an id. */
const KINDS: ReadonlyMap<string, string> = new Map([...COLLECTIONS, ['access-tokens', 'access-token']]);
const PATH_CHARACTERS = 1000;
/** Refusals of those who did not show who they are that are recorded: nobody shall fill the disk with them. */
const STRANGERS_PER_MINUTE = 600;
const MINUTE_MS = 60_000;

/** Records every change, and every request that is refused, before its answer goes. Stands before whatever answers. */
export function auditing(audit: AuditLog): RequestHandler {
  const strangers = new StrangerLimit();
  return (request, response, next) => {
    const record = recorder(audit, strangers, request, response);
    const end = response.end.bind(response) as (...parameters: unknown[]) => Response;
    response.end = (...parameters: unknown[]) => {
      if (response.headersSent) return end(...parameters);
      try {
        record();
      } catch (error) {
        if (!(error instanceof AuditError)) throw error;
        return end(unrecorded(response, error));
      }
      return end(...parameters);
    };
    // Of an answer whose headers went before its end: a stream.
    response.once('close', () => {
      try {
        if (response.headersSent) record();
      } catch (error) {
        // It shows as a fault of the log.
        if (!(error instanceof AuditError)) throw error;
      }
    });
    next();
  };
}

/** Refuses changes while they cannot be recorded. Stands before whatever makes them. */
export function requireAudit(audit: AuditLog): RequestHandler {
  return (request, _response, next) => {
    if (!isReading(request)) audit.check();
    next();
  };
}

/** Records the request when it is called for the first time. */
function recorder(audit: AuditLog, strangers: StrangerLimit, request: Request, response: Response): () => void {
  const time = new Date();
  const started = performance.now();
  let isRecorded = false;
  return () => {
    if (isRecorded) return;
    isRecorded = true;
    const { caller, changes, isUnrecorded, code } = response.locals as Partial<Locals>;
    const isRefusal = REFUSALS.has(response.statusCode) || code === 'MN_AUDIT_FAILED';
    // Before it is known whose it is nothing is changed.
    const isChange = !isReading(request) && !isRefusal && caller !== undefined;
    if ((!isChange && !isRefusal) || isUnrecorded) return;
    if (caller === undefined && !strangers.admit()) return;
    const path = request.originalUrl.split('?', 1)[0].slice(0, PATH_CHARACTERS);
    audit.record(
      {
        time: time.toISOString(),
        caller: caller?.name,
        role: caller?.role,
        tenantId: caller?.tenantId,
        address: request.socket.remoteAddress,
        method: request.method,
        path,
        status: response.statusCode,
        code,
        ...subjectOf(textOf(response.getHeader('location')) ?? path),
        ifMatch: request.get('if-match'),
        etag: textOf(response.getHeader('etag')),
        changes,
        refusalsLeftOut: caller === undefined ? strangers.takeLeftOut() : undefined,
        milliseconds: Math.round(performance.now() - started),
        isAborted: response.closed && !response.writableFinished ? true : undefined,
      },
      isChange,
    );
  };
}

/** Counts refusals of those who did not show who they are. */
class StrangerLimit {
  private begin = 0;
  private count = 0;
  private leftOut = 0;

  /** Whether another one is to be recorded. */
  admit(): boolean {
    const now = performance.now();
    if (this.count === 0 || now - this.begin >= MINUTE_MS) {
      this.begin = now;
      this.count = 0;
    }
    if (++this.count <= STRANGERS_PER_MINUTE) return true;
    this.leftOut++;
    return false;
  }

  /** How many were not recorded since this was asked last; undefined for none. */
  takeLeftOut(): number | undefined {
    const { leftOut } = this;
    this.leftOut = 0;
    return leftOut === 0 ? undefined : leftOut;
  }
}

/** Kind and id of the last object that a path names. */
function subjectOf(path: string): { kind?: string; id?: string } {
  const segments = path.split('/').filter((segment) => segment !== '');
  const at = segments.findLastIndex((segment) => KINDS.has(segment));
  return at < 0 ? {} : { kind: KINDS.get(segments[at]), id: segments[at + 1] };
}

function textOf(header: number | string | string[] | undefined): string | undefined {
  return typeof header === 'string' ? header : undefined;
}

/** What the answer becomes: the change may have been made, and is recorded as soon as that is possible. */
function unrecorded(response: Response, error: AuditError): string {
  for (const name of ['etag', 'location', 'content-encoding', 'content-length']) response.removeHeader(name);
  const problem = problemOf(error);
  const detail = `${error.message}. What was asked for may have been done`;
  response.status(problem.status).type(PROBLEM_TYPE);
  return JSON.stringify({ ...problem, detail });
}
