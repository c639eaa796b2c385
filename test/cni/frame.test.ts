import test from 'ava';
import fc from 'fast-check';
import { type CniRequest, encodeReply, encodeRequest, FrameError, RequestReader } from '../../cni/frame.js';

const request = fc.record({
  pid: fc.nat(),
  environment: fc
    .dictionary(
      fc.stringMatching(/^[A-Z_]{1,10}$/),
      fc.string().map((text) => text.replaceAll('\0', '')),
    )
    .map((entries) => new Map(Object.entries(entries))),
  stdin: fc.string(),
});

test('property: a request survives in whatever pieces it arrives', (t) => {
  fc.assert(
    fc.property(request, fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }), (original, sizes) => {
      const bytes = encodeRequest(original);
      const reader = new RequestReader();
      let found: CniRequest | undefined;
      for (let at = 0, i = 0; at < bytes.length; i++) {
        const size = sizes[i % sizes.length];
        if (found !== undefined) return false;
        found = reader.push(bytes.subarray(at, at + size));
        at += size;
      }
      t.deepEqual(found, original);
      return true;
    }),
  );
});

test('property: any bytes are a request or a FrameError, at once', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 4, maxLength: 200, size: 'max' }), fc.boolean(), (bytes, magic) => {
      const chunk = Buffer.from(bytes);
      if (magic) chunk.write('MNC1');
      try {
        new RequestReader().push(chunk);
        return magic;
      } catch (error) {
        return error instanceof FrameError;
      }
    }),
  );
  t.pass();
});

test('bounds and form', (t) => {
  const good = encodeRequest({ pid: 1, environment: new Map([['A', 'b']]), stdin: '{}' });
  const damaged = (change: (bytes: Buffer) => void) => {
    const bytes = Buffer.from(good);
    change(bytes);
    return () => new RequestReader().push(bytes);
  };
  t.throws(
    damaged((bytes) => bytes.writeUInt32BE(65537, 8)),
    { instanceOf: FrameError, message: /environment of 65537/ },
  );
  t.throws(
    damaged((bytes) => bytes.writeUInt32BE(1048577, 12)),
    { instanceOf: FrameError, message: /input of 1048577/ },
  );
  t.throws(
    damaged((bytes) => bytes.write('XNC1')),
    { instanceOf: FrameError, message: /MNC1/ },
  );
  t.throws(
    damaged((bytes) => bytes.writeUInt8(66, 19)),
    { instanceOf: FrameError, message: /zero byte/ },
  );
  t.throws(
    damaged((bytes) => bytes.writeUInt8(61, 16)),
    { instanceOf: FrameError, message: /no name/ },
  );
  t.throws(() => new RequestReader().push(Buffer.concat([good, Buffer.from('x')])), { message: /1 bytes too many/ });
  t.throws(() => encodeReply({ status: 0, stdout: 'x'.repeat(4 * 1024 * 1024 + 1), stderr: '' }), {
    instanceOf: FrameError,
  });
});
