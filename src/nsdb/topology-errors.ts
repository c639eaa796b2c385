import { MidonetError } from '../errors.js';
import type { Kind } from '../topology/types.js';

/** An object that is referred to, or asked for, does not exist. */
export class ObjectNotFoundError extends MidonetError {
  constructor(
    readonly kind: Kind,
    readonly id: string,
    /** The field that names it, such as `port.bridgeId`. */
    readonly field?: string,
  ) {
    super('MN_NOT_FOUND', field === undefined ? `no ${kind} ${id}` : `${field}: no ${kind} ${id}`);
  }
}

/** The object, or a value that must be unique, exists already. */
export class ObjectExistsError extends MidonetError {
  constructor(
    readonly field: string,
    readonly value: string,
  ) {
    super('MN_ALREADY_EXISTS', `${field}: ${value} exists already`);
  }
}

/** The object cannot be deleted while it is in use. */
export class ObjectInUseError extends MidonetError {
  constructor(kind: Kind, id: string, reason: string) {
    super('MN_REFERENCED', `${kind} ${id}: ${reason}`);
  }
}

/** An object cannot be deleted because of a reference: one that names it, or one that it holds itself. */
export class ObjectReferencedError extends MidonetError {
  constructor(
    readonly kind: Kind,
    readonly id: string,
    readonly otherKind: Kind,
    readonly otherId: string,
    /** The field, with the kind that holds it. */
    readonly field: string,
  ) {
    super('MN_REFERENCED', `${kind} ${id} cannot be deleted: ${field} joins it and ${otherKind} ${otherId}`);
  }
}

/** An object may be named by one other only, and is. */
export class ReferenceConflictError extends MidonetError {
  constructor(
    /** The field that should name it, with the kind that holds it. */
    readonly field: string,
    readonly kind: Kind,
    readonly id: string,
    /** Who names it, where that is known. */
    readonly holderId: string | undefined,
  ) {
    super('MN_CONFLICT', `${field}: ${kind} ${id} belongs to ${holderId ?? 'another object'} already`);
  }
}

/** An object is not as it was when it was read. */
export class ObjectConflictError extends MidonetError {
  constructor(
    readonly kind: Kind,
    readonly id: string,
  ) {
    super('MN_CONFLICT', `${kind} ${id} was changed by somebody else since it was read`);
  }
}

/** A transaction does not fit into one request of the store. */
export class TransactionTooLargeError extends MidonetError {
  constructor(
    readonly operations: number,
    readonly bytes: number,
    limits: string,
  ) {
    super('MN_TOO_LARGE', `transaction: expected ${limits}, got ${operations} operations of ${bytes} bytes`);
  }
}
