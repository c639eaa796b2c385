import { MidonetError } from '../../errors.js';

/** Nobody has said who makes the request, or what was said is not so. The message does not tell which part of it is wrong. */
export class UnauthenticatedError extends MidonetError {
  constructor(reason: string) {
    super('MN_UNAUTHENTICATED', reason);
  }
}

/** It is known who makes the request, but they have no role here. */
export class NoRoleError extends MidonetError {
  constructor(readonly caller: string) {
    super('MN_FORBIDDEN', `${caller} has no role here: see api.roles in docs/security.md`);
  }
}

/** Whoever could say who makes the request does not answer. */
export class AuthenticationUnavailableError extends MidonetError {
  constructor(reason: string, options?: ErrorOptions) {
    super('MN_AUTHENTICATION_UNAVAILABLE', reason, options);
  }
}

/** Too many requests of one caller, or too many failed ones of one address. */
export class TooManyRequestsError extends MidonetError {
  constructor(
    reason: string,
    /** Not the first one refused in its window of time. */
    readonly isRepeated: boolean,
  ) {
    super('MN_TOO_MANY_REQUESTS', reason);
  }
}
