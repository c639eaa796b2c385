import { setTimeout as delay } from 'node:timers/promises';
import * as z from 'zod';
import { InvalidInputError } from '../../errors.js';
import { positionSchema } from '../../topology/position.js';
import { REFERENCES, type ReferenceRow, refersTo } from '../../topology/references.js';
import { decodeObject, MIGRATIONS, type Migrations } from '../../topology/stored-form.js';
import {
  type Host,
  type Kind,
  type Rule,
  type SCHEMAS,
  type TopologyTypes,
  tunnelZoneMemberSchema,
} from '../../topology/types.js';
import { validate } from '../../topology/validate.js';
import { deleteIfThere } from '../delete-if.js';
import { decodeJson, encodeJson } from '../json.js';
import {
  bridgeHostPath,
  hostPortsPath,
  isReferenceSharded,
  isSharded,
  kindPath,
  objectPath,
  ROOT_FOLDERS,
  referenceFolder,
  referenceName,
  TENANTS,
  tenantOfFolder,
} from '../layout.js';
import { releaseHostLeases } from '../leases/leases.js';
import { joinPath, nodeName } from '../path.js';
import { readAhead } from '../read-ahead.js';
import {
  NodeError,
  NodeExistsError,
  NodeNotFoundError,
  type Store,
  type StoreNode,
  type TreeWatch,
  type Watch,
} from '../store.js';
import { ObjectConflictError, ObjectNotFoundError } from '../topology-errors.js';
import { ChangeSet, checkObject, type PlannedOperation, type Versioned } from './change-set.js';
import { commit, type OnLeftOver } from './commit.js';
import { Deletion, isDeleted, removeRemains } from './deletion.js';
import { holderSchema } from './index-entries.js';
import { noteInsertions } from './insertions.js';
import { type GroupKind, Members } from './members.js';
import { type Decode, type Page, type PageQuery, readPage } from './page.js';
import { Transaction } from './transaction.js';

export * from '../topology-errors.js';
export type { Versioned } from './change-set.js';
export * from './index-entries.js';
export { type Listed, MAX_PAGE_BYTES, type Page, type PageQuery } from './page.js';

/**
 * A host that has exterior ports on a bridge, and the tunnel keys under which it takes a flooded packet: for all of them, and
 * for those that are not isolated if some are.
 */
export const bridgeHostSchema = z.strictObject({
  floodKey: z.int().positive(),
  openFloodKey: z.int().positive().optional(),
});
export type BridgeHost = z.output<typeof bridgeHostSchema>;

/** What is read of a rule of which the rest cannot be. */
const placedSchema = z.object({ position: positionSchema });

/** A rule that this program cannot read, but for where it stands in its chain; undefined if that neither. */
export interface UnreadableRule {
  readonly id: string;
  readonly position: string | undefined;
  readonly error: Error;
}

/** What is told by TopologyRepository.watchKind. */
export interface KindListener<T> {
  /** @param modified as in Versioned: an object that is told again with another one was changed, or made anew */
  put(object: T, modified: number): void;
  delete(id: string): void;
  /** The object is there, but is not valid, or was written by a newer program. */
  invalid(id: string, error: Error): void;
  /** Everything that is there was told: for the first time, and after every reconnect. */
  current(): void;
  /** All that was heard of was told: every change up to `zxid`. See TreeOptions.onSettled. */
  settled?(zxid: number): void;
  /** The object was made and deleted before it could be read. See TreeOptions.onUnseen. */
  unseen?(id: string): void;
}

/**
 * Typed topology objects in the NSDB. An object and the index entries that follow from it (a bridge's ports, its MAC and
 * IP tables, a host's bindings) change in one multi, so no reader ever sees one without the other.
 */
export class TopologyRepository {
  constructor(
    readonly store: Store,
    private readonly onLeftOver: OnLeftOver = () => {},
    private readonly migrations: Migrations = MIGRATIONS,
  ) {}

  /** Make the top folders of an empty NSDB. Any number of processes may do so at once. */
  async initialize(signal?: AbortSignal): Promise<void> {
    const there = new Set(await this.childrenOf('/', signal));
    const missing = ROOT_FOLDERS.filter((folder) => !there.has(nodeName(folder)));
    await readAhead(missing, signal, (folder, signal) => this.store.ensure(folder, { signal }));
  }

  async get<K extends Kind>(
    kind: K,
    id: string,
    signal?: AbortSignal,
  ): Promise<Versioned<TopologyTypes[K]> | undefined> {
    const path = objectPath(kind, id);
    const node = await this.store.get(path, { signal });
    return node && { object: this.decode(kind, node, path), version: node.stat.version, modified: node.stat.mzxid };
  }

