import type { z } from 'zod';
import { ClosedError, UnsupportedError } from '../../errors.js';
import { MIGRATIONS, type Migrations } from '../../topology/stored-form.js';
import type { Kind, SCHEMAS, TopologyTypes } from '../../topology/types.js';
import { readAhead } from '../read-ahead.js';
import { NodeNotEmptyError, type Store } from '../store.js';
import {
  ObjectConflictError,
  ObjectExistsError,
  ObjectNotFoundError,
  TransactionTooLargeError,
} from '../topology-errors.js';
import { ChangeSet, checkObject, type Staged } from './change-set.js';
import { commit, MAX_BYTES, MAX_OPERATIONS, type OnLeftOver, sizeOf, tidy } from './commit.js';
import { Deletion, isDeleted, removeRemains } from './deletion.js';
import { noteInsertions } from './insertions.js';

/**
 * Changes of several objects that happen together or not at all. Objects read in it are as the transaction left them, and
 * {@link commit} fails if somebody else has changed one of them meanwhile. Objects may name each other in any order.
 */
export class Transaction {
  private readonly changes: ChangeSet;
  private isOpen = true;

  constructor(
    private readonly store: Store,
    private readonly onLeftOver: OnLeftOver,
    migrations: Migrations = MIGRATIONS,
  ) {
    this.changes = new ChangeSet(store, migrations);
  }

  /**
   * The object, which must not be changed by others before the commit. That there is none is not checked again.
   * @param modified that the store must have, as in Versioned
   * @throws ObjectConflictError when it has another one
   */
  async get<K extends Kind>(
    kind: K,
    id: string,
    signal?: AbortSignal,
    modified?: number,
  ): Promise<TopologyTypes[K] | undefined> {
    const staged = await this.changes.load(kind, id, signal);
    expect(staged, modified);
    staged.isChecked = true;
    return staged.after as TopologyTypes[K] | undefined;
  }

  /**
   * Read objects that are going to be asked for, several at once. One that cannot be read makes no difference here: it is read
   * again, and the error told, when it is asked for.
   */
  async readAhead(objects: readonly { kind: Kind; id: string }[], signal?: AbortSignal): Promise<void> {
    await readAhead(objects, signal, async ({ kind, id }, signal) => {
      await this.changes.load(kind, id, signal).catch(() => undefined);
    });
  }

  /** @throws InvalidInputError, ObjectExistsError for one that was staged or read before */
  async create<K extends Kind>(kind: K, input: z.input<(typeof SCHEMAS)[K]>): Promise<TopologyTypes[K]> {
    const object = checkObject(kind, input);
    const known = this.changes.peek(kind, object.id);
    if (known?.after !== undefined) throw new ObjectExistsError(`${kind}.id`, object.id);
    if (known?.before === undefined) this.changes.create(kind, object);
    else this.changes.replace(known, object);
    return object;
  }

  /**
   * Replace an object.
   * @param modified as for {@link get}
   * @throws InvalidInputError, ObjectNotFoundError, ObjectConflictError
   */
  async update<K extends Kind>(
    kind: K,
    input: z.input<(typeof SCHEMAS)[K]>,
    signal?: AbortSignal,
    modified?: number,
  ): Promise<TopologyTypes[K]> {
    const object = checkObject(kind, input);
    const staged = await this.changes.load(kind, object.id, signal);
    if (staged.after === undefined) throw new ObjectNotFoundError(kind, object.id);
    expect(staged, modified);
    this.changes.replace(staged, object);
    return object;
  }

  /**
   * `change` is given the object as the transaction left it and returns undefined to leave it so.
   * @param modified as for {@link get}
   */
  async modify<K extends Kind>(
    kind: K,
    id: string,
    change: (object: TopologyTypes[K]) => z.input<(typeof SCHEMAS)[K]> | undefined,
    signal?: AbortSignal,
    modified?: number,
  ): Promise<void> {
    const object = await this.get(kind, id, signal, modified);
    if (object === undefined) throw new ObjectNotFoundError(kind, id);
    const next = change(object);
    if (next !== undefined) await this.update(kind, next, signal);
  }

  /**
   * What goes with it is worked out by {@link commit}. Succeeds when there is no such object.
   * @param modified as for {@link get}; then it must be there
   * @throws UnsupportedError for a host: its leases are released one by one, see TopologyRepository.delete
   */
  async delete(kind: Kind, id: string, signal?: AbortSignal, modified?: number): Promise<void> {
    if (kind === 'host')
      throw new UnsupportedError(
        'deleting a host in a transaction',
        'its leases are released one by one: delete it by itself',
      );
    const staged = await this.changes.load(kind, id, signal);
    expect(staged, modified);
    if (staged.after !== undefined) this.changes.remove(staged);
  }

  /**
   * @throws ObjectConflictError naming an object that somebody else has changed: start again with a new transaction
   * @throws ObjectNotFoundError, ObjectExistsError, ReferenceConflictError, ObjectReferencedError naming the field
   * @throws TransactionTooLargeError
   */
  async commit(signal?: AbortSignal): Promise<void> {
    if (!this.isOpen) throw new ClosedError('transaction');
    this.isOpen = false;
    await this.changes.joinPeers(signal);
    await noteInsertions(this.changes, signal);
    const deletion = await Deletion.plan(this.store, this.changes, signal);
    const planned = [...this.changes.writes(), ...deletion.operations()];
    const bytes = planned.reduce((sum, { operation }) => sum + sizeOf(operation), 0);
    if (planned.length > MAX_OPERATIONS || bytes > MAX_BYTES) {
      throw new TransactionTooLargeError(
        planned.length,
        bytes,
        `at most ${MAX_OPERATIONS} operations of ${MAX_BYTES} bytes`,
      );
    }
    try {
      await commit(this.store, planned, this.onLeftOver, signal);
    } catch (error) {
      const deleted = error instanceof NodeNotEmptyError ? deletion.objectAt(error.path) : undefined;
      throw deleted === undefined ? error : new ObjectConflictError(deleted.kind, deleted.id);
    }
    await tidy(removeRemains(this.store, [...this.changes.objects].filter(isDeleted), signal), this.onLeftOver);
  }
}

/** @throws ObjectConflictError unless what the store had was last changed then */
function expect({ kind, id, before }: Staged, modified: number | undefined): void {
  if (modified !== undefined && before?.modified !== modified) throw new ObjectConflictError(kind, id);
}
