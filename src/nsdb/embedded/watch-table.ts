/**
 * Who waits for what: one-shot watches of ZooKeeper's two kinds. `data` watches are left by getData and exists, `children`
 * watches by getChildren. Watches belong to a connection, not to a session: a client that comes back sets them again.
 */

import { parentPath } from '../path.js';
import { EventType } from '../protocol/records.js';
import type { Change } from './transaction.js';

type Table<C> = Map<string, Set<C>>;

export class WatchTable<C> {
  private readonly data: Table<C> = new Map();
  private readonly children: Table<C> = new Map();
  private readonly byWatcher = new Map<C, { data: Set<string>; children: Set<string> }>();
  private size = 0;

  /** Watches that have not fired. */
  get count(): number {
    return this.size;
  }

  add(kind: 'data' | 'children', path: string, watcher: C): void {
    const table = this[kind];
    let watchers = table.get(path);
    if (watchers === undefined) {
      watchers = new Set();
      table.set(path, watchers);
    }
    if (watchers.has(watcher)) return;
    watchers.add(watcher);
    let own = this.byWatcher.get(watcher);
    if (own === undefined) {
      own = { data: new Set(), children: new Set() };
      this.byWatcher.set(watcher, own);
    }
    own[kind].add(path);
    this.size++;
  }

  /** Forgets every watch of a connection that is gone. */
  removeWatcher(watcher: C): void {
    const own = this.byWatcher.get(watcher);
    if (own === undefined) return;
    for (const kind of ['data', 'children'] as const) {
      for (const path of own[kind]) {
        const watchers = this[kind].get(path)!;
        watchers.delete(watcher);
        if (watchers.size === 0) this[kind].delete(path);
        this.size--;
      }
    }
    this.byWatcher.delete(watcher);
  }

  /** Fires what waits for a change that was just made, each watcher of a path once. */
  fire(change: Change, notify: (watcher: C, event: number, path: string) => void): void {
    switch (change.type) {
      case 'create':
        for (const watcher of this.take('data', change.path)) notify(watcher, EventType.created, change.path);
        this.fireParent(change.path, notify);
        break;
      case 'set':
        for (const watcher of this.take('data', change.path)) notify(watcher, EventType.dataChanged, change.path);
        break;
      case 'delete': {
        const data = this.take('data', change.path);
        for (const watcher of data) notify(watcher, EventType.deleted, change.path);
        for (const watcher of this.take('children', change.path)) {
          if (!data.has(watcher)) notify(watcher, EventType.deleted, change.path);
        }
        this.fireParent(change.path, notify);
        break;
      }
      case 'open-session':
      case 'close-session':
        break;
    }
  }

  private fireParent(path: string, notify: (watcher: C, event: number, path: string) => void): void {
    const parent = parentPath(path)!;
    for (const watcher of this.take('children', parent)) notify(watcher, EventType.childrenChanged, parent);
  }

  private take(kind: 'data' | 'children', path: string): ReadonlySet<C> {
    const watchers = this[kind].get(path);
    if (watchers === undefined) return NOBODY as ReadonlySet<C>;
    this[kind].delete(path);
    for (const watcher of watchers) this.byWatcher.get(watcher)![kind].delete(path);
    this.size -= watchers.size;
    return watchers;
  }
}

const NOBODY: ReadonlySet<unknown> = new Set();
