import { isIPv4 } from 'node:net';
import type { Request, RequestHandler } from 'express';
import { MidonetError } from '../../errors.js';

/**
 * Keeps pages of other sites, in a browser of somebody who may use the API, from using it: a browser says where the page that
 * makes a request comes from (Origin, RFC 6454 section 7). Where nobody has to say who they are, a page could come from a
 * name that its owner has pointed at this machine: there the name must be one of this machine's own.
 */
export function browserGuard(isLocalOnly: boolean): RequestHandler {
  return (request, _response, next) => {
    const { host, origin } = request.headers;
    if (origin !== undefined && !isOwnOrigin(origin, host)) {
      throw new ForeignPageError(`origin: pages of ${origin} may not use the API`);
    }
    // On a Unix socket there are no browsers.
    if (isLocalOnly && isTcp(request) && host !== undefined && !isLocalName(host)) {
      throw new ForeignPageError(`host: expected localhost or a loopback address, got ${host}`);
    }
    next();
  };
}

class ForeignPageError extends MidonetError {
  constructor(reason: string) {
    super('MN_FORBIDDEN', reason);
  }
}

function isOwnOrigin(origin: string, host: string | undefined): boolean {
  return URL.canParse(origin) && host !== undefined && new URL(origin).host === host.toLowerCase();
}

function isTcp(request: Request): boolean {
  return request.socket.remoteAddress !== undefined;
}

function isLocalName(host: string): boolean {
  const name = host.replace(/:\d+$/, '').toLowerCase();
  return name === 'localhost' || name === '[::1]' || (isIPv4(name) && name.startsWith('127.'));
}
