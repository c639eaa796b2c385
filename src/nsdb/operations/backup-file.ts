/**
 * The form of a backup: lines of JSON, compressed with gzip.
 *
 * ```
 * {"format":"midonet-nsdb-backup","version":1,"time":"2030-01-01T00:00:00.000Z","zxid":4711,"source":"10.0.0.10:2181"}
 * {"path":"/bridges"}                                   a node without data
 * {"path":"/bridges/ID","text":"{\"id\":…}"}            data that are UTF-8
 * {"path":"/other","base64":"/w=="}                     other data
 * {"nodes":3,"bytes":120,"ephemerals":2,"crc32":"0a1b2c3d"}
 * ```
 *
 * A node comes behind its parent. The last line counts nodes and bytes of data, and the ephemeral nodes that were left out;
 * its checksum is of all the text before it.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, createWriteStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { crc32, createGunzip, createGzip } from 'node:zlib';
import * as z from 'zod';
import { MidonetError, UnsupportedError } from '../../errors.js';
import { parentPath, pathFault } from '../path.js';
import { bytesOf, type Image } from './image.js';

const FORMAT = 'midonet-nsdb-backup';
const VERSION = 1;
const LINE_FEED = 0x0a;
/** Of text handed to the compression at once. */
const CHUNK = 256 * 1024;
/** The longest line: a node of the largest request, all of whose bytes are written as escapes of six characters. */
const MAX_LINE = 8 * 1024 * 1024;

export interface BackupHeader {
  /** When it was made, ISO 8601. */
  readonly time: string;
  /** Of the last change that is in it. */
  readonly zxid: number;
  /** Connect string of where it was made. */
  readonly source: string;
}

export interface Backup {
  readonly header: BackupHeader;
  readonly image: Image;
  /** How many were left out. */
  readonly ephemerals: number;
}

/** The file is no backup, or is not whole. Nothing of it may be used. */
export class BackupDamagedError extends MidonetError {
  constructor(
    readonly file: string,
    reason: string,
    options?: ErrorOptions,
  ) {
    super('MN_STORE_CORRUPT', `${file}: ${reason}`, options);
  }
}

const headerSchema = z.object({
  format: z.literal(FORMAT),
  version: z.int(),
  time: z.string(),
  zxid: z.int(),
  source: z.string(),
});
const nodeSchema = z.strictObject({ path: z.string(), text: z.string().optional(), base64: z.base64().optional() });
const trailerSchema = z.strictObject({ nodes: z.int(), bytes: z.int(), ephemerals: z.int(), crc32: z.string() });

/**
 * Writes a backup under its name when it is whole and on disk, readable by its owner only. A file of that name is replaced.
 * Returns its size in bytes.
 */
