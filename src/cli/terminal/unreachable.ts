import type { MidonetError } from '../../errors.js';

const NOT_TRUSTED =
  '--ca FILE names the authority that vouches for the server, which is its own certificate if it signed that itself';
const NOBODY_THERE = '`midonet cluster` or `midonet standalone` serves the API; --server or MIDONET_API says where';

/** What to do about connections that fail, by the code of the system or of OpenSSL. */
const ADVICE: Readonly<Record<string, string>> = {
  ECONNREFUSED: NOBODY_THERE,
  ENOENT: NOBODY_THERE,
  ENOTFOUND: NOBODY_THERE,
  ECONNRESET: 'if the server wants TLS, its address begins with https://',
  EPROTO: 'if the server does without TLS, its address begins with http://',
  DEPTH_ZERO_SELF_SIGNED_CERT: NOT_TRUSTED,
  SELF_SIGNED_CERT_IN_CHAIN: NOT_TRUSTED,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: NOT_TRUSTED,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: NOT_TRUSTED,
};

const NO_DATABASE = 'the API server does not reach the NSDB: `midonet nsdb status` on its machine tells more';

/** What to do about an API server that cannot be reached, or that reaches no database itself; undefined for other errors, and where nothing is known to help. */
export function adviceOn(error: MidonetError): string | undefined {
  const { code, cause } = error;
  // With a status it is an answer of the server.
  if (code === 'MN_STORE_UNAVAILABLE' && 'status' in error) return NO_DATABASE;
  if (code !== 'MN_API_UNAVAILABLE' || !(cause instanceof Error) || !('code' in cause)) return undefined;
  return ADVICE[String(cause.code)];
}
