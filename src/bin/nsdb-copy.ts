import { InvalidInputError } from '../errors.js';
import { frozenFor } from '../nsdb/freeze.js';
import { type CopyReport, copy, undoMove } from '../nsdb/operations/copy.js';
import { withoutRoot } from '../nsdb/zookeeper/connect-string.js';
import { loadConfig } from './config.js';
import { type NsdbOptions, type NsdbSession, withNsdb } from './nsdb-session.js';
import { formatBytes, formatCount, print, printJson } from './print.js';

export interface CopyCommandOptions extends NsdbOptions {
  readonly from: string;
  readonly to?: string;
  readonly toConfig?: string;
  readonly freeze: boolean;
  readonly undo: boolean;
  readonly replace: boolean;
  readonly force: boolean;
  /** Seconds. */
  readonly timeout: number;
}

export function runCopy(options: CopyCommandOptions): Promise<void> {
  const { from, to, undo } = options;
  return withNsdb({ ...options, connect: from }, async (session) => {
    const server = session.store({ ...session.config, connect: withoutRoot(from) });
    if (undo) return runUndo(server, session, options);
    if (to === undefined) throw new InvalidInputError('--to', to, 'expected servers, as in nsdb.connect');
    const { signal, progress } = session;
    const report = await copy({
      source: session.store(),
      destination: session.store(await destinationConfig(to, session, options)),
      move: options.freeze ? { server, movedTo: to } : undefined,
      replace: options.replace,
      force: options.force,
      timeout: options.timeout * 1000,
      signal,
      onProgress: progress.update,
    });
    progress.clear();
    if (options.json) printJson({ from, to, ...report });
    else for (const line of reportLines(to, report)) print(line);
    return 0;
  });
}

async function destinationConfig(connect: string, session: NsdbSession, { toConfig }: CopyCommandOptions) {
  const nsdb = toConfig === undefined ? session.config : (await loadConfig(toConfig, {})).nsdb;
  return { ...nsdb, connect };
}

async function runUndo(
  server: ReturnType<NsdbSession['store']>,
  session: NsdbSession,
  options: CopyCommandOptions,
): Promise<number> {
  const { signal } = session;
  const movedTo = await frozenFor(server, signal);
  if (movedTo !== undefined) {
    const destination = options.force
      ? undefined
      : session.store(await destinationConfig(options.to ?? movedTo, session, options));
    await undoMove(server, destination, signal);
  }
  if (options.json) printJson({ from: options.from, movedTo });
  else print(movedTo === undefined ? 'it was not frozen' : `it takes changes again; it had been moved to ${movedTo}`);
  return 0;
}

function* reportLines(to: string, report: CopyReport): Generator<string> {
  const { nodes, bytes, ephemerals, zxid, filled, followed, frozenFor: frozen } = report;
  const size = `${formatCount(nodes, 'node')} (${formatBytes(bytes)} of data)`;
  if (frozen === undefined) {
    yield `copied what the source held after change ${zxid}: ${size}`;
    yield `${formatCount(filled, 'operation')}; left out ${formatCount(ephemerals, 'node')} of sessions`;
    yield 'compared: the destination holds the same. What changes in the source from here on is not in it.';
    return;
  }
  yield `moved ${size}: ${formatCount(filled, 'operation')} to fill, ${formatCount(followed, 'operation')} to follow`;
  yield `left out ${formatCount(ephemerals, 'node')} of sessions, which agents make again`;
  yield `compared node by node: source and destination are the same. The source refuses changes; the rest took ${(frozen / 1000).toFixed(1)} s.`;
  yield `Next: set nsdb.connect to ${to} on every host and restart its agent. To go back instead: --undo.`;
}
