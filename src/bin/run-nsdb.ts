import type { Logger } from 'pino';
import { EmbeddedServer } from '../nsdb/embedded/server.js';
import type { Config } from './config.js';
import { namingAddress } from './listen-address.js';
import { nsdbListener } from './nsdb-listener.js';
import { Closers, type Service } from './service.js';

/** Run the embedded NSDB server. */
export async function runNsdb(config: Config, log: Logger, signal: AbortSignal): Promise<Service> {
  let fail: (error: Error) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  // Nobody may be waiting for it yet.
  failed.catch(() => {});
  const server = await EmbeddedServer.start({
    ...nsdbListener(config.nsdb),
    dataDir: config.nsdb.dataFolder,
    diskReserve: config.nsdb.diskReserve,
    onNotice: (level, message, fields) => log[level](fields, message),
    onFailure: fail,
  }).catch(namingAddress('config.nsdb.listen', config.nsdb.listen));
  const closers = new Closers(log);
  closers.add(() => server.close());
  try {
    signal.throwIfAborted();
    const { listen, dataFolder, http } = config.nsdb;
    const { listenHttp } = await import('../nsdb/embedded/http.js');
    const endpoint = await listenHttp(server, http).catch(
      namingAddress('config.nsdb.http', `${http.host}:${http.port}`),
    );
    closers.add(() => endpoint.close());
    signal.throwIfAborted();
    log.info({ listen, dataFolder, http: endpoint.port }, 'serving the NSDB');
    return { failed, close: () => closers.close() };
  } catch (error) {
    await closers.close();
    throw error;
  }
}
