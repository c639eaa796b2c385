import { type Command, Option } from 'commander';
import type { AccessToken } from '../api/authentication/access-tokens.js';
import type { MidonetClient } from '../api/client/client.js';
import { InvalidInputError, MidonetError } from '../errors.js';
import { addClientOptions } from './objects/object-commands.js';
import { type ClientFlags, withClient } from './objects/objects.js';
import { formOf, printAs } from './terminal/output.js';
import { formatTable } from './terminal/table.js';
import type { Terminal } from './terminal/terminal.js';

const PATH = '/v1/access-tokens';

interface CreateFlags extends ClientFlags {
  readonly role: string;
  readonly expires?: number;
}

interface DeleteFlags extends ClientFlags {
  readonly yes?: boolean;
}

export function fillAccessToken(command: Command, terminal: Terminal): void {
  const create = command
    .command('create <name>')
    .description('make one, and print it: it is told this once')
    .addOption(
      new Option('--role <role>', 'what it allows')
        .choices(['admin', 'tenant-admin', 'tenant-reader'])
        .makeOptionMandatory(),
    )
    .option('--expires <time>', 'after this time, such as 12h or 30d; never when left out', duration)
    .addHelpText(
      'after',
      `
Example:
  $ (umask 077; midonet access-token create ci --role tenant-admin --tenant blue --expires 30d > ci.token)`,
    );
  addClientOptions(create).action((name: string, flags: CreateFlags) => createToken(name, flags, terminal));
  addClientOptions(command.command('list').description('list them, without what makes them tokens')).action(
    (flags: ClientFlags) => listTokens(flags, terminal),
  );
  const remove = command
    .command('delete <token...>')
    .description('delete some, by name or by the first digits of their id; asks first, but not where nobody can answer')
    .option('-y, --yes', 'do not ask on a terminal');
  addClientOptions(remove).action((texts: string[], flags: DeleteFlags) => deleteTokens(texts, flags, terminal));
}

async function createToken(name: string, flags: CreateFlags, terminal: Terminal): Promise<void> {
  const { role, tenant: tenantId, expires: expiresInSeconds } = flags;
  await withClient(flags, terminal, async (client) => {
    const body = { name, role, tenantId, expiresInSeconds };
    const answer = await client.request('POST', PATH, { body, signal: terminal.signal }).catch(inOptions);
    const made = answer.body as AccessToken & { readonly token: string };
    // Alone on its line, to be written to a file.
    await printAs(terminal, formOf(flags), made, () => made.token);
  });
}

/** What the command line calls what is sent. */
const OPTIONS: Readonly<Record<string, string>> = {
  role: '--role',
  tenantId: '--tenant',
  expiresInSeconds: '--expires',
};

/** @throws the error, about an option in place of a field */
function inOptions(error: unknown): never {
  if (!(error instanceof MidonetError)) throw error;
  const message = error.message.replace(/^accessToken\.(\w+)/, (_, field: string) => OPTIONS[field] ?? field);
  throw new MidonetError(error.code, message, { cause: error });
}

async function listTokens(flags: ClientFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client) => {
    const found = await tokensOf(client, flags, terminal);
    const titles = ['ID', 'NAME', 'ROLE', 'TENANT', 'EXPIRES', 'MADE BY'];
    await printAs(terminal, formOf(flags), found, (wide) =>
      formatTable(
        titles,
        found.map(({ id, name, role, tenantId = '', expiresAt, createdBy }) => {
          const expires = expiresAt === undefined ? 'never' : new Date(expiresAt).toISOString();
          return [wide ? id : id.slice(0, SHORT_ID), name, role, tenantId, expires, createdBy];
        }),
      ),
    );
  });
}

async function deleteTokens(texts: readonly string[], flags: DeleteFlags, terminal: Terminal): Promise<void> {
  await withClient(flags, terminal, async (client) => {
    const all = await tokensOf(client, flags, terminal);
    const chosen = texts.map((text) => tokenNamed(all, text));
    for (const { id, name } of chosen) {
      const question = `Delete access token ${name} (${id.slice(0, SHORT_ID)})?`;
      if (flags.yes !== true && terminal.isInteractive && !(await terminal.confirm(question))) continue;
      await client.request('DELETE', `${PATH}/${id}`, { signal: terminal.signal });
      terminal.print(`deleted access token ${name} ${id.slice(0, SHORT_ID)}`);
    }
  });
}

async function tokensOf(
  client: MidonetClient,
  { tenant }: ClientFlags,
  { signal }: Terminal,
): Promise<readonly AccessToken[]> {
  const { body } = await client.request('GET', PATH, { signal });
  const { items } = body as { readonly items: readonly AccessToken[] };
  return tenant === undefined ? items : items.filter(({ tenantId }) => tenantId === tenant);
}

const SHORT_ID = 12;
const MIN_ID = 8;

/** @throws MidonetError, InvalidInputError unless there is just one */
function tokenNamed(all: readonly AccessToken[], text: string): AccessToken {
  const byId = text.length < MIN_ID ? [] : all.filter(({ id }) => id.startsWith(text));
  const found = byId.length > 0 ? byId : all.filter(({ name }) => name === text);
  if (found.length === 1) return found[0];
  if (found.length === 0)
    throw new MidonetError(
      'MN_NOT_FOUND',
      `there is no access token called ${text}; \`midonet access-token list\` tells what there is`,
    );
  const ids = found.map(({ id }) => id.slice(0, SHORT_ID)).join(', ');
  throw new InvalidInputError('access token', text, `expected the id of one of them: ${ids}`);
}

const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 24 * 3600 };

/** Seconds of a time such as `30d`. @throws InvalidInputError */
function duration(text: string): number {
  const [, digits, unit] = /^([1-9]\d{0,8})([smhd])$/.exec(text) ?? [];
  if (digits === undefined)
    throw new InvalidInputError('--expires', text, 'expected a number and s, m, h or d, such as 30d');
  return Number(digits) * SECONDS[unit];
}
