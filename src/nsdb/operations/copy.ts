/**
 * Moving the NSDB to another server. A plain copy is what the source held at one point in time. A move follows the source
 * until little is left, freezes it, so that nothing acknowledged comes after, and takes over the rest:
 *
 * 1. read the source and follow it; fill the destination
 * 2. carry over what changed meanwhile, again and again, until that is little
 * 3. freeze the source: from here on it refuses changes, and every one that it acknowledged can be read
 * 4. read and compare both, carry over what differs, and then read and compare the destination again
 *
 * When a step fails, or is interrupted, the source is thawed: the agents still work with it.
 */
import { randomUUID } from 'node:crypto';
import { MidonetError } from '../../errors.js';
import { freeze, frozenFor, unfreeze } from '../freeze.js';
import type { Store } from '../store.js';
import { knownHosts } from './alive-hosts.js';
import { apply, changes } from './apply.js';
import { bytesOf, compareImages, readTree, type TreeContent } from './image.js';
import { LiveTree } from './live-tree.js';
import type { OperationOptions } from './progress.js';
import { AgentsAliveError, type Permissions, readDestination } from './restore.js';

export interface CopyOptions extends OperationOptions, Permissions {
  readonly source: Store;
  readonly destination: Store;
  /** To freeze the source: a client of it without a root of its own, and what to tell those who are refused. */
  readonly move?: { readonly server: Store; readonly movedTo: string };
  /** Milliseconds to wait for a moment in which nothing changes. */
  readonly timeout: number;
}

export interface CopyReport {
  /** In the destination, and in the source. */
  readonly nodes: number;
  readonly bytes: number;
  /** How many nodes of the source were left out since they belong to sessions. */
  readonly ephemerals: number;
  readonly zxid: number;
  /** Operations on the destination: to fill it, and to follow the source. */
  readonly filled: number;
  readonly followed: number;
  /** Milliseconds for which the source refused changes before the copy was whole; undefined for a plain copy. */
  readonly frozenFor: number | undefined;
}

/** Rounds of following before the source is frozen, at most, and changes that are few enough for the last one. */
const MAX_ROUNDS = 20;
const FEW_CHANGES = 100;

/**
 * Makes the destination what the source is.
 * @throws NsdbNotEmptyError, AgentsAliveError, SameNsdbError about the destination
 * @throws UnsupportedError for a source that cannot be frozen, TimeoutError when it changes too often to be read
 */
export async function copy(options: CopyOptions): Promise<CopyReport> {
  const { source, destination, move, timeout, signal } = options;
  await source.sync('/', { signal });
  const live = new LiveTree(source, options);
  try {
    const start = await live.atOnce(timeout);
    const present = await readDestination(destination, start.image, options, options);
    await requireOther(source, destination, signal);
    const filling = changes(present, start.image);
    await apply(destination, filling, 'filling the destination', options);
    const report = { ephemerals: start.ephemerals.size, zxid: start.zxid, filled: filling.length };
    if (move === undefined) {
      await verify(destination, start, options);
      const { image } = start;
      return { ...report, nodes: image.size, bytes: bytesOf(image), followed: 0, frozenFor: undefined };
    }
    const followed = await follow(live, start, options);
    const last = await moveRest(move, live, options);
    return { ...report, ...last, followed: followed + last.followed };
  } finally {
    live.close();
  }
}

/**
 * What is written to the destination must not show in the source: one server may have several names.
 * @throws SameNsdbError
 */
async function requireOther(source: Store, destination: Store, signal: AbortSignal | undefined): Promise<void> {
  const mark = `/copy-${randomUUID()}`;
  await destination.create(mark, new Uint8Array(), { ephemeral: true, signal });
  await source.sync('/', { signal });
  const isSame = (await source.exists(mark, { signal })) !== undefined;
  await destination.delete(mark, undefined, { signal });
  if (isSame) throw new SameNsdbError();
}

