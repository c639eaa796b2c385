import test from 'ava';
import fc from 'fast-check';
import { readAddress } from '../../../src/datapath/link/address.js';
import { readLink, readStatistics } from '../../../src/datapath/link/link.js';
import { isInterfaceName } from '../../../src/datapath/link/name.js';
import { LinkRequests } from '../../../src/datapath/link/requests.js';
import { readRoute } from '../../../src/datapath/link/route.js';
import { ProtocolError } from '../../../src/datapath/netlink/errors.js';
import { MessageReader } from '../../../src/datapath/netlink/message.js';
import { parseCidr, parseIp } from '../../../src/packet/ip.js';

test('names of interfaces', (t) => {
  for (const name of ['a', 'eth0', 'veth-1.2_3@x', '123456789012345', '...', 'ä123456789012']) {
    t.true(isInterfaceName(name), name);
  }
  for (const name of [
    '',
    '.',
    '..',
    'a/b',
    'a:1',
    'a b',
    'a\tb',
    'a\0b',
    'a\n',
    '1234567890123456',
    'ä1234567890123ä',
  ]) {
    t.false(isInterfaceName(name), name);
  }
});

test('requests read back as what they ask for', (t) => {
  const requests = new LinkRequests()
    .addVxlan({ name: 'v0', mtu: 1400, mac: 0x0200_0000_0001, up: true }, 4789)
    .addAddress(7, { ...parseIp('10.0.0.9')!, prefix: 24 })
    .addRoute({ destination: parseCidr('fd00::/64')!, gateway: parseIp('fe80::1'), index: 7, mtu: 1280, priority: 5 });
  const messages = new MessageReader(requests.writer.finish());
  t.true(messages.next());
  t.like(readLink(messages), {
    name: 'v0',
    mtu: 1400,
    mac: 0x0200_0000_0001,
    up: true,
    kind: 'vxlan',
    tunnel: { external: true, port: 4789, learning: false, zeroChecksum6Receive: true },
  });
  t.true(messages.next());
  t.like(readAddress(messages), { index: 7, family: 4, words: [0x0a000009], prefix: 24 });
  t.true(messages.next());
  t.deepEqual(readRoute(messages), {
    destination: parseCidr('fd00::/64')!,
    gateway: parseIp('fe80::1'),
    index: 7,
    mtu: 1280,
    priority: 5,
  });
  t.false(messages.next());
  t.is(requests.count, 3);
});

test('values that the kernel would misread are refused by name, and leave no half-written request', (t) => {
  const requests = new LinkRequests().deleteLink('keep0');
  const before = requests.writer.length;
  const address = { ...parseIp('10.0.0.1')!, prefix: 24 };
  const refused: [() => unknown, RegExp][] = [
    [() => requests.addPlain({ name: 'a/b' }, 'bridge'), /^name: .*"a\/b"/],
    [() => requests.addVeth({ name: 'a0' }, { name: '' }), /^peer\.name: /],
    [() => requests.addVeth({ name: 'a0' }, { name: 'b0', mtu: 1.5 }), /^peer\.mtu: .*1\.5/],
    [() => requests.addVeth({ name: 'a0', mac: -1 }, { name: 'b0' }), /^mac: /],
    [() => requests.addVxlan({ name: 'v0' }, 0), /^port: /],
    [() => requests.addVxlan({ name: 'v0', mtu: Number.NaN }, 1), /^mtu: /],
    [() => requests.setLink('a0', { name: 'b0' }), /^target: /],
    [() => requests.setLink(0, { up: true }), /^index: /],
    [() => requests.setLink('a0', { alias: 'x'.repeat(300) }), /^alias: /],
    [() => requests.deleteLink('..'), /^name: /],
    [() => requests.addAddress(1, { ...address, prefix: 33 }), /^address\.prefix: .*33/],
    [() => requests.addAddress(1, { family: 4, words: [1, 2], prefix: 24 }), /^address: /],
    [() => requests.addAddress(1.5, address), /^index: /],
    [
      () => requests.addRoute({ destination: parseCidr('10.0.0.0/8')!, gateway: parseIp('fd00::1'), index: 1 }),
      /^gateway: /,
    ],
    [() => requests.addNeighbour({ index: 1, ip: address, mac: 2 ** 48 }), /^mac: /],
  ];
  for (const [call, message] of refused) {
    t.throws(call, { code: 'MN_INVALID_INPUT', message });
    t.is(requests.writer.length, before, String(message));
    t.is(requests.count, 1);
  }
});

test('random messages give a value or ProtocolError', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200, size: 'max' }), fc.boolean(), (payload, inet) => {
      const bytes = new Uint8Array(16 + payload.length);
      new DataView(bytes.buffer).setUint32(0, bytes.length, true);
      bytes.set(payload, 16);
      if (payload.length > 0) {
        bytes[16] = inet ? 2 : 0;
      }
      for (const read of [readLink, readStatistics, readAddress, readRoute]) {
        const messages = new MessageReader(bytes);
        messages.next();
        try {
          read(messages);
        } catch (error) {
          t.true(error instanceof ProtocolError, String(error));
        }
      }
    }),
    { numRuns: 2000 },
  );
  t.pass();
});
