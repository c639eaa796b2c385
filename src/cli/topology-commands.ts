import type { Command } from 'commander';
import type { Kind } from '../topology/types.js';
import type { ApplyFlags } from './apply/apply.js';
import type { ExportFlags } from './apply/export.js';
import type { BindFlags, LinkFlags, UnbindFlags } from './objects/attaching.js';
import { kindNamed } from './objects/kinds.js';
import { listOf, MEMBER_LISTS } from './objects/member-lists.js';
import { addClientOptions, addForce, collect, wholeNumber } from './objects/object-commands.js';
import { type ClientFlags, type ListFlags, listObjects, showObjects } from './objects/objects.js';
import { addConnectionOptions } from './terminal/connection.js';
import type { Terminal } from './terminal/terminal.js';

/** Commands besides those that every kind has. */

interface GetFlags extends ListFlags {
  readonly watch?: boolean;
}

export function fillGet(command: Command, terminal: Terminal): void {
  command
    .addHelpText('after', '\nExample:\n  $ midonet get ports --watch')
    .option('-w, --watch', 'go on, and tell every change; stop it with Ctrl-C')
    .option('--name <name>', 'only those of this name')
    .option('--where <field=value>', 'only those with this value; may be repeated', collect)
    .option('--limit <number>', 'at most so many', wholeNumber);
  addClientOptions(command).action(async (text: string, names: string[], flags: GetFlags) => {
    const kind = kindNamed(text);
    if (flags.watch === true)
      return (await import('./objects/watch.js')).watchObjects(kind, names, { ...flags }, terminal);
    if (names.length === 0) return listObjects(kind, { ...flags }, terminal);
    return showObjects(kind, names, flags, terminal);
  });
}

export function fillApply(command: Command, terminal: Terminal): void {
  command
    .requiredOption('-f, --filename <file>', 'YAML file, - for the standard input; may be repeated', collect)
    .option('--dry-run', 'show the difference only')
    .option('--prune', 'delete what is not in the file, of its tenants and its lists')
    .option('-y, --yes', 'do not ask on a terminal')
    .option('--tenant <id>', 'whose it is where the file does not say')
    .option('--json', 'print the difference as JSON')
    .addHelpText(
      'after',
      `
The difference is shown first. On a terminal you are asked before anything is changed; where nobody can answer, as in a
script or with -f -, it is applied right away: --dry-run only shows it. See docs/apply.md.

Example:
  $ midonet apply -f docs/examples/two-tenants.yaml --dry-run`,
    );
  addConnectionOptions(command).action(async (flags: ApplyFlags) =>
    (await import('./apply/apply.js')).apply(flags, terminal),
  );
}

export function fillExport(command: Command, terminal: Terminal): void {
  command
    .option('--tenant <id>', 'only that of this tenant')
    .option('--no-bindings', 'leave out which interfaces of which hosts ports are attached to')
    .option('--json', 'print JSON')
    .addHelpText('after', '\nExample:\n  $ midonet export --tenant blue > blue.yaml');
  addConnectionOptions(command).action(async (flags: ExportFlags) =>
    (await import('./apply/export.js')).exportTopology(flags, terminal),
  );
}

export function fillTenant(tenant: Command, terminal: Terminal): void {
  addClientOptions(tenant.command('list').description('list those that have objects')).action(
    async (flags: ClientFlags) => (await import('./objects/tenants.js')).listTenants(flags, terminal),
  );
}

export function fillWhoAmI(command: Command, terminal: Terminal): void {
  addClientOptions(command).action(async (flags: ClientFlags) =>
    (await import('./objects/tenants.js')).whoAmI(flags, terminal),
  );
}

export function addMoreCommands(command: Command, kind: Kind, terminal: Terminal): void {
  if (kind === 'port') addPortCommands(command, terminal);
  if (MEMBER_LISTS[kind] !== undefined) addMemberCommands(command, kind, terminal);
}

function addPortCommands(port: Command, terminal: Terminal): void {
  addClientOptions(
    port
      .command('link <port> <peer>')
      .description('link two ports to each other')
      .option('--force', 'also if one of them is linked to another port, which loses its link')
      .addHelpText('after', '\nExample:\n  $ midonet port link edge/to-web web/to-edge'),
    'port',
  ).action(async (one: string, other: string, flags: LinkFlags) =>
    (await import('./objects/attaching.js')).linkPorts(one, other, flags, terminal),
  );
  addClientOptions(port.command('unlink <port>').description('undo that'), 'port').action(
    async (one: string, flags: ClientFlags) =>
      (await import('./objects/attaching.js')).unlinkPort(one, flags, terminal),
  );
  const bind = port
    .command('bind <port>')
    .description('attach a port to an interface of a host')
    .requiredOption('--host <host>', 'by name or id')
    .requiredOption('--interface <name>', 'of the host, such as eth1')
    .addHelpText('after', '\nExample:\n  $ midonet port bind edge/uplink --host node-1 --interface eth1');
  addClientOptions(addForce(bind, 'port'), 'port').action(async (one: string, flags: BindFlags) =>
    (await import('./objects/attaching.js')).bindPort(one, flags, terminal),
  );
  addClientOptions(addForce(port.command('unbind <port>').description('undo that'), 'port'), 'port').action(
    async (one: string, flags: UnbindFlags) =>
      (await import('./objects/attaching.js')).unbindPort(one, flags, terminal),
  );
}

interface MemberFlags extends ClientFlags {
  readonly address?: string;
  readonly name?: string;
  readonly option?: readonly string[];
}

function addMemberCommands(command: Command, kind: Kind, terminal: Terminal): void {
  const { one, word, key } = listOf(kind);
  const isGroup = kind === 'ip-address-group';
  const add = command.command(`add-${one} <${kind}> <${key}${isGroup ? '...' : ''}>`);
  if (isGroup) add.description('add addresses');
  else {
    add
      .description('add a machine, or change what it gets')
      .requiredOption('--address <address>', 'the address that it gets')
      .option('--name <name>', 'what it is called');
    if (kind === 'dhcp-subnet') add.option('--option <name=value>', 'a DHCP option for it; may be repeated', collect);
  }
  addClientOptions(add, kind).action(async (object: string, keys: string | string[], flags: MemberFlags) => {
    const { addMembers, hostOf } = await import('./objects/members.js');
    await addMembers(kind, object, [keys].flat(), isGroup ? {} : hostOf(flags), flags, terminal);
  });
  addClientOptions(command.command(`remove-${one} <${kind}> <${key}...>`).description(`remove ${word}`), kind).action(
    async (object: string, keys: string[], flags: ClientFlags) =>
      (await import('./objects/members.js')).removeMembers(kind, object, keys, flags, terminal),
  );
  addClientOptions(command.command(`list-${word} <${kind}>`).description(`list its ${word}`), kind).action(
    async (object: string, flags: ClientFlags) =>
      (await import('./objects/members.js')).listMembers(kind, object, flags, terminal),
  );
}
