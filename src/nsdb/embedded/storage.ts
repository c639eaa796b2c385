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
import { dirname, join, resolve } from 'node:path';
import { LatencyHistogram } from '../../latency-histogram.js';
import { joinPath } from '../path.js';
import { JuteReader, JuteWriter, NO_SESSION } from '../protocol/jute.js';
import { readAcls, writeAcls } from '../protocol/records.js';
import { type AccessList, OPEN_LIST } from './access.js';
import { Database, emptyNode, type TreeNode } from './database.js';
import { type Disk, nodeDisk, type WritableFile, writeAll } from './disk.js';
import { DiskRoom } from './disk-room.js';
import { encodeBatch, newFileHeader, readRecordFile, StoreCorruptError } from './record-file.js';
import { type SnapshotJob, type SnapshotMaker, snapshotInThread } from './snapshot-thread.js';
import { decodeTransaction, encodeTransaction, ownBytes, type Transaction } from './transaction.js';
import { WriteAheadLog } from './write-ahead-log.js';

export interface StorageOptions {
  readonly directory: string;
  readonly fsync: boolean;
  /** Bytes of log after which a snapshot is made; at least the size of the last snapshot is used. */
  readonly snapshotAfter: number;
  /** Bytes of the disk that are kept free: with less room {@link Storage.full} says so. */
  readonly diskReserve: number;
  /** A test's own disk. */
  readonly disk?: Disk;
  /** Makes snapshots, in a thread unless given: {@link makeSnapshot} where the disk is a test's. */
  readonly snapshotMaker?: SnapshotMaker;
}

export interface StorageEvents {
  /** Every transaction up to this zxid is on disk. */
  onDurable(zxid: number): void;
  /** The disk failed: the server must stop, since memory is ahead of what is safe. */
  onFailure(error: Error): void;
  onNotice(level: 'info' | 'warn' | 'error', message: string, fields: object): void;
}

const FILE_NAME = /^(log|snapshot)-([0-9a-f]{16})$/;
const PART_NAME = /^snapshot-[0-9a-f]{16}\.tmp$/;

export class Storage {
  private readonly metricsOfLog: WriteAheadLog['metrics'];
  private makingSnapshot: Promise<void> | undefined;
  private readonly closing = new AbortController();
  private readonly room: DiskRoom;
  /** Zxid before the first transaction appended. */
  private readonly base: number;
  snapshots = 0;
  /** How long they took. */
  readonly snapshotTimes = new LatencyHistogram();

  private constructor(
    readonly database: Database,
    private readonly directory: string,
    private readonly disk: Disk,
    private readonly options: StorageOptions,
    private readonly events: StorageEvents,
    private readonly lock: { release(): Promise<void> },
    private readonly log: WriteAheadLog,
    private readonly logOptions: { fsync: boolean; fullSize: number },
    private snapshotSize: number,
  ) {
    this.metricsOfLog = log.metrics;
    this.base = database.zxid;
    this.room = new DiskRoom(disk, directory, options.diskReserve, () => log.unwritten, {
      onChange: (full, free) => this.onRoom(full, free),
      onError: (error) => events.onNotice('warn', 'cannot tell how much room the disk has', { error: error.message }),
    });
  }

