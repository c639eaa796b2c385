import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { InvalidInputError, MidonetError } from '../errors.js';
import {
  type Host,
  type Kind,
  type Port,
  SCHEMAS,
  type TopologyTypes,
  tunnelZoneMemberSchema,
} from '../topology/types.js';
import { validate } from '../topology/validate.js';
import { decodeJson, encodeJson } from './json.js';
import {
  bridgeAddressPoolPath,
  bridgeHostPath,
  bridgePortPath,
  hostAlivePath,
  hostLeasesPath,
  hostPortPath,
  hostPortsPath,
  ipPath,
  macPath,
  OBJECT_FOLDERS,
  objectPath,
  ROOT_FOLDERS,
  tunnelZoneMemberPath,
} from './layout.js';
import { releaseHostLeases, releaseNatBlocks } from './leases.js';
import { joinPath, parentPath } from './path.js';
import {
  NodeError,
  NodeExistsError,
  NodeNotEmptyError,
  NodeNotFoundError,
  type Store,
  type StoreNode,
  type StoreOperation,
  VersionConflictError,
  type Watch,
} from './store.js';

const EMPTY = new Uint8Array();

/** Which port a MAC address of a bridge is behind. */
export const macEntrySchema = z.strictObject({ portId: z.uuid() });
export type MacEntry = z.output<typeof macEntrySchema>;

/** The MAC address of an IP address of a bridge. */
export const ipEntrySchema = z.strictObject({ mac: z.string() });
export type IpEntry = z.output<typeof ipEntrySchema>;

/** A host that has exterior ports on a bridge, and the tunnel key under which it takes a flooded packet. */
export const bridgeHostSchema = z.strictObject({ floodKey: z.int().positive() });
export type BridgeHost = z.output<typeof bridgeHostSchema>;

/** An object as read, with the version that {@link TopologyRepository.update} takes. */
export interface Versioned<T> {
  readonly object: T;
  readonly version: number;
}

/** An object that is referred to, or asked for, does not exist. */
export class ObjectNotFoundError extends MidonetError {
  constructor(
    readonly kind: Kind,
    readonly id: string,
    readonly field?: string,
  ) {
    super('MN_NOT_FOUND', field === undefined ? `no ${kind} ${id}` : `${field}: no ${kind} ${id}`);
  }
}

/** The object, or a value that must be unique, exists already. */
export class ObjectExistsError extends MidonetError {
  constructor(
    readonly field: string,
    value: string,
  ) {
    super('MN_ALREADY_EXISTS', `${field}: ${value} exists already`);
  }
}

/** The object cannot be deleted while it is in use. */
export class ObjectInUseError extends MidonetError {
  constructor(kind: Kind, id: string, reason: string) {
    super('MN_REFERENCED', `${kind} ${id}: ${reason}`);
  }
}

/**
 * Typed topology objects in the NSDB. An object and the index entries that follow from it (a bridge's ports, its MAC and
 * IP tables, a host's bindings) change in one multi, so no reader ever sees one without the other.
 */
export class TopologyRepository {
  constructor(readonly store: Store) {}

  /** Make the top folders of an empty NSDB. Any number of processes may do so at once. */
  async initialize(signal?: AbortSignal): Promise<void> {
    for (const folder of ROOT_FOLDERS) await this.store.ensure(folder, { signal });
  }

  async get<K extends Kind>(
    kind: K,
    id: string,
    signal?: AbortSignal,
  ): Promise<Versioned<TopologyTypes[K]> | undefined> {
    const path = objectPath(kind, id);
    const node = await this.store.get(path, { signal });
    return node && { object: decodeObject(kind, node, path), version: node.stat.version };
  }

  /** Identifiers of all objects of a kind that is not sharded. */
  async list(kind: Exclude<Kind, 'port'>, signal?: AbortSignal): Promise<string[]> {
    return (await this.store.children(parentPath(objectPath(kind, 'x'))!, { signal })) ?? [];
  }

  /** Identifiers of the ports bound to a host. */
  async portsOfHost(hostId: string, signal?: AbortSignal): Promise<string[]> {
    return (await this.store.children(hostPortsPath(hostId), { signal })) ?? [];
  }

