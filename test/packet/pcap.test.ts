import test from 'ava';
import {
  type CapturedPacket,
  captureHeader,
  captureRecord,
  captureStatistics,
  PcapngReader,
} from '../../src/packet/pcap.js';

const PACKETS: readonly CapturedPacket[] = [
  { time: 1_700_000_000_123.456, direction: 'in', bytes: Buffer.from('abcde') },
  { time: 1_700_000_001_000, direction: 'out', bytes: Buffer.alloc(1514, 7) },
  { time: 1_700_000_001_000.001, direction: undefined, bytes: Buffer.alloc(0) },
];

test('what was written as pcapng is read again, in pieces of any length', (t) => {
  const stream = Buffer.concat([
    captureHeader('pcapng', 'port 1'),
    ...PACKETS.map((packet) => captureRecord('pcapng', packet)),
    captureStatistics('pcapng', 1_700_000_002_000, 2 ** 33 + 5),
  ]);
  for (const length of [1, 7, 64, stream.length]) {
    const reader = new PcapngReader();
    const items = [];
    for (let at = 0; at < stream.length; at += length) {
      items.push(...reader.read(Buffer.from(stream.subarray(at, at + length))));
    }
    t.deepEqual(items, [
      ...PACKETS.map((packet) => ({ ...packet, bytes: Buffer.from(packet.bytes) })),
      { leftOut: 2 ** 33 + 5 },
    ]);
  }
});

test('what is no pcapng stream is refused', (t) => {
  t.throws(() => new PcapngReader().read(Buffer.from('HTTP/1.1 200 OK\r\n')), { instanceOf: RangeError });
});

test('pcap has the layout that other programs read', (t) => {
  const [packet] = PACKETS;
  const header = Buffer.from(captureHeader('pcap', 'x'));
  t.is(header.toString('hex'), 'd4c3b2a10200040000000000000000000000040001000000');
  const record = Buffer.from(captureRecord('pcap', packet));
  t.is(record.readUInt32LE(0), 1_700_000_000);
  t.is(record.readUInt32LE(4), 123_456);
  t.is(record.toString('latin1', 16), 'abcde');
});
