import type { Command } from 'commander';
import { KINDS, type Kind } from '../topology/types.js';
import { ABOUT } from './kinds.js';
import { systemTerminal, type Terminal } from './terminal.js';

/** The commands that talk to the API. What a command needs is loaded when it runs, or its help is asked for. */
export function addClientCommands(program: Command, terminal: Terminal = systemTerminal()): void {
  const lazy = new Map<Command, (command: Command) => Promise<void>>();
  program.commandsGroup('Objects:');
  for (const kind of KINDS) lazy.set(kindCommand(program, kind), (command) => fillKind(command, kind, terminal));
  program.commandsGroup('Commands:');
  lazy.set(
    program.command('trace').description('say what would become of a packet, and which rule or route decides'),
    async (command) => (await import('./trace.js')).fillTrace(command, terminal),
  );
  program.hook('preSubcommand', async (_program, command) => lazy.get(command)?.(command));
}

function kindCommand(program: Command, kind: Kind): Command {
  return program
    .command(kind)
    .description(ABOUT[kind].description)
    .helpCommand(false)
    .addHelpText('after', `\nExample:\n  $ midonet ${kind} ${ABOUT[kind].example}`);
}

async function fillKind(command: Command, kind: Kind, terminal: Terminal): Promise<void> {
  (await import('./object-commands.js')).addObjectCommands(command, kind, terminal);
}