  /** @throws FolderLockedError, StoreCorruptError */
  static async open(options: StorageOptions, events: StorageEvents): Promise<Storage> {
    const directory = resolve(options.directory);
    const disk = options.disk ?? nodeDisk;
    await disk.makeFolder(directory);
    const lock = await disk.lock(directory);
    let log: WriteAheadLog | undefined;
    try {
      for (const name of disk.list(directory)) if (PART_NAME.test(name)) await disk.remove(join(directory, name));
      const loaded = load(disk, directory, Number.POSITIVE_INFINITY);
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
        onFull: () => storage?.beginNextLog(),
      };
      // As long as there is no log the folder, or one above it, may have been made by a server that died right after.
      if (last === undefined && options.fsync) await syncParents(disk, directory);
      log =
        last?.salt !== undefined
          ? await WriteAheadLog.resume(disk, last.file, last.salt, last.end, logOptions, logEvents)
          : await WriteAheadLog.begin(disk, last?.file ?? logFile(directory, base + 1), logOptions, logEvents);
      // What a crash kept the last server from removing. The names of what replaces it are durable by here.
      for (const file of loaded.obsolete) await disk.remove(file);
      storage = new Storage(database, directory, disk, options, events, lock, log, logOptions, loaded.snapshotSize);
      await storage.room.start();
      return storage;
    } catch (error) {
      try {
        await log?.close();
      } finally {
        await lock.release();
      }
      throw error;
    }
  }

  get metrics(): Readonly<WriteAheadLog['metrics']> {
    return this.metricsOfLog;
  }

  /** Writes a transaction that was applied to the database. Durable when the events say so. */
  append(transaction: Transaction): void {
    const record = encodeTransaction(transaction);
    this.room.appended(record.length);
    this.log.append(record);
  }

  /** Whether the disk has less room than the reserve: what makes the data grow should be refused. */
  get full(): boolean {
    return this.room.full;
  }

  /** Whether everything appended so far is on disk. */
  get isDurable(): boolean {
    return this.log.durable === this.log.appended;
  }

  /** Ends when all that was appended is written, or cannot be. */
  async close(): Promise<void> {
    this.closing.abort();
    await this.room.close();
    await this.makingSnapshot;
    try {
      await this.log.close();
    } catch (error) {
      // What was appended is durable all the same, or the events have told that it is not.
      this.events.onNotice('warn', 'could not close the log', { error: (error as Error).message });
    }
    await this.lock.release();
  }

  private onRoom(full: boolean, free: number): void {
    const fields = { free, reserve: this.options.diskReserve };
    if (full) this.events.onNotice('error', 'the disk has too little room: changes that need more are refused', fields);
    else this.events.onNotice('info', 'the disk has room again', fields);
    this.setFullSize();
    // A log that is replaced by a snapshot makes room.
    if (full && this.log.size >= this.logOptions.fullSize) this.beginNextLog();
  }

  private setFullSize(): void {
    const { snapshotAfter, diskReserve } = this.options;
    const size = Math.max(snapshotAfter, this.snapshotSize);
    // What clients delete on a full disk is soon to make room; the log may take no large part of the reserve meanwhile.
    this.logOptions.fullSize = this.room.full ? Math.min(size, diskReserve / 16) : size;
  }

  private beginNextLog(): void {
    if (this.makingSnapshot !== undefined || this.closing.signal.aborted) return;
    this.log.rotate(() => {
      const first = this.base + this.log.durable + 1;
      if (!this.closing.signal.aborted) {
        this.makingSnapshot = this.makeSnapshot(first).finally(() => {
          this.makingSnapshot = undefined;
        });
      }
      return logFile(this.directory, first);
    });
  }

  /** Replaces the logs before the one that begins with `first`, and the snapshot they follow, by a snapshot. */
  private async makeSnapshot(first: number): Promise<void> {
    const { directory, disk } = this;
    try {
      const start = performance.now();
      const make = this.options.snapshotMaker ?? snapshotInThread;
      // Writes stop at the reserve. Half of it may be what a snapshot needs to make room.
      const job = { directory, before: first, leave: this.options.diskReserve / 2 };
      const size = await make(job, this.closing.signal);
      this.snapshots++;
      this.snapshotSize = size;
      this.setFullSize();
      this.snapshotTimes.observe(performance.now() - start);
      await removeBefore(disk, directory, first);
      await this.room.look();
      this.events.onNotice('info', 'made a snapshot', { zxid: first - 1, bytes: size });
    } catch (error) {
      // Nothing is lost: the logs are kept until a later snapshot succeeds. A thread that was ended leaves what it wrote.
      await disk
        .remove(partOf(snapshotFile(directory, first - 1)))
        .catch((left: Error) =>
          this.events.onNotice('warn', 'could not remove the part of a snapshot', { error: left.message }),
        );
      if (this.closing.signal.aborted) return;
      this.events.onNotice('warn', 'could not make a snapshot', { error: (error as Error).message });
    }
  }
}

function logFile(directory: string, first: number): string {
  return join(directory, `log-${first.toString(16).padStart(16, '0')}`);
}

function snapshotFile(directory: string, zxid: number): string {
  return join(directory, `snapshot-${zxid.toString(16).padStart(16, '0')}`);
}

/** What a snapshot is called until it is whole and on disk. */
function partOf(file: string): string {
  return `${file}.tmp`;
}

interface DataFile {
  readonly file: string;
  readonly kind: 'log' | 'snapshot';
  readonly zxid: number;
}

