/**
 * Who may do what with a node, as Apache ZooKeeper decides it: its Programmer's Guide, "ZooKeeper access control using
 * ACLs", with the schemes world, auth, digest and ip.
 */
import { createHash } from 'node:crypto';
import { type Acl, OPEN_ACL } from '../protocol/records.js';

/** Whom a connection has shown to be. Who is `super` may do everything. */
export interface Identity {
  readonly scheme: 'digest' | 'ip' | 'super';
  readonly id: string;
}

/** The access list of any number of nodes: there is one object for each content. */
export interface AccessList {
  readonly acls: readonly Acl[];
  readonly key: string;
  nodes: number;
}

export const OPEN_LIST: AccessList = { acls: [OPEN_ACL], key: keyOf([OPEN_ACL]), nodes: 0 };

/** The access lists that nodes have. One that no node has any more is forgotten. */
export class AccessLists {
  private readonly byKey = new Map<string, AccessList>();

  get size(): number {
    return this.byKey.size;
  }

  find(acls: readonly Acl[]): AccessList {
    const key = keyOf(acls);
    if (key === OPEN_LIST.key) return OPEN_LIST;
    return this.byKey.get(key) ?? { acls, key, nodes: 0 };
  }

  /** A node got the list. */
  retain(list: AccessList): void {
    if (list === OPEN_LIST) return;
    list.nodes++;
    this.byKey.set(list.key, list);
  }

  /** A node with the list is gone, or has another. */
  release(list: AccessList): void {
    if (list === OPEN_LIST) return;
    list.nodes--;
    if (list.nodes === 0) this.byKey.delete(list.key);
  }
}

function keyOf(acls: readonly Acl[]): string {
  return JSON.stringify(acls.map(({ permissions, scheme, id }) => [permissions, scheme, id]));
}

/** Whether one of the identities has one of the permissions. */
export function allows(list: AccessList, permissions: number, identities: readonly Identity[]): boolean {
  if (list === OPEN_LIST) return true;
  for (const acl of list.acls) {
    if ((acl.permissions & permissions) === 0) continue;
    if (isAnyone(acl) || identities.some((identity) => isNamed(identity, acl))) return true;
  }
  return identities.some(({ scheme }) => scheme === 'super');
}

function isAnyone({ scheme, id }: Acl): boolean {
  return scheme === OPEN_ACL.scheme && id === OPEN_ACL.id;
}

function isNamed({ scheme, id }: Identity, acl: Acl): boolean {
  if (scheme !== acl.scheme) return false;
  return scheme === 'ip' ? isWithin(id, acl.id) : id === acl.id;
}

/** Bytes of text in one list, with "auth" spelled out: a list must not grow without bounds from a small request. */
const MAX_LIST_LENGTH = 16 * 1024;

/** The list to keep for the list a client sent, with "auth" spelled out; undefined when it makes no sense. */
export function resolveAcls(acls: readonly Acl[], identities: readonly Identity[]): readonly Acl[] | undefined {
  const resolved: Acl[] = [];
  const seen = new Set<string>();
  let length = 0;
  const add = (acl: Acl) => {
    resolved.push(acl);
    length += acl.scheme.length + acl.id.length + 12;
  };
  for (const acl of acls) {
    const key = keyOf([acl]);
    if (seen.has(key)) continue;
    seen.add(key);
    if (acl.scheme === 'auth') {
      const proven = identities.filter(({ scheme }) => scheme === 'digest');
      if (proven.length === 0) return undefined;
      for (const { scheme, id } of proven) add({ permissions: acl.permissions, scheme, id });
    } else {
      if (!isAnyone(acl) && !isDigest(acl) && !(acl.scheme === 'ip' && addressBlock(acl.id))) return undefined;
      add(acl);
    }
    if (length > MAX_LIST_LENGTH) return undefined;
  }
  return resolved.length === 0 ? undefined : resolved;
}

/** Two parts with a colon between; Apache ZooKeeper overlooks colons at the end. */
function isDigest({ scheme, id }: Acl): boolean {
  return scheme === 'digest' && id.replace(/:+$/, '').split(':').length === 2;
}

/** The list as shown to those who may not change it: what digests are made from could be guessed. */
export function withoutDigests(acls: readonly Acl[]): readonly Acl[] {
  return acls.map((acl) => (acl.scheme === 'digest' ? { ...acl, id: acl.id.replace(/:.*/s, ':x') } : acl));
}

/** The identity for `user:password`. */
export function digestIdentity(secret: Uint8Array): Identity {
  const text = Buffer.from(secret).toString('utf8');
  const [user] = text.split(':', 1);
  const hash = createHash('sha1').update(text).digest('base64');
  return { scheme: 'digest', id: `${user}:${hash}` };
}

/** The identity for a socket's remote address: IPv4, plain or mapped into IPv6. Lists name no IPv6 addresses. */
export function addressIdentity(address: string | undefined): Identity | undefined {
  const id = address?.replace(/^::ffff:/i, '');
  return id === undefined || addressBlock(id) === undefined ? undefined : { scheme: 'ip', id };
}

/** An IPv4 address, or a block in the notation of RFC 4632, as number and mask. */
function addressBlock(text: string): { address: number; mask: number } | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:\/(\d{1,2}))?$/.exec(text);
  if (match === null) return undefined;
  const bytes = match.slice(1, 5).map(Number);
  const bits = match[5] === undefined ? 32 : Number(match[5]);
  if (bits > 32 || bytes.some((byte) => byte > 255)) return undefined;
  const mask = bits === 0 ? 0 : (-1 << (32 - bits)) >>> 0;
  return { address: Buffer.from(bytes).readUInt32BE(0), mask };
}

function isWithin(address: string, block: string): boolean {
  const own = addressBlock(address);
  const named = addressBlock(block);
  if (own === undefined || named === undefined) return false;
  return ((own.address ^ named.address) & named.mask) === 0;
}
