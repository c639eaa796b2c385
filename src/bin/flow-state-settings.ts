import { InvalidInputError } from '../errors.js';
import type { FlowStateArchiveSettings } from '../nsdb/flow-state/open.js';
import type { Config } from './config.js';
import { readPassword } from './nsdb-connection.js';

/**
 * Where the configuration says that flow state is archived.
 * @throws InvalidInputError naming the field, for a file that cannot be used
 */
export function flowStateSettings({ archive, cassandra }: Config['flowState']): FlowStateArchiveSettings {
  if (archive === 'nsdb') return { archive };
  const { user, passwordFile, ...options } = cassandra;
  if ((user === undefined) !== (passwordFile === undefined)) {
    const missing = user === undefined ? 'user' : 'passwordFile';
    throw new InvalidInputError(
      `config.flowState.cassandra.${missing}`,
      undefined,
      'user and passwordFile go together',
    );
  }
  if (user === undefined || passwordFile === undefined) return { archive, cassandra: options };
  const password = readPassword('config.flowState.cassandra.passwordFile', passwordFile);
  return { archive, cassandra: { ...options, credentials: { user, password } } };
}
