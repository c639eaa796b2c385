import { restore } from '../nsdb/operations/restore.js';
import { type NsdbOptions, withNsdb } from './nsdb-session.js';
import { formatBytes, formatCount, print, printJson } from './print.js';

export interface RestoreCommandOptions extends NsdbOptions {
  readonly replace: boolean;
  readonly force: boolean;
}

export function runRestore(file: string, options: RestoreCommandOptions): Promise<void> {
  return withNsdb(options, async (session) => {
    const { signal, progress } = session;
    const { replace, force } = options;
    const report = await restore({
      store: session.store(),
      file,
      replace,
      force,
      signal,
      onProgress: progress.update,
    });
    progress.clear();
    if (options.json) {
      printJson({ file, ...report });
    } else {
      const { nodes, bytes, time, source, differences } = report;
      const { created, changed, deleted } = differences;
      print(`restored what ${source} held at ${time}: ${formatCount(nodes, 'node')} (${formatBytes(bytes)} of data)`);
      print(`created ${created}, changed ${changed}, deleted ${deleted}`);
    }
    return 0;
  });
}
