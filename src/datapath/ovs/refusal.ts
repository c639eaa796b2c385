import { MidonetError } from '../../errors.js';
import { DatapathError, type DatapathErrorKind } from '../errors.js';
import { NetlinkError } from '../netlink/errors.js';

/** Linux error numbers (asm-generic/errno.h) that a caller of the datapath has a use for. */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  E2BIG: 7,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  EFBIG: 27,
  ENOSPC: 28,
  ERANGE: 34,
  EOVERFLOW: 75,
  EMSGSIZE: 90,
  EOPNOTSUPP: 95,
  ENOTSUPP: 524,
} as const;

const KINDS = new Map<number, DatapathErrorKind>([
  [Errno.EPERM, 'denied'],
  [Errno.EACCES, 'denied'],
  [Errno.ENOENT, 'not-found'],
  [Errno.ENODEV, 'not-found'],
  [Errno.EBUSY, 'busy'],
  [Errno.EEXIST, 'exists'],
  [Errno.EINVAL, 'invalid'],
  [Errno.ERANGE, 'invalid'],
  [Errno.E2BIG, 'too-large'],
  [Errno.EFBIG, 'too-large'],
  [Errno.ENOSPC, 'too-large'],
  [Errno.EOVERFLOW, 'too-large'],
  [Errno.EMSGSIZE, 'too-large'],
  [Errno.EOPNOTSUPP, 'unsupported'],
  [Errno.ENOTSUPP, 'unsupported'],
]);

/** What a refusal of the kernel means to a caller of the datapath. Other errors pass as they are. */
export function toDatapathError(error: MidonetError, explanation = ''): MidonetError {
  if (!(error instanceof NetlinkError)) {
    return error;
  }
  const message = explanation === '' ? error.message : `${error.message}: ${explanation}`;
  return new DatapathError(KINDS.get(error.errno) ?? 'failed', message, { cause: error });
}

export function hasErrno(error: unknown, ...numbers: number[]): error is NetlinkError {
  return error instanceof NetlinkError && numbers.includes(error.errno);
}

/** Errors of a request as those of the datapath. */
export async function refusalOf<T>(result: Promise<T>): Promise<T> {
  try {
    return await result;
  } catch (error) {
    throw error instanceof MidonetError ? toDatapathError(error) : error;
  }
}
