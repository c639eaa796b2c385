/**
 * ZooKeeper's four-letter words ("ZooKeeper Administrator's Guide", "The Four Letter Words"): questions to one server, on a
 * connection of their own, answered with text.
 */
import { connect } from 'node:net';
import { TimeoutError } from '../../errors.js';
import type { Target } from '../zookeeper/connect-string.js';

const MAX_ANSWER = 64 * 1024;

/**
 * Asks a server and returns its whole answer.
 * @throws TimeoutError, or what the system says of the connection
 */
export function askWord(target: Target, word: 'srvr' | 'mntr', timeout: number, signal?: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...target, signal });
    let answer = '';
    const timer = setTimeout(() => socket.destroy(new TimeoutError(`asking ${word}`, timeout)), timeout);
    socket.setEncoding('latin1');
    socket.on('connect', () => socket.write(word));
    socket.on('data', (text: string) => {
      answer += text;
      if (answer.length > MAX_ANSWER) socket.destroy(new Error(`more than ${MAX_ANSWER} bytes in answer to ${word}`));
    });
    socket.on('error', reject);
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(answer);
    });
  });
}

/** What a server says of itself; what is undefined it did not say. */
export interface ServerFacts {
  readonly version?: string;
  /** `standalone`, `leader`, `follower` or `observer`. */
  readonly mode?: string;
  readonly zxid?: number;
  /** Milliseconds the server took for a request, on average and at most, since its start. */
  readonly averageLatency?: number;
  readonly maxLatency?: number;
  readonly connections?: number;
  readonly sessions?: number;
  readonly watches?: number;
  readonly nodes?: number;
  readonly ephemerals?: number;
  readonly dataBytes?: number;
  /** Requests taken and not answered yet. */
  readonly outstanding?: number;
  /** Of a leader: how many follow it and have what it has. */
  readonly syncedFollowers?: number;
  /** Of the embedded server: bytes of its files, how many snapshots there are, and what the disk has left. */
  readonly logBytes?: number;
  readonly snapshotBytes?: number;
  readonly snapshots?: number;
  readonly freeDiskBytes?: number;
}

type Reader = (text: string) => number | string;
const asNumber: Reader = Number;
const asText: Reader = (text) => text;

/** Lines of `srvr`: `Name: value`. */
const SRVR: Readonly<Record<string, [field: keyof ServerFacts, read: Reader]>> = {
  'Zookeeper version': ['version', (text) => text.split(',')[0]],
  Mode: ['mode', asText],
  // Beyond 2^53 only after two million elections.
  Zxid: ['zxid', Number],
  Connections: ['connections', asNumber],
  'Node count': ['nodes', asNumber],
  Outstanding: ['outstanding', asNumber],
};

/** Lines of `mntr`: a name, a tab, a value. */
const MNTR: Readonly<Record<string, [field: keyof ServerFacts, read: Reader]>> = {
  zk_avg_latency: ['averageLatency', asNumber],
  zk_max_latency: ['maxLatency', asNumber],
  zk_num_alive_connections: ['connections', asNumber],
  zk_global_sessions: ['sessions', asNumber],
  zk_watch_count: ['watches', asNumber],
  zk_znode_count: ['nodes', asNumber],
  zk_ephemerals_count: ['ephemerals', asNumber],
  zk_approximate_data_size: ['dataBytes', asNumber],
  zk_outstanding_requests: ['outstanding', asNumber],
  zk_synced_followers: ['syncedFollowers', asNumber],
  midonet_log_bytes: ['logBytes', asNumber],
  midonet_snapshot_bytes: ['snapshotBytes', asNumber],
  midonet_snapshots: ['snapshots', asNumber],
  midonet_free_disk_bytes: ['freeDiskBytes', asNumber],
};

/** What the answers to `srvr` and `mntr` say. Of lines that are not known nothing is taken. */
export function readFacts(srvr: string, mntr: string): ServerFacts {
  const facts: Partial<Record<keyof ServerFacts, number | string>> = {};
  for (const line of srvr.split('\n')) {
    const colon = line.indexOf(': ');
    const known = SRVR[line.slice(0, Math.max(0, colon))];
    if (known !== undefined) facts[known[0]] = known[1](line.slice(colon + 2).trim());
  }
  for (const line of mntr.split('\n')) {
    const tab = line.indexOf('\t');
    const known = MNTR[line.slice(0, Math.max(0, tab))];
    if (known !== undefined) facts[known[0]] = known[1](line.slice(tab + 1).trim());
  }
  return facts as ServerFacts;
}
