/**
 * Files of captured packets: pcapng (draft-ietf-opsawg-pcapng) and the older pcap (draft-ietf-opsawg-pcap), of Ethernet frames on one
 * interface. Both are written in little-endian order, with time in microseconds.
 */

export type CaptureFormat = 'pcapng' | 'pcap';

/** A packet as it crossed an interface. */
export interface CapturedPacket {
  /** Milliseconds since 1970. */
  readonly time: number;
  /** `in`: it came in there; pcap cannot say so. */
  readonly direction: 'in' | 'out' | undefined;
  /** From the Ethernet header on. */
  readonly bytes: Uint8Array;
}

const LINK_TYPE_ETHERNET = 1;
const END_OF_OPTIONS = 0;

const Block = { SECTION: 0x0a0d_0d0a, INTERFACE: 1, STATISTICS: 5, PACKET: 6 } as const;
const BYTE_ORDER_MAGIC = 0x1a2b_3c4d;
const UNKNOWN_LENGTH = 0xffff_ffff;
const Option = { INTERFACE_NAME: 2, PACKET_FLAGS: 2, PACKETS_DROPPED: 5 } as const;
const DIRECTIONS = { in: 1, out: 2 } as const;
const DIRECTION_BITS = 3;
/** Type, length, and the length once more at the end. */
const BLOCK_FRAME = 12;

const PCAP_MAGIC = 0xa1b2_c3d4;
const PCAP_MAX_PACKET = 0x4_0000;
const TWO_32 = 2 ** 32;

/** What a file begins with. */
export function captureHeader(format: CaptureFormat, interfaceName: string): Uint8Array {
  if (format === 'pcapng') return Buffer.concat([sectionBlock(), interfaceBlock(interfaceName)]);
  const header = Buffer.alloc(24);
  header.writeUInt32LE(PCAP_MAGIC, 0);
  header.writeUInt16LE(2, 4);
  header.writeUInt16LE(4, 6);
  header.writeUInt32LE(PCAP_MAX_PACKET, 16);
  header.writeUInt32LE(LINK_TYPE_ETHERNET, 20);
  return header;
}

export function captureRecord(format: CaptureFormat, packet: CapturedPacket): Uint8Array {
  return format === 'pcapng' ? packetBlock(packet) : pcapRecord(packet);
}

/** How many packets were left out up to that time; pcap cannot say so. */
export function captureStatistics(format: CaptureFormat, time: number, leftOut: number): Uint8Array {
  if (format === 'pcap') return new Uint8Array();
  const body = Buffer.alloc(28);
  writeTime(body, time, 4);
  body.writeUInt16LE(Option.PACKETS_DROPPED, 12);
  body.writeUInt16LE(8, 14);
  body.writeUInt32LE(leftOut % TWO_32, 16);
  body.writeUInt32LE(Math.floor(leftOut / TWO_32), 20);
  return block(Block.STATISTICS, body);
}

function sectionBlock(): Buffer {
  const body = Buffer.alloc(16);
  body.writeUInt32LE(BYTE_ORDER_MAGIC, 0);
  body.writeUInt16LE(1, 4);
  body.writeUInt32LE(UNKNOWN_LENGTH, 8);
  body.writeUInt32LE(UNKNOWN_LENGTH, 12);
  return block(Block.SECTION, body);
}

function interfaceBlock(name: string): Buffer {
  const text = Buffer.from(name);
  const body = Buffer.alloc(8 + 4 + padded(text.length) + 4);
  body.writeUInt16LE(LINK_TYPE_ETHERNET, 0);
  body.writeUInt16LE(Option.INTERFACE_NAME, 8);
  body.writeUInt16LE(text.length, 10);
  text.copy(body, 12);
  return block(Block.INTERFACE, body);
}

function packetBlock({ time, direction, bytes }: CapturedPacket): Buffer {
  const data = padded(bytes.length);
  const body = Buffer.alloc(20 + data + 12);
  writeTime(body, time, 4);
  body.writeUInt32LE(bytes.length, 12);
  body.writeUInt32LE(bytes.length, 16);
  body.set(bytes, 20);
  body.writeUInt16LE(Option.PACKET_FLAGS, 20 + data);
  body.writeUInt16LE(4, 22 + data);
  body.writeUInt32LE(direction === undefined ? 0 : DIRECTIONS[direction], 24 + data);
  return block(Block.PACKET, body);
}

