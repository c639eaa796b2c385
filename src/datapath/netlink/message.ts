import { InvalidInputError } from '../../errors.js';
import { ProtocolError } from './errors.js';

/** True where the host's byte order is little endian. Netlink headers and most attributes are in host byte order. */
export const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** Length of `struct nlmsghdr` (linux/netlink.h): length u32, type u16, flags u16, sequence u32, port u32. */
export const MESSAGE_HEADER_LENGTH = 16;
/** Length of `struct genlmsghdr` (linux/genetlink.h): command u8, version u8, reserved u16. */
export const GENL_HEADER_LENGTH = 4;
/** Length of `struct nlattr`: length u16, type u16. */
export const ATTRIBUTE_HEADER_LENGTH = 4;

/** Set in an attribute's type when its payload is made of attributes. */
export const NLA_F_NESTED = 0x8000;
/** Set in an attribute's type when its payload is in network byte order. */
export const NLA_F_NET_BYTEORDER = 0x4000;
const NLA_TYPE_MASK = 0x3fff;

/** Flags of a message header (linux/netlink.h). */
export const NLM_F_REQUEST = 0x01;
export const NLM_F_MULTI = 0x02;
export const NLM_F_ACK = 0x04;
export const NLM_F_ECHO = 0x08;
export const NLM_F_DUMP_INTR = 0x10;
export const NLM_F_ROOT = 0x100;
export const NLM_F_MATCH = 0x200;
export const NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH;
export const NLM_F_REPLACE = 0x100;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;
export const NLM_F_APPEND = 0x800;
/** In an acknowledgement: the request is not repeated in it. */
export const NLM_F_CAPPED = 0x100;
/** In an acknowledgement: attributes that explain the error follow. */
export const NLM_F_ACK_TLVS = 0x200;

/** Types of control messages (linux/netlink.h). */
export const NLMSG_NOOP = 1;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;
export const NLMSG_OVERRUN = 4;
/** The first type that belongs to a protocol. */
export const NLMSG_MIN_TYPE = 0x10;

const MAX_ATTRIBUTE_LENGTH = 0xffff;
const TWO_32 = 0x1_0000_0000;

const textEncoder = new TextEncoder();
const textDecoder = new TextDecoder();

function align(length: number): number {
  return (length + 3) & ~3;
}

/**
 * Writes netlink messages, one behind the other, into one buffer that grows as needed and is used again after
 * {@link MessageWriter.reset}. Lengths of messages and nested attributes are filled in when they end.
 *
 * `bytes` and `view` cover the same memory; both are replaced when the buffer grows, so take them again after every
 * call that adds something. An offset stays valid.
 */
export class MessageWriter {
  bytes: Uint8Array<ArrayBuffer>;
  view: DataView<ArrayBuffer>;
  /** Bytes written so far, in all messages. */
  length = 0;
  /** Messages begun since the last reset. */
  count = 0;
  /** Where the open message starts, or -1. */
  #message = -1;

  /** @param capacity bytes to begin with */
  constructor(capacity = 4096) {
    this.bytes = new Uint8Array(Math.max(64, capacity));
    this.view = new DataView(this.bytes.buffer);
  }

  /** Forget all that was written and keep the buffer. */
  reset(): this {
    this.length = 0;
    this.count = 0;
    this.#message = -1;
    return this;
  }

  /**
   * Begin a message, after ending the open one. The port is left 0: the kernel fills in the sender's.
   * @param type message type, or the id of a generic netlink family
   * @param flags NLM_F_… bits
   * @returns the offset of the message, where its header is
   */
  begin(type: number, flags: number, sequence = 0): number {
    if (this.#message >= 0) {
      this.end();
    }
    const start = this.reserve(MESSAGE_HEADER_LENGTH);
    this.view.setUint16(start + 4, type, LITTLE_ENDIAN);
    this.view.setUint16(start + 6, flags, LITTLE_ENDIAN);
    this.view.setUint32(start + 8, sequence, LITTLE_ENDIAN);
    this.#message = start;
    this.count += 1;
    return start;
  }

