import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { z } from 'zod';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { readAhead } from '../../nsdb/read-ahead.js';
import type { Versioned } from '../../nsdb/repository/change-set.js';
import type { Transaction } from '../../nsdb/repository/transaction.js';
import { NodeError, StoreUnavailableError } from '../../nsdb/store.js';
import { ObjectConflictError, ObjectExistsError, ObjectNotFoundError } from '../../nsdb/topology-errors.js';
import { type Kind, type Port, SCHEMAS, type TopologyTypes } from '../../topology/types.js';
import { validate } from '../../topology/validate.js';
import { faultyValue, fieldOf, inOperation } from '../requests/error-fields.js';
import { ifMatchNames } from '../requests/etag.js';
import { isRecord, mergePatch } from '../requests/merge-patch.js';
import { isId, parseId } from '../requests/object-query.js';
import { unmasked } from '../requests/secrets.js';
import { PreconditionFailedError, UnseenChangeError } from '../tenancy/request-errors.js';
import { readable, type Scope, stagedKey } from '../tenancy/tenancy.js';
import { checkOwner } from './port-owner.js';
import { type PlacedRule, positionFor, type RulePlace } from './rule-place.js';

/** One change that a client asks for. `ifMatch` is what the header If-Match has. */
export type Change =
  | {
      readonly op: 'create';
      readonly kind: Kind;
      /** What the object is called, unless the body says so; random when neither does. */
      readonly id?: string;
      readonly body: unknown;
      /** For a rule. */
      readonly place?: RulePlace;
    }
  | {
      /** Puts the object in the place of what there is, or makes it. */
      readonly op: 'replace';
      readonly kind: Kind;
      readonly id: string;
      readonly body: unknown;
      readonly ifMatch?: string;
      /** Only if there is none. */
      readonly onlyNew?: boolean;
      /** Also if it is a port that has an owner. */
      readonly force?: boolean;
    }
  | {
      readonly op: 'patch';
      readonly kind: Kind;
      readonly id: string;
      readonly body: unknown;
      readonly ifMatch?: string;
      readonly force?: boolean;
      /** Throws for an object that is to stay as it is. */
      readonly check?: (existing: TopologyTypes[Kind]) => void;
    }
  | {
      readonly op: 'delete';
      readonly kind: Kind;
      readonly id: string;
      readonly ifMatch?: string;
      readonly force?: boolean;
    };

/** What became of it. */
export interface Outcome {
  readonly kind: Kind;
  readonly id: string;
  /** `unchanged`: all was so before. */
  readonly result: 'created' | 'changed' | 'unchanged' | 'deleted';
  /** As it is now; undefined when it was deleted. */
  readonly stored: Versioned<TopologyTypes[Kind]> | undefined;
}

/** Fields that the network sets, which make no difference to whether an object is what a client asked for. */
const NOTED_FIELDS: Readonly<Partial<Record<Kind, readonly string[]>>> = {
  port: ['peerId', 'insertionIds', 'serviceInsertionIds'],
};

/** What one attempt to carry out changes knows. */
interface Attempt {
  readonly scope: Scope;
  readonly transaction: Transaction;
  readonly signal: AbortSignal;
  /** Objects as the changes so far leave them. */
  readonly staged: Map<string, TopologyTypes[Kind]>;
  /** Keys of the objects that the changes so far delete. */
  readonly deleted: Set<string>;
  /** By chain that was asked for: its rules in the store. */
  readonly rules: Map<string, readonly PlacedRule[]>;
}

type Staged = Omit<Outcome, 'stored'>;

/**
 * Carry out changes together or not at all. While others change the same objects it starts again with what they have left, so
 * none of theirs is lost.
 *
 * @param nameOf what a change is called in errors, such as `operations[3]`; undefined for one that is all of the request
 * @throws PreconditionFailedError, ForbiddenError, and as Transaction.commit, with fields as the body has them
 */