function block(type: number, body: Buffer): Buffer {
  const length = body.length + BLOCK_FRAME;
  const whole = Buffer.alloc(length);
  whole.writeUInt32LE(type, 0);
  whole.writeUInt32LE(length, 4);
  whole.set(body, 8);
  whole.writeUInt32LE(length, length - 4);
  return whole;
}

/** Interface 0 is in the four bytes before. */
function writeTime(body: Buffer, time: number, offset: number): void {
  const microseconds = Math.round(time * 1000);
  body.writeUInt32LE(Math.floor(microseconds / TWO_32), offset);
  body.writeUInt32LE(microseconds % TWO_32, offset + 4);
}

function padded(length: number): number {
  return (length + 3) & ~3;
}

function pcapRecord({ time, bytes }: CapturedPacket): Buffer {
  const microseconds = Math.round(time * 1000);
  const record = Buffer.alloc(16 + bytes.length);
  record.writeUInt32LE(Math.floor(microseconds / 1_000_000), 0);
  record.writeUInt32LE(microseconds % 1_000_000, 4);
  record.writeUInt32LE(bytes.length, 8);
  record.writeUInt32LE(bytes.length, 12);
  record.set(bytes, 16);
  return record;
}

/** What a pcapng stream holds. */
export type CaptureItem = CapturedPacket | { readonly leftOut: number };

/** Longer blocks are none of ours. */
const MAX_BLOCK = 0x8_0000;

/** Reads pcapng as it is written here, from pieces of any length. */
export class PcapngReader {
  private rest: Buffer = Buffer.alloc(0);

  /**
   * What a further piece of the stream completes.
   * @throws RangeError where it is not such a stream
   */
  read(piece: Uint8Array): CaptureItem[] {
    this.rest = Buffer.concat([this.rest, piece]);
    const items: CaptureItem[] = [];
    let at = 0;
    while (this.rest.length - at >= BLOCK_FRAME) {
      const length = this.rest.readUInt32LE(at + 4);
      if (length < BLOCK_FRAME || length > MAX_BLOCK || length % 4 !== 0) {
        throw new RangeError(`not a pcapng stream: a block of ${length} bytes`);
      }
      if (this.rest.length - at < length) break;
      const item = itemOf(this.rest.readUInt32LE(at), this.rest.subarray(at + 8, at + length - 4));
      if (item !== undefined) items.push(item);
      at += length;
    }
    this.rest = this.rest.subarray(at);
    return items;
  }
}

/** @throws RangeError for a block that is too short */
function itemOf(type: number, body: Buffer): CaptureItem | undefined {
  if (type === Block.PACKET) {
    const length = body.readUInt32LE(12);
    const flags = optionOf(body, 20 + padded(length), Option.PACKET_FLAGS)?.readUInt32LE(0) ?? 0;
    const bits = flags & DIRECTION_BITS;
    const direction = bits === DIRECTIONS.in ? 'in' : bits === DIRECTIONS.out ? 'out' : undefined;
    return { time: readTime(body, 4), direction, bytes: body.subarray(20, 20 + length) };
  }
  if (type !== Block.STATISTICS) return undefined;
  const dropped = optionOf(body, 12, Option.PACKETS_DROPPED);
  return dropped && { leftOut: dropped.readUInt32LE(0) + dropped.readUInt32LE(4) * TWO_32 };
}

function optionOf(body: Buffer, from: number, wanted: number): Buffer | undefined {
  for (let at = from; at + 4 <= body.length; ) {
    const code = body.readUInt16LE(at);
    const length = body.readUInt16LE(at + 2);
    if (code === END_OF_OPTIONS) return undefined;
    if (code === wanted) return body.subarray(at + 4, at + 4 + length);
    at += 4 + padded(length);
  }
  return undefined;
}

function readTime(body: Buffer, offset: number): number {
  return (body.readUInt32LE(offset) * TWO_32 + body.readUInt32LE(offset + 4)) / 1000;
}
