import * as z from 'zod';
import { MidonetError } from '../../errors.js';
import { type Kind, SCHEMAS } from '../../topology/types.js';
import { decodeJson, encodeJson } from '../json.js';
import { hostAlivePath, hostLeasesPath, missingHostPath, natSpaceId, objectPath } from '../layout.js';
import { joinPath, nodeName, parentPath, pathFault } from '../path.js';
import { NodeError, type Store, type StoreNode, type StoreOperation } from '../store.js';
import { decodeLeaseEntry, encodeLeaseEntry, leaseEntryPath, leaseSchema } from './leases.js';

/**
 * Which leases nobody will ever use or release again. A host that is cut off from the NSDB, or whose agent does not run, still
 * forwards with what it has leased: its connections are in the kernel, its containers keep their addresses. So a lease is
 * leaked only if its host was deleted, if what was leased was deleted, or if the agent has not been seen for a long time
 * ({@link HOST_GONE_MS}) in which it did not confirm the lease either.
 *
 * How long is known without a write per interval. Whoever looks ({@link noteMissingHosts}) marks the hosts whose agent does
 * not run, with the position of the last change of the host's children: `alive` is one of them, so an agent that came and
 * went since makes the mark void. All times are those of the NSDB's server, and count up to the last look.
 */

/** For how long a host must have been missing: a day. */
export const HOST_GONE_MS = 24 * 60 * 60 * 1000;

const EMPTY = new Uint8Array();
/** Written at every look: what it was last written at is how late it was at the NSDB's server then. */
const LOOKS = parentPath(missingHostPath('x'))!;

const markSchema = z.object({ change: z.int() });

type CheckStore = Pick<Store, 'get' | 'exists' | 'children' | 'sync'>;

/** Something wrong with a lease. */
export interface LeaseFinding {
  /** Of the lease, or of a host's entry for one. */
  readonly path: string;
  /** For people: what is wrong. */
  readonly problem: string;
  /**
   * What mends it in one multi, which fails with a NodeError if things have changed since it was found. Empty if that is not known.
   */
  readonly repair: readonly StoreOperation[];
}

export interface LeaseCheckOptions {
  /** Milliseconds that a host must have been missing for its leases to be reclaimed. */
  readonly goneAfter?: number;
  readonly signal?: AbortSignal;
}

/**
 * Finds what is wrong with leases: those that are leaked, those that their host would not find again, and entries for what
 * their host has not leased. Reads every lease; changes nothing.
 */
export async function* findLeakedLeases(
  store: CheckStore,
  options: LeaseCheckOptions = {},
): AsyncGenerator<LeaseFinding> {
  const { goneAfter = HOST_GONE_MS, signal } = options;
  await store.sync('/hosts', { signal });
  const owners = new Owners(store, goneAfter, signal);
  for (const poolId of await childrenOf(store, '/address-pools', signal)) {
    const shards = joinPath(objectPath('address-pool', poolId), 'blocks');
    for (const shardName of await childrenOf(store, shards, signal)) {
      yield* leasesIn(store, joinPath(shards, shardName), poolId, owners, signal);
    }
  }
  for (const deviceId of await childrenOf(store, '/nat-blocks', signal)) {
    const device = joinPath('/nat-blocks', deviceId);
    const gone = (await objectExists(store, deviceId, signal)) ? undefined : `its device ${deviceId} does not exist`;
    for (const address of await childrenOf(store, device, signal)) {
      const folder = joinPath(device, address);
      yield* leasesIn(store, folder, natSpaceId(deviceId, address), owners, signal, gone);
      if (gone !== undefined) yield { path: folder, problem: gone, repair: [{ type: 'delete', path: folder }] };
    }
    if (gone !== undefined) yield { path: device, problem: gone, repair: [{ type: 'delete', path: device }] };
  }
  for (const hostId of await childrenOf(store, '/hosts', signal)) {
    for (const spaceId of await childrenOf(store, hostLeasesPath(hostId), signal)) {
      yield* entriesIn(store, hostId, joinPath(hostLeasesPath(hostId), spaceId), signal);
    }
  }
}

/**
 * Mark the hosts whose agent does not run, and delete marks that are void. To be called regularly, and at least once
 * {@link HOST_GONE_MS} before leases of a missing host are to be reclaimed. Two reads a host.
 */
