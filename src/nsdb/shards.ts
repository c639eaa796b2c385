import { shard } from './layout.js';
import { joinPath } from './path.js';
import { readAhead } from './read-ahead.js';
import type { Store } from './store.js';

/** Shards whose lists are read at once, at most. */
const MAX_SHARDS = 64;

/** Names in the shards of a folder, in the order of the shards, and in each of the names; the first behind `after`. */
export async function inShards(
  store: Store,
  folder: string,
  { after, signal }: { readonly after?: string; readonly signal?: AbortSignal },
  count: number,
): Promise<string[]> {
  const first = after === undefined ? '' : shard(after);
  const shards = ((await store.children(folder, { signal })) ?? []).filter((name) => name >= first);
  const ids: string[] = [];
  for (
    let i = 0, width = 1;
    i < shards.length && ids.length < count;
    i += width, width = Math.min(2 * width, MAX_SHARDS)
  ) {
    const lists = await readAhead(shards.slice(i, i + width), signal, async (name, signal) => {
      const names = (await store.children(joinPath(folder, name), { signal })) ?? [];
      return after !== undefined && name === first ? names.filter((id) => id > after) : names;
    });
    ids.push(...lists.flat());
  }
  return ids.slice(0, count);
}