/** Logs and snapshots in the folder, by zxid. */
function dataFiles(disk: Disk, directory: string): DataFile[] {
  const files: DataFile[] = [];
  for (const name of disk.list(directory)) {
    const match = FILE_NAME.exec(name);
    if (match === null) continue;
    const kind = match[1] === 'log' ? 'log' : 'snapshot';
    files.push({ file: join(directory, name), kind, zxid: Number.parseInt(match[2], 16) });
  }
  return files.sort((a, b) => a.zxid - b.zxid);
}

const NOT_MADE_IN: ReadonlySet<string | undefined> = new Set(['EACCES', 'EROFS', 'EINVAL']);

/** Makes the names of a folder and of those above it durable. */
async function syncParents(disk: Disk, directory: string): Promise<void> {
  for (let folder = directory; folder !== dirname(folder); folder = dirname(folder)) {
    try {
      await disk.syncFolder(dirname(folder));
    } catch (error) {
      // In a folder that may not be read, or whose file system takes no writes or does not sync, no folder was made.
      if (!NOT_MADE_IN.has((error as NodeJS.ErrnoException).code)) throw error;
      return;
    }
  }
}

async function removeBefore(disk: Disk, directory: string, first: number): Promise<void> {
  for (const { file, kind, zxid } of dataFiles(disk, directory)) {
    if (kind === 'log' ? zxid < first : zxid < first - 1) await disk.remove(file);
  }
  await disk.syncFolder(directory);
}

export interface Loaded {
  readonly database: Database;
  readonly snapshotSize: number;
  /** The log file to go on with, how far it is sound, and what is behind that. */
  readonly last: { file: string; salt: Buffer | undefined; end: number; torn: number } | undefined;
  /** Files that nothing needs any more. */
  readonly obsolete: readonly string[];
}

/**
 * The database from the newest snapshot and the logs, except transactions from zxid `before` on.
 *
 * @throws StoreCorruptError
 */
export function load(disk: Disk, directory: string, before: number): Loaded {
  const files = dataFiles(disk, directory).filter(({ zxid }) => zxid < before);
  const snapshots = files.filter(({ kind }) => kind === 'snapshot');
  const snapshot = snapshots.pop();
  const { database, size } =
    snapshot === undefined ? { database: new Database(), size: 0 } : readSnapshot(disk, snapshot);
  const logs = files.filter(({ kind }) => kind === 'log');
  // Logs that the snapshot covers may be left from a crash just after it was made.
  const from = Math.max(
    0,
    logs.findLastIndex(({ zxid }) => zxid <= database.zxid + 1),
  );
  const covered = logs.splice(0, from);
  let last: Loaded['last'];
  for (const [i, { file, zxid }] of logs.entries()) {
    if (zxid > database.zxid + 1) throw new StoreCorruptError(file, 0, `transactions before ${zxid} are missing`);
    const end = readRecordFile(disk, file, 'log', (record) => {
      const transaction = decodeTransaction(record);
      if (transaction.zxid > database.zxid) database.apply(transaction);
    });
    if (end.torn > 0 && i < logs.length - 1) {
      throw new StoreCorruptError(file, end.end, `damaged, and log files follow`);
    }
    last = { file, ...end };
  }
  return { database, snapshotSize: size, last, obsolete: [...snapshots, ...covered].map(({ file }) => file) };
}

const TAG_BEGIN = 1;
const TAG_SESSION = 2;
const TAG_NODE = 3;
const TAG_END = 4;
const SNAPSHOT_BATCH = 1024 * 1024;

/** {@link SnapshotMaker} for the disk given. */
export async function makeSnapshot(disk: Disk, job: SnapshotJob, signal?: AbortSignal): Promise<number> {
  const { directory, before, leave } = job;
  const { database } = load(disk, directory, before);
  if (database.zxid !== before - 1) {
    throw new Error(`the logs before transaction ${before} end with transaction ${database.zxid}`);
  }
  return writeSnapshot(disk, directory, database, leave, signal);
}

/** Writes a snapshot under its final name only when it is whole and on disk; returns its size. */
export async function writeSnapshot(
  disk: Disk,
  directory: string,
  database: Database,
  leave = 0,
  signal?: AbortSignal,
): Promise<number> {
  const path = snapshotFile(directory, database.zxid);
  const file = await disk.create(partOf(path));
  const checkRoom = async (bytes: number) => {
    signal?.throwIfAborted();
    const free = await disk.free(directory);
    if (free - bytes < leave) throw new Error(`the disk has too little room, ${free} bytes`);
  };
  let size: number;
  try {
    try {
      size = await writeSnapshotFile(file, database, checkRoom);
      await file.sync();
    } finally {
      await file.close();
    }
    await disk.rename(partOf(path), path);
  } catch (error) {
    // It may have filled the disk, which the log needs.
    await disk.remove(partOf(path));
    throw error;
  }
  await disk.syncFolder(directory);
  return size;
}

