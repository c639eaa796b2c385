import { InvalidInputError } from '../../errors.js';
import { type Reference, referencesIn, withoutReference } from '../../topology/references.js';
import { decodeObject, encodeObject, type Migrations } from '../../topology/stored-form.js';
import { type Kind, SCHEMAS, type TopologyTypes } from '../../topology/types.js';
import { validate } from '../../topology/validate.js';
import { objectFolders, objectPath } from '../layout.js';
import { joinPath } from '../path.js';
import type { Store, StoreOperation } from '../store.js';
import { ObjectNotFoundError, ReferenceConflictError } from '../topology-errors.js';
import { type IndexEntry, indexEntries } from './index-entries.js';

const EMPTY = new Uint8Array();

/** An object as read. */
export interface Versioned<T> {
  readonly object: T;
  /** Of its node: how often the object was changed. */
  readonly version: number;
  /**
   * Zxid of its last change. Whatever is changed later, anywhere, has a greater one; so it also tells the object from one that
   * was made anew under its id.
   */
  readonly modified: number;
}

/** An object that a change is about. */
export interface Staged {
  readonly kind: Kind;
  readonly id: string;
  readonly path: string;
  /** As it is in the store; undefined when there is none. */
  readonly before: (Versioned<TopologyTypes[Kind]> & { readonly hasChildren: boolean }) | undefined;
  /** As it shall be; undefined for none. */
  after: TopologyTypes[Kind] | undefined;
  /** For one that is deleted: as it was when that was asked for. */
  last: TopologyTypes[Kind] | undefined;
  /** What is changed depends on it: the change fails when it is not as it was read. */
  isChecked: boolean;
}

/**
 * The order of operations in one request: entries go before others take their place, objects are made before entries below
 * them, and a node is deleted after what is below it.
 */
export const Phase = { unindex: 0, create: 1, write: 2, delete: 3 } as const;
export type Phase = (typeof Phase)[keyof typeof Phase];

/** An operation of the store, and what to make of its failure. */
export interface PlannedOperation {
  operation: StoreOperation;
  readonly phase: Phase;
  /** The object that it is about; undefined for a node that belongs to no object's stored form. */
  readonly of: Staged | undefined;
  readonly entry?: IndexEntry;
  /** For a check: the reference that leads to the node. */
  readonly reference?: Reference;
}

/** Objects that are to change together: what was read of them, and what they shall be. */
export class ChangeSet {
  private readonly staged = new Map<string, Staged>();

  constructor(
    private readonly store: Store,
    private readonly migrations: Migrations,
  ) {}

  get objects(): Iterable<Staged> {
    return this.staged.values();
  }

  /** The object, read unless it was before. */
  async load(kind: Kind, id: string, signal?: AbortSignal): Promise<Staged> {
    const path = objectPath(kind, id);
    const known = this.staged.get(path);
    if (known !== undefined) return known;
    const node = await this.store.get(path, { signal });
    const before = node && {
      object: decodeObject(kind, node.data, path, this.migrations),
      version: node.stat.version,
      modified: node.stat.mzxid,
      hasChildren: objectFolders(kind).length > 0 || node.stat.numChildren > 0,
    };
    // Somebody else may have asked for it meanwhile.
    const meanwhile = this.staged.get(path);
    if (meanwhile !== undefined) return meanwhile;
    const staged = { kind, id, path, before, after: before?.object, last: undefined, isChecked: false };
    this.staged.set(path, staged);
    return staged;
  }

  /** The object as it shall be, if it was loaded. */
  peek(kind: Kind, id: string): Staged | undefined {
    return this.staged.get(objectPath(kind, id));
  }

  /** An object that is new, whatever the store has under its name. */
  create(kind: Kind, object: TopologyTypes[Kind]): void {
    const path = objectPath(kind, object.id);
    this.staged.set(path, {
      kind,
      id: object.id,
      path,
      before: undefined,
      after: object,
      last: undefined,
      isChecked: false,
    });
  }

  /** Give the object another value. */
  replace(staged: Staged, object: TopologyTypes[Kind]): void {
    staged.after = object;
    staged.last = undefined;
  }

  remove(staged: Staged): void {
    staged.last = staged.after;
    staged.after = undefined;
  }

  /**
   * Make the objects that changed ones name in symmetric fields name them in turn, and those that they named before not. To
   * be called before what is staged is written.
   * @throws ObjectNotFoundError, ReferenceConflictError, InvalidInputError naming the field
   */
  async joinPeers(signal?: AbortSignal): Promise<void> {
    // Peers are staged meanwhile, and their turn comes.
    for (const staged of this.staged.values()) {
      if (staged.after !== undefined && staged.after !== staged.before?.object) await this.joinPeersOf(staged, signal);
    }
  }

  private async joinPeersOf(staged: Staged, signal?: AbortSignal): Promise<void> {
    const before = symmetricIn(staged.kind, staged.before?.object);
    const now = symmetricIn(staged.kind, staged.after);
    const isIn = ({ row, id }: Reference, list: readonly Reference[]) =>
      list.some((reference) => reference.row === row && reference.id === id);
    for (const reference of before) {
      if (isIn(reference, now)) continue;
      const { row, id } = reference;
      const peer = await this.load(row.names, id, signal);
      if (peer.after !== undefined) peer.after = withoutReference(row, peer.after, staged.id);
    }
    for (const reference of now) {
      if (isIn(reference, before)) continue;
      const { row, id, field } = reference;
      const peer = await this.load(row.names, id, signal);
      if (peer.after === undefined) throw new ObjectNotFoundError(row.names, id, `${staged.kind}.${field}`);
      const named = symmetricIn(row.names, peer.after).find((reference) => reference.row === row);
      if (named?.id === staged.id) continue;
      if (named !== undefined) {
        throw new ReferenceConflictError(`${staged.kind}.${field}`, row.names, id, named.id);
      }
      try {
        peer.after = checkObject(peer.kind, { ...peer.after, [row.field]: staged.id });
      } catch (error) {
        if (!(error instanceof InvalidInputError)) throw error;
        throw new InvalidInputError(
          `${staged.kind}.${field}`,
          id,
          `expected a ${row.names} to link (${error.message})`,
        );
      }
    }
  }

