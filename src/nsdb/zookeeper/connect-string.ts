import { InvalidInputError } from '../../errors.js';
import { checkPath } from '../path.js';

export type Target =
  | {
      readonly host: string;
      readonly port: number;
      /** The name that `host` was found by, for the server's certificate. */
      readonly name?: string;
    }
  | { readonly path: string };

export interface ConnectString {
  readonly targets: readonly Target[];
  /** Path under which the store's root is, without trailing "/"; empty for the server's own root. */
  readonly chroot: string;
}

const DEFAULT_PORT = 2181;

/**
 * `host[:port][,host[:port]…][/chroot]` as ZooKeeper's clients take it, with IPv6 addresses in brackets; or `unix:/path`.
 *
 * @throws InvalidInputError
 */
export function parseConnectString(text: string): ConnectString {
  if (text.startsWith('unix:')) {
    const path = text.slice('unix:'.length);
    if (!path.startsWith('/'))
      throw new InvalidInputError('connect string', text, 'expected an absolute path after unix:');
    return { targets: [{ path }], chroot: '' };
  }
  const slash = text.indexOf('/');
  const hosts = slash === -1 ? text : text.slice(0, slash);
  const root = slash === -1 ? '/' : text.slice(slash);
  const chroot = root === '/' ? '' : checkPath(root);
  return { targets: hosts.split(',').map((host) => parseTarget(host.trim(), text)), chroot };
}

/** The same servers, and their own root. */
export function withoutRoot(text: string): string {
  const slash = text.startsWith('unix:') ? -1 : text.indexOf('/');
  return slash === -1 ? text : text.slice(0, slash);
}

function parseTarget(target: string, text: string): Target {
  const match = /^(?:\[([0-9a-fA-F:.%\w]+)\]|([^:[\]\s]+))(?::(\d+))?$/.exec(target);
  const host = match?.[1] ?? match?.[2];
  const port = match?.[3] === undefined ? DEFAULT_PORT : Number(match[3]);
  if (host === undefined || port < 1 || port > 65535) {
    throw new InvalidInputError('connect string', text, 'expected host[:port] separated by commas, or unix:/path');
  }
  return { host, port };
}

/** `host:port` or `unix:/path`. */
export function nameOf(target: Target): string {
  return 'path' in target ? `unix:${target.path}` : `${target.host}:${target.port}`;
}
