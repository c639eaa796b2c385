import { drawLine, type TreeLine, treeLines } from '../nsdb/operations/draw-tree.js';
import { checkPath } from '../nsdb/path.js';
import { NodeNotFoundError } from '../nsdb/store.js';
import { type NsdbOptions, withNsdb } from './nsdb-session.js';
import { print, printJson } from './print.js';

export interface TreeCommandOptions extends NsdbOptions {
  readonly depth?: number;
  readonly data: boolean;
  readonly all: boolean;
}

export function runTree(path: string, options: TreeCommandOptions): Promise<void> {
  return withNsdb(options, async (session) => {
    const root = checkPath(path);
    const { depth, data, all } = options;
    // Whoever reads only the first lines has seen enough.
    process.stdout.on('error', () => process.exit(0));
    let lines = 0;
    for await (const line of treeLines({ store: session.store(), root, depth, all, signal: session.signal })) {
      lines++;
      if (options.json) printJson(asJson(line, data));
      else print(drawLine(line, data));
    }
    if (lines === 0) throw new NodeNotFoundError(root);
    return 0;
  });
}

/** One object a line. */
function asJson(line: TreeLine, withData: boolean): object {
  const { path } = line;
  if ('hidden' in line) return { path, hidden: line.hidden, shards: line.shards };
  const { stat, data } = line.node;
  return {
    path,
    children: stat.numChildren,
    bytes: stat.dataLength,
    version: stat.version,
    ephemeralOwner: stat.ephemeralOwner,
    data: withData ? new TextDecoder().decode(data) : undefined,
  };
}