export async function carryOut(
  scope: Scope,
  changes: readonly Change[],
  nameOf: (index: number) => string | undefined,
  signal: AbortSignal,
): Promise<Outcome[]> {
  for (let attempt = 0; ; attempt++) {
    const done = await tryOnce(scope, changes, nameOf, signal);
    if (done !== undefined) return outcomes(scope, done);
    await pause(attempt, signal);
  }
}

/** Undefined when others came in between. */
async function tryOnce(
  scope: Scope,
  changes: readonly Change[],
  nameOf: (index: number) => string | undefined,
  signal: AbortSignal,
): Promise<Staged[] | undefined> {
  const transaction = scope.repository.transaction();
  const attempt: Attempt = { scope, transaction, signal, staged: new Map(), deleted: new Set(), rules: new Map() };
  if (changes.length > 1) await transaction.readAhead(named(changes), signal);
  const done: Staged[] = [];
  for (const [i, change] of changes.entries()) {
    try {
      done.push(await stage(attempt, change));
    } catch (error) {
      if (error instanceof ObjectConflictError) return undefined;
      throw inOperation(error, change.kind, nameOf(i));
    }
  }
  if (done.every(({ result }) => result === 'unchanged')) return done;
  try {
    await attempt.transaction.commit(signal);
    return done;
  } catch (error) {
    if (isInterference(error, done)) return undefined;
    const index = culprit(error, done, attempt);
    const named = index === undefined ? error : inOperation(error, changes[index].kind, nameOf(index));
    throw await scope.conceal(named);
  }
}

/** What the changes call the objects that they are about, where they do. */
function named(changes: readonly Change[]): { kind: Kind; id: string }[] {
  return changes.flatMap((change) => {
    const id = change.op === 'create' && isRecord(change.body) ? (change.body.id ?? change.id) : change.id;
    return isId(id) ? [{ kind: change.kind, id: id.toLowerCase() }] : [];
  });
}

function stage(attempt: Attempt, change: Change): Promise<Staged> {
  switch (change.op) {
    case 'create':
      return stageCreation(attempt, change);
    case 'replace':
      return stageReplacement(attempt, change);
    case 'patch':
      return stagePatch(attempt, change);
    case 'delete':
      return stageDeletion(attempt, change);
  }
}

async function stageCreation(attempt: Attempt, change: Change & { op: 'create' }): Promise<Staged> {
  const { kind, place } = change;
  const input = bodyOf(change);
  const id = input.id ?? change.id;
  const existing = id === undefined ? undefined : await load(attempt, kind, parseId(`${kind}.id`, id));
  if (existing === undefined) {
    return make(attempt, kind, { ...input, id: id ?? randomUUID() }, place);
  }
  const { scope, staged } = attempt;
  const isKnown = await scope.sees(kind, existing, staged);
  if (!isKnown || !isAsAskedFor(scope, kind, input, existing)) throw new ObjectExistsError(`${kind}.id`, existing.id);
  return { kind, id: existing.id, result: 'unchanged' };
}

async function stageReplacement(attempt: Attempt, change: Change & { op: 'replace' }): Promise<Staged> {
  const { kind, id, ifMatch } = change;
  const { scope, staged } = attempt;
  const input = { ...bodyOf(change), id };
  const existing = await loadIf(attempt, kind, id, ifMatch);
  if (existing !== undefined && !(await scope.sees(kind, existing, staged))) throw new ObjectNotFoundError(kind, id);
  if (existing !== undefined && change.onlyNew) throw new PreconditionFailedError(kind, id, 'there is one already');
  if (existing === undefined) return make(attempt, kind, input, undefined);
  const full = unmasked(kind, withKept(kind, input, existing), existing);
  const completed = scope.complete(kind, full, existing);
  return replace(attempt, change, existing, validated(kind, completed));
}

