import {
  type ReferenceRow,
  referencesIn,
  referencesTo,
  refersTo,
  withoutReference,
} from '../../topology/references.js';
import type { Host, Kind, TopologyTypes } from '../../topology/types.js';
import { deletePortFolder } from '../flow-state/port-folder.js';
import { decodeJson } from '../json.js';
import {
  bridgeHostPath,
  hostAlivePath,
  hostLeasesPath,
  isReferenceSharded,
  kindPath,
  referenceFolder,
} from '../layout.js';
import { releaseNatBlocks } from '../leases/leases.js';
import { joinPath } from '../path.js';
import { readAhead } from '../read-ahead.js';
import type { Store } from '../store.js';
import { ObjectConflictError, ObjectInUseError, ObjectReferencedError } from '../topology-errors.js';
import { type ChangeSet, Phase, type PlannedOperation, type Staged } from './change-set.js';
import { MAX_BYTES, MAX_OPERATIONS, sizeOf } from './commit.js';
import { holderSchema } from './index-entries.js';

/** Operations that only make sense together. */
type Unit = PlannedOperation[];

/** Nodes that go with an object, beside its own node and its index entries. */
interface Remains {
  readonly path: string;
  /** Of an entry that nothing accounts for: it must be as it was seen. */
  readonly version?: number;
}

/**
 * What deleting objects takes along, by the table of references. It is read as a whole before anything is changed, so a
 * deletion that is refused changes nothing. Whatever others change meanwhile makes a part of it fail: an object by its
 * version, one that is added below another by the folder, which is not empty then.
 */
export class Deletion {
  private readonly remains = new Map<Staged, Remains[]>();
  /** Who names a deleted object, among the deleted. */
  private readonly namedBy = new Map<Staged, Set<Staged>>();

