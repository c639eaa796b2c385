import { hostSchema } from '../../topology/types.js';
import { decodeJson } from '../json.js';
import { hostAlivePath, objectPath } from '../layout.js';
import { parentPath } from '../path.js';
import { readAhead } from '../read-ahead.js';
import type { Store } from '../store.js';

export interface KnownHost {
  readonly id: string;
  /** Its identifier where the host's node is missing or damaged. */
  readonly name: string;
  /** Its agent runs, or ended without a word and has yet to time out. */
  readonly alive: boolean;
}

/** Every host in the topology. */
export async function knownHosts(store: Store, signal?: AbortSignal): Promise<KnownHost[]> {
  const ids = (await store.children(parentPath(objectPath('host', 'x'))!, { signal })) ?? [];
  return readAhead(ids, signal, async (id, signal) => {
    const path = objectPath('host', id);
    const node = await store.get(path, { signal });
    const alive = await store.exists(hostAlivePath(id), { signal });
    return { id, name: nameOf(node?.data, path) ?? id, alive: alive !== undefined };
  });
}

function nameOf(data: Uint8Array | undefined, path: string): string | undefined {
  if (data === undefined) return undefined;
  try {
    return decodeJson(hostSchema, data, path).name;
  } catch {
    // Damaged data are what fsck tells of.
    return undefined;
  }
}
