import { ClosedError } from '../../errors.js';
import { parentPath } from '../path.js';
import { JuteWriter } from '../protocol/jute.js';
import { AddWatchMode, EventType, Op, WatcherType, Xid } from '../protocol/records.js';
import type { TreeListener, TreeOptions, TreeWatch, Watch } from '../store.js';
import { frameOf, readFrame } from './frames.js';
import { readExists, readNames, readNode } from './replies.js';
import { ConnectionLost, type Requests } from './requests.js';
import { type TrackedValue, Tracker, type WatchKind } from './tracker.js';
import { type TreeSource, TreeTracker } from './tree-tracker.js';

/** Bytes of paths in one setWatches request. */
const SET_WATCHES_BATCH = 128 * 1024;

/** All that a client watches, over its connections. Paths are the server's. */
export class Watches {
  events = 0;
  private readonly trackers = { data: new Map<string, Tracker>(), children: new Map<string, Tracker>() };
  private readonly trees = new Map<string, Set<TreeTracker>>();
  private closed = false;

  constructor(
    private readonly requests: Requests,
    private readonly onError: (message: string, path: string, error: Error) => void,
    /** Zxid of the latest answer. */
    private readonly lastZxid: () => number,
  ) {}

  /** Paths and trees watched. */
  get size(): number {
    return this.trackers.data.size + this.trackers.children.size + this.allTrees().length;
  }

  // What is watched

  /** The value of a path, from the first reading on. */
  track(kind: WatchKind, path: string, listener: (value: TrackedValue) => void): Watch {
    if (this.closed) throw new ClosedError('store');
    const known = this.trackers[kind].get(path);
    if (known !== undefined) return known.subscribe(listener);
    const tracker: Tracker = new Tracker(
      path,
      kind,
      (done, fail) => this.readArmed(kind, path, done, fail),
      isConnectionLoss,
      (error) => this.onError('could not read a watched node', path, error),
      () => {
        if (this.trackers[kind].get(path) === tracker) this.trackers[kind].delete(path);
        this.disarm(tracker);
      },
    );
    this.trackers[kind].set(path, tracker);
    const watch = tracker.subscribe(listener);
    if (this.requests.connected) tracker.refresh();
    return watch;
  }

  /** A path and all below it. */
  trackTree(path: string, listener: TreeListener, options: TreeOptions): TreeWatch {
    if (this.closed) throw new ClosedError('store');
    const tree: TreeTracker = new TreeTracker(
      path,
      this.treeSource,
      listener,
      options,
      (error) => this.onError('could not read a watched tree', path, error),
      () => this.forgetTree(tree),
    );
    const trees = this.trees.get(path);
    if (trees === undefined) this.trees.set(path, new Set([tree]));
    else trees.add(tree);
    if (this.requests.connected) tree.restart();
    return tree;
  }

  close(): void {
    this.closed = true;
    for (const tracker of this.allTrackers()) tracker.close();
    for (const trackers of Object.values(this.trackers)) trackers.clear();
    for (const tree of this.allTrees()) tree.close();
  }

  // What the connection tells

  onEvent(type: number, path: string): void {
    this.events++;
    if (type === EventType.childrenChanged) {
      this.trackers.children.get(path)?.onEvent();
    } else if (type === EventType.dataChanged) {
      this.trackers.data.get(path)?.onEvent();
    } else if (type === EventType.created || type === EventType.deleted) {
      this.trackers.data.get(path)?.onEvent();
      this.trackers.children.get(path)?.onEvent();
    }
    if (this.trees.size === 0 || type === EventType.childrenChanged) return;
    for (let at: string | undefined = path; at !== undefined; at = parentPath(at)) {
      for (const tree of this.trees.get(at) ?? []) tree.onEvent(type, path);
    }
  }

  /** After a reconnect: lets the server tell what changed since the last zxid seen, instead of reading everything. */
  onConnected(lastZxid: number): void {
    let batch: { data: string[]; exist: string[]; child: string[]; bytes: number } | undefined;
    const flush = () => {
      if (batch === undefined) return;
      const w = new JuteWriter(1024).int(Xid.setWatches).int(Op.setWatches).long(lastZxid);
      w.strings(batch.data).strings(batch.exist).strings(batch.child);
      this.requests.post(w.frame());
      batch = undefined;
    };
    for (const tracker of this.allTrackers()) {
      // Read again by the tree.
      if (this.trees.has(tracker.path)) continue;
      if (tracker.arming === 'unarmed') {
        tracker.refresh();
        continue;
      }
      batch ??= { data: [], exist: [], child: [], bytes: 0 };
      const list = tracker.arming === 'absent' ? batch.exist : tracker.kind === 'data' ? batch.data : batch.child;
      list.push(tracker.path);
      batch.bytes += tracker.path.length + 4;
      if (batch.bytes >= SET_WATCHES_BATCH) flush();
    }
    flush();
    for (const tree of this.allTrees()) tree.restart();
  }

