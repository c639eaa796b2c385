import test from 'ava';
import fc from 'fast-check';
import { formatIpv6, type Ipv6 } from '../../src/packet/address.js';
import { buildArpReply, buildArpRequest, buildGratuitousArp, parseArp } from '../../src/packet/arp.js';
import { readU16, writeU16, writeU32 } from '../../src/packet/big-endian.js';
import {
  checksum,
  crc32c,
  pseudoHeaderIpv4,
  pseudoHeaderIpv6,
  transportChecksumValid,
  updateChecksum16,
  updateChecksum32,
} from '../../src/packet/checksum.js';
import {
  buildDhcp,
  buildDhcpReply,
  classlessRoutes,
  type DhcpMessage,
  DhcpMessageType,
  DhcpOption,
  dhcpOptionU32,
  parseDhcp,
} from '../../src/packet/dhcp.js';
import { buildEthernet, EtherType, parseEthernet } from '../../src/packet/ethernet.js';
import {
  buildIcmpEcho,
  buildIcmpEchoReply,
  buildIcmpError,
  IcmpType,
  newIcmpHeader,
  parseIcmpHeader,
} from '../../src/packet/icmp.js';
import { buildIcmpv6Echo, buildIcmpv6EchoReply, buildIcmpv6Error, Icmpv6Type } from '../../src/packet/icmpv6.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';
import { buildIpv4, newIpv4Header, parseIpv4Header } from '../../src/packet/ipv4.js';
import { buildIpv6, ipv6Destination, ipv6Source, newIpv6Header, parseIpv6Header } from '../../src/packet/ipv6.js';
import {
  buildNeighborAdvertisement,
  buildNeighborSolicitation,
  NdType,
  newNeighborMessage,
  parseNeighborMessage,
} from '../../src/packet/nd.js';
import { buildTcp, newTcpHeader, parseTcpHeader } from '../../src/packet/tcp.js';
import { buildUdp, parseUdpHeader } from '../../src/packet/udp.js';
import { popTag, pushTag } from '../../src/packet/vlan.js';
import { dhcpRequest } from './dhcp-frames.js';

const mac = fc.integer({ min: 0, max: 2 ** 48 - 1 });
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u8 = fc.integer({ min: 0, max: 255 });
const ipv6 = fc.tuple(u32, u32, u32, u32);
const payload = fc.uint8Array({ maxLength: 60, size: 'max' });
const A: Ipv6 = [0xfd00_0000, 0, 0, 1];
const B: Ipv6 = [0xfd00_0000, 0, 0, 2];
const UNSPECIFIED: Ipv6 = [0, 0, 0, 0];

test('a checksum as in RFC 1071 section 3', (t) => {
  const bytes = new Uint8Array([0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
  t.is(checksum(bytes, 0, 8), ~0xddf2 & 0xffff);
  t.is(checksum(new Uint8Array([1, 2, 3]), 0, 3), ~(0x0102 + 0x0300) & 0xffff);
  t.is(crc32c(new TextEncoder().encode('123456789'), 0, 9), 0xe306_9283);
});

test('an updated checksum is as right as one made anew', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 12, maxLength: 40, size: 'max' }), u32, u16, (bytes, word, half) => {
      bytes[0] |= 1;
      writeU16(bytes, 2, 0);
      const check = checksum(bytes, 0, bytes.length);
      const view = new DataView(bytes.buffer);
      const old32 = view.getUint32(4);
      writeU32(bytes, 4, word);
      const first = updateChecksum32(check, old32, word);
      writeU16(bytes, 2, first);
      t.is(checksum(bytes, 0, bytes.length), 0);
      const old16 = readU16(bytes, 8);
      writeU16(bytes, 8, half);
      writeU16(bytes, 2, updateChecksum16(first, old16, half));
      t.is(checksum(bytes, 0, bytes.length), 0);
    }),
  );
});

test('Ethernet frames and VLAN tags', (t) => {
  fc.assert(
    fc.property(
      mac,
      mac,
      u16,
      fc.integer({ min: 0, max: 4095 }),
      fc.nat(7),
      payload,
      (dst, src, type, id, pcp, data) => {
        const plain = buildEthernet({ dst, src, type }, data);
        const out = { dst: 0, src: 0, type: 0 };
        t.true(parseEthernet(plain, out));
        t.deepEqual(out, { dst, src, type });
        const tagged = buildEthernet({ dst, src, type, vlans: [{ id, priority: pcp }] }, data);
        t.deepEqual(pushTag(plain, EtherType.VLAN, (pcp << 13) | id), tagged);
        t.deepEqual(popTag(tagged), plain);
      },
    ),
  );
  t.is(popTag(buildEthernet({ dst: 1, src: 2, type: EtherType.IPV4 }, new Uint8Array(40))), undefined);
});

