import { EXAMPLES, type Example, exampleOf, OTHERS } from '../../../src/api/description/examples.js';
import type { JsonSchema } from '../../../src/api/description/openapi-schemas.js';
import { COLLECTIONS } from '../../../src/api/description/resources.js';
import type { OpenApiDocument } from '../../../src/api/document/openapi.js';
import { idFromName } from '../../../src/topology/id.js';
import { KINDS, type Kind } from '../../../src/topology/types.js';
import type { Dice } from '../../dice.js';

/** A request as it goes over the wire. */
export interface FuzzRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | undefined;
}

/** The examples as objects of one tenant, each under ids of that tenant. */
export class TenantObjects {
  readonly objects: readonly Example[];

  /** @param name what every object with a name is called */
  constructor(
    readonly tenantId: string,
    name?: string,
  ) {
    const all = new Map<string, Example>();
    for (const kind of KINDS) for (const example of exampleOf(kind)) all.set(example.object.id, example);
    for (const example of OTHERS) all.set(example.object.id, example);
    this.objects = [...all.values()].map(({ kind, object }) => {
      const own = this.own(object) as Record<string, unknown>;
      return { kind, object: name === undefined ? own : { ...own, name } } as unknown as Example;
    });
  }

  /** A value with the ids of the examples, and their tenant, made this one's. */
  own(value: unknown): unknown {
    if (typeof value === 'string') return UUID.test(value) ? idFromName('fuzz', this.tenantId, value) : value;
    if (Array.isArray(value)) return value.map((one) => this.own(one));
    if (typeof value !== 'object' || value === null) return value;
    const entries = Object.entries(value).map(([key, one]) => [
      key,
      key === 'tenantId' ? this.tenantId : this.own(one),
    ]);
    return Object.fromEntries(entries);
  }

  idOf(kind: Kind): string {
    return this.own(EXAMPLES[kind].id) as string;
  }
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Values that have broken programs before. */
const NASTY: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  1.5,
  1e308,
  2 ** 53,
  '',
  ' ',
  'x'.repeat(5000),
  '\u0000',
  'ä\u2028\ud800',
  '🐙'.repeat(100),
  '../../etc/passwd',
  '%2e%2e%2f',
  '__proto__',
  'constructor',
  '10.0.0.0/33',
  '::ffff:1.2.3.4',
  'ff:ff:ff:ff:ff:ff',
  '00000000-0000-0000-0000-000000000000',
  [],
  {},
  [[[[[[]]]]]],
  { toString: 1, length: -1 },
  { kind: 'port', id: null },
];

/** The same for parts of a path and for parameters, as they are written there. */
const NASTY_TEXTS: readonly string[] = [
  '',
  '%00',
  '%zz',
  '%2F..%2F..',
  '..',
  '.',
  '*',
  ':id',
  '%E2%80%A8',
  '%ED%A0%80',
  'null',
  '-1',
  '1e9',
  '99999999999999999999',
  'true',
  '0.0.0.0%2F0',
  '10.0.0.0_8,,x',
  '10.0.0.0_8,,..%2F..',
  'ff:ff:ff:ff:ff:ff',
  'a%20b%26c%3Dd',
  'x'.repeat(3000),
  '%F0%9F%90%99'.repeat(20),
];

interface Operation {
  readonly method: string;
  readonly path: string;
  readonly parameters: readonly { name: string; in: string; schema: JsonSchema; example?: unknown }[];
  readonly body: { schema: JsonSchema; example: unknown; types: readonly string[] } | undefined;
}

/** Makes requests out of the document, right and wrong ones, all of it after the dice. */
export class RequestMaker {
  private readonly operations: readonly Operation[];

  constructor(
    private readonly document: OpenApiDocument,
    private readonly dice: Dice,
    /** The caller's objects, and those that are none of its business. */
    private readonly own: TenantObjects,
    private readonly foreign: TenantObjects,
  ) {
    this.operations = Object.entries(document.paths).flatMap(([path, item]) =>
      Object.entries(item).map(([method, value]) => operationOf(method, path, value as Described)),
    );
  }

  next(): FuzzRequest {
    const { dice } = this;
    let operation = dice.pick(this.operations)!;
    // Else there would soon be nothing left to change.
    if (operation.method === 'delete' && dice.chance(75)) operation = dice.pick(this.operations)!;
    const method = dice.chance(3)
      ? dice.pick(['GET', 'PUT', 'POST', 'DELETE', 'PATCH', 'HEAD', 'OPTIONS', 'TRACE'])!
      : operation.method.toUpperCase();
    const headers = this.headers(operation);
    const body = this.body(operation, method);
    if (body !== undefined) headers['content-type'] = this.type(operation);
    return { method, path: `${this.path(operation)}${this.query(operation)}`, headers, body };
  }

