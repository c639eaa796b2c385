/**
 * The form of both kinds of files on disk, logs and snapshots: a header, then batches.
 *
 * ```
 * header  magic (8: "MNNSDBL2" log, "MNNSDBS2" snapshot), salt (8 random bytes), CRC-32 of both (u32)
 * batch   salt (8), length of the body (u32), CRC-32 of length and body (u32), body
 * body    records, each: length (u32), bytes
 * ```
 *
 * Numbers are big-endian. A batch is what one fsync made durable, and the next one is written only after that. So damage
 * with another batch behind it, sound or not, was done to durable data; damage at the very end is taken for a write that a
 * crash cut short, which nobody was told of. The salt makes a batch recognisable when lengths before it cannot be trusted.
 * The header is durable before the first batch is written. A log that was closed ends with an empty batch, so that all of
 * its data have a batch behind them.
 */
import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { MidonetError } from '../../errors.js';
import type { Disk, ReadableFile } from './disk.js';

/** Data on disk fail their checks. Nothing was changed; the file is left for whoever looks into it. */
export class StoreCorruptError extends MidonetError {
  constructor(
    readonly file: string,
    readonly offset: number,
    detail: string,
    options?: ErrorOptions,
  ) {
    super('MN_STORE_CORRUPT', `${file} at offset ${offset}: ${detail}`, options);
  }
}

export type RecordFileKind = 'log' | 'snapshot';

const MAGIC: Record<RecordFileKind, Buffer> = { log: Buffer.from('MNNSDBL2'), snapshot: Buffer.from('MNNSDBS2') };
const MAGIC_LENGTH = 8;
const SALT_LENGTH = 8;
export const FILE_HEADER_LENGTH = MAGIC_LENGTH + SALT_LENGTH + 4;
const BATCH_HEADER_LENGTH = 16;
/** No batch is larger: what waits for an fsync is cut into several. A length above it is damage. */
export const MAX_BATCH_BODY = 64 * 1024 * 1024;

export interface FileHeader {
  readonly bytes: Buffer;
  readonly salt: Buffer;
}

export function newFileHeader(kind: RecordFileKind): FileHeader {
  const salt = randomBytes(SALT_LENGTH);
  return { bytes: fileHeader(kind, salt), salt };
}

function fileHeader(kind: RecordFileKind, salt: Buffer): Buffer {
  const bytes = Buffer.concat([MAGIC[kind], salt], FILE_HEADER_LENGTH);
  bytes.writeUInt32BE(crc32(bytes.subarray(0, MAGIC_LENGTH + SALT_LENGTH)), MAGIC_LENGTH + SALT_LENGTH);
  return bytes;
}

/** A batch of these records, in one piece: one write and one checksum cost less than many small ones. */
export function encodeBatch(salt: Buffer, records: readonly Buffer[]): Buffer {
  let body = 0;
  for (const record of records) body += 4 + record.length;
  const batch = Buffer.allocUnsafe(BATCH_HEADER_LENGTH + body);
  salt.copy(batch, 0);
  batch.writeUInt32BE(body, SALT_LENGTH);
  let at = BATCH_HEADER_LENGTH;
  for (const record of records) {
    batch.writeUInt32BE(record.length, at);
    batch.set(record, at + 4);
    at += 4 + record.length;
  }
  const crc = crc32(batch.subarray(BATCH_HEADER_LENGTH), crc32(batch.subarray(SALT_LENGTH, SALT_LENGTH + 4)));
  batch.writeUInt32BE(crc, SALT_LENGTH + 4);
  return batch;
}

/** How reading a file ended. */
export interface FileEnd {
  readonly salt: Buffer | undefined;
  /** Where the last sound batch ends. */
  readonly end: number;
  /** Bytes behind that: a write that was cut short. */
  readonly torn: number;
}

/**
 * Calls `onRecord` for every record in order.
 *
 * @throws StoreCorruptError when something is wrong before the end of what was durable.
 */
