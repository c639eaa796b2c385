import type { z } from 'zod';
import { InvalidInputError, MidonetError } from '../../errors.js';
import {
  type ReferenceRow,
  referencesIn,
  referencesTo,
  refersTo,
  withoutReference,
} from '../../topology/references.js';
import { decodeObject, encodeObject, MIGRATIONS, type Migrations } from '../../topology/stored-form.js';
import { KINDS, type Kind, SCHEMAS, type TopologyTypes } from '../../topology/types.js';
import { decodeJson } from '../json.js';
import {
  isReferenceSharded,
  isSharded,
  kindPath,
  NAMES,
  objectFolders,
  objectPath,
  referenceFolder,
  TENANTS,
} from '../layout.js';
import { joinPath, nodeName } from '../path.js';
import { readAhead } from '../read-ahead.js';
import type { Store, StoreNode, StoreOperation } from '../store.js';
import { MAC_TABLE } from '../tables/tables.js';
import { ObjectInUseError, ObjectReferencedError } from '../topology-errors.js';
import { ChangeSet, foldersBetween } from './change-set.js';
import { Deletion, walk } from './deletion.js';
import { holderSchema, type IndexEntry, indexEntries } from './index-entries.js';

const EMPTY = new Uint8Array();
/** Objects looked at together. */
const BATCH = 256;

/**
 * - `undecodable-object`: a node that is no object of its kind, or one that a newer program wrote
 * - `leftover-folder`: what is left of an object that was deleted, or of a tenant without any
 * - `incomplete-object`: an object without a folder that belongs to it
 * - `dangling-reference`: an object names one that does not exist, or that does not name it in turn
 * - `missing-entry`: what an object notes below one that it names, or of its name or tenant, is not there, or says something else
 * - `orphaned-entry`: such a note that no object accounts for
 */
export type FindingKind =
  | 'undecodable-object'
  | 'leftover-folder'
  | 'incomplete-object'
  | 'dangling-reference'
  | 'missing-entry'
  | 'orphaned-entry';

/** Something wrong with the topology in the NSDB. */
export interface Finding {
  readonly kind: FindingKind;
  readonly path: string;
  /** For people: what is wrong. */
  readonly detail: string;
  /**
   * What mends it in one multi, which fails with a NodeError if things have changed since it was found. Empty when a person
   * has to decide.
   */
  readonly repair: readonly StoreOperation[];
}

export interface IntegrityOptions {
  readonly signal?: AbortSignal;
  readonly migrations?: Migrations;
  /** Told how many objects were looked at. */
  readonly onProgress?: (objects: number) => void;
}

/**
 * Looks at every object of the topology, at what is noted below it and at the indexes; changes nothing. Others may go on to work: what they
 * are just changing is looked at twice, and only what is wrong both times is told. After repairs look again, since one
 * fault may hide another. Leases are the business of lease-check.ts.
 *
 * @throws StoreUnavailableError
 */
export async function* findFaults(store: Store, options: IntegrityOptions = {}): AsyncGenerator<Finding> {
  const { signal, onProgress } = options;
  const check = new IntegrityCheck(store, options.migrations ?? MIGRATIONS);
  await store.sync('/', { signal });
  let seen = 0;
  for (const kind of KINDS) {
    for await (const paths of objectBatches(store, kind, signal)) {
      yield* lookTwice(store, paths, (path, signal) => check.object(kind, path, signal), signal);
      seen += paths.length;
      onProgress?.(seen);
    }
  }
  for await (const { top, entries } of finderBatches(store, signal)) {
    if (entries.length > 0) yield* lookTwice(store, entries, (path, signal) => check.finderEntry(path, signal), signal);
    else if (top.startsWith(`${TENANTS}/`))
      yield* lookTwice(store, [top], (path) => check.tenant(path, signal), signal);
  }
}

/** What is found at the paths both times. */
async function* lookTwice(
  store: Store,
  paths: readonly string[],
  look: (path: string, signal?: AbortSignal) => Promise<Finding[]>,
  signal?: AbortSignal,
): AsyncGenerator<Finding> {
  const found = await readAhead(paths, signal, look);
  const suspects = paths.filter((_, i) => found[i].length > 0);
  if (suspects.length > 0) await store.sync('/', { signal });
  for (const path of suspects) {
    const first = found[paths.indexOf(path)];
    const again = await look(path, signal);
    const same = (a: Finding) => first.some((b) => a.kind === b.kind && a.path === b.path && a.detail === b.detail);
    yield* again.filter(same);
  }
}

