/** Requests about watches alone: set again, set to stay, looked for, taken back. */
import { pathFault } from '../path.js';
import type { JuteReader } from '../protocol/jute.js';
import { AddWatchMode, Err, EventType, WatcherType } from '../protocol/records.js';
import type { ClientConnection } from './client-connection.js';
import type { Database } from './database.js';
import type { Outbox } from './outbox.js';
import type { WatchKind, WatchTable } from './watch-table.js';

const WATCH_KINDS: ReadonlyMap<number, readonly WatchKind[]> = new Map<number, WatchKind[]>([
  [WatcherType.children, ['children']],
  [WatcherType.data, ['data']],
  [WatcherType.any, ['data', 'children', 'persistent', 'recursive']],
]);

export class WatchRequests {
  constructor(
    private readonly database: Database,
    private readonly watches: WatchTable<ClientConnection>,
    private readonly outbox: Outbox,
  ) {}

  /** A client that came back sets its watches again; what changed after the zxid it saw last fires at once. */
  setAgain(connection: ClientConnection, xid: number, r: JuteReader, withPersistent: boolean): void {
    const seen = r.long();
    const [data, exist, child] = [r.strings(), r.strings(), r.strings()];
    if (withPersistent) {
      // These never fire at once: who watches a tree reads it again.
      for (const path of r.strings()) this.watches.add('persistent', path, connection);
      for (const path of r.strings()) this.watches.add('recursive', path, connection);
    }
    for (const path of data) {
      const node = this.database.find(path);
      if (node === undefined) this.outbox.sendEvent(connection, EventType.deleted, path);
      else if (node.mzxid > seen) this.outbox.sendEvent(connection, EventType.dataChanged, path);
      else this.watches.add('data', path, connection);
    }
    for (const path of exist) {
      if (this.database.find(path) !== undefined) this.outbox.sendEvent(connection, EventType.created, path);
      else this.watches.add('data', path, connection);
    }
    for (const path of child) {
      const node = this.database.find(path);
      if (node === undefined) this.outbox.sendEvent(connection, EventType.deleted, path);
      else if (node.pzxid > seen) this.outbox.sendEvent(connection, EventType.childrenChanged, path);
      else this.watches.add('children', path, connection);
    }
    this.outbox.reply(connection, xid, Err.ok);
  }

  /** The answer is a code of its own, beside the one of every answer. */
  add(connection: ClientConnection, xid: number, r: JuteReader): void {
    const path = r.string();
    const mode = r.int();
    const known = mode === AddWatchMode.persistent || mode === AddWatchMode.persistentRecursive;
    if (!known || pathFault(path) !== undefined) return this.outbox.reply(connection, xid, Err.badArguments);
    this.watches.add(mode === AddWatchMode.persistent ? 'persistent' : 'recursive', path, connection);
    this.outbox.reply(connection, xid, Err.ok, (w) => w.int(Err.ok));
  }

  /** Looks for the client's own watches of a path, and takes them back with `remove`. */
  find(connection: ClientConnection, xid: number, r: JuteReader, remove: boolean): void {
    const path = r.string();
    const kinds = WATCH_KINDS.get(r.int());
    if (kinds === undefined) return this.outbox.reply(connection, xid, Err.badArguments);
    const found = kinds.filter((kind) =>
      remove ? this.watches.remove(kind, path, connection) : this.watches.has(kind, path, connection),
    );
    this.outbox.reply(connection, xid, found.length > 0 ? Err.ok : Err.noWatcher);
  }
}
