import { nodeName, parentPath } from '../path.js';
import { type Acl, OPEN_ACL, Permission } from '../protocol/records.js';
import type { Stat } from '../store.js';
import { type AccessList, AccessLists, OPEN_LIST } from './access.js';
import { formatUsage, parseUsage, Quotas, type Usage } from './quotas.js';
import type { Change, Transaction } from './transaction.js';

/** A node in memory. Leaves have no map of children: most nodes are leaves. */
export interface TreeNode {
  /** A byte a character: of many small values text takes less than half the memory of buffers, and is made faster. */
  data: string;
  czxid: number;
  mzxid: number;
  pzxid: number;
  ctime: number;
  mtime: number;
  version: number;
  /** Children ever created. It numbers sequential nodes; with the children there are it makes the cversion. */
  creates: number;
  owner: string | undefined;
  acl: AccessList;
  /** Changes of the access list. */
  aversion: number;
  children: Map<string, TreeNode> | undefined;
}

export interface SessionRecord {
  readonly id: string;
  /** Milliseconds, as granted. */
  readonly timeout: number;
  readonly password: Buffer;
  /** Paths of its ephemeral nodes. */
  readonly ephemerals: Set<string>;
}

/**
 * Everything the server keeps: the tree and the sessions. It changes only by {@link apply}, so the same transactions give
 * the same database, whether they come from a client, from the log, or in a thread that writes a snapshot.
 */
export class Database {
  readonly root: TreeNode = emptyNode();
  readonly sessions = new Map<string, SessionRecord>();
  readonly accessLists = new AccessLists();
  readonly quotas = new Quotas();
  /** Zxid of the last transaction applied. */
  zxid = 0;
  nodeCount = 1;
  /** Bytes of data in all nodes. */
  dataBytes = 0;

  find(path: string): TreeNode | undefined {
    let node: TreeNode | undefined = this.root;
    if (path.length === 1) return node;
    let start = 1;
    while (node !== undefined) {
      const slash = path.indexOf('/', start);
      if (slash === -1) return node.children?.get(path.slice(start));
      node = node.children?.get(path.slice(start, slash));
      start = slash + 1;
    }
    return undefined;
  }

  /** Applies a whole transaction. @throws RangeError when it does not follow the last one, or does not fit the tree. */
  apply(transaction: Transaction): void {
    if (transaction.zxid !== this.zxid + 1) {
      throw new RangeError(`transaction ${transaction.zxid} follows transaction ${this.zxid}`);
    }
    for (const change of transaction.changes) this.applyChange(change, transaction.zxid, transaction.time);
    this.zxid = transaction.zxid;
  }

  /** Applies one change; adds to `undo`, when given, what takes it back. Does not move {@link zxid}. */
  applyChange(change: Change, zxid: number, time: number, undo?: (() => void)[]): void {
    switch (change.type) {
      case 'create':
        this.create(change, zxid, time, undo);
        break;
      case 'set':
        this.set(change.path, change.data, zxid, time, undo);
        break;
      case 'delete':
        this.delete(change.path, zxid, undo);
        break;
      case 'set-acl':
        this.setAcls(change.path, change.acls);
        break;
      case 'open-session':
        this.sessions.set(change.id, {
          id: change.id,
          timeout: change.timeout,
          password: change.password,
          ephemerals: new Set(),
        });
        break;
      case 'close-session':
        this.sessions.delete(change.id);
        break;
      case 'system-nodes':
        this.createSystemNodes();
        break;
    }
  }

  /** Puts a node where a snapshot says it was; parents come first. */
  restore(path: string, node: TreeNode): void {
    if (path === '/') {
      Object.assign(this.root, node);
    } else {
      const parent = this.required(parentPath(path)!);
      parent.children ??= new Map();
      parent.children.set(nodeName(path), node);
      this.nodeCount++;
      if (node.owner !== undefined) this.sessions.get(node.owner)?.ephemerals.add(path);
    }
    this.dataBytes += node.data.length;
    this.accessLists.retain(node.acl);
    this.quotas.added(path);
  }

  private required(path: string): TreeNode {
    const node = this.find(path);
    if (node === undefined) throw new RangeError(`no node ${path}`);
    return node;
  }

  private create(
    { path, data, owner, acls }: Change & { type: 'create' },
    zxid: number,
    time: number,
    undo: (() => void)[] | undefined,
  ): void {
    const parent = this.required(parentPath(path) ?? '/');
    const name = nodeName(path);
    parent.children ??= new Map();
    if (parent.children.has(name)) throw new RangeError(`node ${path} exists already`);
    const pzxid = parent.pzxid;
    const acl = acls === undefined ? OPEN_LIST : this.accessLists.find(acls);
    this.accessLists.retain(acl);
    const node: TreeNode = {
      data: data.toString('latin1'),
      czxid: zxid,
      mzxid: zxid,
      pzxid: zxid,
      ctime: time,
      mtime: time,
      version: 0,
      creates: 0,
      owner,
      acl,
      aversion: 0,
      children: undefined,
    };
    parent.children.set(name, node);
    parent.pzxid = zxid;
    parent.creates++;
    this.nodeCount++;
    this.dataBytes += data.length;
    const ephemerals = owner === undefined ? undefined : this.sessions.get(owner)?.ephemerals;
    ephemerals?.add(path);
    undo?.push(() => {
      parent.children!.delete(name);
      parent.pzxid = pzxid;
      parent.creates--;
      this.nodeCount--;
      this.dataBytes -= data.length;
      this.accessLists.release(acl);
      this.quotas.removed(path);
      ephemerals?.delete(path);
    });
    this.quotas.added(path);
    const told = this.quotas.usageToldAt(this, path);
    if (told !== undefined) this.tell(node, told, undo);
    this.account(path, { count: 1, bytes: data.length }, undo);
  }