  /**
   * @throws InvalidInputError, ObjectExistsError, ObjectNotFoundError naming the field of a reference that leads nowhere
   */
  async create<K extends Kind>(
    kind: K,
    input: z.input<(typeof SCHEMAS)[K]>,
    signal?: AbortSignal,
  ): Promise<TopologyTypes[K]> {
    const object = validateObject(kind, input);
    const path = objectPath(kind, object.id);
    const operations: StoreOperation[] = [{ type: 'create', path, data: encodeJson(object) }];
    for (const folder of OBJECT_FOLDERS[kind]) {
      operations.push({ type: 'create', path: joinPath(path, folder), data: EMPTY });
    }
    for (const entry of indexEntries(kind, object)) {
      operations.push({ type: 'create', path: entry.path, data: entry.data });
    }
    operations.push(...referenceChecks(kind, object));
    await this.commit(kind, object, operations, signal);
    return object;
  }

  /**
   * Replace an object that was read at `version`.
   * @throws VersionConflictError if it was changed since
   */
  async update<K extends Kind>(
    kind: K,
    input: z.input<(typeof SCHEMAS)[K]>,
    version: number,
    signal?: AbortSignal,
  ): Promise<TopologyTypes[K]> {
    const object = validateObject(kind, input);
    const before = await this.get(kind, object.id, signal);
    if (before === undefined) throw new ObjectNotFoundError(kind, object.id);
    const path = objectPath(kind, object.id);
    if (before.version !== version) throw new VersionConflictError(path);
    const operations: StoreOperation[] = [{ type: 'set', path, data: encodeJson(object), version }];
    const old = new Map(indexEntries(kind, before.object).map((entry) => [entry.path, entry]));
    for (const entry of indexEntries(kind, object)) {
      const existing = old.get(entry.path);
      old.delete(entry.path);
      if (existing === undefined) operations.push({ type: 'create', path: entry.path, data: entry.data });
      else if (Buffer.compare(existing.data, entry.data) !== 0) {
        operations.push({ type: 'set', path: entry.path, data: entry.data });
      }
    }
    for (const gone of old.values()) operations.push({ type: 'delete', path: gone.path });
    operations.push(...referenceChecks(kind, object));
    await this.commit(kind, object, operations, signal);
    return object;
  }

  /** Read, change, write; again while others change the object in between. `change` returns undefined to leave it. */
  async modify<K extends Kind>(
    kind: K,
    id: string,
    change: (object: TopologyTypes[K]) => TopologyTypes[K] | undefined,
    signal?: AbortSignal,
  ): Promise<void> {
    for (;;) {
      signal?.throwIfAborted();
      const current = await this.get(kind, id, signal);
      if (current === undefined) throw new ObjectNotFoundError(kind, id);
      const next = change(current.object);
      if (next === undefined) return;
      try {
        await this.update(kind, next as z.input<(typeof SCHEMAS)[K]>, current.version, signal);
        return;
      } catch (error) {
        if (!(error instanceof VersionConflictError)) throw error;
      }
    }
  }

  /**
   * Delete an object and what belongs to it: a bridge takes its ports and pools along, a host the ports that a front end
   * of it has made, its bindings, memberships and leases, a tunnel zone the memberships of its hosts. Succeeds
   * when there is no such object.
   * @throws ObjectInUseError for a host whose agent runs
   */
  delete(kind: Kind, id: string, signal?: AbortSignal): Promise<void> {
    return this.deleteIf(kind, id, () => true, signal);
  }

