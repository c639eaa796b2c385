import { InvalidInputError } from '../src/errors.js';
import { CniCode, CniError, invalidEnvironment } from './errors.js';

export const COMMANDS = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS', 'VERSION'] as const;
export type Command = (typeof COMMANDS)[number];

/** The parameters of a call. Those that its command does not have are empty. */
export interface CniEnvironment {
  readonly command: Command;
  readonly containerId: string;
  readonly namespacePath: string;
  readonly interfaceName: string;
  readonly args: ReadonlyMap<string, string>;
}

type Variables = ReadonlyMap<string, string>;

const REQUIRED: Readonly<Record<Command, readonly string[]>> = {
  ADD: ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME'],
  DEL: ['CNI_CONTAINERID', 'CNI_IFNAME'],
  CHECK: ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME'],
  GC: [],
  STATUS: [],
  VERSION: [],
};

const KNOWN_ARGS: ReadonlySet<string> = new Set([
  'IgnoreUnknown',
  'IP',
  'MAC',
  'K8S_POD_NAME',
  'K8S_POD_NAMESPACE',
  'K8S_POD_INFRA_CONTAINER_ID',
  'K8S_POD_UID',
]);

/**
 * Check the CNI_* variables (specification 1.1.0, section "Parameters").
 * @param pid of the program; `/proc/self` in CNI_NETNS means its process
 * @throws CniError code 4, naming every variable that is missing, or the one that is wrong
 */
export function readEnvironment(variables: Variables, pid: number): CniEnvironment {
  const command = variables.get('CNI_COMMAND') ?? '';
  if (!isCommand(command)) {
    throw new CniError(
      CniCode.InvalidEnvironment,
      `CNI_COMMAND: expected one of ${COMMANDS.join(', ')}, got ${JSON.stringify(command)}`,
    );
  }
  const missing = REQUIRED[command].filter((name) => !variables.get(name));
  if (missing.length > 0) {
    throw new CniError(CniCode.InvalidEnvironment, `required environment variables missing: ${missing.join(', ')}`);
  }
  const attaches = REQUIRED[command].length > 0;
  try {
    return {
      command,
      containerId: attaches ? readContainerId(variables) : '',
      namespacePath: attaches ? readNamespace(variables, pid) : '',
      interfaceName: attaches ? readInterfaceName(variables) : '',
      args: command === 'ADD' ? readArgs(variables) : new Map(),
    };
  } catch (error) {
    throw error instanceof InvalidInputError ? invalidEnvironment(error) : error;
  }
}

function isCommand(text: string): text is Command {
  return (COMMANDS as readonly string[]).includes(text);
}

function readContainerId(variables: Variables): string {
  const text = variables.get('CNI_CONTAINERID')!;
  if (!isContainerId(text)) {
    throw new InvalidInputError(
      'CNI_CONTAINERID',
      text,
      'expected a letter or digit, then letters, digits, "_", "." and "-", at most 512',
    );
  }
  return text;
}

export function isContainerId(text: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9_.-]{0,511}$/.test(text);
}

function readInterfaceName(variables: Variables): string {
  const text = variables.get('CNI_IFNAME')!;
  if (!/^(?!\.{1,2}$)[^/:\s\0]+$/.test(text) || Buffer.byteLength(text) > 15) {
    throw new InvalidInputError(
      'CNI_IFNAME',
      text,
      'expected an interface name of 1 to 15 bytes without "/", ":" and white space, not "." or ".."',
    );
  }
  return text;
}

function readNamespace(variables: Variables, pid: number): string {
  const text = variables.get('CNI_NETNS') ?? '';
  if (text === '') return '';
  if (!text.startsWith('/')) throw new InvalidInputError('CNI_NETNS', text, 'expected an absolute path');
  return text.replace(/^\/proc\/(?:thread-)?self\//, `/proc/${pid}/`);
}

/** `KEY=VALUE;KEY=VALUE`. */
function readArgs(variables: Variables): Map<string, string> {
  const args = new Map<string, string>();
  const text = variables.get('CNI_ARGS') ?? '';
  for (const pair of text.split(';')) {
    if (pair === '') continue;
    const equals = pair.indexOf('=');
    if (equals < 1) throw new InvalidInputError('CNI_ARGS', text, 'expected KEY=VALUE pairs with ";" between them');
    args.set(pair.slice(0, equals), pair.slice(equals + 1));
  }
  if (!['1', 'true'].includes((args.get('IgnoreUnknown') ?? '').toLowerCase())) {
    const unknown = [...args.keys()].filter((key) => !KNOWN_ARGS.has(key));
    if (unknown.length > 0) {
      throw new InvalidInputError('CNI_ARGS', text, `unknown ${unknown.join(', ')} without IgnoreUnknown=1`);
    }
  }
  return args;
}
