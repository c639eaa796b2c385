import { type IRouter, Router } from 'express';
import { InvalidInputError } from '../../errors.js';
import { SharedTable, type TableType } from '../../nsdb/tables/shared-table.js';
import {
  IP_TABLE,
  type IpEntry,
  LEARNED_ROUTE_TABLE,
  type LearnedRouteKey,
  type MacEntry,
  macTable,
  NEIGHBOR_TABLE,
} from '../../nsdb/tables/tables.js';
import { formatMac } from '../../packet/address.js';
import { formatIp, parseIp } from '../../packet/ip.js';
import { vlanId } from '../../topology/fields.js';
import type { Kind, TopologyTypes } from '../../topology/types.js';
import { segmentOf } from '../description/resources.js';
import { validateBody } from '../requests/error-fields.js';
import { parseId, parsePaging, refuseOthers } from '../requests/object-query.js';
import { type Call, parameter, serve } from '../requests/serve.js';
import { DerivedEntryError, LearnedEntryError, NoSuchEntryError } from '../tenancy/request-errors.js';
import { sendPage } from './object-routes.js';

/** A table as a collection below the object that it belongs to. */
interface TableResource<O extends Kind, K, V> {
  readonly owner: O;
  readonly segment: string;
  /** The parameter of the path that names an entry. */
  readonly key: string;
  /** Parameters that choose one of several tables. */
  readonly choices: readonly string[];
  table(call: Call): TableType<K, V>;
  /** The key as fields of an entry. */
  fieldsOf(key: K): Record<string, unknown>;
  /** What clients may put and delete; undefined for a table of which all is learned. */
  readonly seeds?: {
    /** @throws InvalidInputError for an entry that makes no sense */
    check(call: Call, owner: TopologyTypes[O], value: V): Promise<void>;
    /** The port that an entry follows from, if it does. */
    sourceOf(call: Call, owner: TopologyTypes[O], key: K, value: V): Promise<string | undefined>;
  };
}

const MACS: TableResource<'bridge', number, MacEntry> = {
  owner: 'bridge',
  segment: 'mac-table',
  key: 'mac',
  choices: ['vlan'],
  table: ({ request }) => macTable(vlanIn(request.query.vlan)),
  fieldsOf: (mac) => ({ mac: formatMac(mac) }),
  seeds: {
    check: async ({ scope }, bridge, { portId }) => {
      const port = await scope.find('port', portId);
      if (port?.object.bridgeId !== bridge.id)
        throw new InvalidInputError('portId', portId, 'expected a port of the bridge');
    },
    sourceOf: async ({ scope, request }, bridge, mac, { portId }) => {
      if (vlanIn(request.query.vlan) !== 0) return undefined;
      const port = await scope.find('port', portId);
      return port?.object.mac === formatMac(mac) && port.object.bridgeId === bridge.id ? portId : undefined;
    },
  },
};

const IPS: TableResource<'bridge', string, IpEntry> = {
  owner: 'bridge',
  segment: 'ip-table',
  key: 'address',
  choices: [],
  table: () => IP_TABLE,
  fieldsOf: (address) => ({ address }),
  seeds: {
    check: async () => {},
    sourceOf: async ({ scope, signal }, bridge, address, { mac }) => {
      const macs = new SharedTable(scope.repository.store, macTable(0), bridge.id);
      const behind = await macs.get(requireKey(macTable(0), 'mac', mac), { signal });
      const port = behind && (await scope.find('port', behind.value.portId));
      const isItsOwn = port?.object.bridgeId === bridge.id && port.object.addresses.includes(address);
      return isItsOwn ? port.object.id : undefined;
    },
  },
};

const NEIGHBORS: TableResource<'port', string, IpEntry> = {
  owner: 'port',
  segment: 'neighbors',
  key: 'address',
  choices: [],
  table: () => NEIGHBOR_TABLE,
  fieldsOf: (address) => ({ address }),
  seeds: {
    check: async (_call, { id, routerId }) => {
      if (routerId === undefined) throw new InvalidInputError('id', id, 'expected a port of a router');
    },
    sourceOf: async () => undefined,
  },
};

const LEARNED_ROUTES: TableResource<'router', LearnedRouteKey, { weight: number }> = {
  owner: 'router',
  segment: 'learned-routes',
  key: 'route',
  choices: [],
  table: () => LEARNED_ROUTE_TABLE,
  fieldsOf: (key) => ({ id: LEARNED_ROUTE_TABLE.formatKey(key), ...key }),
};

/** Which table is at which path, for those who describe the API. */
export const TABLE_PATHS: readonly Pick<TableResource<Kind, never, never>, 'owner' | 'segment' | 'key' | 'choices'>[] =
  [MACS, IPS, NEIGHBORS, LEARNED_ROUTES];

/** `/v1/OWNERs/{id}/TABLE[/{key}]`: what hosts have learned, and what was put there for good. */
export function tableRoutes(): Router {
  const router = Router();
  serveTable(router, MACS);
  serveTable(router, IPS);
  serveTable(router, NEIGHBORS);
  serveTable(router, LEARNED_ROUTES);
  return router;
}