  /** The same, but only if the object as it is then satisfies the condition. */
  async deleteIf<K extends Kind>(
    kind: K,
    id: string,
    condition: (object: TopologyTypes[K]) => boolean,
    signal?: AbortSignal,
  ): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      const current = await this.get(kind, id, signal);
      if (current === undefined || !condition(current.object)) return;
      try {
        await this.deleteDependents(kind, current.object, signal);
        await this.deleteNodes(kind, current, signal);
        return;
      } catch (error) {
        // Somebody changed it or added to it meanwhile: look again.
        if (!(error instanceof VersionConflictError || error instanceof NodeNotEmptyError)) throw error;
      }
      await pause(attempt, signal);
    }
  }

  /** Delete an object's node, its folders and its index entries, those of them that there are. */
  private async deleteNodes<K extends Kind>(
    kind: K,
    { object, version }: Versioned<TopologyTypes[K]>,
    signal?: AbortSignal,
  ): Promise<void> {
    const path = objectPath(kind, object.id);
    const operations: StoreOperation[] = [];
    for (const entry of indexEntries(kind, object)) operations.push({ type: 'delete', path: entry.path });
    for (const folder of OBJECT_FOLDERS[kind]) operations.push({ type: 'delete', path: joinPath(path, folder) });
    operations.push({ type: 'delete', path, version });
    for (;;) {
      try {
        await this.store.multi(operations, { signal });
        return;
      } catch (error) {
        if (!(error instanceof NodeNotFoundError)) throw error;
        if (error.path === path) return;
        if (!removeDeletion(operations, error.path)) throw error;
      }
    }
  }

  /** Calls the listener with the object now and after every change; see Store.watchData. A value that is not valid is reported to `onInvalid` and otherwise ignored. */
  watch<K extends Kind>(
    kind: K,
    id: string,
    listener: (object: TopologyTypes[K] | undefined) => void,
    onInvalid: (error: Error) => void,
  ): Watch {
    return this.watchEntry(objectPath(kind, id), SCHEMAS[kind], listener as (value: unknown) => void, onInvalid);
  }

  /** The same for a table entry or other node of which the path and the schema are known. */
  watchEntry<S extends z.ZodType>(
    path: string,
    schema: S,
    listener: (value: z.output<S> | undefined) => void,
    onInvalid: (error: Error) => void,
  ): Watch {
    return this.store.watchData(path, (node) => {
      let value: z.output<S> | undefined;
      try {
        value = node && decodeJson(schema, node.data, path);
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
    const data = encodeJson(validate(tunnelZoneMemberSchema, { address }, 'tunnelZoneMember'));
    const path = tunnelZoneMemberPath(zoneId, hostId);
    await this.changeMembership(hostId, signal, async (host) => {
      const current = await this.store.get(path, { signal });
      const listed = host.tunnelZoneIds.includes(zoneId);
      if (listed && current !== undefined && Buffer.compare(current.data, data) === 0) return undefined;
      return {
        tunnelZoneIds: listed ? host.tunnelZoneIds : [...host.tunnelZoneIds, zoneId],
        member: current === undefined ? { type: 'create', path, data } : { type: 'set', path, data },
      };
    });
  }

  /** Succeeds when the host is no member. */
  async leaveTunnelZone(zoneId: string, hostId: string, signal?: AbortSignal): Promise<void> {
    const path = tunnelZoneMemberPath(zoneId, hostId);
    await this.changeMembership(hostId, signal, async (host) => {
      const listed = host.tunnelZoneIds.includes(zoneId);
      const there = (await this.store.exists(path, { signal })) !== undefined;
      if (!listed && !there) return undefined;
      return {
        tunnelZoneIds: host.tunnelZoneIds.filter((id) => id !== zoneId),
        member: there ? { type: 'delete', path } : undefined,
      };
    });
  }

  /** Change a host's list of zones and its entry in one of them together; again while others interfere. */
  private async changeMembership(
    hostId: string,
    signal: AbortSignal | undefined,
    change: (host: Host) => Promise<{ tunnelZoneIds: string[]; member: StoreOperation | undefined } | undefined>,
  ): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      const current = await this.get('host', hostId, signal);
      if (current === undefined) throw new ObjectNotFoundError('host', hostId);
      const { object: host, version } = current;
      const changes = await change(host);
      if (changes === undefined) return;
      const { tunnelZoneIds, member } = changes;
      const object: Host = { ...host, tunnelZoneIds };
      const operations: StoreOperation[] = [
        { type: 'set', path: objectPath('host', hostId), data: encodeJson(object), version },
        ...referenceChecks('host', object),
      ];
      if (member !== undefined) operations.push(member);
      try {
        await this.store.multi(operations, { signal });
        return;
      } catch (error) {
        const gone = error instanceof NodeNotFoundError && missingReference('host', object, error.path);
        if (gone) throw gone;
        if (!(error instanceof NodeError && INTERFERED.has(error.code))) throw error;
      }
      await pause(attempt, signal);
    }
  }

  /** Tell others that a host has exterior ports on a bridge (undefined: no longer). */
  async setBridgeHost(
    bridgeId: string,
    hostId: string,
    entry: BridgeHost | undefined,
    signal?: AbortSignal,
  ): Promise<void> {
    const path = bridgeHostPath(bridgeId, hostId);
    if (entry === undefined) return this.deleteIfThere(path, signal);
    try {
      await this.store.create(path, encodeJson(entry), { signal });
    } catch (error) {
      if (error instanceof NodeNotFoundError) throw new ObjectNotFoundError('bridge', bridgeId);
      if (!(error instanceof NodeExistsError)) throw error;
      await this.store.set(path, encodeJson(entry), undefined, { signal });
    }
  }

  private async deleteIfThere(path: string, signal: AbortSignal | undefined): Promise<void> {
    try {
      await this.store.delete(path, undefined, { signal });
    } catch (error) {
      if (!(error instanceof NodeNotFoundError)) throw error;
    }
  }

  /**
   * Carry out the operations on `object`: make the shard folders that are missing, replace learned table entries by
   * seeded ones, and say which field is at fault when it fails.
   */
  private async commit(kind: Kind, object: TopologyTypes[Kind], operations: StoreOperation[], signal?: AbortSignal) {
    for (;;) {
      try {
        await this.store.multi(operations, { signal });
        return;
      } catch (error) {
        if (error instanceof NodeNotFoundError) {
          if (error.path === objectPath(kind, object.id)) throw new ObjectNotFoundError(kind, object.id);
          const reference = missingReference(kind, object, error.path);
          if (reference !== undefined) throw reference;
          if (!removeDeletion(operations, error.path)) await this.makeFolder(kind, object, error.path, signal);
        } else if (error instanceof NodeExistsError) {
          if (!(await this.removeLearned(error.path, signal))) throw existsError(kind, object, error.path);
        } else {
          throw error;
        }
      }
    }
  }

  /** Make the missing folder `path`, or say which reference of the object leads nowhere. */
  private async makeFolder(kind: Kind, object: TopologyTypes[Kind], path: string, signal?: AbortSignal): Promise<void> {
    try {
      await this.store.create(path, EMPTY, { signal });
    } catch (error) {
      if (error instanceof NodeExistsError) return;
      if (!(error instanceof NodeNotFoundError)) throw error;
      // Making the parents, too, would bring back a part of an object that is deleted just now.
      const reference = references(kind, object).find((one) => path.startsWith(`${objectPath(one.kind, one.id)}/`));
      if (reference === undefined) await this.store.ensure(path, { signal });
      else throw new ObjectNotFoundError(reference.kind, reference.id, `${kind}.${reference.field}`);
    }
  }

  /**
   * Make the shard folder of an entry of a bridge's MAC or IP table.
   * @throws NodeNotFoundError if there is no such bridge
   */
  async ensureTableFolder(entryPath: string, signal?: AbortSignal): Promise<void> {
    try {
      await this.store.create(parentPath(entryPath)!, EMPTY, { signal });
    } catch (error) {
      if (!(error instanceof NodeExistsError)) throw error;
    }
  }

  /** Delete the table entry at `path` if it was learned: what the topology says takes its place. */
  private async removeLearned(path: string, signal?: AbortSignal): Promise<boolean> {
    const stat = await this.store.exists(path, { signal });
    if (stat === undefined) return true;
    if (stat.ephemeralOwner === undefined) return false;
    await this.deleteIfThere(path, signal);
    return true;
  }

  private async deleteDependents(kind: Kind, object: TopologyTypes[Kind], signal?: AbortSignal): Promise<void> {
    const path = objectPath(kind, object.id);
    if (kind === 'bridge') {
      for await (const portId of this.sharded(`${path}/ports`, signal)) {
        await this.deleteIf('port', portId, ({ bridgeId }) => bridgeId === object.id, signal);
        await this.deleteIfThere(bridgePortPath(object.id, portId), signal);
      }
      for (const poolId of await this.childrenOf(`${path}/address-pools`, signal)) {
        await this.delete('address-pool', poolId, signal);
        await this.deleteIfThere(bridgeAddressPoolPath(object.id, poolId), signal);
      }
      // What was added since they were listed must not lose its entry: the folder is not empty then.
      for (const shardName of await this.childrenOf(`${path}/ports`, signal)) {
        await this.deleteIfThere(`${path}/ports/${shardName}`, signal);
      }
      for (const table of ['hosts', 'macs', 'ips']) await this.empty(`${path}/${table}`, signal);
      await releaseNatBlocks(this.store, object.id, signal);
    } else if (kind === 'host') {
      if ((await this.store.exists(hostAlivePath(object.id), { signal })) !== undefined) {
        throw new ObjectInUseError(kind, object.id, 'its agent runs');
      }
      await this.releaseHost(object as Host, signal);
    } else if (kind === 'tunnel-zone') {
      for (const hostId of await this.list('host', signal)) {
        await unlessNotFound('host', hostId, this.leaveTunnelZone(object.id, hostId, signal));
      }
      await this.empty(`${path}/hosts`, signal);
    } else if (kind === 'address-pool') {
      for (const hostId of await this.list('host', signal)) {
        const leases = joinPath(hostLeasesPath(hostId), object.id);
        await this.empty(leases, signal);
        await this.deleteIfThere(leases, signal);
      }
      await this.empty(`${path}/blocks`, signal);
    }
  }

  private async releaseHost(host: Host, signal?: AbortSignal): Promise<void> {
    const isBoundHere = ({ binding }: Port) => binding?.hostId === host.id;
    for (const portId of await this.portsOfHost(host.id, signal)) {
      // Nobody else could delete it, and its addresses would never be free again.
      await this.deleteIf('port', portId, (port) => isBoundHere(port) && port.owner !== undefined, signal);
      const unbind = (port: Port) => (isBoundHere(port) ? { ...port, binding: undefined } : undefined);
      await unlessNotFound('port', portId, this.modify('port', portId, unbind, signal));
      await this.deleteIfThere(hostPortPath(host.id, portId), signal);
    }
    await releaseHostLeases(this.store, host.id, signal);
    for (const bridgeId of await this.list('bridge', signal)) {
      await this.deleteIfThere(bridgeHostPath(bridgeId, host.id), signal);
    }
    for (const zoneId of host.tunnelZoneIds) {
      await this.deleteIfThere(tunnelZoneMemberPath(zoneId, host.id), signal);
    }
  }

  private async childrenOf(path: string, signal?: AbortSignal): Promise<string[]> {
    return (await this.store.children(path, { signal })) ?? [];
  }

  /** Names in a sharded folder. */
  private async *sharded(path: string, signal?: AbortSignal): AsyncGenerator<string> {
    for (const shardName of await this.childrenOf(path, signal)) {
      yield* await this.childrenOf(`${path}/${shardName}`, signal);
    }
  }

  /** Delete everything below `path`. */
  private async empty(path: string, signal?: AbortSignal): Promise<void> {
    for (const name of await this.childrenOf(path, signal)) {
      await this.empty(`${path}/${name}`, signal);
      await this.deleteIfThere(`${path}/${name}`, signal);
    }
  }
}

