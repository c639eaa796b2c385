import { MidonetError } from '../../errors.js';
import type { Kind } from '../../topology/types.js';

/** The object is in another version than the request was made for, or is there when it should not be. */
export class PreconditionFailedError extends MidonetError {
  constructor(
    readonly kind: Kind,
    readonly id: string,
    readonly reason: string,
    /** What named the version, where that is not a header. */
    readonly field?: string,
  ) {
    super('MN_PRECONDITION_FAILED', `${field === undefined ? '' : `${field}: `}${kind} ${id}: ${reason}`);
  }
}

/** Whoever makes the request may not do that. */
export class ForbiddenError extends MidonetError {
  constructor(
    readonly reason: string,
    /** The field that they may not set. */
    readonly field?: string,
  ) {
    super('MN_FORBIDDEN', field === undefined ? reason : `${field}: ${reason}`);
  }
}

/** There is nothing at the path. */
export class NoSuchPathError extends MidonetError {
  constructor(path: string) {
    super('MN_NOT_FOUND', `there is nothing at ${path}; /v1 lists what there is`);
  }
}

/** There is no entry or member of the name. */
export class NoSuchEntryError extends MidonetError {
  constructor(what: string, name: string) {
    super('MN_NOT_FOUND', `no ${what} ${name}`);
  }
}

/** What is at the path cannot be dealt with by the method. */
export class MethodNotAllowedError extends MidonetError {
  constructor(
    method: string,
    path: string,
    readonly allowed: readonly string[],
  ) {
    super('MN_UNSUPPORTED', `${method} ${path}: expected ${allowed.join(', ')}`);
  }
}

/** The body is not in a form that is read here. */
export class MediaTypeError extends MidonetError {
  constructor(type: string | undefined, expected: readonly string[]) {
    super('MN_UNSUPPORTED', `content-type: expected ${expected.join(' or ')}, got ${type ?? 'none'}`);
  }
}

/** What is in the store cannot be read by this program. */
export class UnreadableObjectError extends MidonetError {
  constructor(kind: Kind, id: string, cause: unknown) {
    super('MN_STORE_CORRUPT', `${kind} ${id} cannot be read; \`midonet nsdb fsck\` tells why`, { cause });
  }
}

/** An entry of a table follows from an object: it cannot be changed by itself. */
export class DerivedEntryError extends MidonetError {
  constructor(what: string, name: string, kind: Kind, id: string) {
    super('MN_CONFLICT', `${what} ${name} follows from ${kind} ${id}; change that instead`);
  }
}

/** An entry of a table is as the hosts that learned it say, for as long as they do. */
export class LearnedEntryError extends MidonetError {
  constructor(what: string, name: string) {
    super('MN_CONFLICT', `${what} ${name} was learned; it goes when the host that learned it takes it back`);
  }
}

/** The change was made, and then the NSDB could not be asked what things are like with it. */
export class UnseenChangeError extends MidonetError {
  constructor(done: string, cause: Error) {
    super('MN_STORE_UNAVAILABLE', `${done}, but cannot be read now: ${cause.message}`, { cause });
  }
}
