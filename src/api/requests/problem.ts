import { type ErrorCode, MidonetError } from '../../errors.js';
import { ACCESS_TOKENS_PATH, ROOT_FOLDERS } from '../../nsdb/layout.js';
import { ObjectNotFoundError } from '../../nsdb/topology-errors.js';
import { MediaTypeError, MethodNotAllowedError } from '../tenancy/request-errors.js';
import { faultyValue, fieldOf } from './error-fields.js';

/** Errors as a client sees them: RFC 9457, with the code of the error and, where one is at fault, the field and its value. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: ErrorCode;
  readonly field?: string;
  readonly value?: unknown;
}

export const PROBLEM_TYPE = 'application/problem+json';

/** The status of an answer, where it is not 500: something here went wrong. */
const STATUS: Readonly<Partial<Record<ErrorCode, number>>> = {
  MN_INVALID_INPUT: 400,
  MN_UNSUPPORTED: 400,
  MN_NOT_FOUND: 404,
  MN_ALREADY_EXISTS: 409,
  MN_CONFLICT: 409,
  MN_REFERENCED: 409,
  MN_UNAUTHENTICATED: 401,
  MN_FORBIDDEN: 403,
  MN_PRECONDITION_FAILED: 412,
  MN_TOO_LARGE: 413,
  MN_TOO_MANY_REQUESTS: 429,
  MN_AUTHENTICATION_UNAVAILABLE: 503,
  MN_AUDIT_FAILED: 503,
  MN_STORE_UNAVAILABLE: 503,
  MN_AGENT_UNAVAILABLE: 503,
  MN_STORE_FROZEN: 503,
  MN_SESSION_EXPIRED: 503,
  MN_CLOSED: 503,
  MN_STORE_FULL: 507,
  MN_QUOTA_EXCEEDED: 507,
  MN_TIMEOUT: 504,
};

/** What the client is told of an error; of one that is nobody's to know, no more than that there was one. */
export function problemOf(error: unknown): Problem {
  if (!(error instanceof MidonetError)) return foreignProblem(error);
  if (isStoredFault(error)) return problem(500, 'MN_STORE_CORRUPT', STORED_FAULT);
  const status = statusOf(error);
  const detail = shortened(error.message, MAX_DETAIL);
  return { ...problem(status, error.code, detail), ...faultOf(error) };
}

const STORED_FAULT = 'something that is needed cannot be read from the NSDB; `midonet nsdb fsck` tells what';

/**
 * Whether it is not the request that is wrong, but what is in the store: such errors begin with a path there. A slash alone
 * does not make one: clients may call their fields and parameters what they like.
 */
function isStoredFault({ code, message }: MidonetError): boolean {
  if (code !== 'MN_INVALID_INPUT' && code !== 'MN_UNSUPPORTED') return false;
  return message.startsWith('/') && STORED.some((folder) => message.startsWith(folder));
}

const STORED = [...ROOT_FOLDERS, ACCESS_TOKENS_PATH].map((folder) => `${folder}/`);

function statusOf(error: MidonetError): number {
  if (error instanceof MethodNotAllowedError) return 405;
  if (error instanceof MediaTypeError) return 415;
  // A body names it, not the path.
  if (error instanceof ObjectNotFoundError && error.field !== undefined) return 400;
  return STATUS[error.code] ?? 500;
}

/** Errors of Express, of its parsers (which have a status) and of signals. */
function foreignProblem(error: unknown): Problem {
  if (isGivenUp(error)) {
    return problem(504, 'MN_TIMEOUT', 'the request was not carried out in the time allowed; some of it may be');
  }
  const status = error instanceof Error && 'status' in error ? error.status : undefined;
  const isClients = typeof status === 'number' && status >= 400 && status < 500;
  if (!isClients) return problem(500, 'MN_INTERNAL', 'the request could not be carried out');
  const { message } = error as Error;
  if (status === 413) return problem(413, 'MN_TOO_LARGE', message);
  if (status === 415) return problem(415, 'MN_UNSUPPORTED', message);
  const isBody = 'type' in (error as Error) && (error as { type?: unknown }).type === 'entity.parse.failed';
  const detail = shortened(isBody ? `body: expected JSON: ${message}` : message, MAX_DETAIL);
  return { ...problem(400, 'MN_INVALID_INPUT', detail), ...(isBody && { field: 'body' }) };
}

/** Whether a signal has ended the request: it took too long, or the client did not wait. */
function isGivenUp(error: unknown): boolean {
  return error instanceof Error && (error.name === 'TimeoutError' || error.name === 'AbortError');
}

function problem(status: number, code: ErrorCode, detail: string): Problem {
  return { type: `urn:midonet:error:${code}`, title: TITLES[status] ?? 'Error', status, detail, code };
}

/** Characters that an answer repeats of what a client has sent. */
const MAX_DETAIL = 1000;
const MAX_VALUE = 200;

function faultOf(error: MidonetError): { field?: string; value?: unknown } {
  const field = fieldOf(error);
  if (field === undefined) return {};
  const value = faultyValue(error);
  const text = JSON.stringify(value);
  const isLong = text !== undefined && text.length > MAX_VALUE;
  return {
    field: shortened(field, MAX_VALUE),
    ...(value !== undefined && { value: isLong ? shortened(text, MAX_VALUE) : value }),
  };
}

function shortened(text: string, length: number): string {
  return text.length > length ? `${text.slice(0, length)}…` : text;
}

const TITLES: Readonly<Record<number, string>> = {
  400: 'Bad request',
  401: 'Not authenticated',
  403: 'Not allowed',
  404: 'Not found',
  405: 'Method not allowed',
  409: 'Conflict',
  412: 'Precondition failed',
  413: 'Too large',
  415: 'Unsupported media type',
  429: 'Too many requests',
  500: 'Internal error',
  503: 'Unavailable',
  504: 'Timeout',
  507: 'Insufficient storage',
};
