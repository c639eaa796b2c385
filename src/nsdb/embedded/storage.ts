/**
 * The data folder.
 *
 * ```
 * lock                  see src/folder-lock.ts
 * snapshot-<zxid>       the whole database after that transaction (16 hexadecimal digits)
 * log-<zxid>            the transactions from that one on, up to the next log file's
 * ```
 *
 * The files' form is that of record-file.ts; a log's records are transactions (transaction.ts). Starting up reads the
 * newest snapshot and the transactions after it. When a log file is full a new one is begun, and a thread makes the next
 * snapshot from the last one and the full logs, reading only files; the server itself never stops for it. Then the older
 * files are deleted.
 */
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writevSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import { FolderLock } from '../../folder-lock.js';
import { joinPath } from '../path.js';
import { JuteReader, JuteWriter, NO_SESSION } from '../protocol/jute.js';
import { Database, emptyNode, type TreeNode } from './database.js';
import { encodeBatch, newFileHeader, readRecordFile, StoreCorruptError } from './record-file.js';
import { decodeTransaction, encodeTransaction, ownBytes, type Transaction } from './transaction.js';
import { syncDirectory, WriteAheadLog } from './write-ahead-log.js';

export interface StorageOptions {
  readonly directory: string;
  readonly fsync: boolean;
  /** Bytes of log after which a snapshot is made; at least the size of the last snapshot is used. */
  readonly snapshotAfter: number;
}

export interface StorageEvents {
  /** Every transaction up to this zxid is on disk. */
  onDurable(zxid: number): void;
  /** The disk failed: the server must stop, since memory is ahead of what is safe. */
  onFailure(error: Error): void;
  onNotice(level: 'info' | 'warn', message: string, fields: object): void;
}

const FILE_NAME = /^(log|snapshot)-([0-9a-f]{16})$/;

export class Storage {
  private readonly metricsOfLog: WriteAheadLog['metrics'];
  private worker: Worker | undefined;
  private workerEnd: Promise<void> = Promise.resolve();
  private closing = false;
  snapshots = 0;

  private constructor(
    readonly database: Database,
    private readonly options: StorageOptions,
    private readonly events: StorageEvents,
    private readonly lock: FolderLock,
    private readonly log: WriteAheadLog,
    private readonly logOptions: { fsync: boolean; fullSize: number },
  ) {
    this.metricsOfLog = log.metrics;
  }

