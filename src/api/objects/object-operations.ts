import * as z from 'zod';
import { idFromName } from '../../topology/id.js';
import { KINDS, type Kind, SCHEMAS, type TopologyTypes } from '../../topology/types.js';
import { validate } from '../../topology/validate.js';
import { EXAMPLES } from '../description/examples.js';
import { nestedInputName, schemaName } from '../description/openapi-schemas.js';
import type { AnswerDescription, OperationDescription, ParameterDescription } from '../description/operation.js';
import { NESTED, type NestedCollection, segmentOf } from '../description/resources.js';
import { DEFAULT_LIMIT, filterFields, MAX_LIMIT } from '../requests/object-query.js';
import { WATCH_CONTENT, WATCH_PARAMETERS } from '../watch/watch-alternative.js';

/** What object-routes.ts does, in words. */
export function objectOperations(): OperationDescription[] {
  return [
    ...KINDS.flatMap(collectionOperations),
    ...KINDS.flatMap(itemOperations),
    ...NESTED.flatMap(nestedOperations),
  ];
}

const ETAG = { ETag: 'The version of the object, for `If-Match`.' };

const IF_MATCH: ParameterDescription = {
  name: 'If-Match',
  in: 'header',
  description: 'Only if the object is still in this version, the `ETag` of an answer before; else 412.',
  schema: z.string(),
};
const IF_NONE_MATCH: ParameterDescription = {
  name: 'If-None-Match',
  in: 'header',
  description: 'Answers 304, without the object, if it is still in this version.',
  schema: z.string(),
};
const ONLY_NEW: ParameterDescription = {
  name: 'If-None-Match',
  in: 'header',
  description: '`*`: only if there is none yet; else 412.',
  schema: z.literal('*'),
};

function force(kind: Kind): ParameterDescription[] {
  if (kind !== 'port') return [];
  const description = 'Also if the port has an owner. Only an admin may say so.';
  return [{ name: 'force', in: 'query', description, schema: z.literal('true') }];
}

function pageParameters(kind: Kind): ParameterDescription[] {
  return [
    {
      name: 'limit',
      in: 'query',
      description: `At most so many are looked at; ${DEFAULT_LIMIT} when it is not given.`,
      schema: z.int().min(1).max(MAX_LIMIT),
      example: 10,
    },
    {
      name: 'after',
      in: 'query',
      description: 'Goes on behind a page before: its `next`.',
      schema: z.string().max(1024),
    },
    ...filterFields(kind).map((field) => filterParameter(kind, field)),
    ...WATCH_PARAMETERS,
  ];
}

function filterParameter(kind: Kind, field: string): ParameterDescription {
  return {
    name: field,
    in: 'query',
    description: `Only those whose \`${field}\` is this.`,
    schema: z.string(),
    example: exampleOfField(kind, field),
  };
}

function exampleOfField(kind: Kind, field: string): string | number | boolean | undefined {
  const value = (toldExample(kind) as Readonly<Record<string, unknown>>)[field];
  return typeof value === 'object' || value === undefined ? undefined : (value as string | number | boolean);
}

/** The example as the API tells it. */
function toldExample<K extends Kind>(kind: K): TopologyTypes[K] {
  return validate(SCHEMAS[kind], EXAMPLES[kind], kind) as TopologyTypes[K];
}

const words = (kind: Kind) => kind.replaceAll('-', ' ');
const many = (kind: Kind) => segmentOf(kind).replaceAll('-', ' ');
const article = (kind: Kind) => (/^[aeio]/.test(kind) ? 'an' : 'a');
const one = (kind: Kind) => `${article(kind)} ${words(kind)}`;

function pageAnswer(kind: Kind): AnswerDescription {
  return {
    status: 200,
    description: 'A part of the collection. A page may be short, or empty, and still have a `next`.',
    content: { schema: `${schemaName(kind)}Page`, example: { items: [toldExample(kind)] } },
    alternative: WATCH_CONTENT,
    headers: { Link: '`rel="next"`: the address of the next page.' },
  };
}

function objectAnswer(kind: Kind, status: number, description: string): AnswerDescription {
  const headers = status === 201 ? { ...ETAG, Location: 'Where the object is.' } : ETAG;
  return { status, description, content: { schema: schemaName(kind), example: toldExample(kind) }, headers };
}

function collectionOperations(kind: Kind): OperationDescription[] {
  const path = `/v1/${segmentOf(kind)}`;
  const tag = schemaName(kind);
  return [
    {
      method: 'get',
      path,
      tag,
      summary: `List ${many(kind)}`,
      description: 'Of an admin those of all tenants, else those of the own one.',
      parameters: pageParameters(kind),
      answers: [pageAnswer(kind)],
    },
    {
      method: 'post',
      path,
      tag,
      summary: `Make ${one(kind)}`,
      description:
        'Without an `id` it gets a random one. Whoever chooses the id may send the same again: that answers 200 and changes nothing.',
      body: { schema: `${tag}Input`, example: EXAMPLES[kind] },
      answers: [
        objectAnswer(kind, 201, 'It has been made.'),
        objectAnswer(kind, 200, 'Just this has been made before.'),
      ],
      failures: [404, 409, 507],
    },
  ];
}

