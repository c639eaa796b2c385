import type { MidonetClient } from '../../api/client/client.js';
import { readAhead } from '../../nsdb/read-ahead.js';
import { KINDS, type Kind } from '../../topology/types.js';
import { type Field, fieldsOf, hasTenant, type Shape } from '../objects/fields.js';
import { MEMBER_LISTS, membersOf } from '../objects/member-lists.js';
import { type AnyObject, type Names, parentsOf } from '../objects/names.js';
import { type ClientFlags, withClient } from '../objects/objects.js';
import { formatValue, isRange } from '../objects/values.js';
import type { Terminal } from '../terminal/terminal.js';
import { derivedId, listWord, partsOf } from './topology-file.js';

/** `midonet export`: the topology as a file that `midonet apply` takes. */

/** What the network itself finds out, or front ends make; it comes about anew where the file is applied. */
const LEFT_OUT: Readonly<Partial<Record<Kind, readonly string[]>>> = {
  port: ['insertionIds', 'serviceInsertionIds'],
  'pool-member': ['status'],
};

export interface ExportFlags extends ClientFlags {
  /** False to leave out which interfaces of which hosts ports are attached to. */
  readonly bindings?: boolean;
}

/** An object with its parts. */
interface Node {
  readonly kind: Kind;
  readonly object: AnyObject;
  readonly parts: Node[];
}

export async function exportTopology(flags: ExportFlags, terminal: Terminal): Promise<void> {
  const { formatYaml } = await import('./yaml.js');
  await withClient(flags, terminal, async (client, names) => {
    const { roots, owned } = await read(client, flags.tenant, terminal.signal);
    const writer = new Writer(client, names, roots, flags.bindings !== false, terminal.signal);
    const documents: Record<string, unknown>[] = [];
    for (const root of roots) documents.push({ kind: root.kind, ...(await writer.write(root)) });
    if (flags.json === true) terminal.print(JSON.stringify(documents, undefined, 2));
    else for (const document of documents) terminal.print(`---\n${formatYaml(document)}`);
    if (owned > 0) terminal.note(`left out: ${owned} ports that front ends such as CNI have made`);
    terminal.note('left out: hosts, which enter themselves');
    for (const note of writer.notes) terminal.note(note);
  });
}

/** What there is of a tenant, or all, each below what it is a part of. */
async function read(
  client: MidonetClient,
  tenant: string | undefined,
  signal: AbortSignal,
): Promise<{ roots: Node[]; owned: number }> {
  const nodes = new Map<string, Node>();
  let owned = 0;
  const take = async (kind: Kind, filter: Record<string, string>) => {
    for await (const one of client.collection(kind).list(filter, signal)) {
      const object = one as AnyObject;
      if (object.owner !== undefined) owned++;
      else nodes.set(object.id, { kind, object, parts: [] });
    }
  };
  const kinds = KINDS.filter((kind) => kind !== 'host');
  if (tenant === undefined) for (const kind of kinds) await take(kind, {});
  else {
    for (const kind of kinds.filter(hasTenant)) await take(kind, { tenantId: tenant });
    // Parts of parts come with the turn of what they are a part of.
    for (const kind of kinds) {
      for (const part of partsOf(kind)) {
        const { field } = parentsOf(part).find((parent) => parent.kind === kind)!;
        const holders = [...nodes.values()].filter((node) => node.kind === kind);
        await readAhead(holders, signal, ({ object }) => take(part, { [field]: object.id }));
      }
    }
  }
  const roots: Node[] = [];
  for (const node of nodes.values()) {
    const parent = parentsOf(node.kind)
      .map(({ field }) => nodes.get(node.object[field] as string))
      .find((one) => one !== undefined);
    if (parent === undefined) roots.push(node);
    else parent.parts.push(node);
  }
  return { roots: roots.sort(byName), owned };
}

/** What an object is called in a file: where it stands there, and whose it is. */
interface Place {
  readonly path: string;
  readonly tenant: string | undefined;
}

class Writer {
  private readonly places = new Map<string, Place>();
  /** Objects that others have the name of. */
  private readonly ambiguous = new Set<string>();
  /** Ports whose peer says that they are linked. */
  private readonly linked = new Set<string>();
  /** What makes the file mean something else, or nothing, where it is applied. */
  readonly notes = new Set<string>();

  constructor(
    private readonly client: MidonetClient,
    private readonly names: Names,
    roots: readonly Node[],
    private readonly withBindings: boolean,
    private readonly signal: AbortSignal,
  ) {
    const taken = new Map<string, string>();
    const place = ({ kind, object, parts }: Node, above: string, inherited: string | undefined) => {
      const path = `${above}${object.name ?? object.id}`;
      const tenant = (object.tenantId as string | undefined) ?? inherited;
      const key = JSON.stringify([kind, tenant, path]);
      const other = taken.get(key);
      if (other !== undefined) this.ambiguous.add(other).add(object.id);
      taken.set(key, object.id);
      this.places.set(object.id, { path, tenant });
      for (const part of parts) place(part, `${path}/`, tenant);
    };
    for (const root of roots) place(root, '', undefined);
  }

