/**
 * Servers in a process of their own, to be killed: `node crash-child.js FOLDER ADDRESS [FOLDER ADDRESS]…`, where an address is a
 * port or the path of a socket. Says "ready" when all serve.
 */
import { EmbeddedServer } from '../../../src/nsdb/embedded/server.js';

const [, , ...pairs] = process.argv;
const starting: Promise<EmbeddedServer>[] = [];
for (let i = 0; i < pairs.length; i += 2) {
  const [dataDir, address] = pairs.slice(i, i + 2);
  const listen = address.startsWith('/') ? { path: address } : { host: '127.0.0.1', port: Number(address) };
  starting.push(EmbeddedServer.start({ listen, dataDir, minSessionTimeout: 200, snapshotAfter: 32 * 1024 }));
}
await Promise.all(starting);
process.stdout.write('ready\n');