  /** End the open message by filling in its length. Does nothing when none is open. */
  end(): void {
    if (this.#message >= 0) {
      this.view.setUint32(this.#message, this.length - this.#message, LITTLE_ENDIAN);
      this.#message = -1;
    }
  }

  /** Take back the open message. */
  cancel(): void {
    if (this.#message >= 0) {
      this.length = this.#message;
      this.count -= 1;
      this.#message = -1;
    }
  }

  /** Generic netlink header. */
  genl(command: number, version: number): void {
    const offset = this.reserve(GENL_HEADER_LENGTH);
    this.view.setUint8(offset, command);
    this.view.setUint8(offset + 1, version);
  }

  /**
   * Room for `length` bytes, zeroed, for a fixed header (`struct ovs_header`, `struct ifinfomsg`). The next thing written
   * comes at a multiple of four.
   * @returns its offset, for use with `view`
   */
  reserve(length: number): number {
    const offset = this.length;
    const end = offset + align(length);
    if (end > this.bytes.length) {
      this.#grow(end);
    }
    if (end - offset <= 64) {
      for (let i = offset; i < end; i += 4) {
        this.view.setUint32(i, 0);
      }
    } else {
      this.bytes.fill(0, offset, end);
    }
    this.length = end;
    return offset;
  }

  /**
   * An attribute with `length` bytes of zeroed payload, for a structure.
   * @returns the offset of the payload, for use with `view`
   */
  attribute(type: number, length: number): number {
    const total = length + ATTRIBUTE_HEADER_LENGTH;
    if (total > MAX_ATTRIBUTE_LENGTH) {
      throw new InvalidInputError('netlink attribute', length, `attribute ${type} can hold at most 65531 bytes`);
    }
    const offset = this.reserve(total);
    this.view.setUint16(offset, total, LITTLE_ENDIAN);
    this.view.setUint16(offset + 2, type, LITTLE_ENDIAN);
    return offset + ATTRIBUTE_HEADER_LENGTH;
  }

  u8(type: number, value: number): void {
    const offset = this.attribute(type, 1);
    this.view.setUint8(offset, value);
  }

  u16(type: number, value: number): void {
    const offset = this.attribute(type, 2);
    this.view.setUint16(offset, value, LITTLE_ENDIAN);
  }

  u32(type: number, value: number): void {
    const offset = this.attribute(type, 4);
    this.view.setUint32(offset, value, LITTLE_ENDIAN);
  }

  /** @param value a whole number up to 2^53 - 1; write others as two halves into an {@link attribute} */
  u64(type: number, value: number): void {
    const offset = this.attribute(type, 8);
    const high = Math.floor(value / TWO_32);
    this.view.setUint32(offset + (LITTLE_ENDIAN ? 4 : 0), high, LITTLE_ENDIAN);
    this.view.setUint32(offset + (LITTLE_ENDIAN ? 0 : 4), value % TWO_32, LITTLE_ENDIAN);
  }

  be16(type: number, value: number): void {
    const offset = this.attribute(type, 2);
    this.view.setUint16(offset, value);
  }

  be32(type: number, value: number): void {
    const offset = this.attribute(type, 4);
    this.view.setUint32(offset, value);
  }

  /** @param value a whole number up to 2^53 - 1 */
  be64(type: number, value: number): void {
    const offset = this.attribute(type, 8);
    this.view.setUint32(offset, Math.floor(value / TWO_32));
    this.view.setUint32(offset + 4, value % TWO_32);
  }

  /** A MAC address, a 48-bit number, as six bytes. */
  mac(type: number, value: number): void {
    const offset = this.attribute(type, 6);
    this.putMac(offset, value);
  }

  /** Write a MAC address into room taken by {@link reserve} or {@link attribute}. */
  putMac(offset: number, value: number): void {
    this.view.setUint16(offset, Math.floor(value / TWO_32));
    this.view.setUint32(offset + 2, value % TWO_32);
  }

  raw(type: number, value: Uint8Array): void {
    const offset = this.attribute(type, value.length);
    this.bytes.set(value, offset);
  }

  /** Text with the zero byte behind it that the kernel wants. */
  string(type: number, value: string): void {
    const encoded = textEncoder.encode(value);
    const offset = this.attribute(type, encoded.length + 1);
    this.bytes.set(encoded, offset);
  }

  /** An attribute without payload, whose presence is the value. */
  flag(type: number): void {
    this.attribute(type, 0);
  }

  /**
   * Begin an attribute made of attributes.
   * @param type its number; or in {@link NLA_F_NESTED} where the kernel asks for it
   * @returns what {@link endNest} and {@link cancelNest} take
   */
  nest(type: number): number {
    const offset = this.reserve(ATTRIBUTE_HEADER_LENGTH);
    this.view.setUint16(offset + 2, type, LITTLE_ENDIAN);
    return offset;
  }

  endNest(nest: number): void {
    const length = this.length - nest;
    if (length > MAX_ATTRIBUTE_LENGTH) {
      const type = this.view.getUint16(nest + 2, LITTLE_ENDIAN) & NLA_TYPE_MASK;
      throw new InvalidInputError('netlink attribute', length, `attribute ${type} can hold at most 65535 bytes`);
    }
    this.view.setUint16(nest, length, LITTLE_ENDIAN);
  }

  /** Take back a nested attribute with all it holds. */
  cancelNest(nest: number): void {
    this.length = nest;
  }

  /** The messages written so far. Ends the open one. The result is a view: copy what outlives the next reset. */
  finish(): Uint8Array<ArrayBuffer> {
    this.end();
    return this.bytes.subarray(0, this.length);
  }

  #grow(needed: number): void {
    const bigger = new Uint8Array(Math.max(needed, this.bytes.length * 2));
    bigger.set(this.bytes.subarray(0, this.length));
    this.bytes = bigger;
    this.view = new DataView(bigger.buffer);
  }
}