function itemOperations(kind: Kind): OperationDescription[] {
  const path = `/v1/${segmentOf(kind)}/{id}`;
  const tag = schemaName(kind);
  return [
    {
      method: 'get',
      path,
      tag,
      summary: `Get ${one(kind)}`,
      parameters: [IF_NONE_MATCH, ...WATCH_PARAMETERS],
      answers: [
        { ...objectAnswer(kind, 200, 'The object.'), alternative: WATCH_CONTENT },
        { status: 304, description: 'It is in the version that was named.' },
      ],
      failures: [404],
    },
    {
      method: 'put',
      path,
      tag,
      summary: `Replace ${one(kind)}, or make it`,
      description: 'Fields that are not in the body go back to their defaults.',
      parameters: [IF_MATCH, ONLY_NEW, ...force(kind)],
      body: { schema: `${tag}Input`, example: EXAMPLES[kind] },
      answers: [
        objectAnswer(kind, 200, 'It has been replaced.'),
        objectAnswer(kind, 201, 'There was none: it has been made.'),
      ],
      failures: [404, 409, 412, 507],
    },
    {
      method: 'patch',
      path,
      tag,
      summary: `Change fields of ${one(kind)}`,
      description:
        'A JSON Merge Patch (RFC 7396): fields that are given are set, null takes one away, the others stay. What others change at the same time is not lost.',
      parameters: [IF_MATCH, ...force(kind)],
      body: {
        schema: `${tag}Patch`,
        example: patchExample(kind),
        types: ['application/merge-patch+json', 'application/json'],
      },
      answers: [objectAnswer(kind, 200, 'It has been changed.')],
      failures: [404, 409, 412, 507],
    },
    {
      method: 'delete',
      path,
      tag,
      summary: `Delete ${one(kind)}`,
      description: 'Also when there is none, unless `If-Match` is given. What goes with it is deleted, too.',
      parameters: [IF_MATCH, ...force(kind)],
      answers: [{ status: 204, description: 'There is none any more.' }],
      failures: [409, 412],
    },
  ];
}

/** A patch that every kind takes: a field of the example that is no identifier, as it is there. */
function patchExample(kind: Kind): Record<string, unknown> {
  const fields = Object.entries(EXAMPLES[kind]);
  const [name, value] = fields.find(([field]) => field !== 'id' && !/Ids?$/.test(field)) ?? fields[0];
  return { [name]: value };
}

function nestedOperations(nested: NestedCollection): OperationDescription[] {
  const { parent, segment, row } = nested;
  const { kind, field } = row;
  const path = `/v1/${segmentOf(parent)}/{id}/${segment}`;
  const tag = schemaName(kind);
  const isOrdered = kind === 'rule' && field === 'chainId';
  const example = nestedExample(nested);
  return [
    {
      method: 'get',
      path,
      tag,
      summary: `List ${many(kind)} of ${one(parent)}`,
      description: isOrdered ? 'In the order in which packets meet them.' : undefined,
      parameters: pageParameters(kind),
      answers: [pageAnswer(kind)],
      failures: [404],
    },
    {
      method: 'post',
      path,
      tag,
      summary: `Make ${one(kind)} of ${one(parent)}`,
      description: `\`${field}\` follows from the path.${isOrdered ? ' Without a place it comes behind the other rules.' : ''}`,
      parameters: isOrdered ? PLACES : [],
      body: { schema: nestedInputName(nested), example },
      answers: [
        objectAnswer(kind, 201, 'It has been made.'),
        objectAnswer(kind, 200, 'Just this has been made before.'),
      ],
      failures: [404, 409, 507],
    },
  ];
}

/** What the example of a kind must be like to go with an object in a field that it does not name it in. */
const VARIANTS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  'port.routerId': { bridgeId: undefined, addresses: undefined, subnets: ['10.0.0.1/24', 'fd00::1/64'] },
  'route.nextHopPortId': { type: 'normal' },
  'rule.traceRequestId': { type: 'trace', condition: undefined },
  'trace-request.bridgeId': { portId: undefined },
  'trace-request.routerId': { portId: undefined },
};

/** Without the field, and with an id of its own: the same object cannot go with several in turn. */
function nestedExample({ row: { kind, field }, parent }: NestedCollection): Record<string, unknown> {
  const id = idFromName('example', kind, field, parent);
  const example = { ...EXAMPLES[kind], ...VARIANTS[`${kind}.${field}`], id, [field]: undefined };
  return Object.fromEntries(Object.entries(example).filter(([, value]) => value !== undefined));
}

const PLACES: readonly ParameterDescription[] = [
  { name: 'before', in: 'query', description: 'Comes right in front of this rule.', schema: z.uuid() },
  { name: 'after', in: 'query', description: 'Comes right behind this rule.', schema: z.uuid() },
  { name: 'first', in: 'query', description: 'Comes in front of all rules.', schema: z.literal('true') },
];