  private constructor(
    private readonly store: Store,
    private readonly changes: ChangeSet,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /**
   * Work out the deletion of everything that is removed in `changes`, and stage there what else it changes.
   * @throws ObjectReferencedError, ObjectInUseError
   */
  static async plan(store: Store, changes: ChangeSet, signal?: AbortSignal): Promise<Deletion> {
    const deletion = new Deletion(store, changes, signal);
    const refusals: { row: ReferenceRow; holder: Staged; named: Staged; isHolderRefused: boolean }[] = [];
    const queue = [...changes.objects].filter(isDeleted);
    for (let i = 0; i < queue.length; i++) {
      const named = queue[i];
      for (const { row, id } of referencesIn(named.kind, named.last!)) {
        if (row.onDeleteHolder !== 'refuse') continue;
        const other = await changes.load(row.names, id, signal);
        if (other.before !== undefined) refusals.push({ row, holder: named, named: other, isHolderRefused: true });
      }
      for (const { row, holder } of await deletion.holders(named)) {
        if (isDeleted(holder)) continue;
        if (row.onDelete === 'refuse') {
          refusals.push({ row, holder, named, isHolderRefused: false });
        } else if (row.onDelete === 'cascade' || row.cascadeIf?.(holder.after as never)) {
          changes.remove(holder);
          queue.push(holder);
        } else {
          holder.after = withoutReference(row, holder.after!, named.id);
        }
      }
    }
    for (const { row, holder, named, isHolderRefused } of refusals) {
      if (isDeleted(holder) && isDeleted(named)) continue;
      const field = `${row.kind}.${row.field}`;
      if (isHolderRefused) throw new ObjectReferencedError(holder.kind, holder.id, named.kind, named.id, field);
      throw new ObjectReferencedError(named.kind, named.id, holder.kind, holder.id, field);
    }
    deletion.findOrder(queue);
    return deletion;
  }

  /** The object that is being deleted with the node, if there is one. */
  objectAt(path: string): Staged | undefined {
    return this.order.flat().find((staged) => path === staged.path || path.startsWith(`${staged.path}/`));
  }

  /** The operations that delete the objects, all of them. */
  operations(): PlannedOperation[] {
    return this.deletionUnits().flat();
  }

  /**
   * The whole change in as few requests as it fits in, each sound by itself: who names an object goes before it, so that
   * after any number of them there is no reference that leads nowhere.
   */
  requests(): PlannedOperation[][] {
    const clearings = [...this.changes.objects].map((staged) => this.changes.writesOf(staged));
    const requests: PlannedOperation[][] = [];
    let current: PlannedOperation[] = [];
    let bytes = 0;
    for (const unit of [...clearings, ...this.deletionUnits()]) {
      const size = unit.reduce((sum, { operation }) => sum + sizeOf(operation), 0);
      if (current.length > 0 && (current.length + unit.length > MAX_OPERATIONS || bytes + size > MAX_BYTES)) {
        requests.push(current);
        current = [];
        bytes = 0;
      }
      current.push(...unit);
      bytes += size;
    }
    return current.length > 0 ? [...requests, current] : requests;
  }

  /** The objects that name `named`, which is being deleted. Notes what else goes with it. */
  private async holders(named: Staged): Promise<{ row: ReferenceRow; holder: Staged }[]> {
    const { store, changes, signal } = this;
    const paths = named.before?.hasChildren ? await walk(store, named.path, signal) : [];
    const remains: Remains[] = paths.map((path) => ({ path }));
    if (named.kind === 'host') await this.addHostRemains(named.last as Host, remains);
    if (named.kind === 'address-pool') await this.addPoolRemains(named.id, remains);
    const found: { row: ReferenceRow; holder: Staged }[] = [];
    const strays = new Map<string, number>();
    for (const row of referencesTo(named.kind)) {
      const candidates: readonly { readonly id: string; readonly path?: string }[] = row.symmetric
        ? referencesIn(named.kind, named.last!)
            .filter((reference) => reference.row === row)
            .map(({ id }) => ({ id }))
        : await this.candidates(row, named, paths);
      const holders = await readAhead(candidates, signal, ({ id }, signal) => changes.load(row.kind, id, signal));
      for (const [i, holder] of holders.entries()) {
        const { path } = candidates[i];
        if (names(row, holder.before?.object, named.id)) this.noteHolder(named, holder);
        else if (path !== undefined && !isNewlyNamed(row, holder, named.id)) {
          const version = await this.stray(row, holder, named, path);
          if (version !== undefined) strays.set(path, version);
        }
        if (names(row, holder.after, named.id)) found.push({ row, holder });
      }
    }
    this.remains.set(
      named,
      remains.map((node) => ({ ...node, version: strays.get(node.path) })),
    );
    return found;
  }

  private noteHolder(named: Staged, holder: Staged): void {
    const holders = this.namedBy.get(named) ?? new Set();
    holders.add(holder);
    this.namedBy.set(named, holders);
  }

  /** Who is noted below `named` as naming it in the field of the row. */
  private async candidates(
    row: ReferenceRow,
    named: Staged,
    paths: readonly string[],
  ): Promise<{ id: string; path: string }[]> {
    const folder = referenceFolder(row, named.id);
    if (row.exclusive) {
      const node = paths.includes(folder) ? await this.store.get(folder, { signal: this.signal }) : undefined;
      return node === undefined ? [] : [{ id: decodeJson(holderSchema, node.data, folder).id, path: folder }];
    }
    const depth = folder.split('/').length + (isReferenceSharded(row) ? 1 : 0);
    return paths
      .filter((path) => path.startsWith(`${folder}/`) && path.split('/').length === depth + 1)
      .map((path) => ({ id: path.slice(path.lastIndexOf('/') + 1), path }));
  }

  /**
   * The version of an entry that was left by mishap: the object that it should follow from does not exist or names another.
   * Undefined when the entry is gone.
   * @throws ObjectConflictError if it was about to be accounted for
   */
  private async stray(row: ReferenceRow, holder: Staged, named: Staged, path: string): Promise<number | undefined> {
    const { store, signal } = this;
    const first = await store.exists(path, { signal });
    if (first === undefined) return undefined;
    const holderStat = await store.exists(holder.path, { signal });
    const again = await store.exists(path, { signal });
    const isSame = holderStat?.version === holder.before?.version && again?.czxid === first.czxid;
    if (!isSame) throw new ObjectConflictError(row.names, named.id);
    if (holder.before !== undefined) holder.isChecked = true;
    return again.version;
  }

  private async addHostRemains(host: Host, remains: Remains[]): Promise<void> {
    const { store, signal } = this;
    if (remains.some(({ path }) => path === hostAlivePath(host.id))) {
      throw new ObjectInUseError('host', host.id, 'its agent runs');
    }
    const bridges = (await store.children(kindPath('bridge'), { signal })) ?? [];
    const paths = bridges.map((bridgeId) => bridgeHostPath(bridgeId, host.id));
    const stats = await readAhead(paths, signal, (path, signal) => store.exists(path, { signal }));
    remains.push(...paths.filter((_, i) => stats[i] !== undefined).map((path) => ({ path })));
    // Leases are released one by one before the host is deleted, see releaseHostLeases.
    const leases = `${hostLeasesPath(host.id)}/`;
    const others = remains.filter(({ path }) => !path.startsWith(leases));
    remains.splice(0, remains.length, ...others);
  }

  private async addPoolRemains(poolId: string, remains: Remains[]): Promise<void> {
    const { store, signal } = this;
    const hostIds = (await store.children(kindPath('host'), { signal })) ?? [];
    const folders = hostIds.map((hostId) => joinPath(hostLeasesPath(hostId), poolId));
    const stats = await readAhead(folders, signal, (folder, signal) => store.exists(folder, { signal }));
    for (const folder of folders.filter((_, i) => stats[i] !== undefined)) {
      const paths = [...(await walk(store, folder, signal)), folder];
      remains.push(...paths.map((path) => ({ path })));
    }
  }

  private deletionUnits(): Unit[] {
    // What objects delete themselves when they change or go.
    const planned = new Set<string>();
    const unindexings = new Map<Staged, PlannedOperation[]>();
    for (const staged of this.changes.objects) {
      const operations = isDeleted(staged) ? this.changes.unindexings(staged) : this.changes.writesOf(staged);
      if (isDeleted(staged)) unindexings.set(staged, operations);
      for (const { operation } of operations) if (operation.type === 'delete') planned.add(operation.path);
    }
    return this.order.flatMap((group): Unit[] => {
      const single: Unit[] = [];
      const together: Unit = [];
      for (const staged of group) {
        if (staged.before === undefined) continue;
        together.push(...unindexings.get(staged)!);
        for (const { path, version } of this.remains.get(staged) ?? []) {
          if (planned.has(path)) continue;
          planned.add(path);
          single.push([{ operation: { type: 'delete', path, version }, phase: Phase.delete, of: undefined }]);
        }
      }
      for (const staged of group) {
        if (staged.before === undefined) continue;
        const operation = { type: 'delete', path: staged.path, version: staged.before.version } as const;
        together.push({ operation, phase: Phase.delete, of: staged });
      }
      return [...single, together];
    });
  }

  private order: Staged[][] = [];

  /**
   * Who names an object comes before it; objects that name each other in a circle are one group (Tarjan's strongly
   * connected components, which come out in this order).
   */
  private findOrder(deleted: readonly Staged[]): void {
    const index = new Map<Staged, number>();
    const low = new Map<Staged, number>();
    const stack: Staged[] = [];
    const visit = (staged: Staged) => {
      const own = index.size;
      index.set(staged, own);
      low.set(staged, own);
      stack.push(staged);
      for (const holder of this.namedBy.get(staged) ?? []) {
        if (!isDeleted(holder)) continue;
        if (!index.has(holder)) {
          visit(holder);
          low.set(staged, Math.min(low.get(staged)!, low.get(holder)!));
        } else if (stack.includes(holder)) {
          low.set(staged, Math.min(low.get(staged)!, index.get(holder)!));
        }
      }
      if (low.get(staged) === own) this.order.push(stack.splice(stack.indexOf(staged)));
    };
    for (const staged of deleted) if (!index.has(staged)) visit(staged);
  }
}

/** What belongs to deleted objects and is in folders of its own: NAT blocks of devices, archived flow state of ports. */
export async function removeRemains(store: Store, deleted: readonly Staged[], signal?: AbortSignal): Promise<void> {
  const ports = deleted.filter(({ kind }) => kind === 'port');
  await readAhead(ports, signal, ({ id }, signal) => deletePortFolder(store, id, signal));
  for (const { kind, id } of deleted) {
    if (kind === 'bridge' || kind === 'router') await releaseNatBlocks(store, id, signal);
  }
}

export function isDeleted(staged: Staged): boolean {
  return staged.after === undefined && staged.last !== undefined;
}

function names(row: ReferenceRow, object: TopologyTypes[Kind] | undefined, id: string): boolean {
  return object !== undefined && refersTo(row, object, id);
}

function isNewlyNamed(row: ReferenceRow, holder: Staged, id: string): boolean {
  return holder.before === undefined && names(row, holder.after, id);
}

/** Every path below `path`, leaves first. */
export async function walk(store: Store, path: string, signal?: AbortSignal): Promise<string[]> {
  const levels: string[][] = [];
  let level = [path];
  while (level.length > 0) {
    const children = await readAhead(level, signal, (at, signal) => store.children(at, { signal }));
    const next = level.flatMap((at, i) => (children[i] ?? []).map((name) => joinPath(at, name)));
    levels.unshift(next);
    level = next;
  }
  return levels.flat();
}
