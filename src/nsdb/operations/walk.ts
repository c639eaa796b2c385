import { joinPath } from '../path.js';
import type { Store, StoreNode } from '../store.js';
import type { OperationOptions } from './progress.js';

/** Readings under way at once: enough to hide the way to the server, few enough not to disturb others. */
const WINDOW = 256;

/** The server's own folder, which is no part of what is saved, moved or checked. */
const SERVER_FOLDER = '/zookeeper';

export function isServersOwn(path: string): boolean {
  return path === SERVER_FOLDER || path.startsWith(`${SERVER_FOLDER}/`);
}

/**
 * Reads every node from `root` on, but the server's own, a parent before its children and many at a time. `visit` returns
 * false to leave out what is below. What others change meanwhile is seen or not; a node that is gone is passed over.
 */
export function walk(
  store: Pick<Store, 'get' | 'children'>,
  root: string,
  visit: (path: string, node: StoreNode) => boolean | undefined,
  { signal, onProgress }: OperationOptions = {},
): Promise<void> {
  return new Promise((resolve, reject) => {
    const waiting = [root];
    let active = 0;
    let read = 0;
    let failed = false;
    const one = async (path: string) => {
      // Not handed on: each call would listen to it, and ends soon enough.
      signal?.throwIfAborted();
      const node = await store.get(path);
      if (node === undefined) return;
      onProgress?.('reading nodes', ++read);
      if (visit(path, node) === false || node.stat.numChildren === 0) return;
      for (const name of (await store.children(path)) ?? []) {
        const child = joinPath(path, name);
        if (!isServersOwn(child)) waiting.push(child);
      }
    };
    const pump = () => {
      while (!failed && active < WINDOW && waiting.length > 0) {
        active++;
        // The last found first: the list of what waits stays short.
        one(waiting.pop()!).then(
          () => {
            active--;
            pump();
          },
          (error: unknown) => {
            failed = true;
            reject(error);
          },
        );
      }
      if (active === 0 && waiting.length === 0) resolve();
    };
    pump();
  });
}