function serveTable<O extends Kind, K, V extends object>(router: IRouter, resource: TableResource<O, K, V>): void {
  const { seeds } = resource;
  const collection = `/${segmentOf(resource.owner)}/:id/${resource.segment}`;
  serve(router, collection, { get: (call) => list(call, resource) });
  serve(router, `${collection}/:${resource.key}`, {
    get: async (call) => {
      const { table, key, name } = await entry(call, resource);
      const found = await table.get(key, { signal: call.signal });
      if (found === undefined) throw new NoSuchEntryError(resource.table(call).name, name);
      call.response.json({ ...resource.fieldsOf(key), ...found.value, learned: found.isLearned });
    },
    ...(seeds && { put: (call) => put(call, resource, seeds), delete: (call) => remove(call, resource, seeds) }),
  });
}

async function list<O extends Kind, K, V extends object>(call: Call, resource: TableResource<O, K, V>): Promise<void> {
  const { request, scope, signal } = call;
  refuseOthers(request.query, ['limit', 'after', ...resource.choices]);
  const { after, limit } = parsePaging(request.query);
  const type = resource.table(call);
  const owner = await scope.require(resource.owner, parseId('id', parameter(call, 'id')));
  const table = new SharedTable(scope.repository.store, type, owner.object.id);
  const from = after === undefined ? undefined : requireKey(type, 'after', after);
  const { items, next } = await table.page(from, limit, { signal });
  sendPage(
    call,
    items.map(({ key, value, isLearned }) => ({ ...resource.fieldsOf(key), ...value, learned: isLearned })),
    next,
  );
}

async function put<O extends Kind, K, V extends object>(
  call: Call,
  resource: TableResource<O, K, V>,
  seeds: NonNullable<TableResource<O, K, V>['seeds']>,
): Promise<void> {
  const { request, response, scope, signal } = call;
  scope.requireWriter();
  const { owner, table, key, name } = await entry(call, resource);
  const value = validateBody(resource.table(call).value, request.body);
  await seeds.check(call, owner, value);
  const existing = await table.get(key, { signal });
  await refuseDerived(call, resource, seeds, owner, key, name, existing?.value);
  await table.put(key, value, { signal });
  const isNew = existing === undefined || existing.isLearned;
  response.status(isNew ? 201 : 200).json({ ...resource.fieldsOf(key), ...value, learned: false });
}

async function remove<O extends Kind, K, V extends object>(
  call: Call,
  resource: TableResource<O, K, V>,
  seeds: NonNullable<TableResource<O, K, V>['seeds']>,
): Promise<void> {
  const { response, scope, signal } = call;
  scope.requireWriter();
  const { owner, table, key, name } = await entry(call, resource);
  const existing = await table.get(key, { signal });
  await refuseDerived(call, resource, seeds, owner, key, name, existing?.value);
  const isGone = await table.remove(key, { signal });
  if (!isGone) throw new LearnedEntryError(`entry of the ${resource.table(call).name}`, name);
  response.status(204).end();
}

/** An entry that follows from a port is changed by changing the port. */
async function refuseDerived<O extends Kind, K, V extends object>(
  call: Call,
  resource: TableResource<O, K, V>,
  seeds: NonNullable<TableResource<O, K, V>['seeds']>,
  owner: TopologyTypes[O],
  key: K,
  name: string,
  value: V | undefined,
): Promise<void> {
  const portId = value && (await seeds.sourceOf(call, owner, key, value));
  if (portId !== undefined) {
    throw new DerivedEntryError(`entry of the ${resource.table(call).name}`, name, 'port', portId);
  }
}

/** What is at the path of an entry. */
async function entry<O extends Kind, K, V extends object>(call: Call, resource: TableResource<O, K, V>) {
  const { request, scope } = call;
  refuseOthers(request.query, resource.choices);
  const type = resource.table(call);
  const name = parameter(call, resource.key);
  const key = requireKey(type, resource.key, name);
  const { object: owner } = await scope.require(resource.owner, parseId('id', parameter(call, 'id')));
  return { owner, key, name, table: new SharedTable(scope.repository.store, type, owner.id) };
}

/** @throws InvalidInputError naming the parameter */
function requireKey<K, V>(type: TableType<K, V>, parameter: string, text: string): K {
  const ip = parseIp(text);
  const key = type.parseKey(ip === undefined ? text : formatIp(ip));
  if (key === undefined) throw new InvalidInputError(parameter, text, `expected a key of the ${type.name}`);
  return key;
}

/** @throws InvalidInputError */
function vlanIn(text: unknown): number {
  if (text === undefined || text === '0') return 0;
  const vlan = vlanId.safeParse(typeof text === 'string' && /^\d{1,4}$/.test(text) ? Number(text) : text);
  if (!vlan.success) throw new InvalidInputError('vlan', text, 'expected a VLAN from 1 to 4094, or 0 for none');
  return vlan.data;
}
