import { Command, type ErrorOptions } from 'commander';

/** A command that says in one line what is wrong with its words, in the next how they go, and leaves the rest to its help. */
export class Program extends Command {
  override createCommand(name?: string): Program {
    return new Program(name);
  }

  override error(message: string, options?: ErrorOptions): never {
    const fault = message.replace(/^error: /, '').replaceAll('\n', ' ');
    const usage = this.createHelp().commandUsage(this);
    return super.error(`midonet: ${fault}\nUsage: ${usage}\n  → \`${this.path()} --help\` tells more`, options);
  }

  private path(): string {
    const names: string[] = [];
    for (let command: Command | null = this; command !== null; command = command.parent) names.unshift(command.name());
    return names.join(' ');
  }
}
