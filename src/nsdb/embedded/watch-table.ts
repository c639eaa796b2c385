/**
 * Who waits for what. One-shot watches are of ZooKeeper's two kinds: `data` watches are left by getData and exists,
 * `children` watches by getChildren. Since 3.6 addWatch leaves watches that stay: a `persistent` one fires for what both
 * kinds do, a `recursive` one for the creation, deletion and data of the node and of all below it. Watches belong to a
 * connection, not to a session: a client that comes back sets them again.
 */

import { parentPath } from '../path.js';
import { EventType } from '../protocol/records.js';
import type { Change } from './transaction.js';

const KINDS = ['data', 'children', 'persistent', 'recursive'] as const;
export type WatchKind = (typeof KINDS)[number];

export class WatchTable<C> {
  private readonly byPath: Readonly<Record<WatchKind, Map<string, Set<C>>>> = {
    data: new Map(),
    children: new Map(),
    persistent: new Map(),
    recursive: new Map(),
  };
  private readonly byWatcher = new Map<C, Readonly<Record<WatchKind, Set<string>>>>();
  private size = 0;

  /** Watches that are set. */
  get count(): number {
    return this.size;
  }

  /** Paths that are watched. */
  get paths(): number {
    return new Set(KINDS.flatMap((kind) => [...this.byPath[kind].keys()])).size;
  }

  /** Connections that have watches. */
  get watchers(): number {
    let count = 0;
    for (const own of this.byWatcher.values()) if (KINDS.some((kind) => own[kind].size > 0)) count++;
    return count;
  }

  add(kind: WatchKind, path: string, watcher: C): void {
    const table = this.byPath[kind];
    let watchers = table.get(path);
    if (watchers === undefined) {
      watchers = new Set();
      table.set(path, watchers);
    }
    if (watchers.has(watcher)) return;
    watchers.add(watcher);
    let own = this.byWatcher.get(watcher);
    if (own === undefined) {
      own = { data: new Set(), children: new Set(), persistent: new Set(), recursive: new Set() };
      this.byWatcher.set(watcher, own);
    }
    own[kind].add(path);
    this.size++;
  }

  has(kind: WatchKind, path: string, watcher: C): boolean {
    return this.byPath[kind].get(path)?.has(watcher) ?? false;
  }

  /** Takes a watch back; tells whether there was one. */
  remove(kind: WatchKind, path: string, watcher: C): boolean {
    const watchers = this.byPath[kind].get(path);
    if (!watchers?.delete(watcher)) return false;
    if (watchers.size === 0) this.byPath[kind].delete(path);
    this.byWatcher.get(watcher)![kind].delete(path);
    this.size--;
    return true;
  }

  /** Forgets every watch of a connection that is gone. */
  removeWatcher(watcher: C): void {
    const own = this.byWatcher.get(watcher);
    if (own === undefined) return;
    for (const kind of KINDS) for (const path of own[kind]) this.remove(kind, path, watcher);
    this.byWatcher.delete(watcher);
  }

  /** Fires what waits for a change that was just made, each watcher of an event once, whatever kinds of watches it has. */
  fire(change: Change, notify: (watcher: C, event: number, path: string) => void): void {
    switch (change.type) {
      case 'create':
        for (const watcher of this.takeData(change.path)) notify(watcher, EventType.created, change.path);
        this.fireParent(change.path, notify);
        break;
      case 'set':
        for (const watcher of this.takeData(change.path)) notify(watcher, EventType.dataChanged, change.path);
        break;
      case 'delete': {
        const woken = union(this.takeData(change.path), this.take('children', change.path));
        for (const watcher of woken) notify(watcher, EventType.deleted, change.path);
        this.fireParent(change.path, notify);
        break;
      }
      case 'set-acl':
      case 'open-session':
      case 'close-session':
      case 'system-nodes':
        break;
    }
  }

  private fireParent(path: string, notify: (watcher: C, event: number, path: string) => void): void {
    const parent = parentPath(path)!;
    const woken = union(this.take('children', parent), this.byPath.persistent.get(parent));
    for (const watcher of woken) notify(watcher, EventType.childrenChanged, parent);
  }

  /** Who is to be told of a node itself. The search for recursive watches costs the depth of the path. */
  private takeData(path: string): ReadonlySet<C> {
    let woken = union(this.take('data', path), this.byPath.persistent.get(path));
    if (this.byPath.recursive.size === 0) return woken;
    for (let at: string | undefined = path; at !== undefined; at = parentPath(at)) {
      woken = union(woken, this.byPath.recursive.get(at));
    }
    return woken;
  }

  private take(kind: 'data' | 'children', path: string): ReadonlySet<C> {
    const watchers = this.byPath[kind].get(path);
    if (watchers === undefined) return NOBODY as ReadonlySet<C>;
    this.byPath[kind].delete(path);
    for (const watcher of watchers) this.byWatcher.get(watcher)![kind].delete(path);
    this.size -= watchers.size;
    return watchers;
  }
}

const NOBODY: ReadonlySet<unknown> = new Set();

function union<C>(a: ReadonlySet<C>, b: ReadonlySet<C> | undefined): ReadonlySet<C> {
  if (b === undefined || b.size === 0) return a;
  return a.size === 0 ? b : new Set([...a, ...b]);
}
