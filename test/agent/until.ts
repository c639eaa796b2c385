import { setTimeout as delay } from 'node:timers/promises';

/** Waits until something holds, looking often; fails after `limit` ms with what it waited for. */
export async function until(what: string, holds: () => boolean | Promise<boolean>, limit = 8000): Promise<void> {
  const end = performance.now() + limit;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`it did not come about within ${limit} ms that ${what}`);
    await delay(2);
  }
}