export async function noteMissingHosts(store: Store, signal?: AbortSignal): Promise<void> {
  await store.sync('/hosts', { signal });
  await store.ensure(LOOKS, { signal });
  await store.set(LOOKS, EMPTY, undefined, { signal });
  const hosts = (await store.children('/hosts', { signal })) ?? [];
  const known = new Set(hosts);
  for (const hostId of hosts) {
    signal?.throwIfAborted();
    const path = missingHostPath(hostId);
    const change = await missingSince(store, hostId, signal);
    const mark = await store.get(path, { signal });
    if (change === undefined && mark !== undefined)
      await ignoreInterference(store.delete(path, mark.stat.version, { signal }));
    if (change === undefined || (mark !== undefined && decodeIfValid(markSchema, mark, path)?.change === change))
      continue;
    const data = encodeJson({ change });
    if (mark === undefined) await ignoreInterference(store.create(path, data, { signal }));
    else await ignoreInterference(store.set(path, data, mark.stat.version, { signal }));
  }
  for (const hostId of (await store.children(LOOKS, { signal })) ?? []) {
    if (!known.has(hostId)) await ignoreInterference(store.delete(missingHostPath(hostId), undefined, { signal }));
  }
}

/** Mend what {@link findLeakedLeases} finds; returns how many findings were mended. */
export async function reclaimLeases(store: Store, options: LeaseCheckOptions = {}): Promise<number> {
  await noteMissingHosts(store, options.signal);
  let mended = 0;
  for await (const { repair } of findLeakedLeases(store, options)) {
    if (repair.length === 0) continue;
    if (await ignoreInterference(store.multi(repair, { signal: options.signal }))) mended += 1;
  }
  return mended;
}

/** The last change of the children of a host whose agent does not run; undefined if it runs, or there is no such host. */
async function missingSince(store: CheckStore, hostId: string, signal?: AbortSignal): Promise<number | undefined> {
  const before = await store.exists(objectPath('host', hostId), { signal });
  if (before === undefined) return undefined;
  const alive = await store.exists(hostAlivePath(hostId), { signal });
  // Had the agent come since, that would be a later change, and the mark void.
  return alive === undefined ? before.pzxid : undefined;
}

/** What a change fails with when somebody else has changed one of its nodes. */
const INTERFERED: ReadonlySet<string> = new Set(['MN_NOT_FOUND', 'MN_ALREADY_EXISTS', 'MN_CONFLICT', 'MN_REFERENCED']);

/** Carries out a change that may come too late; tells whether it was made. */
async function ignoreInterference(change: Promise<unknown>): Promise<boolean> {
  try {
    await change;
    return true;
  } catch (error) {
    if (!(error instanceof NodeError && INTERFERED.has(error.code))) throw error;
    return false;
  }
}

/** What is known of the hosts that have leases. */
class Owners {
  readonly #faults = new Map<string, Promise<HostFault | undefined>>();
  #now: Promise<number> | undefined;

  constructor(
    readonly store: CheckStore,
    readonly goneAfter: number,
    readonly signal: AbortSignal | undefined,
  ) {}

  /** What keeps the host from using its leases, if anything. */
  faultOf(hostId: string): Promise<HostFault | undefined> {
    let fault = this.#faults.get(hostId);
    if (fault === undefined) {
      fault = this.#look(hostId);
      this.#faults.set(hostId, fault);
    }
    return fault;
  }

  async #look(hostId: string): Promise<HostFault | undefined> {
    const { store, goneAfter, signal } = this;
    if ((await store.exists(objectPath('host', hostId), { signal })) === undefined) {
      return { problem: `its host ${hostId} does not exist`, leasesUntil: Number.POSITIVE_INFINITY };
    }
    const path = missingHostPath(hostId);
    const mark = await store.get(path, { signal });
    const change = mark && decodeIfValid(markSchema, mark, path)?.change;
    if (mark === undefined || change === undefined) return undefined;
    if (change !== (await missingSince(store, hostId, signal))) return undefined;
    this.#now ??= store.exists(LOOKS, { signal }).then((looks) => looks?.mtime ?? 0);
    const leasesUntil = (await this.#now) - goneAfter;
    if (mark.stat.mtime > leasesUntil) return undefined;
    const since = new Date(mark.stat.mtime).toISOString();
    return { problem: `the agent of its host ${hostId} has not run since ${since}`, leasesUntil };
  }
}

interface HostFault {
  readonly problem: string;
  /** Leases that were confirmed after this are still good. */
  readonly leasesUntil: number;
}

