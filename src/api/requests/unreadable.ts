import { InvalidInputError, UnsupportedError } from '../../errors.js';
import { UnreadableObjectError } from '../tenancy/request-errors.js';

/** For reading objects where one that is not valid, or was written by a newer program, is as good as none. */
export function unlessUnreadable(error: unknown): undefined {
  const isUnreadable = [InvalidInputError, UnsupportedError, UnreadableObjectError].some((one) => error instanceof one);
  if (!isUnreadable) throw error;
}
