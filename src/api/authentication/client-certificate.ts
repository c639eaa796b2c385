import type { Socket } from 'node:net';
import { type PeerCertificate, TLSSocket } from 'node:tls';
import { UnauthenticatedError } from './errors.js';
import type { CertificateSubject } from './roles.js';

/**
 * The subject of the certificate that the client of a connection has shown; undefined when it has shown none.
 * @throws UnauthenticatedError for one that is not of the authority, or not valid at this time
 */
export function clientCertificate(socket: Socket, now = Date.now()): CertificateSubject | undefined {
  if (!(socket instanceof TLSSocket)) return undefined;
  const certificate: Partial<PeerCertificate> = socket.getPeerCertificate();
  if (certificate.subject === undefined) return undefined;
  if (!socket.authorized) {
    throw new UnauthenticatedError(`the client certificate is not accepted: ${String(socket.authorizationError)}`);
  }
  // It was valid when the connection was made, which may be long ago.
  if (certificate.valid_to === undefined || Date.parse(certificate.valid_to) <= now) {
    throw new UnauthenticatedError('the client certificate has expired');
  }
  const { CN, O } = certificate.subject;
  return { commonNames: listOf(CN), organizations: listOf(O) };
}

/** An attribute that is there several times is a list, whatever its declared type. */
function listOf(attribute: string | readonly string[] | undefined): readonly string[] {
  if (attribute === undefined) return [];
  return typeof attribute === 'string' ? [attribute] : attribute;
}
