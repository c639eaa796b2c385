import { InvalidInputError } from '../errors.js';
import type { EmbeddedServerOptions } from '../nsdb/embedded/server.js';
import { type Config, parseListen } from './config.js';
import { isBeyondHost } from './listen-address.js';
import { readCredentials, readTls } from './nsdb-connection.js';

/**
 * Where the embedded server listens, and whom it takes: only those with the password where there is one, and beyond this
 * host there must be one unless authentication is off.
 * @throws InvalidInputError naming the field
 */
export function nsdbListener(nsdb: Config['nsdb']): Pick<EmbeddedServerOptions, 'listen' | 'credentials' | 'tls'> {
  const listen = parseListen('config.nsdb.listen', nsdb.listen);
  const credentials = readCredentials(nsdb);
  const isDemanded = nsdb.authentication === 'required' || (nsdb.authentication === undefined && isBeyondHost(listen));
  if (credentials === undefined && isDemanded) {
    throw new InvalidInputError(
      'config.nsdb.passwordFile',
      nsdb.passwordFile,
      `expected a file with a password, as the NSDB is to listen on ${nsdb.listen}. Make one, the same for all hosts, ` +
        'with (umask 077; head -c 24 /dev/urandom | base64 > FILE), ' +
        'or set nsdb.authentication to off if everybody who reaches that address may change everything',
    );
  }
  const tls = readTls(nsdb);
  if (tls !== undefined && 'path' in listen) {
    throw new InvalidInputError('config.nsdb.tls', nsdb.listen, 'expected none: a Unix socket is not encrypted');
  }
  return { listen, credentials, tls };
}
