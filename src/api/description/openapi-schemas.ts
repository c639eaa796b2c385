import * as z from 'zod';
import { type ReferenceRow, referencesOf } from '../../topology/references.js';
import { conditionSchema, KINDS, type Kind, SCHEMAS } from '../../topology/types.js';
import { NESTED, type NestedCollection } from './resources.js';

/** JSON Schema 2020-12, as far as it is looked into here. */
export interface JsonSchema {
  type?: string | readonly string[];
  properties?: Record<string, JsonSchema>;
  required?: readonly string[];
  additionalProperties?: boolean | JsonSchema;
  items?: JsonSchema;
  oneOf?: readonly JsonSchema[];
  anyOf?: readonly JsonSchema[];
  $ref?: string;
  default?: unknown;
  [keyword: string]: unknown;
}

/** Where the document has its own schemas. */
const FOLDER = '#/components/schemas/';

export const schemaRef = (name: string): JsonSchema => ({ $ref: `${FOLDER}${name}` });

/** `Bridge`, `AddressPool`: what the document calls the objects of a kind. */
export function schemaName(kind: Kind): string {
  return kind.replace(/(^|-)(\w)/g, (_, _dash, letter: string) => letter.toUpperCase());
}

/** What is posted to a nested collection, which need not name the object that it is posted below. */
export function nestedInputName({ row, parent }: NestedCollection): string {
  return `${schemaName(row.kind)}Of${schemaName(parent)}Input`;
}

/** What validates a value, as JSON Schema of the form that clients send. */
export function jsonSchemaOf(schema: z.ZodType): JsonSchema {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: 'input', override });
  return rest as JsonSchema;
}

/**
 * The schemas of the document: of each kind the object (`Bridge`), what it is made of (`BridgeInput`), what changes it
 * (`BridgePatch`) and a part of a collection (`BridgePage`).
 */
export function componentSchemas(): Record<string, JsonSchema> {
  const registry = z.registry<{ id: string }>();
  for (const kind of KINDS) registry.add(SCHEMAS[kind], { id: schemaName(kind) });
  registry.add(conditionSchema, { id: 'Condition' });
  const uri = (id: string) => `${FOLDER}${id}`;
  const { schemas } = z.toJSONSchema(registry, { io: 'input', uri, override });
  const told = z.toJSONSchema(registry, { io: 'output', uri, unrepresentable: 'any' }).schemas;
  const all: Record<string, JsonSchema> = {
    Condition: bare(schemas.Condition),
    Problem: PROBLEM,
    OpenApi: { type: 'object' },
  };
  for (const kind of KINDS) {
    const name = schemaName(kind);
    const given = withReferences(kind, bare(schemas[name]));
    all[name] = filled(given, bare(told[name]));
    all[`${name}Input`] = eachForm(given, (form) => without(form, ['id', 'position']));
    all[`${name}Patch`] = eachForm(given, patched);
    all[`${name}Page`] = {
      type: 'object',
      properties: {
        items: { type: 'array', items: schemaRef(name) },
        next: { type: 'string', description: 'There may be more: asks for it as the parameter `after`.' },
      },
      required: ['items'],
    };
  }
  for (const nested of NESTED) {
    const input = all[`${schemaName(nested.row.kind)}Input`];
    all[nestedInputName(nested)] = eachForm(input, (form) => without(form, [nested.row.field]));
  }
  return all;
}

/** Of texts with a format of their own the expression behind it says nothing more. */
function override({ jsonSchema }: { jsonSchema: { format?: string; pattern?: string } }): void {
  if (jsonSchema.format !== undefined) delete jsonSchema.pattern;
}

function bare(schema: object): JsonSchema {
  const { $schema: _schema, $id: _id, ...rest } = schema as JsonSchema;
  return rest;
}

/** The schema, or each of the forms that it consists of. */
function eachForm(schema: JsonSchema, change: (form: JsonSchema) => JsonSchema): JsonSchema {
  if (schema.oneOf !== undefined) return { ...schema, oneOf: schema.oneOf.map(change) };
  return change(schema);
}

/** Says of each field that names another object which kind that is of. */
function withReferences(kind: Kind, schema: JsonSchema): JsonSchema {
  return eachForm(schema, (form) => referencesOf(kind).reduce((changed, row) => withReference(changed, row), form));
}

function withReference(form: JsonSchema, row: ReferenceRow): JsonSchema {
  const steps = row.field.split('.').map((step) => step.replace('[]', ''));
  return described(form, steps, `Names a \`${row.names}\`.`);
}

function described(schema: JsonSchema, steps: readonly string[], text: string): JsonSchema {
  if (schema.items !== undefined) return { ...schema, items: described(schema.items, steps, text) };
  const [step, ...rest] = steps;
  if (step === undefined) return { ...schema, description: schema.description ?? text };
  const inner = schema.properties?.[step];
  if (inner === undefined) return schema;
  return { ...schema, properties: { ...schema.properties, [step]: described(inner, rest, text) } };
}

/** As the API tells it: what has a default is always there, which is what the schema of validated objects says. */
function filled(schema: JsonSchema, told: JsonSchema): JsonSchema {
  if (schema.oneOf !== undefined) {
    return { ...schema, oneOf: schema.oneOf.map((form, i) => filled(form, told.oneOf![i])) };
  }
  if (schema.items !== undefined) return { ...schema, items: filled(schema.items, told.items!) };
  if (schema.properties === undefined) return schema;
  const fields = Object.entries(schema.properties);
  const properties = fields.map(([name, field]) => [name, filled(field, told.properties![name])] as const);
  return { ...schema, properties: Object.fromEntries(properties), required: told.required };
}

function without(form: JsonSchema, optional: readonly string[]): JsonSchema {
  return { ...form, required: (form.required ?? []).filter((name) => !optional.includes(name)) };
}

/** Any of the fields; null takes one away. Objects within are merged alike. */
function patched(form: JsonSchema): JsonSchema {
  const { required: _, ...rest } = form;
  const properties = Object.entries(form.properties ?? {}).map(([name, { default: _default, ...field }]) => {
    const isObject = field.type === 'object' || field.$ref !== undefined || field.allOf !== undefined;
    const isFixed = name === 'type' && form.properties?.type.const !== undefined;
    const changed = isObject ? { type: ['object', 'null'] } : { anyOf: [field, { type: 'null' }] };
    return [name, isFixed ? field : changed] as const;
  });
  return { ...rest, properties: Object.fromEntries(properties) };
}

const PROBLEM: JsonSchema = {
  type: 'object',
  description: 'What went wrong (RFC 9457).',
  properties: {
    type: { type: 'string', description: 'A URN that ends in the code.' },
    title: { type: 'string', description: 'The status in words.' },
    status: { type: 'integer' },
    detail: { type: 'string', description: 'What went wrong with this request.' },
    code: { type: 'string', description: 'Never changes its meaning: programs may rely on it.' },
    field: { type: 'string', description: 'The field or parameter that is at fault, such as `binding.hostId`.' },
    value: { description: 'What it was.' },
  },
  required: ['type', 'title', 'status', 'detail', 'code'],
};