  private path({ path, parameters }: Operation): string {
    const kind = COLLECTIONS.get(path.split('/')[2]);
    return path.replace(/\{(\w+)\}/g, (_, name: string) => {
      const { dice } = this;
      const chance = dice.below(100);
      if (chance < 10) return dice.pick(NASTY_TEXTS)!;
      if (chance < 15) return this.randomId();
      const whose = chance < 45 ? this.foreign : this.own;
      const example = parameters.find((one) => one.in === 'path' && one.name === name)?.example;
      if (example !== undefined) return encodeURIComponent(this.exchanged(String(example), whose));
      if (name === 'id' && kind !== undefined && dice.chance(90)) return whose.idOf(kind);
      return whose.idOf(dice.pick(KINDS)!);
    });
  }

  private query({ parameters }: Operation): string {
    const { dice } = this;
    const parts: string[] = [];
    for (const { name, in: place, example } of parameters) {
      if (place !== 'query' || !dice.chance(name === 'watch' ? 3 : 10)) continue;
      const right =
        example === undefined
          ? this.idOrNumber()
          : this.exchanged(String(example), dice.chance(50) ? this.own : this.foreign);
      parts.push(`${encodeURIComponent(name)}=${dice.chance(70) ? encodeURIComponent(right) : dice.pick(NASTY_TEXTS)}`);
    }
    if (dice.chance(3)) parts.push(`${dice.pick(NASTY_TEXTS)}=${dice.pick(NASTY_TEXTS)}`);
    if (parts.length > 0 && dice.chance(5)) parts.push(parts[0]);
    return parts.length === 0 ? '' : `?${parts.join('&')}`;
  }

  private headers({ parameters }: Operation): Record<string, string> {
    const { dice } = this;
    const headers: Record<string, string> = {};
    for (const { name, in: place } of parameters) {
      if (place !== 'header' || !dice.chance(10)) continue;
      headers[name] = dice.pick(['*', '"1"', '"17", "18"', 'W/"17"', '', '"', 'x'.repeat(500), '\u00e4'])!;
    }
    if (dice.chance(3)) headers.accept = dice.pick(['text/event-stream', 'application/xml', '*/*;q=2', ','])!;
    return headers;
  }

  private type({ body }: Operation): string {
    const { dice } = this;
    if (dice.chance(95)) return dice.pick(body?.types ?? ['application/json'])!;
    return dice.pick([
      'text/plain',
      'application/json; charset=utf-16',
      'application/json; charset=x',
      'application/x-www-form-urlencoded',
      'multipart/form-data',
      '/',
      '',
    ])!;
  }

  private body({ body }: Operation, method: string): Buffer | undefined {
    const { dice } = this;
    if (body === undefined || method === 'GET' || method === 'HEAD' || method === 'TRACE') {
      return dice.chance(2) && method !== 'TRACE' ? this.bytes() : undefined;
    }
    const chance = dice.below(100);
    if (chance < 4) return undefined;
    if (chance < 10) return this.noise();
    if (chance < 12) return json(this.anything(4));
    if (chance < 27) return json(this.generated(body.schema, 5));
    const right = this.owned(body.example);
    if (chance < 65) return json(right);
    let wrong = right;
    for (let changes = 1 + dice.below(3); changes > 0; changes--) wrong = this.mutated(wrong);
    return json(wrong);
  }

  /** What is no JSON, or more of it than is reasonable. */
  private noise(): Buffer {
    const { dice } = this;
    switch (dice.below(6)) {
      case 0:
        return this.bytes();
      case 1:
        return Buffer.from('['.repeat(20_000));
      case 2:
        return Buffer.from(`${'{"name":'.repeat(20_000)}1${'}'.repeat(20_000)}`);
      case 3:
        return Buffer.from(`{"id":${'['.repeat(20_000)}${']'.repeat(20_000)}}`);
      case 4:
        return Buffer.from('{"name":"x"');
      default:
        return Buffer.from(`{"name":"${'x'.repeat(1 + dice.below(1_200_000))}"}`);
    }
  }

  private bytes(): Buffer {
    return Buffer.from(Array.from({ length: 1 + this.dice.below(200) }, () => this.dice.below(256)));
  }

  /** The example, mostly with the caller's ids, and with an id of its own where it would otherwise be there already. */
  private owned(example: unknown): unknown {
    const { dice } = this;
    const value = (dice.chance(80) ? this.own : this.foreign).own(example);
    if (dice.chance(50) || typeof value !== 'object' || value === null || !('id' in value)) return value;
    return { ...value, id: this.randomId() };
  }

  /** The value with one thing changed. */
  private mutated(value: unknown): unknown {
    const { dice } = this;
    if (typeof value !== 'object' || value === null || dice.chance(10)) return this.replacement(value);
    if (Array.isArray(value)) {
      if (value.length === 0 || dice.chance(20)) return [...value, this.replacement(value[0])];
      const at = dice.below(value.length);
      return value.map((one, i) => (i === at ? this.mutated(one) : one));
    }
    const entries = Object.entries(value);
    if (entries.length === 0 || dice.chance(10))
      return { ...value, [String(dice.pick(FIELDS))]: this.replacement(undefined) };
    const at = dice.below(entries.length);
    if (dice.chance(15)) return Object.fromEntries(entries.filter((_, i) => i !== at));
    return Object.fromEntries(entries.map(([key, one], i) => [key, i === at ? this.mutated(one) : one]));
  }

