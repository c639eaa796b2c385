import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import test from 'ava';
import { pino } from 'pino';
import { UdpStateTransport } from '../../../src/agent/flow-state/transport.js';
import { parseIpv4 } from '../../../src/packet/address.js';
import { until } from '../until.js';

const [FIRST, SECOND] = ['127.0.0.2', '127.0.0.3'].map((text) => parseIpv4(text)!);

/** A port that nobody has at the second address. */
async function freePort(): Promise<number> {
  const socket = createSocket('udp4').bind(0, '127.0.0.3');
  await once(socket, 'listening');
  const { port } = socket.address() as AddressInfo;
  socket.close();
  return port;
}

function start(t: { teardown(act: () => void): void }, port: number) {
  const received: string[] = [];
  const errors: string[] = [];
  const log = pino({ base: null }, { write: (line) => errors.push(line) });
  const transport = new UdpStateTransport(port, (from, bytes) => received.push(`${from} ${Buffer.from(bytes)}`), log);
  t.teardown(() => transport.close());
  return { transport, received, errors };
}

test('datagrams go between addresses, and what is received there is told with its sender', async (t) => {
  const port = await freePort();
  const [one, two] = [start(t, port), start(t, port)];
  await until('both have heard of each other', () => {
    one.transport.send(FIRST, SECOND, Buffer.from('hello'));
    two.transport.send(SECOND, FIRST, Buffer.from('and you'));
    return one.received.length > 0 && two.received.length > 0;
  });
  t.is(one.received[0], `${SECOND} and you`);
  t.is(two.received[0], `${FIRST} hello`);

  // Not used any more, the address is free for others.
  two.transport.retain(new Set());
  const other = createSocket('udp4').bind({ port, address: '127.0.0.3', exclusive: true });
  await once(other, 'listening');
  other.close();
  t.deepEqual([...one.errors, ...two.errors], []);
});

test('an address that cannot be had is tried again, and told of once', async (t) => {
  const port = await freePort();
  const holder = createSocket('udp4').bind({ port, address: '127.0.0.3', exclusive: true });
  await once(holder, 'listening');
  const [one, two] = [start(t, port), start(t, port)];
  const send = () => {
    two.transport.send(SECOND, FIRST, Buffer.from('hello'));
    one.transport.send(FIRST, SECOND, Buffer.from('hello'));
  };
  send();
  await until('it is told', () => two.errors.length > 0);
  t.regex(two.errors[0], /EADDRINUSE/);
  holder.close();
  await until('it is there', () => {
    send();
    return one.received.length > 0;
  });
  t.is(two.errors.length, 1);
});