async function writeSnapshotFile(
  file: WritableFile,
  database: Database,
  before: (bytes: number) => Promise<void>,
): Promise<number> {
  const { bytes, salt } = newFileHeader('snapshot');
  await writeAll(file, [bytes], 0);
  let size = bytes.length;
  let records: Buffer[] = [];
  let pending = 0;
  const flush = async () => {
    const batch = encodeBatch(salt, records);
    await before(batch.length);
    await writeAll(file, [batch], size);
    size += batch.length;
    records = [];
    pending = 0;
  };
  for (const record of snapshotRecords(database)) {
    records.push(record);
    pending += record.length;
    if (pending >= SNAPSHOT_BATCH) await flush();
  }
  await flush();
  return size;
}

function* snapshotRecords(database: Database): Generator<Buffer> {
  yield new JuteWriter().int(TAG_BEGIN).long(database.zxid).body();
  for (const { id, timeout, password } of database.sessions.values()) {
    yield new JuteWriter().int(TAG_SESSION).sessionId(id).int(timeout).bytes(password).body();
  }
  const lists = new Map<AccessList, number>();
  // A tree may be deeper than calls can be nested.
  const left: [string, TreeNode][] = [['/', database.root]];
  for (let next = left.pop(); next !== undefined; next = left.pop()) {
    const [path, node] = next;
    yield encodeNode(path, node, lists);
    for (const [child, childNode] of node.children ?? []) left.push([joinPath(path, child), childNode]);
  }
  yield new JuteWriter().int(TAG_END).int(database.sessions.size).int(database.nodeCount).body();
}

/** The end, from `aversion` on, is there only of a node with a list of its own. Lists are numbered by their first use. */
function encodeNode(path: string, node: TreeNode, lists: Map<AccessList, number>): Buffer {
  const w = new JuteWriter(128 + path.length + node.data.length);
  w.int(TAG_NODE).string(path).byteString(node.data);
  w.long(node.czxid).long(node.mzxid).long(node.pzxid).long(node.ctime).long(node.mtime);
  w.int(node.version)
    .int(node.creates)
    .sessionId(node.owner ?? NO_SESSION);
  if (node.acl === OPEN_LIST && node.aversion === 0) return w.body();
  const number = lists.get(node.acl);
  w.int(node.aversion).int(number ?? lists.size);
  if (number === undefined) {
    lists.set(node.acl, lists.size);
    writeAcls(w, node.acl.acls);
  }
  return w.body();
}

/** @throws StoreCorruptError unless the snapshot is whole. */
function readSnapshot(disk: Disk, { file, zxid }: DataFile): { database: Database; size: number } {
  const database = new Database();
  const lists: AccessList[] = [];
  let ended = false;
  const { end, torn } = readRecordFile(disk, file, 'snapshot', (record, offset) => {
    const r = new JuteReader(record);
    const tag = r.int();
    if (tag === TAG_BEGIN) {
      database.zxid = r.long();
    } else if (tag === TAG_SESSION) {
      const id = r.sessionId();
      database.sessions.set(id, { id, timeout: r.int(), password: ownBytes(r.bytes()), ephemerals: new Set() });
    } else if (tag === TAG_NODE) {
      const path = r.string();
      const node = decodeNode(r);
      if (r.remaining > 0) {
        node.aversion = r.int();
        const number = r.int();
        if (number === lists.length) lists.push(database.accessLists.find(readAcls(r)));
        if (lists[number] === undefined) throw new StoreCorruptError(file, offset, `no access list ${number}`);
        node.acl = lists[number];
      }
      database.restore(path, node);
    } else if (tag === TAG_END) {
      ended = r.int() === database.sessions.size && r.int() === database.nodeCount;
    } else {
      throw new StoreCorruptError(file, offset, `record of unknown kind ${tag}`);
    }
  });
  if (!ended || torn > 0) throw new StoreCorruptError(file, end, 'the snapshot is incomplete');
  if (database.zxid !== zxid) throw new StoreCorruptError(file, 0, `holds transaction ${database.zxid}`);
  return { database, size: end };
}

function decodeNode(r: JuteReader): TreeNode {
  const node = emptyNode();
  node.data = r.byteString();
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
