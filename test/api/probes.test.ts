import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { type AddressInfo, connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { ControlServer } from '../../src/agent/control/control-server.js';
import { test } from '../nsdb/repository/repository-test.js';
import { serveApi } from './api-server.js';

/** What the kernel has in mind for connections that sends a probe when nothing comes (Linux, net/ipv4/tcp_ipv4.c). */
const PROBE_TIMER = '02';

/** Waits until the server's end of a connection to a port is one that is probed. */
async function probed(port: number): Promise<void> {
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  const { port: own } = socket.address() as AddressInfo;
  const hex = (value: number) => value.toString(16).toUpperCase().padStart(4, '0');
  const isProbed = async () =>
    (await readFile('/proc/net/tcp', 'utf8')).split('\n').some((line) => {
      const [, local = '', remote = '', , , timer = ''] = line.trim().split(/ +/);
      const isServers = local.endsWith(`:${hex(port)}`) && remote.endsWith(`:${hex(own)}`);
      return isServers && timer.startsWith(PROBE_TIMER);
    });
  while (!(await isProbed())) await delay(10);
  socket.destroy();
}

test.serial('the API server notices that the machine of a client is gone', async (t) => {
  await t.notThrowsAsync(probed((await serveApi(t)).port));
});

test.serial('an agent notices that the machine of the API server is gone', async (t) => {
  const { promise, resolve } = withPort();
  const log = pino({ level: 'silent' });
  const control = ControlServer.start({
    host: '127.0.0.1',
    port: 0,
    pages: {},
    streams: {},
    onListening: ({ port }) => resolve(port),
    log,
  });
  t.teardown(() => control.close());
  await t.notThrowsAsync(probed(await promise));
});

function withPort(): { promise: Promise<number>; resolve: (port: number) => void } {
  let resolve = (_: number) => {};
  const promise = new Promise<number>((onResolve) => {
    resolve = onResolve;
  });
  return { promise, resolve };
}
