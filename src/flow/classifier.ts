import { FLOW_KEY_WORDS, type FlowKey } from './key.js';

interface Entry<T> {
  /** Masked words. */
  readonly words: Uint32Array;
  value: T;
  next: Entry<T> | undefined;
}

/** All entries of one mask. */
interface Subtable<T> {
  readonly mask: FlowKey;
  /** The mask's nonzero words and where they stand: all that hashing and comparing have to touch. */
  readonly index: Uint8Array;
  readonly bits: Uint32Array;
  readonly buckets: Map<number, Entry<T>>;
  size: number;
  hits: number;
}

/** How often, in lookups, masks are put in the order of their hits. */
const SORT_EVERY = 1024;

/**
 * Values by masked flow key: tuple space search, one hash table for each distinct mask, as the kernel's flow table is
 * (net/openvswitch/flow_table.c). There are no priorities: where entries under different masks overlap, which one a
 * lookup finds is not defined. Keys and masks are copied.
 */
export class Classifier<T> {
  private subtables: Subtable<T>[] = [];
  private lookups = 0;
  private count = 0;

  /** Number of entries. */
  get size(): number {
    return this.count;
  }

  /** Number of distinct masks, which is what a lookup that finds nothing costs. */
  get maskCount(): number {
    return this.subtables.length;
  }

  /** The distinct masks with how many entries each has, in the order lookups try them. */
  masks(): { mask: FlowKey; size: number }[] {
    return this.subtables.map(({ mask, size }) => ({ mask: mask.clone(), size }));
  }

  /** Put a value under a masked key; returns what was there, if anything. */
  insert(key: FlowKey, mask: FlowKey, value: T): T | undefined {
    let table = this.subtable(mask);
    if (table === undefined) {
      table = newSubtable(mask);
      this.subtables.push(table);
    }
    const hash = hashMasked(table, key.words);
    const head = table.buckets.get(hash);
    for (let entry = head; entry !== undefined; entry = entry.next) {
      if (matches(table, entry.words, key.words)) {
        const old = entry.value;
        entry.value = value;
        return old;
      }
    }
    table.buckets.set(hash, { words: key.masked(mask).words, value, next: head });
    table.size++;
    this.count++;
    return undefined;
  }

  /** Remove the entry of exactly this mask and masked key; returns its value, if there was one. */
  remove(key: FlowKey, mask: FlowKey): T | undefined {
    const table = this.subtable(mask);
    if (table === undefined) return undefined;
    const hash = hashMasked(table, key.words);
    let previous: Entry<T> | undefined;
    for (let entry = table.buckets.get(hash); entry !== undefined; entry = entry.next) {
      if (!matches(table, entry.words, key.words)) {
        previous = entry;
        continue;
      }
      if (previous !== undefined) previous.next = entry.next;
      else if (entry.next !== undefined) table.buckets.set(hash, entry.next);
      else table.buckets.delete(hash);
      this.count--;
      if (--table.size === 0) this.subtables.splice(this.subtables.indexOf(table), 1);
      return entry.value;
    }
    return undefined;
  }

  /** The value of an entry whose key agrees with `key` in every bit of the entry's mask. */
  lookup(key: FlowKey): T | undefined {
    if (++this.lookups % SORT_EVERY === 0) this.sort();
    for (const table of this.subtables) {
      const entry = find(table, key.words);
      if (entry !== undefined) {
        table.hits++;
        return entry.value;
      }
    }
    return undefined;
  }

  /** The value of the entry of exactly this mask and masked key. */
  find(key: FlowKey, mask: FlowKey): T | undefined {
    const table = this.subtable(mask);
    return table === undefined ? undefined : find(table, key.words)?.value;
  }

  /** Every value, in no order. */
  *values(): IterableIterator<T> {
    for (const table of this.subtables) {
      for (const head of table.buckets.values()) {
        for (let entry: Entry<T> | undefined = head; entry !== undefined; entry = entry.next) yield entry.value;
      }
    }
  }

  clear(): void {
    this.subtables = [];
    this.count = 0;
  }

  private subtable(mask: FlowKey): Subtable<T> | undefined {
    for (const table of this.subtables) if (table.mask.equals(mask)) return table;
    return undefined;
  }

  /** Most used first. Hits are halved so that old ones come to count for little. */
  private sort(): void {
    this.subtables.sort((a, b) => b.hits - a.hits);
    for (const table of this.subtables) table.hits >>>= 1;
  }
}

function newSubtable<T>(mask: FlowKey): Subtable<T> {
  const index: number[] = [];
  for (let i = 0; i < FLOW_KEY_WORDS; i++) if (mask.words[i] !== 0) index.push(i);
  return {
    mask: mask.clone(),
    index: Uint8Array.from(index),
    bits: Uint32Array.from(index, (i) => mask.words[i]),
    buckets: new Map(),
    size: 0,
    hits: 0,
  };
}

function hashMasked<T>(table: Subtable<T>, words: Uint32Array): number {
  const { index, bits } = table;
  let h = 0x2545f491;
  for (let i = 0; i < index.length; i++) {
    h = Math.imul(h ^ Math.imul(words[index[i]] & bits[i], 0xcc9e2d51), 0x1b873593);
    h ^= h >>> 15;
  }
  return h;
}

function matches<T>(table: Subtable<T>, masked: Uint32Array, words: Uint32Array): boolean {
  const { index, bits } = table;
  for (let i = 0; i < index.length; i++) {
    const at = index[i];
    if (((masked[at] ^ words[at]) & bits[i]) !== 0) return false;
  }
  return true;
}

function find<T>(table: Subtable<T>, words: Uint32Array): Entry<T> | undefined {
  for (let entry = table.buckets.get(hashMasked(table, words)); entry !== undefined; entry = entry.next) {
    if (matches(table, entry.words, words)) return entry;
  }
  return undefined;
}
