import { Worker } from 'node:worker_threads';

/** Makes a snapshot, returns its size. */
export type SnapshotMaker = (job: SnapshotJob, signal: AbortSignal) => Promise<number>;

export interface SnapshotJob {
  readonly directory: string;
  /** It holds what is in the logs before the one that begins with this transaction. */
  readonly before: number;
  /** Bytes of the disk to leave free: the log needs them. */
  readonly leave: number;
}

/** Has a thread make it, from the files alone: snapshot-worker.ts. */
export const snapshotInThread: SnapshotMaker = async (job, signal) => {
  const worker = new Worker(new URL('./snapshot-worker.js', import.meta.url), { workerData: job });
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
};
