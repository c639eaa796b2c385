import test from 'ava';
import fc from 'fast-check';
import {
  decodeMessage,
  encodeEntry,
  encodeMessage,
  FlowStateFormatError,
  type StateEntry,
  type StateMessage,
} from '../../../src/agent/flow-state/message.js';

const word = fc.nat(0xffff_ffff);
const port = fc.nat(0xffff);
const tuple = (family: 4 | 6) => {
  const length = family === 4 ? 1 : 4;
  const address = fc.array(word, { minLength: length, maxLength: length });
  return fc.record({ src: address, dst: address, srcPort: port, dstPort: port });
};
const entry: fc.Arbitrary<StateEntry> = fc.constantFrom(4 as const, 6 as const).chain((family) => {
  const name = { family: fc.constant(family), protocol: fc.nat(255), original: tuple(family) };
  return fc.oneof(
    fc.record({
      type: fc.constant('present' as const),
      connection: fc.record({
        ...name,
        reply: tuple(family),
        answered: fc.boolean(),
        mark: word,
        timeoutMs: fc.nat(1_000_000).map((seconds) => 1000 * seconds),
      }),
    }),
    fc.record({ type: fc.constantFrom('gone' as const, 'asked' as const), connection: fc.record(name) }),
  );
});
const header = { hostId: fc.uuid(), session: word, number: word };
const message: fc.Arbitrary<StateMessage> = fc.oneof(
  fc.record({
    type: fc.constant('state' as const),
    ...header,
    demand: word,
    sections: fc.array(fc.record({ groupId: fc.uuid(), entries: fc.array(entry, { maxLength: 3 }) }), { maxLength: 3 }),
  }),
  fc.record({ type: fc.constantFrom('acknowledged' as const, 'unknown' as const), ...header }),
);

function encode(value: StateMessage): Uint8Array {
  if (value.type !== 'state') return encodeMessage(value);
  const sections = value.sections.map(({ groupId, entries }) => ({ groupId, entries: entries.map(encodeEntry) }));
  return encodeMessage({ ...value, sections });
}

test('property: messages are decoded as they were encoded, and with a byte more are refused', (t) => {
  fc.assert(
    fc.property(message, (value) => {
      const bytes = encode(value);
      t.deepEqual(decodeMessage(bytes), value);
      t.throws(() => decodeMessage(new Uint8Array([...bytes, 0])), { instanceOf: FlowStateFormatError });
    }),
  );
});

test('property: any bytes are decoded or refused, never anything else', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200, size: 'max' }), fc.nat(3), fc.boolean(), (bytes, type, isValid) => {
      if (isValid && bytes.length > 4) bytes.set([1, type, 0, 0]);
      try {
        // Of flags only two bits mean anything.
        t.deepEqual(decodeMessage(encode(decodeMessage(bytes))), decodeMessage(bytes));
      } catch (error) {
        t.true(error instanceof FlowStateFormatError, String(error));
      }
    }),
    { numRuns: 500 },
  );
});

test('the bytes are those of the format, and another version is refused', (t) => {
  const bytes = encode({
    type: 'state',
    hostId: '00112233-4455-6677-8899-aabbccddeeff',
    session: 5,
    number: 6,
    demand: 7,
    sections: [
      {
        groupId: '10112233-4455-6677-8899-aabbccddeeff',
        entries: [
          {
            type: 'present',
            connection: {
              family: 4,
              protocol: 6,
              original: { src: [0x0a00_0001], dst: [0xc000_0209], srcPort: 40_000, dstPort: 80 },
              reply: { src: [0xc000_0209], dst: [0x0a00_0002], srcPort: 80, dstPort: 50_000 },
              answered: true,
              mark: 3,
              timeoutMs: 60_000,
            },
          },
        ],
      },
    ],
  });
  t.is(
    Buffer.from(bytes).toString('hex'),
    '01000000' +
      '00112233445566778899aabbccddeeff' +
      '00000005' +
      '00000006' +
      '00000007' +
      '10112233445566778899aabbccddeeff' +
      '0001' +
      '000106' +
      '00000003' +
      '0000003c' +
      '0a000001c00002099c400050' +
      'c00002090a0000020050c350',
  );
  bytes[0] = 2;
  t.throws(() => decodeMessage(bytes), { code: 'MN_PROTOCOL', message: /version 2/ });
});
