import { COLLECTIONS, segmentOf } from '../../api/description/resources.js';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { idFromName } from '../../topology/id.js';
import { KINDS, type Kind } from '../../topology/types.js';
import { camel, type Field, fieldNamed, fieldsOf, hasName, hasTenant } from '../objects/fields.js';
import { kindNamed } from '../objects/kinds.js';
import { MEMBER_LISTS } from '../objects/member-lists.js';
import { isId, parentsOf } from '../objects/names.js';
import { isRecord } from '../objects/values.js';

/** A topology as a file says it: objects with fields, and below them those that are their parts. See docs/apply.md. */

/** An object of the file. */
export interface Entry {
  readonly kind: Kind;
  readonly id: string;
  /** Whether the file says the identifier; else it follows from tenant, kind and path. */
  readonly hasOwnId: boolean;
  readonly tenant: string | undefined;
  /** What it is a part of, if that is in the file, and the field that says so. */
  readonly parent: { readonly entry: Entry; readonly field: string } | undefined;
  /** What it is called, below what it is a part of: `edge/uplink`. */
  readonly path: string;
  readonly name: string | undefined;
  /** Its fields as they are written. */
  readonly written: ReadonlyMap<Field, unknown>;
  /** What belongs to it and is no object by itself; undefined if the file does not say. */
  readonly members: readonly unknown[] | undefined;
  /** The kinds of which the file lists the parts. */
  readonly lists: readonly Kind[];
}

/** The word in a file for the parts of an object: `poolMembers`. */
export function listWord(kind: Kind): string {
  return camel(segmentOf(kind));
}

/** The kinds of objects that may be listed below one of a kind. */
export function partsOf(kind: Kind): Kind[] {
  return KINDS.filter((part) => parentsOf(part).some((parent) => parent.kind === kind));
}

/** What tells parts without a name apart, beside their parent. Of rules it is all that they say. */
const KEYS: Readonly<Partial<Record<Kind, readonly string[]>>> = {
  route: ['destination', 'source'],
  'address-pool': ['cidr'],
  'pool-member': ['address', 'protocolPort'],
  vip: ['address', 'protocolPort'],
  'dhcp-subnet': ['cidr'],
  'dhcp-v6-subnet': ['prefix'],
  'bgp-network': ['cidr'],
  'bgp-peer': ['address'],
  'l2-insertion': ['servicePortId', 'vlanId'],
  'remote-mac-entry': ['mac'],
  'rule-logger': ['loggingResourceId', 'event'],
};

/**
 * The objects that the documents of a file speak of, those that others are a part of first.
 * @param tenant whose they are where the file does not say
 * @throws InvalidInputError, MidonetError naming the object and its field
 */
export function readEntries(documents: readonly unknown[], tenant: string | undefined): Entry[] {
  const drafts: Draft[] = [];
  for (const [i, document] of documents.flat().entries()) {
    const at = `document ${i + 1}`;
    if (!isRecord(document)) throw new InvalidInputError(at, document, 'expected fields such as kind and name');
    if (typeof document.kind !== 'string')
      throw new InvalidInputError(`${at}.kind`, document.kind, 'expected a kind of object');
    draft(kindNamed(document.kind, `${at}.kind`), document, undefined, tenant, at, drafts);
  }
  return new Reader(drafts).entries();
}

/** An object of which it is not known yet what it is a part of. */
interface Draft {
  readonly kind: Kind;
  readonly id: string | undefined;
  readonly name: string | undefined;
  readonly tenant: string | undefined;
  readonly parent: Draft | undefined;
  readonly written: ReadonlyMap<Field, unknown>;
  readonly members: readonly unknown[] | undefined;
  readonly lists: readonly Kind[];
  /** Names it in errors. */
  readonly at: string;
}

function draft(
  kind: Kind,
  record: Readonly<Record<string, unknown>>,
  parent: Draft | undefined,
  inherited: string | undefined,
  place: string,
  drafts: Draft[],
): void {
  const name = textAt(record, 'name', place);
  const at = name === undefined ? place : `${parent === undefined ? '' : `${parent.at}: `}${kind} ${name}`;
  const id = textAt(record, 'id', at);
  if (id !== undefined && !isId(id)) throw new InvalidInputError(`${at}.id`, id, 'expected a UUID');
  const tenant = textAt(record, 'tenant', at) ?? inherited;
  const written = new Map<Field, unknown>();
  const parts = new Map<Kind, readonly unknown[]>();
  let members: readonly unknown[] | undefined;
  for (const [key, value] of Object.entries(record)) {
    if (key === 'kind' || key === 'name' || key === 'id' || key === 'tenant') continue;
    const part = COLLECTIONS.get(segmentWritten(key));
    const field = fieldNamed(fieldsOf(kind), key);
    if (part !== undefined && field === undefined && partsOf(kind).includes(part)) {
      if (!Array.isArray(value))
        throw new InvalidInputError(`${at}.${key}`, value, `expected a list of ${segmentOf(part)}`);
      parts.set(part, value);
    } else if (MEMBER_LISTS[kind]?.word === key) {
      if (!Array.isArray(value)) throw new InvalidInputError(`${at}.${key}`, value, 'expected a list');
      members = value;
    } else if (field === undefined) {
      throw new InvalidInputError(`${at}.${key}`, value, `expected ${wordsOf(kind)}`);
    } else written.set(field, value);
  }
  if (name !== undefined && !hasName(kind))
    throw new InvalidInputError(`${at}.name`, name, `expected none for a ${kind}`);
  const one: Draft = { kind, id, name, tenant, parent, written, members, lists: [...parts.keys()], at };
  drafts.push(one);
  for (const [part, list] of parts) {
    for (const [i, element] of list.entries()) {
      const inner = `${at}: ${part} ${i + 1}`;
      if (!isRecord(element)) throw new InvalidInputError(inner, element, 'expected fields');
      draft(part, element, one, tenant, inner, drafts);
    }
  }
}

