/**
 * Jute, the encoding of ZooKeeper's wire protocol: big-endian numbers, and lengths of 32 bits before strings, byte buffers
 * and vectors, where -1 means null. Used by the client and by the embedded server, for the wire and for the disk.
 */
import { MidonetError } from '../../errors.js';

/** A peer sent bytes that do not follow ZooKeeper's protocol. */
export class WireProtocolError extends MidonetError {
  constructor(detail: string) {
    super('MN_PROTOCOL', `ZooKeeper protocol: ${detail}`);
  }
}

/** No session: the number 0, which ZooKeeper gives to persistent nodes and to clients without a session. */
export const NO_SESSION = '0000000000000000';

const TWO_32 = 0x1_0000_0000;
const EMPTY = Buffer.alloc(0);

/** Appends values to a buffer that grows. The first four bytes are kept free for the length of the frame. */
export class JuteWriter {
  private buffer: Buffer;
  private end = 4;

  constructor(sizeHint = 256) {
    this.buffer = Buffer.allocUnsafe(sizeHint);
  }

  /** Bytes written, without the length. */
  get length(): number {
    return this.end - 4;
  }

  private room(bytes: number): number {
    const at = this.end;
    const needed = at + bytes;
    if (needed > this.buffer.length) {
      const grown = Buffer.allocUnsafe(Math.max(needed, this.buffer.length * 2));
      this.buffer.copy(grown, 0, 0, at);
      this.buffer = grown;
    }
    this.end = needed;
    return at;
  }

  bool(value: boolean): this {
    // First the room: it may replace the buffer.
    const at = this.room(1);
    this.buffer[at] = value ? 1 : 0;
    return this;
  }

  int(value: number): this {
    const at = this.room(4);
    this.buffer.writeInt32BE(value, at);
    return this;
  }

  /** A signed 64-bit number that a Number holds exactly. */
  long(value: number): this {
    const at = this.room(8);
    this.buffer.writeInt32BE(Math.floor(value / TWO_32), at);
    this.buffer.writeUInt32BE(value >>> 0, at + 4);
    return this;
  }

  /** Session ids use all 64 bits and are only compared, so they are text: 16 hexadecimal digits. */
  sessionId(id: string): this {
    const at = this.room(8);
    if (id === NO_SESSION) this.buffer.fill(0, at, at + 8);
    else this.buffer.write(id, at, 8, 'hex');
    return this;
  }

  bytes(value: Uint8Array | undefined): this {
    if (value === undefined) return this.int(-1);
    this.int(value.length);
    const at = this.room(value.length);
    this.buffer.set(value, at);
    return this;
  }

  /** A byte buffer that is kept as text, a byte a character. */
  byteString(value: string): this {
    this.int(value.length);
    const at = this.room(value.length);
    this.buffer.write(value, at, value.length, 'latin1');
    return this;
  }

  string(value: string): this {
    const length = Buffer.byteLength(value);
    this.int(length);
    const at = this.room(length);
    this.buffer.write(value, at, length, 'utf8');
    return this;
  }

  strings(values: readonly string[]): this {
    this.int(values.length);
    for (const value of values) this.string(value);
    return this;
  }

  /** What was written, with its length in front: a frame. */
  frame(): Buffer {
    this.buffer.writeInt32BE(this.end - 4, 0);
    return this.buffer.subarray(0, this.end);
  }

  /** What was written, without the length. */
  body(): Buffer {
    return this.buffer.subarray(4, this.end);
  }
}

/** Reads values from a buffer; every read is checked against its end. Byte buffers are views, not copies. */
export class JuteReader {
  private at = 0;

  constructor(private readonly buffer: Buffer) {}

  get remaining(): number {
    return this.buffer.length - this.at;
  }

  private take(bytes: number): number {
    const at = this.at;
    if (bytes > this.buffer.length - at) {
      throw new WireProtocolError(`${bytes} bytes expected at offset ${at}, ${this.buffer.length - at} are left`);
    }
    this.at = at + bytes;
    return at;
  }

  bool(): boolean {
    return this.buffer[this.take(1)] !== 0;
  }

  int(): number {
    return this.buffer.readInt32BE(this.take(4));
  }

  long(): number {
    const at = this.take(8);
    const value = this.buffer.readInt32BE(at) * TWO_32 + this.buffer.readUInt32BE(at + 4);
    if (!Number.isSafeInteger(value)) throw new WireProtocolError(`a 64-bit number at offset ${at} is out of range`);
    return value;
  }

  sessionId(): string {
    const at = this.take(8);
    if (this.buffer.readUInt32BE(at) === 0 && this.buffer.readUInt32BE(at + 4) === 0) return NO_SESSION;
    return this.buffer.toString('hex', at, at + 8);
  }

  /** Null reads as empty. */
  bytes(): Buffer {
    const length = this.int();
    if (length === -1) return EMPTY;
    if (length < 0) throw new WireProtocolError(`negative length ${length}`);
    const at = this.take(length);
    return this.buffer.subarray(at, at + length);
  }

  /** A byte buffer as text, a byte a character. Null reads as empty. */
  byteString(): string {
    return this.bytes().toString('latin1');
  }

  /** Null reads as empty. */
  string(): string {
    const length = this.int();
    if (length === -1) return '';
    if (length < 0) throw new WireProtocolError(`negative length ${length}`);
    const at = this.take(length);
    return this.buffer.toString('utf8', at, at + length);
  }

  strings(): string[] {
    const values: string[] = [];
    for (let left = this.count(4); left > 0; left--) values.push(this.string());
    return values;
  }

  /** The count of a vector whose elements take at least `elementBytes`, so that a lie about it costs no memory. */
  count(elementBytes: number): number {
    const count = this.int();
    if (count < -1 || count * elementBytes > this.remaining) throw new WireProtocolError(`vector of ${count} elements`);
    return Math.max(count, 0);
  }
}

/** Cuts a stream of bytes into frames: four bytes of length, then that many. */
export class FrameSplitter {
  private chunks: Buffer[] = [];
  private size = 0;

  constructor(public maxFrame: number) {}

  /** Bytes that wait for the rest of their frame. */
  get pending(): number {
    return this.size;
  }

  push(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.size += chunk.length;
  }

  /** The body of the next whole frame, or undefined. @throws WireProtocolError on a length out of bounds. */
  next(): Buffer | undefined {
    if (this.size < 4) return undefined;
    if (this.chunks[0].length < 4) this.join();
    const length = this.chunks[0].readInt32BE(0);
    if (length < 0 || length > this.maxFrame) {
      throw new WireProtocolError(`frame of ${length} bytes, at most ${this.maxFrame} are allowed`);
    }
    if (this.size < 4 + length) return undefined;
    if (this.chunks[0].length < 4 + length) this.join();
    const first = this.chunks[0];
    if (first.length === 4 + length) this.chunks.shift();
    else this.chunks[0] = first.subarray(4 + length);
    this.size -= 4 + length;
    return first.subarray(4, 4 + length);
  }

  private join(): void {
    this.chunks = [Buffer.concat(this.chunks, this.size)];
  }
}