test('ARP', (t) => {
  const out = { op: 0, senderMac: 0, senderIp: 0, targetMac: 0, targetIp: 0 };
  fc.assert(
    fc.property(mac, u32, mac, u32, (senderMac, senderIp, targetMac, targetIp) => {
      t.true(parseArp(buildArpReply(senderMac, senderIp, targetMac, targetIp), 14, out));
      t.deepEqual(out, { op: 2, senderMac, senderIp, targetMac, targetIp });
      t.true(parseArp(buildArpRequest(senderMac, senderIp, targetIp), 14, out));
      t.deepEqual(out, { op: 1, senderMac, senderIp, targetMac: 0, targetIp });
      t.true(parseArp(buildGratuitousArp(senderMac, senderIp), 14, out));
      t.is(out.targetIp, senderIp);
    }),
  );
});

test('IPv4 with TCP and UDP', (t) => {
  const ip = newIpv4Header();
  const tcp = newTcpHeader();
  const udp = { srcPort: 0, dstPort: 0, length: 0, checksum: 0 };
  const options = fc.constantFrom(0, 4, 40).map((n) => new Uint8Array(n).fill(1));
  const valid = (bytes: Uint8Array) =>
    transportChecksumValid(
      bytes,
      ip.payload,
      ip.end,
      ip.protocol,
      pseudoHeaderIpv4(ip.src, ip.dst, ip.protocol, ip.end - ip.payload),
    );
  fc.assert(
    fc.property(
      u32,
      u32,
      u8,
      u8,
      u16,
      u16,
      u32,
      u32,
      fc.nat(0xfff),
      options,
      payload,
      (src, dst, ttl, tos, id, srcPort, seq, ack, flags, opts, data) => {
        const segment = buildTcp({ srcPort, dstPort: 80, seq, ack, flags, options: opts }, data);
        const bytes = buildIpv4(
          { src, dst, ttl, tos, id, protocol: IpProtocol.TCP, options: opts, dontFragment: true },
          segment,
        );
        t.true(parseIpv4Header(bytes, 0, ip));
        t.like(ip, {
          src,
          dst,
          ttl,
          tos,
          id,
          protocol: 6,
          dontFragment: true,
          moreFragments: false,
          fragmentOffset: 0,
        });
        t.is(ip.headerLength, 20 + opts.length);
        t.is(ip.end, bytes.length);
        t.is(checksum(bytes, 0, ip.headerLength), 0);
        t.true(parseTcpHeader(bytes, ip.payload, ip.end, tcp));
        t.like(tcp, { srcPort, dstPort: 80, seq, ack, flags, headerLength: 20 + opts.length, window: 65535 });
        t.true(valid(bytes));
        bytes[bytes.length - 1] ^= 0x10;
        t.false(valid(bytes));

        const datagram = buildIpv4({ src, dst, protocol: IpProtocol.UDP }, buildUdp(srcPort, 53, data));
        t.true(parseIpv4Header(datagram, 0, ip));
        t.true(parseUdpHeader(datagram, ip.payload, ip.end, udp));
        t.like(udp, { srcPort, dstPort: 53, length: 8 + data.length });
        t.not(udp.checksum, 0);
        t.true(valid(datagram));
      },
    ),
  );
});

test('IPv4 fragments, padding and contradictions', (t) => {
  const ip = newIpv4Header();
  const part = buildIpv4({ src: 1, dst: 2, protocol: 17, fragment: { offset: 1480, more: true } }, new Uint8Array(16));
  t.true(parseIpv4Header(part, 0, ip));
  t.is(ip.fragmentOffset, 1480);
  t.true(ip.moreFragments);
  const padded = new Uint8Array(60);
  padded.set(part);
  t.true(parseIpv4Header(padded, 0, ip));
  t.is(ip.end, part.length);
  for (const [at, value] of [
    [0, 0x65],
    [0, 0x44],
    [3, 10],
  ]) {
    const bad = part.slice();
    bad[at] = value;
    if (at === 3) bad[2] = 0;
    t.false(parseIpv4Header(bad, 0, ip));
  }
});