/** The entries of the index of names, by kind, and of that of tenants, by tenant; some at a time. */
async function* finderBatches(
  store: Store,
  signal?: AbortSignal,
): AsyncGenerator<{ readonly top: string; readonly entries: readonly string[] }> {
  const below = async (paths: readonly string[]) => {
    const lists = await readAhead(paths, signal, (path, signal) => store.children(path, { signal }));
    return paths.flatMap((path, i) => (lists[i] ?? []).map((name) => joinPath(path, name)));
  };
  for (const top of await below([NAMES, TENANTS])) {
    const shards = top.startsWith(`${NAMES}/`) ? await below([top]) : await below(await below([top]));
    let isEmpty = true;
    for (let i = 0; i < shards.length; i += BATCH) {
      const entries = await below(shards.slice(i, i + BATCH));
      for (let j = 0; j < entries.length; j += BATCH) yield { top, entries: entries.slice(j, j + BATCH) };
      if (entries.length > 0) isEmpty = false;
    }
    if (isEmpty) yield { top, entries: [] };
  }
}

/** Paths of the objects of a kind, some at a time. */
async function* objectBatches(store: Store, kind: Kind, signal?: AbortSignal): AsyncGenerator<string[]> {
  const top = kindPath(kind);
  const names = (await store.children(top, { signal })) ?? [];
  const folders = isSharded(kind) ? names.map((name) => joinPath(top, name)) : [top];
  for (const folder of folders) {
    const paths = ((await store.children(folder, { signal })) ?? []).map((name) => joinPath(folder, name));
    for (let i = 0; i < paths.length; i += BATCH) yield paths.slice(i, i + BATCH);
  }
}

class IntegrityCheck {
  constructor(
    private readonly store: Store,
    private readonly migrations: Migrations,
  ) {}

  /** What is wrong with the object at `path` and below it. */
  async object(kind: Kind, path: string, signal?: AbortSignal): Promise<Finding[]> {
    const node = await this.store.get(path, { signal });
    if (node === undefined) return [];
    if (node.data.length === 0) return this.leftover(path, node, signal);
    let object: TopologyTypes[Kind];
    try {
      object = decodeObject(kind, node.data, path, this.migrations);
      if (objectPath(kind, object.id) !== path)
        throw new InvalidInputError(`${path}.id`, object.id, 'expected the name of the node');
    } catch (error) {
      return [{ kind: 'undecodable-object', path, detail: (error as Error).message, repair: [] }];
    }
    const version = node.stat.version;
    const below = node.stat.numChildren === 0 ? [] : await walk(this.store, path, signal);
    const present = new Set(below);
    const folders = objectFolders(kind).map((folder) => joinPath(path, folder));
    const incomplete = folders.filter((folder) => !present.has(folder));
    return [
      ...incomplete.map((folder) => incompleteObject(path, folder, version)),
      ...(await this.references(kind, path, object, version, signal)),
      ...(await this.entries(kind, path, object, version, signal)),
      ...(await this.notesBelow(kind, path, object.id, below, signal)),
    ];
  }

  /** An entry of the index of names or of tenants that no object accounts for. */
  async finderEntry(at: string, signal?: AbortSignal): Promise<Finding[]> {
    const [, top, ...names] = at.split('/');
    const [kindName, id] = `/${top}` === NAMES ? [names[0], names[2].split(',')[1]] : [names[1], names[3]];
    const kind = KINDS.find((one) => one === kindName);
    if (kind === undefined || !id) return [await this.orphan(at, 'no entry has this name', [], signal)];
    const holder = await this.read(kind, id, signal);
    if (holder !== undefined) {
      if (holder.object === undefined || indexEntries(kind, holder.object).some(({ path }) => path === at)) return [];
    }
    const detail = `${kind} ${id} ${holder === undefined ? 'does not exist' : 'does not say so'}`;
    return [await this.orphan(at, detail, this.unchanged(kind, id, holder), signal)];
  }

