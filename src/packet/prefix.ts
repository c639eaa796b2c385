/** Numbers of 32-bit words, the most significant first, whose leading bits are compared: bit 0 is the first of all. */

export function bitAt(words: ArrayLike<number>, offset: number, bit: number): 0 | 1 {
  return ((words[offset + (bit >>> 5)] >>> (31 - (bit & 31))) & 1) as 0 | 1;
}

/** How many leading bits, at most `limit`, agree in `a`, words from `offset` on, and `b`. */
export function commonBits(a: ArrayLike<number>, offset: number, b: ArrayLike<number>, limit: number): number {
  for (let i = 0; 32 * i < limit; i++) {
    const differing = a[offset + i] ^ b[i];
    if (differing !== 0) return Math.min(32 * i + Math.clz32(differing), limit);
  }
  return limit;
}
