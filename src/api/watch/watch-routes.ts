import { type NextFunction, type Request, type Response, Router } from 'express';
import type { Logger } from 'pino';
import * as z from 'zod';
import { InvalidInputError } from '../../errors.js';
import { ObjectNotFoundError } from '../../nsdb/topology-errors.js';
import { refersTo } from '../../topology/references.js';
import { KINDS, type Kind, type TopologyTypes } from '../../topology/types.js';
import type { OperationDescription, ParameterDescription } from '../description/operation.js';
import { NESTED, segmentOf } from '../description/resources.js';
import type { Place } from '../feeds/feed.js';
import type { Feeds } from '../feeds/feeds.js';
import type { ApiContext, Locals } from '../requests/context.js';
import { type Filter, matches, parseId, parseObjectQuery, refuseOthers } from '../requests/object-query.js';
import { serve } from '../requests/serve.js';
import type { Caller } from '../tenancy/caller.js';
import { ADMIN_KINDS, maySee, tenantOf } from '../tenancy/tenancy.js';
import { EVENT_STREAM, type Selection, WatchStream } from './watch-stream.js';

export const WATCH_EVENTS = `id:
event: reset
data: {}

event: put
data: {"kind":"bridge","object":{"id":"7c1f0e52-8a4e-4c53-9f43-2b1b0a6f3c11","name":"web","adminStateUp":true},"etag":"\\"4711\\""}

id: 4720-5ca1ab1e
event: current
data: {}

event: delete
data: {"kind":"bridge","id":"7c1f0e52-8a4e-4c53-9f43-2b1b0a6f3c11"}

id: 4735-5ca1ab1e

`;

/** Where a stream ended: a version, and the feeds that gave it if they have a name. */
const PLACE = /^(\d{1,16})(?:-([0-9a-f]{8}))?$/;

/** How whoever was cut off says where. */
export const PLACES: readonly ParameterDescription[] = [
  {
    name: 'from',
    in: 'query',
    description: 'Of a stream: the last `id` that one gave, such as `4720-5ca1ab1e`, behind which it goes on.',
    schema: z.string().regex(PLACE),
  },
  {
    name: 'Last-Event-ID',
    in: 'header',
    description: 'The same, as browsers send it when they come back; it goes before `from`.',
    schema: z.string().regex(PLACE),
  },
];

export const WATCH_OPERATIONS: readonly OperationDescription[] = [
  {
    method: 'get',
    path: '/v1/watch',
    tag: 'Watch',
    summary: 'Watch objects of several kinds',
    description:
      'Server-sent events: `reset`, a `put` for each object, `current`, and then a `put` or `delete` for every change. Whoever was cut off names the last `id` to be told only what changed since.',
    parameters: [
      {
        name: 'kinds',
        in: 'query',
        description: 'Kinds with commas between them; all when absent.',
        schema: z.string(),
        example: 'bridge,port',
      },
      {
        name: 'tenantId',
        in: 'query',
        description: 'Only what belongs to the tenant.',
        schema: z.string(),
        example: 'acme',
      },
      ...PLACES,
    ],
    answers: [
      {
        status: 200,
        description: 'A stream that goes on until one side ends it.',
        content: { schema: z.string(), example: WATCH_EVENTS, types: ['text/event-stream'] },
      },
    ],
  },
];

/** What a client asks to watch. */
interface WatchRequest {
  readonly kinds: readonly Kind[];
  /** Where a stream ended; undefined: tell everything. */
  readonly from: Place | undefined;
  /** Only what belongs to the tenant. */
  readonly tenantId: string | undefined;
  readonly wants: Selection['wants'];
  /** The object that must be there. */
  readonly id?: string;
}

/**
 * Streams of server-sent events: of `/v1/watch`, and in the place of the answer wherever objects are, for those who accept
 * nothing else or say `watch=true`.
 */