  /** What is left of a tenant that has no objects. */
  async tenant(path: string, signal?: AbortSignal): Promise<Finding[]> {
    const depth = path.split('/').length;
    const below = await walk(this.store, path, signal);
    if (below.some((at) => at.split('/').length === depth + 3)) return [];
    const repair = [...below, path].map((at) => ({ type: 'delete', path: at }) as const);
    return [{ kind: 'leftover-folder', path, detail: 'no object belongs to the tenant', repair }];
  }

  private async leftover(path: string, node: StoreNode, signal?: AbortSignal): Promise<Finding[]> {
    const below = await walk(this.store, path, signal);
    const repair: StoreOperation[] = [
      ...below.map((at) => ({ type: 'delete', path: at }) as const),
      { type: 'delete', path, version: node.stat.version },
    ];
    return [{ kind: 'leftover-folder', path, detail: 'no object, but what was noted below one', repair }];
  }

  private async references(
    kind: Kind,
    path: string,
    object: TopologyTypes[Kind],
    version: number,
    signal?: AbortSignal,
  ): Promise<Finding[]> {
    const findings: Finding[] = [];
    for (const { row, id, field } of referencesIn(kind, object)) {
      const named = await this.read(row.names, id, signal);
      const isNamedInTurn = () => named !== undefined && names(row, named.object, object.id);
      if (named !== undefined && (!row.symmetric || isNamedInTurn())) continue;
      const fault = named === undefined ? 'does not exist' : 'does not name it in turn';
      findings.push({
        kind: 'dangling-reference',
        path,
        detail: `${field}: ${row.names} ${id} ${fault}`,
        repair: await this.withoutDangling(row, kind, path, object, version, id, signal),
      });
    }
    return findings;
  }

  /** What the table says about the holder when the object that it names is gone. */
  private async withoutDangling(
    row: ReferenceRow,
    kind: Kind,
    path: string,
    object: TopologyTypes[Kind],
    version: number,
    id: string,
    signal?: AbortSignal,
  ): Promise<StoreOperation[]> {
    if (row.onDelete === 'refuse') return [];
    if (row.onDelete === 'clear' && !row.cascadeIf?.(object as never)) {
      const cleared = SCHEMAS[kind].safeParse(withoutReference(row, object, id));
      if (!cleared.success) return [];
      const data = encodeObject(kind, cleared.data, this.migrations);
      return [{ type: 'set', path, data, version }];
    }
    const changes = new ChangeSet(this.store, this.migrations);
    changes.remove(await changes.load(kind, object.id, signal));
    try {
      const requests = (await Deletion.plan(this.store, changes, signal)).requests();
      const operations = requests.flat().map(({ operation }) => operation);
      const isThere = await readAhead(operations, signal, ({ path: at }, signal) => this.store.exists(at, { signal }));
      return operations.filter(({ type }, i) => type !== 'delete' || isThere[i] !== undefined);
    } catch (error) {
      if (error instanceof ObjectReferencedError || error instanceof ObjectInUseError) return [];
      throw error;
    }
  }

  /** Whether what the object notes below others is there. */
  private async entries(
    kind: Kind,
    path: string,
    object: TopologyTypes[Kind],
    version: number,
    signal?: AbortSignal,
  ): Promise<Finding[]> {
    const findings: Finding[] = [];
    for (const entry of indexEntries(kind, object)) {
      const node = await this.store.get(entry.path, { signal });
      const isSame = node !== undefined && Buffer.compare(node.data, entry.data) === 0;
      if (isSame && node.stat.ephemeralOwner === undefined) continue;
      // Below what does not exist nothing can be noted: that is told of the reference.
      const { below } = entry;
      if (below !== undefined && (await this.isGone(below.kind, below.id, signal))) continue;
      findings.push({
        kind: 'missing-entry',
        path: entry.path,
        detail: `${entry.field} of ${path}: ${node === undefined ? 'no entry' : 'the entry says something else'}`,
        repair: await this.entryRepair(entry, node, path, version, signal),
      });
    }
    return findings;
  }

