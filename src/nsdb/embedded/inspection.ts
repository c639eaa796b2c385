/** What ZooKeeper's newer requests ask of the tree as a whole (3.6 and 3.7); rather for people than for programs. */
import type { Identity } from './access.js';
import type { SessionRecord, TreeNode } from './database.js';

/** Nodes below a node, at any depth. The work grows with their number. */
export function countBelow(node: TreeNode): number {
  let count = 0;
  const left = [node];
  for (let next = left.pop(); next !== undefined; next = left.pop()) {
    if (next.children === undefined) continue;
    count += next.children.size;
    for (const child of next.children.values()) left.push(child);
  }
  return count;
}

/** Paths of a session's ephemeral nodes that begin with these characters. */
export function ephemeralsFrom(session: SessionRecord, prefix: string): string[] {
  return [...session.ephemerals].filter((path) => path.startsWith(prefix));
}

/** The user of an identity: of a name with the digest of a password, the name. */
export function userOf({ scheme, id }: Identity): string {
  return scheme === 'digest' ? id.slice(0, id.indexOf(':')) : id;
}
