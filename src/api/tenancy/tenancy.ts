import { isDeepStrictEqual } from 'node:util';
import { InvalidInputError, MidonetError } from '../../errors.js';
import type { Versioned } from '../../nsdb/repository/change-set.js';
import type { TopologyRepository } from '../../nsdb/repository/topology-repository.js';
import {
  ObjectInUseError,
  ObjectNotFoundError,
  ObjectReferencedError,
  ReferenceConflictError,
} from '../../nsdb/topology-errors.js';
import { referencesIn } from '../../topology/references.js';
import { type Kind, SCHEMAS, type TopologyTypes } from '../../topology/types.js';
import type { Caller } from './caller.js';
import { ForbiddenError, UnreadableObjectError } from './request-errors.js';

/**
 * Who may see and change what. An object is its tenant's, who is named in it or in what it goes with. An admin sees all; for
 * everybody else what is another tenant's, or nobody's, does not exist.
 */

/** Kinds that are about machines and the networks around them; nobody but an admin sees them. */
export const ADMIN_KINDS: ReadonlySet<Kind> = new Set<Kind>([
  'host',
  'host-group',
  'tunnel-zone',
  'vtep',
  'gateway-device',
  'remote-mac-entry',
  'rule-logger',
  'logging-resource',
]);

/** Fields that nobody but an admin sets: others leave them as they are. */
const ADMIN_FIELDS: Readonly<Partial<Record<Kind, readonly string[]>>> = {
  bridge: ['vni'],
  port: ['binding', 'owner', 'vtepId'],
  'qos-policy': ['shared'],
};

/** By kind: the fields that name what an object goes with; the first that is set counts. */
export const OWNERS: Readonly<Partial<Record<Kind, readonly { readonly field: string; readonly kind: Kind }[]>>> = {
  port: [
    { field: 'bridgeId', kind: 'bridge' },
    { field: 'routerId', kind: 'router' },
  ],
  route: [{ field: 'routerId', kind: 'router' }],
  'address-pool': [{ field: 'bridgeId', kind: 'bridge' }],
  rule: [{ field: 'chainId', kind: 'chain' }],
  pool: [{ field: 'loadBalancerId', kind: 'load-balancer' }],
  'pool-member': [{ field: 'poolId', kind: 'pool' }],
  vip: [{ field: 'poolId', kind: 'pool' }],
  'dhcp-subnet': [{ field: 'bridgeId', kind: 'bridge' }],
  'dhcp-v6-subnet': [{ field: 'bridgeId', kind: 'bridge' }],
  'bgp-network': [{ field: 'routerId', kind: 'router' }],
  'bgp-peer': [{ field: 'routerId', kind: 'router' }],
  mirror: [{ field: 'toPortId', kind: 'port' }],
  'l2-insertion': [{ field: 'portId', kind: 'port' }],
  'trace-request': [
    { field: 'bridgeId', kind: 'bridge' },
    { field: 'routerId', kind: 'router' },
    { field: 'portId', kind: 'port' },
  ],
};

/** Whether objects of the kind name their tenant themselves. */
export function hasTenant(kind: Kind): boolean {
  const schema = SCHEMAS[kind];
  return 'shape' in schema && 'tenantId' in schema.shape;
}

/** Finds an object that another names. */
export type Lookup = (kind: Kind, id: string) => Promise<TopologyTypes[Kind] | undefined>;

/** The tenant that the object belongs to; undefined when it is nobody's. */
export async function tenantOf(lookup: Lookup, kind: Kind, object: TopologyTypes[Kind]): Promise<string | undefined> {
  const fields = fieldsOf(object);
  if (typeof fields.tenantId === 'string') return fields.tenantId;
  const owner = OWNERS[kind]?.find(({ field }) => fields[field] !== undefined);
  if (owner === undefined) return undefined;
  const named = await lookup(owner.kind, fields[owner.field] as string);
  return named && tenantOf(lookup, owner.kind, named);
}

/** What decides who may know of an object, as far as it says that itself. */
export function sightOf(kind: Kind, object: TopologyTypes[Kind]): string {
  const fields = fieldsOf(object);
  const owner = OWNERS[kind]?.find(({ field }) => fields[field] !== undefined);
  return JSON.stringify([fields.tenantId, fields.shared, owner?.field, owner && fields[owner.field]]);
}

