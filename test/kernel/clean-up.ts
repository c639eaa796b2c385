import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

/** How long one step may take, in milliseconds. */
const STEP_MS = 60_000;

/**
 * Takes every step, also behind one that failed or does not end: what is left open keeps the process of a test file alive
 * for good.
 *
 * @throws AggregateError with the errors of the steps that failed
 */
export async function cleanUp(...steps: readonly (() => unknown)[]): Promise<void> {
  const errors: unknown[] = [];
  for (const step of steps) {
    const ended = new AbortController();
    try {
      await Promise.race([step(), tooLong(step, ended.signal)]);
    } catch (error) {
      errors.push(error);
    } finally {
      ended.abort();
    }
  }
  if (errors.length > 0) throw new AggregateError(errors, errors.map(String).join('; '));
}

/** Throws when a step has taken too long; ends with the signal. */
async function tooLong(step: () => unknown, ended: AbortSignal): Promise<void> {
  try {
    await sleep(STEP_MS, undefined, { signal: ended });
  } catch {
    return;
  }
  throw new Error(`cleaning up took more than ${STEP_MS} ms: ${step}`);
}

/** Removes a folder that processes about to end may still write to. */
export async function removeFolder(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}
