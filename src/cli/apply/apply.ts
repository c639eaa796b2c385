import { ApiError, type BatchOperation, type MidonetClient } from '../../api/client/client.js';
import { MidonetError } from '../../errors.js';
import { formatField } from '../objects/columns.js';
import { goingAlong } from '../objects/going-along.js';
import { listOf, putMember, removeMember } from '../objects/member-lists.js';
import type { Names } from '../objects/names.js';
import { type ClientFlags, withClient } from '../objects/objects.js';
import { callerOf } from '../objects/tenants.js';
import { formOf, printAs } from '../terminal/output.js';
import { readText } from '../terminal/read-text.js';
import type { Terminal } from '../terminal/terminal.js';
import { type Change, type Plan, planOf } from './plan.js';
import { readEntries } from './topology-file.js';

/** `midonet apply`: make the topology what a file says, and show first what that changes. */

export interface ApplyFlags extends ClientFlags {
  readonly filename: readonly string[];
  readonly dryRun?: boolean;
  readonly prune?: boolean;
  readonly yes?: boolean;
}

/** What is sent at once, and happens together or not at all; less when that does not fit into a transaction of the NSDB. */
const BATCH_SIZE = 400;

export async function apply(flags: ApplyFlags, terminal: Terminal): Promise<void> {
  const { parseYamlDocuments } = await import('./yaml.js');
  const documents: unknown[] = [];
  for (const file of flags.filename) {
    const text = file === '-' ? await terminal.input() : await readText(file);
    documents.push(...parseYamlDocuments(text, file));
  }
  await withClient(flags, terminal, async (client, names) => {
    const tenant = flags.tenant ?? (await callerOf(client, terminal.signal)).tenantId;
    const entries = readEntries(documents, tenant);
    const plan = await planOf(entries, flags.prune === true, client, names, terminal.signal);
    const count = plan.changes.length + plan.members.length;
    await printAs(terminal, formOf(flags), summaryOf(plan), async () => {
      const lines = await linesOf(plan, client, names, terminal.signal);
      return [...lines, ...(lines.length > 0 ? [''] : []), totals(plan)].join('\n');
    });
    for (const { kind, called } of plan.others) terminal.note(`also there: ${kind} ${called}; --prune would delete it`);
    if (count === 0 || flags.dryRun === true) return;
    if (flags.yes !== true && terminal.isInteractive && !(await terminal.confirm('Apply these changes?'))) {
      terminal.note('nothing was changed');
      terminal.setExitCode(1);
      return;
    }
    await carryOut(plan, client, terminal.signal);
    terminal.note(`applied ${count} ${count === 1 ? 'change' : 'changes'}`);
  });
}

/** @throws MidonetError naming the object that is at fault, and saying how far it came */
async function carryOut({ changes, members }: Plan, client: MidonetClient, signal: AbortSignal): Promise<void> {
  let done = 0;
  const total = changes.length + members.length;
  const wrapped = async (work: Promise<unknown>, count: number, describe: (error: ApiError) => string) => {
    try {
      await work;
      done += count;
    } catch (error) {
      if (!(error instanceof MidonetError)) throw error;
      const fault = error instanceof ApiError ? describe(error) : error.message;
      throw new MidonetError(error.code, `${fault}; ${soFar(error, done, total)}`, { cause: error.cause ?? error });
    }
  };
  let size = BATCH_SIZE;
  for (let i = 0; i < changes.length; ) {
    const batch = changes.slice(i, i + size);
    const sent = client.batch(batch.map(operationOf), signal);
    if (await isTooLarge(sent, batch)) size = Math.ceil(batch.length / 2);
    else {
      await wrapped(sent, batch.length, (error) => inWords(error, batch));
      i += batch.length;
    }
  }
  for (const change of members) {
    const { kind, id, key } = change;
    const work =
      change.op === 'delete'
        ? removeMember(client, kind, id, key, signal)
        : putMember(client, kind, id, change, signal);
    await wrapped(work, 1, (error) => `${kind} ${change.called}: ${listOf(kind).one} ${key}: ${error.message}`);
  }
}

