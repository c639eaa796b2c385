import { InvalidInputError, UnsupportedError } from '../errors.js';

/** For reading objects where one that is not valid, or was written by a newer program, is as good as none. */
export function unlessUnreadable(error: unknown): undefined {
  if (!(error instanceof InvalidInputError || error instanceof UnsupportedError)) throw error;
}