async function stagePatch(attempt: Attempt, change: Change & { op: 'patch' }): Promise<Staged> {
  const { kind, id, ifMatch } = change;
  const { scope, staged } = attempt;
  const patch = bodyOf(change);
  const existing = await loadIf(attempt, kind, id, ifMatch);
  if (existing === undefined || !(await scope.sees(kind, existing, staged))) throw new ObjectNotFoundError(kind, id);
  change.check?.(existing);
  const merged = mergePatch(existing, unmasked(kind, patch, existing));
  const patched = withoutStaleKey(merged, patch, existing);
  return replace(attempt, change, existing, validated(kind, patched));
}

async function stageDeletion(
  attempt: Attempt,
  { kind, id, ifMatch, force }: Change & { op: 'delete' },
): Promise<Staged> {
  const { scope, transaction, signal, staged, deleted } = attempt;
  const existing = await loadIf(attempt, kind, id, ifMatch);
  scope.requireWriter();
  // Of what the caller may not know of, and of what is not there, the same is told.
  if (existing === undefined || !(await scope.sees(kind, existing, staged))) return { kind, id, result: 'deleted' };
  await scope.checkChange(kind, existing, undefined, staged);
  if (!force) checkOwner(kind, existing, undefined);
  await transaction.delete(kind, id, signal);
  staged.delete(stagedKey(kind, id));
  deleted.add(stagedKey(kind, id));
  return { kind, id, result: 'deleted' };
}

async function make(
  attempt: Attempt,
  kind: Kind,
  input: Record<string, unknown>,
  place: RulePlace | undefined,
): Promise<Staged> {
  const { scope, transaction, staged, deleted } = attempt;
  // What went with the other would go with this one.
  if (deleted.has(stagedKey(kind, String(input.id)))) {
    throw new InvalidInputError(
      `${kind}.id`,
      input.id,
      'expected another id: to put an object in the place of one, replace it',
    );
  }
  const filled = { ...(await defaultsOf(attempt, kind, input, place)), ...unmasked(kind, input, undefined) };
  const object = validated(kind, scope.complete(kind, filled, undefined));
  await scope.checkChange(kind, undefined, object, staged);
  await transaction.create(kind, asInput(kind, object));
  staged.set(stagedKey(kind, object.id), object);
  return { kind, id: object.id, result: 'created' };
}

async function replace<K extends Kind>(
  attempt: Attempt,
  { kind, force }: { readonly kind: K; readonly force?: boolean },
  before: TopologyTypes[K],
  after: TopologyTypes[K],
): Promise<Staged> {
  const { scope, transaction, signal, staged } = attempt;
  const { id } = before;
  if (after.id !== id) throw new InvalidInputError(`${kind}.id`, after.id, `expected ${id}, as in the path`);
  await scope.checkChange(kind, before, after, staged);
  if (!force) checkOwner(kind, before, after);
  if (isDeepStrictEqual(before, after)) return { kind, id, result: 'unchanged' };
  await transaction.update(kind, asInput(kind, after), signal);
  staged.set(stagedKey(kind, id), after);
  return { kind, id, result: 'changed' };
}

/** The object as the changes so far leave it. It must be so when they are carried out. */
function load<K extends Kind>(
  attempt: Attempt,
  kind: K,
  id: string,
  modified?: number,
): Promise<TopologyTypes[K] | undefined> {
  return readable(kind, id, attempt.transaction.get(kind, id, attempt.signal, modified));
}

/**
 * The same, in the version that it must have in the store, if the change is for one.
 * @throws PreconditionFailedError unless `ifMatch` names the version of an object that the caller may know of
 */
async function loadIf<K extends Kind>(
  attempt: Attempt,
  kind: K,
  id: string,
  ifMatch: string | undefined,
): Promise<TopologyTypes[K] | undefined> {
  if (ifMatch === undefined) return load(attempt, kind, id);
  const found = await attempt.scope.find(kind, id);
  if (!ifMatchNames(ifMatch, found?.modified)) throw new PreconditionFailedError(kind, id, isChanged(found));
  return load(attempt, kind, id, found?.modified);
}

/** Why a version is not the one that was asked for. */
export function isChanged(found: unknown): string {
  return found === undefined ? 'there is none' : 'it was changed since that version';
}

