import { type Command, InvalidArgumentError } from 'commander';
import type { BackupCommandOptions } from './nsdb-backup.js';
import type { CopyCommandOptions } from './nsdb-copy.js';
import type { FsckCommandOptions } from './nsdb-fsck.js';
import type { RestoreCommandOptions } from './nsdb-restore.js';
import type { NsdbOptions } from './nsdb-session.js';
import type { TreeCommandOptions } from './nsdb-tree.js';

/** The commands of `midonet nsdb` that work on an NSDB, wherever it runs. Each loads only what it needs. */
export function addNsdbCommands(nsdb: Command): void {
  command(
    nsdb,
    'status',
    'Tell how the NSDB is: its servers, round trips, sizes and hosts, and in words what is wrong.',
    'midonet nsdb status --connect zk1,zk2,zk3:2181',
    'Exit status: 0 when all is well, 2 when something is wrong, 1 when that could not be found out.',
  ).action(async (options: NsdbOptions) => (await import('./nsdb-status.js')).runStatus(options));

  command(
    nsdb,
    'backup <file>',
    'Save the NSDB, as it is at one point in time, to a file. It goes on serving meanwhile.',
    'midonet nsdb backup /var/backups/nsdb-$(date +%F).gz',
    'Nodes that belong to sessions (that an agent runs, what was learned) are left out.',
  )
    .option('--timeout <seconds>', 'how long to wait for a moment in which nothing changes', wholeNumber, 300)
    .action(async (file: string, options: BackupCommandOptions) =>
      (await import('./nsdb-backup.js')).runBackup(file, options),
    );

  command(
    nsdb,
    'restore <file>',
    'Make an empty NSDB what a backup holds. The file is checked first; an interrupted restore may be run again.',
    'midonet nsdb restore /var/backups/nsdb-2030-01-01.gz --replace',
  )
    .option('--replace', 'delete and change what is in the NSDB and is not so in the backup', false)
    .option('--force', 'although agents are running', false)
    .action(async (file: string, options: RestoreCommandOptions) =>
      (await import('./nsdb-restore.js')).runRestore(file, options),
    );

  nsdb
    .command('copy')
    .description(
      'Copy one NSDB to another, or move a cluster that is running: see "Moving to an ensemble" in docs/nsdb-operations.md.',
    )
    .requiredOption('--from <servers>', 'where to copy from, as in nsdb.connect')
    .option('--to <servers>', 'where to copy to')
    .option('--freeze', 'at the end have the source refuse changes, so that nothing is lost in the switch-over', false)
    .option('--undo', 'have a frozen source take changes again', false)
    .option('--replace', 'delete and change what is in the destination and is not so in the source', false)
    .option('--force', 'although agents are running on the destination', false)
    .option('--timeout <seconds>', 'how long to wait for a moment in which nothing changes', wholeNumber, 300)
    .option('-c, --config <file>', 'configuration file: user, password and TLS files of both')
    .option('--to-config <file>', 'configuration file for the destination, if it has others')
    .option('--json', 'print JSON', false)
    .addHelpText('after', example('midonet nsdb copy --from 10.0.0.10:2181 --to zk1,zk2,zk3:2181 --freeze'))
    .action(async (options: CopyCommandOptions) => (await import('./nsdb-copy.js')).runCopy(options));

  command(
    nsdb,
    'tree [path]',
    'Draw the tree of nodes, from a path or the root on. Large and sharded folders are shortened.',
    'midonet nsdb tree /hosts --depth 2 --data',
  )
    .option('--depth <levels>', 'draw only so many levels', wholeNumber)
    .option('--data', 'show the data of the nodes', false)
    .option('--all', 'draw every node', false)
    .action(async (path: string | undefined, options: TreeCommandOptions) =>
      (await import('./nsdb-tree.js')).runTree(path ?? '/', options),
    );

  command(
    nsdb,
    'fsck',
    'Look for dangling references, leaked leases and orphans, while others go on to work.',
    'midonet nsdb fsck --repair',
    'Exit status: 0 when nothing is wrong (any more), 2 when something is left, 1 when that could not be found out.',
  )
    .option('--repair', 'mend what can be mended, and look again', false)
    .option('--gone-after <hours>', 'an agent that has not run for so long has lost its leases', wholeNumber, 24)
    .action(async (options: FsckCommandOptions) => (await import('./nsdb-fsck.js')).runFsck(options));
}

function command(nsdb: Command, name: string, description: string, shown: string, more?: string): Command {
  return nsdb
    .command(name)
    .description(description)
    .option('--connect <servers>', 'host:port[,host:port…][/root] or unix:/path (default: nsdb.connect)')
    .option('-c, --config <file>', 'configuration file (default: /etc/midonet/midonet.yaml if there is one)')
    .option('--json', 'print JSON', false)
    .addHelpText('after', `${more === undefined ? '' : `\n${more}\n`}${example(shown)}`);
}

function example(shown: string): string {
  return `\nExample:\n  $ ${shown}`;
}

function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text) || Number(text) === 0)
    throw new InvalidArgumentError('expected a whole number from 1 on');
  return Number(text);
}
