/** A server in a process of its own, to be killed: `node crash-child.js FOLDER PORT`. Says "ready" when it serves. */
import { EmbeddedServer } from '../../src/nsdb/embedded/server.js';

const [dataDir, port] = process.argv.slice(2);
await EmbeddedServer.start({
  listen: { host: '127.0.0.1', port: Number(port) },
  dataDir,
  minSessionTimeout: 200,
  snapshotAfter: 64 * 1024,
});
process.stdout.write('ready\n');