const FIRST_PAUSE_MS = 5;
const LAST_PAUSE_MS = 1000;

/** Leave others time to finish what they are doing to the same nodes; longer each time. */
async function pause(attempt: number, signal: AbortSignal | undefined): Promise<void> {
  await delay(Math.min(FIRST_PAUSE_MS * 2 ** attempt, LAST_PAUSE_MS), undefined, { signal });
}

/** Take the deletion of a node out of the operations; tells whether there was one. */
function removeDeletion(operations: StoreOperation[], path: string): boolean {
  const index = operations.findIndex((operation) => operation.type === 'delete' && operation.path === path);
  if (index >= 0) operations.splice(index, 1);
  return index >= 0;
}

/** What a change of two nodes together fails with when somebody else changes one of them. */
const INTERFERED: ReadonlySet<string> = new Set(['MN_NOT_FOUND', 'MN_ALREADY_EXISTS', 'MN_CONFLICT']);

async function unlessNotFound(kind: Kind, id: string, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof ObjectNotFoundError && error.kind === kind && error.id === id)) throw error;
  }
}

interface IndexEntry {
  readonly path: string;
  readonly data: Uint8Array;
  /** The field it follows from. */
  readonly field: string;
  readonly value: string;
}

/** The index entries that follow from an object. */
function indexEntries(kind: Kind, object: TopologyTypes[Kind]): IndexEntry[] {
  if (kind === 'address-pool') {
    const pool = object as TopologyTypes['address-pool'];
    return [{ path: bridgeAddressPoolPath(pool.bridgeId, pool.id), data: EMPTY, field: 'id', value: pool.id }];
  }
  return kind === 'port' ? portIndexEntries(object as Port) : [];
}

