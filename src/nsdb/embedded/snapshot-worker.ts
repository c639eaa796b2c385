/** Thread that makes a snapshot from the files of a data folder; answers with its size. See storage.ts. */
import { parentPort, workerData } from 'node:worker_threads';
import { load, writeSnapshot } from './storage.js';

const { directory, before } = workerData as { directory: string; before: number };
const { database } = load(directory, before);
if (database.zxid !== before - 1) {
  throw new Error(`the logs before transaction ${before} end with transaction ${database.zxid}`);
}
parentPort!.postMessage(writeSnapshot(directory, database));
