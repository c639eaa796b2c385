/**
 * The compliance suite of the flow state archive. A test file calls {@link archiveCompliance} with how to open an archive and how to
 * stop and start its server; one ava test per behaviour.
 */
import { randomUUID } from 'node:crypto';
import type { ExecutionContext, TestFn } from 'ava';
import { type ArchivedRecord, type FlowStateArchive, MAX_RECORD_BYTES } from '../../src/nsdb/flow-state/archive.js';
import { until } from './store.js';

export interface ArchiveServer {
  /** A client of its own, whose calls end within {@link CALL_MS}. The suite closes it. */
  open(): FlowStateArchive;
  /** As a crash would. */
  stop(): Promise<void>;
  resume(): Promise<void>;
  close(): Promise<void>;
}

/** How long a call of an archive in the suite may take. */
export const CALL_MS = 20_000;

const bytes = (text: string) => new TextEncoder().encode(text);
const record = (time: number, text: string): ArchivedRecord => ({ time, record: bytes(text) });

async function lookup(archive: FlowStateArchive, portId: string, since?: number): Promise<[number, string][]> {
  const found: [number, string][] = [];
  for await (const { time, record } of archive.lookup(portId, { since })) {
    found.push([time, Buffer.from(record).toString()]);
  }
  return found;
}

