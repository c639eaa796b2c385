import { rm } from 'node:fs/promises';

/**
 * Takes every step, also behind one that failed: what is left open keeps the process of a test file alive for good.
 *
 * @throws AggregateError with the errors of the steps that failed
 */
export async function cleanUp(...steps: readonly (() => unknown)[]): Promise<void> {
  const errors: unknown[] = [];
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw new AggregateError(errors, errors.map(String).join('; '));
}

/** Removes a folder that processes about to end may still write to. */
export async function removeFolder(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
}
