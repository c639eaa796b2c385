import { InvalidInputError } from '../errors.js';

/** What the system says to an address that cannot be listened on (listen and bind of POSIX). */
const REASONS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'an address that nobody else listens on',
  EADDRNOTAVAIL: 'an address of this host',
  ENOTFOUND: 'an address of this host',
  EACCES: 'an address that this process may listen on',
  ENOENT: 'a socket in a folder that exists',
};

/** For `catch`: turns what listening on `address` failed with into an error that names the field. */
export function namingAddress(field: string, address: string): (error: NodeJS.ErrnoException) => never {
  return (error) => {
    const reason = error.syscall === undefined ? undefined : REASONS[error.code ?? ''];
    throw reason === undefined ? error : new InvalidInputError(field, address, `expected ${reason}`);
  };
}
