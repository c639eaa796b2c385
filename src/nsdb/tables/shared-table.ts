import type { z } from 'zod';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { validate } from '../../topology/validate.js';
import { decodeJson, encodeJson } from '../json.js';
import { tableEntryPath } from '../layout.js';
import { parentPath } from '../path.js';
import { readAhead } from '../read-ahead.js';
import { inShards } from '../shards.js';
import {
  type CallOptions,
  type EphemeralNode,
  NodeExistsError,
  NodeNotFoundError,
  type Store,
  type TreeOptions,
  VersionConflictError,
  type Watch,
} from '../store.js';

/** What the keys and values of a kind of table are, and where its entries are in the NSDB. */
export interface TableType<K, V> {
  /** For error messages: `MAC table`. */
  readonly name: string;
  /** Below the object that the table belongs to. */
  folder(ownerId: string): string;
  /** The key in canonical text that can name a node. @throws InvalidInputError */
  formatKey(key: K): string;
  /** Undefined for a text that is not the canonical one of a key. */
  parseKey(text: string): K | undefined;
  readonly value: z.ZodType<V>;
}

export interface TableEntry<V> {
  readonly value: V;
  /** Whether it is there for as long as somebody's session; otherwise it was put. */
  readonly isLearned: boolean;
}

/** A part of a table; `next` is the text of its last key. */
export interface TablePage<K, V> {
  readonly items: readonly (TableEntry<V> & { readonly key: K })[];
  readonly next: string | undefined;
}

export interface SharedTableOptions<K> {
  /**
   * Told that an entry learned here is given up: somebody put or learned another since, or (`gone`) the object that the table
   * belongs to does not exist.
   */
  readonly onLost?: (key: K, reason: 'replaced' | 'gone') => void;
}

const EMPTY = new Uint8Array();

/**
 * A table that hosts share: one node an entry, in shards, below the object that it belongs to. An entry is either put, and
 * stays until it is removed, or learned, and goes with the session of who learned it. What was put is never replaced by
 * what is learned; of several who learn a key the last has it, and the others are told.
 *
 * The folders of a table are made when they are needed, and go with the object.
 */
export class SharedTable<K, V> {
  private readonly folder: string;
  /** Entries learned here, by the text of their keys. */
  private readonly learned = new Map<string, EphemeralNode>();

  constructor(
    private readonly store: Store,
    private readonly type: TableType<K, V>,
    ownerId: string,
    private readonly options: SharedTableOptions<K> = {},
  ) {
    this.folder = type.folder(ownerId);
  }

  /** How many entries are learned here. */
  get learnedCount(): number {
    return this.learned.size;
  }

  /** @throws InvalidInputError when the entry is not valid, naming its path */
  async get(key: K, options?: CallOptions): Promise<TableEntry<V> | undefined> {
    const path = this.path(key);
    const node = await this.store.get(path, options);
    if (node === undefined) return undefined;
    return { value: decodeJson(this.type.value, node.data, path), isLearned: node.stat.ephemeralOwner !== undefined };
  }

  /**
   * Some of the entries, in an order of their own that does not change, behind the key `after`; `next` is there when there may be
   * more. Entries that are not valid are left out.
   * @throws InvalidInputError for `after`
   */
  async page(after: K | undefined, limit: number, { signal }: CallOptions = {}): Promise<TablePage<K, V>> {
    const from = after === undefined ? undefined : this.type.formatKey(after);
    const found = await inShards(this.store, this.folder, { after: from, signal }, limit + 1);
    const names = found.slice(0, limit);
    const keys = names.map((name) => this.type.parseKey(name));
    const entries = await readAhead(keys, signal, (key, signal) =>
      key === undefined ? Promise.resolve(undefined) : this.readable(key, signal),
    );
    const items = entries.flatMap((entry, i) => (entry === undefined ? [] : [{ key: keys[i]!, ...entry }]));
    return { items, next: found.length > limit ? names.at(-1) : undefined };
  }

  private async readable(key: K, signal: AbortSignal | undefined): Promise<TableEntry<V> | undefined> {
    try {
      return await this.get(key, { signal });
    } catch (error) {
      if (error instanceof MidonetError && error.code === 'MN_INVALID_INPUT') return undefined;
      throw error;
    }
  }

  /**
   * Calls the listener with the value now and after every change, undefined while there is none; see Store.watchData. A
   * value that is not valid is reported to `onInvalid` and otherwise ignored.
   */
  watchEntry(key: K, listener: (value: V | undefined) => void, onInvalid: (error: Error) => void): Watch {
    const path = this.path(key);
    return this.store.watchData(path, (node) => {
      let value: V | undefined;
      try {
        value = node && decodeJson(this.type.value, node.data, path);
      } catch (error) {
        onInvalid(error as Error);
        return;
      }
      listener(value);
    });
  }

