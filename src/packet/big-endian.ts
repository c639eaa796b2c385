/** Reading and writing of network byte order. Nothing here checks bounds: the caller has. */

const TWO_32 = 0x1_0000_0000;

export function readU16(bytes: Uint8Array, offset: number): number {
  return (bytes[offset] << 8) | bytes[offset + 1];
}

export function readU32(bytes: Uint8Array, offset: number): number {
  return ((bytes[offset] << 24) | (bytes[offset + 1] << 16) | (bytes[offset + 2] << 8) | bytes[offset + 3]) >>> 0;
}

/** A 48-bit number, as a MAC address is. */
export function readU48(bytes: Uint8Array, offset: number): number {
  return readU16(bytes, offset) * TWO_32 + readU32(bytes, offset + 2);
}

export function writeU16(bytes: Uint8Array, offset: number, value: number): void {
  bytes[offset] = value >>> 8;
  bytes[offset + 1] = value;
}

export function writeU32(bytes: Uint8Array, offset: number, value: number): void {
  bytes[offset] = value >>> 24;
  bytes[offset + 1] = value >>> 16;
  bytes[offset + 2] = value >>> 8;
  bytes[offset + 3] = value;
}

export function writeU48(bytes: Uint8Array, offset: number, value: number): void {
  writeU16(bytes, offset, Math.floor(value / TWO_32));
  writeU32(bytes, offset + 2, value % TWO_32);
}

/** The four 32-bit words of an IPv6 address, most significant first. */
export function readWords(bytes: Uint8Array, offset: number): [number, number, number, number] {
  return [readU32(bytes, offset), readU32(bytes, offset + 4), readU32(bytes, offset + 8), readU32(bytes, offset + 12)];
}

export function writeWords(bytes: Uint8Array, offset: number, words: ArrayLike<number>): void {
  for (let i = 0; i < 4; i++) writeU32(bytes, offset + 4 * i, words[i]);
}
