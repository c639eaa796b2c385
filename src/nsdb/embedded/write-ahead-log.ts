import { dirname } from 'node:path';
import { setImmediate as immediate } from 'node:timers/promises';
import { LatencyHistogram } from '../../latency-histogram.js';
import { type Disk, type WritableFile, writeAll } from './disk.js';
import { encodeBatch, FILE_HEADER_LENGTH, MAX_BATCH_BODY, newFileHeader } from './record-file.js';

export interface LogEvents {
  /** Everything up to this count of appended records is on disk. */
  onDurable(count: number): void;
  /** A write or fsync failed. What was appended may be lost, and nothing can be appended any more. */
  onFailure(error: Error): void;
  /** The current file has reached the size at which a new one should be begun; told after every batch. */
  onFull(): void;
}

export interface LogOptions {
  /** False leaves it to the kernel when data reach the disk: a power failure may then lose what was acknowledged. */
  readonly fsync: boolean;
  /** Bytes from which on a file counts as full. May be changed while the log is open. */
  fullSize: number;
}

/**
 * Appends records to a file. All that is appended while an fsync runs becomes one batch with one fsync (group commit), so
 * the rate of writes does not depend on how slow the disk is to sync.
 */
export class WriteAheadLog {
  private waiting: Buffer[] = [];
  private appendedCount = 0;
  private durableCount = 0;
  private unwrittenBytes = 0;
  private running: Promise<void> | undefined;
  private nextFile: (() => string) | undefined;
  private failed = false;

  /** Batches written; bytes written, with their headers. */
  readonly metrics = { batches: 0, bytes: 0, fsync: new LatencyHistogram() };

  private constructor(
    private readonly disk: Disk,
    private file: WritableFile,
    private salt: Buffer,
    private position: number,
    private readonly options: LogOptions,
    private readonly events: LogEvents,
  ) {}

  /**
   * Goes on with an existing file, cut off at `end`. The process that wrote it may have died before it made the file or its
   * name durable, so both are done again.
   */
  static async resume(disk: Disk, path: string, salt: Buffer, end: number, options: LogOptions, events: LogEvents) {
    const file = await disk.openToWrite(path);
    try {
      await file.truncate(end);
      if (options.fsync) {
        await file.sync();
        await disk.syncFolder(dirname(path));
      }
    } catch (error) {
      await file.close();
      throw error;
    }
    return new WriteAheadLog(disk, file, salt, end, options, events);
  }

  static async begin(disk: Disk, path: string, options: LogOptions, events: LogEvents): Promise<WriteAheadLog> {
    const { file, salt } = await createLogFile(disk, path, options.fsync);
    return new WriteAheadLog(disk, file, salt, FILE_HEADER_LENGTH, options, events);
  }

  /** Records appended so far. A record is durable when {@link LogEvents.onDurable} reports this count or a larger one. */
  get appended(): number {
    return this.appendedCount;
  }

  get durable(): number {
    return this.durableCount;
  }

  /** Bytes of records appended that are not in a file. */
  get unwritten(): number {
    return this.unwrittenBytes;
  }

  /** Bytes of the current file. */
  get size(): number {
    return this.position;
  }

  /** A record that no batch can hold is a failure like one of the disk: reading would take it for damage. */
  append(record: Buffer): void {
    this.appendedCount++;
    if (this.failed) return;
    if (4 + record.length > MAX_BATCH_BODY) {
      this.fail(new Error(`a record of ${record.length} bytes does not fit into the log`));
      return;
    }
    this.waiting.push(record);
    this.unwrittenBytes += record.length;
    this.start();
  }

  /**
   * Begins a new file before anything else is written. `name` is called when everything appended before is durable; by
   * then more may have been appended, which goes to the new file.
   */
  rotate(name: () => string): void {
    this.nextFile = name;
    this.start();
  }

  /** Writes what waits, marks the file as closed (record-file.ts), and closes it. */
  async close(): Promise<void> {
    while (this.running !== undefined) await this.running;
    try {
      if (!this.failed) await this.writeBatch([]);
    } finally {
      await this.file.close();
    }
  }

  private start(): void {
    if (this.running !== undefined || this.failed) return;
    this.running = this.run()
      .catch((error: unknown) => this.fail(error as Error))
      .finally(() => {
        this.running = undefined;
      });
  }

  private fail(error: Error): void {
    if (this.failed) return;
    this.failed = true;
    this.events.onFailure(error);
  }

  private async run(): Promise<void> {
    while (this.waiting.length > 0 || this.nextFile !== undefined) {
      if (this.nextFile !== undefined) {
        const name = this.nextFile();
        this.nextFile = undefined;
        const { file, salt } = await createLogFile(this.disk, name, this.options.fsync);
        await this.file.close();
        this.file = file;
        this.salt = salt;
        this.position = FILE_HEADER_LENGTH;
        continue;
      }
      // Requests that came together are still being carried out: they are to share the fsync.
      await immediate();
      const records = this.takeBatch();
      await this.writeBatch(records);
      for (const { length } of records) this.unwrittenBytes -= length;
      this.durableCount += records.length;
      this.events.onDurable(this.durableCount);
      if (this.position >= this.options.fullSize) this.events.onFull();
    }
  }

  private async writeBatch(records: readonly Buffer[]): Promise<void> {
    const batch = encodeBatch(this.salt, records);
    await writeAll(this.file, [batch], this.position);
    this.position += batch.length;
    if (this.options.fsync) {
      const start = performance.now();
      await this.file.datasync();
      this.metrics.fsync.observe(performance.now() - start);
    }
    this.metrics.batches++;
    this.metrics.bytes += batch.length;
  }

  private takeBatch(): Buffer[] {
    let bytes = 0;
    let count = 0;
    while (count < this.waiting.length && count < 4096) {
      bytes += 4 + this.waiting[count].length;
      if (bytes > MAX_BATCH_BODY && count > 0) break;
      count++;
    }
    return this.waiting.splice(0, count);
  }
}

async function createLogFile(disk: Disk, path: string, fsync: boolean): Promise<{ file: WritableFile; salt: Buffer }> {
  const { bytes, salt } = newFileHeader('log');
  const file = await disk.create(path);
  try {
    await writeAll(file, [bytes], 0);
    if (fsync) {
      await file.sync();
      await disk.syncFolder(dirname(path));
    }
  } catch (error) {
    await file.close();
    throw error;
  }
  return { file, salt };
}
