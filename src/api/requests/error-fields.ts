import type { z } from 'zod';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { ObjectExistsError, ObjectNotFoundError, ReferenceConflictError } from '../../nsdb/topology-errors.js';
import { validate } from '../../topology/validate.js';
import { ForbiddenError, PreconditionFailedError } from '../tenancy/request-errors.js';

/** Errors of the layers below name a field with the kind of object that has it, as in `port.mac`. In a body it is `mac`. */

/**
 * The error as one of a request: its field is named as in the body.
 * @param kind what the field's name begins with
 * @param body what the body is called, such as `operations[3].body`; undefined where it is all of the request
 */
export function inBody(error: unknown, kind: string, body: string | undefined): unknown {
  if (!(error instanceof MidonetError)) return error;
  const field = fieldOf(error);
  if (field === undefined) return error;
  if (field === kind) return renamed(error, body ?? 'body');
  if (!field.startsWith(`${kind}.`)) return error;
  const own = field.slice(kind.length + 1);
  return renamed(error, body === undefined ? own : `${body}.${own}`);
}

/**
 * The same for one of several operations in a body, such as `operations[3]`: an error that is about no field of an object names
 * that. For an operation that is all of the request it is undefined.
 */
export function inOperation(error: unknown, kind: string, operation: string | undefined): unknown {
  if (operation === undefined || !(error instanceof MidonetError)) return inBody(error, kind, undefined);
  if (fieldOf(error) !== undefined) return inBody(error, kind, `${operation}.body`);
  if (error instanceof ObjectNotFoundError) return renamed(error, `${operation}.id`);
  if (error instanceof PreconditionFailedError) return renamed(error, `${operation}.ifMatch`);
  return renamed(error, operation);
}

/** A body that is no object of the topology. @throws InvalidInputError naming the field as in the body */
export function validateBody<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  try {
    return validate(schema, body, 'body');
  } catch (error) {
    throw inBody(error, 'body', undefined);
  }
}

/** The field that the error is about, if it is about one. */
export function fieldOf(error: MidonetError): string | undefined {
  return 'field' in error && typeof error.field === 'string' ? error.field : undefined;
}

/** What the field holds that the error is about; undefined when the error does not tell. */
export function faultyValue(error: MidonetError): unknown {
  if (error instanceof InvalidInputError || error instanceof ObjectExistsError) return error.value;
  return error instanceof ObjectNotFoundError || error instanceof ReferenceConflictError ? error.id : undefined;
}

function renamed(error: MidonetError, field: string): MidonetError {
  if (error instanceof InvalidInputError) return new InvalidInputError(field, error.value, error.expected);
  if (error instanceof ObjectNotFoundError) return new ObjectNotFoundError(error.kind, error.id, field);
  if (error instanceof ObjectExistsError) return new ObjectExistsError(field, error.value);
  if (error instanceof ForbiddenError) return new ForbiddenError(error.reason, field);
  if (error instanceof PreconditionFailedError) {
    return new PreconditionFailedError(error.kind, error.id, error.reason, field);
  }
  if (error instanceof ReferenceConflictError) {
    return new ReferenceConflictError(field, error.kind, error.id, error.holderId);
  }
  return error;
}