test('IPv6 with extension headers', (t) => {
  const ip = newIpv6Header();
  const types = [IpProtocol.HOP_BY_HOP, IpProtocol.IPV6_ROUTING, IpProtocol.AH, IpProtocol.DESTINATION_OPTIONS];
  const extension = fc
    .constantFrom(...types)
    .chain((type) =>
      fc
        .constantFrom(1, 2, 5)
        .map((n) => ({ type, body: new Uint8Array(type === IpProtocol.AH ? 12 + 4 * n - 2 : 8 * n - 2) })),
    );
  fc.assert(
    fc.property(
      ipv6,
      ipv6,
      fc.array(extension, { maxLength: 4 }),
      u8,
      u8,
      fc.nat(0xfffff),
      payload,
      (src, dst, extensions, hopLimit, trafficClass, flowLabel, data) => {
        const udp = buildUdp(5, 6, data);
        const bytes = buildIpv6({ src, dst, protocol: 17, extensions, hopLimit, trafficClass, flowLabel }, udp);
        t.true(parseIpv6Header(bytes, 0, ip));
        t.like(ip, { protocol: 17, hopLimit, trafficClass, flowLabel, fragmented: false, complete: true });
        t.is(ip.payload, bytes.length - udp.length);
        t.is(ip.end, bytes.length);
        t.deepEqual(ipv6Source(bytes, 0), src);
        t.deepEqual(ipv6Destination(bytes, 0), dst);
        const pseudo = pseudoHeaderIpv6(src, dst, 17, udp.length);
        t.true(transportChecksumValid(bytes, ip.payload, ip.end, 17, pseudo));
        for (let length = 40; length < ip.payload; length++) {
          t.true(parseIpv6Header(bytes.subarray(0, length), 0, ip));
          t.false(ip.complete);
        }
      },
    ),
  );
  const later = buildIpv6(
    { src: A, dst: B, protocol: 43, fragment: { offset: 64, more: true, id: 9 } },
    new Uint8Array(8),
  );
  t.true(parseIpv6Header(later, 0, ip));
  t.like(ip, {
    fragmented: true,
    fragmentOffset: 64,
    moreFragments: true,
    protocol: 43,
    complete: true,
    fragmentAt: 40,
  });
});

test('ICMP echo and errors', (t) => {
  const ip = newIpv4Header();
  const icmp = newIcmpHeader();
  const request = buildIpv4(
    { src: 0x0a000001, dst: 0x0a000002, protocol: 1 },
    buildIcmpEcho(8, 77, 3, new Uint8Array(9).fill(5)),
  );
  const reply = buildIcmpEchoReply(request, 0)!;
  t.true(parseIpv4Header(reply, 0, ip));
  t.like(ip, { src: 0x0a000002, dst: 0x0a000001 });
  t.true(parseIcmpHeader(reply, ip.payload, ip.end, icmp));
  t.like(icmp, { type: 0, id: 77, sequence: 3 });
  t.is(checksum(reply, ip.payload, ip.end), 0);
  t.deepEqual(reply.subarray(28), request.subarray(28));
  t.is(buildIcmpEchoReply(reply, 0), undefined);

  const big = buildIpv4({ src: 0x0a000001, dst: 0x0b000001, protocol: 17 }, buildUdp(1, 2, new Uint8Array(1400)));
  const error = buildIcmpError(IcmpType.UNREACHABLE, 4, 0x0a0000fe, big, 0, 1400)!;
  t.is(error.length, 576);
  t.true(parseIpv4Header(error, 0, ip));
  t.like(ip, { src: 0x0a0000fe, dst: 0x0a000001, protocol: 1 });
  t.true(parseIcmpHeader(error, ip.payload, ip.end, icmp));
  t.is(icmp.sequence, 1400);
  t.is(checksum(error, 20, error.length), 0);
  t.deepEqual(error.subarray(28), big.subarray(0, 548));

  t.is(buildIcmpError(3, 0, 1, error, 0), undefined, 'about an error');
  const refused = [
    { src: 0, dst: 1 },
    { src: 0xe0000001, dst: 1 },
    { src: 1, dst: 0xe0000001 },
    { src: 1, dst: 0xffffffff },
  ];
  for (const addresses of refused) {
    t.is(buildIcmpError(3, 0, 1, buildIpv4({ ...addresses, protocol: 17 }, buildUdp(1, 2)), 0), undefined);
  }
  const later = buildIpv4({ src: 1, dst: 2, protocol: 17, fragment: { offset: 8, more: false } }, new Uint8Array(8));
  t.is(buildIcmpError(3, 0, 1, later, 0), undefined);
});

