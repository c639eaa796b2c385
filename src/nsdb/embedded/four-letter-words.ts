/** ZooKeeper's words for administrators (Administrator's Guide, "The Four Letter Words"): asked instead of a connect request. */
import type { ClientConnection } from './client-connection.js';
import type { DiskUsage } from './disk-usage.js';
import type { WatchTable } from './watch-table.js';

const WORDS = ['ruok', 'srvr', 'stat', 'mntr', 'isro', 'wchs'] as const;
export type FourLetterWord = (typeof WORDS)[number];

/** What the answers tell of. */
export interface ServerFacts {
  readonly failed: boolean;
  readonly metrics: {
    readonly connections: number;
    readonly sessions: number;
    readonly nodes: number;
    readonly dataBytes: number;
    readonly watches: number;
    readonly zxid: number;
  };
  readonly watches: WatchTable<ClientConnection>;
  readonly connections: Iterable<ClientConnection>;
}

/** The word that the first bytes of a connection are; undefined when they begin the protocol. */
export function fourLetterWordIn(chunk: Buffer): FourLetterWord | undefined {
  const text = chunk.toString('latin1', 0, 4);
  return WORDS.find((word) => word === text);
}

export function answerTo(word: FourLetterWord, { failed, metrics, watches, connections }: ServerFacts): string {
  switch (word) {
    case 'ruok':
      return failed ? '' : 'imok';
    case 'isro':
      return 'rw';
    case 'wchs':
      return `${watches.watchers} connections watching ${watches.paths} paths\nTotal watches:${watches.count}\n`;
    case 'mntr':
      return lines(
        'zk_version\tmidonet-embedded',
        'zk_server_state\tstandalone',
        `zk_num_alive_connections\t${metrics.connections}`,
        `zk_global_sessions\t${metrics.sessions}`,
        `zk_znode_count\t${metrics.nodes}`,
        `zk_watch_count\t${metrics.watches}`,
        `zk_approximate_data_size\t${metrics.dataBytes}`,
      );
    case 'srvr':
    case 'stat': {
      const clients = [...connections].map((c) => ` /${c.name}[1](queued=0,recved=${c.received},sent=${c.sent})`);
      return lines(
        'Zookeeper version: midonet-embedded',
        ...(word === 'stat' ? ['Clients:', ...clients, ''] : []),
        `Connections: ${metrics.connections}`,
        `Zxid: 0x${metrics.zxid.toString(16)}`,
        'Mode: standalone',
        `Node count: ${metrics.nodes}`,
      );
    }
  }
}

/** What only this server adds to `mntr`. */
export function diskLines({ logBytes, snapshotBytes, snapshots, freeBytes }: DiskUsage): string {
  return lines(
    `midonet_log_bytes\t${logBytes}`,
    `midonet_snapshot_bytes\t${snapshotBytes}`,
    `midonet_snapshots\t${snapshots}`,
    `midonet_free_disk_bytes\t${freeBytes}`,
  );
}

function lines(...texts: string[]): string {
  return texts.map((text) => `${text}\n`).join('');
}
