import test from 'ava';
import fc from 'fast-check';
import { linkLocalAddress } from '../../src/packet/address.js';
import { readU16, readU48 } from '../../src/packet/big-endian.js';
import { checksum, pseudoHeaderIpv6 } from '../../src/packet/checksum.js';
import { ipv6Destination, ipv6Source, newIpv6Header, parseIpv6Header } from '../../src/packet/ipv6.js';
import { ND_HOP_LIMIT } from '../../src/packet/nd.js';
import {
  buildRouterAdvertisement,
  buildRouterSolicitation,
  parseRouterAdvertisement,
  type RouterAdvertisement,
} from '../../src/packet/router-advertisement.js';

const ROUTER = 0x0200_0000_00fe;
const MACHINE = 0x0200_0000_0001;
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const words = fc.tuple(u32, u32, u32, u32);

const advertisement: fc.Arbitrary<RouterAdvertisement> = fc
  .record({
    hopLimit: fc.nat(255),
    managed: fc.boolean(),
    other: fc.boolean(),
    lifetime: fc.nat(65_535),
    mac: fc.integer({ min: 0, max: 2 ** 48 - 1 }),
    mtu: u32,
    prefixes: fc.array(
      fc.record({
        address: words,
        prefix: fc.nat(128),
        onLink: fc.boolean(),
        autonomous: fc.boolean(),
        valid: u32,
        preferred: u32,
      }),
      { maxLength: 3 },
    ),
    dnsServers: fc.array(words, { maxLength: 3 }),
    domainSearch: fc.array(fc.domain(), { maxLength: 3 }),
    dnsLifetime: u32,
  })
  .map((made) => (made.dnsServers.length + made.domainSearch.length === 0 ? { ...made, dnsLifetime: 0 } : made));

const path = { src: linkLocalAddress(ROUTER), dst: linkLocalAddress(MACHINE), dstMac: MACHINE };

test('router advertisements are read as they were written, and have a right checksum and hop limit', (t) => {
  fc.assert(
    fc.property(advertisement, (message) => {
      const frame = buildRouterAdvertisement(message, path);
      const ip = newIpv6Header();
      t.true(parseIpv6Header(frame, 14, ip));
      t.is(ip.hopLimit, ND_HOP_LIMIT);
      t.is(ip.end, frame.length);
      t.deepEqual(parseRouterAdvertisement(frame, ip.payload, ip.end), message);
      const pseudo = pseudoHeaderIpv6(path.src, path.dst, 58, ip.end - ip.payload);
      t.is(checksum(frame, ip.payload, ip.end, pseudo), 0);
    }),
  );
});

test('bytes of any kind are read or refused', (t) => {
  const head = new Uint8Array([134, 0, 0, 0]);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120, size: 'max' }), fc.boolean(), (rest, valid) => {
      const bytes = valid ? new Uint8Array([...head, ...rest]) : rest;
      t.notThrows(() => parseRouterAdvertisement(bytes, 0, bytes.length));
    }),
    { numRuns: 1000 },
  );
  const frame = buildRouterAdvertisement(
    {
      hopLimit: 64,
      managed: true,
      other: true,
      lifetime: 1800,
      mac: ROUTER,
      mtu: 1450,
      prefixes: [],
      dnsServers: [[1, 2, 3, 4]],
      domainSearch: ['example'],
      dnsLifetime: 60,
    },
    path,
  );
  t.is(parseRouterAdvertisement(frame, 54, frame.length + 1), undefined);
  t.is(parseRouterAdvertisement(frame, 54, frame.length - 1), undefined);
  frame[54 + 17] = 0;
  t.is(parseRouterAdvertisement(frame, 54, frame.length), undefined);
});

test('a machine without an address is answered by way of all nodes', (t) => {
  const message = fc.sample(advertisement, 1)[0];
  const frame = buildRouterAdvertisement(message, { ...path, dst: [0, 0, 0, 0] });
  t.is(readU48(frame, 0), 0x3333_0000_0001);
  t.deepEqual(ipv6Destination(frame, 14), [0xff02_0000, 0, 0, 1]);
  t.deepEqual(ipv6Source(frame, 14), linkLocalAddress(ROUTER) as never);
  t.is(readU48(buildRouterAdvertisement(message, path), 0), MACHINE);
});

test('a solicitation carries the link-layer address only from an address', (t) => {
  const length = (frame: Uint8Array) => readU16(frame, 18);
  t.is(length(buildRouterSolicitation(path.dst, MACHINE)), 16);
  t.is(length(buildRouterSolicitation([0, 0, 0, 0], MACHINE)), 8);
  t.is(readU48(buildRouterSolicitation(path.dst, MACHINE), 0), 0x3333_0000_0002);
});
