import type { MidonetClient } from '../../api/client/client.js';
import { InvalidInputError } from '../../errors.js';
import type { Kind } from '../../topology/types.js';
import { formOf, printAs } from '../terminal/output.js';
import { formatTable } from '../terminal/table.js';
import type { Terminal } from '../terminal/terminal.js';
import { canonicalKey, listOf, type Member, membersOf, putMember, removeMember } from './member-lists.js';
import { type ClientFlags, withClient } from './objects.js';

/** `midonet ip-address-group add-address …`, and so for the machines of DHCP subnets. */

export async function addMembers(
  kind: Kind,
  object: string,
  keys: readonly string[],
  body: Member['body'],
  flags: ClientFlags,
  terminal: Terminal,
): Promise<void> {
  await changeEach(kind, object, keys, flags, terminal, async (client, id, key) => {
    await putMember(client, kind, id, { key, body }, terminal.signal);
    return `added ${listOf(kind).one} ${key} to ${kind} ${object}`;
  });
}

/** What is said of a machine of a DHCP subnet. @throws InvalidInputError */
export function hostOf(flags: {
  readonly address?: string;
  readonly name?: string;
  readonly option?: readonly string[];
}): Record<string, unknown> {
  const extraOptions = flags.option?.map((text) => {
    const sign = text.indexOf('=');
    if (sign <= 0) throw new InvalidInputError('--option', text, 'expected NAME=VALUE');
    return { name: text.slice(0, sign), value: text.slice(sign + 1) };
  });
  return {
    address: flags.address,
    ...(flags.name !== undefined && { name: flags.name }),
    ...(extraOptions !== undefined && { extraOptions }),
  };
}

export async function removeMembers(
  kind: Kind,
  object: string,
  keys: readonly string[],
  flags: ClientFlags,
  terminal: Terminal,
): Promise<void> {
  await changeEach(kind, object, keys, flags, terminal, async (client, id, key) => {
    await removeMember(client, kind, id, key, terminal.signal);
    return `removed ${listOf(kind).one} ${key} from ${kind} ${object}`;
  });
}

/** One after the other, each told when it is done. @param change returns what is said of it */
async function changeEach(
  kind: Kind,
  object: string,
  keys: readonly string[],
  flags: ClientFlags,
  terminal: Terminal,
  change: (client: MidonetClient, id: string, key: string) => Promise<string>,
): Promise<void> {
  const { one } = listOf(kind);
  await withClient(flags, terminal, async (client, names) => {
    const id = await names.idOf(kind, object);
    for (const text of keys) terminal.print(await change(client, id, canonicalKey(kind, text, one)));
  });
}

export async function listMembers(kind: Kind, object: string, flags: ClientFlags, terminal: Terminal): Promise<void> {
  const { key: field, word } = listOf(kind);
  await withClient(flags, terminal, async (client, names) => {
    const id = await names.idOf(kind, object);
    const members = await membersOf(client, kind, id, terminal.signal);
    members.sort((a, b) => (a.key < b.key ? -1 : 1));
    const value = members.map(({ key, body }) => ({ [field]: key, ...body }));
    const others = [...new Set(members.flatMap(({ body }) => Object.keys(body)))];
    const show = (one: unknown) => (one === undefined ? '' : typeof one === 'string' ? one : JSON.stringify(one));
    await printAs(terminal, formOf(flags), value, () =>
      formatTable(
        [field, ...others].map((title) => title.toUpperCase()),
        members.map(({ key, body }) => [key, ...others.map((name) => show(body[name]))]),
      ),
    );
    if (members.length === 0 && formOf(flags) === 'table') terminal.note(`no ${word}`);
  });
}
