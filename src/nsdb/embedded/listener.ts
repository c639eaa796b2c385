/** Where clients come in: a TCP port, with TLS or without, or a Unix socket. */
import { chmod, lstat, rm } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Server } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { InvalidInputError } from '../../errors.js';
import { MIN_TLS_VERSION, secureContextOf } from '../protocol/tls.js';
import type { Tls } from '../store.js';

/** TCP (port 0: any free one) or a Unix socket, which only root and the socket's owner may use. */
export type ListenAddress = { readonly host?: string; readonly port: number } | { readonly path: string };

/** Milliseconds that a client has until it speaks TLS, and after that until it has asked for a session. */
export const HANDSHAKE_TIMEOUT = 10_000;
/** `sun_path` of unix(7) without its end; Node.js would cut a longer one off. */
const MAX_SOCKET_PATH = 107;

/** @throws InvalidInputError when the certificates make no sense. */
export function createListener(tls: Tls | undefined): Server {
  return tls === undefined ? createServer() : tlsListener(tls);
}

function tlsListener(tls: Tls): Server {
  const { ca, certificate, key } = tls;
  if (certificate === undefined || key === undefined) {
    const missing = certificate === undefined ? 'certificate' : 'key';
    throw new InvalidInputError(`tls.${missing}`, undefined, 'expected that of the server, as it is to speak TLS');
  }
  secureContextOf(tls);
  const isMutual = ca !== undefined;
  return createTlsServer({
    ca,
    cert: certificate,
    key,
    minVersion: MIN_TLS_VERSION,
    requestCert: isMutual,
    rejectUnauthorized: isMutual,
    handshakeTimeout: HANDSHAKE_TIMEOUT,
  });
}

/** @throws InvalidInputError, or what the system says of the address. */
export async function listenOn(
  listener: Server,
  address: ListenAddress,
  onFault: (error: Error) => void,
): Promise<void> {
  if ('path' in address) await removeDeadSocket(address.path);
  await new Promise<void>((resolve, reject) => {
    listener.once('error', reject);
    listener.listen(
      'path' in address ? { path: address.path } : { host: address.host ?? '127.0.0.1', port: address.port },
      () => {
        listener.removeListener('error', reject);
        listener.on('error', onFault);
        resolve();
      },
    );
  });
  if ('path' in address) await chmod(address.path, 0o600);
}

/** Where it listens: `host:port`, or `unix:/path`; what the client's connect string takes. */
export function addressOf(listener: Server): string {
  const address = listener.address() as AddressInfo | string | null;
  if (address === null) return 'closed';
  if (typeof address === 'string') return `unix:${address}`;
  return address.family === 'IPv6' ? `[${address.address}]:${address.port}` : `${address.address}:${address.port}`;
}

/**
 * Removes the socket a dead server left; one that answers is left alone, and listening then fails with EADDRINUSE.
 * @throws InvalidInputError if the path cannot be that of a socket
 */
async function removeDeadSocket(path: string): Promise<void> {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
    throw new InvalidInputError('listen', path, `a socket's path has at most ${MAX_SOCKET_PATH} bytes`);
  }
  const found = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (found === undefined) return;
  if (!found.isSocket()) throw new InvalidInputError('listen', path, 'something that is not a socket is there');
  const dead = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.on('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.on('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
  if (dead) await rm(path, { force: true });
}