function portIndexEntries(port: Port): IndexEntry[] {
  const entries: IndexEntry[] = [
    { path: bridgePortPath(port.bridgeId, port.id), data: EMPTY, field: 'id', value: port.id },
  ];
  if (port.binding !== undefined) {
    entries.push({ path: hostPortPath(port.binding.hostId, port.id), data: EMPTY, field: 'id', value: port.id });
  }
  if (port.mac === undefined) return entries;
  const macEntry: MacEntry = { portId: port.id };
  entries.push({
    path: macPath(port.bridgeId, port.mac),
    data: encodeJson(macEntry),
    field: 'mac',
    value: port.mac,
  });
  const ipEntry: IpEntry = { mac: port.mac };
  for (const address of port.addresses) {
    entries.push({
      path: ipPath(port.bridgeId, address),
      data: encodeJson(ipEntry),
      field: 'addresses',
      value: address,
    });
  }
  return entries;
}

interface Reference {
  readonly kind: Kind;
  readonly id: string;
  readonly field: string;
}

/** The references of an object to others that must exist. */
function references(kind: Kind, object: TopologyTypes[Kind]): Reference[] {
  if (kind === 'address-pool')
    return [{ kind: 'bridge', id: (object as TopologyTypes['address-pool']).bridgeId, field: 'bridgeId' }];
  if (kind === 'host') {
    const { tunnelZoneIds } = object as Host;
    return tunnelZoneIds.map((id, i) => ({ kind: 'tunnel-zone', id, field: `tunnelZoneIds[${i}]` }));
  }
  if (kind !== 'port') return [];
  const port = object as Port;
  const found: Reference[] = [{ kind: 'bridge', id: port.bridgeId, field: 'bridgeId' }];
  if (port.binding) found.push({ kind: 'host', id: port.binding.hostId, field: 'binding.hostId' });
  return found;
}