test('ICMPv6 echo and errors', (t) => {
  const ip = newIpv6Header();
  const valid = (bytes: Uint8Array) =>
    parseIpv6Header(bytes, 0, ip) &&
    transportChecksumValid(
      bytes,
      ip.payload,
      ip.end,
      58,
      pseudoHeaderIpv6(ipv6Source(bytes, 0), ipv6Destination(bytes, 0), 58, ip.end - ip.payload),
    );
  const request = buildIpv6({ src: A, dst: B, protocol: 58 }, buildIcmpv6Echo(128, 7, 8, new Uint8Array([1, 2, 3])));
  t.true(valid(request));
  const reply = buildIcmpv6EchoReply(request, 0)!;
  t.true(valid(reply));
  t.is(reply[40], Icmpv6Type.ECHO_REPLY);
  t.deepEqual(reply.subarray(44), request.subarray(44));
  t.deepEqual(ipv6Source(reply, 0), [...B]);
  t.is(buildIcmpv6EchoReply(reply, 0), undefined);

  const big = buildIpv6({ src: A, dst: B, protocol: 17 }, buildUdp(1, 2, new Uint8Array(1500)));
  const error = buildIcmpv6Error(Icmpv6Type.PACKET_TOO_BIG, 0, B, big, 0, 1400)!;
  t.is(error.length, 1280);
  t.true(valid(error));
  t.is(buildIcmpv6Error(1, 0, B, error, 0), undefined);
  t.is(buildIcmpv6Error(1, 0, B, buildIpv6({ src: UNSPECIFIED, dst: B, protocol: 17 }, buildUdp(1, 2)), 0), undefined);
  const group = buildIpv6({ src: A, dst: [0xff02_0000, 0, 0, 1], protocol: 17 }, buildUdp(1, 2));
  t.is(buildIcmpv6Error(1, 0, B, group, 0), undefined);
  t.truthy(buildIcmpv6Error(Icmpv6Type.PACKET_TOO_BIG, 0, B, group, 0));
});

test('neighbour discovery', (t) => {
  const ip = newIpv6Header();
  const out = newNeighborMessage();
  const read = (frame: Uint8Array) => {
    t.true(parseIpv6Header(frame, 14, ip));
    t.is(ip.hopLimit, 255);
    t.true(parseNeighborMessage(frame, ip.payload, ip.end, out));
    const pseudo = pseudoHeaderIpv6(ipv6Source(frame, 14), ipv6Destination(frame, 14), 58, ip.end - ip.payload);
    t.true(transportChecksumValid(frame, ip.payload, ip.end, 58, pseudo));
  };
  const solicitation = buildNeighborSolicitation({ src: A, srcMac: 0x02aa_0000_0001, target: B });
  read(solicitation);
  t.like(out, { type: NdType.NEIGHBOR_SOLICITATION, sourceMac: 0x02aa_0000_0001, targetMac: 0 });
  t.deepEqual(out.target, [...B]);
  t.is(formatIpv6(ipv6Destination(solicitation, 14)), 'ff02::1:ff00:2');
  t.is(readU16(solicitation, 0), 0x3333);

  read(buildNeighborSolicitation({ src: UNSPECIFIED, srcMac: 5, target: B }));
  t.is(out.sourceMac, 0);

  read(buildNeighborAdvertisement({ target: B, targetMac: 9, dst: A, dstMac: 7, router: true }));
  t.like(out, { type: NdType.NEIGHBOR_ADVERTISEMENT, targetMac: 9, router: true, solicited: true, override: true });
  const toAll = buildNeighborAdvertisement({ target: B, targetMac: 9, dst: UNSPECIFIED, dstMac: 0, override: false });
  read(toAll);
  t.like(out, { router: false, solicited: false, override: false });
  t.is(formatIpv6(ipv6Destination(toAll, 14)), 'ff02::1');

  const endless = solicitation.slice();
  endless[14 + 40 + 25] = 0;
  t.false(parseNeighborMessage(endless, 54, endless.length, out));
});

