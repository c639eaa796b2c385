/** Thread that makes a snapshot from the files of a data folder; answers with its size. See storage.ts. */
import { parentPort, workerData } from 'node:worker_threads';
import { nodeDisk } from './disk.js';
import type { SnapshotJob } from './snapshot-thread.js';
import { makeSnapshot } from './storage.js';

parentPort!.postMessage(await makeSnapshot(nodeDisk, workerData as SnapshotJob));
