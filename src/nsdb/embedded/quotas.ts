/**
 * Limits of subtrees, as Apache ZooKeeper's (Administrator's Guide, "Quotas"): `/zookeeper/quota/PATH/zookeeper_limits` says
 * how many nodes there may be at and below PATH and how many bytes they may hold, `zookeeper_stats` beside it how many
 * there are. Of quotas within each other the deepest counts.
 */
import { nodeName, parentPath } from '../path.js';

const QUOTA_ROOT = '/zookeeper/quota';
const LIMITS = 'zookeeper_limits';
const STATS = 'zookeeper_stats';

interface Node {
  /** Bytes as latin1. */
  readonly data: string;
  readonly children: ReadonlyMap<string, Node> | undefined;
}

export interface Usage {
  /** Nodes, with the one at the top. */
  readonly count: number;
  /** Of data. */
  readonly bytes: number;
}

interface Tree<N> {
  find(path: string): N | undefined;
}

export class Quotas {
  /** Paths whose subtrees are limited. */
  private readonly tops = new Set<string>();

  /** A node was made, which may limit a subtree. */
  added(path: string): void {
    if (isBelowQuotas(path) && nodeName(path) === LIMITS) this.tops.add(topOf(path));
  }

  removed(path: string): void {
    if (isBelowQuotas(path) && nodeName(path) === LIMITS) this.tops.delete(topOf(path));
  }

  /** The node that counts what is in the limited subtree that a path is in; the work grows with the path's depth. */
  statsFor<N extends Node>(tree: Tree<N>, path: string): N | undefined {
    const top = this.topFor(path);
    return top === undefined ? undefined : tree.find(`${QUOTA_ROOT}${top}/${STATS}`);
  }

  /** The usage that a node with this path has to tell of when it is made; undefined for an ordinary node. */
  usageToldAt(tree: Tree<Node>, path: string): Usage | undefined {
    if (!isBelowQuotas(path) || nodeName(path) !== STATS) return undefined;
    let [count, bytes] = [0, 0];
    const left = [tree.find(topOf(path))];
    for (let node = left.pop(); node !== undefined; node = left.pop()) {
      count++;
      bytes += node.data.length;
      for (const child of node.children?.values() ?? []) left.push(child);
    }
    return { count, bytes };
  }

  /** Whether a hard limit forbids so much more at a path. */
  forbids(tree: Tree<Node>, path: string, more: Usage): boolean {
    const top = this.topFor(path);
    if (top === undefined) return false;
    const limits = tree.find(`${QUOTA_ROOT}${top}/${LIMITS}`);
    const stats = tree.find(`${QUOTA_ROOT}${top}/${STATS}`);
    if (limits === undefined || stats === undefined) return false;
    const used = parseUsage(stats.data);
    const exceeds = (limit: number, before: number, change: number) =>
      change !== 0 && limit >= 0 && before + change > limit;
    return (
      exceeds(valueIn(limits.data, 'countHardLimit'), used.count, more.count) ||
      exceeds(valueIn(limits.data, 'byteHardLimit'), used.bytes, more.bytes)
    );
  }

  private topFor(path: string): string | undefined {
    if (this.tops.size === 0) return undefined;
    let at: string | undefined = path;
    while (at !== undefined && !this.tops.has(at)) at = parentPath(at);
    return at;
  }
}

export function parseUsage(text: string): Usage {
  return { count: valueIn(text, 'count'), bytes: valueIn(text, 'bytes') };
}

export function formatUsage({ count, bytes }: Usage): string {
  return `count=${count},bytes=${bytes}`;
}

/** A value of `name=value` pairs with commas or semicolons between; -1 where there is none. */
function valueIn(text: string, name: string): number {
  for (const pair of text.split(/[,;]+/)) {
    const [key, value] = pair.split('=');
    if (key === name && /^-?\d+$/.test(value ?? '')) return Number(value);
  }
  return -1;
}

function isBelowQuotas(path: string): boolean {
  return path.startsWith(`${QUOTA_ROOT}/`);
}

/** The path that a node of limits or statistics is about; empty directly below the root of quotas, which limits nothing. */
function topOf(path: string): string {
  return parentPath(path)!.slice(QUOTA_ROOT.length);
}
