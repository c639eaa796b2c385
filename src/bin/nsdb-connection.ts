import { readFileSync, statSync } from 'node:fs';
import { InvalidInputError } from '../errors.js';
import type { Credentials, Tls } from '../nsdb/store.js';
import type { ZookeeperStoreOptions } from '../nsdb/zookeeper/client.js';
import type { Config } from './config.js';

/**
 * How a client reaches the NSDB and shows who it is.
 * @throws InvalidInputError naming the field, for a file that cannot be used
 */
export function nsdbConnection(
  nsdb: Config['nsdb'],
): Pick<ZookeeperStoreOptions, 'connect' | 'sessionTimeout' | 'credentials' | 'tls'> {
  return {
    connect: nsdb.connect,
    sessionTimeout: nsdb.sessionTimeout,
    credentials: readCredentials(nsdb),
    tls: readTls(nsdb),
  };
}

/**
 * User and password; undefined without a password file, or with `authentication: off`.
 * @throws InvalidInputError
 */
export function readCredentials(nsdb: Config['nsdb']): Credentials | undefined {
  if (nsdb.authentication === 'off' || nsdb.passwordFile === undefined) return undefined;
  return { user: nsdb.user, password: readPassword('config.nsdb.passwordFile', nsdb.passwordFile) };
}

/**
 * The password in a file.
 * @throws InvalidInputError naming the field
 */
export function readPassword(field: string, path: string): string {
  // Editors and shells end a file with a line feed.
  const password = readSecret(field, path).replace(/\r?\n$/, '');
  if (password === '') throw new InvalidInputError(field, path, 'expected a file with a password in it');
  return password;
}

/**
 * The authority, certificate and key of this end; undefined without `nsdb.tls`.
 * @throws InvalidInputError
 */
export function readTls(nsdb: Config['nsdb']): Tls | undefined {
  if (nsdb.tls === undefined) return undefined;
  const { ca, certificate, key } = nsdb.tls;
  if ((certificate === undefined) !== (key === undefined)) {
    const missing = key === undefined ? 'key' : 'certificate';
    throw new InvalidInputError(
      `config.nsdb.tls.${missing}`,
      undefined,
      'expected a file: certificate and key go together',
    );
  }
  return {
    ca: ca === undefined ? undefined : readPem('config.nsdb.tls.ca', ca),
    certificate: certificate === undefined ? undefined : readPem('config.nsdb.tls.certificate', certificate),
    key: key === undefined ? undefined : readPem('config.nsdb.tls.key', key, readSecret),
  };
}

/** @throws InvalidInputError also for an empty file, of which OpenSSL would say nothing or not what it is */
export function readPem(field: string, path: string, read: typeof readFile = readFile): string {
  const text = read(field, path);
  if (text.trim() === '') throw new InvalidInputError(field, path, 'expected a PEM file, and it is empty');
  return text;
}

const OTHERS = 0o007;

/** @throws InvalidInputError also for a file that every user of the host may read or change */
export function readSecret(field: string, path: string): string {
  const text = readFile(field, path);
  const { mode } = statSync(path);
  if ((mode & OTHERS) !== 0) {
    throw new InvalidInputError(
      field,
      path,
      `expected a file that only its owner and group may use (chmod 600 ${path})`,
    );
  }
  return text;
}

/** @throws InvalidInputError naming the field */
export function readFile(field: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new InvalidInputError(field, path, `expected a file that can be read (${(error as Error).message})`);
  }
}