export async function writeBackup(file: string, backup: Backup, signal?: AbortSignal): Promise<number> {
  const part = `${file}.${process.pid}.${randomBytes(4).toString('hex')}.tmp`;
  signal?.throwIfAborted();
  const output = createWriteStream(part, { flags: 'wx', mode: 0o600, flush: true });
  const closed = once(output, 'close');
  try {
    await pipeline(Readable.from(chunks(backup), { objectMode: false }), createGzip(), output, { signal });
    await closed;
    await rename(part, file);
  } catch (error) {
    await closed;
    await rm(part, { force: true });
    throw error;
  }
  const folder = await open(dirname(file), 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
  return output.bytesWritten;
}

function* chunks({ header, image, ephemerals }: Backup): Generator<Buffer> {
  const { time, zxid, source } = header;
  let text = `${JSON.stringify({ format: FORMAT, version: VERSION, time, zxid, source })}\n`;
  let crc = 0;
  const take = () => {
    const chunk = Buffer.from(text);
    crc = crc32(chunk, crc);
    text = '';
    return chunk;
  };
  // Of two paths the parent's is the shorter.
  for (const path of [...image.keys()].sort((a, b) => a.length - b.length)) {
    text += `${JSON.stringify(encodeNode(path, image.get(path)!))}\n`;
    if (text.length >= CHUNK) yield take();
  }
  yield take();
  const trailer = { nodes: image.size, bytes: bytesOf(image), ephemerals, crc32: hex(crc) };
  yield Buffer.from(`${JSON.stringify(trailer)}\n`);
}

function encodeNode(path: string, data: Uint8Array): z.output<typeof nodeSchema> {
  if (data.length === 0) return { path };
  const bytes = Buffer.from(data);
  const text = bytes.toString('utf8');
  return Buffer.compare(Buffer.from(text), bytes) === 0 ? { path, text } : { path, base64: bytes.toString('base64') };
}

/**
 * Reads a backup and checks all of it.
 * @throws BackupDamagedError, UnsupportedError for one of a later version, or what the system says of reading the file
 */
export async function readBackup(file: string, signal?: AbortSignal): Promise<Backup> {
  const reader = new BackupReader(file);
  // Of the reader. The pipeline may report that it was ended instead.
  let fault: unknown;
  try {
    await pipeline(
      createReadStream(file),
      createGunzip(),
      async (source: AsyncIterable<Buffer>) => {
        try {
          for await (const chunk of source) reader.push(chunk);
        } catch (error) {
          fault = error;
          throw error;
        }
      },
      { signal },
    );
  } catch (error) {
    if (fault instanceof MidonetError) throw fault;
    const { code } = error as NodeJS.ErrnoException;
    if (code?.startsWith('Z_') !== true) throw error;
    throw new BackupDamagedError(file, `cannot be decompressed (${(error as Error).message})`, { cause: error });
  }
  return reader.end();
}

class BackupReader {
  private rest: Buffer = Buffer.alloc(0);
  private header: BackupHeader | undefined;
  private readonly image: Image = new Map();
  private trailer: z.output<typeof trailerSchema> | undefined;
  private crc = 0;
  private lines = 0;

  constructor(private readonly file: string) {}

  push(chunk: Buffer): void {
    const bytes = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    let start = 0;
    for (let end = bytes.indexOf(LINE_FEED); end >= 0; end = bytes.indexOf(LINE_FEED, start)) {
      this.line(bytes.subarray(start, end + 1));
      start = end + 1;
    }
    this.rest = bytes.subarray(start);
    if (this.rest.length > MAX_LINE) throw this.damaged('is too long');
  }

  end(): Backup {
    const { header, image, trailer } = this;
    if (header === undefined || trailer === undefined || this.rest.length > 0) {
      throw new BackupDamagedError(this.file, 'ends too early');
    }
    if (trailer.nodes !== image.size || trailer.bytes !== bytesOf(image)) {
      throw new BackupDamagedError(this.file, 'does not hold what its last line counts');
    }
    return { header, image, ephemerals: trailer.ephemerals };
  }

  private line(bytes: Buffer): void {
    this.lines++;
    if (this.trailer !== undefined) throw this.damaged('is behind the end');
    let value: unknown;
    try {
      value = JSON.parse(bytes.toString('utf8'));
    } catch (cause) {
      throw this.damaged('is not JSON', cause);
    }
    if (this.header === undefined) {
      this.takeHeader(value);
    } else {
      const node = nodeSchema.safeParse(value);
      if (node.success) this.takeNode(node.data);
      else this.takeTrailer(value);
    }
    this.crc = crc32(bytes, this.crc);
  }

  private takeHeader(value: unknown): void {
    const header = headerSchema.safeParse(value);
    if (!header.success) throw this.damaged('is not the beginning of a backup of the NSDB');
    const { version, time, zxid, source } = header.data;
    if (version !== VERSION) {
      throw new UnsupportedError(this.file, `a backup of version ${version}; this program reads version ${VERSION}`);
    }
    this.header = { time, zxid, source };
  }

  private takeNode({ path, text, base64 }: z.output<typeof nodeSchema>): void {
    const parent = pathFault(path) === undefined ? parentPath(path) : undefined;
    if (parent === undefined || this.image.has(path) || (parent !== '/' && !this.image.has(parent))) {
      throw this.damaged(`is of a node ${JSON.stringify(path)} that cannot be there`);
    }
    this.image.set(path, base64 === undefined ? Buffer.from(text ?? '') : Buffer.from(base64, 'base64'));
  }

  private takeTrailer(value: unknown): void {
    const trailer = trailerSchema.safeParse(value);
    if (!trailer.success) throw this.damaged('is of an unknown kind');
    if (trailer.data.crc32 !== hex(this.crc)) throw this.damaged('has another checksum than the text before it');
    this.trailer = trailer.data;
  }

  private damaged(what: string, cause?: unknown): BackupDamagedError {
    return new BackupDamagedError(this.file, `line ${this.lines} ${what}`, { cause });
  }
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}
