import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import type { Command } from 'commander';
import * as z from 'zod';
import { connectApi, type MidonetClient } from '../../api/client/client.js';
import { InvalidInputError } from '../../errors.js';
import { validate } from '../../topology/validate.js';
import { readText } from './read-text.js';
import type { Terminal } from './terminal.js';

/** Which API server a command talks to, and as whom: by its options, the environment, or a file, in this order. */

export const DEFAULT_SERVER = 'http://127.0.0.1:8181';

/** Options that {@link addConnectionOptions} gives a command. */
export interface ConnectionFlags {
  readonly server?: string;
  readonly tokenFile?: string;
  readonly ca?: string;
  readonly certificate?: string;
  readonly key?: string;
}

export function addConnectionOptions(command: Command): Command {
  return command
    .optionsGroup('Connection:')
    .option('--server <url>', `API server (default: MIDONET_API, client.yaml, ${DEFAULT_SERVER})`)
    .option('--token-file <file>', 'file with the token to show (default: MIDONET_TOKEN, client.yaml)')
    .option('--ca <file>', 'PEM file of the authority that vouches for the server')
    .option('--certificate <file>', 'PEM file of the certificate to show')
    .option('--key <file>', 'PEM file of its key')
    .optionsGroup('Options:');
}

const fileSchema = z.strictObject({
  server: z.string().min(1).optional(),
  token: z.string().min(1).optional(),
  tokenFile: z.string().min(1).optional(),
  ca: z.string().min(1).optional(),
  certificate: z.string().min(1).optional(),
  key: z.string().min(1).optional(),
});

/**
 * A client for the server; the caller closes it.
 * @throws InvalidInputError; errors of the system for files that cannot be read
 */
export async function connect(flags: ConnectionFlags, { env }: Pick<Terminal, 'env'>): Promise<MidonetClient> {
  const file = await settingsFile(env);
  const server = flags.server ?? env.MIDONET_API ?? file.server ?? DEFAULT_SERVER;
  // What is kept for one server is shown to no other.
  const kept = server === (file.server ?? DEFAULT_SERVER) ? file : {};
  const ca = flags.ca ?? file.ca;
  const certificate = flags.certificate ?? kept.certificate;
  const key = flags.key ?? kept.key;
  const token = await tokenOf(flags, env, kept);
  if (token !== undefined && !isPrivate(server)) {
    throw new InvalidInputError('server', server, 'expected https://…, as the token could be read on the way');
  }
  return connectApi({
    server,
    token,
    tls: { ca: await pem(ca), certificate: await pem(certificate), key: await pem(key) },
  });
}

async function tokenOf(
  flags: ConnectionFlags,
  env: Terminal['env'],
  kept: z.output<typeof fileSchema>,
): Promise<string | undefined> {
  if (flags.tokenFile !== undefined) return (await readText(flags.tokenFile)).trim();
  if (env.MIDONET_TOKEN !== undefined && env.MIDONET_TOKEN !== '') return env.MIDONET_TOKEN;
  if (kept.token !== undefined) return kept.token;
  return kept.tokenFile === undefined ? undefined : (await readText(kept.tokenFile)).trim();
}

function pem(path: string | undefined): Promise<string> | undefined {
  return path === undefined ? undefined : readText(path);
}

/** Whether nobody on the way can read what is said to the server. */
function isPrivate(server: string): boolean {
  if (!server.startsWith('http://') || !URL.canParse(server)) return true;
  const host = new URL(server).hostname.replace(/^\[|\]$/g, '');
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

/** ~/.config/midonet/client.yaml, or where XDG_CONFIG_HOME says; empty if there is none. */
async function settingsFile(env: Terminal['env']): Promise<z.output<typeof fileSchema>> {
  const folder = env.XDG_CONFIG_HOME ?? (env.HOME === undefined ? undefined : join(env.HOME, '.config'));
  if (folder === undefined) return {};
  const path = join(folder, 'midonet', 'client.yaml');
  let content: string;
  try {
    content = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return {};
    throw error;
  }
  const { parseYaml } = await import('../apply/yaml.js');
  return validate(fileSchema, parseYaml(content, path) ?? {}, path);
}
