import * as z from 'zod';
import { type GroupKind, MEMBERS } from '../../nsdb/repository/members.js';
import { ipEntrySchema, learnedRouteSchema, macEntrySchema } from '../../nsdb/tables/tables.js';
import { mac } from '../../topology/fields.js';
import type { Kind } from '../../topology/types.js';
import { EXAMPLES, ROUTER_PORT_EXAMPLE } from '../description/examples.js';
import { schemaName } from '../description/openapi-schemas.js';
import type { OperationDescription, ParameterDescription } from '../description/operation.js';
import { segmentOf } from '../description/resources.js';
import { DEFAULT_LIMIT, MAX_LIMIT } from '../requests/object-query.js';
import { linkSchema } from './link-routes.js';
import { MEMBER_PATHS } from './member-routes.js';

/** What overview-routes.ts, member-routes.ts, table-routes.ts and link-routes.ts do, in words. */
export function entryOperations(): OperationDescription[] {
  return [...OVERVIEW, ...MEMBER_EXAMPLES.flatMap(memberOperations), ...TABLES.flatMap(collectionOfEntries), ...LINKS];
}

const pageOf = (entry: z.ZodType) => z.strictObject({ items: z.array(entry), next: z.string().optional() });

const PAGE: readonly ParameterDescription[] = [
  {
    name: 'limit',
    in: 'query',
    description: `At most so many; ${DEFAULT_LIMIT} when it is not given.`,
    schema: z.int().min(1).max(MAX_LIMIT),
    example: 10,
  },
  {
    name: 'after',
    in: 'query',
    description: 'Goes on behind a page before: its `next`.',
    schema: z.string().max(1024),
  },
];

const hostStatusSchema = z.strictObject({ id: z.uuid(), alive: z.boolean() });

const OVERVIEW: readonly OperationDescription[] = [
  {
    method: 'get',
    path: '/v1',
    tag: 'API',
    summary: 'Say what there is, and who asks',
    answers: [
      {
        status: 200,
        description: 'Where the collections are, and the rest; who the request is taken to come from.',
        content: {
          schema: z.looseObject({
            caller: z.strictObject({
              name: z.string(),
              role: z.enum(['admin', 'tenant-admin', 'tenant-reader']),
              tenantId: z.string().optional(),
            }),
            collections: z.record(z.string(), z.string()),
          }),
          example: {
            caller: { name: 'ann', role: 'tenant-admin', tenantId: 'blue' },
            collections: { bridges: '/v1/bridges' },
            tenants: '/v1/tenants',
            documentation: '/docs',
          },
        },
      },
    ],
  },
  {
    method: 'get',
    path: '/v1/tenants',
    tag: 'Tenant',
    summary: 'List the tenants that own something',
    description: 'Of an admin, by name; others get their own.',
    parameters: PAGE,
    answers: [
      {
        status: 200,
        description: 'Their names.',
        content: { schema: pageOf(z.strictObject({ id: z.string() })), example: { items: [{ id: 'blue' }] } },
      },
    ],
  },
  {
    method: 'get',
    path: '/v1/hosts/{id}/status',
    tag: 'Host',
    summary: 'Say whether the agent of a host runs',
    answers: [
      {
        status: 200,
        description: 'Whether it does.',
        content: {
          schema: hostStatusSchema,
          example: { id: EXAMPLES.host.id, alive: true },
        },
      },
    ],
    failures: [404],
  },
  {
    method: 'get',
    path: '/v1/host-status',
    tag: 'Host',
    summary: 'Say of all hosts whether their agents run',
    description: 'For admins.',
    parameters: PAGE,
    answers: [
      {
        status: 200,
        description: 'Of each host, whether it does.',
        content: { schema: pageOf(hostStatusSchema), example: { items: [{ id: EXAMPLES.host.id, alive: true }] } },
      },
    ],
  },
];

/** A member of an object of each kind that has some. */
const MEMBER_EXAMPLES: readonly { kind: GroupKind; name: string; value: Record<string, unknown> }[] = [
  { kind: 'ip-address-group', name: '198.51.100.7', value: {} },
  { kind: 'dhcp-subnet', name: '02:00:00:00:00:10', value: { address: '10.0.0.10', name: 'web-1' } },
  { kind: 'dhcp-v6-subnet', name: '00030001020000000010', value: { address: 'fd00:0:0:1::10', name: 'web-1' } },
];

function memberOperations({ kind, name, value }: (typeof MEMBER_EXAMPLES)[number]): OperationDescription[] {
  const { segment, key } = MEMBER_PATHS[kind];
  const given = MEMBERS[kind].schema;
  return collectionOfEntries({
    owner: kind,
    segment,
    key,
    what: segment === 'addresses' ? 'address' : 'host',
    name,
    body: { schema: given.extend({ [key]: z.string().optional() }), example: value },
    entry: { schema: given.extend({ [key]: z.string() }), example: { [key]: name, ...value } },
  });
}

const learned = z.boolean();

