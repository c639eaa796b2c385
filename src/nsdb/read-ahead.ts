import { setMaxListeners } from 'node:events';

/** Requests of one reader under way at once. */
const REQUESTS = 64;

/** Do the same for each value, several at once; the results are in the order of the values. */
export async function readAhead<T, R>(
  values: readonly T[],
  signal: AbortSignal | undefined,
  read: (value: T, signal: AbortSignal | undefined) => Promise<R>,
): Promise<R[]> {
  // Each request listens to the signal, maybe in several places, and Node.js takes more than ten listeners of one for a leak.
  const own = signal && AbortSignal.any([signal]);
  if (own !== undefined) setMaxListeners(0, own);
  const results: R[] = [];
  for (let i = 0; i < values.length; i += REQUESTS) {
    signal?.throwIfAborted();
    results.push(...(await Promise.all(values.slice(i, i + REQUESTS).map((value) => read(value, own)))));
  }
  return results;
}
