import { createSecureContext, type SecureContext } from 'node:tls';
import { InvalidInputError } from '../../errors.js';
import type { Tls } from '../store.js';

/** What both ends demand at least. */
export const MIN_TLS_VERSION = 'TLSv1.2';

/** @throws InvalidInputError for texts that are not PEM, or a key that is not the certificate's */
export function secureContextOf({ ca, certificate, key }: Tls): SecureContext {
  try {
    return createSecureContext({ ca, cert: certificate, key, minVersion: MIN_TLS_VERSION });
  } catch (error) {
    // Not the key itself: errors are logged.
    const given = Object.entries({ ca, certificate, key }).flatMap(([name, text]) =>
      text === undefined ? [] : [name],
    );
    throw new InvalidInputError(
      'tls',
      given,
      `expected PEM texts, the key that of the certificate (${messageOf(error)})`,
    );
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
