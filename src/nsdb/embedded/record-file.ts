/**
 * The form of both kinds of files on disk, logs and snapshots: a header, then batches.
 *
 * ```
 * header  magic (8: "MNNSDBL1" log, "MNNSDBS1" snapshot), salt (8 random bytes)
 * batch   salt (8), length of the body (u32), CRC-32 of length and body (u32), body
 * body    records, each: length (u32), bytes
 * ```
 *
 * Numbers are big-endian. A batch is what one fsync made durable, and the next one is written only after that. So damage
 * with a sound batch behind it was done to durable data; damage at the very end is a write that a crash cut short, which
 * nobody was told of. The salt makes a batch recognisable when lengths before it cannot be trusted.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { MidonetError } from '../../errors.js';

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

const MAGIC: Record<RecordFileKind, Buffer> = { log: Buffer.from('MNNSDBL1'), snapshot: Buffer.from('MNNSDBS1') };
const SALT_LENGTH = 8;
export const FILE_HEADER_LENGTH = 16;
const BATCH_HEADER_LENGTH = 16;
/** No batch is larger: what waits for an fsync is cut into several. A length above it is damage. */
export const MAX_BATCH_BODY = 64 * 1024 * 1024;

export interface FileHeader {
  readonly bytes: Buffer;
  readonly salt: Buffer;
}

export function newFileHeader(kind: RecordFileKind): FileHeader {
  const salt = randomBytes(SALT_LENGTH);
  return { bytes: Buffer.concat([MAGIC[kind], salt]), salt };
}

/** A batch of these records as buffers to write, and their total length. */
export function encodeBatch(salt: Buffer, records: readonly Buffer[]): { buffers: Buffer[]; length: number } {
  const buffers: Buffer[] = [Buffer.allocUnsafe(BATCH_HEADER_LENGTH)];
  let body = 0;
  for (const record of records) {
    const length = Buffer.allocUnsafe(4);
    length.writeUInt32BE(record.length);
    buffers.push(length, record);
    body += 4 + record.length;
  }
  const header = buffers[0];
  salt.copy(header, 0);
  header.writeUInt32BE(body, SALT_LENGTH);
  let crc = crc32(header.subarray(SALT_LENGTH, SALT_LENGTH + 4));
  for (let i = 1; i < buffers.length; i++) crc = crc32(buffers[i], crc);
  header.writeUInt32BE(crc, SALT_LENGTH + 4);
  return { buffers, length: BATCH_HEADER_LENGTH + body };
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
  file: string,
  kind: RecordFileKind,
  onRecord: (record: Buffer, offset: number) => void,
): FileEnd {
  const fd = openSync(file, 'r');
  try {
    const size = fstatSync(fd).size;
    if (size < FILE_HEADER_LENGTH) return { salt: undefined, end: 0, torn: size };
    const header = readAt(fd, 0, FILE_HEADER_LENGTH);
    if (!header.subarray(0, MAGIC[kind].length).equals(MAGIC[kind])) {
      // A new file whose header never reached the disk holds nothing but zeros.
      if (kind === 'log' && isZero(fd, size)) return { salt: undefined, end: 0, torn: size };
      throw new StoreCorruptError(file, 0, `not a ${kind} of this server`);
    }
    const salt = header.subarray(MAGIC[kind].length);
    let at = FILE_HEADER_LENGTH;
    while (at < size) {
      const body = readBatch(fd, at, size, salt);
      if (body === undefined) {
        const next = findBatch(fd, at + 1, size, salt);
        if (next !== undefined)
          throw new StoreCorruptError(file, at, `damaged, with sound data from offset ${next} on`);
        return { salt, end: at, torn: size - at };
      }
      const bodyStart = at + BATCH_HEADER_LENGTH;
      for (let p = 0; p < body.length; ) {
        const length = p + 4 <= body.length ? body.readUInt32BE(p) : Number.POSITIVE_INFINITY;
        if (p + 4 + length > body.length)
          throw new StoreCorruptError(file, bodyStart + p, 'a record exceeds its batch');
        try {
          onRecord(body.subarray(p + 4, p + 4 + length), bodyStart + p);
        } catch (error) {
          if (error instanceof StoreCorruptError) throw error;
          throw new StoreCorruptError(file, bodyStart + p, (error as Error).message, { cause: error });
        }
        p += 4 + length;
      }
      at = bodyStart + body.length;
    }
    return { salt, end: at, torn: 0 };
  } finally {
    closeSync(fd);
  }
}

/** The body of the batch at an offset, or undefined when there is no sound one. */
function readBatch(fd: number, at: number, size: number, salt: Buffer): Buffer | undefined {
  if (at + BATCH_HEADER_LENGTH > size) return undefined;
  const header = readAt(fd, at, BATCH_HEADER_LENGTH);
  if (!header.subarray(0, SALT_LENGTH).equals(salt)) return undefined;
  const length = header.readUInt32BE(SALT_LENGTH);
  if (length > MAX_BATCH_BODY || at + BATCH_HEADER_LENGTH + length > size) return undefined;
  const body = readAt(fd, at + BATCH_HEADER_LENGTH, length);
  const crc = crc32(body, crc32(header.subarray(SALT_LENGTH, SALT_LENGTH + 4)));
  return crc === header.readUInt32BE(SALT_LENGTH + 4) ? body : undefined;
}

function findBatch(fd: number, from: number, size: number, salt: Buffer): number | undefined {
  const rest = readAt(fd, from, size - from);
  for (let at = rest.indexOf(salt); at !== -1; at = rest.indexOf(salt, at + 1)) {
    if (readBatch(fd, from + at, size, salt) !== undefined) return from + at;
  }
  return undefined;
}

function isZero(fd: number, size: number): boolean {
  return readAt(fd, 0, size).every((byte) => byte === 0);
}

function readAt(fd: number, position: number, length: number): Buffer {
  const buffer = Buffer.allocUnsafe(length);
  let done = 0;
  while (done < length) {
    const read = readSync(fd, buffer, done, length - done, position + done);
    if (read === 0) break;
    done += read;
  }
  return done === length ? buffer : buffer.subarray(0, done);
}