/** What readers of messages and attributes share: the bytes, and a view of exactly the same range. */
class Reader {
  bytes: Uint8Array;
  view: DataView;
  #cursor = 0;
  #end = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#end = bytes.length;
  }

  /** Start again on other bytes. No memory is taken when they are the same array as before. */
  protected restart(bytes: Uint8Array, start: number, end: number): void {
    if (bytes !== this.bytes) {
      this.bytes = bytes;
      this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    }
    if (!(start >= 0 && start <= end && end <= bytes.length)) {
      throw new ProtocolError(`netlink: bytes ${start} to ${end} lie outside a buffer of ${bytes.length}`);
    }
    this.#cursor = start;
    this.#end = end;
  }

  protected get cursor(): number {
    return this.#cursor;
  }

  protected get limit(): number {
    return this.#end;
  }

  /** Go behind an element of `length` bytes at the cursor; the last one may lack its padding. */
  protected advance(length: number): void {
    this.#cursor = Math.min(this.#cursor + align(length), this.#end);
  }
}

/**
 * Walks over netlink messages in a range of bytes: {@link MessageReader.next} goes to the next one and sets the fields.
 * Reads any bytes safely: what does not follow the protocol is a {@link ProtocolError}.
 */
export class MessageReader extends Reader {
  type = 0;
  flags = 0;
  sequence = 0;
  port = 0;
  /** Where the header starts. */
  start = 0;
  /** Where the payload starts, behind the header. */
  offset = 0;
  /** Where the payload ends. */
  end = 0;

  reset(bytes: Uint8Array, start = 0, end = bytes.length): this {
    this.restart(bytes, start, end);
    return this;
  }

  /** @returns false behind the last message */
  next(): boolean {
    const start = this.cursor;
    const left = this.limit - start;
    if (left === 0) {
      return false;
    }
    if (left < MESSAGE_HEADER_LENGTH) {
      throw new ProtocolError(`netlink: ${left} bytes at ${start} are too few for a message header`);
    }
    const length = this.view.getUint32(start, LITTLE_ENDIAN);
    if (length < MESSAGE_HEADER_LENGTH || length > left) {
      throw new ProtocolError(`netlink: message at ${start} says ${length} bytes, ${left} are there`);
    }
    this.type = this.view.getUint16(start + 4, LITTLE_ENDIAN);
    this.flags = this.view.getUint16(start + 6, LITTLE_ENDIAN);
    this.sequence = this.view.getUint32(start + 8, LITTLE_ENDIAN);
    this.port = this.view.getUint32(start + 12, LITTLE_ENDIAN);
    this.start = start;
    this.offset = start + MESSAGE_HEADER_LENGTH;
    this.end = start + length;
    this.advance(length);
    return true;
  }

  /** Point `attributes` at the payload behind a fixed header of `headerLength` bytes. */
  attributes(attributes: AttributeReader, headerLength: number): AttributeReader {
    if (this.end - this.offset < headerLength) {
      throw new ProtocolError(
        `netlink: message ${this.type} has ${this.end - this.offset} bytes where its header takes ${headerLength}`,
      );
    }
    return attributes.reset(this.bytes, Math.min(this.offset + align(headerLength), this.end), this.end);
  }
}

const NO_BYTES = new Uint8Array(0);

