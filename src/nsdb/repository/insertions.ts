import { InvalidInputError } from '../../errors.js';
import type { Port } from '../../topology/devices.js';
import type { L2Insertion } from '../../topology/observation.js';
import { ObjectNotFoundError, ReferenceConflictError } from '../topology-errors.js';
import type { ChangeSet, Staged } from './change-set.js';

/** By which field an insertion names a port, and the port it. */
const SIDES = [
  { names: 'portId', isNamedIn: 'insertionIds', other: 'serviceInsertionIds' },
  { names: 'servicePortId', isNamedIn: 'serviceInsertionIds', other: 'insertionIds' },
] as const;

/**
 * Let the ports that changed insertions name know of them, and those that they named before forget them, so that agents look
 * for insertions only where there are some. A port that is changed knows them still: one that was written anew without would have its
 * traffic go round its services. To be called before what is staged is written.
 * @throws ObjectNotFoundError, ReferenceConflictError, InvalidInputError naming the field
 */
export async function noteInsertions(changes: ChangeSet, signal?: AbortSignal): Promise<void> {
  for (const staged of changes.objects)
    if (staged.kind === 'port' && staged.after !== undefined) keepNotes(changes, staged);
  for (const staged of [...changes.objects]) {
    const isChanged = staged.after !== undefined && staged.after !== staged.before?.object;
    if (staged.kind === 'l2-insertion' && isChanged) await noteInsertion(changes, staged, signal);
  }
}

function keepNotes(changes: ChangeSet, staged: Staged): void {
  const before = staged.before?.object as Port | undefined;
  for (const { isNamedIn } of SIDES) {
    const port = staged.after as Port;
    const isDeleted = (id: string) => {
      const insertion = changes.peek('l2-insertion', id);
      return insertion !== undefined && insertion.after === undefined;
    };
    const missing = (before?.[isNamedIn] ?? []).filter((id) => !port[isNamedIn]?.includes(id) && !isDeleted(id));
    if (missing.length === 0) continue;
    if (port.bridgeId === undefined) {
      throw new InvalidInputError('port.bridgeId', port.bridgeId, 'expected a bridge, as insertions name the port');
    }
    staged.after = withIds(port, isNamedIn, (ids) => [...ids, ...missing]);
  }
}

async function noteInsertion(changes: ChangeSet, staged: Staged, signal?: AbortSignal): Promise<void> {
  const before = staged.before?.object as L2Insertion | undefined;
  const insertion = staged.after as L2Insertion;
  const { id } = insertion;
  for (const { names, isNamedIn } of SIDES) {
    if (before === undefined || before[names] === insertion[names]) continue;
    const port = await changes.load('port', before[names], signal);
    if (port.after !== undefined)
      port.after = withIds(port.after as Port, isNamedIn, (ids) => ids.filter((one) => one !== id));
  }
  for (const { names, isNamedIn, other } of SIDES) {
    const field = `l2-insertion.${names}`;
    const portId = insertion[names];
    const staged = await changes.load('port', portId, signal);
    const port = staged.after as Port | undefined;
    if (port === undefined) throw new ObjectNotFoundError('port', portId, field);
    if (port.bridgeId === undefined) throw new InvalidInputError(field, portId, 'expected a port of a bridge');
    if (port[other] !== undefined && port[other].length > 0) {
      throw new InvalidInputError(field, portId, 'expected a port that is not at the other end of an insertion');
    }
    if (port[isNamedIn]?.includes(id)) continue;
    if (names === 'portId') await checkIsOnlyOne(changes, insertion, port, signal);
    staged.after = withIds(port, isNamedIn, (ids) => [...ids, id]);
  }
}

/** A machine's traffic goes through a service once. */
async function checkIsOnlyOne(
  changes: ChangeSet,
  { id, servicePortId, mac }: L2Insertion,
  port: Port,
  signal?: AbortSignal,
): Promise<void> {
  for (const otherId of port.insertionIds ?? []) {
    const other = (await changes.load('l2-insertion', otherId, signal)).after as L2Insertion | undefined;
    if (otherId === id || other?.servicePortId !== servicePortId || other.mac !== mac) continue;
    throw new ReferenceConflictError('l2-insertion.servicePortId', 'port', servicePortId, otherId);
  }
}

function withIds(
  port: Port,
  field: 'insertionIds' | 'serviceInsertionIds',
  change: (ids: readonly string[]) => string[],
): Port {
  const { [field]: ids = [], ...others } = port;
  const changed = change(ids);
  return changed.length === 0 ? others : { ...others, [field]: changed };
}
