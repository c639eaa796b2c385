import test from 'ava';
import fc from 'fast-check';
import { ProtocolError } from '../../../src/datapath/netlink/errors.js';
import {
  AttributeReader,
  LITTLE_ENDIAN,
  MessageReader,
  MessageWriter,
  NLA_F_NESTED,
  NLM_F_REQUEST,
} from '../../../src/datapath/netlink/message.js';

type Tree =
  | { readonly kind: 'u8' | 'u16' | 'u32' | 'u64' | 'be16' | 'be32' | 'be64' | 'mac'; type: number; value: number }
  | { readonly kind: 'raw'; type: number; value: Uint8Array }
  | { readonly kind: 'string'; type: number; value: string }
  | { readonly kind: 'flag'; type: number }
  | { readonly kind: 'nest'; type: number; value: Tree[] };

const type = fc.integer({ min: 0, max: 0x3fff });

function scalar(kind: 'u8' | 'u16' | 'u32' | 'u64' | 'be16' | 'be32' | 'be64' | 'mac', max: number) {
  return fc.record({ kind: fc.constant(kind), type, value: fc.maxSafeInteger().map((n) => Math.abs(n) % (max + 1)) });
}

const tree = fc.letrec<{ node: Tree; leaf: Tree; nest: Tree }>((tie) => ({
  node: fc.oneof({ maxDepth: 4 }, tie('leaf'), tie('nest')),
  leaf: fc.oneof(
    scalar('u8', 0xff),
    scalar('u16', 0xffff),
    scalar('u32', 0xffffffff),
    scalar('u64', Number.MAX_SAFE_INTEGER - 1),
    scalar('be16', 0xffff),
    scalar('be32', 0xffffffff),
    scalar('be64', Number.MAX_SAFE_INTEGER - 1),
    scalar('mac', 0xffffffffffff),
    fc.record({ kind: fc.constant('raw' as const), type, value: fc.uint8Array({ maxLength: 100, size: 'max' }) }),
    fc.record({
      kind: fc.constant('string' as const),
      type,
      value: fc.string().map((text) => text.replaceAll('\0', '')),
    }),
    fc.record({ kind: fc.constant('flag' as const), type }),
  ),
  nest: fc.record({ kind: fc.constant('nest' as const), type, value: fc.array(tie('node'), { maxLength: 5 }) }),
})).node;

function write(writer: MessageWriter, trees: readonly Tree[]): void {
  for (const one of trees) {
    switch (one.kind) {
      case 'raw':
        writer.raw(one.type, one.value);
        break;
      case 'string':
        writer.string(one.type, one.value);
        break;
      case 'flag':
        writer.flag(one.type);
        break;
      case 'nest': {
        const nest = writer.nest(one.type | NLA_F_NESTED);
        write(writer, one.value);
        writer.endNest(nest);
        break;
      }
      default:
        writer[one.kind](one.type, one.value);
    }
  }
}

function read(reader: AttributeReader, like: readonly Tree[]): Tree[] {
  const trees: Tree[] = [];
  for (const one of like) {
    if (!reader.next()) {
      break;
    }
    switch (one.kind) {
      case 'raw':
        trees.push({ kind: one.kind, type: reader.type, value: reader.raw().slice() });
        break;
      case 'string':
        trees.push({ kind: one.kind, type: reader.type, value: reader.string() });
        break;
      case 'flag':
        trees.push({ kind: one.kind, type: reader.type });
        break;
      case 'nest':
        trees.push({
          kind: one.kind,
          type: reader.type,
          value: read(reader.enter(new AttributeReader()), one.value),
        });
        break;
      default:
        trees.push({ kind: one.kind, type: reader.type, value: reader[one.kind]() });
    }
  }
  return trees;
}

test('what is written is read back, in many messages and after the buffer was used before', (t) => {
  const writer = new MessageWriter(0);
  fc.assert(
    fc.property(fc.array(fc.array(tree, { maxLength: 6 }), { minLength: 1, maxLength: 5 }), (messages) => {
      writer.bytes.fill(0xaa);
      writer.reset();
      messages.forEach((trees, index) => {
        writer.begin(0x20 + index, NLM_F_REQUEST, 1000 + index);
        writer.genl(index, 1);
        write(writer, trees);
      });
      const bytes = writer.finish();
      const reader = new MessageReader(bytes);
      messages.forEach((trees, index) => {
        t.true(reader.next());
        t.is(reader.type, 0x20 + index);
        t.is(reader.flags, NLM_F_REQUEST);
        t.is(reader.sequence, 1000 + index);
        t.is(bytes[reader.offset], index);
        const attributes = reader.attributes(new AttributeReader(), 4);
        t.deepEqual(read(attributes, trees), trees);
        t.false(attributes.next());
      });
      t.false(reader.next());
      t.is(writer.count, messages.length);
    }),
  );
});