  onDisconnected(): void {
    for (const tree of this.allTrees()) tree.disconnected();
  }

  /** The servers have less than was seen: what was told says nothing about what is there. */
  distrust(): void {
    for (const tracker of this.allTrackers()) tracker.arming = 'unarmed';
    for (const tree of this.allTrees()) tree.distrust();
  }

  // How it is read

  private readonly treeSource: TreeSource = {
    lastZxid: () => this.lastZxid(),
    arm: (path, fail) => {
      const frame = frameOf(Op.addWatch).string(path).int(AddWatchMode.persistentRecursive).frame();
      this.requests.ask('watch', path, frame, () => {}, fail);
      this.refreshTrackers(path);
    },
    readNode: (path, done, fail) => {
      const frame = readFrame(Op.getData, path, false);
      this.requests.ask('get', path, frame, (err, r) => done(readNode(err, r)), fail);
    },
    readChildren: (path, done, fail) => {
      const frame = readFrame(Op.getChildren, path, false);
      this.requests.ask('children', path, frame, (err, r) => done(readNames(err, r)), fail);
    },
  };

  /** Reads so that a watch is left whether the node is there or not. */
  private readArmed(
    kind: WatchKind,
    path: string,
    done: (value: TrackedValue) => void,
    fail: (error: Error) => void,
  ): void {
    // Where a tree begins, its watch tells of the node's data.
    const watched = !this.trees.has(path);
    const onValue = (value: TrackedValue) => {
      if (value !== undefined) {
        done(value);
        return;
      }
      // Reading a node that is not there leaves no watch; asking whether it exists does.
      this.requests.ask(
        'exists',
        path,
        readFrame(Op.exists, path, watched),
        (err, r) => {
          if (readExists(err, r) === undefined) done(undefined);
          else this.readArmed(kind, path, done, fail);
        },
        fail,
      );
    };
    if (kind === 'data') {
      const frame = readFrame(Op.getData, path, watched);
      this.requests.ask('get', path, frame, (err, r) => onValue(readNode(err, r)), fail);
    } else {
      const frame = readFrame(Op.getChildren, path, true);
      this.requests.ask('children', path, frame, (err, r) => onValue(readNames(err, r)), fail);
    }
  }

  private forgetTree(tree: TreeTracker): void {
    const trees = this.trees.get(tree.path);
    if (!trees?.delete(tree) || trees.size > 0) return;
    this.trees.delete(tree.path);
    this.removeWatches(tree.path, WatcherType.any);
    this.refreshTrackers(tree.path);
  }

  /**
   * Before version 3.9 Apache ZooKeeper keeps one mode for all that a client watches of a path, so a recursive watch
   * replaces a one-shot one and the other way round. Where a tree begins, a watch of the node's data makes do with the
   * tree's events, and one of its children is left after the tree's.
   */
  private refreshTrackers(path: string): void {
    if (!this.requests.connected) return;
    this.trackers.data.get(path)?.refresh();
    this.trackers.children.get(path)?.refresh();
  }

  /** Takes back the watch of a path that nobody wants to hear of any more. */
  private disarm({ kind, path, arming }: Tracker): void {
    if (arming === 'present' && kind === 'children') {
      if (!this.trackers.children.has(path)) this.removeWatches(path, WatcherType.children);
    } else if (arming !== 'unarmed') {
      // What waits for a node that is not there has left a watch of data, whatever it is for.
      const shared = this.trackers.data.has(path) || this.trackers.children.has(path) || this.trees.has(path);
      if (!shared) this.removeWatches(path, WatcherType.data);
    }
  }

  /** That the watch has fired meanwhile, so that there is none, is as good. */
  private removeWatches(path: string, type: number): void {
    if (!this.requests.connected || this.closed) return;
    const onError = (error: Error) => {
      if (!isConnectionLoss(error)) this.onError('could not take a watch back', path, error);
    };
    this.requests.ask('unwatch', path, frameOf(Op.removeWatches).string(path).int(type).frame(), () => {}, onError);
  }

  private allTrackers(): Tracker[] {
    return [...this.trackers.data.values(), ...this.trackers.children.values()];
  }

  private allTrees(): TreeTracker[] {
    return [...this.trees.values()].flatMap((trees) => [...trees]);
  }
}

/** The reading is repeated on the next connection. */
function isConnectionLoss(error: Error): boolean {
  return error instanceof ConnectionLost || error instanceof ClosedError;
}