/** Whether the caller may know of the object. */
export async function maySee(
  caller: Caller,
  lookup: Lookup,
  kind: Kind,
  object: TopologyTypes[Kind],
): Promise<boolean> {
  if (caller.role === 'admin') return true;
  if (ADMIN_KINDS.has(kind) || caller.tenantId === undefined) return false;
  if (kind === 'qos-policy' && fieldsOf(object).shared === true) return true;
  return (await tenantOf(lookup, kind, object)) === caller.tenantId;
}

/** What is not in the store yet, but will be with the changes that are being checked. */
export type StagedObjects = ReadonlyMap<string, TopologyTypes[Kind]>;

export function stagedKey(kind: Kind, id: string): string {
  return `${kind} ${id}`;
}

/** What one caller may see and change, in one request. */
export class Scope {
  /** What objects go with, read once in a request. */
  private readonly owners = new Map<string, Promise<TopologyTypes[Kind] | undefined>>();

  constructor(
    readonly repository: TopologyRepository,
    readonly caller: Caller,
    private readonly signal: AbortSignal,
  ) {}

  get isAdmin(): boolean {
    return this.caller.role === 'admin';
  }

  /** @throws ForbiddenError for everybody else */
  requireAdmin(what: string): void {
    if (!this.isAdmin) throw new ForbiddenError(`${what}: only an admin may`);
  }

  /** @throws ForbiddenError for those who may only look */
  requireWriter(): void {
    if (this.caller.role === 'tenant-reader') throw new ForbiddenError('a tenant reader changes nothing');
  }

  /** The object as it is; undefined if there is none that the caller may know of. @throws UnreadableObjectError */
  async find<K extends Kind>(kind: K, id: string): Promise<Versioned<TopologyTypes[K]> | undefined> {
    if (!this.isAdmin && ADMIN_KINDS.has(kind)) return undefined;
    const found = await readable(kind, id, this.repository.get(kind, id, this.signal));
    return found !== undefined && (await this.sees(kind, found.object)) ? found : undefined;
  }

  /** @throws ObjectNotFoundError if there is none that the caller may know of */
  async require<K extends Kind>(kind: K, id: string): Promise<Versioned<TopologyTypes[K]>> {
    const found = await this.find(kind, id);
    if (found === undefined) throw new ObjectNotFoundError(kind, id);
    return found;
  }

  sees(kind: Kind, object: TopologyTypes[Kind], staged?: StagedObjects): Promise<boolean> {
    return maySee(this.caller, this.lookup(staged), kind, object);
  }

  /**
   * An object whose fields nobody but an admin may set are as they were, where `input` does not have them; with the tenant that
   * it belongs to.
   */
  complete(kind: Kind, input: Record<string, unknown>, before: TopologyTypes[Kind] | undefined): typeof input {
    const { tenantId } = before === undefined ? this.caller : fieldsOf(before);
    const kept = this.isAdmin || before === undefined ? {} : pick(fieldsOf(before), ADMIN_FIELDS[kind] ?? []);
    return { ...(hasTenant(kind) && tenantId !== undefined && { tenantId }), ...kept, ...input };
  }

  /**
   * @param before undefined for an object that is made
   * @param after undefined for one that is deleted
   * @throws ForbiddenError, InvalidInputError; ObjectNotFoundError naming a field that leads to what the caller may not know of
   */
  async checkChange(
    kind: Kind,
    before: TopologyTypes[Kind] | undefined,
    after: TopologyTypes[Kind] | undefined,
    staged: StagedObjects,
  ): Promise<void> {
    this.requireWriter();
    if (before !== undefined && after !== undefined) checkTenantStays(kind, before, after);
    if (this.isAdmin) return;
    if (ADMIN_KINDS.has(kind)) throw new ForbiddenError(`only an admin changes objects of kind ${kind}`);
    if (before !== undefined && !(await this.owns(kind, before, staged))) {
      throw new ForbiddenError(`${kind} ${before.id} belongs to another tenant`);
    }
    if (after === undefined) return;
    for (const field of ADMIN_FIELDS[kind] ?? []) {
      const [now, then] = [fieldsOf(after)[field], before === undefined ? undefined : fieldsOf(before)[field]];
      // A default is as good as nothing.
      if (!isDeepStrictEqual(now, then ?? (now === false ? false : undefined))) {
        throw new ForbiddenError('only an admin may set it', `${kind}.${field}`);
      }
    }
    await this.checkReferences(kind, before, after, staged);
    if (!(await this.owns(kind, after, staged))) {
      const field = hasTenant(kind) ? 'tenantId' : (OWNERS[kind]?.[0].field ?? 'id');
      throw new ForbiddenError('expected an object of your own tenant', `${kind}.${field}`);
    }
  }