/**
 * Walks over attributes in a range of bytes without taking memory for each: {@link AttributeReader.next} goes to the next
 * one and sets `type`, `offset` and `length`. A payload shorter than the getter called on it needs, or lengths that lead
 * outside the range, are a {@link ProtocolError}.
 */
export class AttributeReader extends Reader {
  /** Number of the attribute, without its two flags. */
  type = 0;
  /** Whether it says that it is made of attributes. Old parts of the kernel do not say so. */
  nested = false;
  /** Where the payload starts in `bytes` and `view`. */
  offset = 0;
  /** Length of the payload in bytes. */
  length = 0;

  constructor(bytes: Uint8Array = NO_BYTES) {
    super(bytes);
  }

  reset(bytes: Uint8Array, start = 0, end = bytes.length): this {
    this.restart(bytes, start, end);
    this.length = 0;
    return this;
  }

  /** @returns false behind the last attribute */
  next(): boolean {
    const start = this.cursor;
    const left = this.limit - start;
    if (left === 0) {
      return false;
    }
    if (left < ATTRIBUTE_HEADER_LENGTH) {
      throw new ProtocolError(`netlink: ${left} bytes at ${start} are too few for an attribute`);
    }
    const length = this.view.getUint16(start, LITTLE_ENDIAN);
    if (length < ATTRIBUTE_HEADER_LENGTH || length > left) {
      throw new ProtocolError(`netlink: attribute at ${start} says ${length} bytes, ${left} are there`);
    }
    const type = this.view.getUint16(start + 2, LITTLE_ENDIAN);
    this.type = type & NLA_TYPE_MASK;
    this.nested = (type & NLA_F_NESTED) !== 0;
    this.offset = start + ATTRIBUTE_HEADER_LENGTH;
    this.length = length - ATTRIBUTE_HEADER_LENGTH;
    this.advance(length);
    return true;
  }

  /** Point `child` (another reader, or this one if the rest here does not matter) at the attributes inside this one. */
  enter(child: AttributeReader): AttributeReader {
    return child.reset(this.bytes, this.offset, this.offset + this.length);
  }

  /**
   * Check that the payload is a structure of at least `length` bytes.
   * @returns its offset, for use with `view`
   */
  struct(length: number): number {
    if (this.length < length) {
      throw new ProtocolError(
        `netlink: attribute ${this.type} at ${this.offset - ATTRIBUTE_HEADER_LENGTH} has ${this.length} bytes instead of ${length}`,
      );
    }
    return this.offset;
  }

  u8(): number {
    return this.view.getUint8(this.struct(1));
  }

  u16(): number {
    return this.view.getUint16(this.struct(2), LITTLE_ENDIAN);
  }

  u32(): number {
    return this.view.getUint32(this.struct(4), LITTLE_ENDIAN);
  }

  i32(): number {
    return this.view.getInt32(this.struct(4), LITTLE_ENDIAN);
  }

  /** As a number: exact up to 2^53. */
  u64(): number {
    return readU64(this.view, this.struct(8));
  }

  be16(): number {
    return this.view.getUint16(this.struct(2));
  }

  be32(): number {
    return this.view.getUint32(this.struct(4));
  }

  /** As a number: exact up to 2^53. */
  be64(): number {
    const offset = this.struct(8);
    return this.view.getUint32(offset) * TWO_32 + this.view.getUint32(offset + 4);
  }

  /** A MAC address as a 48-bit number. */
  mac(): number {
    return readMac(this.view, this.struct(6));
  }

  /** A view of the payload, valid as long as the bytes that are read. */
  raw(): Uint8Array {
    return this.bytes.subarray(this.offset, this.offset + this.length);
  }

  /** Text up to its first zero byte, or the whole payload without one. */
  string(): string {
    const payload = this.raw();
    const zero = payload.indexOf(0);
    return textDecoder.decode(zero < 0 ? payload : payload.subarray(0, zero));
  }
}

/** A 64-bit number in host byte order, exact up to 2^53. */
export function readU64(view: DataView, offset: number): number {
  const high = view.getUint32(offset + (LITTLE_ENDIAN ? 4 : 0), LITTLE_ENDIAN);
  const low = view.getUint32(offset + (LITTLE_ENDIAN ? 0 : 4), LITTLE_ENDIAN);
  return high * TWO_32 + low;
}

/** A MAC address, six bytes, as a 48-bit number. */
export function readMac(view: DataView, offset: number): number {
  return view.getUint16(offset) * TWO_32 + view.getUint32(offset + 2);
}