const TABLES: readonly EntryCollection[] = [
  {
    owner: 'bridge',
    segment: 'mac-table',
    key: 'mac',
    what: 'entry of the MAC table',
    name: '02:00:00:00:00:30',
    parameters: [
      {
        name: 'vlan',
        in: 'query',
        description:
          'The table of packets with the tag of this VLAN; 0, or when it is not given: of those without a tag.',
        schema: z.int().min(0).max(4094),
        example: 7,
      },
    ],
    body: { schema: macEntrySchema, example: { portId: EXAMPLES.port.id } },
    entry: {
      schema: macEntrySchema.extend({ mac, learned }),
      example: { mac: '02:00:00:00:00:30', portId: EXAMPLES.port.id, learned: false },
    },
  },
  {
    owner: 'bridge',
    segment: 'ip-table',
    key: 'address',
    what: 'entry of the IP table',
    name: '10.0.0.30',
    body: { schema: ipEntrySchema, example: { mac: '02:00:00:00:00:30' } },
    entry: {
      schema: ipEntrySchema.extend({ address: z.string(), learned }),
      example: { address: '10.0.0.30', mac: '02:00:00:00:00:30', learned: false },
    },
  },
  {
    owner: 'port',
    segment: 'neighbors',
    key: 'address',
    what: 'neighbor of a port of a router',
    ownerId: ROUTER_PORT_EXAMPLE.object.id,
    name: '10.0.0.9',
    body: { schema: ipEntrySchema, example: { mac: '02:00:00:00:00:09' } },
    entry: {
      schema: ipEntrySchema.extend({ address: z.string(), learned }),
      example: { address: '10.0.0.9', mac: '02:00:00:00:00:09', learned: false },
    },
  },
  {
    owner: 'router',
    segment: 'learned-routes',
    key: 'route',
    what: 'learned route',
    name: `10.8.0.0_16,10.0.0.9,${ROUTER_PORT_EXAMPLE.object.id}`,
    entry: {
      schema: learnedRouteSchema.extend({
        id: z.string(),
        destination: z.string(),
        nextHop: z.string().optional(),
        portId: z.uuid(),
        learned,
      }),
      example: {
        id: `10.8.0.0_16,10.0.0.9,${ROUTER_PORT_EXAMPLE.object.id}`,
        destination: '10.8.0.0/16',
        nextHop: '10.0.0.9',
        portId: ROUTER_PORT_EXAMPLE.object.id,
        weight: 20,
        learned: true,
      },
    },
  },
];

/** What belongs to an object and has a name there instead of an id. */
interface EntryCollection {
  readonly owner: Kind;
  readonly segment: string;
  /** The parameter of the path. */
  readonly key: string;
  /** What one of them is, in words. */
  readonly what: string;
  /** Of the example: the object, when not the example of its kind, and the entry. */
  readonly ownerId?: string;
  readonly name: string;
  readonly parameters?: readonly ParameterDescription[];
  /** Undefined where clients change nothing. */
  readonly body?: { readonly schema: z.ZodType; readonly example: unknown };
  readonly entry: { readonly schema: z.ZodType; readonly example: unknown };
}

function collectionOfEntries(collection: EntryCollection): OperationDescription[] {
  const { owner, segment, key, what, name, ownerId, parameters = [], body, entry } = collection;
  const path = `/v1/${segmentOf(owner)}/{id}/${segment}`;
  const tag = schemaName(owner);
  const ofOwner: ParameterDescription = {
    name: 'id',
    in: 'path',
    description: `Of the ${owner.replaceAll('-', ' ')}.`,
    schema: z.uuid(),
    example: ownerId ?? EXAMPLES[owner].id,
  };
  const ofEntry: ParameterDescription = {
    name: key,
    in: 'path',
    description: `Names the ${what}.`,
    schema: z.string(),
    example: name,
  };
  const item = { path: `${path}/{${key}}`, tag, parameters: [ofOwner, ofEntry, ...parameters] };
  const one = (status: number, description: string) => ({ status, description, content: entry });
  return [
    ...(body === undefined ? [] : [put()]),
    {
      method: 'get',
      path,
      tag,
      summary: `List ${segment.replaceAll('-', ' ')} of ${owner.replaceAll('-', ' ')}`,
      parameters: [ofOwner, ...PAGE, ...parameters],
      answers: [
        {
          status: 200,
          description: 'A part of them.',
          content: { schema: pageOf(entry.schema), example: { items: [entry.example] } },
        },
      ],
      failures: [404],
    },
    { ...item, method: 'get', summary: `Get the ${what}`, answers: [one(200, 'As it is.')], failures: [404] },
    ...(body === undefined ? [] : [remove()]),
  ];

  function put(): OperationDescription {
    return {
      ...item,
      method: 'put',
      summary: `Put the ${what} there for good`,
      body,
      answers: [one(200, 'It has taken the place of one before.'), one(201, 'It has been made.')],
      failures: [404, 409, 507],
    };
  }

  function remove(): OperationDescription {
    return {
      ...item,
      method: 'delete',
      summary: `Take the ${what} away`,
      description: 'Also when there is none.',
      answers: [{ status: 204, description: 'There is none any more.' }],
      failures: [404, 409],
    };
  }
}

const LINK = { path: '/v1/ports/{id}/link', tag: 'Port' } as const;
const link = {
  schema: z.strictObject({ portId: z.uuid(), peerId: z.uuid() }),
  example: { portId: EXAMPLES.port.id, peerId: ROUTER_PORT_EXAMPLE.object.id },
};

const LINKS: readonly OperationDescription[] = [
  {
    ...LINK,
    method: 'put',
    summary: 'Link a port to another',
    description: 'Both name each other then; neither may be bound to an interface, or linked to another port.',
    body: { schema: linkSchema, example: { peerId: ROUTER_PORT_EXAMPLE.object.id } },
    answers: [{ status: 200, description: 'They are linked.', content: link }],
    failures: [404, 409],
  },
  {
    ...LINK,
    method: 'get',
    summary: 'Get the port at the other end',
    answers: [{ status: 200, description: 'Both ends.', content: link }],
    failures: [404],
  },
  {
    ...LINK,
    method: 'delete',
    summary: 'Take a link away',
    answers: [{ status: 204, description: 'Neither port is linked any more.' }],
    failures: [404, 409],
  },
];
