#!/usr/bin/env node
import { createRequire } from 'node:module';
import type { Command } from 'commander';
import { pino } from 'pino';
import { RecentWarnings } from '../agent/control/recent-warnings.js';
import { addClientCommands } from '../cli/commands.js';
import { printable } from '../cli/terminal/printable.js';
import { adviceOn } from '../cli/terminal/unreachable.js';
import { MidonetError } from '../errors.js';
import { type Config, loadConfig } from './config.js';
import { addNsdbCommands } from './nsdb-commands.js';
import { Program } from './program.js';
import { Closers, type Service, serve } from './service.js';

/** A command loads only what it runs: starting again quickly matters. */
const runNsdb: Run = async (config, log, signal) => (await import('./run-nsdb.js')).runNsdb(config, log, signal);
const runAgent: Run = async (...parameters) => (await import('./run-agent.js')).runAgent(...parameters);
const runCluster: Run = async (config, log, signal) =>
  (await import('./run-cluster.js')).runCluster(config, log, signal);

const { version } = createRequire(import.meta.url)('#package') as { version: string };

const program = new Program('midonet')
  .version(version, '--version', 'say which version this is')
  .description('A distributed virtual network for containers and plain hosts on the Open vSwitch kernel datapath')
  .configureHelp({ showGlobalOptions: true });

serviceCommand(
  program,
  'agent',
  'Run the agent of this host: it programs the kernel and answers the CNI program.',
  runAgent,
).addHelpText(
  'after',
  `
Example:
  $ MIDONET_NSDB_CONNECT=10.0.0.10:2181 midonet agent --config /etc/midonet/midonet.yaml`,
);

serviceCommand(
  program,
  'cluster',
  'Run the REST API, of which any number may run side by side.',
  runCluster,
).addHelpText(
  'after',
  `
Example:
  $ MIDONET_NSDB_CONNECT=10.0.0.10:2181 midonet cluster --config /etc/midonet/midonet.yaml`,
);

const nsdb = program
  .command('nsdb')
  .description('Run, look at, save, move and check the Network State Database.')
  .helpCommand(false);

serviceCommand(
  nsdb,
  'serve',
  'Run the embedded Network State Database, a single server that speaks the protocol of ZooKeeper.',
  runNsdb,
).addHelpText(
  'after',
  `
Example:
  $ MIDONET_NSDB_LISTEN=10.0.0.10:2181 midonet nsdb serve`,
);

serviceCommand(
  program,
  'standalone',
  'Run the NSDB, the agent and the REST API in one process: a network of one host, or the first of several.',
  async (config, log, signal, warnings) => {
    // Its agent and its API use its own database, wherever that listens.
    const own = { ...config, nsdb: { ...config.nsdb, connect: config.nsdb.listen } };
    const closers = new Closers(log);
    const services: Service[] = [];
    try {
      for (const run of [runNsdb, runAgent, runCluster]) {
        const service = await run(own, log, signal, warnings);
        closers.add(() => service.close());
        services.push(service);
      }
      return {
        ready: Promise.all(services.map(({ ready }) => ready)).then(() => undefined),
        failed: Promise.race(services.map(({ failed }) => failed)),
        close: () => closers.close(),
      };
    } catch (error) {
      await closers.close();
      throw error;
    }
  },
).addHelpText(
  'after',
  `
The agent needs the kernel module openvswitch. Without it \`midonet nsdb serve\` and \`midonet cluster\` together serve all but
what agents are asked for.

Example:
  $ midonet standalone --config ./midonet.yaml`,
);

addNsdbCommands(nsdb);
addClientCommands(program);

program.parseAsync().catch(fail);

type Run = (
  config: Config,
  log: pino.Logger,
  signal: AbortSignal,
  /** Those of the log. */
  warnings: RecentWarnings,
) => Promise<Service>;

/** A command that runs until a signal ends it. */
function serviceCommand(parent: Command, name: string, description: string, run: Run): Command {
  const service = parent === program ? name : parent.name();
  return parent
    .command(name)
    .description(description)
    .option('-c, --config <file>', 'configuration file (default: /etc/midonet/midonet.yaml if there is one)')
    .addHelpText(
      'after',
      '\nEvery field can be set in the file, the common ones in the environment: see docs/configuration.md.',
    )
    .action(async (options: { config?: string }) => {
      const stop = new AbortController();
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
      const config = await loadConfig(options.config, process.env);
      const warnings = new RecentWarnings();
      const log = pino({ level: config.log.level, name: `midonet-${service}`, hooks: warnings.hooks });
      await serve((signal) => run(config, log, signal, warnings), log, stop.signal);
      // What is still open by now is not ours to wait for.
      process.exit(0);
    });
}

function fail(error: unknown): void {
  if (error instanceof MidonetError) {
    const advice = adviceOn(error);
    process.stderr.write(
      `midonet: ${printable(error.message.trimEnd())} (${error.code})\n${advice === undefined ? '' : `  → ${advice}\n`}`,
    );
  }
  // An error of the system, or a signal: the message says all.
  else if (error instanceof Error && ('syscall' in error || error.name === 'AbortError'))
    process.stderr.write(`midonet: ${error.message}\n`);
  else process.stderr.write(`midonet: ${error instanceof Error ? error.stack : String(error)}\n`);
  process.exit(1);
}
