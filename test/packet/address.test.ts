import { isIPv4, isIPv6 } from 'node:net';
import test from 'ava';
import fc from 'fast-check';
import { InvalidInputError } from '../../src/errors.js';
import {
  formatIpv4,
  formatIpv4Cidr,
  formatIpv6,
  formatIpv6Cidr,
  formatMac,
  type Ipv6,
  ipv4Broadcast,
  ipv4CidrContains,
  ipv4Network,
  ipv6CidrContains,
  ipv6MulticastMac,
  ipv6Network,
  isMulticastMac,
  linkLocalAddress,
  parseIpv4,
  parseIpv4Cidr,
  parseIpv6,
  parseIpv6Cidr,
  parseMac,
  requireIpv4,
  requireIpv4Cidr,
  requireIpv6,
  requireIpv6Cidr,
  requireMac,
  solicitedNodeAddress,
} from '../../src/packet/address.js';

const word = fc.integer({ min: 0, max: 0xffff_ffff });
const ipv6 = fc.tuple(word, word, word, word);
const sparseIpv6 = fc
  .array(fc.oneof({ weight: 2, arbitrary: fc.constant(0) }, fc.integer({ min: 0, max: 0xffff })), {
    minLength: 8,
    maxLength: 8,
  })
  .map((g): Ipv6 => [g[0] * 65536 + g[1], g[2] * 65536 + g[3], g[4] * 65536 + g[5], g[6] * 65536 + g[7]]);

test('MAC addresses', (t) => {
  t.is(parseMac('02:00:00:00:00:01'), 0x0200_0000_0001);
  t.is(parseMac('FF:ff:Ff:fF:FF:FF'), 0xffff_ffff_ffff);
  t.is(formatMac(0x0a), '00:00:00:00:00:0a');
  for (const bad of [
    '',
    '02:00:00:00:00',
    '02:00:00:00:00:01:02',
    '2:0:0:0:0:1',
    '02-00-00-00-00-01',
    '0g:00:00:00:00:01',
  ]) {
    t.is(parseMac(bad), undefined, bad);
  }
  t.true(isMulticastMac(0x0100_5e00_0001));
  t.true(isMulticastMac(0xffff_ffff_ffff));
  t.false(isMulticastMac(0x0200_0000_0001));
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 48 - 1 }), (mac) => {
      t.is(parseMac(formatMac(mac)), mac);
    }),
  );
});

test('IPv4 addresses are strict dotted quads', (t) => {
  t.is(parseIpv4('10.0.0.1'), 0x0a00_0001);
  t.is(parseIpv4('255.255.255.255'), 0xffff_ffff);
  for (const bad of [
    '',
    '10.0.0',
    '10.0.0.256',
    '10.0.0.01',
    '10.0.0.1.',
    '0x0a.0.0.1',
    ' 10.0.0.1',
    '1e1.0.0.1',
    '+1.0.0.0',
  ]) {
    t.is(parseIpv4(bad), undefined, bad);
  }
  fc.assert(
    fc.property(word, (address) => {
      t.is(parseIpv4(formatIpv4(address)), address);
      t.true(isIPv4(formatIpv4(address)));
    }),
  );
});

