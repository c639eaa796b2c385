import { formatIpv4, formatIpv6 } from '../../packet/address.js';
import { parseIp } from '../../packet/ip.js';
import type { Cell } from './cell.js';

interface Ipv6Entry<T> {
  readonly words: Uint32Array;
  readonly cell: Cell<T>;
}

/** Facts by IP address of either family, made when they are first asked for. */
export class AddressCells<T> {
  private readonly ipv4s = new Map<number, Cell<T>>();
  /** By a hash of the address; collisions share a bucket. */
  private readonly ipv6s = new Map<number, Ipv6Entry<T>[]>();

  /** @param make makes the fact of an address in canonical text; `forget` takes it out again */
  constructor(private readonly make: (address: string, forget: (self: Cell<T>) => void) => Cell<T>) {}

  get isEmpty(): boolean {
    return this.ipv4s.size + this.ipv6s.size === 0;
  }

  ipv4(address: number): Cell<T> {
    let cell = this.ipv4s.get(address);
    if (cell === undefined) {
      cell = this.make(formatIpv4(address), (self) => {
        if (this.ipv4s.get(address) === self) this.ipv4s.delete(address);
      });
      this.ipv4s.set(address, cell);
    }
    return cell;
  }

  /** Of the address in `words[offset..offset+3]`. */
  ipv6(words: Uint32Array, offset: number): Cell<T> {
    const hash =
      Math.imul(Math.imul(words[offset], 31) ^ words[offset + 1], 31) ^ words[offset + 2] ^ words[offset + 3];
    const bucket = this.ipv6s.get(hash) ?? [];
    for (const entry of bucket) {
      let i = 0;
      while (i < 4 && entry.words[i] === words[offset + i]) i++;
      if (i === 4) return entry.cell;
    }
    const address = words.slice(offset, offset + 4);
    const cell = this.make(formatIpv6(address), (self) => {
      const rest = (this.ipv6s.get(hash) ?? []).filter((entry) => entry.cell !== self);
      if (rest.length === 0) this.ipv6s.delete(hash);
      else this.ipv6s.set(hash, rest);
    });
    bucket.push({ words: address, cell });
    this.ipv6s.set(hash, bucket);
    return cell;
  }

  /** Of `address` in text, of either family. */
  at(address: string): Cell<T> {
    const ip = parseIp(address)!;
    return ip.family === 4 ? this.ipv4(ip.words[0]) : this.ipv6(Uint32Array.from(ip.words), 0);
  }
}