  private async entryRepair(
    entry: IndexEntry,
    node: StoreNode | undefined,
    path: string,
    version: number,
    signal?: AbortSignal,
  ): Promise<StoreOperation[]> {
    const check = { type: 'check', path, version } as const;
    const create = { type: 'create', path: entry.path, data: entry.data } as const;
    if (node === undefined) {
      const top = entry.below
        ? objectPath(entry.below.kind, entry.below.id)
        : entry.path.slice(0, entry.path.indexOf('/', 1));
      const folders = foldersBetween(top, entry.path);
      const isThere = await readAhead(folders, signal, (folder, signal) => this.store.exists(folder, { signal }));
      const missing = folders.filter((_, i) => isThere[i] === undefined);
      return [check, ...missing.map((folder) => ({ type: 'create', path: folder, data: EMPTY }) as const), create];
    }
    const current = node.stat.version;
    if (node.stat.ephemeralOwner !== undefined) {
      return [check, { type: 'delete', path: entry.path, version: current }, create];
    }
    // Two objects may claim the same: a person has to say which of them is right.
    const { reference, below } = entry;
    if (below !== undefined && (reference === undefined || reference.row.exclusive)) return [];
    return [check, { type: 'set', path: entry.path, data: entry.data, version: current }];
  }

  /** Notes below an object that no other object accounts for. */
  private async notesBelow(
    kind: Kind,
    path: string,
    id: string,
    below: readonly string[],
    signal?: AbortSignal,
  ): Promise<Finding[]> {
    const checks: ((signal?: AbortSignal) => Promise<Finding[]>)[] = [];
    const accounted = new Set<string>();
    for (const row of referencesTo(kind)) {
      if (row.symmetric) continue;
      const folder = referenceFolder(row, id);
      const depth = folder.split('/').length + (row.exclusive ? 0 : isReferenceSharded(row) ? 2 : 1);
      for (const at of below) {
        if (at !== folder && !at.startsWith(`${folder}/`)) continue;
        accounted.add(at);
        if (at.split('/').length === depth) checks.push((signal) => this.note(row, id, at, signal));
      }
    }
    for (const at of below) {
      const [folder, name, ...rest] = at.slice(path.length + 1).split('/');
      if (folder === 'refs' && name !== undefined && rest.length === 0 && !accounted.has(at)) {
        const detail = 'no field of this name refers to objects of this kind';
        checks.push(async (signal) => [await this.orphan(at, detail, [], signal)]);
      } else if (folder === 'unique' && rest.length === 1) {
        checks.push((signal) => this.uniqueNote(name, at, signal));
      } else if (kind === 'bridge' && /^macs(-\d+)?$/.test(folder) && rest.length === 1) {
        checks.push((signal) => this.macNote(id, at, signal));
      } else if (kind === 'bridge' && folder === 'links' && rest.length === 1) {
        checks.push((signal) => this.linkNote(at, signal));
      } else if (kind === 'bridge' && folder === 'hosts' && name !== undefined && rest.length === 0) {
        checks.push((signal) => this.hostNote(name, at, signal));
      }
    }
    return (await readAhead(checks, signal, (check, signal) => check(signal))).flat();
  }

  private async hostNote(hostId: string, at: string, signal?: AbortSignal): Promise<Finding[]> {
    if (!(await this.isGone('host', hostId, signal))) return [];
    return [await this.orphan(at, `host ${hostId} does not exist`, [], signal)];
  }

  private async note(row: ReferenceRow, id: string, at: string, signal?: AbortSignal): Promise<Finding[]> {
    let holderId = nodeName(at);
    if (row.exclusive) {
      const node = await this.store.get(at, { signal });
      if (node === undefined) return [];
      const value = decodeIfValid(holderSchema, node, at);
      if (value === undefined) return [await this.orphan(at, 'not readable', [], signal)];
      holderId = value.id;
    }
    const holder = await this.read(row.kind, holderId, signal);
    if (holder !== undefined && (holder.object === undefined || names(row, holder.object, id))) return [];
    const detail =
      holder === undefined ? `${row.kind} ${holderId} does not exist` : `${row.kind} ${holderId} does not name it`;
    return [await this.orphan(at, detail, this.unchanged(row.kind, holderId, holder), signal)];
  }

