import { frozenFor } from '../freeze.js';
import { ROOT_FOLDERS } from '../layout.js';
import { readAhead } from '../read-ahead.js';
import type { Store } from '../store.js';
import { nameOf, parseConnectString, type Target } from '../zookeeper/connect-string.js';
import { type KnownHost, knownHosts } from './alive-hosts.js';
import { askWord, readFacts, type ServerFacts } from './words.js';

export interface ServerStatus extends ServerFacts {
  readonly address: string;
  /** `serving`; `not serving`: it runs, without a quorum; `silent`: it does not tell; `down`: it cannot be reached. */
  readonly state: 'serving' | 'not serving' | 'silent' | 'down';
  /** Why it is not serving. */
  readonly reason?: string;
}

/** Something that is wrong, and what to do about it. */
export interface Problem {
  readonly problem: string;
  readonly advice: string;
  /** `hosts`: of those that use it, rather than of the NSDB itself. */
  readonly about?: 'hosts';
}

export interface NsdbStatus {
  readonly healthy: boolean;
  readonly problems: readonly Problem[];
  readonly connect: string;
  readonly servers: readonly ServerStatus[];
  /** Milliseconds of a round trip: to read, and to be brought up to date. Undefined when there was none. */
  readonly latency: { readonly read: number; readonly sync: number } | undefined;
  readonly hosts: { readonly alive: number; readonly known: number; readonly dead: readonly string[] } | undefined;
  /** Where the data of a frozen server are moved to. */
  readonly frozenFor: string | undefined;
}

export interface StatusOptions {
  readonly connect: string;
  readonly store: Store;
  /** A client without a root of its own. */
  readonly server: Store;
  /** False where the words cannot be asked, as over TLS. */
  readonly askServers: boolean;
  readonly signal?: AbortSignal;
}

const WORD_TIMEOUT = 2000;
/** Round trips of which the middle one counts. */
const ROUND_TRIPS = 9;
/** Milliseconds above which every attachment of a container is felt to wait. */
const SLOW_SYNC = 250;
const LITTLE_DISK = 1024 ** 3;

/** How the NSDB is, as seen from here. Never fails but for its signal: what cannot be asked is a problem it tells of. */
export async function status(options: StatusOptions): Promise<NsdbStatus> {
  const { connect, store, signal } = options;
  const { targets } = parseConnectString(connect);
  const servers = await Promise.all(targets.map((target) => serverStatus(target, options)));
  const problems: Problem[] = [];
  let latency: NsdbStatus['latency'];
  let hosts: readonly KnownHost[] | undefined;
  let destination: string | undefined;
  try {
    const sync = await roundTrip(() => store.sync('/', { signal }));
    latency = { sync, read: await roundTrip(() => store.exists('/', { signal })) };
    hosts = await knownHosts(store, signal);
    destination = await frozenFor(options.server, signal);
    problems.push(...(await contentProblems(store, signal)));
  } catch (error) {
    signal?.throwIfAborted();
    problems.push({
      problem: `no server can be used: ${(error as Error).message}`,
      advice:
        'see that the servers run, that nsdb.connect names them, and that user, password and TLS files are theirs',
    });
  }
  problems.push(...serverProblems(servers));
  if (latency !== undefined && latency.sync > SLOW_SYNC) {
    problems.push({
      problem: `a round trip takes ${Math.round(latency.sync)} ms`,
      advice: 'look for load on the servers and for a slow disk under their logs: give those a disk of their own',
    });
  }
  if (destination !== undefined) {
    problems.push({
      problem: `the server takes no changes: its data are moved to ${destination}`,
      advice: `have the agents use ${destination} (nsdb.connect), or thaw it with midonet nsdb copy --undo`,
    });
  }
  const dead = hosts?.filter(({ alive }) => !alive).map(({ name }) => name) ?? [];
  if (dead.length > 0) {
    problems.push({
      problem: `no agent runs on ${dead.length} of ${hosts!.length} hosts: ${listed(dead)}`,
      advice: 'start it, or delete the host if it is gone for good',
      about: 'hosts',
    });
  }
  return {
    healthy: problems.length === 0,
    problems,
    connect,
    servers,
    latency,
    hosts: hosts && { alive: hosts.length - dead.length, known: hosts.length, dead },
    frozenFor: destination,
  };
}

async function serverStatus(target: Target, { askServers, signal }: StatusOptions): Promise<ServerStatus> {
  const address = nameOf(target);
  if (!askServers) return { address, state: 'silent' };
  let srvr: string;
  let mntr: string;
  try {
    [srvr, mntr] = await Promise.all([
      askWord(target, 'srvr', WORD_TIMEOUT, signal),
      askWord(target, 'mntr', WORD_TIMEOUT, signal),
    ]);
  } catch (error) {
    signal?.throwIfAborted();
    return { address, state: 'down', reason: (error as Error).message };
  }
  const facts = readFacts(srvr, mntr);
  if (facts.mode !== undefined) return { address, state: 'serving', ...facts };
  // Apache ZooKeeper's words for having no quorum; for a word that is not on its list it says so.
  if (srvr.includes('not currently serving')) return { address, state: 'not serving', reason: srvr.trim() };
  return { address, state: 'silent' };
}

function serverProblems(servers: readonly ServerStatus[]): Problem[] {
  const problems: Problem[] = [];
  for (const { address, state, reason, mode, syncedFollowers, freeDiskBytes } of servers) {
    if (state === 'down') {
      problems.push({ problem: `${address} cannot be reached: ${reason}`, advice: 'start it, or look at its network' });
    } else if (state === 'not serving') {
      const advice = 'start the other servers of the ensemble: more than half of them are needed';
      problems.push({ problem: `${address} runs, but has no quorum`, advice });
    }
    // A leader counts those who follow it; the servers named are at most all there are.
    if (mode === 'leader' && syncedFollowers !== undefined && syncedFollowers + 1 < servers.length) {
      problems.push({
        problem: `${syncedFollowers} of ${servers.length - 1} followers are in step with the leader ${address}`,
        advice: 'wait while one that has just been started catches up; else look at the logs of the others',
      });
    }
    if (freeDiskBytes !== undefined && freeDiskBytes < LITTLE_DISK) {
      problems.push({
        problem: `the disk of ${address} has ${Math.floor(freeDiskBytes / 1024 ** 2)} MiB left`,
        advice: 'make room: the server takes no changes when the disk is full',
      });
    }
  }
  return problems;
}

async function contentProblems(store: Store, signal: AbortSignal | undefined): Promise<Problem[]> {
  const there = await readAhead(ROOT_FOLDERS, signal, (path, signal) => store.exists(path, { signal }));
  const missing = ROOT_FOLDERS.filter((_, i) => there[i] === undefined);
  if (missing.length === 0) return [];
  if (missing.length === ROOT_FOLDERS.length) {
    const advice = 'start an agent, or restore a backup; if there should be data, see that nsdb.connect is right';
    return [{ problem: 'the NSDB is empty', advice }];
  }
  return [{ problem: `folders are missing: ${missing.join(', ')}`, advice: 'start an agent, which makes them' }];
}

async function roundTrip(call: () => Promise<unknown>): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < ROUND_TRIPS; i++) {
    const start = performance.now();
    await call();
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[ROUND_TRIPS >> 1];
}

function listed(names: readonly string[]): string {
  const some = names.slice(0, 10).join(', ');
  return names.length > 10 ? `${some} and ${names.length - 10} more` : some;
}