/** Carries over what changes until that is little; returns how many operations it took. */
async function follow(live: LiveTree, start: TreeContent, options: CopyOptions): Promise<number> {
  const { source, destination, signal } = options;
  // What the destination holds: it has nobody else that changes it.
  const copied: TreeContent = { image: new Map(start.image), ephemerals: new Set() };
  let count = 0;
  for (let round = 0; round < MAX_ROUNDS; round++) {
    await source.sync('/', { signal });
    const paths = live.takeChanges();
    const operations = changes(copied, live.image, paths);
    await apply(destination, operations, 'following the source', options);
    for (const operation of operations) {
      if (operation.type === 'delete') copied.image.delete(operation.path);
      else if (operation.type !== 'check') copied.image.set(operation.path, operation.data);
    }
    count += operations.length;
    if (operations.length <= FEW_CHANGES) break;
  }
  return count;
}

interface Rest {
  readonly nodes: number;
  readonly bytes: number;
  readonly followed: number;
  readonly frozenFor: number;
}

async function moveRest(move: NonNullable<CopyOptions['move']>, live: LiveTree, options: CopyOptions): Promise<Rest> {
  const { source, destination, signal, onProgress } = options;
  const wasFrozen = (await frozenFor(move.server, signal)) !== undefined;
  const begin = performance.now();
  try {
    onProgress?.('freezing the source', 0);
    await freeze(move.server, move.movedTo, signal);
    live.close();
    // What was acknowledged before the server was frozen can be read after this.
    await source.sync('/', { signal });
    const [from, to] = await Promise.all([readTree(source, options), readTree(destination, { signal })]);
    const rest = changes(to, from.image);
    await apply(destination, rest, 'carrying over the rest', options);
    if (rest.length > 0) await verify(destination, from, options);
    return {
      nodes: from.image.size,
      bytes: bytesOf(from.image),
      followed: rest.length,
      frozenFor: Math.round(performance.now() - begin),
    };
  } catch (error) {
    // Not with the caller's signal, which may be the reason.
    if (!wasFrozen) await thaw(move.server, error as Error);
    throw error;
  }
}

async function thaw(server: Store, reason: Error): Promise<void> {
  try {
    await unfreeze(server);
  } catch (error) {
    const message = `${reason.message}; and the source could not be thawed (${(error as Error).message}): use --undo`;
    throw new MidonetError('MN_STORE_FROZEN', message, { cause: reason });
  }
}

/** @throws CopyDiffersError unless the destination holds just what was copied. */
async function verify(destination: Store, { image }: TreeContent, options: CopyOptions): Promise<void> {
  await destination.sync('/', { signal: options.signal });
  const there = await readTree(destination, options);
  const differences = compareImages(there.image, image);
  const { created, changed, deleted } = differences;
  if (created + changed + deleted > 0) throw new CopyDiffersError(created, changed, deleted);
}

/** There is nothing to copy, and freezing the source would freeze the destination. */
export class SameNsdbError extends MidonetError {
  constructor() {
    super('MN_INVALID_INPUT', 'the destination is the source: expected another NSDB, or another root of this one');
  }
}

/** Somebody else has changed the destination. */
export class CopyDiffersError extends MidonetError {
  constructor(missing: number, changed: number, additional: number) {
    super(
      'MN_CONFLICT',
      `the destination differs from what was copied: ${missing} nodes are missing, ${changed} have other data, ${additional} should not be there; somebody else writes to it`,
    );
  }
}

/**
 * Lets the source of a move be used again.
 * @throws AgentsAliveError when agents work with the destination, if that is given: their changes would be lost
 */
export async function undoMove(server: Store, destination: Store | undefined, signal?: AbortSignal): Promise<void> {
  if (destination !== undefined) {
    const alive = (await knownHosts(destination, signal)).filter((host) => host.alive);
    if (alive.length > 0) throw new AgentsAliveError(alive.map(({ name }) => name));
  }
  await unfreeze(server, signal);
}