/** What is to be known of the changes when one of them has failed. */
function soFar(error: MidonetError, done: number, total: number): string {
  const before = `${done} of ${total} changes were made before; apply again to go on`;
  // The answer may have been lost, not the request.
  const isRefused = error instanceof ApiError && (error.status < 500 || error.status === REFUSED_AS_FULL);
  if (!isRefused) return `whether these were made is not known, ${before}`;
  return done === 0 ? 'nothing was changed' : before;
}

/** Insufficient storage: nothing is changed either. */
const REFUSED_AS_FULL = 507;

/** Whether the changes do not fit into one transaction, and fewer might. */
async function isTooLarge(sent: Promise<unknown>, batch: readonly Change[]): Promise<boolean> {
  try {
    await sent;
    return false;
  } catch (error) {
    return error instanceof ApiError && error.code === 'MN_TOO_LARGE' && batch.length > 1;
  }
}

function operationOf({ op, kind, id, body, etag }: Change): BatchOperation {
  const rest = op === 'delete' ? {} : { body, ...(op === 'patch' && { ifMatch: etag }) };
  return { op, kind, id, ...rest } as BatchOperation;
}

/** `operations[3].body.mac: …` → `port web/vm1: mac: …`. */
function inWords(error: ApiError, batch: readonly Change[]): string {
  const change = batch[Number(/operations\[(\d+)\]/.exec(error.field ?? error.message)?.[1] ?? Number.NaN)];
  if (change === undefined) return error.message;
  return `${change.kind} ${change.called}: ${error.message.replace(/operations\[\d+\](\.body)?\.?/, '')}`;
}

const SIGNS = { create: '+', patch: '~', delete: '-' } as const;

/** The difference for people: what is made, changed and deleted, field by field. */
async function linesOf(
  { changes, members }: Plan,
  client: MidonetClient,
  names: Names,
  signal: AbortSignal,
): Promise<string[]> {
  const lines: string[] = [];
  for (const change of changes) {
    const along = change.op === 'delete' ? await goingAlong(client, change.kind, change.id, signal) : '';
    lines.push(`${SIGNS[change.op]} ${change.kind} ${change.called}${along === '' ? '' : ` with ${along}`}`);
    for (const { field, before, after } of change.fields) {
      if (change.op === 'create' && HIDDEN.has(field.name)) continue;
      if (field.name === 'position') {
        if (change.op === 'patch') lines.push('    moved');
        continue;
      }
      // Of lists and groups of fields that are empty there is nothing to show.
      const show = async (value: unknown) =>
        value === undefined ? '' : formatField(field, { id: change.id, [field.name]: value }, names);
      const text = await show(after);
      if (change.op === 'patch') lines.push(`    ${field.word}: ${(await show(before)) || NONE} → ${text || NONE}`);
      else if (text !== '') lines.push(`    ${field.word}: ${text}`);
    }
  }
  for (const { op, kind, called, key, body } of members) {
    const rest = Object.entries(body).map(
      ([name, value]) => `, ${name}: ${typeof value === 'string' ? value : JSON.stringify(value)}`,
    );
    lines.push(`${SIGNS[op]} ${kind} ${called}: ${listOf(kind).one} ${key}${op === 'delete' ? '' : rest.join('')}`);
  }
  return lines;
}

const NONE = '(none)';

/** What the line above says already. */
const HIDDEN: ReadonlySet<string> = new Set(['id', 'name']);

function totals({ changes, members }: Plan): string {
  const all = [...changes, ...members];
  if (all.length === 0) return 'nothing to change';
  const count = (op: Change['op']) => all.filter((change) => change.op === op).length;
  return `${count('create')} to make, ${count('patch')} to change, ${count('delete')} to delete`;
}

/** The difference for programs. */
function summaryOf({ changes, members, others }: Plan): object {
  return {
    changes: changes.map(({ op, kind, id, called, fields }) => ({
      op,
      kind,
      id,
      called,
      fields: Object.fromEntries(fields.map(({ field, before, after }) => [field.name, { before, after }])),
    })),
    members,
    others,
  };
}