test('IPv6 texts of RFC 4291 and RFC 5952', (t) => {
  const same: [string, string][] = [
    ['ABCD:EF01:2345:6789:ABCD:EF01:2345:6789', 'abcd:ef01:2345:6789:abcd:ef01:2345:6789'],
    ['2001:db8:0:0:8:800:200c:417a', '2001:db8::8:800:200c:417a'],
    ['0:0:0:0:0:0:0:1', '::1'],
    ['::', '::'],
    ['0:0:0:0:0:0:13.1.68.3', '::d01:4403'],
    ['::FFFF:129.144.52.38', '::ffff:129.144.52.38'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['1::', '1::'],
    ['64:ff9b::192.0.2.1', '64:ff9b::c000:201'],
  ];
  for (const [text, canonical] of same) {
    const address = parseIpv6(text);
    t.truthy(address, text);
    t.is(formatIpv6(address!), canonical);
  }
  const bad = [
    '',
    ':',
    ':::',
    '1',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1::2::3',
    '12345::',
    ':1::',
    '1:',
    '::1.2.3',
    '1.2.3.4::',
  ];
  for (const text of [...bad, '1:2:3:4:5:6:7:8::', 'fe80::1%eth0', '::g', '1:2:3:4:5:6:7:1.2.3.4']) {
    t.is(parseIpv6(text), undefined, text);
  }
});

test('IPv6 text agrees with the system resolver', (t) => {
  const shuffled = fc
    .array(fc.constantFrom('0', '1', 'ffff', '::', ':', ':', '1.2.3.4', 'a0'), { maxLength: 17, size: 'max' })
    .map((parts) => parts.join(''));
  fc.assert(
    fc.property(shuffled, (text) => {
      t.is(parseIpv6(text) !== undefined, isIPv6(text), text);
    }),
    { numRuns: 3000 },
  );
  fc.assert(
    fc.property(fc.oneof(ipv6, sparseIpv6), (address) => {
      const text = formatIpv6(address);
      t.deepEqual(parseIpv6(text), [...address] as unknown as Ipv6);
      // The URL parser applies RFC 5952 but for the dotted quad.
      if (!text.startsWith('::ffff:')) t.is(new URL(`http://[${text}]/`).hostname, `[${text}]`);
    }),
    { numRuns: 1000 },
  );
});

test('networks', (t) => {
  t.deepEqual(parseIpv4Cidr('10.1.2.3/8'), { address: 0x0a01_0203, prefix: 8 });
  t.deepEqual(parseIpv4Cidr('0.0.0.0/0'), { address: 0, prefix: 0 });
  for (const bad of ['10.0.0.0', '10.0.0.0/', '10.0.0.0/33', '10.0.0.0/08', '10.0.0.0/8/8', '/8', '8']) {
    t.is(parseIpv4Cidr(bad), undefined, bad);
  }
  t.is(ipv4Network(0x0a01_0203, 8), 0x0a00_0000);
  t.is(ipv4Broadcast(0x0a01_0203, 24), 0x0a01_02ff);
  t.is(ipv4Broadcast(0x0a01_0203, 32), 0x0a01_0203);
  t.is(formatIpv4Cidr({ address: 0x0a00_0000, prefix: 8 }), '10.0.0.0/8');
  t.true(ipv4CidrContains({ address: 0xc0a8_0000, prefix: 16 }, 0xc0a8_ffff));
  t.false(ipv4CidrContains({ address: 0xc0a8_0000, prefix: 16 }, 0xc0a9_0000));

  const cidr = parseIpv6Cidr('fd00:0:0:1::5/64')!;
  t.is(formatIpv6Cidr(cidr), 'fd00:0:0:1::5/64');
  t.is(formatIpv6(ipv6Network(cidr.address, 64)), 'fd00:0:0:1::');
  t.true(ipv6CidrContains(cidr, parseIpv6('fd00:0:0:1:ffff::')!));
  t.false(ipv6CidrContains(cidr, parseIpv6('fd00:0:0:2::')!));
  for (const bad of ['fd00::', 'fd00::/129', 'fd00::/-1', '::/1.0']) t.is(parseIpv6Cidr(bad), undefined, bad);

  fc.assert(
    fc.property(word, word, fc.integer({ min: 0, max: 32 }), (a, b, prefix) => {
      t.is(ipv4CidrContains({ address: a, prefix }, b), ipv4Network(a, prefix) === ipv4Network(b, prefix));
    }),
  );
  fc.assert(
    fc.property(ipv6, fc.integer({ min: 0, max: 127 }), fc.integer({ min: 0, max: 128 }), (a, flip, prefix) => {
      const b = a.map((w, i) => (i === flip >> 5 ? (w ^ (0x8000_0000 >>> (flip & 31))) >>> 0 : w));
      t.is(ipv6CidrContains({ address: a, prefix }, b), flip >= prefix);
      t.deepEqual(ipv6Network(ipv6Network(b, prefix), prefix), ipv6Network(b, prefix));
    }),
  );
});

test('derived IPv6 addresses', (t) => {
  // Examples of RFC 4291 sections 2.7.1 and appendix A, RFC 2464 section 7.
  t.is(formatIpv6(solicitedNodeAddress(parseIpv6('4037::01:800:200e:8c6c')!)), 'ff02::1:ff0e:8c6c');
  t.is(formatIpv6(linkLocalAddress(parseMac('34:56:78:9a:bc:de')!)), 'fe80::3656:78ff:fe9a:bcde');
  t.is(formatMac(ipv6MulticastMac(parseIpv6('ff02::1:ff0e:8c6c')!)), '33:33:ff:0e:8c:6c');
});

test('errors name the field and the value', (t) => {
  const calls = [requireMac, requireIpv4, requireIpv6, requireIpv4Cidr, requireIpv6Cidr];
  for (const call of calls) {
    const error = t.throws(() => call('nonsense', 'bridge.thing'), { instanceOf: InvalidInputError });
    t.regex(error?.message ?? '', /^bridge\.thing: expected .*"nonsense"$/);
  }
  t.is(requireIpv4('1.2.3.4', 'f'), 0x01020304);
});
