import { createServer } from 'node:net';
import { MidonetError } from '../errors.js';

/** Another agent of this network namespace programs the datapath. */
export class DatapathInUseError extends MidonetError {
  constructor(readonly datapath: string) {
    super('MN_CONFLICT', `config.datapath.name: another agent runs on datapath "${datapath}"`);
  }
}

/**
 * Keeps two agents from one datapath: the second would take the upcalls of the first. The lock is an abstract unix socket
 * (unix(7)), as these are what datapaths are: one of a name in a network namespace. It goes when its process ends,
 * however it ends.
 * @returns how to release it
 * @throws DatapathInUseError
 */
export async function lockDatapath(name: string): Promise<() => Promise<void>> {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(error.code === 'EADDRINUSE' ? new DatapathInUseError(name) : error),
    );
    server.listen(`\0midonet/datapath/${name}`, resolve);
  });
  server.unref();
  return () => new Promise((resolve) => server.close(() => resolve()));
}
