import { fsck } from '../nsdb/operations/fsck.js';
import { type NsdbOptions, withNsdb } from './nsdb-session.js';
import { formatCount, print, printJson } from './print.js';

export interface FsckCommandOptions extends NsdbOptions {
  readonly repair: boolean;
  /** Hours. */
  readonly goneAfter: number;
}

const FINDINGS_LEFT = 2;

export function runFsck(options: FsckCommandOptions): Promise<void> {
  return withNsdb(options, async (session) => {
    const { signal, progress } = session;
    const { repair } = options;
    const report = await fsck({
      store: session.store(),
      repair,
      goneAfter: options.goneAfter * 3600 * 1000,
      signal,
      onProgress: progress.update,
      onFault: ({ kind, path, problem, repair: mending }) => {
        if (options.json) return;
        progress.clear();
        print(`${path}\n  ${kind}: ${problem}`);
        if (mending.length === 0) print('  → to be decided by a person');
        else if (!repair) print('  → --repair mends it');
      },
    });
    progress.clear();
    const { found, mended, left } = report;
    if (options.json) {
      const faults = left.map(({ kind, path, problem, repair: mending }) => {
        return { kind, path, problem, mendable: mending.length > 0 };
      });
      printJson({ found, mended, left: faults });
    } else if (found === 0) {
      print('nothing is wrong');
    } else {
      print(`${formatCount(found, 'finding')}, ${mended} mended, ${left.length} left`);
    }
    return left.length === 0 ? 0 : FINDINGS_LEFT;
  });
}