  /** Identifiers of all objects of a kind, in any order. */
  async list(kind: Kind, signal?: AbortSignal): Promise<string[]> {
    const names = await this.childrenOf(kindPath(kind), signal);
    if (!isSharded(kind)) return names;
    return this.inShards(kindPath(kind), names, signal);
  }

  /**
   * Objects of a kind, some at a time, in an order of their own that does not change: who asks with `next` until there is none is
   * given each object that was there all the time once, whatever comes and goes meanwhile. It costs what is on the page, and the
   * names in the shards that it reaches into. An index of names, of tenants and of references keeps it so with the conditions.
   * @param query.holderOf `field` as in the table of references, without `[]`
   */
  page<K extends Kind>(
    query: Omit<PageQuery<K>, 'holderOf'> & { readonly holderOf?: { readonly field: string; readonly id: string } },
  ): Promise<Page<TopologyTypes[K]>> {
    const { holderOf, ...rest } = query;
    const named = holderOf && { row: rowNamed(query.kind, holderOf.field), id: holderOf.id };
    const decode: Decode = (kind, node, path) => this.decode(kind, node, path);
    return readPage(this.store, decode, { ...rest, holderOf: named });
  }

  /** The tenants that have objects. */
  async tenants(signal?: AbortSignal): Promise<string[]> {
    const names = (await this.childrenOf(TENANTS, signal)).map(tenantOfFolder);
    return names.filter((name) => name !== undefined);
  }

  /** Identifiers of the ports bound to a host. */
  async portsOfHost(hostId: string, signal?: AbortSignal): Promise<string[]> {
    return this.childrenOf(hostPortsPath(hostId), signal);
  }

  /**
   * Identifiers of the objects of `kind` that name the object `id` in `field`, in any order.
   * @param field as in the table of references, without `[]`
   */
  async holders(kind: Kind, field: string, id: string, signal?: AbortSignal): Promise<string[]> {
    const row = rowNamed(kind, field);
    const folder = referenceFolder(row, id);
    if (row.exclusive) {
      const node = await this.store.get(folder, { signal });
      return node === undefined ? [] : [decodeJson(holderSchema, node.data, folder).id];
    }
    const names = await this.childrenOf(folder, signal);
    return isReferenceSharded(row) ? this.inShards(folder, names, signal) : names;
  }

  /** The rules of a chain, in order. */
  async rulesOf(chainId: string, signal?: AbortSignal): Promise<Rule[]> {
    const ids = await this.holders('rule', 'chainId', chainId, signal);
    const rules = await readAhead(ids, signal, (id, signal) => this.get('rule', id, signal));
    return rules.flatMap((rule) => (rule === undefined ? [] : [rule.object])).sort(byPosition);
  }

  /** What belongs to the object and is stored one by one. */
  members<K extends GroupKind>(kind: K, id: string): Members<K> {
    return new Members(this.store, kind, id);
  }

  /** Several changes that are to happen together. */
  transaction(): Transaction {
    return new Transaction(this.store, this.onLeftOver, this.migrations);
  }

  /**
   * @throws InvalidInputError, ObjectExistsError, ReferenceConflictError, ObjectNotFoundError naming the field of a
   * reference that leads nowhere
   */
  async create<K extends Kind>(
    kind: K,
    input: z.input<(typeof SCHEMAS)[K]>,
    signal?: AbortSignal,
  ): Promise<TopologyTypes[K]> {
    const object = checkObject(kind, input);
    for (;;) {
      const changes = new ChangeSet(this.store, this.migrations);
      changes.create(kind, object);
      await changes.joinPeers(signal);
      await noteInsertions(changes, signal);
      if (await this.commits(changes.writes(), signal)) return object;
    }
  }

  /**
   * Replace an object that was read at `version`.
   * @throws ObjectConflictError if it was changed since
   */
  async update<K extends Kind>(
    kind: K,
    input: z.input<(typeof SCHEMAS)[K]>,
    version: number,
    signal?: AbortSignal,
  ): Promise<TopologyTypes[K]> {
    const object = checkObject(kind, input);
    for (;;) {
      const changes = new ChangeSet(this.store, this.migrations);
      const staged = await changes.load(kind, object.id, signal);
      if (staged.before === undefined) throw new ObjectNotFoundError(kind, object.id);
      if (staged.before.version !== version) throw new ObjectConflictError(kind, object.id);
      changes.replace(staged, object);
      await changes.joinPeers(signal);
      await noteInsertions(changes, signal);
      if (await this.commits(changes.writes(), signal)) return object;
    }
  }

