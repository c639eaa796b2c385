import type { Command } from 'commander';
import { KINDS, type Kind } from '../topology/types.js';
import { ABOUT } from './objects/kinds.js';
import { systemTerminal, type Terminal } from './terminal/terminal.js';

/** The commands that talk to the API. What a command needs is loaded when it runs, or its help is asked for. */
export function addClientCommands(program: Command, terminal: Terminal = systemTerminal()): void {
  const lazy = new Map<Command, (command: Command) => Promise<void>>();
  const prepare = async (command: Command) => {
    const fill = lazy.get(command);
    lazy.delete(command);
    await fill?.(command);
  };
  program.hook('preSubcommand', (_program, command) => prepare(command));

  program.commandsGroup('Topology:');
  lazy.set(
    program
      .command('get <kind> [names...]')
      .description('list objects of a kind, or show some; with --watch go on to tell how they change'),
    async (command) => (await import('./topology-commands.js')).fillGet(command, terminal),
  );
  lazy.set(
    program.command('apply').description('make the topology what a file says, and show the difference first'),
    async (command) => (await import('./topology-commands.js')).fillApply(command, terminal),
  );
  lazy.set(program.command('export').description('write the topology as a file that apply takes'), async (command) =>
    (await import('./topology-commands.js')).fillExport(command, terminal),
  );
  lazy.set(program.command('tenant').description('Tenants that have something').helpCommand(false), async (command) =>
    (await import('./topology-commands.js')).fillTenant(command, terminal),
  );
  lazy.set(
    program.command('whoami').description('say who the API takes you for, and what you may do'),
    async (command) => (await import('./topology-commands.js')).fillWhoAmI(command, terminal),
  );

  program.commandsGroup('Objects:');
  for (const kind of KINDS) lazy.set(kindCommand(program, kind), (command) => fillKind(command, kind, terminal));

  program.commandsGroup('Explain:');
  lazy.set(
    program.command('trace').description('say what would become of a packet, and which rule or route decides'),
    async (command) => (await import('./explain/trace.js')).fillTrace(command, terminal),
  );
  lazy.set(
    program.command('flows').description('show installed flows by the port that their packets come from'),
    async (command) => (await import('./explain/flows.js')).fillFlows(command, terminal),
  );
  lazy.set(
    program.command('capture <port>').description('show or write what crosses a port, anywhere in the cluster'),
    async (command) => (await import('./explain/capture.js')).fillCapture(command, terminal),
  );
  lazy.set(
    program.command('status').description('say what is wrong in the whole cluster, and what to do about it'),
    async (command) => (await import('./explain/status.js')).fillStatus(command, terminal),
  );
  lazy.set(
    program.command('support-bundle [file]').description('save what is needed to find out from afar what is wrong'),
    async (command) => (await import('./explain/support-bundle.js')).fillSupportBundle(command, terminal),
  );

  program.commandsGroup('Access:');
  lazy.set(
    program
      .command('access-token')
      .description('Tokens by which programs and people show the API who they are')
      .helpCommand(false),
    async (command) => (await import('./access-token.js')).fillAccessToken(command, terminal),
  );

  program.commandsGroup('Shell:');
  program
    .command('completion <shell>')
    .description('print what makes a shell complete commands and names: bash, zsh or fish')
    .addHelpText('after', '\nExample:\n  $ source <(midonet completion bash)')
    .action(async (shell: string) => (await import('./objects/completion.js')).printCompletion(shell, terminal));
  // The one that commander makes would not know of commands that are made when they are wanted.
  program
    .command('help [command...]')
    .description('say how a command is used, as --help does')
    .action(async (words: string[]) => {
      const [word] = words;
      if (word !== undefined && program.commands.every((command) => command.name() !== word))
        program.error(`unknown command '${word}'`);
      await program.parseAsync([...words, '--help'], { from: 'user' });
    });
  program
    .command('complete [words...]', { hidden: true })
    .description('print what the last of the words may become')
    .action(async (words: string[]) =>
      (await import('./objects/completion.js')).complete(program, words, prepare, terminal),
    );
}

function kindCommand(program: Command, kind: Kind): Command {
  return program
    .command(kind)
    .description(ABOUT[kind].description)
    .helpCommand(false)
    .addHelpText('after', `\nExample:\n  $ midonet ${kind} ${ABOUT[kind].example}`);
}

async function fillKind(command: Command, kind: Kind, terminal: Terminal): Promise<void> {
  (await import('./objects/object-commands.js')).addObjectCommands(command, kind, terminal);
  (await import('./topology-commands.js')).addMoreCommands(command, kind, terminal);
}
