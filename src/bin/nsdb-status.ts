import { type NsdbStatus, type ServerStatus, status } from '../nsdb/operations/status.js';
import { withoutRoot } from '../nsdb/zookeeper/connect-string.js';
import { type NsdbOptions, withNsdb } from './nsdb-session.js';
import { formatBytes, formatCount, print, printJson } from './print.js';

/** Milliseconds for one call: whoever asks how it is does not want to wait long for the answer that it is not. */
const OPERATION_TIMEOUT = 5000;
const UNHEALTHY = 2;

export function runStatus(options: NsdbOptions): Promise<void> {
  return withNsdb(options, async (session) => {
    const { config, signal } = session;
    const { connect } = config;
    const found = await status({
      connect,
      store: session.store(config, OPERATION_TIMEOUT),
      server: session.store({ ...config, connect: withoutRoot(connect) }, OPERATION_TIMEOUT),
      askServers: config.tls === undefined,
      signal,
    });
    if (options.json) printJson(found);
    else for (const line of statusLines(found)) print(line);
    return found.healthy ? 0 : UNHEALTHY;
  });
}

function* statusLines({ connect, servers, latency, hosts, problems }: NsdbStatus): Generator<string> {
  yield `NSDB ${connect}`;
  for (const server of servers) yield* serverLines(server);
  if (latency !== undefined) {
    yield `  round trip   ${latency.read.toFixed(1)} ms to read, ${latency.sync.toFixed(1)} ms to sync`;
  }
  if (hosts !== undefined) yield `  hosts        ${hosts.alive} of ${hosts.known} alive`;
  yield problems.length === 0 ? 'healthy' : `${formatCount(problems.length, 'problem')}:`;
  for (const { problem, advice } of problems) {
    yield `  - ${problem}`;
    yield `    → ${advice}`;
  }
}

function* serverLines(server: ServerStatus): Generator<string> {
  const { address, state, mode, version, zxid } = server;
  yield `  server       ${[address, mode ?? state, version].filter((part) => part !== undefined).join(', ')}`;
  const numbers: [name: string, value: number | undefined, format: (value: number) => string][] = [
    ['zxid', zxid, (value) => `0x${value.toString(16)}`],
    ['sessions', server.sessions, String],
    ['connections', server.connections, String],
    ['watches', server.watches, String],
    ['nodes', server.nodes, (value) => value.toLocaleString('en')],
    ['data', server.dataBytes, formatBytes],
    ['log', server.logBytes, formatBytes],
    ['snapshots', server.snapshotBytes, formatBytes],
    ['disk free', server.freeDiskBytes, formatBytes],
  ];
  const known = numbers.filter(([, value]) => value !== undefined);
  if (known.length > 0)
    yield `               ${known.map(([n, value, format]) => `${n} ${format(value!)}`).join(', ')}`;
}