  /** Whether the operations were carried out: not when an object that they change is not as it was read. */
  private async commits(planned: readonly PlannedOperation[], signal?: AbortSignal): Promise<boolean> {
    try {
      await commit(this.store, planned, this.onLeftOver, signal);
      return true;
    } catch (error) {
      if (error instanceof ObjectConflictError) return false;
      throw error;
    }
  }

  /**
   * Read, change, write; again while others change the object in between. `change` is given it with its `modified`, as in Versioned,
   * and returns undefined to leave it.
   */
  async modify<K extends Kind>(
    kind: K,
    id: string,
    change: (object: TopologyTypes[K], modified: number) => TopologyTypes[K] | undefined,
    signal?: AbortSignal,
  ): Promise<void> {
    for (;;) {
      signal?.throwIfAborted();
      const changes = new ChangeSet(this.store, this.migrations);
      const staged = await changes.load(kind, id, signal);
      if (staged.before === undefined) throw new ObjectNotFoundError(kind, id);
      const next = change(staged.before.object as TopologyTypes[K], staged.before.modified);
      if (next === undefined) return;
      changes.replace(staged, checkObject(kind, next));
      await changes.joinPeers(signal);
      await noteInsertions(changes, signal);
      if (await this.commits(changes.writes(), signal)) return;
    }
  }

  /**
   * Delete an object and what goes with it by the table of references, its leases, learned entries and archived flow state
   * too. Succeeds when there is no such object.
   *
   * What fits in one request happens at once. More is deleted in parts, who names an object before it, so that at no time
   * a reference leads nowhere. After an error in between some of it is left: delete again to finish.
   *
   * @throws ObjectReferencedError, and ObjectInUseError for a host whose agent runs; nothing is deleted then
   */
  delete(kind: Kind, id: string, signal?: AbortSignal): Promise<void> {
    return this.deleteIf(kind, id, () => true, signal);
  }

