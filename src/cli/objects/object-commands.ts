import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Kind } from '../../topology/types.js';
import { addConnectionOptions } from '../terminal/connection.js';
import { addOutputOptions } from '../terminal/output.js';
import type { Terminal } from '../terminal/terminal.js';
import { type Field, fieldsOf, hasName, hasTenant, kebab, type Shape } from './fields.js';
import { ABOUT } from './kinds.js';
import {
  APART,
  type ClientFlags,
  CONDITION,
  type CreateFlags,
  conditionFields,
  createObject,
  type DeleteFlags,
  deleteObjects,
  type FieldFlags,
  filtersOf,
  type ListFlags,
  listObjects,
  showObjects,
  type UpdateFlags,
  updateObject,
} from './objects.js';

/** `midonet KIND create|list|show|update|delete`, with an option for each field of the kind. */
export function addObjectCommands(command: Command, kind: Kind, terminal: Terminal): void {
  const isNameRequired = fieldsOf(kind).some(({ name, required }) => name === 'name' && required);
  const named = isNameRequired ? '<name>' : hasName(kind) ? '[name]' : '';
  const create = command
    .command(`create ${named}`.trim())
    .description(`make a ${kind}`)
    .addHelpText('after', `\nExample:\n  $ midonet ${kind} ${exampleOf(kind)}`);
  addFieldOptions(create, kind, 'create');
  create.option('--id <uuid>', 'its identifier; a random one when absent');
  if (kind === 'rule') {
    create
      .option('--first', 'in front of the other rules of the chain')
      .option('--before <rule>', 'in front of this rule')
      .option('--after <rule>', 'behind this rule; behind all when absent');
  }
  addClientOptions(create, kind).action(async (...given: unknown[]) => {
    const [name, flags] = hasName(kind) ? (given as [string | undefined, Flags]) : [undefined, given[0] as Flags];
    await createObject(kind, name, flags, terminal);
  });

  const list = command
    .command('list')
    .description(`list ${kind === 'rule' ? 'rules, in the order of their chain' : 'those there are'}`)
    .addHelpText('after', `\nExample:\n  $ midonet ${kind} list -o wide`);
  addFilterOptions(list, kind);
  addClientOptions(list, kind).action((flags: ListFlags & FieldFlags) => listObjects(kind, flags, terminal));

  addClientOptions(command.command(`show <${kind}...>`).description('show all fields of some'), kind).action(
    (texts: string[], flags: ClientFlags) => showObjects(kind, texts, flags, terminal),
  );

  const update = command
    .command(`update <${kind}>`)
    .description('change some fields, and leave the others')
    .addHelpText('after', `\nExample:\n  $ midonet ${kind} ${changeOf(kind)}`);
  if (hasName(kind)) update.option('--name <name>', 'another name');
  addFieldOptions(update, kind, 'update');
  update.option('--unset <field>', 'take the value of a field away; may be repeated', collect);
  addForce(update, kind);
  addClientOptions(update, kind).action((text: string, flags: UpdateFlags & FieldFlags) =>
    updateObject(kind, text, flags, terminal),
  );

  const remove = command
    .command(`delete <${kind}...>`)
    .description('delete some, with what is a part of them; asks first, but not where nobody can answer')
    .option('-y, --yes', 'do not ask on a terminal');
  addForce(remove, kind);
  addClientOptions(remove, kind).action((texts: string[], flags: DeleteFlags) =>
    deleteObjects(kind, texts, flags, terminal),
  );
}

/** For commands that change or delete what may belong to a front end. */
export function addForce(command: Command, kind: Kind): Command {
  return kind === 'port'
    ? command.option('--force', 'also if a front end made the port, such as the CNI plug-in')
    : command;
}

type Flags = CreateFlags & FieldFlags;

/** What every command has that talks to the API about objects of a kind. */
export function addClientOptions(command: Command, kind?: Kind): Command {
  if (kind === undefined || hasTenant(kind)) {
    command.option('--tenant <id>', 'of this tenant; names are looked for there, too');
  } else command.option('--tenant <id>', 'look for names among those of this tenant');
  return addConnectionOptions(addOutputOptions(command));
}

