import { MidonetError } from '../../errors.js';
import type { Store } from '../store.js';
import { knownHosts } from './alive-hosts.js';
import { apply, changes } from './apply.js';
import { readBackup } from './backup-file.js';
import { bytesOf, compareImages, type Differences, type Image, readTree, type TreeContent } from './image.js';
import type { OperationOptions } from './progress.js';

/** What may be overwritten. */
export interface Permissions {
  /** Delete and change what is there and is not so in what comes. */
  readonly replace: boolean;
  /** Although agents work with it. */
  readonly force: boolean;
}

export interface RestoreOptions extends OperationOptions, Permissions {
  readonly store: Store;
  readonly file: string;
}

export interface RestoreReport {
  /** Nodes in the backup, and bytes of their data. */
  readonly nodes: number;
  readonly bytes: number;
  /** When and from where the backup was made. */
  readonly time: string;
  readonly source: string;
  readonly differences: Differences;
}

/** The NSDB holds something that would be lost. */
export class NsdbNotEmptyError extends MidonetError {
  constructor({ changed, deleted, example }: Differences) {
    super(
      'MN_ALREADY_EXISTS',
      `the NSDB is not empty: ${deleted} nodes would be deleted and ${changed} changed, such as ${example}; --replace does it`,
    );
  }
}

/** Agents work with the NSDB that is to be overwritten. */
export class AgentsAliveError extends MidonetError {
  constructor(readonly hosts: readonly string[]) {
    const some = hosts.slice(0, 10).join(', ');
    const more = hosts.length > 10 ? ` and ${hosts.length - 10} more` : '';
    super('MN_REFERENCED', `agents are running on ${some}${more}; stop them first, or use --force`);
  }
}

/**
 * Makes the NSDB what a backup holds. The whole file is checked before anything is written. One that was interrupted may
 * be run again.
 * @throws BackupDamagedError, NsdbNotEmptyError, AgentsAliveError
 */
export async function restore(options: RestoreOptions): Promise<RestoreReport> {
  const { store, file, signal } = options;
  const { header, image } = await readBackup(file, signal);
  const present = await readDestination(store, image, options, options);
  const differences = compareImages(present.image, image);
  await apply(store, changes(present, image), 'restoring nodes', options);
  await store.sync('/', { signal });
  return { nodes: image.size, bytes: bytesOf(image), time: header.time, source: header.source, differences };
}

/**
 * Reads what is in an NSDB that is to become `image`, if that is allowed. What is there already, as after an earlier
 * attempt, is in nobody's way.
 * @throws NsdbNotEmptyError, AgentsAliveError
 */
export async function readDestination(
  store: Store,
  image: Image,
  { replace, force }: Permissions,
  options: OperationOptions,
): Promise<TreeContent> {
  if (!force) {
    const alive = (await knownHosts(store, options.signal)).filter((host) => host.alive);
    if (alive.length > 0) throw new AgentsAliveError(alive.map(({ name }) => name));
  }
  // A root of its own may have to be made.
  await store.ensure('/', { signal: options.signal });
  await store.sync('/', { signal: options.signal });
  const present = await readTree(store, options);
  const differences = compareImages(present.image, image);
  if (!replace && differences.changed + differences.deleted > 0) throw new NsdbNotEmptyError(differences);
  return present;
}
