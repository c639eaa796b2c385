import { type FileHandle, open } from 'node:fs/promises';
import { dirname } from 'node:path';
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
  private running: Promise<void> | undefined;
  private nextFile: (() => string) | undefined;
  private failed = false;

  /** Batches written; bytes written, with their headers. */
  readonly metrics = { batches: 0, bytes: 0, lastFsyncMilliseconds: 0 };

  private constructor(
    private handle: FileHandle,
    private salt: Buffer,
    private position: number,
    private readonly options: LogOptions,
    private readonly events: LogEvents,
  ) {}

  /** Goes on with an existing file, cut off at `end`. */
  static async resume(file: string, salt: Buffer, end: number, options: LogOptions, events: LogEvents) {
    const handle = await open(file, 'r+');
    await handle.truncate(end);
    if (options.fsync) await handle.sync();
    return new WriteAheadLog(handle, salt, end, options, events);
  }

  static async begin(file: string, options: LogOptions, events: LogEvents): Promise<WriteAheadLog> {
    const { handle, salt } = await createLogFile(file, options.fsync);
    return new WriteAheadLog(handle, salt, FILE_HEADER_LENGTH, options, events);
  }

  /** Records appended so far. A record is durable when {@link LogEvents.onDurable} reports this count or a larger one. */
  get appended(): number {
    return this.appendedCount;
  }

  get durable(): number {
    return this.durableCount;
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

  /** Writes what waits, then closes the file. */
  async close(): Promise<void> {
    while (this.running !== undefined) await this.running;
    await this.handle.close();
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
        const { handle, salt } = await createLogFile(name, this.options.fsync);
        await this.handle.close();
        this.handle = handle;
        this.salt = salt;
        this.position = FILE_HEADER_LENGTH;
        continue;
      }
      const records = this.takeBatch();
      const { buffers, length } = encodeBatch(this.salt, records);
      await writeAll(this.handle, buffers, this.position);
      this.position += length;
      if (this.options.fsync) {
        const start = performance.now();
        await this.handle.datasync();
        this.metrics.lastFsyncMilliseconds = performance.now() - start;
      }
      this.metrics.batches++;
      this.metrics.bytes += length;
      this.durableCount += records.length;
      this.events.onDurable(this.durableCount);
      if (this.position >= this.options.fullSize) this.events.onFull();
    }
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

async function createLogFile(file: string, fsync: boolean): Promise<{ handle: FileHandle; salt: Buffer }> {
  const { bytes, salt } = newFileHeader('log');
  const handle = await open(file, 'w', 0o600);
  try {
    await writeAll(handle, [bytes], 0);
    if (fsync) {
      await handle.sync();
      await syncDirectory(dirname(file));
    }
  } catch (error) {
    await handle.close();
    throw error;
  }
  return { handle, salt };
}

/** Makes the names in a folder durable: those of files created, renamed or deleted. */
export async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Writes all buffers; a short write (a full disk, a signal) is followed by another, which then says what is wrong. */
async function writeAll(handle: FileHandle, buffers: Buffer[], position: number): Promise<void> {
  // writev takes at most IOV_MAX (1024) buffers.
  for (let i = 0; i < buffers.length; i += 1024) {
    const part = buffers.slice(i, i + 1024);
    const wanted = part.reduce((sum, buffer) => sum + buffer.length, 0);
    const { bytesWritten } = await handle.writev(part, position);
    if (bytesWritten < wanted) {
      const rest = Buffer.concat(part, wanted);
      let done = bytesWritten;
      while (done < wanted) done += (await handle.write(rest, done, wanted - done, position + done)).bytesWritten;
    }
    position += wanted;
  }
}
