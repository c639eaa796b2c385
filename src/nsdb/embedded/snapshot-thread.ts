import { Worker } from 'node:worker_threads';

/** What snapshot-worker.ts is told. */
export interface SnapshotJob {
  readonly directory: string;
  readonly before: number;
}

/** Has a thread make a snapshot: SnapshotMaker in storage.ts. */
export async function snapshotInThread(directory: string, before: number, signal: AbortSignal): Promise<number> {
  const workerData: SnapshotJob = { directory, before };
  const worker = new Worker(new URL('./snapshot-worker.js', import.meta.url), { workerData });
  const stop = () => void worker.terminate();
  signal.addEventListener('abort', stop, { once: true });
  try {
    return await new Promise<number>((resolve, reject) => {
      let size: number | undefined;
      worker.once('message', (message: number) => {
        size = message;
      });
      worker.once('error', reject);
      worker.once('exit', () => {
        if (size === undefined) reject(new Error('the thread ended without a snapshot'));
        else resolve(size);
      });
    });
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
