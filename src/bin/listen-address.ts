import { BlockList, createServer, isIPv4, isIPv6 } from 'node:net';
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

/**
 * See that one can listen there, so that what is only listened on at the end of a start does not fail it then.
 * @throws InvalidInputError naming the field
 */
export async function requireFreeAddress(field: string, host: string, port: number): Promise<void> {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  }).catch(namingAddress(field, `${host}:${port}`));
  await new Promise<void>((resolve) => server.close(() => resolve()));
}

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/** Whether other machines can reach the address. */
export function isBeyondHost(listen: { host: string; port: number } | { path: string }): boolean {
  if ('path' in listen || listen.host === 'localhost') return false;
  if (isIPv4(listen.host)) return !loopback.check(listen.host, 'ipv4');
  return !isIPv6(listen.host) || !loopback.check(listen.host, 'ipv6');
}