test('DHCP messages', (t) => {
  const option = fc.tuple(
    fc.integer({ min: 1, max: 254 }).filter((code) => code !== DhcpOption.MESSAGE_TYPE && code !== DhcpOption.OVERLOAD),
    fc.uint8Array({ maxLength: 600, size: 'max' }),
  );
  fc.assert(
    fc.property(
      u32,
      u16,
      fc.boolean(),
      u32,
      mac,
      u8,
      fc.array(option, { maxLength: 5 }),
      (transaction, seconds, flag, address, clientMac, type, list) => {
        const message: DhcpMessage = {
          reply: flag,
          hops: 1,
          transaction,
          seconds,
          broadcast: flag,
          clientAddress: address,
          yourAddress: address,
          serverAddress: 3,
          relayAddress: 4,
          clientMac,
          type,
          options: new Map(list),
        };
        const bytes = buildDhcp(message);
        const parsed = parseDhcp(bytes, 0, bytes.length);
        message.options.set(DhcpOption.MESSAGE_TYPE, new Uint8Array([type]));
        t.deepEqual({ ...parsed, options: undefined }, { ...message, options: undefined });
        t.is(parsed?.options.size, message.options.size);
        for (const [code, value] of message.options) t.deepEqual(parsed?.options.get(code), value);
      },
    ),
    { numRuns: 50 },
  );
});

test('DHCP messages that are malformed or of another kind are refused', (t) => {
  const discover = dhcpRequest(DhcpMessageType.DISCOVER, 1, 7);
  const parse = (change: (bytes: Uint8Array) => void) => {
    const bytes = discover.slice(42);
    change(bytes);
    return parseDhcp(bytes, 0, bytes.length);
  };
  const options = 240;
  t.truthy(parse(() => {}));
  const changes: ((bytes: Uint8Array) => void)[] = [
    (bytes) => bytes.set([3], 0),
    (bytes) => bytes.set([6], 1),
    (bytes) => bytes.set([0], options - 1),
    (bytes) => bytes.set([0, 0, 0], options),
    (bytes) => bytes.set([53, 2], options),
    (bytes) => bytes.set([12, 255], options + 3),
  ];
  for (const change of changes) t.is(parse(change), undefined, change.toString());
});

test('DHCP answers go where the client can hear them', (t) => {
  const discover = dhcpRequest(DhcpMessageType.DISCOVER, 0x02aa_0000_0001, 7);
  const request = parseDhcp(discover, 42, discover.length)!;
  const ip = newIpv4Header();
  const spec = {
    serverMac: 9,
    serverAddress: 0x0a00_0001,
    yourAddress: 0x0a00_0005,
    options: new Map([[DhcpOption.LEASE_TIME as number, new Uint8Array([0, 0, 1, 0])]]),
  };
  const offer = buildDhcpReply(request, { ...spec, type: DhcpMessageType.OFFER });
  t.true(parseIpv4Header(offer, 14, ip));
  t.is(ip.dst, 0x0a00_0005);
  const parsed = parseDhcp(offer, 42, offer.length)!;
  t.like(parsed, { reply: true, transaction: 7, type: 2, yourAddress: 0x0a00_0005, clientMac: 0x02aa_0000_0001 });
  t.is(dhcpOptionU32(parsed, DhcpOption.LEASE_TIME), 256);
  t.is(dhcpOptionU32(parsed, DhcpOption.SERVER_ID), 0x0a00_0001);
  for (const [message, type] of [
    [{ ...request, broadcast: true }, DhcpMessageType.OFFER],
    [request, DhcpMessageType.NAK],
  ] as const) {
    const frame = buildDhcpReply(message, { ...spec, type });
    t.true(parseIpv4Header(frame, 14, ip));
    t.is(ip.dst, 0xffff_ffff);
    t.is(readU16(frame, 0), 0xffff);
  }
  const renewing = buildDhcpReply({ ...request, clientAddress: 0x0a00_0007, broadcast: true }, { ...spec, type: 5 });
  t.true(parseIpv4Header(renewing, 14, ip));
  t.is(ip.dst, 0x0a00_0007);
});

test('classless routes as in RFC 3442', (t) => {
  const routes = classlessRoutes([
    { address: 0x0a11_0000, prefix: 16, router: 0x0a00_0001 },
    { address: 0, prefix: 0, router: 0x0a00_0002 },
    { address: 0x0a1b_8180, prefix: 25, router: 3 },
  ]);
  t.deepEqual([...routes], [16, 10, 17, 10, 0, 0, 1, 0, 10, 0, 0, 2, 25, 10, 27, 129, 128, 0, 0, 0, 3]);
});
