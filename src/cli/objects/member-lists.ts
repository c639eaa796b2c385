import type { MidonetClient } from '../../api/client/client.js';
import { InvalidInputError, MidonetError } from '../../errors.js';
import { formatMac, parseMac } from '../../packet/address.js';
import { formatIp, parseIp } from '../../packet/ip.js';
import type { Kind } from '../../topology/types.js';
import { pathOf } from './names.js';

/** What belongs to an object and is no object by itself: addresses of a group, machines of a DHCP subnet. */

/** The members of a kind of object. */
export interface MemberList {
  /** As paths and files name them. */
  readonly word: string;
  /** What one of them is called, and the field that it is told apart by. */
  readonly one: string;
  readonly key: string;
  /** The key as it is stored. */
  canonical(text: string): string | undefined;
}

export const MEMBER_LISTS: Readonly<Partial<Record<Kind, MemberList>>> = {
  'ip-address-group': {
    word: 'addresses',
    one: 'address',
    key: 'address',
    canonical: (text) => {
      const ip = parseIp(text);
      return ip && formatIp(ip);
    },
  },
  'dhcp-subnet': {
    word: 'hosts',
    one: 'host',
    key: 'mac',
    canonical: (text) => {
      const mac = parseMac(text);
      return mac === undefined ? undefined : formatMac(mac);
    },
  },
  'dhcp-v6-subnet': {
    word: 'hosts',
    one: 'host',
    key: 'clientId',
    canonical: (text) => (/^([0-9a-f]{2}:?)+$/i.test(text) ? text.toLowerCase().replaceAll(':', '') : undefined),
  },
};

/** What tells a member apart, and all else that is known of it. */
export interface Member {
  readonly key: string;
  readonly body: Readonly<Record<string, unknown>>;
}

/** @throws InvalidInputError */
export function canonicalKey(kind: Kind, text: unknown, at: string): string {
  const list = listOf(kind);
  const key = typeof text === 'string' ? list.canonical(text) : undefined;
  if (key === undefined)
    throw new InvalidInputError(
      at,
      text,
      list.key === list.one ? `expected an ${list.one}` : `expected the ${list.key} of a ${list.one}`,
    );
  return key;
}

/** @throws MidonetError for a kind without members */
export function listOf(kind: Kind): MemberList {
  const list = MEMBER_LISTS[kind];
  if (list === undefined) throw new MidonetError('MN_INVALID_INPUT', `a ${kind} has no members`);
  return list;
}

/** All members of an object. */
export async function membersOf(client: MidonetClient, kind: Kind, id: string, signal: AbortSignal): Promise<Member[]> {
  const { key: field } = listOf(kind);
  const members: Member[] = [];
  let after: string | undefined;
  do {
    const { body } = await client.request('GET', memberPath(kind, id), { query: { limit: 1000, after }, signal });
    const page = body as { items: Record<string, unknown>[]; next?: string };
    for (const { [field]: key, ...rest } of page.items) members.push({ key: String(key), body: rest });
    after = page.next;
  } while (after !== undefined);
  return members;
}

export async function putMember(
  client: MidonetClient,
  kind: Kind,
  id: string,
  { key, body }: Member,
  signal: AbortSignal,
): Promise<void> {
  await client.request('PUT', memberPath(kind, id, key), { body, signal });
}

export async function removeMember(
  client: MidonetClient,
  kind: Kind,
  id: string,
  key: string,
  signal: AbortSignal,
): Promise<void> {
  await client.request('DELETE', memberPath(kind, id, key), { signal });
}

function memberPath(kind: Kind, id: string, key?: string): string {
  const path = `${pathOf(kind, id)}/${listOf(kind).word}`;
  return key === undefined ? path : `${path}/${encodeURIComponent(key)}`;
}
