import { deepStrictEqual } from 'node:assert';
import { setImmediate as settled } from 'node:timers/promises';
import { Database } from '../../../src/nsdb/embedded/database.js';
import { makeSnapshot, Storage } from '../../../src/nsdb/embedded/storage.js';
import type { Change, Transaction } from '../../../src/nsdb/embedded/transaction.js';
import { nodeName, parentPath } from '../../../src/nsdb/path.js';
import { Dice } from '../../dice.js';
import { PowerLossDisk } from './power-loss-disk.js';

export const FOLDER = '/var/lib/nsdb';
export const SNAPSHOT_AFTER = 4000;
const PATHS = ['/a', '/b', '/c', '/a/x', '/a/y', '/a/x/1', '/a/x/2', '/b/x', '/b/y', '/c/x', '/c/x/1'];

/** One disk, the servers that one after the other use it, and what their clients know. */
export class History {
  private readonly dice: Dice;
  disk: PowerLossDisk;
  /** All that was sent, but for what a crash has taken. The first has zxid 1. */
  readonly sent: Transaction[] = [];
  /** Zxid up to which clients may have seen something. */
  acknowledged = 0;
  /** What was under way when the power was cut or the process killed, and how often. */
  readonly crashes = new Map<string, number>();

  constructor(
    seed: number,
    omits?: (operation: string, path: string) => boolean,
    private readonly fsync = true,
  ) {
    this.dice = new Dice(seed);
    this.disk = new PowerLossDisk(this.dice, omits);
  }

  /**
   * A server starts, works, and ends after so many steps, however far it came: by a crash, unless it is stopped in order.
   *
   * @param watch called after every step of its work
   */
  async life(steps: number, stops = this.dice.chance(10), watch = (_: Storage) => {}): Promise<void> {
    const { disk, dice } = this;
    const life: { storage?: Storage; failure?: Error } = {};
    const opening = Storage.open(
      {
        directory: FOLDER,
        fsync: this.fsync,
        snapshotAfter: SNAPSHOT_AFTER,
        disk,
        // Looking for room goes by the clock, which no seed decides.
        diskReserve: 0,
        snapshotMaker: (job, signal) => makeSnapshot(disk, job, signal),
      },
      {
        onDurable: (zxid) => {
          this.acknowledged = zxid;
        },
        onFailure: () => {},
        onNotice: () => {},
      },
    ).then(
      (storage) => {
        life.storage = storage;
      },
      (error: Error) => {
        life.failure = error;
      },
    );
    for (; steps > 0 && life.storage === undefined; steps--) {
      disk.step();
      await settled();
      if (life.failure !== undefined) throw life.failure;
    }
    const { storage } = life;
    if (storage === undefined) {
      this.crash('starting: ');
      await opening;
      return;
    }
    this.check(storage.database);
    for (; steps > 0; steps--) {
      if (dice.chance(30)) this.transact(storage);
      else disk.step();
      await settled();
      watch(storage);
    }
    // Stopping takes a few steps, too, and may be cut short.
    if (!stops && dice.chance(10)) {
      const closing = storage.close();
      for (let left = 1 + dice.below(6); left > 0; left--) {
        disk.step();
        await settled();
      }
      this.crash('stopping: ');
      await closing;
      return;
    }
    if (stops) await this.stop(storage);
    this.crash('');
    await storage.close();
  }

  /** Stops the server in order. */
  private async stop(storage: Storage): Promise<void> {
    let closed = false;
    const closing = storage.close().then(() => {
      closed = true;
    });
    while (!closed) {
      this.disk.step();
      await settled();
    }
    await closing;
    this.acknowledged = this.sent.length;
  }

  private crash(phase: string): void {
    const power = this.dice.chance(70);
    const { underWay } = this.disk;
    for (const label of underWay.length > 0 ? underWay : ['nothing']) {
      this.crashes.set(phase + label, (this.crashes.get(phase + label) ?? 0) + 1);
    }
    this.disk = power ? this.disk.cutPower() : this.disk.kill();
  }

  /** The database is what some of the transactions made of it: from the first on, without gaps, all acknowledged ones. */
  private check(found: Database): void {
    const { sent, acknowledged } = this;
    if (found.zxid < acknowledged)
      throw new Error(`transaction ${found.zxid} is the last, ${acknowledged} was acknowledged`);
    if (found.zxid > sent.length) throw new Error(`transaction ${found.zxid} is the last, ${sent.length} was sent`);
    sent.length = found.zxid;
    this.acknowledged = found.zxid;
    const expected = new Database();
    for (const transaction of sent) expected.apply(transaction);
    deepStrictEqual(found, expected);
  }

  private transact(storage: Storage): void {
    const { database } = storage;
    const zxid = database.zxid + 1;
    const time = 1_700_000_000_000 + zxid;
    const changes: Change[] = [];
    for (let left = this.dice.chance(25) ? 5 : 1; left > 0; left--) {
      for (const change of this.changes(database, zxid)) {
        database.applyChange(change, zxid, time);
        changes.push(change);
      }
    }
    database.zxid = zxid;
    const transaction = { zxid, time, changes };
    this.sent.push(transaction);
    storage.append(transaction);
  }

  /** One change that is possible, or those that end a session. */
  private changes(database: Database, zxid: number): Change[] {
    const { dice } = this;
    const session = dice.pick([...database.sessions.values()]);
    if (dice.chance(5) || session === undefined) {
      const id = String(zxid).padStart(8, '0').padStart(16, '01');
      if (database.sessions.has(id)) return [];
      return [{ type: 'open-session', id, timeout: 4000, password: Buffer.alloc(16, zxid) }];
    }
    if (dice.chance(5)) {
      const deletes = [...session.ephemerals].map((path): Change => ({ type: 'delete', path }));
      return [...deletes, { type: 'close-session', id: session.id }];
    }
    const path = dice.pick(PATHS)!;
    const node = database.find(path);
    const data = Buffer.alloc(dice.chance(80) ? dice.below(100) : dice.below(3000), `${zxid} ${nodeName(path)} `);
    if (node === undefined) {
      const parent = database.find(parentPath(path)!);
      if (parent === undefined || parent.owner !== undefined) return [];
      return [{ type: 'create', path, data, owner: dice.chance(30) ? session.id : undefined }];
    }
    if (node.children === undefined && dice.chance(30)) return [{ type: 'delete', path }];
    return [{ type: 'set', path, data }];
  }
}