  /** @throws FolderLockedError, StoreCorruptError */
  static async open(options: StorageOptions, events: StorageEvents): Promise<Storage> {
    const directory = resolve(options.directory);
    const made = mkdirSync(directory, { recursive: true, mode: 0o700 });
    if (made !== undefined && options.fsync) await syncParents(directory, made);
    const lock = await FolderLock.acquire(directory);
    try {
      for (const name of readdirSync(directory)) if (name.endsWith('.tmp')) rmSync(join(directory, name));
      const loaded = load(directory, Number.POSITIVE_INFINITY);
      const { database, last } = loaded;
      if (last !== undefined && last.torn > 0) {
        events.onNotice('warn', 'cut off the end of the log, which a crash left incomplete', {
          file: last.file,
          offset: last.end,
          bytes: last.torn,
        });
      }
      const logOptions = { fsync: options.fsync, fullSize: Math.max(options.snapshotAfter, loaded.snapshotSize) };
      const base = database.zxid;
      let storage: Storage | undefined;
      const logEvents = {
        onDurable: (count: number) => events.onDurable(base + count),
        onFailure: (error: Error) => events.onFailure(error),
        onFull: () => storage?.beginNextLog(base),
      };
      const log =
        last?.salt !== undefined
          ? await WriteAheadLog.resume(last.file, last.salt, last.end, logOptions, logEvents)
          : await WriteAheadLog.begin(last?.file ?? logFile(directory, base + 1), logOptions, logEvents);
      storage = new Storage(database, options, events, lock, log, logOptions);
      return storage;
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  get metrics(): Readonly<WriteAheadLog['metrics']> {
    return this.metricsOfLog;
  }

  /** Writes a transaction that was applied to the database. Durable when the events say so. */
  append(transaction: Transaction): void {
    this.log.append(encodeTransaction(transaction));
  }

  /** Whether everything appended so far is on disk. */
  get isDurable(): boolean {
    return this.log.durable === this.log.appended;
  }

  async close(): Promise<void> {
    this.closing = true;
    await this.worker?.terminate();
    await this.workerEnd;
    await this.log.close();
    await this.lock.release();
  }

  private beginNextLog(base: number): void {
    if (this.worker !== undefined || this.closing) return;
    this.log.rotate(() => {
      const first = base + this.log.durable + 1;
      this.workerEnd = this.makeSnapshot(first);
      return logFile(this.options.directory, first);
    });
  }

  /** Has a thread make the snapshot of what is in the logs before the one that begins with `first`. */
  private async makeSnapshot(first: number): Promise<void> {
    const { directory } = this.options;
    try {
      const size = await new Promise<number>((resolve, reject) => {
        const worker = new Worker(new URL('./snapshot-worker.js', import.meta.url), {
          workerData: { directory, before: first },
        });
        this.worker = worker;
        worker.once('message', resolve);
        worker.once('error', reject);
        worker.once('exit', () => reject(new Error('the thread ended without a snapshot')));
      });
      this.snapshots++;
      this.logOptions.fullSize = Math.max(this.options.snapshotAfter, size);
      await removeBefore(directory, first);
      this.events.onNotice('info', 'made a snapshot', { zxid: first - 1, bytes: size });
    } catch (error) {
      // Nothing is lost: the logs are kept until a later snapshot succeeds. A thread that was ended leaves what it wrote.
      await rm(`${snapshotFile(directory, first - 1)}.tmp`, { force: true }).catch((left: Error) =>
        this.events.onNotice('warn', 'could not remove the part of a snapshot', { error: left.message }),
      );
      if (!this.closing) this.events.onNotice('warn', 'could not make a snapshot', { error: (error as Error).message });
    } finally {
      this.worker = undefined;
    }
  }
}

function logFile(directory: string, first: number): string {
  return join(directory, `log-${first.toString(16).padStart(16, '0')}`);
}

function snapshotFile(directory: string, zxid: number): string {
  return join(directory, `snapshot-${zxid.toString(16).padStart(16, '0')}`);
}

interface DataFile {
  readonly file: string;
  readonly kind: 'log' | 'snapshot';
  readonly zxid: number;
}

/** Logs and snapshots in the folder, by zxid. */
function dataFiles(directory: string): DataFile[] {
  const files: DataFile[] = [];
  for (const name of readdirSync(directory)) {
    const match = FILE_NAME.exec(name);
    if (match === null) continue;
    const kind = match[1] === 'log' ? 'log' : 'snapshot';
    files.push({ file: join(directory, name), kind, zxid: Number.parseInt(match[2], 16) });
  }
  return files.sort((a, b) => a.zxid - b.zxid);
}

/** Makes the names of folders durable that were made: of `directory` and those above it, up to `first`. */
async function syncParents(directory: string, first: string): Promise<void> {
  for (let folder = directory; folder.length >= first.length; folder = dirname(folder)) {
    await syncDirectory(dirname(folder));
  }
}

async function removeBefore(directory: string, first: number): Promise<void> {
  for (const { file, kind, zxid } of dataFiles(directory)) {
    if (kind === 'log' ? zxid < first : zxid < first - 1) await rm(file);
  }
  await syncDirectory(directory);
}

export interface Loaded {
  readonly database: Database;
  readonly snapshotSize: number;
  /** The log file to go on with, how far it is sound, and what is behind that. */
  readonly last: { file: string; salt: Buffer | undefined; end: number; torn: number } | undefined;
}

/**
 * The database from the newest snapshot and the logs, except transactions from zxid `before` on.
 *
 * @throws StoreCorruptError
 */
export function load(directory: string, before: number): Loaded {
  const files = dataFiles(directory);
  const snapshot = files.filter(({ kind, zxid }) => kind === 'snapshot' && zxid < before).at(-1);
  const database = snapshot === undefined ? new Database() : readSnapshot(snapshot.file);
  if (snapshot !== undefined && database.zxid !== snapshot.zxid) {
    throw new StoreCorruptError(snapshot.file, 0, `holds transaction ${database.zxid}`);
  }
  const logs = files.filter(({ kind, zxid }) => kind === 'log' && zxid < before);
  // Logs that the snapshot covers may be left from a crash just after it was made.
  const from = Math.max(
    0,
    logs.findLastIndex(({ zxid }) => zxid <= database.zxid + 1),
  );
  let last: Loaded['last'];
  for (let i = from; i < logs.length; i++) {
    const { file, zxid } = logs[i];
    if (zxid > database.zxid + 1) throw new StoreCorruptError(file, 0, `transactions before ${zxid} are missing`);
    const end = readRecordFile(file, 'log', (record) => {
      const transaction = decodeTransaction(record);
      if (transaction.zxid > database.zxid) database.apply(transaction);
    });
    if (end.torn > 0 && i < logs.length - 1) {
      throw new StoreCorruptError(file, end.end, `damaged, and log files follow`);
    }
    last = { file, ...end };
  }
  return { database, snapshotSize: snapshot === undefined ? 0 : statSync(snapshot.file).size, last };
}

const TAG_BEGIN = 1;
const TAG_SESSION = 2;
const TAG_NODE = 3;
const TAG_END = 4;
const SNAPSHOT_BATCH = 1024 * 1024;

/** Writes a snapshot under its final name only when it is whole and on disk; returns its size. */
export function writeSnapshot(directory: string, database: Database): number {
  const file = snapshotFile(directory, database.zxid);
  const part = `${file}.tmp`;
  let size: number;
  try {
    size = writeSnapshotFile(part, database);
    renameSync(part, file);
  } catch (error) {
    // It may have filled the disk, which the log needs.
    rmSync(part, { force: true });
    throw error;
  }
  const directoryFd = openSync(directory, 'r');
  try {
    fsyncSync(directoryFd);
  } finally {
    closeSync(directoryFd);
  }
  return size;
}

function writeSnapshotFile(file: string, database: Database): number {
  const fd = openSync(file, 'w', 0o600);
  let size = 0;
  try {
    const { bytes, salt } = newFileHeader('snapshot');
    size += writevSync(fd, [bytes]);
    let records: Buffer[] = [];
    let pending = 0;
    const flush = () => {
      const { buffers, length } = encodeBatch(salt, records);
      const batch = Buffer.concat(buffers, length);
      for (let done = 0; done < length; ) done += writevSync(fd, [batch.subarray(done)]);
      size += length;
      records = [];
      pending = 0;
    };
    const add = (record: Buffer) => {
      records.push(record);
      pending += record.length;
      if (pending >= SNAPSHOT_BATCH) flush();
    };
    add(new JuteWriter().int(TAG_BEGIN).long(database.zxid).body());
    for (const { id, timeout, password } of database.sessions.values()) {
      add(new JuteWriter().int(TAG_SESSION).sessionId(id).int(timeout).bytes(password).body());
    }
    const visit = (path: string, node: TreeNode) => {
      add(encodeNode(path, node));
      if (node.children === undefined) return;
      for (const [child, childNode] of node.children) visit(joinPath(path, child), childNode);
    };
    visit('/', database.root);
    add(new JuteWriter().int(TAG_END).int(database.sessions.size).int(database.nodeCount).body());
    flush();
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  return size;
}

function encodeNode(path: string, node: TreeNode): Buffer {
  const w = new JuteWriter(128 + path.length + node.data.length);
  w.int(TAG_NODE).string(path).bytes(node.data);
  w.long(node.czxid).long(node.mzxid).long(node.pzxid).long(node.ctime).long(node.mtime);
  w.int(node.version)
    .int(node.creates)
    .sessionId(node.owner ?? NO_SESSION);
  return w.body();
}

/** @throws StoreCorruptError unless the snapshot is whole. */
function readSnapshot(file: string): Database {
  const database = new Database();
  let ended = false;
  const { end, torn } = readRecordFile(file, 'snapshot', (record, offset) => {
    const r = new JuteReader(record);
    const tag = r.int();
    if (tag === TAG_BEGIN) {
      database.zxid = r.long();
    } else if (tag === TAG_SESSION) {
      const id = r.sessionId();
      database.sessions.set(id, { id, timeout: r.int(), password: ownBytes(r.bytes()), ephemerals: new Set() });
    } else if (tag === TAG_NODE) {
      const path = r.string();
      database.restore(path, decodeNode(r));
    } else if (tag === TAG_END) {
      ended = r.int() === database.sessions.size && r.int() === database.nodeCount;
    } else {
      throw new StoreCorruptError(file, offset, `record of unknown kind ${tag}`);
    }
  });
  if (!ended || torn > 0) throw new StoreCorruptError(file, end, 'the snapshot is incomplete');
  return database;
}

function decodeNode(r: JuteReader): TreeNode {
  const node = emptyNode();
  node.data = ownBytes(r.bytes());
  node.czxid = r.long();
  node.mzxid = r.long();
  node.pzxid = r.long();
  node.ctime = r.long();
  node.mtime = r.long();
  node.version = r.int();
  node.creates = r.int();
  const owner = r.sessionId();
  node.owner = owner === NO_SESSION ? undefined : owner;
  return node;
}
