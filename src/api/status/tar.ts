/** Files in a tar archive: the ustar format of POSIX.1-1988 (pax, "ustar Interchange Format"). */

const BLOCK = 512;
const MAX_NAME = 100;
const CHECKSUM_OFFSET = 148;
const CHECKSUM_LENGTH = 8;

/** What ends an archive. */
export const TAR_END: Uint8Array = Buffer.alloc(2 * BLOCK);

/**
 * A file with what it holds, filled up to whole blocks.
 * @param name with folders, 100 bytes at most; what is longer is cut
 * @param time milliseconds since 1970
 */
export function tarFile(name: string, content: Uint8Array, time: number): Uint8Array {
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, offset: number, length: number) =>
    header.write(`${value.toString(8).padStart(length - 1, '0')}\0`, offset, 'latin1');
  header.write(name, 0, MAX_NAME);
  octal(0o600, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(content.length, 124, 12);
  octal(Math.floor(time / 1000), 136, 12);
  header.write('0', 156);
  header.write('ustar\0', 257);
  header.write('00', 263);
  // The checksum is made with blanks in its place.
  header.fill(' ', CHECKSUM_OFFSET, CHECKSUM_OFFSET + CHECKSUM_LENGTH);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, CHECKSUM_OFFSET);
  const padding = (BLOCK - (content.length % BLOCK)) % BLOCK;
  return Buffer.concat([header, content, Buffer.alloc(padding)]);
}