/** `dhcpV6Subnets` and `dhcp-v6-subnets` → `dhcp-v6-subnets`. */
function segmentWritten(key: string): string {
  return key.replaceAll(/(?<=[a-z0-9])[A-Z]/g, (letter) => `-${letter}`).toLowerCase();
}

function wordsOf(kind: Kind): string {
  const lists = [
    ...partsOf(kind).map(listWord),
    ...(MEMBER_LISTS[kind] === undefined ? [] : [MEMBER_LISTS[kind].word]),
  ];
  const fields = fieldsOf(kind).flatMap(({ name, word }) => (name === 'position' ? [] : [word]));
  return `one of ${[...fields, ...lists].join(', ')}`;
}

/** Finds out what is a part of what, and with that what each object is called and which identifier it has. */
class Reader {
  private readonly made = new Map<Draft, Entry>();
  private readonly taken = new Map<string, string>();

  constructor(private readonly drafts: readonly Draft[]) {}

  entries(): Entry[] {
    for (const one of this.drafts) this.entryOf(one, []);
    return [...this.made.values()];
  }

  private entryOf(one: Draft, waiting: readonly Draft[]): Entry {
    const made = this.made.get(one);
    if (made !== undefined) return made;
    if (waiting.includes(one))
      throw new MidonetError('MN_INVALID_INPUT', `${one.at}: expected not to be a part of itself`);
    const parent = this.parentOf(one, [...waiting, one]);
    if (one.kind === 'rule' && parent === undefined) {
      throw new MidonetError('MN_INVALID_INPUT', `${one.at}: expected below its chain, in its place among the rules`);
    }
    const own = one.name ?? one.id ?? keyOf(one);
    const path = parent === undefined ? own : `${parent.entry.path}/${own}`;
    const entry: Entry = {
      kind: one.kind,
      hasOwnId: one.id !== undefined,
      tenant: one.tenant,
      name: one.name,
      written: one.written,
      members: one.members,
      lists: one.lists,
      parent,
      ...this.identify(one, path),
    };
    this.made.set(one, entry);
    return entry;
  }

  /** The same rule may stand in a chain twice, and a route may lead to two gateways: the second has a number. */
  private identify(one: Draft, path: string): { id: string; path: string } {
    for (let count = 1; ; count++) {
      const numbered = count === 1 ? path : `${path}#${count}`;
      const id = one.id?.toLowerCase() ?? derivedId(one.kind, one.tenant, numbered);
      const other = this.taken.get(id);
      if (other === undefined) {
        this.taken.set(id, one.at);
        return { id, path: numbered };
      }
      if (one.id !== undefined || one.name !== undefined) {
        throw new MidonetError(
          'MN_INVALID_INPUT',
          `${one.at}: expected each ${one.kind} once, but ${other} is the same`,
        );
      }
    }
  }

  private parentOf(one: Draft, waiting: readonly Draft[]): Entry['parent'] {
    const owners = parentsOf(one.kind);
    if (one.parent !== undefined) {
      const { field } = owners.find(({ kind }) => kind === one.parent!.kind)!;
      return { entry: this.entryOf(one.parent, waiting), field };
    }
    for (const owner of owners) {
      const written = [...one.written].find(([{ name }]) => name === owner.field)?.[1];
      if (typeof written !== 'string') continue;
      const found = this.drafts.find(
        (other) => other.kind === owner.kind && other.tenant === one.tenant && isCalled(other, written),
      );
      if (found !== undefined) return { entry: this.entryOf(found, waiting), field: owner.field };
    }
    return undefined;
  }
}

function isCalled(one: Draft, text: string): boolean {
  return one.name === text || one.id === text;
}

function keyOf(one: Draft): string {
  const keys = KEYS[one.kind];
  if (one.kind !== 'rule' && keys === undefined) {
    throw new MidonetError('MN_INVALID_INPUT', `${one.at}: expected a name`);
  }
  const values = [...one.written].filter(([{ name }]) => keys === undefined || keys.includes(name));
  const sorted = values.map(([{ name }, value]) => [name, value] as const).sort(([a], [b]) => (a < b ? -1 : 1));
  if (keys !== undefined) return sorted.map(([, value]) => String(value)).join(' ');
  return canonical(Object.fromEntries(sorted));
}

/** JSON that does not depend on the order in which fields are written. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    isRecord(inner) ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))) : inner,
  );
}

/** The identifier of what has none in the file: applied again, the file means the same objects. */
export function derivedId(kind: Kind, tenant: string | undefined, path: string): string {
  return idFromName('apply', tenant ?? '', kind, path);
}

/** Whose an entry is, in the field of its own that says so. */
export function tenantField({ kind, tenant }: Entry): { tenantId?: string } {
  return tenant !== undefined && hasTenant(kind) ? { tenantId: tenant } : {};
}

function textAt(record: Readonly<Record<string, unknown>>, key: string, at: string): string | undefined {
  const value = record[key];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string' && typeof value !== 'number')
    throw new InvalidInputError(`${at}.${key}`, value, 'expected text');
  return String(value);
}