/** Findings about the leases of one folder. `gone` says why nobody can use any of them, if that is so. */
async function* leasesIn(
  store: CheckStore,
  folder: string,
  spaceId: string,
  owners: Owners,
  signal: AbortSignal | undefined,
  gone?: string,
): AsyncGenerator<LeaseFinding> {
  for (const name of await childrenOf(store, folder, signal)) {
    signal?.throwIfAborted();
    const path = joinPath(folder, name);
    const node = await store.get(path, { signal });
    if (node === undefined) continue;
    const hostId = decodeIfValid(leaseSchema, node, path)?.hostId;
    if (hostId === undefined) {
      yield { path, problem: 'it does not say whose it is', repair: [] };
      continue;
    }
    const entryPath = leaseEntryPath(hostId, spaceId, path);
    const hasEntry = (await store.exists(entryPath, { signal })) !== undefined;
    const fault = await owners.faultOf(hostId);
    const problem = gone ?? (fault !== undefined && node.stat.mtime <= fault.leasesUntil ? fault.problem : undefined);
    const { version } = node.stat;
    if (problem !== undefined) {
      const repair: StoreOperation[] = [{ type: 'delete', path, version }];
      if (hasEntry) repair.push({ type: 'delete', path: entryPath });
      yield { path, problem, repair };
    } else if (!hasEntry) {
      // Released since it was read?
      if ((await store.exists(path, { signal }))?.czxid !== node.stat.czxid) continue;
      const repair: StoreOperation[] = [{ type: 'check', path, version }];
      const entries = parentPath(entryPath)!;
      if ((await store.exists(entries, { signal })) === undefined)
        repair.push({ type: 'create', path: entries, data: EMPTY });
      repair.push({ type: 'create', path: entryPath, data: encodeLeaseEntry(path) });
      yield { path, problem: `host ${hostId} has no entry for it`, repair };
    }
  }
}

/** Findings about a host's entries for the leases of one space. */
async function* entriesIn(
  store: CheckStore,
  hostId: string,
  folder: string,
  signal: AbortSignal | undefined,
): AsyncGenerator<LeaseFinding> {
  for (const name of await childrenOf(store, folder, signal)) {
    signal?.throwIfAborted();
    const path = joinPath(folder, name);
    const entry = await store.get(path, { signal });
    if (entry === undefined) continue;
    const deletion: StoreOperation = { type: 'delete', path, version: entry.stat.version };
    const leasePath = decodeLeaseEntry(entry);
    if (pathFault(leasePath) !== undefined || nodeName(leasePath) !== name) {
      yield { path, problem: 'it names no lease', repair: [deletion] };
      continue;
    }
    const lease = await store.get(leasePath, { signal });
    if (lease !== undefined) {
      const owner = decodeIfValid(leaseSchema, lease, leasePath)?.hostId;
      if (owner === undefined || owner === hostId) continue;
      const repair: StoreOperation[] = [{ type: 'check', path: leasePath, version: lease.stat.version }, deletion];
      yield { path, problem: `the lease is host ${owner}'s`, repair };
      continue;
    }
    // Released since the entry was read?
    if ((await store.exists(path, { signal }))?.czxid !== entry.stat.czxid) continue;
    const repair: StoreOperation[] = [];
    if ((await store.exists(parentPath(leasePath)!, { signal })) !== undefined) {
      // Fails if there is such a lease: nothing else tests in a multi that a node is not there.
      repair.push({ type: 'create', path: leasePath, data: EMPTY }, { type: 'delete', path: leasePath });
    }
    yield { path, problem: `there is no lease ${leasePath}`, repair: [...repair, deletion] };
  }
}

/** What a node holds, or undefined if that is not valid. */
function decodeIfValid<S extends z.ZodType>(schema: S, node: StoreNode, path: string): z.output<S> | undefined {
  try {
    return decodeJson(schema, node.data, path);
  } catch (error) {
    if (error instanceof MidonetError && error.code === 'MN_INVALID_INPUT') return undefined;
    throw error;
  }
}

/** Whether there is an object of any kind with the identifier. */
async function objectExists(store: CheckStore, id: string, signal: AbortSignal | undefined): Promise<boolean> {
  for (const kind of Object.keys(SCHEMAS) as Kind[]) {
    if ((await store.exists(objectPath(kind, id), { signal })) !== undefined) return true;
  }
  return false;
}

async function childrenOf(store: CheckStore, path: string, signal: AbortSignal | undefined): Promise<string[]> {
  return (await store.children(path, { signal })) ?? [];
}
