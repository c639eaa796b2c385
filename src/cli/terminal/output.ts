import { type Command, Option } from 'commander';
import type { Terminal } from './terminal.js';

/** The forms in which a command prints what it found. */
export interface OutputFlags {
  readonly json?: boolean;
  readonly yaml?: boolean;
  readonly output?: 'wide' | 'json' | 'yaml';
}

export function addOutputOptions(command: Command): Command {
  return command
    .addOption(new Option('-o, --output <form>', 'wide: all columns and whole ids').choices(['wide', 'json', 'yaml']))
    .option('--json', 'print JSON')
    .option('--yaml', 'print YAML');
}

export type Form = 'table' | 'wide' | 'json' | 'yaml';

export function formOf({ json, yaml, output }: OutputFlags): Form {
  if (json === true) return 'json';
  if (yaml === true) return 'yaml';
  return output ?? 'table';
}

/** Print a value for programs, or the text that `show` makes of it for people. */
export async function printAs(
  terminal: Terminal,
  form: Form,
  value: unknown,
  show: (wide: boolean) => Promise<string> | string,
): Promise<void> {
  if (form === 'json') terminal.print(JSON.stringify(value, undefined, 2));
  else if (form === 'yaml') terminal.print((await import('../apply/yaml.js')).formatYaml(value));
  else {
    const text = await show(form === 'wide');
    if (text !== '') terminal.print(text);
  }
}
