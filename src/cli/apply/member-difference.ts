import { isDeepStrictEqual } from 'node:util';
import type { MidonetClient } from '../../api/client/client.js';
import type { Kind } from '../../topology/types.js';
import { canonicalKey, listOf, membersOf } from '../objects/member-lists.js';
import { isRecord } from '../objects/values.js';
import type { Entry } from './topology-file.js';

/** A member that joins, changes or leaves. */
export interface MemberChange {
  readonly op: 'create' | 'patch' | 'delete';
  readonly kind: Kind;
  readonly id: string;
  /** What people call that of which it is a member. */
  readonly called: string;
  readonly key: string;
  readonly body: Readonly<Record<string, unknown>>;
}

/** What the file's lists of members differ in from what is there. */
export async function memberChanges(
  entries: readonly Entry[],
  called: ReadonlyMap<string, string>,
  existing: ReadonlySet<string>,
  client: MidonetClient,
  signal: AbortSignal,
): Promise<MemberChange[]> {
  const changes: MemberChange[] = [];
  for (const { kind, id, members } of entries) {
    if (members === undefined) continue;
    const name = called.get(id)!;
    const wanted = new Map(
      members.map((one, i) => readMember(kind, one, `${kind} ${name}.${listOf(kind).word}[${i}]`)),
    );
    const there = existing.has(id) ? await membersOf(client, kind, id, signal) : [];
    for (const { key, body } of there) {
      const after = wanted.get(key);
      if (after === undefined) changes.push({ op: 'delete', kind, id, called: name, key, body });
      else if (!isDeepStrictEqual(after, body)) changes.push({ op: 'patch', kind, id, called: name, key, body: after });
      wanted.delete(key);
    }
    for (const [key, body] of wanted) changes.push({ op: 'create', kind, id, called: name, key, body });
  }
  return changes;
}

function readMember(kind: Kind, written: unknown, at: string): [key: string, body: Record<string, unknown>] {
  const { key: field, one } = listOf(kind);
  const record: Readonly<Record<string, unknown>> = isRecord(written) ? written : { [field]: written };
  const { [field]: text, ...body } = record;
  return [canonicalKey(kind, text, isRecord(written) ? `${at}.${field}` : `${at}: ${one}`), body];
}
