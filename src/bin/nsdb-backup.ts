import { backup } from '../nsdb/operations/backup.js';
import { type NsdbOptions, withNsdb } from './nsdb-session.js';
import { formatBytes, formatCount, print, printJson } from './print.js';

export interface BackupCommandOptions extends NsdbOptions {
  /** Seconds. */
  readonly timeout: number;
}

export function runBackup(file: string, options: BackupCommandOptions): Promise<void> {
  return withNsdb(options, async (session) => {
    const { config, signal, progress } = session;
    const report = await backup({
      store: session.store(),
      file,
      source: config.connect,
      timeout: options.timeout * 1000,
      signal,
      onProgress: progress.update,
    });
    progress.clear();
    if (options.json) {
      printJson({ file, ...report });
    } else {
      const { nodes, bytes, ephemerals, zxid, size } = report;
      print(`saved ${formatCount(nodes, 'node')} (${formatBytes(bytes)} of data) as of change ${zxid}`);
      print(`left out ${formatCount(ephemerals, 'node')} of sessions`);
      print(`${file}: ${formatBytes(size)}`);
    }
    return 0;
  });
}
