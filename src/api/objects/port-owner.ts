import { InvalidInputError, MidonetError } from '../../errors.js';
import type { Kind, Port, TopologyTypes } from '../../topology/types.js';
import type { Scope } from '../tenancy/tenancy.js';

/** The port belongs to a front end, such as the CNI plug-in, which would not know what became of it. */
export class OwnedPortError extends MidonetError {
  constructor(id: string, owner: string) {
    const way = 'delete what it made the port for, or have an admin say force';
    super('MN_CONFLICT', `port ${id} belongs to ${owner}, which alone deletes and moves it: ${way}`);
  }
}

/**
 * @param after undefined for an object that is deleted
 * @throws OwnedPortError for a port with an owner that is deleted, bound elsewhere, or given to another
 */
export function checkOwner(
  kind: Kind,
  before: TopologyTypes[Kind] | undefined,
  after: TopologyTypes[Kind] | undefined,
): void {
  if (kind !== 'port' || before === undefined) return;
  const { id, owner, binding } = before as Port;
  if (owner === undefined) return;
  const now = after as Port | undefined;
  const isSame =
    now?.owner === owner &&
    now.binding?.hostId === binding?.hostId &&
    now.binding?.interfaceName === binding?.interfaceName;
  if (!isSame) throw new OwnedPortError(id, owner);
}

/**
 * Whether the query of a request about a port has `force=true`.
 * @throws InvalidInputError, ForbiddenError
 */
export function isForced(scope: Scope, { force }: Readonly<Record<string, unknown>>): boolean {
  if (force === undefined) return false;
  if (force !== 'true') throw new InvalidInputError('force', force, 'expected true');
  scope.requireAdmin('force');
  return true;
}

/** Parameters of requests that change or delete an object of the kind. */
export function changeParameters(kind: Kind): readonly string[] {
  return kind === 'port' ? ['force'] : [];
}
