import { findOrphanedFlowState } from '../flow-state/port-folder.js';
import { ROOT_FOLDERS } from '../layout.js';
import { findLeakedLeases, HOST_GONE_MS, noteMissingHosts } from '../leases/lease-check.js';
import { joinPath } from '../path.js';
import { findFaults } from '../repository/integrity.js';
import { NodeError, RequestTooLargeError, type Store, type StoreOperation } from '../store.js';
import type { OperationOptions } from './progress.js';
import { isServersOwn } from './walk.js';

/** Something wrong in the NSDB. */
export interface Fault {
  /** `missing-folder`, `unknown-node`, `leaked-lease`, `orphaned-flow-state`, or a kind of integrity.ts. */
  readonly kind: string;
  readonly path: string;
  readonly problem: string;
  /** One multi, which fails when things have changed since; empty when a person has to decide. */
  readonly repair: readonly StoreOperation[];
}

export interface FsckOptions extends OperationOptions {
  readonly store: Store;
  readonly repair: boolean;
  /** Milliseconds that an agent must have been missing for its leases to count as leaked. */
  readonly goneAfter?: number;
  /** Told of everything that is wrong, as it is found for the first time. */
  readonly onFault?: (fault: Fault) => void;
}

export interface FsckReport {
  readonly found: number;
  readonly mended: number;
  /** What is wrong after the repairs. */
  readonly left: readonly Fault[];
}

/** One fault may hide another, so that a look after the repairs finds more; what is left after so many stays. */
const MAX_ROUNDS = 10;

/**
 * Looks for what is wrong in the NSDB, while others go on to work: dangling references, entries that are missing or left over
 * (integrity.ts), leaked leases (lease-check.ts), flow state of ports that are gone, folders that are missing and nodes that
 * nobody knows. With `repair` it mends what can be mended and looks again. Without it nothing is changed. Ephemeral nodes and empty shards are no faults.
 */
export async function fsck(options: FsckOptions): Promise<FsckReport> {
  const { store, repair, onFault, signal } = options;
  if (repair) await noteMissingHosts(store, signal);
  const told = new Set<string>();
  let mended = 0;
  for (let round = 1; ; round++) {
    const left: Fault[] = [];
    let changed = false;
    for await (const fault of findAll(options)) {
      const name = `${fault.kind} ${fault.path} ${fault.problem}`;
      if (!told.has(name)) onFault?.(fault);
      told.add(name);
      if (repair && (await mend(store, fault, signal))) {
        mended += 1;
        changed = true;
      } else {
        left.push(fault);
      }
    }
    if (!changed || round === MAX_ROUNDS) return { found: told.size, mended, left };
  }
}

async function* findAll({ store, goneAfter, signal, onProgress }: FsckOptions): AsyncGenerator<Fault> {
  yield* strayNodes(store, signal);
  const onObjects = (objects: number) => onProgress?.('checking objects', objects);
  for await (const { kind, path, detail, repair } of findFaults(store, { signal, onProgress: onObjects })) {
    yield { kind, path, problem: detail, repair };
  }
  let leases = 0;
  for await (const { path, problem, repair } of findLeakedLeases(store, {
    goneAfter: goneAfter ?? HOST_GONE_MS,
    signal,
  })) {
    onProgress?.('checking leases', ++leases);
    yield { kind: 'leaked-lease', path, problem, repair };
  }
  for await (const { path, repair } of findOrphanedFlowState(store, signal)) {
    yield { kind: 'orphaned-flow-state', path, problem: 'there is no such port', repair };
  }
}

/** Faults in the list of top folders. */
async function* strayNodes(store: Store, signal: AbortSignal | undefined): AsyncGenerator<Fault> {
  await store.sync('/', { signal });
  const names = new Set(((await store.children('/', { signal })) ?? []).map((name) => joinPath('/', name)));
  for (const path of ROOT_FOLDERS) {
    if (names.delete(path)) continue;
    const repair: StoreOperation[] = [{ type: 'create', path, data: new Uint8Array() }];
    yield { kind: 'missing-folder', path, problem: 'there is no such folder', repair };
  }
  for (const path of names) {
    if (isServersOwn(path)) continue;
    yield { kind: 'unknown-node', path, problem: 'not of MidoNet, or of another version of it', repair: [] };
  }
}

/** Whether the fault is mended; otherwise a later look says how things are. */
async function mend(store: Store, { repair }: Fault, signal: AbortSignal | undefined): Promise<boolean> {
  if (repair.length === 0) return false;
  try {
    await store.multi(repair, { signal });
    return true;
  } catch (error) {
    // Changed by somebody meanwhile, or more than one step can do.
    if (error instanceof NodeError || error instanceof RequestTooLargeError) return false;
    throw error;
  }
}
