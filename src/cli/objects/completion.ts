import type { Command, Option } from 'commander';
import { InvalidInputError } from '../../errors.js';
import { KINDS, type Kind } from '../../topology/types.js';
import { type ConnectionFlags, connect } from '../terminal/connection.js';
import type { Terminal } from '../terminal/terminal.js';
import { fieldNamed, fieldsOf, hasName, type Shape } from './fields.js';
import { kindCalled } from './kinds.js';
import { type AnyObject, parentsOf } from './names.js';
import { conditionFields } from './objects.js';

/** `midonet completion SHELL`, and what the scripts that it prints ask for: the words that may come next. */

/** Names offered at most. */
const MOST = 1000;
/** A key was pressed: nobody waits long for a server. */
const PATIENCE_MS = 2000;

const SCRIPTS: Readonly<Record<string, string>> = {
  bash: `_midonet() {
  local IFS=$'\\n' current="\${COMP_WORDS[COMP_CWORD]}"
  COMPREPLY=($(compgen -W "$(midonet complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "$current"))
}
complete -o default -F _midonet midonet`,
  zsh: `#compdef midonet
_midonet() {
  local -a found
  found=("\${(@f)$(midonet complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -a found
}
compdef _midonet midonet`,
  fish: `complete -c midonet -f -a '(midonet complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'`,
};

export const SHELLS = Object.keys(SCRIPTS);

export function printCompletion(shell: string, terminal: Terminal): void {
  if (!Object.hasOwn(SCRIPTS, shell))
    throw new InvalidInputError('shell', shell, `expected one of ${SHELLS.join(', ')}`);
  terminal.print(SCRIPTS[shell]);
}

/**
 * Print what the last of the words may become, a line each.
 * @param prepare makes the commands below one, which are made when they are wanted
 */
export async function complete(
  program: Command,
  words: readonly string[],
  prepare: (command: Command) => Promise<void>,
  terminal: Terminal,
): Promise<void> {
  for (const word of await candidates(program, words, prepare, terminal)) terminal.print(word);
}

async function candidates(
  program: Command,
  words: readonly string[],
  prepare: (command: Command) => Promise<void>,
  terminal: Terminal,
): Promise<string[]> {
  const current = words.at(-1) ?? '';
  let command = program;
  /** The one whose value comes next. */
  let option: Option | undefined;
  const operands: string[] = [];
  for (const word of words.slice(0, -1)) {
    const next = command.commands.find((one) => one.name() === word);
    if (option !== undefined) option = undefined;
    else if (word.startsWith('-')) option = command.options.find((one) => isCalled(one, word) && !one.isBoolean());
    else if (next === undefined) operands.push(word);
    else {
      command = next;
      await prepare(command);
    }
  }
  const kind = kindCalled((command.name() === 'get' ? operands[0] : command.parent?.name()) ?? '');
  const start = current.includes(',') ? current.slice(0, current.lastIndexOf(',') + 1) : '';
  const rest = current.slice(start.length);
  const offered = await (async () => {
    if (option !== undefined) return optionValues(option, kind, terminal);
    if (current.startsWith('-'))
      return command.options.filter(({ hidden }) => !hidden).flatMap(({ long }) => long ?? []);
    if (command.commands.length > 0) return command.commands.map((one) => one.name());
    const repeated = command.registeredArguments.findLast(({ variadic }) => variadic);
    const name = (command.registeredArguments[operands.length] ?? repeated)?.name() ?? '';
    if (name === 'kind') return KINDS;
    const named = OF_THE_KIND.has(name) ? kind : kindCalled(name);
    return named === undefined ? [] : namesOf(named, terminal);
  })();
  return offered.filter((word) => word.startsWith(rest)).map((word) => `${start}${word}`);
}

/** Arguments that are called otherwise than the kind of object that they name. */
const OF_THE_KIND: ReadonlySet<string> = new Set(['names', 'peer']);

function isCalled({ long, short }: Option, word: string): boolean {
  return word === long || word === short;
}

async function optionValues(
  { flags, long, argChoices }: Option,
  kind: Kind | undefined,
  terminal: Terminal,
): Promise<readonly string[]> {
  if (argChoices !== undefined) return argChoices;
  const named = kindCalled(/<(.+)>/.exec(flags)?.[1] ?? '');
  if (named !== undefined) return namesOf(named, terminal);
  if (kind === undefined || long === undefined) return [];
  const word = long.slice('--'.length);
  const field = fieldNamed(fieldsOf(kind), word) ?? fieldNamed(conditionFields(kind), word);
  return field === undefined ? [] : shapeValues(field.shape, terminal);
}

async function shapeValues(shape: Shape, terminal: Terminal): Promise<readonly string[]> {
  switch (shape.type) {
    case 'boolean':
      return ['true', 'false'];
    case 'text':
      return shape.choices ?? [];
    case 'integer':
      return [...(shape.words?.keys() ?? [])];
    case 'reference':
      return namesOf(shape.kind, terminal);
    case 'list':
      return shapeValues(shape.of, terminal);
    default:
      return [];
  }
}

/** Names of objects; of parts with the name of what they are a part of. None when the server cannot be asked. */
async function namesOf(kind: Kind, terminal: Terminal): Promise<string[]> {
  if (!hasName(kind)) return [];
  const signal = AbortSignal.timeout(PATIENCE_MS);
  try {
    const client = await connect(NO_FLAGS, terminal);
    try {
      const parents = new Map<string, string>();
      for (const parent of parentsOf(kind)) {
        for await (const one of client.collection(parent.kind).list({}, signal)) {
          const { id, name } = one as AnyObject;
          if (name !== undefined) parents.set(id, name);
          if (parents.size >= MOST) break;
        }
      }
      const names: string[] = [];
      for await (const one of client.collection(kind).list({}, signal)) {
        const object = one as AnyObject;
        const above = parentsOf(kind)
          .map(({ field }) => parents.get(object[field] as string))
          .find((name) => name !== undefined);
        if (object.name !== undefined) names.push(above === undefined ? object.name : `${above}/${object.name}`);
        if (names.length >= MOST) break;
      }
      return names;
    } finally {
      client.close();
    }
  } catch {
    // Whoever pressed a key cannot be told why nothing is offered.
    return [];
  }
}

const NO_FLAGS: ConnectionFlags = {};