/** Options for what a list or a watch shall tell. */
export function addFilterOptions(list: Command, kind: Kind): void {
  if (hasName(kind)) list.option('--name <name>', 'only those of this name');
  for (const field of filtersOf(kind)) list.addOption(fieldOption(field));
  list
    .option('--where <field=value>', 'only those with this value; may be repeated', collect)
    .option('--limit <number>', 'at most so many', wholeNumber);
}

function addFieldOptions(command: Command, kind: Kind, use: 'create' | 'update'): void {
  for (const field of fieldsOf(kind)) {
    if (APART.has(field.name) || (field.name === CONDITION && conditionFields(kind).length > 0)) continue;
    command.addOption(fieldOption(field, use === 'create' && field.required && field.name !== 'position'));
  }
  command.optionsGroup('Condition:');
  for (const field of conditionFields(kind)) command.addOption(fieldOption(field));
  command.optionsGroup('Options:');
  command.option('--set <field=value>', 'any field, as in binding.interface-name=eth1; may be repeated', collect);
}

function fieldOption({ word, shape }: Field, isRequired = false): Option {
  const option = new Option(
    `--${kebab(word)} ${shape.type === 'boolean' ? '[true|false]' : `<${placeholder(shape)}>`}`,
    `${describe(shape)}${isRequired ? ' (required)' : ''}`,
  );
  if (shape.type === 'list') option.argParser(shape.of.type === 'object' ? collect : collectParts);
  return option;
}

function placeholder(shape: Shape): string {
  switch (shape.type) {
    case 'reference':
      return shape.kind;
    case 'integer':
      return 'number';
    case 'list':
      return shape.of.type === 'object' ? 'fields' : `${placeholder(shape.of)},…`;
    case 'object':
      return shape.fields.some(({ name }) => name === 'start') ? 'first-last' : 'fields';
    case 'map':
      return 'key=value,…';
    default:
      return 'value';
  }
}

function describe(shape: Shape): string {
  switch (shape.type) {
    case 'reference':
      return 'by name or id';
    case 'integer':
      return shape.words === undefined ? '' : `or one of ${[...shape.words.keys()].join(', ')}`;
    case 'text':
      return shape.choices === undefined ? '' : `one of ${shape.choices.join(', ')}`;
    case 'list':
      return [describe(shape.of), ...(shape.of.type === 'object' ? ['may be repeated'] : [])]
        .filter(Boolean)
        .join('; ');
    case 'object': {
      const names = shape.fields.map(({ word }) => kebab(word));
      if (names.includes('ports')) return 'such as 203.0.113.5 or 203.0.113.5-203.0.113.9:1024-65535';
      return names.includes('start') ? 'such as 80 or 1024-65535' : names.map((name) => `${name}=…`).join(',');
    }
    default:
      return '';
  }
}

function exampleOf(kind: Kind): string {
  const { example } = ABOUT[kind];
  return example.startsWith('create') ? example : `create node-9`;
}

function changeOf(kind: Kind): string {
  const { example } = ABOUT[kind];
  if (example.startsWith('update')) return example;
  const text = fieldsOf(kind).some(({ name }) => name === 'adminStateUp')
    ? '--admin-state-up false'
    : '--set FIELD=VALUE';
  return `update ${hasName(kind) ? 'NAME' : 'ID'} ${text}`;
}

/** For options that may be repeated. */
export function collect(text: string, before: readonly string[] = []): string[] {
  return [...before, text];
}

/** The same for lists, which may be written with commas, too. */
function collectParts(text: string, before: readonly string[] = []): string[] {
  if (text === '') return [...before];
  return [...before, ...text.split(',').map((part) => part.trim())];
}

export function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text) || Number(text) === 0)
    throw new InvalidArgumentError('expected a whole number from 1 on');
  return Number(text);
}