  /** The same, but only if the object as it is then satisfies the condition, which is given it with its `modified`. */
  async deleteIf<K extends Kind>(
    kind: K,
    id: string,
    condition: (object: TopologyTypes[K], modified: number) => boolean,
    signal?: AbortSignal,
  ): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      const changes = new ChangeSet(this.store, this.migrations);
      const staged = await changes.load(kind, id, signal);
      if (staged.before === undefined || !condition(staged.before.object as TopologyTypes[K], staged.before.modified))
        return;
      changes.remove(staged);
      if (await this.deletes(changes, signal)) return;
      await pause(attempt, signal);
    }
  }

  /** Whether everything that goes with what is removed was deleted: not when others changed some of it meanwhile. */
  private async deletes(changes: ChangeSet, signal?: AbortSignal): Promise<boolean> {
    let isComplete = true;
    const unlessInterfered = async (work: Promise<unknown>) => {
      try {
        await work;
      } catch (error) {
        if (!isInterference(error)) throw error;
        isComplete = false;
      }
    };
    let deletion: Deletion | undefined;
    await unlessInterfered(
      Deletion.plan(this.store, changes, signal).then((planned) => {
        deletion = planned;
      }),
    );
    if (deletion === undefined) return false;
    const deleted = [...changes.objects].filter(isDeleted);
    await removeRemains(this.store, deleted, signal);
    for (const { kind, id } of deleted) if (kind === 'host') await releaseHostLeases(this.store, id, signal);
    for (const request of deletion.requests()) {
      await unlessInterfered(commit(this.store, request, this.onLeftOver, signal));
    }
    return isComplete;
  }

  /**
   * Calls the listener with the object now and after every change; see Store.watchData. A value that is not valid, or was
   * written by a newer program, is reported to `onInvalid` and otherwise ignored.
   */
  watch<K extends Kind>(
    kind: K,
    id: string,
    listener: (object: TopologyTypes[K] | undefined) => void,
    onInvalid: (error: Error) => void,
  ): Watch {
    const path = objectPath(kind, id);
    return this.watchDecoded(path, (node) => this.decode(kind, node, path), listener, onInvalid);
  }

  /**
   * Tells of every object of a kind, now and at every change, and of those that go. It is one watch however many there are, and
   * costs all of them to be read when it begins and after a reconnect, when only what differs is told.
   */
  watchKind<K extends Kind>(kind: K, listener: KindListener<TopologyTypes[K]>): TreeWatch {
    const folder = kindPath(kind);
    const depth = isSharded(kind) ? 2 : 1;
    const objectDepth = folder.split('/').length + depth;
    const follow = (path: string, node: StoreNode | undefined) => {
      if (path.split('/').length !== objectDepth) return;
      const id = nodeName(path);
      if (node === undefined) {
        listener.delete(id);
        return;
      }
      let object: TopologyTypes[K];
      try {
        object = this.decode(kind, node, path);
      } catch (error) {
        listener.invalid(id, error as Error);
        return;
      }
      listener.put(object, node.stat.mzxid);
    };
    return this.store.watchTree(folder, follow, {
      depth,
      onCurrent: () => listener.current(),
      onSettled: (zxid) => listener.settled?.(zxid),
      onUnseen: (path) => {
        if (path.split('/').length === objectDepth) listener.unseen?.(nodeName(path));
      },
    });
  }

  /**
   * Calls the listener with every object of `kind` that names the object `id` in `field`, now and after every change of it;
   * undefined when it is deleted, or names another. What is not valid is treated as by {@link watch}.
   * @param field as for {@link holders}; one that several objects may name `id` in
   * @param onCurrent called once, when everything that is there has been told
   */
  watchHolders<K extends Kind>(
    kind: K,
    field: string,
    id: string,
    listener: (holderId: string, object: TopologyTypes[K] | undefined) => void,
    onInvalid: (error: Error, holderId: string) => void,
    onCurrent: () => void,
  ): Watch {
    const row = rowNamed(kind, field);
    const folder = referenceFolder(row, id);
    const entryDepth = folder.split('/').length + (isReferenceSharded(row) ? 2 : 1);
    const watches = new Map<string, Watch>();
    let isToldCurrent = false;
    let isClosed = false;
    const follow = (path: string, node: StoreNode | undefined) => {
      if (path.split('/').length !== entryDepth) return;
      const holderId = nodeName(path);
      if (node === undefined) {
        watches.get(holderId)?.close();
        if (watches.delete(holderId)) listener(holderId, undefined);
      } else if (!watches.has(holderId)) {
        const tell = (object: TopologyTypes[K] | undefined) =>
          listener(holderId, object !== undefined && refersTo(row, object, id) ? object : undefined);
        const refuse = (error: Error) => onInvalid(error, holderId);
        watches.set(holderId, this.watch(kind, holderId, tell, refuse));
      }
    };
    const tree = this.store.watchTree(folder, follow, {
      onCurrent: () => {
        if (isToldCurrent) return;
        isToldCurrent = true;
        void Promise.all([...watches.values()].map(({ ready }) => ready)).then(() => isClosed || onCurrent());
      },
    });
    return {
      ready: tree.ready,
      close: () => {
        isClosed = true;
        tree.close();
        for (const watch of watches.values()) watch.close();
      },
    };
  }

  /**
   * Calls the listener with every rule of a chain, now and after every change of it; undefined when it is deleted, or moved to
   * another chain. It is one watch however many rules there are: the notes of the rules below the chain hold the rules themselves.
   * @param onUnreadable called instead with a rule that is not valid, or was written by a newer program
   * @param onCurrent called when everything that is there has been told, for the first time and after every re-reading
   */
  watchRules(
    chainId: string,
    listener: (ruleId: string, rule: Rule | undefined) => void,
    onUnreadable: (rule: UnreadableRule) => void,
    onCurrent: () => void,
  ): Watch {
    const folder = referenceFolder(rowNamed('rule', 'chainId'), chainId);
    const entryDepth = folder.split('/').length + 2;
    const follow = (path: string, node: StoreNode | undefined) => {
      if (path.split('/').length !== entryDepth) return;
      let rule: Rule | undefined;
      try {
        rule = node && this.decode('rule', node, path);
      } catch (error) {
        onUnreadable({ id: nodeName(path), position: positionIn(node!, path), error: error as Error });
        return;
      }
      listener(nodeName(path), rule);
    };
    return this.store.watchTree(folder, follow, { onCurrent });
  }

  /** Like {@link watch}, for a table entry or other node of which the path and the schema are known. */
  watchEntry<S extends z.ZodType>(
    path: string,
    schema: S,
    listener: (value: z.output<S> | undefined) => void,
    onInvalid: (error: Error) => void,
  ): Watch {
    return this.watchDecoded(path, (node) => decodeJson(schema, node.data, path), listener, onInvalid);
  }

  private watchDecoded<T>(
    path: string,
    decode: (node: StoreNode) => T,
    listener: (value: T | undefined) => void,
    onInvalid: (error: Error) => void,
  ): Watch {
    return this.store.watchData(path, (node) => {
      let value: T | undefined;
      try {
        value = node && decode(node);
      } catch (error) {
        onInvalid(error as Error);
        return;
      }
      listener(value);
    });
  }

  /**
   * Make the host a member of the zone at `address`, or change its address there.
   * @throws ObjectNotFoundError for the host or the zone
   */
  async joinTunnelZone(zoneId: string, hostId: string, address: string, signal?: AbortSignal): Promise<void> {
    const member = { zoneId, ...validate(tunnelZoneMemberSchema, { address }, 'tunnelZoneMember') };
    const join = (host: Host): Host | undefined => {
      const index = host.tunnelZones.findIndex((zone) => zone.zoneId === zoneId);
      if (index < 0) return { ...host, tunnelZones: [...host.tunnelZones, member] };
      return host.tunnelZones[index].address === member.address
        ? undefined
        : { ...host, tunnelZones: host.tunnelZones.with(index, member) };
    };
    await this.modify('host', hostId, join, signal);
  }

  /** Succeeds when the host is no member. */
  async leaveTunnelZone(zoneId: string, hostId: string, signal?: AbortSignal): Promise<void> {
    const leave = (host: Host): Host | undefined => {
      const tunnelZones = host.tunnelZones.filter((zone) => zone.zoneId !== zoneId);
      return tunnelZones.length === host.tunnelZones.length ? undefined : { ...host, tunnelZones };
    };
    await this.modify('host', hostId, leave, signal);
  }

  /** Tell others that a host has exterior ports on a bridge (undefined: no longer). */
  async setBridgeHost(
    bridgeId: string,
    hostId: string,
    entry: BridgeHost | undefined,
    signal?: AbortSignal,
  ): Promise<void> {
    const path = bridgeHostPath(bridgeId, hostId);
    if (entry === undefined) return deleteIfThere(this.store, path, signal);
    try {
      await this.store.create(path, encodeJson(entry), { signal });
    } catch (error) {
      if (error instanceof NodeNotFoundError) throw new ObjectNotFoundError('bridge', bridgeId);
      if (!(error instanceof NodeExistsError)) throw error;
      await this.store.set(path, encodeJson(entry), undefined, { signal });
    }
  }

  private decode<K extends Kind>(kind: K, node: StoreNode, path: string): TopologyTypes[K] {
    return decodeObject(kind, node.data, path, this.migrations);
  }

  private async childrenOf(path: string, signal?: AbortSignal): Promise<string[]> {
    return (await this.store.children(path, { signal })) ?? [];
  }

  private async inShards(folder: string, shards: readonly string[], signal?: AbortSignal): Promise<string[]> {
    const names = await readAhead(shards, signal, (name, signal) => this.childrenOf(joinPath(folder, name), signal));
    return names.flat();
  }
}