/** Parts of a multi that fail when a reference leads nowhere. */
function referenceChecks(kind: Kind, object: TopologyTypes[Kind]): StoreOperation[] {
  return references(kind, object).map((reference) => ({
    type: 'check',
    path: objectPath(reference.kind, reference.id),
  }));
}

/** What to say when there is no node `path`, if that is an object referred to. */
function missingReference(kind: Kind, object: TopologyTypes[Kind], path: string): ObjectNotFoundError | undefined {
  const reference = references(kind, object).find((one) => objectPath(one.kind, one.id) === path);
  return reference && new ObjectNotFoundError(reference.kind, reference.id, `${kind}.${reference.field}`);
}

function existsError(kind: Kind, object: TopologyTypes[Kind], path: string): ObjectExistsError {
  const entry = indexEntries(kind, object).find((candidate) => candidate.path === path);
  return entry === undefined
    ? new ObjectExistsError(`${kind}.id`, object.id)
    : new ObjectExistsError(`${kind}.${entry.field}`, entry.value);
}

function validateObject<K extends Kind>(kind: K, input: unknown): TopologyTypes[K] {
  const object = validate(SCHEMAS[kind], input, kind) as TopologyTypes[K];
  if (kind === 'port') {
    const port = object as Port;
    if (port.addresses.length > 0 && port.mac === undefined) {
      throw new InvalidInputError('port.mac', undefined, 'expected a MAC address, as the port has IP addresses');
    }
    checkDistinct('port.addresses', port.addresses);
  } else if (kind === 'host') {
    checkDistinct('host.tunnelZoneIds', (object as Host).tunnelZoneIds);
  }
  return object;
}

function checkDistinct(field: string, values: readonly string[]): void {
  const again = values.findIndex((value, i) => values.indexOf(value) < i);
  if (again >= 0) throw new InvalidInputError(`${field}[${again}]`, values[again], 'expected each value once');
}

function decodeObject<K extends Kind>(kind: K, node: StoreNode, path: string): TopologyTypes[K] {
  return decodeJson(SCHEMAS[kind], node.data, path) as TopologyTypes[K];
}