export function archiveCompliance(test: TestFn, start: () => Promise<ArchiveServer>): void {
  let server: ArchiveServer | undefined;
  const archives: FlowStateArchive[] = [];
  const open = () => {
    const archive = server!.open();
    archives.push(archive);
    return archive;
  };
  let archive: FlowStateArchive;

  test.before(async (t) => {
    t.timeout(240_000);
    server = await start();
    archive = open();
  });
  test.after.always(async () => {
    for (const one of archives) await one.close();
    await server?.close();
  });
  // One after the other: the last one stops the server.
  const declare = (title: string, body: (t: ExecutionContext) => Promise<void>) => test.serial(title, body);

  declare('what was stored is looked up by port, in order of time', async (t) => {
    const [port, other] = [randomUUID(), randomUUID()];
    await archive.store(port, [record(3000, 'c'), record(1000, 'a')], { ttl: 600 });
    await archive.store(other, [record(1500, 'other')], { ttl: 600 });
    await archive.store(port, [record(2000, 'b')], { ttl: 600 });
    await archive.store(port, [], { ttl: 600 });
    const expected: [number, string][] = [
      [1000, 'a'],
      [2000, 'b'],
      [3000, 'c'],
    ];
    t.deepEqual(await lookup(archive, port), expected);
    t.deepEqual(await lookup(archive, port, 2000), expected.slice(1));
    t.deepEqual(await lookup(open(), port), expected, 'another host');
    t.deepEqual(await lookup(archive, randomUUID()), []);
  });

  declare('records of one moment are all kept, equal ones too', async (t) => {
    const port = randomUUID();
    await archive.store(port, [record(1000, 'a'), record(1000, 'a'), record(1000, 'b')], { ttl: 600 });
    t.deepEqual((await lookup(archive, port)).map(([, text]) => text).sort(), ['a', 'a', 'b']);
  });

  declare('records are gone after their time to live, others stay', async (t) => {
    const port = randomUUID();
    await archive.store(port, [record(1000, 'short')], { ttl: 1 });
    await archive.store(port, [record(2000, 'long')], { ttl: 600 });
    await until('the short one is gone', async () => (await lookup(archive, port)).length === 1);
    t.deepEqual(await lookup(archive, port), [[2000, 'long']]);
  });

  declare('a port that is removed has no records, and may have new ones', async (t) => {
    const [port, other] = [randomUUID(), randomUUID()];
    for (const one of [port, other]) await archive.store(one, [record(1, 'x'), record(2, 'y')], { ttl: 600 });
    await archive.remove(port);
    await archive.remove(port);
    t.deepEqual(await lookup(archive, port), []);
    t.is((await lookup(archive, other)).length, 2);
    await archive.store(port, [record(3, 'z')], { ttl: 600 });
    t.deepEqual(await lookup(archive, port), [[3, 'z']]);
  });

  declare('several hosts store for one port at once', async (t) => {
    const port = randomUUID();
    const hosts = Array.from({ length: 4 }, open);
    await Promise.all(
      hosts.flatMap((host, h) =>
        Array.from({ length: 8 }, (_, i) => {
          const records = Array.from({ length: 25 }, (_, n) => record(1000 * i + n, `${h} ${i} ${n}`));
          return host.store(port, records, { ttl: 600 });
        }),
      ),
    );
    const found = await lookup(archive, port);
    t.is(new Set(found.map(([, text]) => text)).size, 4 * 8 * 25);
    t.deepEqual(
      found.map(([time]) => time),
      found.map(([time]) => time).sort((a, b) => a - b),
    );
  });

  declare('many records, and the longest ones', async (t) => {
    const port = randomUUID();
    const many = Array.from({ length: 5000 }, (_, i) => record(i, `record ${i} ${'.'.repeat(30)}`));
    await archive.store(port, many, { ttl: 600 });
    const longest = Array.from({ length: 3 }, (_, i) => ({
      time: 10_000 + i,
      record: new Uint8Array(MAX_RECORD_BYTES).fill(i),
    }));
    await archive.store(port, longest, { ttl: 600 });
    const found: ArchivedRecord[] = [];
    for await (const one of archive.lookup(port)) found.push(one);
    t.is(found.length, 5003);
    t.is(Buffer.from(found[4999].record).toString(), `record 4999 ${'.'.repeat(30)}`);
    for (const [i, { record }] of longest.entries()) t.true(Buffer.from(found[5000 + i].record).equals(record));
    let read = 0;
    for await (const _ of archive.lookup(port)) if (++read === 10) break;
    t.is(read, 10, 'whoever has enough stops');
  });

  declare('what is not valid is refused by name', async (t) => {
    const port = randomUUID();
    const wrong: [Promise<unknown>, RegExp][] = [
      [archive.store('port', [record(1, 'x')], { ttl: 1 }), /^portId.*"port"/],
      [archive.store(port, [record(1, 'x')], { ttl: 0 }), /^ttl.*0/],
      [archive.store(port, [record(1, 'x')], { ttl: 1.5 }), /^ttl.*1\.5/],
      [archive.store(port, [record(1, 'x'), record(-1, 'x')], { ttl: 1 }), /^records\[1\]\.time.*-1/],
      [
        archive.store(port, [{ time: 1, record: new Uint8Array(MAX_RECORD_BYTES + 1) }], { ttl: 1 }),
        /^records\[0\]\.record.*262145 bytes/,
      ],
      [archive.remove('port'), /^portId/],
      [lookup(archive, 'port'), /^portId/],
    ];
    for (const [call, message] of wrong) await t.throwsAsync(call, { code: 'MN_INVALID_INPUT', message });
    t.deepEqual(await lookup(archive, port), []);
  });

  declare('a call ends with its signal', async (t) => {
    const signal = AbortSignal.abort(new Error('enough'));
    await t.throwsAsync(archive.store(randomUUID(), [record(1, 'x')], { ttl: 1, signal }), { message: 'enough' });
    await t.throwsAsync(archive.remove(randomUUID(), signal), { message: 'enough' });
    await t.throwsAsync(archive.lookup(randomUUID(), { signal })[Symbol.asyncIterator]().next(), { message: 'enough' });
  });

  declare('without its server every call fails in bounded time, and works again when it is back', async (t) => {
    t.timeout(240_000);
    const port = randomUUID();
    await archive.store(port, [record(1, 'before')], { ttl: 3600 });
    await server!.stop();
    const late = open();
    for (const one of [archive, late]) {
      const began = performance.now();
      await t.throwsAsync(one.store(port, [record(2, 'lost')], { ttl: 3600 }), {
        code: 'MN_ARCHIVE_UNAVAILABLE',
        message: new RegExp(`store for port ${port}: .`),
      });
      await t.throwsAsync(lookup(one, port), { code: 'MN_ARCHIVE_UNAVAILABLE' });
      await t.throwsAsync(one.remove(port), { code: 'MN_ARCHIVE_UNAVAILABLE' });
      // Three calls, and what a busy machine adds.
      t.true(performance.now() - began < 5 * CALL_MS);
    }
    await server!.resume();
    for (const one of [archive, late]) {
      await until(
        'it works again',
        () =>
          lookup(one, port).then(
            () => true,
            () => false,
          ),
        120_000,
      );
      await one.store(port, [record(3, 'after')], { ttl: 3600 });
    }
    const found = (await lookup(archive, port)).map(([, text]) => text);
    t.deepEqual(
      found.filter((text) => text !== 'lost'),
      ['before', 'after', 'after'],
    );
  });
}
