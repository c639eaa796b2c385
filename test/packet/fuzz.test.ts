import test from 'ava';
import fc from 'fast-check';
import { extractKey } from '../../src/flow/extract.js';
import { FlowKey, Word } from '../../src/flow/key.js';
import { parseArp } from '../../src/packet/arp.js';
import { parseDhcp } from '../../src/packet/dhcp.js';
import { identityAssociations, leasedAddresses, parseDhcpV6 } from '../../src/packet/dhcpv6.js';
import { parseEthernet } from '../../src/packet/ethernet.js';
import { buildIcmpEchoReply, buildIcmpError, newIcmpHeader, parseIcmpHeader } from '../../src/packet/icmp.js';
import { buildIcmpv6EchoReply, buildIcmpv6Error, parseIcmpv6Header } from '../../src/packet/icmpv6.js';
import { newIpv4Header, parseIpv4Header } from '../../src/packet/ipv4.js';
import { newIpv6Header, parseIpv6Header } from '../../src/packet/ipv6.js';
import { newNeighborMessage, parseNeighborMessage } from '../../src/packet/nd.js';
import { parseRouterAdvertisement } from '../../src/packet/router-advertisement.js';
import { newTcpHeader, parseTcpHeader } from '../../src/packet/tcp.js';
import { parseUdpHeader } from '../../src/packet/udp.js';
import { popTag } from '../../src/packet/vlan.js';
import { arbitraryFrame, VALID_FRAMES } from './frames.js';

/**
 * The bytes as an array that notes reads beyond its end: a plain Uint8Array would give undefined, which arithmetic hides.
 */
function guarded(bytes: Uint8Array): { bytes: Uint8Array; beyond: number[] } {
  const beyond: number[] = [];
  const proxy = new Proxy(bytes, {
    get(target, name) {
      const index = typeof name === 'string' ? Number(name) : Number.NaN;
      if (Number.isInteger(index) && (index < 0 || index >= target.length)) beyond.push(index);
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  return { bytes: proxy, beyond };
}

function parseAll(bytes: Uint8Array): void {
  parseEthernet(bytes, { dst: 0, src: 0, type: 0 });
  popTag(bytes);
  const key = new FlowKey();
  extractKey(bytes, key);
  for (const at of [0, 14, 18, 22, 34, 42, 54, 62]) {
    const end = bytes.length;
    parseArp(bytes, at, { op: 0, senderMac: 0, senderIp: 0, targetMac: 0, targetIp: 0 });
    const ipv4 = newIpv4Header();
    if (parseIpv4Header(bytes, at, ipv4)) {
      parseTcpHeader(bytes, ipv4.payload, ipv4.end, newTcpHeader());
      parseIcmpHeader(bytes, ipv4.payload, ipv4.end, newIcmpHeader());
    }
    const ipv6 = newIpv6Header();
    if (parseIpv6Header(bytes, at, ipv6) && ipv6.complete) {
      parseNeighborMessage(bytes, ipv6.payload, ipv6.end, newNeighborMessage());
      parseIcmpv6Header(bytes, ipv6.payload, ipv6.end, { type: 0, code: 0, checksum: 0, rest: 0 });
    }
    parseTcpHeader(bytes, at, end, newTcpHeader());
    parseUdpHeader(bytes, at, end, { srcPort: 0, dstPort: 0, length: 0, checksum: 0 });
    parseNeighborMessage(bytes, at, end, newNeighborMessage());
    parseDhcp(bytes, at, end);
    const options = parseDhcpV6(bytes, at, end)?.options ?? [];
    for (const ia of identityAssociations(options) ?? []) leasedAddresses(ia.options);
    parseRouterAdvertisement(bytes, at, end);
    buildIcmpEchoReply(bytes, at);
    buildIcmpError(3, 0, 1, bytes, at);
    buildIcmpv6EchoReply(bytes, at);
    buildIcmpv6Error(1, 0, [1, 2, 3, 4], bytes, at);
  }
}

test('no parser throws or reads beyond the bytes, whatever they are', (t) => {
  fc.assert(
    fc.property(arbitraryFrame(), (frame) => {
      const { bytes, beyond } = guarded(frame);
      parseAll(bytes);
      t.deepEqual(beyond, []);
    }),
    { numRuns: 2000 },
  );
});

test('no parser throws or reads beyond the bytes of a valid packet cut anywhere', (t) => {
  for (const frame of VALID_FRAMES) {
    for (let length = 0; length <= frame.length; length++) {
      const { bytes, beyond } = guarded(frame.slice(0, length));
      parseAll(bytes);
      t.deepEqual(beyond, [], `${Buffer.from(frame).toString('hex')} cut to ${length}`);
    }
  }
});

test('a key does not depend on what the key object held before, but for its metadata', (t) => {
  fc.assert(
    fc.property(arbitraryFrame(), (frame) => {
      const fresh = new FlowKey();
      const used = new FlowKey();
      used.words.fill(0xdeadbeef);
      t.is(extractKey(frame, fresh), extractKey(frame, used));
      t.deepEqual(used.words.slice(Word.ETH_SRC), fresh.words.slice(Word.ETH_SRC));
      t.true(used.words.subarray(0, Word.ETH_SRC).every((word) => word === 0xdeadbeef));
    }),
  );
});