  private async uniqueNote(name: string, at: string, signal?: AbortSignal): Promise<Finding[]> {
    const node = await this.store.get(at, { signal });
    if (node === undefined) return [];
    const kind = KINDS.find((one) => name.startsWith(`${one}.`));
    const value = decodeIfValid(holderSchema, node, at);
    if (value === undefined) return [await this.orphan(at, 'not readable', [], signal)];
    const { id } = value;
    const holder = kind && (await this.read(kind, id, signal));
    if (kind !== undefined && holder !== undefined) {
      if (holder.object === undefined || indexEntries(kind, holder.object).some(({ path }) => path === at)) return [];
    }
    const checks = kind === undefined ? [] : this.unchanged(kind, id, holder);
    return [await this.orphan(at, `${kind ?? 'object'} ${id} does not have this value`, checks, signal)];
  }

  private async linkNote(at: string, signal?: AbortSignal): Promise<Finding[]> {
    const portId = nodeName(at);
    const port = await this.read('port', portId, signal);
    if (port !== undefined) {
      if (port.object === undefined || indexEntries('port', port.object).some(({ path }) => path === at)) return [];
    }
    const detail = `port ${portId} ${port === undefined ? 'does not exist' : 'is not linked there'}`;
    return [await this.orphan(at, detail, this.unchanged('port', portId, port), signal)];
  }

  /** An entry that was set by hand may name any port of the bridge; learned ones vanish with who learned them. */
  private async macNote(bridgeId: string, at: string, signal?: AbortSignal): Promise<Finding[]> {
    const node = await this.store.get(at, { signal });
    if (node === undefined || node.stat.ephemeralOwner !== undefined) return [];
    const value = decodeIfValid(MAC_TABLE.value, node, at);
    if (value === undefined) return [await this.orphan(at, 'not readable', [], signal)];
    const { portId } = value;
    const port = await this.read('port', portId, signal);
    if (port !== undefined && (port.object === undefined || port.object.bridgeId === bridgeId)) return [];
    const detail = `port ${portId} ${port === undefined ? 'does not exist' : 'is not of this bridge'}`;
    return [await this.orphan(at, detail, this.unchanged('port', portId, port), signal)];
  }

  private async orphan(
    path: string,
    detail: string,
    checks: readonly StoreOperation[],
    signal?: AbortSignal,
  ): Promise<Finding> {
    const version = (await this.store.exists(path, { signal }))?.version;
    const below = await walk(this.store, path, signal);
    const repair: StoreOperation[] = [
      ...checks,
      ...below.map((at) => ({ type: 'delete', path: at }) as const),
      { type: 'delete', path, version },
    ];
    return { kind: 'orphaned-entry', path, detail, repair };
  }

  private unchanged(kind: Kind, id: string, holder: { readonly version: number } | undefined): StoreOperation[] {
    return holder === undefined ? [] : [{ type: 'check', path: objectPath(kind, id), version: holder.version }];
  }

  private async isGone(kind: Kind, id: string, signal?: AbortSignal): Promise<boolean> {
    return ((await this.store.exists(objectPath(kind, id), { signal }))?.dataLength ?? 0) === 0;
  }

  /** Undefined when there is none; without `object` when it cannot be read, which is told of itself. */
  private async read<K extends Kind>(
    kind: K,
    id: string,
    signal?: AbortSignal,
  ): Promise<{ object: TopologyTypes[K] | undefined; version: number } | undefined> {
    const path = objectPath(kind, id);
    const node = await this.store.get(path, { signal });
    if (node === undefined || node.data.length === 0) return undefined;
    const { version } = node.stat;
    try {
      return { object: decodeObject(kind, node.data, path, this.migrations), version };
    } catch {
      return { object: undefined, version };
    }
  }
}

function decodeIfValid<S extends z.ZodType>(schema: S, node: StoreNode, path: string): z.output<S> | undefined {
  try {
    return decodeJson(schema, node.data, path);
  } catch (error) {
    if (!(error instanceof MidonetError && error.code === 'MN_INVALID_INPUT')) throw error;
    return undefined;
  }
}

function incompleteObject(path: string, folder: string, version: number): Finding {
  return {
    kind: 'incomplete-object',
    path,
    detail: `no folder ${nodeName(folder)}`,
    repair: [
      { type: 'check', path, version },
      { type: 'create', path: folder, data: EMPTY },
    ],
  };
}

function names(row: ReferenceRow, object: TopologyTypes[Kind] | undefined, id: string): boolean {
  return object !== undefined && refersTo(row, object, id);
}