/** @throws InvalidInputError unless the body is an object whose id, if it has one, is that of the change */
function bodyOf({ kind, body, id }: { kind: Kind; body: unknown; id?: string }): Record<string, unknown> {
  if (!isRecord(body)) throw new InvalidInputError(kind, body ?? null, 'expected a JSON object');
  if (body.id === undefined) return body;
  const own = parseId(`${kind}.id`, body.id);
  if (id !== undefined && own !== id) throw new InvalidInputError(`${kind}.id`, body.id, `expected ${id}`);
  return { ...body, id: own };
}

/** What a new object has where the client says nothing. */
async function defaultsOf(
  attempt: Attempt,
  kind: Kind,
  input: Record<string, unknown>,
  place: RulePlace | undefined,
): Promise<Record<string, unknown>> {
  if (kind === 'trace-request') return { createdAt: Date.now() };
  if (kind !== 'rule' || input.position !== undefined || typeof input.chainId !== 'string') return {};
  const { scope, staged } = attempt;
  const chainId = parseId('rule.chainId', input.chainId);
  if (!staged.has(stagedKey('chain', chainId)) && (await scope.find('chain', chainId)) === undefined) {
    throw new ObjectNotFoundError('chain', chainId, 'rule.chainId');
  }
  const stored = await storedRules(attempt, chainId);
  const added = [...staged.values()].filter((object) => 'chainId' in object && 'position' in object);
  const here = new Map(stored.map((rule) => [rule.id, rule]));
  for (const rule of added) if (rule.chainId === chainId) here.set(rule.id, rule);
  return { position: positionFor([...here.values()], place ?? {}) };
}

/** Read once, however many rules are added. */
async function storedRules({ scope, signal, rules }: Attempt, chainId: string): Promise<readonly PlacedRule[]> {
  const known = rules.get(chainId);
  if (known !== undefined) return known;
  const stored = await scope.repository.rulesOf(chainId, signal);
  rules.set(chainId, stored);
  return stored;
}

/** The input with what the network, and not a client, knows of an object that is there. */
function withKept(kind: Kind, input: Record<string, unknown>, existing: TopologyTypes[Kind]): Record<string, unknown> {
  const kept = Object.fromEntries((KEPT_FIELDS[kind] ?? []).map((field) => [field, valueAt(existing, field)]));
  const binding = kind === 'port' ? keptBinding(input.binding, (existing as Port).binding) : {};
  return { ...kept, ...input, ...binding };
}

/** Fields that a replacement leaves as they are when it does not have them. */
const KEPT_FIELDS: Readonly<Partial<Record<Kind, readonly string[]>>> = {
  rule: ['position'],
  'trace-request': ['createdAt'],
  'pool-member': ['status'],
};

/** The host's agent has put the tunnel key there; it stays good as long as the port is at the same place. */
function keptBinding(binding: unknown, existing: Port['binding']): { binding?: Record<string, unknown> } {
  if (existing?.tunnelKey === undefined || !isRecord(binding) || binding.tunnelKey !== undefined) return {};
  const isSame = isSameId(binding.hostId, existing.hostId) && binding.interfaceName === existing.interfaceName;
  return isSame ? { binding: { ...binding, tunnelKey: existing.tunnelKey } } : {};
}

function isSameId(text: unknown, id: string): boolean {
  return typeof text === 'string' && text.toLowerCase() === id;
}

/** A port that a patch moves leaves its tunnel key behind: another port has it at the place where it goes. */
function withoutStaleKey(patched: unknown, patch: Record<string, unknown>, before: TopologyTypes[Kind]): unknown {
  if (!isRecord(patched) || !isRecord(patched.binding) || !isRecord(patch.binding)) return patched;
  if (patch.binding.tunnelKey !== undefined) return patched;
  const { tunnelKey: _, ...binding } = patched.binding;
  return { ...patched, binding: { ...binding, ...keptBinding(binding, (before as Port).binding).binding } };
}

