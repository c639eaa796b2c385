import test from 'ava';
import fc from 'fast-check';
import { describePacket } from '../../src/flow/describe.js';
import { formatPacket, type PacketText, PacketTextError, packetKey, parsePacket } from '../../src/flow/packet-text.js';
import type { Ip } from '../../src/packet/ip.js';
import { IpProtocol } from '../../src/packet/ip-protocol.js';

const word = fc.integer({ min: 0, max: 0xffff_ffff });
const byte = fc.integer({ min: 0, max: 255 });
const port = fc.integer({ min: 0, max: 65_535 });
const mac = fc.integer({ min: 0, max: 0xffff_ffff_ffff });
const ipv4: fc.Arbitrary<Ip> = word.map((one) => ({ family: 4, words: [one] }));
const ipv6: fc.Arbitrary<Ip> = fc.tuple(word, word, word, word).map((words) => ({ family: 6, words }));

/** Any of the fields, each perhaps. */
function some<T>(fields: { [F in keyof T]: fc.Arbitrary<T[F]> }): fc.Arbitrary<Partial<T>> {
  return fc.record(fields, { requiredKeys: [] }) as fc.Arbitrary<Partial<T>>;
}

const link = { sourceMac: mac, destinationMac: mac, vlan: fc.integer({ min: 0, max: 4095 }) };
const ports = { sourcePort: port, destinationPort: port };
const network = { ...link, ttl: byte, tos: byte };

function packets(protocol: number | 'arp', ip: fc.Arbitrary<Ip>, fields: object): fc.Arbitrary<PacketText> {
  return fc
    .tuple(ip, ip, some<Partial<PacketText>>(fields as never))
    .map(([source, destination, rest]) => ({ protocol, source, destination, ...rest }));
}

const anyPacket = fc.oneof(
  packets('arp', ipv4, link),
  ...[ipv4, ipv6].flatMap((ip) => [
    packets(IpProtocol.TCP, ip, { ...network, ...ports, flags: byte }),
    packets(IpProtocol.UDP, ip, { ...network, ...ports }),
    packets(IpProtocol.SCTP, ip, { ...network, ...ports }),
    packets(IpProtocol.GRE, ip, network),
  ]),
  packets(IpProtocol.ICMP, ipv4, { ...network, icmpType: byte, icmpCode: byte }),
  packets(IpProtocol.ICMPV6, ipv6, { ...network, icmpType: byte, icmpCode: byte }),
);

test('the text of a packet says all that was said of it', (t) => {
  fc.assert(
    fc.property(anyPacket, (packet) => {
      t.deepEqual(parsePacket(formatPacket(packet)), packet);
    }),
    { numRuns: 300 },
  );
});

test('packets are read as people write them', (t) => {
  const macs = 'from 02:00:00:00:00:01 to 02:00:00:00:00:02';
  const tail = '02:00:00:00:00:01 > 02:00:00:00:00:02';
  const read = (text: string) => describePacket(packetKey(parsePacket(`${text} ${macs}`)));
  t.is(read('tcp 10.0.0.1:1234 > 10.0.0.2:80'), `tcp 10.0.0.1:1234 > 10.0.0.2:80, ttl 64, ${tail}`);
  t.is(read('tcp 10.0.0.1>10.0.0.2:80'), `tcp 10.0.0.1:0 > 10.0.0.2:80, ttl 64, ${tail}`);
  t.is(read('udp [fd00::1]:53 > [fd00::2]:53 ttl 3 vlan 7'), `udp [fd00::1]:53 > [fd00::2]:53, ttl 3, vlan 7, ${tail}`);
  t.is(read('udp fd00::1 > [fd00::2]:53'), `udp [fd00::1]:0 > [fd00::2]:53, ttl 64, ${tail}`);
  t.is(read('icmp 10.0.0.1 > 10.0.0.2'), `icmp type 8 code 0, 10.0.0.1 > 10.0.0.2, ttl 64, ${tail}`);
  t.is(read('icmp 10.0.0.1 > 10.0.0.2 type 3 code 1'), `icmp type 3 code 1, 10.0.0.1 > 10.0.0.2, ttl 64, ${tail}`);
  t.is(read('icmp fd00::1 > fd00::2 echo-reply'), `icmpv6 type 129 code 0, fd00::1 > fd00::2, ttl 64, ${tail}`);
  t.is(read('protocol 47 10.0.0.1 > 10.0.0.2'), `protocol 47 10.0.0.1 > 10.0.0.2, ttl 64, ${tail}`);
  t.is(
    describePacket(packetKey(parsePacket('arp 10.0.0.1 > 10.0.0.2 from 02:00:00:00:00:01'))),
    'arp who-has 10.0.0.2 tell 10.0.0.1, 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff',
  );
  t.is(packetKey(parsePacket(`tcp 10.0.0.1 > 10.0.0.2 ${macs} flags syn,ack`)).tcpFlags, 18);
  t.throws(() => packetKey(parsePacket('udp 10.0.0.1 > 10.0.0.2 from 02:00:00:00:00:01')), { message: /to MAC/ });
});

