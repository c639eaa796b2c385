import * as z from 'zod';
import { type Reference, referencesIn } from '../../topology/references.js';
import { encodeObject } from '../../topology/stored-form.js';
import type { Host, Kind, Port, Rule, TopologyTypes } from '../../topology/types.js';
import { encodeJson } from '../json.js';
import {
  bridgeVlanLinksPath,
  ipPath,
  macPath,
  namePath,
  objectPath,
  referencePath,
  sharedPath,
  tenantPath,
  uniquePath,
} from '../layout.js';
import { joinPath } from '../path.js';
import type { IpEntry, MacEntry } from '../tables/tables.js';

const EMPTY = new Uint8Array();

/** Which object an exclusive reference or a unique value belongs to. */
export const holderSchema = z.object({ id: z.string() });

/** A node that follows from an object and is made, changed and deleted with it. */
export interface IndexEntry {
  readonly path: string;
  readonly data: Uint8Array;
  /** The field it follows from, with the kind of object that holds it. */
  readonly field: string;
  readonly value: string;
  /** The reference that it notes; undefined for a value that must be unique, for a link, and for what `below` is undefined for. */
  readonly reference: Reference | undefined;
  /** The object below which it is. Undefined for an entry of the index of names or of tenants. */
  readonly below: { readonly kind: Kind; readonly id: string } | undefined;
}

/** The index entries that follow from an object. No two have the same path. */
export function indexEntries<K extends Kind>(kind: K, object: TopologyTypes[K]): IndexEntry[] {
  const entries = new Map<string, IndexEntry>();
  for (const reference of referencesIn(kind, object)) {
    const { row, id, field } = reference;
    const path = referencePath(row, object.id, id);
    if (path === undefined || entries.has(path)) continue;
    const data = referenceData(kind, object, reference);
    entries.set(path, { path, data, field: `${kind}.${field}`, value: id, reference, below: { kind: row.names, id } });
  }
  const links = kind === 'port' ? linkEntries(object as Port) : [];
  return [...entries.values(), ...uniqueEntries(kind, object), ...links, ...finderEntries(kind, object)];
}

/** What objects are found by wherever they are: their names, whose they are, and that all may use them. */
function finderEntries(
  kind: Kind,
  object: { readonly id: string; readonly name?: string; readonly tenantId?: string; readonly shared?: boolean },
): IndexEntry[] {
  const { id, name, tenantId, shared } = object;
  const entry = (path: string, field: string, value: string): IndexEntry => ({
    path,
    data: EMPTY,
    field: `${kind}.${field}`,
    value,
    reference: undefined,
    below: undefined,
  });
  return [
    ...(name === undefined ? [] : [entry(namePath(kind, name, id), 'name', name)]),
    ...(tenantId === undefined ? [] : [entry(tenantPath(tenantId, kind, id), 'tenantId', tenantId)]),
    ...(shared ? [entry(sharedPath(kind, id), 'shared', 'true')] : []),
  ];
}

/** Tells the interior ports of a bridge from the many others that it may have. */
function linkEntries({ id, bridgeId, peerId, vlanId }: Port): IndexEntry[] {
  if (bridgeId === undefined || peerId === undefined) return [];
  return [
    {
      path: joinPath(bridgeVlanLinksPath(bridgeId, vlanId ?? 0), id),
      data: EMPTY,
      field: 'port.peerId',
      value: peerId,
      reference: undefined,
      below: { kind: 'bridge', id: bridgeId },
    },
  ];
}

function referenceData(kind: Kind, object: TopologyTypes[Kind], { row, id }: Reference): Uint8Array {
  if (row.exclusive) return encodeJson({ id: object.id });
  // So that whoever needs a chain gets all of its rules by one watch.
  if (kind === 'rule' && row.names === 'chain' && row.field === 'chainId') return encodeObject('rule', object as Rule);
  if (kind !== 'host' || row.names !== 'tunnel-zone') return EMPTY;
  const { address } = (object as Host).tunnelZones.find(({ zoneId }) => zoneId === id)!;
  return encodeJson({ address });
}

/** Entries for values of which one bridge can have each only once. */
function uniqueEntries(kind: Kind, object: TopologyTypes[Kind]): IndexEntry[] {
  if (kind === 'port') return bridgeTableEntries(object as Port);
  if (kind === 'dhcp-subnet') return [subnetEntry(kind, object as TopologyTypes['dhcp-subnet'], 'cidr')];
  if (kind === 'dhcp-v6-subnet') return [subnetEntry(kind, object as TopologyTypes['dhcp-v6-subnet'], 'prefix')];
  return [];
}

function subnetEntry<F extends string>(
  kind: Kind,
  subnet: { readonly id: string; readonly bridgeId: string } & Readonly<Record<F, string>>,
  field: F,
): IndexEntry {
  const below = { kind: 'bridge', id: subnet.bridgeId } as const;
  return {
    path: uniquePath(objectPath('bridge', subnet.bridgeId), kind, field, subnet[field]),
    data: encodeJson({ id: subnet.id }),
    field: `${kind}.${field}`,
    value: subnet[field],
    reference: undefined,
    below,
  };
}

/** What a port seeds its bridge's tables with. */
function bridgeTableEntries({ id, bridgeId, mac, addresses }: Port): IndexEntry[] {
  if (bridgeId === undefined || mac === undefined) return [];
  const below = { kind: 'bridge', id: bridgeId } as const;
  const entry = (path: string, value: string, field: string, data: MacEntry | IpEntry): IndexEntry => ({
    path,
    data: encodeJson(data),
    field: `port.${field}`,
    value,
    reference: undefined,
    below,
  });
  return [
    entry(macPath(bridgeId, mac), mac, 'mac', { portId: id }),
    ...addresses.map((address) => entry(ipPath(bridgeId, address), address, 'addresses', { mac })),
  ];
}