  private replacement(value: unknown): unknown {
    const { dice } = this;
    if (typeof value === 'string' && UUID.test(value) && dice.chance(70)) {
      return dice.chance(50)
        ? this.foreign.idOf(dice.pick(KINDS)!)
        : dice.chance(50)
          ? this.own.idOf(dice.pick(KINDS)!)
          : this.randomId();
    }
    if (typeof value === 'number' && dice.chance(50)) return value + dice.below(1000) - 500;
    return dice.pick(NASTY);
  }

  /** A value that the schema allows, most of the time. */
  private generated(schema: JsonSchema, depth: number): unknown {
    const { dice } = this;
    if (dice.chance(3) || depth === 0) return dice.pick(NASTY);
    if (schema.$ref !== undefined)
      return this.generated(this.document.components.schemas[schema.$ref.split('/').at(-1)!], depth);
    const forms = schema.oneOf ?? schema.anyOf;
    if (forms !== undefined) return this.generated(dice.pick(forms)!, depth);
    if (schema.const !== undefined) return schema.const;
    if (Array.isArray(schema.enum)) return dice.pick(schema.enum);
    const type = Array.isArray(schema.type) ? dice.pick(schema.type) : schema.type;
    switch (type) {
      case 'object': {
        const fields = Object.entries(schema.properties ?? {}).filter(
          ([name]) => schema.required?.includes(name) || dice.chance(25),
        );
        return Object.fromEntries(fields.map(([name, field]) => [name, this.generated(field, depth - 1)]));
      }
      case 'array':
        return Array.from({ length: dice.below(3) }, () => this.generated(schema.items ?? {}, depth - 1));
      case 'integer':
      case 'number': {
        const least = Number(schema.minimum ?? 0);
        return least + dice.below(Math.min(Number(schema.maximum ?? 1000) - least, 70_000) + 1);
      }
      case 'boolean':
        return dice.chance(50);
      case 'null':
        return null;
      default:
        return this.text(schema);
    }
  }

  private text({ format }: JsonSchema): string {
    const { dice } = this;
    if (format === 'uuid')
      return dice.chance(60)
        ? this.own.idOf(dice.pick(KINDS)!)
        : dice.chance(60)
          ? this.foreign.idOf(dice.pick(KINDS)!)
          : this.randomId();
    return dice.pick(TEXTS)!;
  }

  private anything(depth: number): unknown {
    const { dice } = this;
    if (depth === 0 || dice.chance(30)) return dice.pick(NASTY);
    if (dice.chance(50)) return Array.from({ length: dice.below(4) }, () => this.anything(depth - 1));
    return Object.fromEntries(
      Array.from({ length: dice.below(4) }, () => [String(dice.pick(FIELDS)), this.anything(depth - 1)]),
    );
  }

  /** The text with the ids of examples in it made those of a tenant. */
  private exchanged(text: string, whose: TenantObjects): string {
    return text.replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, (id) => whose.own(id) as string);
  }

  private idOrNumber(): string {
    return this.dice.chance(50) ? this.own.idOf(this.dice.pick(KINDS)!) : String(this.dice.below(100));
  }

  private randomId(): string {
    return idFromName('fuzz', String(this.dice.below(2 ** 30)));
  }
}

const FIELDS = [
  'id',
  'name',
  'tenantId',
  'binding',
  'portId',
  'ids',
  '__proto__',
  'constructor',
  'toString',
  'operations',
  'kind',
  'shared',
  '/x',
  '/bridges',
  '',
];

const TEXTS = [
  'a',
  'web-1',
  '10.0.0.1',
  '10.0.0.0/24',
  '10.0.0.1/24',
  'fd00::1',
  'fd00::/64',
  'fd00::1/64',
  '02:00:00:00:00:05',
  'ff:ff:ff:00:00:00',
  'i0000000',
  'tcp 10.0.0.1:1 > 10.0.0.2:80',
  'x'.repeat(300),
];

/** An operation as the document has it. */
interface Described {
  readonly parameters?: Operation['parameters'];
  readonly requestBody?: { readonly content: Readonly<Record<string, { schema: JsonSchema; example: unknown }>> };
}

function operationOf(method: string, path: string, { parameters = [], requestBody }: Described): Operation {
  const contents = Object.entries(requestBody?.content ?? {});
  const body = contents.length === 0 ? undefined : { ...contents[0][1], types: contents.map(([type]) => type) };
  return { method, path, parameters, body };
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value) ?? '');
}