export function watchRoutes({ log }: ApiContext, feeds: Feeds): Router {
  const router = Router();
  const start = (response: Response, asked: WatchRequest) => watch(log, feeds, response, asked);
  serve(router, '/watch', {
    get: async ({ request, response, scope }) => {
      refuseOthers(request.query, ['kinds', 'tenantId', 'from', 'watch']);
      const kinds = kindsIn(request.query.kinds) ?? KINDS.filter((kind) => scope.isAdmin || !ADMIN_KINDS.has(kind));
      const asked = { kinds, ...whereFrom(feeds, request), wants: undefined };
      // Of HEAD nothing would ever come.
      if (request.method === 'HEAD') response.type(EVENT_STREAM).end();
      else await start(response, asked);
    },
  });
  // What else may be done with objects is told where it is done.
  router.use((request, _response, next) => next(request.method === 'OPTIONS' ? 'router' : undefined));
  for (const kind of KINDS) {
    router.get(`/${segmentOf(kind)}`, streamOnly, async (request, response) => {
      const filters = filtersIn(kind, request);
      const wants = filters.length > 0 ? (object: TopologyTypes[Kind]) => matches(filters, object) : undefined;
      await start(response, { kinds: [kind], ...whereFrom(feeds, request), wants });
    });
    router.get(`/${segmentOf(kind)}/:id`, streamOnly, async (request, response) => {
      refuseOthers(request.query, ['from', 'watch']);
      const id = parseId('id', request.params.id);
      await start(response, { kinds: [kind], ...whereFrom(feeds, request), wants: (object) => object.id === id, id });
    });
  }
  for (const { parent, segment, row } of NESTED) {
    router.get(`/${segmentOf(parent)}/:id/${segment}`, streamOnly, async (request, response) => {
      const { scope } = response.locals as Locals;
      const filters = filtersIn(row.kind, request);
      const { object } = await scope.require(parent, parseId('id', request.params.id));
      const wants = (one: TopologyTypes[Kind]) => refersTo(row, one, object.id) && matches(filters, one);
      await start(response, { kinds: [row.kind], ...whereFrom(feeds, request), wants });
    });
  }
  return router;
}

async function watch(
  log: Logger,
  feeds: Feeds,
  response: Response,
  { kinds, from, tenantId, wants, id }: WatchRequest,
): Promise<void> {
  const { caller, signal } = response.locals as Locals;
  const selection = { maySee: sight(caller, tenantId), wants };
  const stream = new WatchStream({ response, feeds, kinds, caller, selection, log });
  try {
    await stream.catchUp(signal);
    const isMissing = id !== undefined && from === undefined && (await stream.find(id)) === undefined;
    if (isMissing) throw new ObjectNotFoundError(kinds[0], id);
  } catch (error) {
    stream.end();
    throw error;
  }
  await stream.run(from);
}

/** What the caller may see of a tenant, or of all. */
function sight(caller: Caller, tenantId: string | undefined): Selection['maySee'] {
  if (caller.role === 'admin' && tenantId === undefined) return undefined;
  return async (lookup, kind, object) =>
    (await maySee(caller, lookup, kind, object)) &&
    (tenantId === undefined || (await tenantOf(lookup, kind, object)) === tenantId);
}

/** Leaves requests for an ordinary answer to others. */
function streamOnly({ method, query, headers }: Request, _response: Response, next: NextFunction): void {
  const { watch } = query;
  if (watch !== undefined && watch !== 'true') throw new InvalidInputError('watch', watch, 'expected true');
  const isWanted = watch === 'true' || /\btext\/event-stream\b/i.test(headers.accept ?? '');
  next(isWanted && method === 'GET' ? undefined : 'route');
}

function filtersIn(kind: Kind, { query }: Request): readonly Filter[] {
  const { watch, from, tenantId, ...fields } = query;
  for (const name of ['limit', 'after']) {
    if (fields[name] !== undefined)
      throw new InvalidInputError(name, fields[name], 'expected none: a stream has no pages');
  }
  return parseObjectQuery(kind, fields).filters;
}

/** @throws InvalidInputError */
function whereFrom(
  feeds: Feeds,
  { headers, query: { from, tenantId } }: Request,
): Pick<WatchRequest, 'from' | 'tenantId'> {
  if (tenantId !== undefined && typeof tenantId !== 'string') {
    throw new InvalidInputError('tenantId', tenantId, 'expected one value');
  }
  // Who comes back to a URL with `from` has been told more meanwhile.
  const last = headers['last-event-id'] || undefined;
  if (last !== undefined) return { from: parsePlace(feeds, 'last-event-id', last), tenantId };
  return { from: from === undefined ? undefined : parsePlace(feeds, 'from', from), tenantId };
}

function parsePlace(feeds: Feeds, field: string, text: unknown): Place {
  const [, version, feedsId] = (typeof text === 'string' && PLACE.exec(text)) || [];
  if (version === undefined || !Number.isSafeInteger(Number(version))) {
    throw new InvalidInputError(field, text, 'expected the id of an event of such a stream');
  }
  return { version: Number(version), isOurs: feedsId === feeds.id };
}

/** @throws InvalidInputError */
function kindsIn(text: unknown): readonly Kind[] | undefined {
  if (text === undefined) return undefined;
  const names = typeof text === 'string' ? text.split(',') : [];
  const kinds = KINDS.filter((kind) => names.includes(kind));
  if (kinds.length === 0 || kinds.length !== new Set(names).size) {
    throw new InvalidInputError('kinds', text, `expected some of ${KINDS.join(', ')}, with commas between them`);
  }
  return kinds;
}