/** Whether an object that is there is what a client wants to make. */
function isAsAskedFor(
  scope: Scope,
  kind: Kind,
  input: Record<string, unknown>,
  existing: TopologyTypes[Kind],
): boolean {
  const { id } = existing;
  const full = unmasked(kind, withKept(kind, input, existing), existing);
  const asked = validated(kind, { ...scope.complete(kind, full, existing), id });
  const noted = (NOTED_FIELDS[kind] ?? []).filter((field) => !(field in asked));
  const there = Object.fromEntries(Object.entries(existing).filter(([field]) => !noted.includes(field)));
  return isDeepStrictEqual(there, asked);
}

function validated<K extends Kind>(kind: K, input: unknown): TopologyTypes[K] {
  return validate(SCHEMAS[kind], input, kind) as TopologyTypes[K];
}

/** What is valid is so when it is validated again. */
function asInput<K extends Kind>(_kind: K, object: TopologyTypes[K]): z.input<(typeof SCHEMAS)[K]> {
  return object as z.input<(typeof SCHEMAS)[K]>;
}

/** @throws UnseenChangeError */
async function outcomes(scope: Scope, done: readonly Staged[]): Promise<Outcome[]> {
  try {
    return await readAhead(done, undefined, async (one) => {
      const isGone = one.result === 'deleted' || done.some((other) => other.result === 'deleted' && isSame(one, other));
      const stored = isGone ? undefined : await scope.find(one.kind, one.id);
      return { ...one, stored };
    });
  } catch (error) {
    if (!(error instanceof StoreUnavailableError)) throw error;
    const [{ kind, id, result }] = done;
    throw new UnseenChangeError(done.length === 1 ? `${kind} ${id} is ${result}` : 'all of the batch is done', error);
  }
}

function isSame(one: Staged, other: Staged): boolean {
  return one.kind === other.kind && one.id === other.id;
}

/** Whether others have changed the same objects meanwhile, so that it is to be tried with what they have left. */
function isInterference(error: unknown, done: readonly Staged[]): boolean {
  if (error instanceof ObjectConflictError) return true;
  if (error instanceof NodeError) return ['MN_NOT_FOUND', 'MN_CONFLICT', 'MN_REFERENCED'].includes(error.code);
  // There was none when it was looked for.
  const isOwn = ({ kind, id, result }: Staged) =>
    error instanceof ObjectExistsError && result === 'created' && error.field === `${kind}.id` && error.value === id;
  return done.some(isOwn);
}

/** The change that a failed commit is about: of those that want the same, the last. */
function culprit(error: unknown, done: readonly Staged[], { staged }: Attempt): number | undefined {
  if (!(error instanceof MidonetError)) return undefined;
  const field = fieldOf(error);
  const value = faultyValue(error);
  if (field === undefined) return undefined;
  const index = done.findLastIndex(({ kind, id }) => {
    const object = staged.get(stagedKey(kind, id));
    return (
      object !== undefined &&
      field.startsWith(`${kind}.`) &&
      holds(valueAt(object, field.slice(kind.length + 1)), value)
    );
  });
  return index < 0 ? undefined : index;
}

function holds(field: unknown, value: unknown): boolean {
  return isDeepStrictEqual(field, value) || (Array.isArray(field) && field.includes(value));
}

/** The value of a field such as `tunnelZones[1].zoneId`. */
function valueAt(object: object, field: string): unknown {
  const names = field.replaceAll(/\[(\d+)\]/g, '.$1').split('.');
  return names.reduce<unknown>((at, name) => (at as Record<string, unknown> | undefined)?.[name], object);
}

const FIRST_PAUSE_MS = 2;
const LAST_PAUSE_MS = 500;

/** Longer each time and never the same, so that those who stand in each other's way get out of it. */
async function pause(attempt: number, signal: AbortSignal): Promise<void> {
  await delay(Math.min(FIRST_PAUSE_MS * 2 ** attempt, LAST_PAUSE_MS) * Math.random(), undefined, { signal });
}