  private set(path: string, data: Buffer, zxid: number, time: number, undo: (() => void)[] | undefined): void {
    const node = this.required(path);
    const { data: oldData, mzxid, mtime } = node;
    node.data = data.toString('latin1');
    node.mzxid = zxid;
    node.mtime = time;
    node.version++;
    this.dataBytes += data.length - oldData.length;
    undo?.push(() => {
      node.data = oldData;
      node.mzxid = mzxid;
      node.mtime = mtime;
      node.version--;
      this.dataBytes -= data.length - oldData.length;
    });
    this.account(path, { count: 0, bytes: data.length - oldData.length }, undo);
  }

  private delete(path: string, zxid: number, undo: (() => void)[] | undefined): void {
    const parent = this.required(parentPath(path) ?? '/');
    const name = nodeName(path);
    const node = parent.children?.get(name);
    if (node === undefined) throw new RangeError(`no node ${path}`);
    const pzxid = parent.pzxid;
    parent.children!.delete(name);
    if (parent.children!.size === 0) parent.children = undefined;
    parent.pzxid = zxid;
    this.nodeCount--;
    this.dataBytes -= node.data.length;
    this.accessLists.release(node.acl);
    const ephemerals = node.owner === undefined ? undefined : this.sessions.get(node.owner)?.ephemerals;
    ephemerals?.delete(path);
    undo?.push(() => {
      parent.children ??= new Map();
      parent.children.set(name, node);
      parent.pzxid = pzxid;
      this.nodeCount++;
      this.dataBytes += node.data.length;
      this.accessLists.retain(node.acl);
      this.quotas.added(path);
      ephemerals?.add(path);
    });
    this.quotas.removed(path);
    this.account(path, { count: -1, bytes: -node.data.length }, undo);
  }

  /** Keeps what a quota tells of its subtree. */
  private account(path: string, change: Usage, undo: (() => void)[] | undefined): void {
    const stats = this.quotas.statsFor(this, path);
    if (stats === undefined) return;
    const { count, bytes } = parseUsage(stats.data);
    this.tell(stats, { count: count + change.count, bytes: bytes + change.bytes }, undo);
  }

  /** Not a change of the node for those who watch it or look at its version, as in Apache ZooKeeper. */
  private tell(stats: TreeNode, usage: Usage, undo: (() => void)[] | undefined): void {
    const before = stats.data;
    const after = formatUsage(usage);
    stats.data = after;
    this.dataBytes += after.length - before.length;
    undo?.push(() => {
      stats.data = before;
      this.dataBytes -= after.length - before.length;
    });
  }

  /** Never part of a multi, so there is nothing to take back. */
  private setAcls(path: string, acls: readonly Acl[]): void {
    const node = this.required(path);
    this.accessLists.release(node.acl);
    node.acl = this.accessLists.find(acls);
    this.accessLists.retain(node.acl);
    node.aversion++;
  }

  /** They count as no change of any node, as in Apache ZooKeeper: zxids and times of 0, and a root without creations. */
  private createSystemNodes(): void {
    for (const { path, acl, aversion } of SYSTEM_NODES) {
      if (this.find(path) !== undefined) continue;
      this.restore(path, { ...emptyNode(), acl: this.accessLists.find([acl]), aversion });
    }
  }
}

/** Those of a server that was never used. */
export const SYSTEM_NODES: readonly { readonly path: string; readonly acl: Acl; readonly aversion: number }[] = [
  { path: '/zookeeper', acl: OPEN_ACL, aversion: 0 },
  { path: '/zookeeper/quota', acl: OPEN_ACL, aversion: 0 },
  { path: '/zookeeper/config', acl: { ...OPEN_ACL, permissions: Permission.read }, aversion: -1 },
];

export function emptyNode(): TreeNode {
  return {
    data: '',
    czxid: 0,
    mzxid: 0,
    pzxid: 0,
    ctime: 0,
    mtime: 0,
    version: 0,
    creates: 0,
    owner: undefined,
    acl: OPEN_LIST,
    aversion: 0,
    children: undefined,
  };
}

export function statOf(node: TreeNode): Stat {
  const numChildren = node.children?.size ?? 0;
  return {
    czxid: node.czxid,
    mzxid: node.mzxid,
    pzxid: node.pzxid,
    ctime: node.ctime,
    mtime: node.mtime,
    version: node.version,
    // Changes of the list: every child ever created, and every one of them that is gone again.
    cversion: node.creates * 2 - numChildren,
    aversion: node.aversion,
    ephemeralOwner: node.owner,
    dataLength: node.data.length,
    numChildren,
  };
}
