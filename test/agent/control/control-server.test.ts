import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import test from 'ava';
import { pino } from 'pino';
import { ControlServer } from '../../../src/agent/control/control-server.js';
import { CONTROL_IDENTITY, CONTROL_TLS } from '../../../src/agent/control/protocol.js';

/** More than may be silent of one address; and of many, of each but a few. */
const OF_ONE = 40;
const OF_MANY = 300;
const log = pino({ level: 'silent' });

test('who connects and says nothing shuts nobody out, from its own address or another', async (t) => {
  let server: ControlServer;
  const { port, key } = await new Promise<{ port: number; key: string }>((onListening) => {
    server = ControlServer.start({ host: '127.0.0.1', port: 0, pages: {}, streams: {}, onListening, log });
  });
  const silent: Socket[] = [];
  try {
    for (let i = 0; i < OF_ONE + OF_MANY; i++) {
      const localAddress = i < OF_ONE ? '127.0.0.1' : `127.0.1.${1 + (i >> 3)}`;
      const socket = connect({ host: '127.0.0.1', port, localAddress });
      socket.on('error', () => {});
      silent.push(socket);
      await once(socket, 'connect');
    }
    for (const localAddress of ['127.0.0.1', '127.0.1.7', '127.0.2.1']) {
      const psk = Buffer.from(key, 'hex');
      const socket = connectTls({
        ...CONTROL_TLS,
        socket: connect({ host: '127.0.0.1', port, localAddress }),
        pskCallback: () => ({ psk, identity: CONTROL_IDENTITY }),
        checkServerIdentity: () => undefined,
      });
      await t.notThrowsAsync(once(socket, 'secureConnect'), localAddress);
      socket.destroy();
    }
  } finally {
    for (const socket of silent) socket.destroy();
    await server!.close();
  }
});
