import { InvalidInputError } from '../errors.js';
import { ipv4Broadcast, ipv4Network, ipv6Network } from '../packet/address.js';
import { type Cidr, cidrContains, formatIp, type Ip, parseCidr, parseIp } from '../packet/ip.js';
import type { AddressPool } from '../topology/types.js';

const TWO_32 = 0x1_0000_0000;

/** Blocks in a folder of the store: 2^12. */
export const SHARD_BLOCKS = 4096;
/** Blocks that are handed out unasked: the first 2^24 of a pool. Those behind can still be asked for by address. */
const MAX_AUTOMATIC_BLOCKS = 2 ** 24;

/** The block size of a pool for which none is given. Small pools get smaller blocks, so that several hosts find one. */
export function defaultBlockSize(range: Cidr): number {
  const width = range.family === 4 ? 32 : 128;
  return Math.max(range.prefix, width - 6, Math.min(range.prefix + 4, width - 2));
}

/**
 * How a pool divides into blocks. A block is named by the hexadecimal digits of its first address: `0a000040` is
 * 10.0.0.64/26 in a pool with block size 26.
 */
export class PoolLayout {
  readonly range: Cidr;
  readonly blockSize: number;
  /** Addresses of a block, the reserved ones included. */
  readonly blockCapacity: number;
  /** Number of blocks that are handed out unasked. */
  readonly blockCount: number;
  /** Number of folders that hold those blocks. */
  readonly shardCount: number;
  readonly #hostBits: number;
  readonly #reserved = new Map<string, string>();

  constructor(pool: AddressPool) {
    const range = parseCidr(pool.cidr);
    if (range === undefined) throw new InvalidInputError('pool.cidr', pool.cidr, 'expected an address range');
    const width = range.family === 4 ? 32 : 128;
    this.range = range;
    this.blockSize = pool.blockSize;
    this.#hostBits = width - pool.blockSize;
    if (pool.blockSize < range.prefix || this.#hostBits < 0 || this.#hostBits > 16) {
      throw new InvalidInputError(
        'pool.blockSize',
        pool.blockSize,
        `expected a prefix length from ${Math.max(range.prefix, width - 16)} to ${width}`,
      );
    }
    this.blockCapacity = 2 ** this.#hostBits;
    this.blockCount = Math.min(MAX_AUTOMATIC_BLOCKS, 2 ** (pool.blockSize - range.prefix));
    this.shardCount = Math.ceil(this.blockCount / SHARD_BLOCKS);

    if (range.family === 4 && range.prefix <= 30) {
      const network = range.words[0];
      this.#reserve(range, 'the network address');
      this.#reserve({ family: 4, words: [ipv4Broadcast(network, range.prefix)] }, 'the broadcast address');
    } else if (range.family === 6 && range.prefix < 127) {
      this.#reserve(range, "the subnet routers' anycast address (RFC 4291 section 2.6.1)");
    }
    if (pool.gateway !== undefined) {
      const gateway = parseIp(pool.gateway);
      if (gateway === undefined || !cidrContains(range, gateway)) {
        throw new InvalidInputError('pool.gateway', pool.gateway, `expected an address of ${pool.cidr}`);
      }
      this.#reserve(gateway, 'the gateway');
    }
  }

  #reserve(ip: Ip, role: string): void {
    this.#reserved.set(formatIp(ip), role);
  }

  /** What keeps an address (canonical text) from being handed out, or undefined. */
  reservedAs(address: string): string | undefined {
    return this.#reserved.get(address);
  }

  /** Name of the block that holds an address of the pool. */
  blockOf(ip: Ip): string {
    const words = ip.family === 4 ? [ipv4Network(ip.words[0], this.blockSize)] : ipv6Network(ip.words, this.blockSize);
    return blockName(words);
  }

  /** Name of the n-th block, 0 to blockCount - 1. */
  nth(n: number): string {
    return blockName(addOffset(this.range.words, n * this.blockCapacity));
  }

  /** Folder of a block in the store: three hexadecimal digits. */
  shardOf(name: string): string {
    const words = blockWords(name);
    // Bits of the block's number above the 12 that tell blocks of a folder apart; at most 16 + 24 bits of address.
    const low40 = words.length === 1 ? words[0] : (words[2] & 0xff) * TWO_32 + words[3];
    const number = Math.floor(low40 / this.blockCapacity) % this.blockCount;
    return shardName(Math.floor(number / SHARD_BLOCKS));
  }

  /** The addresses of a block that may be handed out, in order, as canonical text. */
  addresses(name: string): string[] {
    const words = blockWords(name);
    const found: string[] = [];
    for (let offset = 0; offset < this.blockCapacity; offset++) {
      const address = formatIp({ family: this.range.family, words: addOffset(words, offset) });
      if (!this.#reserved.has(address)) found.push(address);
    }
    return found;
  }

  /** Whether a name is that of a block of this pool. */
  isBlock(name: string): boolean {
    if (!/^[0-9a-f]+$/.test(name) || name.length !== this.range.words.length * 8) return false;
    const ip: Ip = { family: this.range.family, words: blockWords(name) };
    return cidrContains(this.range, ip) && this.blockOf(ip) === name;
  }

  /** Text of a block for people: `10.0.0.64/26`. */
  describe(name: string): string {
    return `${formatIp({ family: this.range.family, words: blockWords(name) })}/${this.blockSize}`;
  }
}

export function shardName(shard: number): string {
  return shard.toString(16).padStart(3, '0');
}

function blockName(words: readonly number[]): string {
  return words.map((word) => word.toString(16).padStart(8, '0')).join('');
}

function blockWords(name: string): number[] {
  const words: number[] = [];
  for (let i = 0; i < name.length; i += 8) words.push(Number.parseInt(name.slice(i, i + 8), 16));
  return words;
}

/** The address `offset` (0 to 2^52) behind the one given; it must not pass the end of the address space. */
function addOffset(words: readonly number[], offset: number): number[] {
  const sum = [...words];
  let carry = offset;
  for (let i = sum.length - 1; i >= 0 && carry > 0; i--) {
    const value = sum[i] + carry;
    sum[i] = value % TWO_32;
    carry = Math.floor(value / TWO_32);
  }
  return sum;
}
