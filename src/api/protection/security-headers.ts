import type { RequestHandler } from 'express';

/** What browsers must not do with answers: guess their type, show them in frames, run anything in them, keep them for others. */
const HEADERS: Readonly<Record<string, string>> = {
  'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  // Conditional requests are of use all the same.
  'Cache-Control': 'private, no-cache',
};

/** A year, in seconds (RFC 6797). */
const STRICT_TRANSPORT = 'max-age=31536000';

export function securityHeaders(): RequestHandler {
  return (request, response, next) => {
    response.set(HEADERS);
    if (request.secure) response.set('Strict-Transport-Security', STRICT_TRANSPORT);
    next();
  };
}
