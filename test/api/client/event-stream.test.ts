import test from 'ava';
import fc from 'fast-check';
import { readEvents, type StreamEvent } from '../../../src/api/client/event-stream.js';

async function eventsOf(parts: readonly Buffer[]): Promise<StreamEvent[]> {
  const all: StreamEvent[] = [];
  for await (const events of readEvents(parts as unknown as AsyncIterable<Buffer>)) all.push(...events);
  return all;
}

const TEXT = [
  ': hello\n\n',
  'event: put\nid: 7\ndata: {"name":"größe\u2028"}\n\n',
  'data: one\r\ndata:two\r\n\r\n',
  'event: delete\ndata: {}\n\n',
  'event: empty\n\n',
  'id: 8\n\n',
  'data: cut off',
].join('');

const EVENTS: readonly StreamEvent[] = [
  { type: 'put', data: '{"name":"größe\u2028"}', id: '7' },
  { type: 'message', data: 'one\ntwo', id: '7' },
  { type: 'delete', data: '{}', id: '7' },
  { type: 'message', data: '', id: '8' },
];

test('events are read the same however the stream is cut', async (t) => {
  const bytes = Buffer.from(TEXT);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(bytes.length), { maxLength: 8 }), async (cuts) => {
      const ends = [0, ...cuts.sort((a, b) => a - b), bytes.length];
      const parts = ends.slice(1).map((end, i) => bytes.subarray(ends[i], end));
      t.deepEqual(await eventsOf(parts), EVENTS);
    }),
    { numRuns: 50 },
  );
});
