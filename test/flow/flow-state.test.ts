import test from 'ava';
import fc from 'fast-check';
import {
  decodeFlowState,
  encodeFlowState,
  type FlowState,
  FlowStateFormatError,
  type FlowTuple,
} from '../../src/flow/flow-state.js';
import { parseIp } from '../../src/packet/ip.js';

const port = fc.nat(0xffff);
const word = fc.nat(0xffff_ffff);
const tuple: fc.Arbitrary<FlowTuple> = fc.constantFrom(4 as const, 6 as const).chain((family) => {
  const ip = fc.record({
    family: fc.constant(family),
    words: fc.array(word, { minLength: family === 4 ? 1 : 4, maxLength: family === 4 ? 1 : 4 }),
  });
  return fc.record({ protocol: fc.nat(255), source: ip, destination: ip, sourcePort: port, destinationPort: port });
});
const state: fc.Arbitrary<FlowState> = fc.oneof(
  fc.record({ type: fc.constant('connection' as const), deviceId: fc.uuid(), zone: port, tuple }),
  fc.record({
    type: fc.constant('nat' as const),
    kind: fc.constantFrom('source' as const, 'destination' as const, 'sticky' as const),
    deviceId: fc.uuid(),
    before: tuple,
    after: tuple,
  }),
);

test('property: flow state is decoded as it was encoded, and cut or lengthened it is refused', (t) => {
  fc.assert(
    fc.property(state, fc.nat(200), (value, cut) => {
      const bytes = encodeFlowState(value);
      t.deepEqual(decodeFlowState(bytes), value);
      t.throws(() => decodeFlowState(bytes.subarray(0, cut % bytes.length)), { instanceOf: FlowStateFormatError });
      t.throws(() => decodeFlowState(new Uint8Array([...bytes, 0])), { instanceOf: FlowStateFormatError });
    }),
  );
});

test('property: any bytes are decoded or refused, never anything else', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 120, size: 'max' }), fc.nat(5), (bytes, type) => {
      if (bytes.length > 1) bytes.set([1, type]);
      try {
        t.deepEqual(encodeFlowState(decodeFlowState(bytes)), bytes);
      } catch (error) {
        t.true(error instanceof FlowStateFormatError, String(error));
      }
    }),
    { numRuns: 500 },
  );
  t.pass();
});

test('the bytes are those of the format, and another version is refused', (t) => {
  const value: FlowState = {
    type: 'connection',
    deviceId: '00112233-4455-6677-8899-aabbccddeeff',
    zone: 7,
    tuple: {
      protocol: 6,
      source: parseIp('10.0.0.1')!,
      destination: parseIp('192.0.2.9')!,
      sourcePort: 40_000,
      destinationPort: 80,
    },
  };
  const bytes = encodeFlowState(value);
  t.is(
    Buffer.from(bytes).toString('hex'),
    '0101' + '00112233445566778899aabbccddeeff' + '0007' + '0604' + '0a000001' + 'c0000209' + '9c40' + '0050',
  );
  bytes[0] = 2;
  t.throws(() => decodeFlowState(bytes), { code: 'MN_PROTOCOL', message: /version 2/ });
});

test('what cannot be encoded is named', (t) => {
  const [v4, v6] = [parseIp('10.0.0.1')!, parseIp('fd00::1')!];
  const good: FlowTuple = { protocol: 17, source: v4, destination: v4, sourcePort: 1, destinationPort: 2 };
  const encode = (change: Partial<FlowTuple>, zone = 0, deviceId = '00112233-4455-6677-8899-aabbccddeeff') =>
    encodeFlowState({ type: 'connection', deviceId, zone, tuple: { ...good, ...change } });
  const wrong: [() => unknown, RegExp][] = [
    [() => encode({ destination: v6 }), /^destination.*IPv4/],
    [() => encode({ protocol: 256 }), /^protocol.*256/],
    [() => encode({ sourcePort: -1 }), /^sourcePort.*-1/],
    [() => encode({ destinationPort: 65_536 }), /^destinationPort.*65536/],
    [() => encode({}, 65_536), /^zone.*65536/],
    [() => encode({}, 0, 'router'), /^deviceId.*"router"/],
  ];
  for (const [call, message] of wrong) t.throws(call, { code: 'MN_INVALID_INPUT', message });
});
