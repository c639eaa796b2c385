import { createPrivateKey, X509Certificate } from 'node:crypto';
import type { ServerTls } from '../api/server.js';
import { type Caller, LOCAL_ADMIN } from '../api/tenancy/caller.js';
import { InvalidInputError } from '../errors.js';
import { secureContextOf } from '../nsdb/protocol/tls.js';
import { type Config, parseListen } from './config.js';
import { isBeyondHost } from './listen-address.js';
import { readPassword, readPem, readSecret } from './nsdb-connection.js';

export interface ApiSettings {
  readonly listen: ReturnType<typeof parseListen>;
  readonly tls: ServerTls | undefined;
  readonly adminToken: string | undefined;
  /** Who makes requests that do not say who makes them; undefined: they are refused. */
  readonly anonymous: Caller | undefined;
  readonly isLocalOnly: boolean;
}

/** Shorter ones could be guessed. */
const MIN_TOKEN_CHARACTERS = 32;

/**
 * Where the API listens, and whom it takes. Beyond this host it is encrypted, and everybody has to show who they are, unless
 * authentication is off.
 * @throws InvalidInputError naming the field
 */
export function apiSettings(api: Config['api']): ApiSettings {
  const listen = parseListen('config.api.listen', api.listen);
  const tls = readServerTls(api.tls);
  if (tls !== undefined && 'path' in listen) {
    throw new InvalidInputError('config.api.tls', api.listen, 'expected none: a Unix socket is not encrypted');
  }
  const adminToken = readAdminToken(api.adminTokenFile);
  const hasWay = adminToken !== undefined || tls?.clientCa !== undefined || api.kubernetes !== undefined;
  const isBeyond = isBeyondHost(listen);
  const isRequired = api.authentication !== 'off' && (api.authentication === 'required' || isBeyond || hasWay);
  if (isRequired && !hasWay) {
    throw new InvalidInputError(
      'config.api.adminTokenFile',
      api.adminTokenFile,
      `expected a file with a token, or api.tls.clientCa, or api.kubernetes, as the API is to listen on ${api.listen} ` +
        'for those only who show who they are. Make a file with (umask 077; head -c 32 /dev/urandom | base64 > FILE), ' +
        'or set api.authentication to off if everybody who reaches that address may change everything',
    );
  }
  if (isRequired && isBeyond && tls === undefined) {
    throw new InvalidInputError(
      'config.api.tls',
      undefined,
      `expected a certificate and its key, as tokens would cross the network to ${api.listen} for everybody to read. ` +
        'Behind a proxy that encrypts listen on loopback',
    );
  }
  return {
    listen,
    tls,
    adminToken,
    anonymous: isRequired ? undefined : LOCAL_ADMIN,
    isLocalOnly: !isRequired && !isBeyond,
  };
}

/**
 * What the files hold; undefined without `api.tls`.
 * @throws InvalidInputError naming the field
 */
export function readServerTls(tls: Config['api']['tls']): ServerTls | undefined {
  if (tls === undefined) return undefined;
  const { certificate, key, clientCa } = tls;
  if (certificate === undefined || key === undefined) {
    const missing = certificate === undefined ? 'certificate' : 'key';
    throw new InvalidInputError(
      `config.api.tls.${missing}`,
      undefined,
      'expected a file: certificate and key go together',
    );
  }
  const texts = {
    certificate: readPem('config.api.tls.certificate', certificate),
    key: readPem('config.api.tls.key', key, readSecret),
    clientCa: clientCa === undefined ? undefined : readPem('config.api.tls.clientCa', clientCa),
  };
  // A context takes what holds none for none at all, without an error.
  requirePem('certificate', () => new X509Certificate(texts.certificate));
  requirePem('key', () => createPrivateKey(texts.key));
  if (texts.clientCa !== undefined) requirePem('clientCa', () => new X509Certificate(texts.clientCa ?? ''));
  secureContextOf({ ca: texts.clientCa, certificate: texts.certificate, key: texts.key });
  return texts;
}

/** @throws InvalidInputError, without what is in the file */
function requirePem(field: string, parse: () => unknown): void {
  try {
    parse();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new InvalidInputError(`config.api.tls.${field}`, '…', `expected a file in PEM (${reason})`);
  }
}

/** @throws InvalidInputError */
function readAdminToken(path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  const token = readPassword('config.api.adminTokenFile', path);
  if (token.length < MIN_TOKEN_CHARACTERS || !/^[\x21-\x7e]+$/.test(token)) {
    throw new InvalidInputError(
      'config.api.adminTokenFile',
      path,
      `expected a file with at least ${MIN_TOKEN_CHARACTERS} letters, digits and signs in one line`,
    );
  }
  return token;
}
