import { joinPath, nodeName } from '../path.js';
import type { Store, StoreNode } from '../store.js';

export interface TreeOptions {
  readonly store: Store;
  /** Where to begin. */
  readonly root: string;
  /** How far down; undefined: all the way. */
  readonly depth?: number;
  /** Also what is in sharded folders, and every child. */
  readonly all: boolean;
  readonly signal?: AbortSignal;
}

/** One line of a drawing: a node, or how many nodes are not shown there. */
export type TreeLine = { readonly indent: string; readonly path: string } & (
  | { readonly node: StoreNode }
  | { readonly hidden: number; readonly shards?: number }
);

/** Children shown of a folder without `all`. */
const MAX_CHILDREN = 50;
/** Characters of data shown. */
const MAX_DATA = 120;
/** Readings under way at once. */
const WINDOW = 64;

/**
 * The lines of a drawing of the tree, as they are read: only what is drawn is, and of a sharded folder the number of children
 * of its shards. None if there is no such node.
 */
export async function* treeLines(options: TreeOptions): AsyncGenerator<TreeLine> {
  const { store, root, signal } = options;
  const node = await store.get(root, { signal });
  if (node === undefined) return;
  yield { indent: '', path: root, node };
  yield* linesBelow(root, node, '', 1, options);
}

async function* linesBelow(
  path: string,
  node: StoreNode,
  indent: string,
  depth: number,
  options: TreeOptions,
): AsyncGenerator<TreeLine> {
  const { store, all, signal } = options;
  if (node.stat.numChildren === 0 || depth > (options.depth ?? Number.POSITIVE_INFINITY)) return;
  const names = (await store.children(path, { signal })) ?? [];
  if (!all && isSharded(names)) {
    const hidden = await grandchildren(path, names, options);
    yield { indent: `${indent}└── `, path, hidden, shards: names.length };
    return;
  }
  const shown = all ? names : names.slice(0, MAX_CHILDREN);
  for (let first = 0; first < shown.length; first += WINDOW) {
    signal?.throwIfAborted();
    const some = shown.slice(first, first + WINDOW);
    const nodes = await Promise.all(some.map((name) => store.get(joinPath(path, name))));
    for (const [i, name] of some.entries()) {
      const child = nodes[i];
      if (child === undefined) continue;
      const last = first + i === names.length - 1;
      const childPath = joinPath(path, name);
      yield { indent: `${indent}${last ? '└── ' : '├── '}`, path: childPath, node: child };
      yield* linesBelow(childPath, child, `${indent}${last ? '    ' : '│   '}`, depth + 1, options);
    }
  }
  if (shown.length < names.length) yield { indent: `${indent}└── `, path, hidden: names.length - shown.length };
}

/** Names of shards are two or three hexadecimal digits, see layout.ts; nothing else is named so. */
function isSharded(names: readonly string[]): boolean {
  return names.length > 0 && names.every((name) => /^[0-9a-f]{2,3}$/.test(name));
}

async function grandchildren(path: string, names: readonly string[], { store, signal }: TreeOptions): Promise<number> {
  let sum = 0;
  for (let first = 0; first < names.length; first += WINDOW) {
    signal?.throwIfAborted();
    const some = names.slice(first, first + WINDOW);
    const stats = await Promise.all(some.map((name) => store.exists(joinPath(path, name))));
    for (const stat of stats) sum += stat?.numChildren ?? 0;
  }
  return sum;
}

/** The text of a line, with the node's data if wanted. */
export function drawLine(line: TreeLine, withData: boolean): string {
  if ('hidden' in line) {
    if (line.shards === undefined) return `${line.indent}… ${count(line.hidden, 'more node')}`;
    return `${line.indent}… ${count(line.hidden, 'node')} in ${count(line.shards, 'shard')}`;
  }
  const { indent, path, node } = line;
  const facts: string[] = [];
  if (node.stat.numChildren > 0) facts.push(count(node.stat.numChildren, 'child', 'children'));
  if (node.stat.dataLength > 0) facts.push(count(node.stat.dataLength, 'byte'));
  if (node.stat.ephemeralOwner !== undefined) facts.push(`ephemeral, session ${node.stat.ephemeralOwner}`);
  const name = indent === '' ? path : nodeName(path);
  const text = facts.length === 0 ? `${indent}${name}` : `${indent}${name} (${facts.join(', ')})`;
  return withData && node.data.length > 0 ? `${text} ${printable(node.data)}` : text;
}

/** On one line, without characters that a terminal would act on. */
function printable(data: Uint8Array): string {
  const text = new TextDecoder().decode(data).replaceAll(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}]/gu, '\u00b7');
  return text.length > MAX_DATA ? `${text.slice(0, MAX_DATA)}…` : text;
}

function count(n: number, one: string, many = `${one}s`): string {
  return `${n.toLocaleString('en')} ${n === 1 ? one : many}`;
}