  /** The same for every entry, at the cost of reading the table once and after a reconnect; see Store.watchTree. */
  watchTable(
    listener: (key: K, value: V | undefined) => void,
    onInvalid: (error: Error) => void,
    options?: TreeOptions,
  ): Watch {
    const entryDepth = this.folder.split('/').length + 2;
    return this.store.watchTree(
      this.folder,
      (path, node) => {
        const names = path.split('/');
        if (names.length !== entryDepth) return;
        const text = names[entryDepth - 1];
        let key: K | undefined;
        let value: V | undefined;
        try {
          key = this.type.parseKey(text);
          if (key === undefined) throw new InvalidInputError(path, text, `expected a key of the ${this.type.name}`);
          value = node && decodeJson(this.type.value, node.data, path);
        } catch (error) {
          onInvalid(error as Error);
          return;
        }
        listener(key, value);
      },
      options,
    );
  }

  /**
   * Sets an entry for good, in place of whatever is there.
   * @throws InvalidInputError for the value, NodeNotFoundError when there is no object that the table belongs to
   */
  async put(key: K, value: V, { signal }: CallOptions = {}): Promise<void> {
    const path = this.path(key);
    const data = this.encode(value);
    for (;;) {
      signal?.throwIfAborted();
      const node = await this.store.get(path, { signal });
      try {
        if (node === undefined) await this.create(path, data, signal);
        else if (node.stat.ephemeralOwner === undefined)
          await this.store.set(path, data, node.stat.version, { signal });
        else {
          await this.store.multi(
            [
              { type: 'delete', path, version: node.stat.version },
              { type: 'create', path, data },
            ],
            { signal },
          );
        }
        return;
      } catch (error) {
        if (!hasChanged(error, path)) throw error;
      }
    }
  }

  /** Removes an entry that was put. One that was learned stays; tells whether there is none now. */
  async remove(key: K, { signal }: CallOptions = {}): Promise<boolean> {
    const path = this.path(key);
    for (;;) {
      signal?.throwIfAborted();
      const node = await this.store.get(path, { signal });
      if (node === undefined) return true;
      if (node.stat.ephemeralOwner !== undefined) return false;
      try {
        await this.store.delete(path, node.stat.version, { signal });
        return true;
      } catch (error) {
        if (!hasChanged(error, path)) throw error;
      }
    }
  }

  /**
   * Keeps an entry for as long as this process wants it, or until {@link SharedTableOptions.onLost}. It is made again when
   * the session was lost. A key learned before is given the value. Settles when the entry was in the table for the first
   * time, or is given up.
   * @throws InvalidInputError for the value
   */
  learn(key: K, value: V): Promise<void> {
    const path = this.path(key);
    const data = this.encode(value);
    const existing = this.learned.get(path);
    if (existing !== undefined) {
      existing.set(data);
      return existing.ready;
    }
    let held = false;
    const node: EphemeralNode = this.store.ephemeral(path, data, {
      // The newest sighting counts: ours when we begin, that of whoever takes the entry from us later.
      takeOver: (current) => !held && current.stat.ephemeralOwner !== undefined,
      onState: (state) => {
        if (state === 'held') held = true;
        else if (state === 'conflict') this.lose(key, node, 'replaced');
      },
      makeParent: async () => {
        try {
          await this.makeShard(parentPath(path)!);
        } catch (error) {
          if (!(error instanceof NodeNotFoundError)) throw error;
          this.lose(key, node, 'gone');
        }
      },
    });
    this.learned.set(path, node);
    return node.ready;
  }

  /** Takes back what was learned here. Settles as {@link EphemeralNode.close}. */
  async forget(key: K): Promise<void> {
    const path = this.path(key);
    const node = this.learned.get(path);
    this.learned.delete(path);
    await node?.close();
  }

  /** Takes back everything that was learned here. */
  async close(): Promise<void> {
    const nodes = [...this.learned.values()];
    this.learned.clear();
    await Promise.all(nodes.map((node) => node.close()));
  }

  private lose(key: K, node: EphemeralNode, reason: 'replaced' | 'gone'): void {
    if (this.learned.get(node.path) !== node) return;
    this.learned.delete(node.path);
    void node.close();
    this.options.onLost?.(key, reason);
  }

  private path(key: K): string {
    return tableEntryPath(this.folder, this.type.formatKey(key));
  }

  private encode(value: V): Uint8Array {
    return encodeJson(validate(this.type.value, value, `value of the ${this.type.name}`));
  }

  private async create(path: string, data: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    try {
      await this.store.create(path, data, { signal });
    } catch (error) {
      if (!(error instanceof NodeNotFoundError)) throw error;
      await this.makeShard(parentPath(path)!, signal);
      await this.store.create(path, data, { signal });
    }
  }

  /** Makes the table's folder, too, but not the object: that one may just have been deleted. */
  private async makeShard(shard: string, signal?: AbortSignal): Promise<void> {
    try {
      await this.makeFolder(shard, signal);
    } catch (error) {
      if (!(error instanceof NodeNotFoundError)) throw error;
      await this.makeFolder(this.folder, signal);
      await this.makeFolder(shard, signal);
    }
  }

  private async makeFolder(path: string, signal: AbortSignal | undefined): Promise<void> {
    try {
      await this.store.create(path, EMPTY, { signal });
    } catch (error) {
      if (!(error instanceof NodeExistsError)) throw error;
    }
  }
}

/** Whether the node is not as it was when it was read. */
function hasChanged(error: unknown, path: string): boolean {
  if (error instanceof NodeExistsError || error instanceof VersionConflictError) return true;
  return error instanceof NodeNotFoundError && error.path === path;
}
