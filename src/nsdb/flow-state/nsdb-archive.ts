import { readU32, readU48, writeU32, writeU48 } from '../../packet/big-endian.js';
import { deleteIfEmpty, deleteIfThere } from '../delete-if.js';
import { flowStatePath } from '../layout.js';
import { joinPath } from '../path.js';
import { NodeNotFoundError, type Store, StoreUnavailableError } from '../store.js';
import {
  type ArchivedRecord,
  ArchiveUnavailableError,
  checkPortId,
  checkRecords,
  type FlowStateArchive,
  inBatches,
  type LookupOptions,
  type StoreRecordsOptions,
} from './archive.js';
import { deletePortFolder } from './port-folder.js';

/** Records of a batch, unless one alone is longer. */
const BATCH_BYTES = 64 * 1024;
/** What a port may have; the oldest goes when there is another. */
const MAX_BATCHES = 64;
const PREFIX = 'batch-';
/** How often batches that this process has stored are looked at. */
const SWEEP_MS = 10_000;
const MAX_PORTS_PER_SWEEP = 100;

/** Bytes before the record: time 6, length 4. */
const ENTRY_HEADER = 10;

export interface NsdbArchiveOptions {
  readonly store: Pick<Store, 'get' | 'children' | 'create' | 'delete' | 'ensure'>;
  /** Told of what went wrong in the background. */
  readonly warn: (message: string, error: unknown) => void;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
}

/**
 * The flow state archive in the NSDB itself: no further server. A call to store makes one node for every 64 KiB, numbered by
 * the NSDB, and deletes the one that leaves the port's window of 64, so it costs the same however much there is.
 *
 *     /flow-state/SHARD/PORT/batch-NUMBER   expiry, 6 bytes, milliseconds since 1970; then for each record: time 6, length 4, the record
 *
 * Batches past their time are deleted by the process that stored them, and by whoever looks the port up.
 */
export class NsdbFlowStateArchive implements FlowStateArchive {
  readonly #options: NsdbArchiveOptions;
  /** When the last batch that was stored here for a port is past its time. */
  readonly #stored = new Map<string, number>();
  readonly #timer: NodeJS.Timeout;
  readonly #closing = new AbortController();
  #sweeping: Promise<void> | undefined;

  constructor(options: NsdbArchiveOptions) {
    this.#options = options;
    this.#timer = setInterval(() => {
      this.#sweeping ??= this.sweep().finally(() => {
        this.#sweeping = undefined;
      });
    }, SWEEP_MS).unref();
  }

  async store(portId: string, records: readonly ArchivedRecord[], options: StoreRecordsOptions): Promise<void> {
    const folder = flowStatePath(checkPortId(portId));
    const { ttl, signal } = options;
    checkRecords(records, ttl);
    for (const batch of inBatches(records, BATCH_BYTES)) {
      const expiry = this.#now() + ttl * 1000;
      await this.#reach('store', portId, () => this.#storeBatch(folder, encodeBatch(expiry, batch), signal));
      this.#stored.set(portId, Math.max(expiry, this.#stored.get(portId) ?? 0));
    }
  }

  async #storeBatch(folder: string, data: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    const { store } = this.#options;
    for (;;) {
      signal?.throwIfAborted();
      try {
        const path = await store.create(joinPath(folder, PREFIX), data, { sequential: true, signal });
        const number = Number(path.slice(-10));
        if (number >= MAX_BATCHES) await deleteIfThere(store, batchPath(folder, number - MAX_BATCHES), signal);
        return;
      } catch (error) {
        if (!(error instanceof NodeNotFoundError)) throw error;
        await store.ensure(folder, { signal });
      }
    }
  }

  async *lookup(portId: string, { since = 0, signal }: LookupOptions = {}): AsyncGenerator<ArchivedRecord> {
    const folder = flowStatePath(checkPortId(portId));
    // Bounded: 64 batches. They may overlap in time, as several hosts may have stored them.
    const found: ArchivedRecord[] = [];
    await this.#reach('lookup', portId, () =>
      this.#readBatches(folder, signal, (data) => {
        for (const record of decodeBatch(data)) if (record.time >= since) found.push(record);
      }),
    );
    yield* found.sort((a, b) => a.time - b.time);
  }

  /** Reads the batches of a port in the order in which they were stored; deletes what is past its time, or too many. */
  async #readBatches(
    folder: string,
    signal: AbortSignal | undefined,
    use: (data: Uint8Array) => void,
  ): Promise<{ left: number }> {
    const { store } = this.#options;
    const names = ((await store.children(folder, { signal })) ?? []).sort();
    const last = Number(names.at(-1)?.slice(-10));
    let left = 0;
    for (const name of names) {
      const path = joinPath(folder, name);
      const node = await store.get(path, { signal });
      if (node === undefined) continue;
      const tooOld = Number(name.slice(-10)) + MAX_BATCHES <= last;
      if (tooOld || node.data.length < 6 || readU48(node.data, 0) <= this.#now()) {
        await deleteIfThere(store, path, signal);
      } else {
        left += 1;
        use(node.data);
      }
    }
    return { left };
  }

  async remove(portId: string, signal?: AbortSignal): Promise<void> {
    checkPortId(portId);
    await this.#reach('remove', portId, () => deletePortFolder(this.#options.store, portId, signal));
    this.#stored.delete(portId);
  }

  /** Delete what was stored here and is past its time. Runs by itself every 10 s, for at most 100 ports. */
  async sweep(): Promise<void> {
    const { signal } = this.#closing;
    let left = MAX_PORTS_PER_SWEEP;
    for (const [portId, expiry] of this.#stored) {
      if (expiry > this.#now()) continue;
      if (left-- === 0 || signal.aborted) return;
      const folder = flowStatePath(portId);
      try {
        const read = await this.#readBatches(folder, signal, () => {});
        if (read.left === 0) await deleteIfEmpty(this.#options.store, folder, signal);
        if (this.#stored.get(portId) === expiry) this.#stored.delete(portId);
      } catch (error) {
        if (signal.aborted) return;
        this.#options.warn('cannot delete flow state that is past its time, it will be tried again', error);
        return;
      }
    }
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#closing.abort();
    await this.#sweeping;
  }

  #now(): number {
    return this.#options.now?.() ?? Date.now();
  }

  async #reach<T>(operation: string, portId: string, call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof StoreUnavailableError)) throw error;
      throw new ArchiveUnavailableError(operation, portId, error.message, { cause: error });
    }
  }
}

function batchPath(folder: string, number: number): string {
  return joinPath(folder, `${PREFIX}${String(number).padStart(10, '0')}`);
}

function encodeBatch(expiry: number, records: readonly ArchivedRecord[]): Uint8Array {
  const length = records.reduce((sum, { record }) => sum + ENTRY_HEADER + record.length, 6);
  const bytes = new Uint8Array(length);
  writeU48(bytes, 0, expiry);
  let offset = 6;
  for (const { time, record } of records) {
    writeU48(bytes, offset, time);
    writeU32(bytes, offset + 6, record.length);
    bytes.set(record, offset + ENTRY_HEADER);
    offset += ENTRY_HEADER + record.length;
  }
  return bytes;
}

function* decodeBatch(bytes: Uint8Array): Generator<ArchivedRecord> {
  let offset = 6;
  while (offset + ENTRY_HEADER <= bytes.length) {
    const end = offset + ENTRY_HEADER + readU32(bytes, offset + 6);
    if (end > bytes.length) return;
    yield { time: readU48(bytes, offset), record: bytes.subarray(offset + ENTRY_HEADER, end) };
    offset = end;
  }
}
