import { type ErrorCode, InvalidInputError, MidonetError } from '../errors.js';

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
  MN_STORE_UNAVAILABLE: 503,
  MN_AGENT_UNAVAILABLE: 503,
  MN_STORE_FROZEN: 503,
  MN_STORE_FULL: 507,
  MN_QUOTA_EXCEEDED: 507,
  MN_TIMEOUT: 504,
};

/** What the client is told of an error; of one that is nobody's to know, no more than that there was one. */
export function problemOf(error: unknown): Problem {
  if (!(error instanceof MidonetError)) return problem(500, 'MN_INTERNAL', 'the request could not be carried out');
  const status = STATUS[error.code] ?? 500;
  const fault = error instanceof InvalidInputError ? { field: error.field, value: error.value } : fieldOf(error);
  return { ...problem(status, error.code, error.message), ...fault };
}

function problem(status: number, code: ErrorCode, detail: string): Problem {
  return { type: `urn:midonet:error:${code}`, title: TITLES[status] ?? 'Error', status, detail, code };
}

function fieldOf(error: MidonetError): { field?: string } {
  return 'field' in error && typeof error.field === 'string' ? { field: error.field } : {};
}

const TITLES: Readonly<Record<number, string>> = {
  400: 'Bad request',
  401: 'Not authenticated',
  403: 'Not allowed',
  404: 'Not found',
  409: 'Conflict',
  412: 'Precondition failed',
  413: 'Too large',
  415: 'Unsupported media type',
  428: 'Precondition required',
  429: 'Too many requests',
  500: 'Internal error',
  503: 'Unavailable',
  504: 'Timeout',
  507: 'Insufficient storage',
};
