import type { MidonetClient } from '../../api/client/client.js';
import { segmentOf } from '../../api/description/resources.js';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { REFERENCES } from '../../topology/references.js';
import type { Kind } from '../../topology/types.js';
import { hasName, hasTenant } from './fields.js';
import { nearest } from './nearest.js';

/** An object of any kind, as the API tells it. */
export interface AnyObject {
  readonly id: string;
  readonly name?: string;
  readonly [field: string]: unknown;
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
/** Enough of an identifier to find the object. */
const UUID_PREFIX = /^(?=[0-9a-f-]{8,36}$)[0-9a-f]{8}(-[0-9a-f-]*)?$/i;
/** How much of an identifier is shown where there is no room for all of it; as long as UUID_PREFIX wants. */
const SHORT_ID = 8;
/** Names looked at to find one that is meant. */
const SUGGESTED_FROM = 200;
const REQUESTS_AT_ONCE = 8;
/** Names shown of objects that are only referred to, at most: each is a request. */
const MOST_NAMES = 500;

export function isId(text: string): boolean {
  return UUID.test(text);
}

export function shortId(id: string): string {
  return id.slice(0, SHORT_ID);
}

/** The kinds an object of this kind is a part of, and the field that says so: a rule's chain, a port's bridge or router. */
export function parentsOf(kind: Kind): readonly { readonly kind: Kind; readonly field: string }[] {
  return PARENTS[kind] ?? [];
}

/** Of the references that objects are deleted with, the ones that they are a part of. */
const PARENTS: Readonly<Partial<Record<Kind, { kind: Kind; field: string }[]>>> = (() => {
  const parents: Partial<Record<Kind, { kind: Kind; field: string }[]>> = {};
  for (const { kind, field, names, onDelete } of REFERENCES) {
    if (onDelete !== 'cascade' || /[.[]/.test(field)) continue;
    const first = parents[kind]?.[0];
    // A port and a request for traces are of one of several kinds; of other kinds the first reference is the owner.
    if (first === undefined) parents[kind] = [{ kind: names, field }];
    else if (kind === 'trace-request' || (kind === 'port' && field !== 'vtepId'))
      parents[kind]?.push({ kind: names, field });
  }
  return parents;
})();

const PAGE_SIZE = 1000;
/** How long it is taken as true which agents run. */
const ALIVE_FOR_MS = 1000;

/** Which objects people mean, and what to call those that the API speaks of. What was asked once is not asked again. */
export class Names {
  private readonly named = new Map<string, Promise<string>>();
  /** Requests for names wait for each other in so many rows. */
  private readonly turns: Promise<unknown>[] = Array.from({ length: REQUESTS_AT_ONCE }, () => Promise.resolve());
  private asked = 0;
  private alive: { readonly readAt: number; readonly hosts: Promise<ReadonlySet<string>> } | undefined;

  constructor(
    private readonly client: MidonetClient,
    /** Names are those of this tenant's objects, and of what is nobody's. */
    private readonly tenantId?: string,
    private readonly signal?: AbortSignal,
  ) {}

  /**
   * The identifier of the object called `text`: by identifier, by name, by the name of what it is a part of and its own
   * (`web/uplink`), or by the first digits of its identifier.
   * @param at names the option or field in errors
   * @throws MidonetError for what is called by nobody or by several; with the nearest name where there is one
   */
  readonly idOf = async (kind: Kind, text: string, at: string = kind): Promise<string> => {
    if (isId(text)) return text.toLowerCase();
    const found = text.includes('/') ? await this.below(kind, text, at) : await this.called(kind, text);
    if (found.length === 1) return found[0].id;
    if (found.length > 1) throw await this.ambiguous(kind, text, found, at);
    const byPrefix = UUID_PREFIX.test(text) ? await this.beginning(kind, text.toLowerCase()) : [];
    if (byPrefix.length === 1) return byPrefix[0].id;
    if (byPrefix.length > 1) throw await this.ambiguous(kind, text, byPrefix, at);
    throw await this.unknown(kind, text, at);
  };

  /** What to call an object that is referred to: its name, with that of what it is a part of; else the beginning of its id. */
  nameOf(kind: Kind, id: string): Promise<string> {
    let name = this.named.get(id);
    if (name === undefined) {
      if (this.asked >= MOST_NAMES) return Promise.resolve(shortId(id));
      name = this.find(kind, id);
      this.named.set(id, name);
    }
    return name;
  }

  /** What to call an object that is not there yet. */
  learn(id: string, name: string): void {
    this.named.set(id, Promise.resolve(name));
  }

  /** What to call an object that is at hand. */
  async nameOfObject(kind: Kind, object: AnyObject): Promise<string> {
    const own = object.name ?? shortId(object.id);
    const parent = parentsOf(kind).find(({ field }) => object[field] !== undefined);
    if (parent === undefined || object.name === undefined) return own;
    return `${await this.nameOf(parent.kind, object[parent.field] as string)}/${own}`;
  }

  /** Whether the agent of a host runs. Of all hosts that are asked about within a moment it is read at once. */
  async isAlive(hostId: string): Promise<boolean> {
    if (this.alive === undefined || Date.now() - this.alive.readAt > ALIVE_FOR_MS) {
      this.alive = { readAt: Date.now(), hosts: this.aliveHosts() };
    }
    return (await this.alive.hosts).has(hostId);
  }

  private async aliveHosts(): Promise<ReadonlySet<string>> {
    const hosts = new Set<string>();
    let after: string | undefined;
    do {
      const query = { limit: PAGE_SIZE, after };
      const { body } = await this.client.request('GET', '/v1/host-status', { query, signal: this.signal });
      const { items, next } = body as { items: { id: string; alive: boolean }[]; next?: string };
      for (const { id, alive } of items) if (alive) hosts.add(id);
      after = next;
    } while (after !== undefined);
    return hosts;
  }

  private async find(kind: Kind, id: string): Promise<string> {
    const turn = this.asked++ % REQUESTS_AT_ONCE;
    const request = this.turns[turn].then(() => this.client.collection(kind).get(id, this.signal));
    this.turns[turn] = request.catch(() => undefined);
    const found = await request;
    return found === undefined ? shortId(id) : this.nameOfObject(kind, found.object as AnyObject);
  }

  private async called(kind: Kind, name: string): Promise<AnyObject[]> {
    if (!hasName(kind)) return [];
    const own = await this.list(kind, { name, ...this.ownTenant(kind) });
    if (own.length > 0 || this.tenantId === undefined || !hasTenant(kind)) return own;
    const all = await this.list(kind, { name });
    return all.filter(({ tenantId, shared }) => tenantId === undefined || shared === true);
  }

  /** Those of a name below a parent of a name. */
  private async below(kind: Kind, text: string, at: string): Promise<AnyObject[]> {
    const parts = text.split('/');
    const name = parts.pop()!;
    const owners = parentsOf(kind);
    if (owners.length === 0) throw new InvalidInputError(at, text, `expected the name of a ${kind}, without /`);
    const found: AnyObject[] = [];
    for (const owner of owners) {
      const path = parts.join('/');
      const parents = path.includes('/') ? await this.below(owner.kind, path, at) : await this.called(owner.kind, path);
      for (const parent of parents) {
        found.push(...(await this.list(kind, { [owner.field]: parent.id, name })));
      }
    }
    return found;
  }

  private async beginning(kind: Kind, prefix: string): Promise<AnyObject[]> {
    const all = await this.list(kind, {});
    return all.filter(({ id }) => id.startsWith(prefix));
  }

  private async list(
    kind: Kind,
    filter: Record<string, string>,
    most = Number.POSITIVE_INFINITY,
  ): Promise<AnyObject[]> {
    const found: AnyObject[] = [];
    for await (const object of this.client.collection(kind).list(filter, this.signal)) {
      found.push(object as AnyObject);
      if (found.length >= most) break;
    }
    return found;
  }

  private ownTenant(kind: Kind): { tenantId?: string } {
    return this.tenantId !== undefined && hasTenant(kind) ? { tenantId: this.tenantId } : {};
  }

  /** Whose an object is; a part is whose that is which it is a part of. */
  private async tenantOf(kind: Kind, object: AnyObject): Promise<string | undefined> {
    if (object.tenantId !== undefined) return object.tenantId as string;
    const parent = parentsOf(kind).find(({ field }) => object[field] !== undefined);
    if (parent === undefined) return undefined;
    const found = await this.client.collection(parent.kind).get(object[parent.field] as string, this.signal);
    return found === undefined ? undefined : this.tenantOf(parent.kind, found.object as AnyObject);
  }

  private async choices(kind: Kind, found: readonly AnyObject[]): Promise<string> {
    const shown = await Promise.all(
      found.slice(0, 10).map(async (object) => {
        const tenant = await this.tenantOf(kind, object);
        const whose = tenant === undefined ? '' : ` of tenant ${tenant}`;
        return `${object.id} (${await this.nameOfObject(kind, object)}${whose})`;
      }),
    );
    return [...shown, ...(found.length > shown.length ? ['…'] : [])].join(', ');
  }

  private async ambiguous(kind: Kind, text: string, found: readonly AnyObject[], at: string): Promise<MidonetError> {
    const of = at === kind ? '' : `${at}: `;
    const choices = await this.choices(kind, found);
    // The name of a part alone is looked for whoever's it is.
    const byTenant = this.tenantId === undefined && (hasTenant(kind) || text.includes('/')) ? ' or by --tenant' : '';
    return new MidonetError(
      'MN_INVALID_INPUT',
      `${of}several are the ${kind} ${text}, say which by its id${byTenant}: ${choices}`,
    );
  }

  private async unknown(kind: Kind, text: string, at: string): Promise<MidonetError> {
    const known = (await this.list(kind, this.ownTenant(kind), SUGGESTED_FROM)).flatMap(({ name }) => name ?? []);
    const meant = nearest(text.split('/').at(-1)!, known);
    const of = at === kind ? '' : `${at}: `;
    const hint = meant === undefined ? `\`midonet ${kind} list\` tells what there is` : `did you mean ${meant}?`;
    const tenant = this.tenantId === undefined ? '' : ` of tenant ${this.tenantId}`;
    return new MidonetError('MN_NOT_FOUND', `${of}there is no ${kind} called ${text}${tenant}; ${hint}`);
  }
}

/** The path of a kind's objects. */
export function pathOf(kind: Kind, id?: string): string {
  return id === undefined ? `/v1/${segmentOf(kind)}` : `/v1/${segmentOf(kind)}/${encodeURIComponent(id)}`;
}
