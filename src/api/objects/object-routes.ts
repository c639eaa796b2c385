import { type Request, Router } from 'express';
import { InvalidInputError } from '../../errors.js';
import { ObjectConflictError } from '../../nsdb/topology-errors.js';
import { KINDS, type Kind, type Rule } from '../../topology/types.js';
import { NESTED, type NestedCollection, segmentOf } from '../description/resources.js';
import { checkEntityTags, etagOf, ifMatchNames, ifNoneMatchNames } from '../requests/etag.js';
import { isRecord } from '../requests/merge-patch.js';
import { matches, type ObjectQuery, parseId, parseObjectQuery, refuseOthers } from '../requests/object-query.js';
import { told } from '../requests/secrets.js';
import { type Call, parameter, serve } from '../requests/serve.js';
import { PreconditionFailedError } from '../tenancy/request-errors.js';
import { type Change, carryOut, isChanged, type Outcome } from './changes.js';
import { listObjects } from './listing.js';
import { changeParameters, checkOwner, isForced } from './port-owner.js';
import type { RulePlace } from './rule-place.js';

/** `/v1/KINDs`, `/v1/KINDs/{id}` and `/v1/PARENTs/{id}/KINDs`: objects are treated alike whatever they are. */
export function objectRoutes(): Router {
  const router = Router();
  for (const kind of KINDS) {
    const collection = `/${segmentOf(kind)}`;
    serve(router, collection, {
      get: (call) => list(call, kind, parseObjectQuery(kind, call.request.query)),
      post: async (call) => {
        refuseOthers(call.request.query, []);
        answer(call, await change(call, { op: 'create', kind, body: call.request.body }));
      },
    });
    serve(router, `${collection}/:id`, {
      get: (call) => show(call, kind),
      put: (call) => put(call, kind),
      patch: (call) => patch(call, kind),
      delete: (call) => remove(call, kind),
    });
  }
  for (const nested of NESTED) {
    serve(router, `/${segmentOf(nested.parent)}/:id/${nested.segment}`, {
      get: (call) => listBelow(call, nested),
      post: (call) => createBelow(call, nested),
    });
  }
  return router;
}

async function list(call: Call, kind: Kind, query: ObjectQuery): Promise<void> {
  const { scope, signal } = call;
  const { items, next } = await listObjects(scope, kind, query, signal);
  sendPage(
    call,
    items.map(({ object }) => told(kind, object)),
    next,
  );
}

/** Send a part of a list, and where the rest is. */
export function sendPage({ request, response }: Call, items: readonly unknown[], next: string | undefined): void {
  if (next !== undefined) {
    const { path, query, baseUrl } = request;
    const parameters = new URLSearchParams({ ...(query as Record<string, string>), after: next });
    response.set('Link', `<${baseUrl}${path}?${parameters}>; rel="next"`);
  }
  response.json({ items, next });
}

async function listBelow(call: Call, { parent, row }: NestedCollection): Promise<void> {
  const query = parseObjectQuery(row.kind, call.request.query);
  const { object } = await call.scope.require(parent, parseId('id', parameter(call, 'id')));
  if (row.kind === 'rule' && row.field === 'chainId') return listRules(call, object.id, query);
  await list(call, row.kind, { ...query, filters: [{ field: row.field, value: object.id, row }, ...query.filters] });
}

/** In the order in which they are looked at, which is what a chain is about; a page costs reading the chain. */
async function listRules(call: Call, chainId: string, { filters, after, limit }: ObjectQuery): Promise<void> {
  // A point comes before all digits, so that these sort as the rules do.
  const placeOf = (rule: Rule) => `${rule.position}.${rule.id}`;
  const rules = await call.scope.repository.rulesOf(chainId, call.signal);
  const rest = rules.filter((rule) => after === undefined || placeOf(rule) > after);
  const page = rest.slice(0, limit);
  const next = rest.length > limit ? placeOf(rest[limit - 1]) : undefined;
  sendPage(
    call,
    page.filter((rule) => matches(filters, rule)),
    next,
  );
}

async function createBelow(call: Call, { parent, row }: NestedCollection): Promise<void> {
  const { request, scope } = call;
  const { object } = await scope.require(parent, parseId('id', parameter(call, 'id')));
  const isRule = row.kind === 'rule' && row.field === 'chainId';
  if (!isRule) refuseOthers(request.query, []);
  const body: unknown = request.body;
  const named = isRecord(body) ? body[row.field] : undefined;
  if (named !== undefined && parseId(row.field, named) !== object.id) {
    throw new InvalidInputError(row.field, named, `expected ${object.id}, as in the path`);
  }
  const place = isRule ? placeIn(request.query) : undefined;
  const full = isRecord(body) ? { ...body, [row.field]: object.id } : body;
  answer(call, await change(call, { op: 'create', kind: row.kind, body: full, place }));
}