  /** What may be told of an error: nothing of objects that the caller may not know of. */
  async conceal(error: unknown): Promise<unknown> {
    if (this.isAdmin || !(error instanceof MidonetError)) return error;
    if (error instanceof ObjectReferencedError) {
      const isKnown = await this.find(error.otherKind, error.otherId);
      return isKnown ? error : new ObjectInUseError(error.kind, error.id, 'cannot be deleted while it is in use');
    }
    if (error instanceof ReferenceConflictError && error.holderId !== undefined) {
      return new ReferenceConflictError(error.field, error.kind, error.id, undefined);
    }
    return error;
  }

  private async owns(kind: Kind, object: TopologyTypes[Kind], staged: StagedObjects): Promise<boolean> {
    return (await tenantOf(this.lookup(staged), kind, object)) === this.caller.tenantId;
  }

  private async checkReferences(
    kind: Kind,
    before: TopologyTypes[Kind] | undefined,
    after: TopologyTypes[Kind],
    staged: StagedObjects,
  ): Promise<void> {
    const old = before === undefined ? [] : referencesIn(kind, before);
    for (const { row, id, field } of referencesIn(kind, after)) {
      if (old.some((reference) => reference.row === row && reference.id === id)) continue;
      const named = await this.lookup(staged)(row.names, id);
      if (named !== undefined && (await this.sees(row.names, named, staged))) continue;
      throw new ObjectNotFoundError(row.names, id, `${kind}.${field}`);
    }
  }

  private lookup(staged: StagedObjects | undefined): Lookup {
    return (kind, id) => {
      const key = stagedKey(kind, id);
      const isStaged = staged?.get(key);
      if (isStaged !== undefined) return Promise.resolve(isStaged);
      const known = this.owners.get(key) ?? this.read(kind, id);
      this.owners.set(key, known);
      return known;
    };
  }

  private async read(kind: Kind, id: string): Promise<TopologyTypes[Kind] | undefined> {
    return (await readable(kind, id, this.repository.get(kind, id, this.signal)))?.object;
  }
}

/** What the promise gives; of an object that this program cannot read no more is told than that. */
export async function readable<T>(kind: Kind, id: string, reading: Promise<T>): Promise<T> {
  try {
    return await reading;
  } catch (error) {
    const isUnreadable = error instanceof MidonetError && UNREADABLE.has(error.code);
    throw isUnreadable ? new UnreadableObjectError(kind, id, error) : error;
  }
}

const UNREADABLE: ReadonlySet<string> = new Set(['MN_INVALID_INPUT', 'MN_UNSUPPORTED']);

function checkTenantStays(kind: Kind, before: TopologyTypes[Kind], after: TopologyTypes[Kind]): void {
  const [was, is] = [fieldsOf(before).tenantId, fieldsOf(after).tenantId];
  if (was === is) return;
  const expected = was === undefined ? 'none' : JSON.stringify(was);
  throw new InvalidInputError(`${kind}.tenantId`, is, `expected ${expected}, as an object stays with its tenant`);
}

function fieldsOf(object: TopologyTypes[Kind]): Readonly<Record<string, unknown>> {
  return object as Readonly<Record<string, unknown>>;
}

function pick(fields: Readonly<Record<string, unknown>>, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(names.flatMap((name) => (fields[name] === undefined ? [] : [[name, fields[name]]])));
}