  /** An object as a file has it. */
  async write({ kind, object, parts }: Node, parent?: Parent): Promise<Record<string, unknown>> {
    const { path, tenant } = this.places.get(object.id)!;
    const record: Record<string, unknown> = {};
    if (object.name !== undefined) record.name = object.name;
    if (object.name === undefined || object.id !== derivedId(kind, tenant, path)) record.id = object.id;
    if (object.tenantId !== undefined && object.tenantId !== parent?.tenant) record.tenant = object.tenantId;
    for (const field of fieldsOf(kind)) {
      const value = object[field.name];
      if (value === undefined || isImplied(kind, field, parent?.field)) continue;
      if (kind === 'port' && field.name === 'peerId' && !this.takesLink(object, path, value as string)) continue;
      if (kind === 'port' && field.name === 'binding' && !this.withBindings) continue;
      const written = await this.value(field.shape, value, tenant, `${kind} ${path}`);
      if (!isEmpty(written)) record[field.word] = written;
    }
    const list = MEMBER_LISTS[kind];
    if (list !== undefined) {
      const members = await membersOf(this.client, kind, object.id, this.signal);
      record[list.word] = members
        .sort((a, b) => (a.key < b.key ? -1 : 1))
        .map(({ key, body }) => (Object.keys(body).length === 0 ? key : { [list.key]: key, ...body }));
    }
    for (const part of partsOf(kind)) {
      const nodes = parts.filter((node) => node.kind === part).sort(part === 'rule' ? byPlace : byName);
      if (nodes.length === 0) continue;
      const { field } = parentsOf(part).find((parent) => parent.kind === kind)!;
      const written: Record<string, unknown>[] = [];
      for (const node of nodes) written.push(await this.write(node, { field, tenant }));
      record[listWord(part)] = written;
    }
    return record;
  }

  /** Whether a port says that it is linked. A port that the file does not have may be there or not where it is applied. */
  private takesLink({ id }: AnyObject, path: string, peerId: string): boolean {
    if (this.linked.has(id)) return false;
    this.linked.add(peerId);
    const isThere = this.places.has(peerId);
    if (!isThere) this.notes.add(`left out: the link of port ${path} to a port of others, ${peerId}`);
    return isThere;
  }

  /**
   * A value as people write it, with names in place of identifiers where a name is enough for an object of this tenant.
   * @param at names the object that has it in notes
   */
  private async value(shape: Shape, value: unknown, tenant: string | undefined, at: string): Promise<unknown> {
    switch (shape.type) {
      case 'reference':
        return this.reference(shape.kind, value as string, tenant, at);
      case 'list':
        return Promise.all((value as unknown[]).map((one) => this.value(shape.of, one, tenant, at)));
      case 'integer':
        return wordOrNumber(shape, value);
      case 'object': {
        if (isRange(shape.fields)) return wordOrNumber(shape, value);
        const record = value as Record<string, unknown>;
        const entries = shape.fields
          .filter(({ name }) => record[name] !== undefined && name !== 'tunnelKey')
          .map(
            async (field): Promise<[string, unknown]> => [
              field.word,
              await this.value(field.shape, record[field.name], tenant, at),
            ],
          );
        return Object.fromEntries(await Promise.all(entries));
      }
      default:
        return value;
    }
  }

  private async reference(kind: Kind, id: string, tenant: string | undefined, at: string): Promise<string> {
    // A host has another identifier where the file is applied.
    if (kind === 'host') return this.names.nameOf(kind, id);
    const place = this.places.get(id);
    if (place === undefined) this.notes.add(`${at} needs ${kind} ${id}, which is not in the file`);
    return place === undefined || place.tenant !== tenant || this.ambiguous.has(id) ? id : place.path;
  }
}

/** What an object is written below: the field of it that says so, and whose it is. */
interface Parent {
  readonly field: string;
  readonly tenant: string | undefined;
}

/** `tcp`, `80` or `1024-65535`: names no object. */
function wordOrNumber(shape: Shape, value: unknown): string | number {
  const text = formatValue(shape, value, (_, id) => id);
  return /^\d+$/.test(text) ? Number(text) : text;
}

/** Whether the place of the object in the file says it. */
function isImplied(kind: Kind, { name }: Field, parentField: string | undefined): boolean {
  if (name === 'id' || name === 'name' || name === 'tenantId' || name === parentField) return true;
  return (kind === 'rule' && name === 'position') || LEFT_OUT[kind]?.includes(name) === true;
}

function isEmpty(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0;
}

function byName(a: Node, b: Node): number {
  const key = ({ kind, object }: Node) =>
    `${String(KINDS.indexOf(kind)).padStart(3, '0')} ${object.tenantId ?? ''} ${object.name ?? ''} ${object.id}`;
  return key(a) < key(b) ? -1 : 1;
}

function byPlace(a: Node, b: Node): number {
  const key = ({ object }: Node) => `${object.position} ${object.id}`;
  return key(a) < key(b) ? -1 : 1;
}