/** @throws InvalidInputError */
function placeIn(query: Readonly<Record<string, unknown>>): RulePlace {
  refuseOthers(query, ['before', 'after', 'first']);
  const { before, after, first } = query;
  if (Object.keys(query).length > 1)
    throw new InvalidInputError('before', before, 'expected one of before, after and first');
  if (before !== undefined) return { before: parseId('before', before) };
  if (after !== undefined) return { after: parseId('after', after) };
  if (first !== undefined && first !== 'true') throw new InvalidInputError('first', first, 'expected true');
  return { first: first === 'true' };
}

async function show(call: Call, kind: Kind): Promise<void> {
  const { request, response, scope } = call;
  refuseOthers(request.query, []);
  const { object, modified } = await scope.require(kind, parseId('id', parameter(call, 'id')));
  const ifNoneMatch = request.get('if-none-match');
  response.set('ETag', etagOf(modified));
  if (ifNoneMatch !== undefined && ifNoneMatchNames(ifNoneMatch, modified)) response.status(304).end();
  else response.json(told(kind, object));
}

/** @throws InvalidInputError */
function ifMatchOf(request: Request): string | undefined {
  const ifMatch = request.get('if-match');
  checkEntityTags('if-match', ifMatch);
  return ifMatch;
}

async function put(call: Call, kind: Kind): Promise<void> {
  const { request, scope } = call;
  refuseOthers(request.query, changeParameters(kind));
  const id = parseId('id', parameter(call, 'id'));
  const ifNoneMatch = request.get('if-none-match');
  if (ifNoneMatch !== undefined && ifNoneMatch.trim() !== '*') {
    throw new InvalidInputError('if-none-match', ifNoneMatch, 'expected *');
  }
  const ifMatch = ifMatchOf(request);
  const onlyNew = ifNoneMatch !== undefined;
  const force = isForced(scope, request.query);
  answer(call, await change(call, { op: 'replace', kind, id, body: request.body, ifMatch, onlyNew, force }));
}

async function patch(call: Call, kind: Kind): Promise<void> {
  const { request, scope } = call;
  refuseOthers(request.query, changeParameters(kind));
  const id = parseId('id', parameter(call, 'id'));
  const ifMatch = ifMatchOf(request);
  const force = isForced(scope, request.query);
  answer(call, await change(call, { op: 'patch', kind, id, body: request.body, ifMatch, force }));
}

/** What goes with the object may be more than one transaction holds. */
async function remove(call: Call, kind: Kind): Promise<void> {
  const { request, response, scope, signal } = call;
  refuseOthers(request.query, changeParameters(kind));
  const id = parseId('id', parameter(call, 'id'));
  const ifMatch = ifMatchOf(request);
  scope.requireWriter();
  const force = isForced(scope, request.query);
  for (let isChecked = false; !isChecked; ) {
    const found = await scope.find(kind, id);
    if (ifMatch !== undefined && !ifMatchNames(ifMatch, found?.modified)) {
      throw new PreconditionFailedError(kind, id, isChanged(found));
    }
    if (found === undefined) break;
    await scope.checkChange(kind, found.object, undefined, new Map());
    if (!force) checkOwner(kind, found.object, undefined);
    isChecked = true;
    // What was checked is what is deleted: somebody may change it, or make another of that name, meanwhile.
    const isSame = (_object: unknown, modified: number) => {
      isChecked = modified === found.modified;
      return isChecked;
    };
    try {
      await scope.repository.deleteIf(kind, id, isSame, signal);
    } catch (error) {
      throw await scope.conceal(error);
    }
  }
  response.status(204).end();
}

async function change({ scope, signal }: Call, change: Change): Promise<Outcome> {
  const [outcome] = await carryOut(scope, [change], () => undefined, signal);
  return outcome;
}

function answer({ response }: Call, { kind, id, result, stored }: Outcome): void {
  // Somebody deleted it as soon as it was there.
  if (stored === undefined) throw new ObjectConflictError(kind, id);
  if (result === 'created') response.status(201).location(`/v1/${segmentOf(kind)}/${id}`);
  response.set('ETag', etagOf(stored.modified)).json(told(kind, stored.object));
}
