import * as z from 'zod';
import { EtherType } from '../../packet/ethernet.js';
import { PROTOCOL_NAMES } from '../../packet/ip-protocol.js';
import { REFERENCES } from '../../topology/references.js';
import { type Kind, SCHEMAS } from '../../topology/types.js';

/** What the fields of objects are called, and what goes into them, as people write them: made from the schemas. */

/** What a field holds. */
export type Shape =
  | { readonly type: 'boolean' }
  /** `words`: what people write for some of the numbers. */
  | { readonly type: 'integer'; readonly words?: ReadonlyMap<string, number> }
  | { readonly type: 'text'; readonly choices?: readonly string[] }
  | { readonly type: 'reference'; readonly kind: Kind }
  | { readonly type: 'list'; readonly of: Shape }
  | { readonly type: 'object'; readonly fields: readonly Field[] }
  /** Text by text. */
  | { readonly type: 'map' };

export interface Field {
  /** As the API has it: `bridgeId`, `adminStateUp`. */
  readonly name: string;
  /** As people write it: `bridge`, `adminStateUp`; on the command line with hyphens. */
  readonly word: string;
  readonly shape: Shape;
  readonly required: boolean;
}

const FIELDS = new Map<Kind, readonly Field[]>();

/** The fields of a kind, in the order of its schema; of a kind with several forms those of all of them. */
export function fieldsOf(kind: Kind): readonly Field[] {
  let fields = FIELDS.get(kind);
  if (fields === undefined) {
    const schema = z.toJSONSchema(SCHEMAS[kind], { io: 'input' }) as JsonSchema;
    fields = fieldsIn(schema, kind);
    FIELDS.set(kind, fields);
  }
  return fields;
}

/** Whether objects of the kind say themselves which tenant's they are. */
export function hasTenant(kind: Kind): boolean {
  return 'tenantId' in shapeOfSchema(kind);
}

/** Whether objects of the kind may have a name. */
export function hasName(kind: Kind): boolean {
  return 'name' in shapeOfSchema(kind);
}

function shapeOfSchema(kind: Kind): Readonly<Record<string, unknown>> {
  const schema = SCHEMAS[kind];
  return schema instanceof z.ZodDiscriminatedUnion
    ? (schema.options[0] as z.ZodObject).shape
    : (schema as z.ZodObject).shape;
}

/** What is used of a JSON Schema that zod makes. */
interface JsonSchema {
  readonly type?: string;
  readonly enum?: readonly string[];
  readonly const?: string;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly items?: JsonSchema;
  readonly oneOf?: readonly JsonSchema[];
  readonly anyOf?: readonly JsonSchema[];
  readonly additionalProperties?: unknown;
}

function fieldsIn(schema: JsonSchema, path: string): Field[] {
  const forms = schema.oneOf ?? schema.anyOf ?? [schema];
  const found = new Map<string, Field>();
  for (const form of forms) {
    for (const [name, inner] of Object.entries(form.properties ?? {})) {
      const shape = shapeOf(inner, name, `${path}.${name}`);
      const before = found.get(name);
      found.set(name, {
        name,
        word: wordOf(name, shape),
        shape: before === undefined ? shape : joined(before.shape, shape),
        required: forms.every((one) => one.required?.includes(name)),
      });
    }
  }
  return [...found.values()];
}

/** Fields of the same name in several forms of an object differ in their choices alone. */
function joined(one: Shape, other: Shape): Shape {
  if (one.type !== 'text' || other.type !== 'text' || one.choices === undefined || other.choices === undefined)
    return one;
  return { type: 'text', choices: [...new Set([...one.choices, ...other.choices])] };
}

const NAMED = new Map(REFERENCES.map((row) => [`${row.kind}.${row.field}`, row.names]));

function shapeOf(schema: JsonSchema, name: string, path: string): Shape {
  const kind = NAMED.get(path);
  if (kind !== undefined) return { type: 'reference', kind };
  if (schema.oneOf !== undefined || schema.anyOf !== undefined)
    return { type: 'object', fields: fieldsIn(schema, path) };
  switch (schema.type) {
    case 'boolean':
      return { type: 'boolean' };
    case 'integer':
    case 'number':
      return { type: 'integer', words: WORDS[name] };
    case 'array':
      return { type: 'list', of: shapeOf(schema.items ?? {}, name, `${path}[]`) };
    case 'object':
      return schema.properties === undefined ? { type: 'map' } : { type: 'object', fields: fieldsIn(schema, path) };
    default:
      return { type: 'text', choices: schema.enum ?? (schema.const === undefined ? undefined : [schema.const]) };
  }
}

/** Numbers that have names. */
const WORDS: Readonly<Record<string, ReadonlyMap<string, number>>> = {
  protocol: new Map([...PROTOCOL_NAMES].map(([number, name]) => [name, number])),
  etherType: new Map([
    ['ipv4', EtherType.IPV4],
    ['ipv6', EtherType.IPV6],
    ['arp', EtherType.ARP],
  ]),
};

/** A reference is written without the Id at its end. */
function wordOf(name: string, shape: Shape): string {
  // An option --no-vlan would say that there is none of an option --vlan.
  if (name === 'noVlan') return 'untagged';
  const inner = shape.type === 'list' ? shape.of : shape;
  if (inner.type !== 'reference' && name !== 'tenantId') return name;
  return name.replace(/Id(s?)$/, '$1');
}

/** `adminStateUp` → `admin-state-up`, `dhcpV6` → `dhcp-v6`. */
export function kebab(name: string): string {
  return name.replaceAll(/(?<=[a-z0-9])[A-Z]/g, (letter) => `-${letter}`).toLowerCase();
}

/** `admin-state-up` → `adminStateUp`. */
export function camel(name: string): string {
  return name.replaceAll(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

/** The field that people mean: by its name, by the word for it, with hyphens or without. */
export function fieldNamed(fields: readonly Field[], text: string): Field | undefined {
  return fields.find(({ name, word }) =>
    [name, word, kebab(name), kebab(word)].some((one) => one === text || one === kebab(text)),
  );
}