export function readRecordFile(
  disk: Disk,
  path: string,
  kind: RecordFileKind,
  onRecord: (record: Buffer, offset: number) => void,
): FileEnd {
  const file = disk.openToRead(path);
  try {
    const { size } = file;
    const header = readAt(file, 0, FILE_HEADER_LENGTH);
    const salt = header.subarray(MAGIC_LENGTH, MAGIC_LENGTH + SALT_LENGTH);
    if (!header.equals(fileHeader(kind, salt))) {
      // A new file whose header never reached the disk, or not all of it: nothing has been written behind it.
      if (size <= FILE_HEADER_LENGTH) return { salt: undefined, end: 0, torn: size };
      // The last character of the magic is the version of the form.
      const isOurs = header.subarray(0, MAGIC_LENGTH - 1).equals(MAGIC[kind].subarray(0, MAGIC_LENGTH - 1));
      const isOtherVersion = isOurs && header[MAGIC_LENGTH - 1] !== MAGIC[kind][MAGIC_LENGTH - 1];
      const what = isOtherVersion
        ? `a ${kind} of another version of this server, or damaged`
        : `not a ${kind} of this server`;
      throw new StoreCorruptError(path, 0, what);
    }
    let at = FILE_HEADER_LENGTH;
    while (at < size) {
      const body = readBatch(file, at, salt);
      if (body === undefined) {
        const next = nextBatch(file, at, salt);
        if (next !== undefined) throw new StoreCorruptError(path, at, `damaged, with data from offset ${next} on`);
        return { salt, end: at, torn: size - at };
      }
      const bodyStart = at + BATCH_HEADER_LENGTH;
      for (let p = 0; p < body.length; ) {
        const length = p + 4 <= body.length ? body.readUInt32BE(p) : Number.POSITIVE_INFINITY;
        if (p + 4 + length > body.length)
          throw new StoreCorruptError(path, bodyStart + p, 'a record exceeds its batch');
        try {
          onRecord(body.subarray(p + 4, p + 4 + length), bodyStart + p);
        } catch (error) {
          if (error instanceof StoreCorruptError) throw error;
          throw new StoreCorruptError(path, bodyStart + p, (error as Error).message, { cause: error });
        }
        p += 4 + length;
      }
      at = bodyStart + body.length;
    }
    return { salt, end: at, torn: 0 };
  } finally {
    file.close();
  }
}

/** The body of the batch at an offset, or undefined when there is no sound one. */
function readBatch(file: ReadableFile, at: number, salt: Buffer): Buffer | undefined {
  const header = readAt(file, at, BATCH_HEADER_LENGTH);
  if (header.length < BATCH_HEADER_LENGTH || !header.subarray(0, SALT_LENGTH).equals(salt)) return undefined;
  const length = header.readUInt32BE(SALT_LENGTH);
  if (length > MAX_BATCH_BODY || at + BATCH_HEADER_LENGTH + length > file.size) return undefined;
  const body = readAt(file, at + BATCH_HEADER_LENGTH, length);
  const crc = crc32(body, crc32(header.subarray(SALT_LENGTH, SALT_LENGTH + 4)));
  return crc === header.readUInt32BE(SALT_LENGTH + 4) ? body : undefined;
}

/** Where another batch begins, sound or not, behind the damaged one at an offset. */
function nextBatch(file: ReadableFile, damaged: number, salt: Buffer): number | undefined {
  const from = damaged + 1;
  const found = readAt(file, from, file.size - from).indexOf(salt);
  return found === -1 ? undefined : from + found;
}

/** Bytes of the file; fewer where it ends. */
function readAt(file: ReadableFile, position: number, length: number): Buffer {
  const buffer = Buffer.allocUnsafe(length);
  let done = 0;
  while (done < length) {
    const read = file.read(buffer, done, length - done, position + done);
    if (read === 0) break;
    done += read;
  }
  return done === length ? buffer : buffer.subarray(0, done);
}