/** @throws InvalidInputError when the table of references has no such field */
function rowNamed(kind: Kind, field: string): ReferenceRow {
  const row = REFERENCES.find((one) => referenceName(one) === `${kind}.${field}`);
  if (row === undefined) throw new InvalidInputError('field', `${kind}.${field}`, 'expected one that names an object');
  return row;
}

function positionIn(node: StoreNode, path: string): string | undefined {
  try {
    return decodeJson(placedSchema, node.data, path).position;
  } catch {
    return undefined;
  }
}

function byPosition(a: Rule, b: Rule): number {
  const [left, right] = a.position === b.position ? [a.id, b.id] : [a.position, b.position];
  return left < right ? -1 : 1;
}

/** What a deletion fails with when others change at the same time what it is about. */
function isInterference(error: unknown): boolean {
  return error instanceof ObjectConflictError || (error instanceof NodeError && INTERFERED.has(error.code));
}

const INTERFERED: ReadonlySet<string> = new Set(['MN_NOT_FOUND', 'MN_CONFLICT', 'MN_REFERENCED']);

const FIRST_PAUSE_MS = 5;
const LAST_PAUSE_MS = 1000;

/** Leave others time to finish what they are doing to the same nodes; longer each time. */
async function pause(attempt: number, signal: AbortSignal | undefined): Promise<void> {
  await delay(Math.min(FIRST_PAUSE_MS * 2 ** attempt, LAST_PAUSE_MS), undefined, { signal });
}