test('the bytes are those of the kernel headers', (t) => {
  const writer = new MessageWriter();
  writer.begin(0x1234, 0x0305, 7);
  writer.genl(3, 1);
  writer.be16(1, 0x0102);
  const nest = writer.nest(2);
  writer.string(3, 'ab');
  writer.endNest(nest);
  writer.mac(4, 0x0102_0304_0506);
  const host = (bytes: string) => {
    const number = Buffer.from(bytes.replaceAll(' ', ''), 'hex');
    return (LITTLE_ENDIAN ? number.reverse() : number).toString('hex');
  };
  const expected = [
    host('00000034'),
    host('1234'),
    host('0305'),
    host('00000007'),
    '00000000',
    '03010000',
    `${host('0006') + host('0001')}01020000`,
    `${host('000c') + host('0002') + host('0007') + host('0003')}61620000`,
    `${host('000a') + host('0004')}0102030405060000`,
  ].join('');
  t.is(Buffer.from(writer.finish()).toString('hex'), expected);
});

test('cancelled messages and attributes leave nothing', (t) => {
  const writer = new MessageWriter();
  writer.begin(0x10, 0);
  writer.u32(1, 1);
  const kept = writer.finish().slice();
  writer.begin(0x11, 0);
  writer.u32(2, 2);
  writer.cancel();
  t.deepEqual(writer.finish(), kept);
  t.is(writer.count, 1);
  writer.begin(0x12, 0);
  const length = writer.length;
  const nest = writer.nest(1);
  writer.u32(2, 2);
  writer.cancelNest(nest);
  t.is(writer.length, length);
});

test('an attribute longer than its length field can say is refused', (t) => {
  const writer = new MessageWriter();
  writer.begin(0x10, 0);
  t.throws(() => writer.attribute(5, 65532), { code: 'MN_INVALID_INPUT', message: /attribute 5 .*65531/ });
  const nest = writer.nest(6);
  writer.raw(1, new Uint8Array(65000));
  writer.raw(1, new Uint8Array(1000));
  t.throws(() => writer.endNest(nest), { code: 'MN_INVALID_INPUT', message: /attribute 6/ });
});

/** Read everything as everything. Ends by itself, or the readers do not make progress. */
function devour(bytes: Uint8Array): void {
  let steps = 0;
  const walk = (reader: AttributeReader, depth: number) => {
    while (reader.next()) {
      if (++steps > 100_000) {
        throw new Error('no end');
      }
      for (const kind of ['u8', 'u16', 'u32', 'i32', 'u64', 'be16', 'be32', 'be64', 'mac', 'raw', 'string'] as const) {
        try {
          reader[kind]();
        } catch (error) {
          if (!(error instanceof ProtocolError)) {
            throw error;
          }
        }
      }
      if (depth > 0 && reader.length > 0) {
        try {
          walk(reader.enter(new AttributeReader()), depth - 1);
        } catch (error) {
          if (!(error instanceof ProtocolError)) {
            throw error;
          }
        }
      }
    }
  };
  const messages = new MessageReader(bytes);
  try {
    while (messages.next()) {
      if (++steps > 100_000) {
        throw new Error('no end');
      }
      walk(messages.attributes(new AttributeReader(), 4), 3);
    }
  } catch (error) {
    if (!(error instanceof ProtocolError)) {
      throw error;
    }
  }
  try {
    walk(new AttributeReader(bytes), 3);
  } catch (error) {
    if (!(error instanceof ProtocolError)) {
      throw error;
    }
  }
}

test('random bytes give nothing worse than ProtocolError', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300, size: 'max' }), (bytes) => {
      t.notThrows(() => devour(bytes));
    }),
    { numRuns: 1000 },
  );
});

test('truncated and damaged messages give nothing worse than ProtocolError', (t) => {
  fc.assert(
    fc.property(
      fc.array(tree, { maxLength: 6 }),
      fc.nat(),
      fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 4 }),
      (trees, cut, damage) => {
        const writer = new MessageWriter();
        writer.begin(0x10, 0);
        writer.genl(1, 1);
        write(writer, trees);
        const bytes = writer.finish().slice(0, cut % (writer.length + 1));
        for (const [at, value] of damage) {
          if (bytes.length > 0) {
            bytes[at % bytes.length] = value;
          }
        }
        t.notThrows(() => devour(bytes));
      },
    ),
    { numRuns: 500 },
  );
});

test('every cut of a message is noticed', (t) => {
  const writer = new MessageWriter();
  writer.begin(0x10, 0);
  writer.u32(1, 1);
  writer.string(2, 'text');
  const bytes = writer.finish();
  for (let length = 1; length < bytes.length; length++) {
    t.throws(() => new MessageReader(bytes.subarray(0, length)).next(), { instanceOf: ProtocolError });
  }
  const attributes = bytes.subarray(16, 24);
  for (const length of [1, 2, 3, 4, 5, 6, 7]) {
    t.throws(() => new AttributeReader(attributes.subarray(0, length)).next(), { instanceOf: ProtocolError });
  }
});

test('a reader refuses a range outside its bytes and a value longer than its attribute', (t) => {
  const reader = new AttributeReader();
  t.throws(() => reader.reset(new Uint8Array(8), 4, 12), { instanceOf: ProtocolError });
  t.throws(() => reader.reset(new Uint8Array(8), 6, 4), { instanceOf: ProtocolError });
  t.throws(() => reader.reset(new Uint8Array(8), Number.NaN, 4), { instanceOf: ProtocolError });
  const writer = new MessageWriter();
  writer.u16(9, 1);
  reader.reset(writer.bytes, 0, writer.length);
  t.true(reader.next());
  t.throws(() => reader.u32(), { instanceOf: ProtocolError, message: /attribute 9 at 0 has 2 bytes instead of 4/ });
});