  /** What the store has to do for the objects that are not deleted. */
  writes(): PlannedOperation[] {
    const planned = [...this.staged.values()].flatMap((staged) => this.writesOf(staged));
    return [...planned, ...this.foldersBelowNew(planned)];
  }

  /** Folders of entries below objects that are made at the same time; others are made when the store misses them. */
  private foldersBelowNew(planned: readonly PlannedOperation[]): PlannedOperation[] {
    const made = new Set(planned.map(({ operation }) => operation.path));
    const folders: PlannedOperation[] = [];
    for (const { operation, entry, of } of planned) {
      const named = entry?.below && this.peek(entry.below.kind, entry.below.id);
      if (operation.type !== 'create' || named === undefined || named.before !== undefined) continue;
      for (const path of foldersBetween(named.path, operation.path)) {
        if (made.has(path)) continue;
        made.add(path);
        folders.push({ operation: { type: 'create', path, data: EMPTY }, phase: Phase.create, of });
      }
    }
    return folders;
  }

  /** Makes the node of an object, or changes it, with its index entries; or checks that it is as it was. */
  writesOf(staged: Staged): PlannedOperation[] {
    const { kind, path, before, after } = staged;
    if (after === undefined) return [];
    if (before === undefined) return this.creation(staged, after);
    if (after === before.object) {
      const operation = { type: 'check', path, version: before.version } as const;
      return staged.isChecked ? [{ operation, phase: Phase.write, of: staged }] : [];
    }
    const planned: PlannedOperation[] = [];
    const old = new Map(indexEntries(kind, before.object).map((entry) => [entry.path, entry]));
    const data = encodeObject(kind, after, this.migrations);
    planned.push({
      operation: { type: 'set', path, data, version: before.version },
      phase: Phase.write,
      of: staged,
    });
    for (const entry of indexEntries(kind, after)) {
      const existing = old.get(entry.path);
      old.delete(entry.path);
      if (existing === undefined) planned.push(...this.addition(staged, entry));
      else if (Buffer.compare(existing.data, entry.data) !== 0) {
        const operation = { type: 'set', path: entry.path, data: entry.data } as const;
        planned.push({ operation, phase: Phase.write, of: staged, entry });
      }
    }
    for (const entry of old.values()) planned.push(this.unindexing(staged, entry));
    return planned;
  }

  /** Deletes the index entries of an object. */
  unindexings(staged: Staged): PlannedOperation[] {
    const { kind, before } = staged;
    if (before === undefined) return [];
    return indexEntries(kind, before.object).map((entry) => this.unindexing(staged, entry));
  }

  private creation(staged: Staged, object: TopologyTypes[Kind]): PlannedOperation[] {
    const { kind, path } = staged;
    const make = (at: string, data: Uint8Array): PlannedOperation => ({
      operation: { type: 'create', path: at, data },
      phase: Phase.create,
      of: staged,
    });
    return [
      make(path, encodeObject(kind, object, this.migrations)),
      ...objectFolders(kind).map((folder) => make(joinPath(path, folder), EMPTY)),
      ...indexEntries(kind, object).flatMap((entry) => this.addition(staged, entry)),
    ];
  }

  private addition(staged: Staged, entry: IndexEntry): PlannedOperation[] {
    const { below, reference } = entry;
    const planned: PlannedOperation[] = [];
    const named = below && this.peek(below.kind, below.id);
    if (below !== undefined && named !== undefined && named.after === undefined) {
      throw new ObjectNotFoundError(below.kind, below.id, entry.field);
    }
    const isNew = named !== undefined && named.before === undefined;
    // Says which reference leads nowhere; the entry's missing folder alone would not.
    if (reference !== undefined && !isNew) {
      const operation = { type: 'check', path: objectPath(reference.row.names, reference.id) } as const;
      planned.push({ operation, phase: Phase.write, of: staged, entry, reference });
    }
    const operation = { type: 'create', path: entry.path, data: entry.data } as const;
    planned.push({ operation, phase: Phase.write, of: staged, entry });
    return planned;
  }

  private unindexing(staged: Staged, entry: IndexEntry): PlannedOperation {
    return { operation: { type: 'delete', path: entry.path }, phase: Phase.unindex, of: staged, entry };
  }
}

/** The value that an object of the kind has when it is made of `input`. @throws InvalidInputError */
export function checkObject<K extends Kind>(kind: K, input: unknown): TopologyTypes[K] {
  return validate(SCHEMAS[kind], input, kind) as TopologyTypes[K];
}

function symmetricIn(kind: Kind, object: TopologyTypes[Kind] | undefined): Reference[] {
  return object === undefined ? [] : referencesIn(kind, object).filter(({ row }) => row.symmetric);
}

/** Paths of the folders below `top` that lead to `path`, from the top down. */
export function foldersBetween(top: string, path: string): string[] {
  const names = path.slice(top.length + 1).split('/');
  return names.slice(0, -1).map((_, i) => `${top}/${names.slice(0, i + 1).join('/')}`);
}