test('an error points at the word that is at fault', (t) => {
  const wrong: [text: string, word: string][] = [
    ['', ''],
    ['tcpx 10.0.0.1 > 10.0.0.2', 'tcpx'],
    ['tcp', ''],
    ['tcp 10.0.0 > 10.0.0.2', '10.0.0'],
    ['tcp 10.0.0.1 10.0.0.2', '10.0.0.2'],
    ['tcp 10.0.0.1 >', ''],
    ['tcp 10.0.0.1 > fd00::2', 'fd00::2'],
    ['tcp 10.0.0.1:65536 > 10.0.0.2', '10.0.0.1:65536'],
    ['tcp 10.0.0.1 > [10.0.0.2', '[10.0.0.2'],
    ['icmp 10.0.0.1:1 > 10.0.0.2', '10.0.0.1:1'],
    ['arp fd00::1 > fd00::2', 'fd00::2'],
    ['icmpv6 10.0.0.1 > 10.0.0.2', '10.0.0.2'],
    ['tcp 10.0.0.1 > 10.0.0.2 form 02:00:00:00:00:01', 'form'],
    ['tcp 10.0.0.1 > 10.0.0.2 from 02:00', '02:00'],
    ['tcp 10.0.0.1 > 10.0.0.2 from', ''],
    ['tcp 10.0.0.1 > 10.0.0.2 ttl 256', '256'],
    ['tcp 10.0.0.1 > 10.0.0.2 ttl -1', '-1'],
    ['tcp 10.0.0.1 > 10.0.0.2 ttl 1 ttl 2', 'ttl'],
    ['tcp 10.0.0.1 > 10.0.0.2 flags syn,nak', 'syn,nak'],
    ['udp 10.0.0.1 > 10.0.0.2 flags syn', 'flags'],
    ['icmp 10.0.0.1 > 10.0.0.2 type 8 echo-request', 'echo-request'],
    ['arp 10.0.0.1 > 10.0.0.2 ttl 1', 'ttl'],
    ['protocol 256 10.0.0.1 > 10.0.0.2', '256'],
  ];
  for (const [text, word] of wrong) {
    const error = t.throws(() => parsePacket(text), { instanceOf: PacketTextError }, text);
    t.is(text.slice(error?.start, error?.end), word, text);
    t.is(error?.field, 'packet');
  }
});

test('whatever is written, it is a packet or an error', (t) => {
  const word = fc.constantFrom(
    'tcp',
    'icmp',
    'arp',
    '10.0.0.1',
    '[fd00::1]:80',
    '>',
    'from',
    '02:00:00:00:00:01',
    'ttl',
  );
  fc.assert(
    fc.property(fc.array(fc.oneof(word, fc.string()), { maxLength: 8 }), (words) => {
      try {
        parsePacket(words.join(' '));
      } catch (error) {
        if (!(error instanceof PacketTextError)) throw error;
      }
    }),
    { numRuns: 300 },
  );
  t.pass();
});
