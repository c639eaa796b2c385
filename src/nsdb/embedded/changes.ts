/** Making changes: in memory at once, then in the log, then told to those who watch. */
import { EventType, Permission } from '../protocol/records.js';
import { type AccessList, allows } from './access.js';
import type { ClientConnection } from './client-connection.js';
import type { Database } from './database.js';
import type { Outbox } from './outbox.js';
import type { Storage } from './storage.js';
import type { Change } from './transaction.js';
import type { WatchTable } from './watch-table.js';

export class Changes {
  readonly counters = { transactions: 0, watchEvents: 0 };
  readonly database: Database;

  constructor(
    readonly storage: Storage,
    private readonly watches: WatchTable<ClientConnection>,
    private readonly outbox: Outbox,
    private readonly onDefect: (error: Error) => void,
  ) {
    this.database = storage.database;
  }

  /** Makes changes that are known to fit, as one transaction. */
  commit(changes: readonly Change[]): void {
    this.guard(() => {
      const transaction = new OpenTransaction(this.database);
      for (const change of changes) transaction.make(change);
      this.record(transaction);
    });
  }

  /** Does what makes changes. An error must end the server: memory would differ from the log. */
  guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.onDefect(error as Error);
      throw error;
    }
  }

  /** Logs the changes that a transaction made, and fires the watches. */
  record({ zxid, time, changes, gone }: OpenTransaction): void {
    this.database.zxid = zxid;
    this.storage.append({ zxid, time, changes });
    this.counters.transactions++;
    for (const change of changes) {
      this.watches.fire(change, (connection, event, path) => {
        if (!this.mayHearOf(connection, event, path, gone)) return;
        this.counters.watchEvents++;
        this.outbox.sendEvent(connection, event, path);
      });
    }
  }

  /** A watch of a tree must not tell of nodes that its owner may not read. */
  private mayHearOf(
    { identities }: ClientConnection,
    event: number,
    path: string,
    gone: ReadonlyMap<string, AccessList>,
  ): boolean {
    if (this.database.accessLists.size === 0 && gone.size === 0) return true;
    const [before, after] = [gone.get(path), this.database.find(path)?.acl];
    const acl = event === EventType.deleted ? (before ?? after) : (after ?? before);
    return acl === undefined || allows(acl, Permission.read, identities);
  }
}

/** Changes made in memory one after the other, each of which sees those before it, that nobody has been told of. */
export class OpenTransaction {
  readonly zxid: number;
  /** Milliseconds since 1970. */
  readonly time = Date.now();
  readonly changes: Change[] = [];
  /** Access lists of the nodes deleted, by path: for the events that tell of them. */
  readonly gone = new Map<string, AccessList>();

  /** With `undo` it can be taken back. */
  constructor(
    private readonly database: Database,
    private readonly undo?: (() => void)[],
  ) {
    this.zxid = database.zxid + 1;
  }

  make(change: Change): void {
    if (change.type === 'delete' && this.database.accessLists.size > 0) {
      this.gone.set(change.path, this.database.find(change.path)!.acl);
    }
    this.database.applyChange(change, this.zxid, this.time, this.undo);
    this.changes.push(change);
  }

  takeBack(): void {
    for (const back of this.undo?.reverse() ?? []) back();
  }
}
