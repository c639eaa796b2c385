import { Router } from 'express';
import { InvalidInputError } from '../../errors.js';
import { type GroupKind, MEMBERS, type MemberInput } from '../../nsdb/repository/members.js';
import { segmentOf } from '../description/resources.js';
import { inBody } from '../requests/error-fields.js';
import { isRecord } from '../requests/merge-patch.js';
import { parseId, parsePaging, refuseOthers } from '../requests/object-query.js';
import { type Call, parameter, serve } from '../requests/serve.js';
import { NoSuchEntryError } from '../tenancy/request-errors.js';
import { sendPage } from './object-routes.js';

/** What the members of each kind are called in paths, and what names one of them. */
export const MEMBER_PATHS = {
  'ip-address-group': { segment: 'addresses', key: 'address' },
  'dhcp-subnet': { segment: 'hosts', key: 'mac' },
  'dhcp-v6-subnet': { segment: 'hosts', key: 'clientId' },
} as const satisfies Record<GroupKind, { segment: string; key: string }>;

/** `/v1/GROUPs/{id}/MEMBERs[/{name}]`: the addresses of a group, the machines of a DHCP subnet. */
export function memberRoutes(): Router {
  const router = Router();
  for (const kind of Object.keys(MEMBERS) as GroupKind[]) {
    const { segment, key } = MEMBER_PATHS[kind];
    const collection = `/${segmentOf(kind)}/:id/${segment}`;
    serve(router, collection, { get: (call) => list(call, kind) });
    serve(router, `${collection}/:${key}`, {
      get: (call) => show(call, kind),
      put: (call) => put(call, kind),
      delete: (call) => remove(call, kind),
    });
  }
  return router;
}

async function list(call: Call, kind: GroupKind): Promise<void> {
  const { scope, request, signal } = call;
  refuseOthers(request.query, ['limit', 'after']);
  const { after, limit } = parsePaging(request.query);
  const { object } = await scope.require(kind, parseId('id', parameter(call, 'id')));
  const members = scope.repository.members(kind, object.id);
  const { items, next } = await named('after', () => members.page(after, limit, signal));
  const { key } = MEMBER_PATHS[kind];
  sendPage(
    call,
    items.map(([name, value]) => ({ [key]: name, ...value })),
    next,
  );
}

async function show(call: Call, kind: GroupKind): Promise<void> {
  const { id, name } = await member(call, kind);
  const value = await call.scope.repository.members(kind, id).get(name, call.signal);
  if (value === undefined) throw new NoSuchEntryError('member', name);
  call.response.json({ [MEMBER_PATHS[kind].key]: name, ...value });
}

async function put(call: Call, kind: GroupKind): Promise<void> {
  const { request, response, scope, signal } = call;
  scope.requireWriter();
  const { id, name } = await member(call, kind);
  const { key } = MEMBER_PATHS[kind];
  const { [key]: own = name, ...value } = bodyOf(request.body);
  const isSame = typeof own === 'string' && (await named(key, () => MEMBERS[kind].name(own))) === name;
  if (!isSame) throw new InvalidInputError(key, own, `expected ${name}, as in the path`);
  const members = scope.repository.members(kind, id);
  try {
    // What is wrong with it is found out there.
    const isNew = await members.set(name, value as MemberInput<GroupKind>, signal);
    response.status(isNew ? 201 : 200).json({ [key]: name, ...(await members.get(name, signal)) });
  } catch (error) {
    throw inBody(error, kind, undefined);
  }
}

async function remove(call: Call, kind: GroupKind): Promise<void> {
  call.scope.requireWriter();
  const { id, name } = await member(call, kind);
  await call.scope.repository.members(kind, id).remove(name, call.signal);
  call.response.status(204).end();
}

/** The object in the path and the member, by its name in canonical text. */
async function member(call: Call, kind: GroupKind): Promise<{ id: string; name: string }> {
  refuseOthers(call.request.query, []);
  const { key } = MEMBER_PATHS[kind];
  const { object } = await call.scope.require(kind, parseId('id', parameter(call, 'id')));
  const name = await named(key, () => MEMBERS[kind].name(parameter(call, key)));
  return { id: object.id, name };
}

function bodyOf(body: unknown): Record<string, unknown> {
  if (body === undefined) return {};
  if (!isRecord(body)) throw new InvalidInputError('body', body, 'expected a JSON object');
  return body;
}

/** Errors about a member are about the parameter that names it. */
async function named<T>(parameter: string, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw inBody(error, 'member', parameter);
  }
}
