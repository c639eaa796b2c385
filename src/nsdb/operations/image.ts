import type { Store } from '../store.js';
import type { OperationOptions } from './progress.js';
import { walk } from './walk.js';

/** The persistent nodes of a tree but its root and the server's own: their data by path. */
export type Image = Map<string, Uint8Array>;

/** What a tree is: an image, and the ephemeral nodes, which belong to sessions and are never saved or moved. */
export interface TreeContent {
  readonly image: Image;
  readonly ephemerals: Set<string>;
}

/** Reads a whole tree. Not at one point in time if others change it meanwhile. */
export async function readTree(store: Store, options: OperationOptions = {}): Promise<TreeContent> {
  const content: TreeContent = { image: new Map(), ephemerals: new Set() };
  await walk(
    store,
    '/',
    (path, { data, stat }) => {
      if (stat.ephemeralOwner !== undefined) content.ephemerals.add(path);
      else if (path !== '/') content.image.set(path, data);
      return true;
    },
    options,
  );
  return content;
}

/** Bytes of data. */
export function bytesOf(image: Image): number {
  let bytes = 0;
  for (const data of image.values()) bytes += data.length;
  return bytes;
}

/** How many nodes of an image are new, of other data or missing in another one. */
export interface Differences {
  created: number;
  changed: number;
  deleted: number;
  /** One that would be changed or deleted. */
  example: string | undefined;
}

/** What has to be done to `from` to make it `to`. */
export function compareImages(from: Image, to: Image): Differences {
  const found: Differences = { created: 0, changed: 0, deleted: 0, example: undefined };
  for (const [path, data] of to) {
    const there = from.get(path);
    if (there !== undefined && Buffer.compare(there, data) === 0) continue;
    if (there === undefined) {
      found.created++;
    } else {
      found.changed++;
      found.example ??= path;
    }
  }
  for (const path of from.keys()) {
    if (to.has(path)) continue;
    found.deleted++;
    found.example ??= path;
  }
  return found;
}
